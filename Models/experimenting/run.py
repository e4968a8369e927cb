"""One step of an experiment: a commit of the work before, the pipeline, a commit of its results, a tick in the log."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError
from Models.experimenting.log import Experiment, Step, read_log, with_tick
from Models.experimenting.parameters import with_parameters
from Models.experimenting.repository import (
    changed,
    check_ready,
    commit_all,
    commit_only,
    git,
    has_commit,
    subject,
    untracked,
)
from Models.experimenting.step_metrics import changes, metrics_at, table

LOCK = "dvc.lock"


def run_step(root: Path, log: Path, name: str, parameters: Sequence[str], yes: bool) -> None:
    """Run the step `name`, as e004.1, and tick it if all went well.

    Nothing is touched before everything that can be checked is. Raises UserError, and KeyboardInterrupt, with the way
    to go on; the step is not ticked then, and the commit of the work before stays.
    """
    step = find_step(log, name)
    check_ready(root)
    text = with_parameters(root / "params.yaml", parameters) if parameters else None
    new = files_to_add(root, yes)
    if text is not None:
        with replacing(root / "params.yaml") as partial:
            partial.write_bytes(text.encode("utf-8"))
    before = f"[{name}] before: {step.text}"
    if subject(root) != before or changed(root) or new:
        commit_all(root, new, message(before, [f"-S {each}" for each in parameters]))
    reproduce(root, name)
    lines = metric_lines(root, base(root, name))
    commit = commit_only(root, results(root), message(f"[{name}] results: {step.text}", lines))
    tick(log, name, commit)
    commit_only(root, [log.name], f"[{name}] log")
    print("\n".join([f"{name} is done: {commit}", *lines]))


def find_step(log: Path, name: str) -> Step:
    """The step e004.1 of the log. Raises UserError if there is none, and if it is done."""
    match = re.fullmatch(r"(e\d+)\.(\d+)", name)
    if not match:
        raise UserError(f"{name!r} is no step; write e001.1 for the first step of e001")
    experiment = read_log(log)[match[1]]
    step = experiment.step(int(match[2]))
    if step is None:
        there = ", ".join(str(each.number) for each in experiment.steps) or "none"
        raise UserError(f"{log}: {experiment.id} has no step {match[2]}; it has: {there}; add it to the list")
    if step.done:
        raise UserError(
            f"{log}: line {step.line + 1}: {name} is done ({step.commit or 'no commit'}); add a step for another run"
        )
    return step


def files_to_add(root: Path, yes: bool) -> list[str]:
    """The untracked files that the commit before shall have, asked for on a terminal."""
    new = [name for name in untracked(root) if name != LOCK]
    if not new or yes:
        return new
    shown = ", ".join(new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
    if not sys.stdin.isatty():
        raise UserError(f"untracked files: {shown}; --yes adds them to the commit, .gitignore keeps them out")
    return new if typer.confirm(f"Untracked files: {shown}. Add them to the commit?") else []


def reproduce(root: Path, name: str) -> None:
    """Run `dvc repro`. Raises UserError if it fails and KeyboardInterrupt if it is interrupted, saying how to go on."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=root)
    go_on = f"`python -m Models.experiment run {name}` goes on where it stopped"
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reaches DVC and its stage, too: both end by themselves
        print(f"{name} is not ticked, and the work is committed; {go_on}", file=sys.stderr)
        raise
    if code:
        raise UserError(f"{name} failed, see above; it is not ticked, and the work is committed; once mended, {go_on}")


def base(root: Path, name: str, last: str = "HEAD") -> str:
    """The commit that the results of a step are compared with: the oldest before it since other results, or `last`.

    Later ones are of attempts that went on, and may hold the dvc.lock of one that ended halfway.
    """
    found = last
    for line in git(root, "log", "--first-parent", "--format=%H %s", last).splitlines():
        commit, _, text = line.partition(" ")
        if re.match(r"\[e\d+\.\d+\] results: ", text):
            break
        found = commit if text.startswith(f"[{name}] before: ") else found
    return found


def metric_lines(root: Path, commit: str) -> list[str]:
    """The metrics of the pipeline as it is now, each with its difference to the commit's."""
    found = metrics_at(root, [commit, "workspace"])
    return changes(found[commit], found["workspace"])


def results(root: Path) -> list[str]:
    """What the pipeline wrote for git to keep: dvc.lock, and outputs that are not in DVC's cache."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        uncached = {out.def_path for out in repo.index.outs if not out.use_cache and not out.stage.is_data_source}
    return [LOCK, *sorted(path for path in uncached if (root / path).exists())]


def tick(log: Path, name: str, commit: str) -> None:
    """Tick the step in the log as it is now: it may have been written in during the run."""
    experiment, number = name.split(".")
    try:
        find_step(log, name)
        text = with_tick(read_log(log), experiment, int(number), commit)
    except UserError as error:
        raise UserError(f"{error}; the results are in {commit}: tick the step by hand") from error
    with replacing(log) as partial:
        partial.write_bytes(text.encode("utf-8"))


def message(subject_line: str, body: Sequence[str]) -> str:
    """A commit's message."""
    return "\n".join([subject_line, "", *body]) if body else subject_line


def compared(root: Path, experiment: Experiment) -> list[str]:
    """A table: the test metrics of each done step, and of the state before the first; nothing without such a step."""
    done = [step for step in experiment.steps if step.commit]
    if not done or not has_commit(root):
        return []
    commits = {f"{experiment.id}.{step.number}": known(root, str(step.commit), experiment, step) for step in done}
    name, first = next(iter(commits.items()))
    parent = git(root, "rev-parse", f"{first}~1").strip()
    columns = {"before": base(root, name, parent), **commits}
    found = metrics_at(root, list(dict.fromkeys(columns.values())))
    lines = table({name: found[commit] for name, commit in columns.items()}, "Models/outputs/")
    if len(lines) == 1:
        return ["no metrics of these commits are in DVC's cache; `dvc pull --all-commits` may fetch them"]
    return lines


def known(root: Path, commit: str, experiment: Experiment, step: Step) -> str:
    """The full hash of a step's commit. Raises UserError if git does not have it."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()
    except UserError:
        raise UserError(
            f"EXPERIMENTS.md: line {step.line + 1}: git has no commit {commit}, of {experiment.id}.{step.number}"
        ) from None
