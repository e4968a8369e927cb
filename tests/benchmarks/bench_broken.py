"""Thousands of broken sources for each importer: none may end in anything but records, problems or a line.

    python -m tests.benchmarks.bench_broken [--cases 10000] [coco voc ...]

The strategies are those of tests/template/Data_processing/test_import_broken.py, which tries a few hundred.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from Datasets.tools.errors import one_line
from tests.benchmarks.measuring import Figure
from tests.template.Data_processing.broken import FORMATS, broken, judge, wholes

CASES = 10_000


def figures(cases: int = CASES, formats: Sequence[str] = FORMATS) -> Iterator[Figure]:
    """Try every importer."""
    with tempfile.TemporaryDirectory() as directory:
        sources = wholes(Path(directory))
    for form in formats:
        started = time.perf_counter()
        tried, fault = attempt(form, sources[form], cases)
        seconds = time.perf_counter() - started
        found = fault or "none ended in a traceback"
        yield Figure(f"{form}: {tried:,} broken sources", "", found, f"{CASES:,} cases", f"{seconds:.0f} s")


def attempt(form: str, files: dict[str, bytes], cases: int) -> tuple[int, str]:
    """The number of cases tried and, if one of them raised what it must not, what that was."""
    tried = 0

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(broken(files))
    def check(damaged: dict[str, bytes]) -> None:
        nonlocal tried
        tried += 1
        judge(form, damaged)

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # warnings, one a case
            check()
    except Exception as error:  # whatever an importer raises is what is looked for
        return tried, f"{type(error).__name__}: {one_line(error)[:200]}"
    return tried, ""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Feed the importers broken sources.")
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--cases", type=int, default=CASES)
    options = parser.parse_args()
    for figure in figures(options.cases, options.formats or FORMATS):
        print(figure, flush=True)


if __name__ == "__main__":
    main()
