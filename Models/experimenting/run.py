"""One step of an experiment: commit the work, run the pipeline, commit its results, tick the step in the log."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from Datasets.tools.atomic import editing, locked
from Datasets.tools.command import end_with_parent
from Datasets.tools.errors import UserError, one_line
from Models.experimenting.log import LOG, ROOT, Experiment, Id, Log

if TYPE_CHECKING:
    import pandas as pd


def run(
    step: Annotated[str, typer.Argument(help="experiment and step: e001.1", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", help="KEY=VALUE: change params.yaml, as `dvc exp run -S` does; repeat it for more"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="add untracked files to the commit without asking")] = False,
) -> None:
    """Commit the work, run the pipeline, commit its results, and tick the step."""
    text = Log().open_step(step).text
    with alone():
        check_ready()  # all that can be checked, before anything changes
        new = files_to_add(yes)
        if set_:
            set_parameters(set_)
        commit_work(new, f"[{step}] before: {text}", [f"-S {each}" for each in set_ or []])
        reproduce(step)
        lines = compared_with_before(step)
        commit = commit_file("dvc.lock", f"[{step}] results: {text}", lines)
        with editing(LOG):
            log = Log()  # as it is now: people may have written in it during the run
            log.tick(log.open_step(step), commit)
        commit_file(LOG.name, f"[{step}] log")
    print("\n".join([f"{step} is done: {commit}", *lines]))


def alone() -> AbstractContextManager[None]:
    """What holds other steps off, and whatever else changes params.yaml with dvc.lock: they would share parameters."""
    return locked(ROOT / ".dvc/tmp/experiment", ROOT / "dvc.lock")


def show(experiment: Id) -> None:
    """Print an experiment, and its steps' metrics on the test split beside those from before the first step."""
    log = Log()
    found = log[experiment]
    print("\n".join(log.lines[found.heading : found.end]))
    if lines := compared_steps(found):
        print("\n" + "\n".join(lines))


def set_parameters(changes: Sequence[str]) -> None:
    """Change params.yaml as `dvc exp run -S` does. Raises UserError, leaving the file as it is, if DVC refuses."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    try:
        apply_overrides(ROOT / "params.yaml", list(changes))
    except DvcException as error:
        reason = one_line(error.__cause__ or error)
        missing = re.match(r"Could not override '([^']+)'", reason)
        added = [f"; `-S +{each}` adds it" for each in changes if missing and each.startswith(f"{missing[1]}=")]
        raise UserError(f"params.yaml: {reason}{''.join(added)}") from error


def git(*words: str, stdin: str = "") -> str:
    """The output of a git command. Raises UserError with git's message, or its hook's, if it fails."""
    command = ["git", *words]
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UserError(f"git {words[0]}: {(done.stderr.strip() or done.stdout.strip()).removeprefix('fatal: ')}")
    return done.stdout


def check_ready() -> None:
    """Raises UserError if no commit can be made: no repository, branch or identity, or unresolved conflicts."""
    if not git("branch", "--show-current").strip():
        remedy = "finish the rebase, or `git switch -c NAME`"
        raise UserError(f"git: HEAD is detached: no branch would have the results; {remedy}")
    if git("ls-files", "--unmerged"):
        raise UserError("git: a merge is underway; resolve its conflicts, or `git merge --abort`")
    git("var", "GIT_COMMITTER_IDENT")


def files_to_add(yes: bool) -> list[str]:
    """The untracked files that the commit of the work takes along; asks for them on a terminal."""
    listed = git("ls-files", "--others", "--exclude-standard", "-z").split("\0")
    new = [name for name in listed if name not in ("", "dvc.lock")]
    if not new or yes:
        return new
    shown = ", ".join(new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
    if not sys.stdin.isatty():
        raise UserError(f"untracked files: {shown}; --yes adds them to the commit, .gitignore keeps them out")
    return new if typer.confirm(f"Untracked files: {shown}. Add them to the commit?") else []


def commit_work(new: Sequence[str], subject: str, body: Sequence[str]) -> None:
    """Commit all changes and the files of `new`, unless the last commit is that of an earlier attempt at the step.

    Its dvc.lock is without the stages that are due: their figures are those of other parameters.
    """
    git("add", "--update", "--", ".")
    if new:
        git("add", "--", *new)
    if (ROOT / "dvc.lock").exists():
        blob = git("hash-object", "-w", "--stdin", stdin=lock_without(stages_due()))
        git("update-index", "--add", "--cacheinfo", f"100644,{blob.strip()},dvc.lock")
    changed = git("status", "--porcelain", "--untracked-files=no")
    if changed or git("log", "-1", "--format=%s").strip() != subject:
        git("commit", "--quiet", "--allow-empty", "-m", subject, "-m", "\n".join(body))


def stages_due() -> set[str]:
    """The stages that are out of date, and those that come after them."""
    from dvc.repo import Repo
    from networkx import ancestors  # type: ignore[import-untyped]

    with Repo(str(ROOT)) as repo, repo.lock:
        due = [stage for stage in repo.index.stages if stage.cmd and stage.changed()]
        return {each.addressing for stage in due for each in (stage, *ancestors(repo.index.graph, stage))}


def lock_without(stages: Iterable[str]) -> str:
    """The text of dvc.lock without some stages."""
    text = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    for name in stages:
        text = re.sub(rf"^  {re.escape(name)}:\n(    .*\n)*", "", text, flags=re.MULTILINE)
    return text if re.search(r"^stages:\n  ", text, re.MULTILINE) else text.replace("stages:\n", "stages: {}\n")


def commit_file(name: str, subject: str, body: Sequence[str] = ()) -> str:
    """Commit one file, whatever else has changed, and return the commit's short hash."""
    git("add", "--", name)
    git("commit", "--quiet", "--allow-empty", "-m", subject, "-m", "\n".join(body), "--only", "--", name)
    return git("rev-parse", "--short", "HEAD").strip()


def reproduce(name: str) -> None:
    """Run `dvc repro`. Raises UserError if it fails, and KeyboardInterrupt if it is interrupted."""
    command = [sys.executable, "-m", "dvc", "repro"]
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=end_with_parent)
    resume = f"{name} is not ticked; `python -m Models.experiment run {name}` continues where it stopped"
    try:
        code = process.wait()
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit):  # Ctrl-C reaches DVC and its stage, too, but SIGTERM does not
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
        process.wait()
        print(resume, file=sys.stderr)
        raise
    if code:
        raise UserError(f"{name} failed, see above; {resume}")


def compared_with_before(name: str) -> list[str]:
    """A table of the metrics that the step changed."""
    figures = metrics_since({"before": base(name), name: "workspace"})
    changed = figures[figures[name].notna() & (figures[name] != figures["before"])]
    return table(changed) if len(changed) else ["no metric changed"]


def compared_steps(experiment: Experiment) -> list[str]:
    """A table of the test metrics before the first done step and after each; empty without a done step."""
    done = {f"{experiment.id}.{number}": step.commit for number, step in experiment.steps.items() if step.commit}
    if not done:
        return []
    name, first = next(iter(done.items()))
    commits = {"before": base(name, f"{first}~1")}
    commits |= {name: git("rev-parse", f"{commit}^{{commit}}").strip() for name, commit in done.items()}
    figures = metrics_since(commits).filter(regex=r"^Models/outputs/.*/evaluate/metrics\.json:[^.]+$", axis=0)
    if figures.empty:
        return ["no metrics of these commits are in DVC's cache; `dvc pull --all-commits` may fetch them"]
    return table(figures.sort_index())


def base(name: str, last: str = "HEAD") -> str:
    """The commit that a step's results are compared with: that of its first attempt since other results, or `last`.

    A later attempt's commit may hold the dvc.lock of one that ended halfway.
    """
    found = git("rev-parse", last).strip()
    for line in git("log", "--first-parent", "--format=%H %s", last).splitlines():
        commit, _, subject = line.partition(" ")
        if re.match(r"\[e\d+\.\d+\] results: ", subject):
            break
        found = commit if subject.startswith(f"[{name}] before: ") else found
    return found


def metrics_since(commits: Mapping[str, str]) -> "pd.DataFrame":
    """As metrics_at; figures that the commit `before` has not, as their stages were due, are those of its parent."""
    parent = git("rev-list", "--parents", "-n1", commits["before"]).split()[1:2]
    figures = metrics_at({**commits, "parent": (parent or [commits["before"]])[0]})
    figures["before"] = figures["before"].fillna(figures.pop("parent"))
    return figures


def metrics_at(commits: Mapping[str, str]) -> "pd.DataFrame":
    """The numbers in the metrics files of commits, or of "workspace", except files that DVC's cache lacks.

    A column for each of `commits`; a row for each number, called FILE:NAME, names within names joined by dots.
    """
    import pandas as pd
    from dvc.repo import Repo
    from dvc.utils.flatten import flatten

    logging.getLogger("dvc").setLevel(logging.ERROR)
    with Repo(str(ROOT)) as repo:
        shown = repo.metrics.show(revs=list(dict.fromkeys(commits.values())), hide_workspace=False)
    columns = {}
    for name, commit in commits.items():
        files = shown.get(commit, {}).get("data", {})
        flat = {file: flatten(result.get("data") or {}) for file, result in sorted(files.items())}
        pairs = [(f"{file}:{key}", value) for file, values in flat.items() for key, value in values.items()]
        columns[name] = pd.Series({key: value for key, value in pairs if type(value) in (int, float)}, dtype=float)
    return pd.DataFrame(columns)


def table(figures: "pd.DataFrame") -> list[str]:
    """A line for each metric, a column for each state; from the second on with the difference to the first."""
    cells = figures.map("{:.6g}".format).where(figures.notna(), "-")
    for name in figures.columns[1:]:
        change = figures[name] - figures.iloc[:, 0]
        cells[name] += change.map(" ({:+.4g})".format).where(change.notna(), "")
    cells.index = cells.index.str.removeprefix("Models/outputs/")
    return cells.to_string().splitlines()
