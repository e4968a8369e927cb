"""dvc.lock is merged by stages, by git itself."""

import pytest
from ruamel.yaml import YAML

from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.stages import stage


def lock(**stages: str | None) -> dict:
    """A lock file whose stages made these outputs."""
    made = {name: {"cmd": f"make {out}", "outs": [{"path": name, "md5": out}]} for name, out in stages.items() if out}
    return {"schema": "2.0", "stages": made}


def merged(directory, ancestor, ours, theirs):
    files = [directory / name for name in ("ancestor", "ours", "theirs")]
    for file, contents in zip(files, (ancestor, ours, theirs), strict=True):
        file.write_text("") if contents is None else YAML().dump(contents, file)
    result = succeeded(stage("Datasets.tools.merge_lock", *files))
    return YAML(typ="safe").load(files[1]), result.stderr


def test_a_stage_comes_whole_from_the_side_that_changed_it(tmp_path):
    base = lock(a="1", b="1", c="1", d="1", e="1")
    ours = lock(a="2", b="1", c="1", d=None, e="1", ours="1")
    theirs = lock(a="1", b="2", c="1", d="1", e=None, theirs="1")
    found, message = merged(tmp_path, base, ours, theirs)
    assert found == lock(a="2", b="2", c="1", ours="1", theirs="1")
    assert "both" not in message


def test_of_a_stage_that_both_changed_ours_stays_and_is_named(tmp_path):
    found, message = merged(tmp_path, lock(a="1", b="1"), lock(a="2", b="5"), lock(a="3", b="5"))
    assert found == lock(a="2", b="5")
    assert "a changed on both sides" in message
    assert "dvc repro" in message


def test_two_lock_files_without_a_common_one_are_merged(tmp_path):
    assert merged(tmp_path, None, lock(a="1"), lock(b="1"))[0] == lock(a="1", b="1")


@pytest.mark.parametrize("broken", ["<<<<<<< HEAD\na: [", "\udcff"])
def test_what_is_no_lock_file_is_left_alone(broken, tmp_path):
    files = [tmp_path / name for name in ("ancestor", "ours", "theirs")]
    for file in files:
        YAML().dump(lock(a="1"), file)
    files[2].write_bytes(broken.encode(errors="surrogateescape"))
    before = files[1].read_bytes()
    refused(stage("Datasets.tools.merge_lock", *files), "dvc.lock: ")
    assert files[1].read_bytes() == before
