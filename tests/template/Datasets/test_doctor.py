"""The doctor finds what is wrong with a checkout, and the command that it names repairs it."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from Datasets.tools.doctor import Finding, check_processes, check_versions, findings
from tests.template.conftest import AUTHOR, ROOT, copy_code, has_ended, refused, run_in, succeeded, until

STAGES = """stages:
  copy:
    cmd: cp raw.txt made.txt
    deps: [raw.txt]
    outs: [made.txt]
"""
ELSEWHERE = Path("/dev/shm")  # on Linux, another file system than the tests' folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A project as it should be: one source, one stage that ran, a remote that has all, everything committed."""
    root = tmp_path_factory.mktemp("doctor") / "ein Prüfling"
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=lambda *_: ["tmp", "cache", "config.local"])
    for name in ("pyproject.toml", "constraints.txt", ".gitignore"):
        shutil.copy(ROOT / name, root)
    (root / "params.yaml").write_text("sources: {a: {path: raw.txt}}\n")
    (root / "dvc.yaml").write_text(STAGES)
    (root / "raw.txt").write_text("raw")
    remote = ["dvc", "remote", "add", "-q", "-f", "-d", "store", "../store"]
    for command in (["git", "init", "-q"], ["dvc", "add", "-q", "raw.txt"], ["dvc", "repro", "-q"], remote):
        succeeded(run_in(root, *command))
    for command in (["dvc", "push", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "Start"]):
        succeeded(run_in(root, *command, **AUTHOR))
    return root


@pytest.fixture
def root(sound, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy, with an author for git."""
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(sound.parent, tmp_path / "all", symlinks=True)
    root = tmp_path / "all" / sound.name
    yield root
    shutil.rmtree(elsewhere(root), ignore_errors=True)


def found(root: Path, objects: bool = False) -> list[Finding]:
    """What is found, but for versions: those that the tests run with are what they are."""
    return [finding for finding in findings(root, objects) if "not the tested versions" not in finding.problem]


def lose(root: Path, *names: str) -> None:
    shutil.rmtree(root / ".dvc/cache")
    for name in names:
        (root / name).unlink()


def queue(root: Path) -> None:
    succeeded(run_in(root, "dvc", "exp", "run", "-q", "--queue", "--force"))


def cache_elsewhere(root: Path) -> None:
    shutil.move(root / ".dvc/cache", elsewhere(root))
    succeeded(run_in(root, "dvc", "cache", "dir", "-q", "--local", elsewhere(root)))


def elsewhere(root: Path) -> Path:
    return ELSEWHERE / f"fourfold-{root.parents[1].name}-{os.getpid()}"


HARMS = {
    "no repository": (lambda root: shutil.rmtree(root / ".git"), "in no repository"),
    "no commit": (lambda root: (shutil.rmtree(root / ".git"), run_in(root, "git", "init", "-q")), "has no commit yet"),
    "untracked": (lambda root: run_in(root, "git", "rm", "-q", "--cached", "params.yaml"), "params.yaml: not in git"),
    "lock deleted": (lambda root: (root / "dvc.lock").unlink(), "dvc.lock: deleted, but git still has it"),
    "deleted": (lambda root: (root / "made.txt").unlink(), "made.txt: deleted, but still in DVC's cache"),
    "not pulled": (lambda root: lose(root, "raw.txt"), "raw.txt: neither here nor in DVC's cache"),
    "unmounted": (lambda root: run_in(root, "dvc", "config", "remote.store.url", "/no/such"), "/no: not found"),
    "queued": (queue, "queue: 1 experiments wait"),
    "elsewhere": (cache_elsewhere, "is on another file system"),
}
if not ELSEWHERE.is_dir() or ELSEWHERE.stat().st_dev == ROOT.stat().st_dev:
    del HARMS["elsewhere"]


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_wrong_is_found_and_the_command_repairs_it(root, harm):
    damage, part = HARMS[harm]
    damage(root)
    [finding] = found(root)
    assert part in finding.problem
    remedy = finding.remedy.partition(", or ")[0] if harm != "queued" else finding.remedy.partition(", or ")[2]
    succeeded(run_in(root, "bash", "-c", remedy.replace(" URL", " ../../store")))
    assert found(root) == []


def test_a_file_that_cannot_be_parsed_is_named_with_the_line(root):
    (root / "params.yaml").write_text("sources:\n  a:\n\t\tpath: raw.txt\n")
    [finding] = found(root)
    assert (
        "params.yaml'" in finding.problem and "line 3: found character that cannot start any token" in finding.problem
    )


def test_a_damaged_object_is_found_when_all_of_the_cache_is_read(root):
    name = hashlib.md5(b"raw").hexdigest()
    stored = root / f".dvc/cache/files/md5/{name[:2]}/{name[2:]}"
    times = stored.stat().st_atime_ns, stored.stat().st_mtime_ns
    for path in (stored, root / "raw.txt"):  # as if it had been checked out from the cache
        path.unlink()
        path.write_text("rot")
    os.utime(stored, ns=times)
    stored.chmod(0o444)
    assert found(root) == []
    [finding] = found(root, objects=True)
    assert f"{name[:2]}/{name[2:]}, raw.txt: damaged" in finding.problem  # and not made.txt, whose bytes are the same
    succeeded(run_in(root, "bash", "-c", finding.remedy))
    assert (root / "raw.txt").read_text() == stored.read_text() == "raw"
    assert found(root, objects=True) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a process's environment is read as on Linux")
def test_a_stage_without_its_dvc_is_found_and_ended(root):
    environment = os.environ | {"DVC_STAGE": "train@e001", "DVC_ROOT": str(root)}
    started = subprocess.run(["sh", "-c", "sleep 60 >&- & echo $!"], env=environment, stdout=subprocess.PIPE)
    pid = int(started.stdout)
    [finding] = found(root)
    assert finding == Finding(
        f"process {pid}: stage train@e001 still runs, although the dvc that started it has ended", f"kill {pid}"
    )
    subprocess.run(finding.remedy.split(), check=True)
    until(lambda: not psutil.pid_exists(pid) or has_ended(psutil.Process(pid)))
    assert found(root) == []


def test_a_stage_whose_dvc_runs_is_left_alone(root):
    (root / "dvc.yaml").write_text(STAGES.replace("cp raw.txt made.txt", "cp raw.txt made.txt && sleep 60"))
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, start_new_session=True)
    try:
        until(lambda: (root / "made.txt").exists() and psutil.Process(process.pid).children())
        assert list(check_processes(root)) == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_versions_are_compared_and_missing_ones_named(root):
    (root / "constraints.txt").write_text("numpy==1.0.0\n")
    text = (root / "pyproject.toml").read_text()
    (root / "pyproject.toml").write_text(text.replace('"pandas>', '"not.there>=1",\n"pandas>'))
    message = " ".join(finding.problem for finding in check_versions(root))
    assert "not.there: not installed" in message
    assert re.search(r"numpy 2\S+ instead of 1\.0\.0: not the tested versions", message)


def test_python_is_compared_with_every_bound_that_a_team_may_state(root):
    text = (root / "pyproject.toml").read_text()
    for stated, wrong in ((">=3.11,<4", False), ("~=3.11", False), (">=3.11, <3.11.0", True), (">=3.99", True)):
        (root / "pyproject.toml").write_text(text.replace('">=3.11"', f'"{stated}"'))
        message = [finding.problem for finding in check_versions(root) if finding.problem.startswith("Python")]
        assert bool(message) == wrong, stated
        assert all(f": pyproject.toml requires {stated}" in each for each in message)


def test_the_command_names_what_is_wrong_and_its_remedy(root):
    copy_code(root, "Datasets", "Datasets/format", "Datasets/tools")
    result = run_in(root, sys.executable, "-m", "Datasets.tools.doctor")
    refused(result, "problems found: 1")
    assert "not in git" in result.stdout and "git add --force Datasets/" in result.stdout


def test_params_that_a_shell_or_dvc_would_not_survive_are_found(root):
    (root / "Models").mkdir()
    (root / "Models/helper.py").write_text("A = 1\n")
    (root / "Models/e001_a.py").write_text("from Models import helper\n")
    entries = "e001: {script: e001_a, init: e002}, e002: {script: e001_a, init: e001, helpers: Models/helper.py}"
    (root / "params.yaml").write_text(f"sources: {{'a; touch X;': {{path: raw.txt}}}}\nexperiments: {{{entries}}}\n")
    problems = [finding.problem for finding in found(root)]
    assert "params.yaml: sources: 'a; touch X;': is no name; write one of letters, digits, - and _" in problems
    assert "params.yaml: experiments: e001: init: e001 starts from e002 starts from e001; name another" in problems
    assert "Models/e001_a.py: imports Models/helper.py, an edit of which would not train e001 again" in problems
    words = ["python", "-m", "Datasets.tools.params"]
    refused(run_in(root, *words, PYTHONPATH=str(ROOT)), "params.yaml: sources: 'a; touch X;'")


def test_a_project_in_a_folder_of_another_repository_is_sound(root, tmp_path):
    whole = tmp_path / "repo"
    shutil.copytree(root, whole / "services/vision")
    shutil.rmtree(whole / "services/vision/.git")
    (whole / "services/vision/.dvc/config").write_text(
        (root / ".dvc/config").read_text().replace("../../", "../../../")
    )
    succeeded(run_in(whole, "git", "init", "-q"))
    succeeded(run_in(whole, "git", "add", "-A"))
    succeeded(run_in(whole, "git", "commit", "-qm", "Start", **AUTHOR))
    assert [finding for finding in found(whole / "services/vision") if "git" in finding.problem] == []


def test_stages_left_in_the_lock_file_are_found(root):
    text = (root / "dvc.lock").read_text()
    (root / "dvc.lock").write_text(text + "  train@e009:\n    cmd: python\n")
    [finding] = found(root)
    assert finding == (
        "dvc.lock: has stages of e009, which params.yaml has no more",
        "python -m Models.experiment remove e009",
    )
