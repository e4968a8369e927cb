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
from pathlib import Path
from typing import Annotated

import typer

from Datasets.tools.command import run as run_command
from Datasets.tools.errors import UserError
from Models.experimenting.log import Log, paragraph, read_text, write_text

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "EXPERIMENTS.md"
JOURNAL = ROOT / "NOTES.md"

Id = Annotated[str, typer.Argument(help="id of the experiment: e001", show_default=False)]


def new(
    experiment: Id,
    title: Annotated[str, typer.Argument(help="what is tried, in some words", show_default=False)],
    step: Annotated[list[str] | None, typer.Option(help="one thing to try; repeat it for more")] = None,
) -> None:
    """Begin an experiment in EXPERIMENTS.md."""
    log = Log(LOG)
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
    log = Log(LOG)
    if journal:
        link = f"[{name[0]}]({LOG.name}#{log[name[0]].anchor()}): " if name else ""
        add_to_journal(link + paragraph(text))
    else:
        log.add_note(name[0], text)
        log.write()


def add_to_journal(entry: str) -> None:
    """Add an entry at the journal's end, under the day's heading."""
    text = read_text(JOURNAL, "# Notes\n")
    today = str(date.today())
    days = re.findall(r"^## (\S+)", text, re.MULTILINE)
    heading = "" if days[-1:] == [today] else f"\n## {today}\n"
    write_text(JOURNAL, f"{text.rstrip()}\n{heading}\n{entry}\n")


def conclude(
    experiment: Id, text: Annotated[str, typer.Argument(help="what came of it, in one paragraph", show_default=False)]
) -> None:
    """Add a dated conclusion to an experiment, and close it."""
    log = Log(LOG)
    log.add_conclusion(experiment, text)
    log.write()


def list_(open_only: Annotated[bool, typer.Option("--open", help="only those without a conclusion")] = False) -> None:
    """List the experiments: id, state, steps done, title."""
    for each in Log(LOG).experiments.values():
        if each.state == "open" or not open_only:
            steps = f"{sum(step.done for step in each.steps.values())}/{len(each.steps)}"
            print(f"{each.id}  {each.state:9}  {steps:>5}  {each.title}")


def show(experiment: Id) -> None:
    """Print an experiment, and its steps' metrics on the test split beside those from before the first step."""
    from Models.experimenting.run import compared_steps

    log = Log(LOG)
    found = log[experiment]
    print("\n".join(log.lines[found.heading : found.end]))
    if lines := compared_steps(ROOT, found):
        print("\n" + "\n".join(lines))


def run(
    step: Annotated[str, typer.Argument(help="experiment and step: e001.1", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", help="KEY=VALUE: change params.yaml, as `dvc exp run -S` does; repeat it for more"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="add untracked files to the commit without asking")] = False,
) -> None:
    """Commit the work, run the pipeline, commit its results, and tick the step."""
    from Models.experimenting.run import run_step

    run_step(ROOT, LOG, step, set_ or [], yes)


def try_(
    experiments: Annotated[list[str], typer.Argument(help="ids of experiments in params.yaml", show_default=False)],
    curated: Annotated[Path, typer.Option(help="curated dataset")] = ROOT / "Datasets/curated",
) -> None:
    """Train, evaluate and export on a few batches in a temporary directory, recording nothing."""
    from Models.experimenting.checks import try_experiments

    try_experiments(ROOT, experiments, curated)


def drift(experiment: Id) -> None:
    """Check whether today's code still builds what was exported: compare the scripts and the answers to the samples."""
    from Models.experimenting.checks import check_drift

    check_drift(ROOT, experiment)


if __name__ == "__main__":
    run_command(new, note, try_, run, conclude, list_, show, drift)
