"""What a model script must be, and what a command line may give to it."""

import pytest

import Models
from Datasets.tools.errors import UserError
from Models.learning import scripts
from tests.template.Models.shape_scenes import refused


def guess(task, outputs):
    """The source of a model script with such outputs."""
    return f"""
import torch
TASK = {task!r}
def build(classes: int):
    return Guess()
class Guess(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 1)
    def forward(self, images):
        means = images.float().mean((2, 3))
        return dict({outputs})
    def loss(self, images, targets): ...
"""


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("TASK = 'boxes'\n", "has no build; Models/README.md explains"),
        ("TASK = 'smells'\ndef build(classes: int): ...\n", "TASK is 'smells'"),
        ("TASK = 'boxes'\ndef build(classes: int): ...\n", "build() gives no torch.nn.Module with a method loss()"),
        (
            "TASK = 'boxes'\ndef build(classes: int, width: int = 1):\n    raise RuntimeError('no memory')\n",
            "no memory",
        ),
        (
            "from Models import e001_center_detector as e001\nTASK = 'mask'\nbuild = e001.build\n",
            "forward() gives no dict with the tensors of a task of mask: mask",
        ),
        (guess("labels", "scores=means[:, :2, None]"), "forward() gives scores as [2, 2, 1], not [2, 2]"),
        (guess("labels", "scores=means[:, :2].tolist()"), "gives no dict with the tensors of a task of labels: scores"),
        (guess("labels", "scores=means[:, :2].bfloat16()"), "gives scores as torch.bfloat16, not float32"),
        (guess("labels", "scores=means[:, :2] - 2"), "gives scores as numbers from -2 to -2, not 0 to 1"),
        (guess("counts", "scores=means[:, :2], counts=means"), "gives counts as [2, 3], not [2, 2]"),
        (guess("mask", "mask=images[:, 0] / 255"), "gives mask as torch.float32, not int64"),
        (guess("mask", "mask=images[:, 0] + 3"), "gives mask as numbers from 3 to 3, not 0 to 2"),
        (
            guess("boxes", "boxes=means[:, None], scores=means[:, :1], classes=means[:, :1].long()"),
            "gives boxes as [2, 1, 3], not [2, 1, 4]",
        ),
        (
            guess("boxes", "boxes=torch.ones(2, 5, 4), scores=torch.ones(2, 5), classes=torch.full((2, 5), 2)"),
            "gives classes as numbers from 2 to 2, not -1 to 1",
        ),
    ],
)
def test_a_script_that_is_no_model_script_is_reported(shapes, tmp_path, source, part, monkeypatch):
    name = f"e999_broken{abs(hash(source))}"
    (tmp_path / "Models").mkdir()
    (tmp_path / "Models" / f"{name}.py").write_text(source)
    monkeypatch.setattr(scripts, "ROOT", tmp_path)
    monkeypatch.setattr(Models, "__path__", [*Models.__path__, str(tmp_path / "Models")])
    words = ["--script", name, "--helpers=Models", "--curated", shapes, "--zoom=0", "--out", tmp_path / "out"]
    line = refused("train", *words)
    assert part in line and not (tmp_path / "out").exists()


def with_flag(classes: int, wide: bool = False, widths: list[int] = [8]): ...  # noqa: B006


def with_tuple(classes: int, depths: tuple[int, ...] = (2, 2)): ...


def with_none(classes: int, drop: float | None = None): ...


@pytest.mark.parametrize(
    ("build", "word", "part"),
    [
        (with_flag, "--wide=false", "argument --wide/--no-wide: ignored explicit argument 'false'"),
        (with_tuple, "--depths=64", "depths: tuple[int, ...]; it may be int, float, str, bool, or a list"),
        (with_none, "--drop=0.5", "drop: float | None; it may be"),
    ],
)
def test_what_a_command_line_cannot_give_to_build_is_refused(build, word, part):
    with pytest.raises(UserError) as told:
        scripts.parse_build_arguments(build, [word])
    assert part in str(told.value)
    given = scripts.parse_build_arguments(with_flag, ["--wide", "--widths", "3", "--widths=4"])
    assert given == {"wide": True, "widths": [3, 4]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "--depth", "3"], "unrecognized arguments: --depth 3; usage: build() [--backbone BACKBONE] [--width"),
        (["--", "--width", "wide"], "argument --width: invalid int value: 'wide'"),
        (["--", "--width"], "argument --width: expected one argument"),
        (["--", "--classes", "3"], "unrecognized arguments: --classes 3"),
        (["--", "--width", "0"], "width (0)"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs", "-1"], "--epochs"),
        (["--size", "8"], "size: 8 must be 32 or more"),
        (["--batch", "-1"], "--batch"),
        (["--zoom", "-1"], "--zoom"),
        (["--zoom", "nan"], "--zoom"),
        (["--crop", "1"], "--crop"),
        (["--colour", "2"], "--colour"),
        (["--keep", "worst"], "--keep"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--seed", "99999999999999999999"], "--seed"),
        (["--threads", "0"], "--threads"),
        (["--epoch", "3"], "--epoch"),
        (["--device", "abacus"], "device: 'abacus'"),
        (["--script", "e999_nothing"], "there is no Models/e999_nothing.py; the scripts are: e001_center_detector"),
        (["--script", "../train"], "there is no Models/../train.py"),
        (
            ["--helpers", "Models/backbones/__init__.py"],
            "imports Models/backbones/efficientnet_lite.py, which helpers (Models/backbones",
        ),
        (["--", "--backbone", "resnet50"], "backbone (resnet50) must be one of: tiny, efficientnet_lite0"),
        (["--script", "train"], "Models/train.py: has no TASK"),
        (["--curated", "nowhere"], "nowhere/classes.json: not found"),
    ],
)
def test_a_mistake_is_reported_in_one_line(shapes, tmp_path, words, message):
    common = ["--script", "e001_center_detector", "--curated", shapes, "--out", tmp_path / "out"]
    line = refused("train", *common, *words)
    assert message in line
    assert not (tmp_path / "out").exists()
