"""`dvc repro` that has nothing to do, of the whole project against a project with one stage and nothing else.

python -m tests.benchmarks.bench_repro
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measuring import Figure, alternated, cost
from tests.template.conftest import copy_checkout

DVC = (sys.executable, "-m", "dvc")
STAGE = "stages:\n  only:\n    cmd: echo > made\n    outs: [made]\n"
ROUNDS = 7


def make_whole(directory: Path) -> Path:
    """This project, small, after one `dvc repro`."""
    copy_checkout(directory)
    cost([*DVC, "repro"], directory)
    return directory


def make_empty(directory: Path) -> Path:
    """A project with one stage, after one `dvc repro`."""
    directory.mkdir()
    (directory / "dvc.yaml").write_text(STAGE)
    for command in (["git", "init", "-q"], [*DVC, "init", "-q"], [*DVC, "repro"]):
        cost(command, directory)
    return directory


def compare(whole: Path, empty: Path) -> Figure:
    """Take turns."""
    repro = [*DVC, "repro"]
    found = alternated(ROUNDS, whole=lambda: cost(repro, whole), empty=lambda: cost(repro, empty))
    seconds = found["whole"].seconds / found["empty"].seconds
    processor = found["whole"].processor / found["empty"].processor
    return Figure(
        "dvc repro of the whole project with nothing to do",
        "the same of a project with one stage",
        f"{seconds:.2f} of its time, {processor:.2f} by processor time",
        "below 2",
        f"{found['whole'].seconds:.2f} s against {found['empty'].seconds:.2f} s, medians of {ROUNDS}",
    )


def figures() -> Iterator[Figure]:
    """Make both, and measure."""
    with tempfile.TemporaryDirectory() as temporary:
        yield compare(make_whole(Path(temporary, "whole")), make_empty(Path(temporary, "empty")))


def main() -> None:
    """The command."""
    for figure in figures():
        print(figure)


if __name__ == "__main__":
    main()
