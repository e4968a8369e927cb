import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from Datasets.format.curated import Curated
from Datasets.format.images import decode, letterbox
from Datasets.format.import_closure import import_closure
from Datasets.format.predictions import to_prediction
from Datasets.tools.errors import UserError
from Models.export import foreign_imports, truth_of
from Models.exporting.agreement import agreement, isolated_answers
from Models.exporting.graphs import onnx_detector, write_onnx
from Models.exporting.manifest import describe, git_state
from Models.learning.data_loading import Samples
from Models.learning.weights import read_run
from tests.template.conftest import AUTHOR, copy_code, run_in, succeeded
from tests.template.Models.shape_scenes import ROOT, refused


@pytest.fixture
def elsewhere(outputs, tmp_path):
    """A copy of the export in an otherwise empty directory."""
    return shutil.copytree(outputs / "export", tmp_path / "alone")


def check_answers(export, answers):
    expected = json.loads((export / "sample" / "expected.json").read_text())
    threshold = json.loads((export / "manifest.json").read_text())["score_threshold"]
    assert sorted(expected) == sorted(answers) and any(prediction["boxes"] for prediction in expected.values())
    agreement("boxes", expected, answers, threshold, "the copy")


def test_it_opens_in_an_empty_directory_through_its_own_script(elsewhere):
    with (elsewhere / "script/Models/e001_center_detector.py").open("a") as script:
        script.write("\nprint('what a model script prints is no part of the answer')\n")
    images = sorted(str(path) for path in (elsewhere / "sample").glob("*.png"))
    command = [sys.executable, "-E", "-s", "-m", "Models.rebuild", *images]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, cwd=elsewhere / "script", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_answers(elsewhere, json.loads(done.stdout))


def test_it_opens_through_its_graph(elsewhere):
    manifest = json.loads((elsewhere / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(elsewhere / "model.onnx")
    answers = {}
    for path in sorted((elsewhere / "sample").glob("*.png")):
        pixels = decode(path.read_bytes())
        square = letterbox(pixels, manifest["input"]["size"])
        values = session.run(None, {"images": square.pixels.transpose(2, 0, 1)[None]})
        outputs = {output.name: value[0] for output, value in zip(session.get_outputs(), values, strict=True)}
        height, width = pixels.shape[:2]
        threshold = manifest["score_threshold"]
        answers[path.name] = to_prediction("boxes", outputs, square, width, height, manifest["classes"], threshold)
    check_answers(elsewhere, answers)


def test_the_graph_takes_batches_and_images_of_any_size(outputs):
    session = onnxruntime.InferenceSession(outputs / "export" / "model.onnx")
    for shape in [(1, 3, 48, 48), (5, 3, 64, 96), (2, 3, 50, 33)]:
        boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": np.zeros(shape, np.uint8)})
        assert boxes.shape == (shape[0], 100, 4) and scores.shape == classes.shape == (shape[0], 100)
        assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int64)


class Unordered(torch.nn.Module):
    """Counts before scores; what it counts may depend on the image, as no graph can."""

    def __init__(self, least=None):
        super().__init__()
        self.least = least

    def forward(self, images):
        means = images.float().mean((2, 3))
        if self.least is not None and means.mean() > self.least:
            means = means + 1
        return {"counts": means, "scores": means / 255}


def test_outputs_keep_their_names_in_any_order_and_what_cannot_be_a_graph_is_reported(tmp_path):
    manifest = {
        "input": {"size": 32, "resize": "letterbox"},
        "task": "counts",
        "classes": ["a"],
        "score_threshold": 0.5,
    }
    write_onnx(Unordered(), manifest, tmp_path / "model.onnx")
    about = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert about == {
        "size": "32",
        "resize": "letterbox",
        "task": "counts",
        "classes": '["a"]',
        "score_threshold": "0.5",
    }
    found = onnx_detector(tmp_path / "model.onnx", "counts")(np.full((1, 3, 32, 32), 51, np.uint8))
    assert np.allclose(found["scores"], 0.2) and np.allclose(found["counts"], 51)
    with pytest.raises(UserError, match=r"forward\(\) cannot become .* expression .* \(test_export.py, line \d+\)$"):
        write_onnx(Unordered(least=3), manifest, tmp_path / "none.onnx")


def test_imports_that_do_not_travel_are_found(tmp_path):
    (tmp_path / "Models").mkdir()
    (tmp_path / "Models/helper.py").write_text("import numpy, timm.models\nfrom PIL import Image\n")
    (tmp_path / "Models/e900.py").write_text("import math\nfrom torch import nn\nfrom Models import helper\n")
    assert foreign_imports(import_closure([Path("Models/e900.py")], tmp_path), tmp_path) == ["timm"]


def test_no_file_knows_where_it_was_made(outputs):
    for path in (outputs / "export").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for trace in (str(ROOT), str(outputs), sys.prefix, "site-packages", ".py:", 'File "'):
                assert trace.encode() not in content, f"{path.name} holds {trace}"
    graph = onnx.load(outputs / "export" / "model.onnx")
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)


def test_the_manifest_says_where_it_all_comes_from(outputs):
    export = outputs / "export"
    manifest = json.loads((export / "manifest.json").read_text())
    files = {path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((export / name).read_bytes()).hexdigest() == digest
    scripts = {name for name in files if name.startswith("script/")}
    assert scripts == {
        "script/Datasets/__init__.py",
        "script/Datasets/format/__init__.py",
        "script/Datasets/format/images.py",
        "script/Datasets/format/predictions.py",
        "script/Models/__init__.py",
        "script/Models/backbones/__init__.py",
        "script/Models/backbones/efficientnet_lite.py",
        "script/Models/backbones/features.py",
        "script/Models/backbones/tiny.py",
        "script/Models/e001_center_detector.py",
        "script/Models/rebuild.py",
    }
    assert manifest["format_version"] == 1 and manifest["task"] == "boxes" and manifest["classes"] == ["disc", "square"]
    assert manifest["project"] == "fourfold"
    assert manifest["script"] == {"module": "Models.e001_center_detector", "build": {"classes": 2, "width": 16}}
    assert manifest["input"]["size"] == 48 and manifest["hyperparameters"]["epochs"] == 12 and manifest["seed"] == 0
    assert manifest["metrics"] == json.loads((outputs / "evaluate" / "metrics.json").read_text())
    assert set(manifest["git"]) == {"commit", "dirty", "diff"}
    libraries = {name: version(name) for name in ("torch", "numpy", "pillow", "onnx", "onnxruntime")}
    assert manifest["versions"] == {"python": platform.python_version(), **libraries}
    for side in ("script", "onnx"):
        assert manifest["agreement"][side]["boxes"] <= 0.01 and manifest["agreement"][side]["scores"] <= 1e-4
    assert not any(name.endswith((".pt", ".pkl", ".pth", ".bin")) for name in files)
    assert (export / "predictions.parquet").read_bytes() == (outputs / "evaluate/predictions.parquet").read_bytes()


def test_the_manifest_has_how_the_tree_differed_from_its_commit(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
        return git_state(tmp_path, [Path("Models/e900.py")])

    def diff_of(state):
        return state["dirty"], [line for line in state["diff"].splitlines() if line[:1] in "+-"][2:]

    assert write("Models/e900.py", "x = 1\n") == {"commit": None, "dirty": True, "diff": ""}, "without git"
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "Start"]):
        succeeded(run_in(tmp_path, "git", *words, **AUTHOR))
    assert diff_of(git_state(tmp_path, [Path("Models/e900.py")])) == (True, []), "a script that git does not have"
    write("params.yaml", "a: 1\n")
    for words in (["add", "-A"], ["commit", "-qm", "All"]):
        succeeded(run_in(tmp_path, "git", *words, **AUTHOR))
    head = run_in(tmp_path, "git", "rev-parse", "HEAD").stdout.strip()
    assert write("dvc.lock", "{}") == {"commit": head, "dirty": False, "diff": ""}, "the run itself writes dvc.lock"
    assert diff_of(write("params.yaml", "a: 2\n")) == (True, [])
    assert diff_of(write("Models/e900.py", "x = 2\n")) == (True, ["-x = 1", "+x = 2"])


def test_a_script_or_a_graph_that_answers_otherwise_is_refused(elsewhere):
    samples = sorted((elsewhere / "sample").glob("*.png"))[:2]
    expected = json.loads((elsewhere / "sample/expected.json").read_text())
    answers = {path.name: expected[path.name] for path in samples}
    assert agreement("boxes", answers, answers, 0.5, "the ONNX graph") == {"boxes": 0, "scores": 0}
    moved = json.loads(json.dumps(answers))
    box = next(box for answer in moved.values() for box in answer["boxes"])
    box["x1"] += 0.02
    with pytest.raises(UserError, match=r"the ONNX graph and .* differ in boxes by 0.02, more than 0.01"):
        agreement("boxes", answers, moved, 0.5, "the ONNX graph")
    with (elsewhere / "script/Models/e001_center_detector.py").open("a") as script:
        script.write("import nothing_of_that_name\n")
    with pytest.raises(UserError, match=r"does not run on its own: ModuleNotFoundError: .*'nothing_of_that_name'"):
        isolated_answers(elsewhere, samples, 0.5)


def test_the_versions_are_those_of_the_training_and_of_the_graph(outputs, shapes, tmp_path):
    done = json.loads((outputs / "train/run.json").read_text())
    done["versions"] |= {"python": "3.11.0", "torch": "2.7.0"}  # what it ran with before an upgrade
    (tmp_path / "run.json").write_text(json.dumps(done))
    described = describe("e001", read_run(tmp_path), {"score_threshold": 0.5}, Curated(shapes), {})
    found = {name: version(name) for name in ("numpy", "pillow", "onnx", "onnxruntime")}
    assert described["versions"] == {"python": "3.11.0", "torch": "2.7.0", **found}


def test_samples_are_test_images_byte_for_byte(outputs, shapes):
    there = {bytes(Curated(shapes).images("test")[i]) for i in range(12)}
    samples = sorted((outputs / "export" / "sample").glob("*.png"))
    assert len(samples) == 8 and all(path.read_bytes() in there for path in samples)


def test_the_truth_of_samples_is_beside_them(outputs, shapes):
    truth = json.loads((outputs / "export/sample/truth.json").read_text())
    assert list(truth) == [f"00{number}.png" for number in range(8)]
    test = Samples(Curated(shapes), "test", 48)
    first, boxes = truth["000.png"], test.records[0]["boxes"]
    assert (first["width"], first["labels"], first["boxes"][0]) == (
        *(test.records[0][name] for name in ("width", "labels")),
        {name: boxes[0][name] for name in ("name", "x1", "y1", "x2", "y2")},
    )
    masked = {**test.records[0], "mask": {"bytes": b"PNG", "path": "a.png"}}
    assert truth_of(masked, "mask")["mask"] == "UE5H" and "boxes" not in truth_of(masked, "mask")


@pytest.mark.parametrize(
    "missing", ["train/weights.safetensors", "evaluate/metrics.json", "evaluate/predictions.parquet"]
)
def test_a_missing_input_is_named_and_nothing_written(outputs, shapes, tmp_path, missing):
    for name in ("train", "evaluate"):
        shutil.copytree(outputs / name, tmp_path / name)
    (tmp_path / missing).unlink()
    words = ["--experiment", "e001", "--curated", shapes]
    words += ["--trained", tmp_path / "train", "--out", tmp_path / "out"]
    assert missing in refused("export", *words)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def exported_checkout(outputs, tmp_path):
    """The code and an export in a folder of their own, without git."""
    copy_code(tmp_path, "Datasets", "Datasets/format", "Datasets/tools", "Models")
    copy_code(tmp_path, *(f"Models/{name}" for name in ("backbones", "experimenting", "exporting", "learning")))
    shutil.copytree(outputs / "export", tmp_path / "Datasets/pretrained/e001")
    return tmp_path


def drift(checkout):
    return run_in(checkout, "python", "-m", "Models.experiment", "drift", "e001")


def test_code_that_has_not_changed_still_builds_the_export(exported_checkout):
    done = drift(exported_checkout)
    assert done.returncode == 0, done.stderr
    *scripts, answers = done.stdout.splitlines()
    assert scripts and all("as in the working tree, not in its commit" in line for line in scripts)
    assert "today's code answers as exported" in answers


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 * STRIDE)", "3 * STRIDE)", "today's code and the trained model differ in"),
        ("self.heatmap = nn.Conv2d(2", "self.heatmap2 = nn.Conv2d(2", "does not build it"),
        ("width: int", "breadth: int", "does not build it"),
        ("import torch.nn.functional", "import nothing.at.all", "does not build it: No module named 'nothing'"),
        ("A detector of", "One detector of", ""),
    ],
)
def test_drift_tells_changes_that_matter_from_others(exported_checkout, old, new, message):
    script = exported_checkout / "Models/e001_center_detector.py"
    script.write_text(script.read_text().replace(old, new, 1))
    done = drift(exported_checkout)
    assert "e001_center_detector.py: differs from the working tree" in done.stdout
    assert (done.returncode, "Traceback" in done.stderr) == (1 if message else 0, False)
    assert message in done.stderr
