"""What experiments came to, as dvc.lock has it: in the workspace, in steps of the log, and in runs of `dvc exp`.

Tables of text, and with names a page as well.
"""

import hashlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from Datasets.tools.errors import UserError
from Datasets.tools.params import parsed, text_of
from Models.experimenting.log import ROOT, Id, Log, in_params
from Models.experimenting.run import before, git, opened, stages_due

if TYPE_CHECKING:
    from dvc.repo import Repo

PAGE = ROOT / "Models/outputs/compare.html"
FIGURES = {  # that matter, the main one first; by the figure that only this task has
    "mAP50": ("boxes", ("mAP50", "mAP", "F1")),
    "mIoU": ("mask", ("mIoU", "pixel_accuracy")),
    "MAE": ("counts", ("macroF1", "MAE", "exact_count")),
    "top1": ("labels", ("macroF1", "mAP", "top1", "exact")),
}


class Result(NamedTuple):
    """An experiment as it was evaluated. name: what people type. commit: empty in the workspace. stages: dvc.lock's."""

    repo: "Repo"
    name: str
    experiment: str
    commit: str
    stages: Mapping[str, Any]

    def stage(self, name: str) -> Mapping[str, Any]:
        """What dvc.lock has of one of the experiment's stages."""
        return self.stages.get(f"{name}@{self.experiment}") or {}

    def md5(self, stage: str, kind: str, path: str) -> str | None:
        """The hash of an output or a dependency; None if the stage did not run. kind: outs or deps."""
        found = {each["path"]: each.get("md5") for each in self.stage(stage).get(kind, [])}
        return found.get(path.format(self.experiment))

    def output(self, stage: str, path: str, inside: str = "") -> Path:
        """An output in DVC's cache, or a file inside it. Raises UserError if there is none."""
        place, md5 = path.format(self.experiment), self.md5(stage, "outs", path)
        if md5 is None:
            raise UserError(f"{self.name}: has no {place}; `dvc repro {stage}@{self.experiment}`")
        file = Path(self.repo.cache.local.oid_to_path(md5))
        if not file.exists():
            fetch = "`dvc pull --all-commits`, or of a run `dvc exp pull REMOTE NAME`,"
            raise UserError(f"{self.name}: {place} is not in DVC's cache; {fetch} may bring it")
        if not inside:
            return file
        listed = {each["relpath"]: each["md5"] for each in json.loads(file.read_bytes())}
        return Path(self.repo.cache.local.oid_to_path(listed[inside]))

    def figures(self) -> dict[str, Any]:
        """The test metrics. Raises UserError if the weights were not evaluated, or DVC's cache lacks them."""
        weights = "Models/outputs/{}/train/weights.safetensors"
        if self.md5("train", "outs", weights) != self.md5("evaluate", "deps", weights):
            again = f"`dvc repro evaluate@{self.experiment}`"
            raise UserError(f"{self.name}: was trained again, but not evaluated; {again}")
        return json.loads(self.output("evaluate", "Models/outputs/{}/evaluate/metrics.json").read_bytes())

    def settings(self) -> dict[str, str]:
        """The options that it was trained with; `data`, `code` and `weights`, those to start from, as hashes."""
        words = [*shlex.split(self.stage("train").get("cmd", "")), "--"]
        found: dict[str, str] = {}
        for option, value in pairwise(words):
            if option.startswith("--") and option != "--":
                name, flag = option[2:].removeprefix("no-"), "no" if option.startswith("--no-") else "yes"
                value = flag if value.startswith("--") else value.removeprefix("Datasets/pretrained/")
                found[name] = f"{found[name]} {value}" if name in found else value
        hashes = {"data": "", "weights": "", "code": ""}
        for each in self.stage("train").get("deps", []):
            kind = {"Datasets/curated": "data", "Datasets/pretrained": "weights"}
            hashes[kind.get("/".join(each["path"].split("/")[:2]), "code")] += each.get("md5", "")
        short = {name: hashlib.md5(text.encode()).hexdigest()[:5] for name, text in hashes.items()}
        return {name: value for name, value in found.items() if name not in ("out", "helpers")} | short


Row = tuple[list[Result], dict[str, Any]]  # the results that are the same, and their figures


def lock_at(commit: str) -> dict[str, Any]:
    """The stages in dvc.lock of a commit, or of the workspace; empty without one."""
    lock = ROOT / "dvc.lock"
    if commit and not git("ls-tree", "--name-only", commit, "./dvc.lock"):
        return {}
    text = git("show", f"{commit}:./dvc.lock") if commit else text_of(lock) if lock.exists() else ""
    return (parsed(text, lock) or {}).get("stages") or {}


def all_results(repo: "Repo") -> list[Result]:
    """The experiments of params.yaml as last run, as in the last commit, the done steps of the log, runs of `dvc exp`.

    Of a commit only those that are not as in the workspace, and of a run those that are not as in what it began from.
    """
    now = lock_at("")
    found = [Result(repo, name, name, "", now) for name in in_params("experiments")]
    for experiment in Log().experiments.values():
        steps = {f"{experiment.id}.{number}": step.commit for number, step in experiment.steps.items() if step.commit}
        for name, commit in steps.items():
            try:
                found.append(Result(repo, name, experiment.id, commit, lock_at(commit)))
            except UserError as error:
                print(f"{name}: {error}; was it rebased away, or is the clone shallow?", file=sys.stderr)
    found += changed_since(repo, now, "HEAD", git("rev-parse", "HEAD").strip())
    for start, runs in repo.experiments.ls(all_commits=True).items():
        before = lock_at(start)
        found += [each for name, commit in runs for each in changed_since(repo, before, name, str(commit))]
    return found


def changed_since(repo: "Repo", before: Mapping[str, Any], name: str, commit: str) -> list[Result]:
    """The experiments that were evaluated in a commit, and otherwise than in the stages of another one."""
    stages = lock_at(commit)
    own = [stage[9:] for stage in stages if stage[:9] == "evaluate@" and stages[stage] != before.get(stage)]
    return [Result(repo, f"{each}@{name}", each, commit, stages) for each in own]


def named(repo: "Repo", name: str) -> Result:
    """The result that a name means: e001 of the workspace, e001.2 of the log, e001@REV. Raises UserError."""
    match = re.fullmatch(r"(e\d+)(?:\.(\d+)|@(.+))?", name)
    if not match:
        raise UserError(f"{name!r} is no experiment; write e001, e001.1 for a step of the log, or e001@REVISION")
    experiment, step, revision = match.groups()
    commit, runs = revision or "", dict[str, str]()
    if step:
        found = Log()[experiment].steps.get(int(step))
        commit = (found.commit if found else None) or ""
        if not commit:
            raise UserError(f"EXPERIMENTS.md: has no result of step {name}; `python -m Models.experiment run {name}`")
    elif revision:
        runs = {run: str(at) for each in repo.experiments.ls(all_commits=True).values() for run, at in each}
        commit = runs.get(revision, revision)
    if commit:
        try:
            commit = git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()
        except UserError:
            known = ", ".join(runs) or "none"
            raise UserError(f"{name}: {commit!r} is no commit, tag or branch, nor a run; the runs: {known}") from None
    stages = lock_at(commit)
    if f"train@{experiment}" not in stages and (commit or experiment not in in_params("experiments")):
        trained = ", ".join(stage[6:] for stage in stages if stage.startswith("train@")) or "none"
        raise UserError(f"{name}: dvc.lock has no trained experiment {experiment} there; it has: {trained}")
    return Result(repo, name, experiment, commit, stages)


def tables(results: Sequence[Result]) -> Iterator[str]:
    """The lines of a table for each task: the settings in which its rows differ, and its figures; what lacks them last.

    Results that are the same share a row.
    """
    rows: dict[tuple[str, ...], Row] = {}
    lacking = {}
    for each in results:
        try:
            figures = each.figures()
        except UserError as error:
            lacking[each.name] = str(error)
        else:
            key = (each.experiment, *each.settings().values(), str(figures))
            rows.setdefault(key, ([], figures))[0].append(each)
    due = {stage.partition("@")[2] for stage in stages_due() if stage.startswith(("train@", "evaluate@"))}
    changed = [each.name for each in results if not each.commit and each.experiment in due and each.name not in lacking]
    for only, (task, names) in FIGURES.items():
        if found := [row for row in rows.values() if only in row[1]]:
            yield from table(task, names, found, changed)
    if changed:
        again = " ".join(f"evaluate@{name}" for name in changed)
        yield f"* params.yaml, code or data have changed since: `dvc repro {again}`"
    yield from lacking.values()


def table(task: str, names: Sequence[str], rows: Sequence[Row], changed: Sequence[str]) -> Iterator[str]:
    """The lines of one task's table, and an empty one. changed: names of results to mark."""
    import pandas as pd

    settings = pd.DataFrame([same[0].settings() for same, _ in rows]).fillna("-")
    whole = settings.loc[:, settings.nunique() > 1]
    labels = [", ".join(f"{each.name}*" if each.name in changed else each.name for each in same) for same, _ in rows]
    commits = [next((each.commit[:7] for each in same if each.commit), "") for same, _ in rows]
    whole.insert(0, task, [label.ljust(max(map(len, labels))) for label in labels], allow_duplicates=True)
    whole.insert(1, "commit", commits, allow_duplicates=True)
    for name in names:
        whole.insert(len(whole.columns), name, [f"{figures[name]:.3f}" for _, figures in rows], allow_duplicates=True)
    width = shutil.get_terminal_size((120, 0)).columns
    yield from whole.to_string(index=False, justify="left", line_width=width).splitlines()
    yield ""


def show(experiment: Id) -> None:
    """Print an experiment, and its test metrics before the first step and after each, as `compare` does."""
    log = Log()
    found = log[experiment]
    print("\n".join(log.lines[found.heading : found.end]))
    steps = {f"{experiment}.{number}": step.commit for number, step in found.steps.items() if step.commit}
    if steps:
        name, commit = next(iter(steps.items()))
        with opened() as repo:
            results = [named(repo, each) for each in steps]
            start = before(name, f"{commit}~1")
            stages = lock_at(start)
            if f"evaluate@{experiment}" in stages:
                results.insert(0, Result(repo, "before", experiment, start, stages))
            print("", *tables(results), sep="\n")


def compare(
    names: Annotated[list[str] | None, typer.Argument(help="e001, e001.2 of the log, e001@REVISION or @RUN")] = None,
    out: Annotated[Path, typer.Option(help="page to write if there are two names or more")] = PAGE,
) -> None:
    """Print what was evaluated: the settings that differ, and the test metrics. Two names or more also get a page."""
    with opened() as repo:
        found = [named(repo, name) for name in names] if names else all_results(repo)
        print("\n".join(tables(found)) or "nothing was evaluated yet; `dvc repro`")
        if names and len(names) > 1:
            from Models.experimenting.comparison import write_comparison  # not above: it needs torch

            write_comparison(found, out)
