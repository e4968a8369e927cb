"""The experiment log: what was tried, why, on which commit, and what came of it.

    python -m Models.experiment new e004 "Wider backbone" --step "width 48" --step "width 64"
    python -m Models.experiment note e004 "the heads, too?"      (--journal: into NOTES.md instead)
    python -m Models.experiment try e004 e005                    (trains a few steps, and keeps nothing)
    python -m Models.experiment run e004.1 -S experiments.e004.model.width=48
    python -m Models.experiment conclude e004 "48 is enough"
    python -m Models.experiment list [--open]
    python -m Models.experiment show e004
    python -m Models.experiment drift e004

`COMMAND --help` explains each. The log is EXPERIMENTS.md, which people may write in: the commands keep what they find.
"""

import re
from datetime import date
from typing import Annotated

import typer

from Datasets.tools.command import run as run_command
from Datasets.tools.errors import UserError
from Models.experimenting.checks import drift, try_
from Models.experimenting.log import LOG, ROOT, Id, Log, paragraph, read_text, write_text
from Models.experimenting.run import run, show

JOURNAL = ROOT / "NOTES.md"


def new(
    experiment: Id,
    title: Annotated[str, typer.Argument(help="what is tried, in some words", show_default=False)],
    step: Annotated[list[str] | None, typer.Option(help="one thing to try; repeat it for more")] = None,
) -> None:
    """Begin an experiment in EXPERIMENTS.md."""
    log = Log()
    log.add_experiment(experiment, title, step or [])
    log.write()


def note(
    words: Annotated[list[str], typer.Argument(help="ID TEXT; with --journal, ID is optional", show_default=False)],
    journal: Annotated[bool, typer.Option("--journal", help="add it to NOTES.md, linked to the experiment")] = False,
) -> None:
    """Add a dated note to an experiment, or to the journal."""
    if len(words) != 2 and not (journal and len(words) == 1):
        raise UserError('note: write `note e001 "text"`, the text in quotes')
    *name, text = words
    log = Log()
    if not journal:
        log.add_note(name[0], text)
        log.write()
        return
    link = f"[{name[0]}]({LOG.name}#{log[name[0]].anchor()}): " if name else ""
    before, today = read_text(JOURNAL, "# Notes\n"), str(date.today())
    days = re.findall(r"^## (\S+)", before, re.MULTILINE)
    heading = "" if days[-1:] == [today] else f"\n## {today}\n"
    write_text(JOURNAL, f"{before.rstrip()}\n{heading}\n{link}{paragraph(text)}\n")


def conclude(
    experiment: Id, text: Annotated[str, typer.Argument(help="what came of it, in one paragraph", show_default=False)]
) -> None:
    """Add a dated conclusion to an experiment, and close it."""
    log = Log()
    log.add_conclusion(experiment, text)
    log.write()


def list_(open_only: Annotated[bool, typer.Option("--open", help="only those without a conclusion")] = False) -> None:
    """List the experiments: id, state, steps done, title."""
    for each in Log().experiments.values():
        if each.state == "open" or not open_only:
            steps = f"{sum(step.done for step in each.steps.values())}/{len(each.steps)}"
            print(f"{each.id}  {each.state:9}  {steps:>5}  {each.title}")


if __name__ == "__main__":
    run_command(new, note, try_, run, conclude, list_, show, drift)
