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

import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from Datasets.format.text_files import decode_text
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run as run_command
from Datasets.tools.errors import UserError
from Models.experimenting.log import anchor, paragraph, read_log, with_conclusion, with_experiment, with_note

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before `try` and `drift` import torch; Models/train.py says why

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "EXPERIMENTS.md"
JOURNAL = ROOT / "NOTES.md"

Id = Annotated[str, typer.Argument(help="id of the experiment: e001", show_default=False)]
Text = Annotated[str, typer.Argument(help="one paragraph", show_default=False)]


def write(path: Path, text: str) -> None:
    """Replace a text file, with the line ends that `text` has."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def new(
    experiment: Id,
    title: Annotated[str, typer.Argument(help="what is tried, in some words", show_default=False)],
    step: Annotated[list[str] | None, typer.Option(help="one thing to try; repeat it for more")] = None,
) -> None:
    """Begin an experiment in EXPERIMENTS.md."""
    write(LOG, with_experiment(read_log(LOG), experiment, title, step or [], date.today()))


def note(
    words: Annotated[list[str], typer.Argument(help="ID TEXT; with --journal, ID is optional", show_default=False)],
    journal: Annotated[bool, typer.Option("--journal", help="add it to NOTES.md, linked to the experiment")] = False,
) -> None:
    """Add a dated note to an experiment, or to the journal."""
    if len(words) != 2 and not (journal and len(words) == 1):
        raise UserError('note: write `note e001 "text"`, the text in quotes')
    *name, text = words
    log = read_log(LOG)
    if not journal:
        write(LOG, with_note(log, name[0], text, date.today()))
        return
    link = f"[{name[0]}]({LOG.name}#{anchor(log[name[0]])}): " if name else ""
    write(JOURNAL, with_entry(JOURNAL, link + paragraph(text), date.today()))


def with_entry(journal: Path, entry: str, day: date) -> str:
    """The journal's text with an entry at its end, under the day's heading."""
    text = decode_text(journal.read_bytes(), journal, "utf-8") if journal.exists() else "# Notes\n"
    newline = "\r\n" if "\r\n" in text else "\n"
    days = [line.strip() for line in text.splitlines() if line.startswith("## ")]
    heading = "" if days and days[-1] == f"## {day}" else f"{newline}## {day}{newline}"
    end = "" if not text or text.endswith("\n") else newline
    return f"{text}{end}{heading}{newline}{entry}{newline}"


def conclude(experiment: Id, text: Text) -> None:
    """Add a dated conclusion to an experiment, and close it."""
    write(LOG, with_conclusion(read_log(LOG), experiment, text, date.today()))


def list_experiments(
    open_only: Annotated[bool, typer.Option("--open", help="only those without a conclusion")] = False,
) -> None:
    """List the experiments: id, state, steps done, title."""
    for each in read_log(LOG).experiments.values():
        if each.state == "open" or not open_only:
            steps = f"{sum(step.done for step in each.steps)}/{len(each.steps)}"
            print(f"{each.id}  {each.state:9}  {steps:>5}  {each.title}")


def show(experiment: Id) -> None:
    """Print an experiment, and its steps' metrics on the test split beside those from before the first of them."""
    from Models.experimenting.run import compared

    log = read_log(LOG)
    found = log[experiment]
    print("".join(log.lines[found.heading : found.end]).rstrip())
    if lines := compared(ROOT, found):
        print("\n" + "\n".join(lines))


def run(
    step: Annotated[str, typer.Argument(help="experiment and step: e001.1", show_default=False)],
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-S", help="KEY=VALUE: a change of params.yaml; repeat it for more")
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
    from Models.experimenting.trial import try_experiments

    try_experiments(ROOT, experiments, curated)


def drift(experiment: Id) -> None:
    """Say whether today's code still builds what was exported: compare the scripts, and the answers to the samples."""
    from Models.experimenting.drift import report_drift

    report_drift(ROOT, experiment)


COMMANDS: dict[str, Callable[..., Any]] = {
    "new": new,
    "note": note,
    "conclude": conclude,
    "list": list_experiments,
    "show": show,
    "run": run,
    "try": try_,
    "drift": drift,
}


def main() -> None:
    """Run the command that the first word names."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("--help", "-h"):
        print(__doc__.strip())
    elif word in COMMANDS:
        sys.argv = [f"{sys.argv[0]} {word}", *sys.argv[2:]]
        run_command(COMMANDS[word])
    else:
        print(f"error: there is no command {word!r}; the commands are: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
