"""What commands share: mistakes in one line, outputs that are whole or not there, the merge of dvc.lock."""

import resource
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError
from tests.template.conftest import ROOT, refused, run_in, succeeded
from tests.template.Data_processing.stages import stage

FAILING = """
from pathlib import Path
from Datasets.tools.command import run
from Datasets.tools.errors import UserError

def main():
    {}

run(main)
"""


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("raise UserError('a.csv: has no rows')", "a.csv: has no rows"),
        ("Path('gone').read_text()", "gone: No such file"),
    ],
)
def test_a_users_mistake_is_one_line(mistake, message):
    refused(run_in(ROOT, sys.executable, "-c", FAILING.format(mistake)), message)


KILLED = """
import os, sys
from pathlib import Path
from Datasets.tools.atomic import replacing

def write(moment):
    left = moment or 1000
    def count(event, arguments):  # of what changes a directory; the process dies just before
        nonlocal left
        left -= event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir")
        if not left:
            os._exit(9)
    sys.addaudithook(count)
    with replacing(Path(sys.argv[1]), "b/mark", "*.txt") as partial:
        (partial / "b").mkdir(parents=True)
        for name in ("b/mark", "a.txt"):
            (partial / name).write_text("")
    os._exit(0)

for moment in range(1, 1000):
    for when in (moment, 0):  # killed, and then run again
        child = os.fork() or write(when)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not when and status:
            sys.exit(f"killed at {moment}, it fails")
        if when and not status:
            print(moment)
            sys.exit()
"""


def test_a_run_by_hand_over_what_a_killed_one_left_writes_it_whole(tmp_path):
    command = [sys.executable, "-c", KILLED, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 8, "it was killed between any two steps, while it took the old output away, too"
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "out",
        "out/a.txt",
        "out/b",
        "out/b/mark",
    ]


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    only = tmp_path / "raw/only.zip"
    only.parent.mkdir()
    only.write_text("of a customer")
    for own in ((), ("annotations.json",)):
        with pytest.raises(UserError, match="something else; name another, or delete it"), replacing(only.parent, *own):
            raise AssertionError("not refused")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [only]
    only.unlink()
    for text in ("first", "second"):  # into an empty directory, and over what was made before
        with replacing(only.parent, "annotations.json") as partial:
            partial.mkdir()
            (partial / "annotations.json").write_text(text)
    assert (only.parent / "annotations.json").read_text() == "second"


def test_a_full_disk_is_reported_for_the_written_file_not_the_copied_one(tmp_path):
    (tmp_path / "source").write_bytes(bytes(1000))
    for write in (lambda out: shutil.copyfile(tmp_path / "source", out), lambda out: out.write_bytes(bytes(1000))):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(OSError, match="too large") as raised, replacing(tmp_path / "out") as partial:
                write(partial)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert raised.value.filename == str(tmp_path / "out")


TWO = """
import sys, time
from pathlib import Path
from Datasets.tools.atomic import editing, replacing

path, what = Path(sys.argv[1]), sys.argv[2]
if what == "replace":
    with replacing(path) as partial:
        partial.write_text("")
        print("writes", flush=True)
        sys.stdin.read()
for number in range(20) if what == "edit" else ():
    with editing(path):
        path.write_text(str(int(path.read_text()) + 1))
"""


def test_the_second_of_two_that_write_one_output_is_refused(tmp_path):
    out, command = tmp_path / "out", [sys.executable, "-c", TWO, tmp_path / "out", "replace"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "writes\n"
        with pytest.raises(UserError, match="another process is writing it"), replacing(out):
            pass
        first.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with replacing(out) as partial:
        partial.write_text("")


def test_a_file_that_many_edit_at_once_keeps_all_their_changes(tmp_path):
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", TWO, tmp_path / "count", "edit"]
    for process in [subprocess.Popen(command, cwd=ROOT) for _ in range(6)]:
        assert process.wait() == 0
    assert (tmp_path / "count").read_text() == "120"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


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
