"""Look at a checkout, and say what is wrong and the command that mends it.

    python -m Datasets.tools.doctor [--objects]

Looks at git, the data, the remote, the cache, left-over processes, the queue of experiments and installed versions, and
changes nothing; with --objects, reads all of the cache, too. Exit code 1 if something is wrong.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from Datasets.tools.checks import data, machine, repository
from Datasets.tools.checks.finding import Finding
from Datasets.tools.command import run
from Datasets.tools.errors import UserError, one_line

ROOT = Path(__file__).resolve().parents[2]


def look(root: Path, objects: bool = False) -> Iterator[Finding]:
    """Everything that is found wrong, the most basic first; `objects`: also what the disk has damaged in the cache."""
    yield from repository.check(root)
    yield from machine.check_versions(root)
    yield from machine.check_processes(root)
    if (root / ".git").exists():
        yield from look_with_dvc(root, objects)


def look_with_dvc(root: Path, objects: bool) -> Iterator[Finding]:
    """What DVC knows to be wrong."""
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        return  # check_versions tells
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    checks = [data.check_data, data.check_remote, data.check_cache, machine.check_queue]
    checks += [data.check_objects] if objects else []
    try:
        with Repo(str(root)) as repo:
            for check in checks:
                yield from check(repo)
    except DvcException as error:
        yield Finding(f"dvc: {one_line(error)}{_line(error.__cause__)}", "edit the file that is named")


def _line(cause: BaseException | None) -> str:
    """What a YAML parser found wrong, and in which line; nothing of other causes."""
    mark = getattr(cause, "problem_mark", None)
    return f": line {mark.line + 1}: {getattr(cause, 'problem', '')}" if mark else ""


def main(
    objects: Annotated[bool, typer.Option("--objects", help="also read all of the cache: is it damaged?")] = False,
) -> None:
    """Say what is wrong with this checkout, and how to mend it."""
    findings = list(look(ROOT, objects))
    for finding in findings:
        print(f"{finding.what}\n    {finding.mend}")
    if findings:
        raise UserError(f"{len(findings)} to mend")
    print("nothing found wrong in git, data, remote, cache, processes, queue and versions")


if __name__ == "__main__":
    run(main)
