"""One step of an experiment: commit the work, run the pipeline, commit its results, tick the step in the log."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from Datasets.tools.atomic import editing, locked
from Datasets.tools.command import end_with_parent
from Datasets.tools.errors import UserError, one_line, some
from Models.experimenting.log import LOG, ROOT, Log

if TYPE_CHECKING:
    from dvc.repo import Repo


def run(
    step: Annotated[str, typer.Argument(help="experiment and step: e001.1", show_default=False)],
    set_: Annotated[list[str] | None, typer.Option("--set", "-S", help="KEY=VALUE, as of `dvc exp run -S`")] = None,
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
        lines = changed_metrics(step)
        commit = commit_file("dvc.lock", f"[{step}] results: {text}", lines)
        with editing(LOG):
            log = Log()  # as it is now: people may have written in it during the run
            log.tick(log.open_step(step), commit)
        commit_file(LOG.name, f"[{step}] log")
    print("\n".join([f"{step} is done: {commit}", *lines]))


@contextmanager
def alone() -> Iterator[None]:
    """What holds other steps off, and whatever else changes params.yaml with dvc.lock: they would share parameters."""
    with locked(ROOT / ".dvc/tmp/experiment", ROOT / "dvc.lock"):
        yield


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
    if not sys.stdin.isatty():
        raise UserError(f"untracked files: {some(new)}; --yes adds them to the commit, .gitignore keeps them out")
    return new if typer.confirm(f"Untracked files: {some(new)}. Add them to the commit?") else []


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


@contextmanager
def opened() -> Iterator["Repo"]:
    """DVC's repository, its warnings silenced. Raises UserError with DVC's message."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo(str(ROOT)) as repo:
            yield repo
    except DvcException as error:
        raise UserError(f"dvc: {error}") from error


def stages_due() -> set[str]:
    """The stages that are out of date, and those that come after them."""
    from networkx import ancestors  # type: ignore[import-untyped]

    with opened() as repo, repo.lock:
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


def changed_metrics(step: str) -> list[str]:
    """A table of the metrics that a step changed, as `dvc metrics diff` prints it."""
    import pandas as pd
    from dvc.compare import diff_table

    with opened() as repo:
        changed = repo.metrics.diff(a_rev=before(step)).get("diff", {})
    table = diff_table(changed, "Metric", precision=6, a_rev="before", b_rev=step)
    lines = pd.DataFrame(list(table), columns=table.keys()).to_string(index=False).splitlines()
    return lines if changed else ["no metric changed"]


def before(step: str, last: str = "HEAD") -> str:
    """The commit before a step's first attempt since other results; `last` if there was none."""
    first, lines = -1, git("log", "--first-parent", "--format=%H %s", last).splitlines()
    for number, line in enumerate(lines):
        subject = line.partition(" ")[2]
        if re.match(r"\[e\d+\.\d+\] results: ", subject):
            break
        first = number if subject.startswith(f"[{step}] before: ") else first
    return lines[min(first + 1, len(lines) - 1)].partition(" ")[0]
