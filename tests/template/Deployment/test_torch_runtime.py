"""The export's own script instead of its graph."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from Deployment.verify import check
from tests.template.Deployment.made_export import CLASSES, SAMPLES, encoded, write_manifest
from tests.template.Deployment.running_service import ROOT, command, is_one_line, serving

SCRIPT = '''
"""What the made graph computes, in PyTorch."""
import torch
from Models.helper import extremes

class Colours(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.softness = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        pixels = images.float()
        mask = (pixels > 128) & (pixels.sum(1, keepdim=True) < 330)
        area = mask.float().sum((2, 3))
        scores, classes = (area / (area + self.softness)).topk(self.classes, 1)
        found = zip(mask, classes)
        boxes = torch.stack([torch.stack([extremes(image[c]) for c in order]) for image, order in found])
        return {"boxes": boxes, "scores": scores, "classes": classes}

def build(classes):
    return Colours(classes)
'''
HELPER = """
import torch

def extremes(mask):
    y, x = mask.nonzero(as_tuple=True)
    if not len(x):
        return torch.zeros(4)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
"""


@pytest.fixture
def scripted(export: Path) -> Path:
    """The made export with a script that builds the same model, and its weights."""
    folder = export / "script/Models"
    folder.mkdir()
    for name, text in (("__init__.py", ""), ("e900_colours.py", SCRIPT), ("helper.py", HELPER)):
        (folder / name).write_text(text)
    save_file({"softness": torch.full((1,), 64.0)}, export / "weights.safetensors")
    describe(export, "Models.e900_colours")
    return export


def describe(export: Path, module: str, **build: int) -> None:
    write_manifest(export, script={"module": module, "build": {"classes": len(CLASSES)} | build})


def test_the_script_answers_as_the_graph_does(scripted: Path) -> None:
    with serving(scripted) as graph, serving(scripted, "--runtime", "torch") as script:
        for image in map(encoded, SAMPLES.values()):
            (_, expected), (status, found) = graph.predict(image), script.predict(image)
            assert status == 200
            difference = check("boxes", "sample", expected, found, threshold=0.25)
            assert difference["boxes"] < 1e-5 and difference["scores"] < 1e-6


def test_the_script_is_the_exports_even_where_there_is_another_of_its_name(scripted: Path, tmp_path: Path) -> None:
    (scripted / "script/Models/helper.py").write_text(HELPER.replace("+ 1", "+ 2"))
    describe(scripted, "Models.e900_colours")
    process = command(
        "Deployment.predict", scripted, scripted / "sample", "--runtime", "torch", "--to", tmp_path / "o.json"
    )
    assert process.returncode == 0, process.stderr
    assert '"x2": 41.0' in (tmp_path / "o.json").read_text()
    assert (ROOT / "Models/__init__.py").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda export: (export / "weights.safetensors").unlink(), "weights.safetensors: not found"),
        (lambda export: describe(export, "Models.e901"), "e901.py: not found"),
        (lambda export: describe(export, "Models.e900_colours", width=3), "does not build the model"),
        (lambda export: (export / "script/Models/helper.py").write_text("1 / 0"), "helper.py: damaged"),
    ],
)
def test_an_export_that_cannot_be_built_is_refused(scripted: Path, spoil: object, words: str) -> None:
    spoil(scripted)
    process = command("Deployment.serve", scripted, "--runtime", "torch", "--port", 0)
    assert is_one_line(process), process.stderr
    assert words in process.stderr


def test_a_bundle_has_no_script(bundle: Path) -> None:
    process = command("Deployment.serve", ".", "--runtime", "torch", "--port", 0, cwd=bundle)
    assert is_one_line(process), process.stderr
    assert "a bundle has neither" in process.stderr
