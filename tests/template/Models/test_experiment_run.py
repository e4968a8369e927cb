"""Steps of experiments run in a small repository of their own, by real git and DVC."""

import csv
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.conftest import AUTHOR, copy_code, environment, refused, run_in, succeeded, until
from tests.template.forked import programs

LOG = "# Experiments\n\n## e004 Wider\n\nState: open, begun 2026-01-01\n\n1. [ ] width 48\n2. [ ] width 64\n"
PARAMS = """# all

learn:  # of the stage
  width: 32 # pixels
  name: a
"""
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
DVC = """
stages:
  train:
    foreach: [e004]
    do: {cmd: "true", deps: [.gitignore]}
  evaluate:
    foreach: [e004]
    do:
      cmd: python learn.py ${learn.width}
      deps: [learn.py]
      params: [learn]
      metrics: ["Models/outputs/${item}/evaluate/metrics.json"]
"""
LEARN = """
import json, pathlib, sys, time
out = pathlib.Path("Models/outputs/e004/evaluate/metrics.json")
out.parent.mkdir(parents=True, exist_ok=True)
width = int(sys.argv[1])
if width == 99: pathlib.Path("begun").touch(), time.sleep(60)
out.write_text(json.dumps({"mAP50": width / 100, "mAP": 0.25, "F1": 0.5, "AP": {"zero": width / 200}}))
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A repository with a commit, a pipeline that takes no time, and no dvc.lock."""
    tmp_path = tmp_path_factory.mktemp("begun")
    copy_code(tmp_path, "Datasets", "Datasets/format", "Datasets/tools", "Models", "Models/experimenting")
    files = {"EXPERIMENTS.md": LOG, "params.yaml": PARAMS, "dvc.yaml": DVC, "learn.py": LEARN}
    files[".gitignore"] = "__pycache__/\nbegun\n/Models/outputs\n.home\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    succeeded(run_in(tmp_path, "git", "init", "-q"))
    succeeded(run_in(tmp_path, "dvc", "init", "-q"))
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "Start")
    return tmp_path


@pytest.fixture
def repository(begun, tmp_path):
    """A copy of it."""
    return shutil.copytree(begun, tmp_path, dirs_exist_ok=True)


def git(repository, *words):
    return succeeded(run_in(repository, "git", *words, **AUTHOR)).stdout


def run(repository, *words, **changes):
    command = [sys.executable, "-m", "Models.experiment", "run", *words]
    return run_in(repository, *command, **AUTHOR, **changes)


def subjects(repository):
    return git(repository, "log", "--format=%s").splitlines()


def row(text, metric):
    """The words of a metric's line in a table, after its name."""
    (line,) = [line for line in text.splitlines() if f"e004/evaluate/metrics.json {metric} " in " ".join(line.split())]
    return line.split()[2:]


def shown(repository):
    """What `show` prints below the log: the words of each row of the table."""
    done = succeeded(run_in(repository, sys.executable, "-m", "Models.experiment", "show", "e004"))
    return [line.split() for line in done.stdout[done.stdout.index("boxes") :].splitlines() if line]


def test_a_step_is_committed_before_and_after_and_ticked(repository):
    (repository / "learn.py").write_text(LEARN + "# changed\n")
    (repository / "EXPERIMENTS.md").write_text(LOG + "\nA thought.\n")
    changes = ["-S", "learn.width=48", "--set", "learn.name=c"]
    succeeded(run(repository, "e004.1", *changes))
    assert subjects(repository) == ["[e004.1] log", "[e004.1] results: width 48", "[e004.1] before: width 48", "Start"]
    files = [git(repository, "show", "--format=", "--name-only", f"HEAD~{n}").split() for n in range(3)]
    assert files == [["EXPERIMENTS.md"], ["dvc.lock"], ["EXPERIMENTS.md", "learn.py", "params.yaml"]]
    assert "-S learn.width=48\n-S learn.name=c" in git(repository, "log", "-1", "--format=%b", "HEAD~2")
    assert row(git(repository, "log", "-1", "--format=%b", "HEAD~1"), "mAP50") == ["-", "0.48", "-"]
    results = git(repository, "rev-parse", "--short", "HEAD~1").strip()
    ticked = LOG.replace("1. [ ] width 48", f"1. [x] width 48 ({results})") + "\nA thought.\n"
    assert (repository / "EXPERIMENTS.md").read_text() == ticked
    assert (repository / "params.yaml").read_text() == PARAMS.replace(" 32 ", " 48 ").replace("name: a", "name: c")
    assert git(repository, "status", "--porcelain") == ""


def test_the_next_step_says_what_changed_and_both_are_shown_side_by_side(repository):
    succeeded(run_in(repository, "dvc", "repro"))
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Baseline")
    succeeded(run(repository, "e004.1", "-S", "learn.width=48"))
    printed = succeeded(run(repository, "e004.2", "-S", "learn.width=40")).stdout
    body = git(repository, "log", "-1", "--format=%b", "HEAD~1")
    assert row(body, "mAP50") == row(printed, "mAP50") == ["0.48", "0.4", "-0.08"]
    assert row(body, "AP.zero") == ["0.24", "0.2", "-0.04"]
    assert [(each[0], each[-3]) for each in shown(repository)[1:]] == [
        ("before", "0.320"), ("e004.1", "0.480"), ("e004.2", "0.400")
    ]  # fmt: skip
    table = succeeded(run_in(repository, "dvc", "exp", "show", "-n", "9", "--csv", "--no-pager")).stdout
    pairs = {(line["mAP50"], line["learn.width"]) for line in csv.DictReader(table.splitlines())}
    assert pairs == {("!", "32"), ("0.32", "32"), ("!", "48"), ("0.48", "48"), ("!", "40"), ("0.4", "40")}, "! for none"


def test_ended_by_a_signal_it_takes_the_pipeline_along(repository):
    command = [sys.executable, "-m", "Models.experiment", "run", "e004.1", "-S", "learn.width=99"]
    running = subprocess.Popen(
        command, cwd=repository, env={**os.environ, **AUTHOR, "PATH": PATH}, stdout=subprocess.PIPE
    )
    until((repository / "begun").exists)
    refused(run(repository, "e004.2", "-S", "learn.width=64"), "dvc.lock: another process is writing it")
    entries = [sys.executable, "-m", "Models.experiment", "remove", "e004"]
    refused(run_in(repository, *entries), "dvc.lock: another process is writing it")
    assert "width: 99 " in (repository / "params.yaml").read_text() and len(subjects(repository)) == 2
    running.terminate()
    running.communicate(timeout=40)  # which waits until nothing that inherited its stdout runs
    assert running.returncode == 143


def test_show_says_what_is_missing(repository):
    succeeded(run(repository, "e004.1"))
    show = [sys.executable, "-m", "Models.experiment", "show", "e004"]
    assert "mAP50" in succeeded(run_in(repository, *show)).stdout
    shutil.rmtree(repository / ".dvc/cache")
    assert "is not in DVC's cache; `dvc pull --all-commits`" in succeeded(run_in(repository, *show)).stdout
    text = (repository / "EXPERIMENTS.md").read_text()
    (repository / "EXPERIMENTS.md").write_text(text.replace("2. [ ] width 64", "2. [x] width 64 (1234567)"))
    refused(run_in(repository, *show), "e004.2: '1234567' is no commit")


def test_a_failed_run_ticks_nothing_and_continues_compared_with_what_was_before_its_first_attempt(repository):
    (repository / "export.py").write_text("")
    stage = "  export:\n    cmd: python export.py\n    deps: [export.py, Models/outputs/e004/evaluate/metrics.json]\n"
    (repository / "dvc.yaml").write_text(DVC + stage)
    succeeded(run_in(repository, "dvc", "repro"))
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Baseline")
    (repository / "export.py").write_text("raise SystemExit('no export')")
    failed = run(repository, "e004.1", "-S", "learn.width=48")
    assert failed.returncode == 1 and "no export" in failed.stderr and "Traceback" not in failed.stderr
    assert "run e004.1` continues" in failed.stderr.splitlines()[-1]
    assert "no export" in run(repository, "e004.1").stderr
    before = "[e004.1] before: width 48"
    assert subjects(repository) == [before, before, "Baseline", "Start"], "the second holds the first one's dvc.lock"
    assert (repository / "EXPERIMENTS.md").read_text() == LOG
    (repository / "export.py").write_text("# repaired\n")
    git(repository, "commit", "-qam", "Repair the export, with all changes")
    printed = succeeded(run(repository, "e004.1")).stdout
    assert row(printed, "mAP50") == ["0.32", "0.48", "0.16"]
    assert [(each[0], each[-3]) for each in shown(repository)[1:]] == [("before", "0.320"), ("e004.1", "0.480")]


def test_an_interrupted_run_ticks_nothing_leaves_no_process_and_goes_on_from_its_commit(repository):
    command = [sys.executable, "-m", "Models.experiment", "run", "e004.1", "-S", "learn.width=99"]
    running = subprocess.Popen(
        command, cwd=repository, env={**os.environ, **AUTHOR, "PATH": PATH}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        until((repository / "begun").exists)
    finally:
        os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C does
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "e004.1 is not ticked" in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)
    assert (repository / "EXPERIMENTS.md").read_text() == LOG
    (repository / "learn.py").write_text(LEARN.replace("99", "98"))
    git(repository, "add", "dvc.lock")
    git(repository, "commit", "-qam", "[e004.1] before: width 48")
    succeeded(run(repository, "e004.1"))
    assert len(subjects(repository)) == 5, "a commit before that is as the tree is, is not made again"


def test_untracked_files_are_added_only_when_that_is_wanted(repository):
    (repository / "new one.py").write_text("x = 1\n")
    refused(run(repository, "e004.1", "-S", "learn.width=48"), "untracked files: new one.py", "--yes")
    assert (repository / "params.yaml").read_text() == PARAMS and subjects(repository) == ["Start"]
    assert answer(repository, "e004.1", b"n\n") == 0
    assert git(repository, "status", "--porcelain").split("\n")[0] == '?? "new one.py"'
    assert answer(repository, "e004.2", b"y\n") == 0
    assert git(repository, "show", "--format=", "--name-only", "HEAD~2").strip() == "new one.py"
    (repository / "EXPERIMENTS.md").write_text((repository / "EXPERIMENTS.md").read_text() + "3. [ ] width 80\n")
    (repository / "another.py").write_text("x = 2\n")
    succeeded(run(repository, "e004.3", "--yes"))
    assert git(repository, "show", "--format=", "--name-only", "HEAD~2").split() == ["EXPERIMENTS.md", "another.py"]


def answer(repository, step, typed):
    """The exit code of a run on a terminal at which `typed` is typed."""
    main, terminal = pty.openpty()
    os.write(main, typed)
    done = subprocess.run(
        [programs() / "python", "-m", "Models.experiment", "run", step], cwd=repository, stdin=terminal,
        capture_output=True, env=environment(**AUTHOR), timeout=120, text=True,
    )  # fmt: skip
    assert "Untracked files: new one.py. Add them to the commit?" in done.stdout
    return done.returncode


@pytest.mark.parametrize(
    ("what", "message"),
    [("merge", "a merge is underway"), ("rebase", "HEAD is detached"), ("checkout", "HEAD is detached")],
)
def test_nothing_is_run_without_a_branch_or_in_the_middle_of_a_merge(repository, what, message):
    git(repository, "checkout", "-qb", "other")
    (repository / "learn.py").write_text("other\n")
    git(repository, "commit", "-qam", "Other")
    git(repository, "checkout", "-q", "-")
    (repository / "learn.py").write_text("ours\n")
    git(repository, "commit", "-qam", "Ours")
    run_in(repository, "git", what, *(["--detach"] if what == "checkout" else ["other"]), **AUTHOR)
    before = git(repository, "status", "--porcelain")
    refused(run(repository, "e004.1", "-S", "learn.width=48"), message)
    assert git(repository, "status", "--porcelain") == before


def test_without_an_identity_or_a_repository_nothing_is_changed(repository):
    git(repository, "config", "user.useConfigOnly", "true")
    run_e004 = [sys.executable, "-m", "Models.experiment", "run", "e004.1", "-S", "learn.width=48"]
    assert "git config --global user.name" in run_in(repository, *run_e004, GIT_CONFIG_GLOBAL=os.devnull).stderr
    shutil.rmtree(repository / ".git")
    ceiling = {"GIT_CEILING_DIRECTORIES": str(repository.parent)}
    refused(run_in(repository, *run_e004, **ceiling), "not a git repository")
    assert (repository / "params.yaml").read_text() == PARAMS


def test_the_message_of_a_hook_that_refuses_the_commit_is_printed(repository):
    hook = repository / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho No commits on Fridays. && exit 1\n")
    hook.chmod(0o755)
    refused(run(repository, "e004.1"), "git commit: No commits on Fridays.")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("learn.depth=3", "; `-S +learn.depth=3` adds it"),
        ("learn.width", "missing EQUAL"),
        ("learn.width=[1", "no viable alternative"),
    ],
)
def test_a_parameter_that_does_not_exist_changes_nothing(repository, change, part):
    refused(run(repository, "e004.1", "-S", change), "params.yaml: ", part)
    assert (repository / "params.yaml").read_text() == PARAMS
    assert subjects(repository) == ["Start"]
