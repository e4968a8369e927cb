"""Compares experiments: in a table of text, and on a page with what tells one model from another."""

from typing import Annotated

import typer

from Models.experimenting.results import all_results, named, opened, tables


def compare(
    names: Annotated[list[str] | None, typer.Argument(help="e001, e001.2 of the log, e001@REVISION or @RUN")] = None,
) -> None:
    """Print experiments, steps of the log and runs of `dvc exp`: the settings that differ, and the test metrics."""
    with opened() as repo:
        found = [named(repo, name) for name in names] if names else all_results(repo)
        print("\n".join(tables(repo, found)) or "nothing was evaluated yet; `dvc repro`")
