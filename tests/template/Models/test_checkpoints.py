import resource
import shutil
from pathlib import Path

import pytest
import torch

from Models.learning.checkpoints import checkpoint_path, load_checkpoint, remove_checkpoint, save_checkpoint


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Models").mkdir()
    (tmp_path / "Models" / "__init__.py").touch()
    (tmp_path / "Models" / "train.py").write_text("from Models import helper\n")
    (tmp_path / "Models" / "helper.py").write_text("x = 1\n")
    (tmp_path / "Models" / "other.py").write_text("y = 1\n")
    return tmp_path


def test_other_parameters_code_or_data_never_meet_an_old_checkpoint(root, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(root / "parent"))
    scripts = [Path("Models/train.py")]
    first = checkpoint_path({"width": 32}, scripts, root, "data")
    assert first == checkpoint_path({"width": 32}, scripts, root, "data")
    assert first.is_relative_to(root / "parent" / ".checkpoints")
    assert first != checkpoint_path({"width": 16}, scripts, root, "data")
    assert first != checkpoint_path({"width": 32}, scripts, root, "other data")
    (root / "Models" / "other.py").write_text("y = 2\n")
    assert first == checkpoint_path({"width": 32}, scripts, root, "data"), "a file that is not imported does not count"
    (root / "Models" / "helper.py").write_text("x = 2\n")
    assert first != checkpoint_path({"width": 32}, scripts, root, "data"), "an imported file counts"


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "key" / "checkpoint.pt"
    state = {"model": {"weight": torch.rand(3, 4)}, "step": 7, "sums": {"loss": 0.1 + 0.2}, "history": [{"step": 7}]}
    save_checkpoint(state, path)
    again = load_checkpoint(path)
    assert torch.equal(again["model"].pop("weight"), state["model"].pop("weight"))
    assert again == state
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]
    remove_checkpoint(path)
    assert not path.parent.exists() and load_checkpoint(path) is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"", lambda data: data[:500] + b"\0" + data[501:]]
)
def test_a_damaged_checkpoint_counts_as_none(tmp_path, capsys, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"weight": torch.rand(100)}, path)
    path.write_bytes(damage(path.read_bytes()))
    assert load_checkpoint(path) is None
    assert "damaged" in capsys.readouterr().err


def test_loading_runs_no_code(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"remove": shutil.rmtree}, path)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"step": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint({"step": 2, "weight": torch.rand(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
