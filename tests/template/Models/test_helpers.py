"""What a model script imports of Models: an edit of it trains the experiments that use it again, and no others."""

import json
import shutil

import pytest

from tests.template.conftest import AUTHOR, copy_with_results, edit_params, run_in, succeeded
from tests.template.Models.shape_scenes import refused

HELPER = "from Models.blocks.sizes import WIDTH\n"


@pytest.fixture
def extended(project, tmp_path):
    """A copy of the small project with an experiment e900, a copy of e001's that imports Models/blocks."""
    copy = copy_with_results(project, tmp_path / "copy")
    (copy / "Models/blocks").mkdir()
    (copy / "Models/blocks/__init__.py").touch()
    (copy / "Models/blocks/sizes.py").write_text("WIDTH = 8\n")
    shutil.copy(copy / "Models/backbones/tiny.py", copy / "Models/blocks/tiny.py")
    script = (
        (copy / "Models/e001_center_detector.py").read_text().replace("Models.backbones.tiny", "Models.blocks.tiny")
    )
    (copy / "Models/e900_blocks.py").write_text(script.replace("from Models", f"{HELPER}from Models", 1))

    def add(params):
        detector = params["experiments"]["e001"]
        params["experiments"]["e900"] = {
            **detector,
            "script": "e900_blocks",
            "helpers": "Models/blocks",
            "train": {**detector["train"], "epochs": 1},
        }

    edit_params(copy, add)
    return copy


def due(copy):
    return set(json.loads(succeeded(run_in(copy, "dvc", "status", "--json")).stdout))


@pytest.mark.long
def test_an_edit_of_a_helper_makes_the_stages_of_its_experiment_due(extended):
    succeeded(run_in(extended, "dvc", "repro", "export@e900", **AUTHOR))
    assert (extended / "Datasets/pretrained/e900/script/Models/blocks/sizes.py").is_file()
    before = due(extended)
    assert not {name for name in before if not name.endswith("@e900")}
    (extended / "Models/blocks/sizes.py").write_text("WIDTH = 16\n")
    assert due(extended) - before == {"train@e900", "evaluate@e900", "export@e900"}


def test_a_script_whose_imports_are_not_covered_is_refused(extended):
    edit_params(extended, lambda params: params["experiments"]["e900"].update(helpers="Models/blocks/tiny.py"))
    done = run_in(extended, "dvc", "repro", "train@e900", **AUTHOR)
    assert "Models/e900_blocks.py imports Models/blocks/sizes.py, which helpers (Models/blocks/tiny.py)" in done.stderr


def test_by_hand_the_backbones_are_covered(shapes, tmp_path):
    words = ["--script=e001_center_detector", "--curated", shapes, "--out", tmp_path / "out"]
    assert "imports Models/backbones/tiny.py" in refused("train", *words, "--helpers=Models/backbones/__init__.py")
