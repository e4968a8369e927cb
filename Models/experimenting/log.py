"""The experiment log: a Markdown file that people write in and commands add to.

An experiment is a section: a heading, a line that starts with `State:`, and its steps, a numbered list of boxes. A done
step ends with the commit of its results in brackets. Everything else is free text, which the commands keep.

    ## e004 Wider backbone

    State: open, begun 2026-03-01

    1. [x] width 48 (1a2b3c4)
    2. [ ] width 64

    ### Conclusions
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from Datasets.format.files import decode_text
from Datasets.tools.atomic import write_text
from Datasets.tools.errors import UserError
from Datasets.tools.params import parsed, text_of

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "EXPERIMENTS.md"
PARAMS = ROOT / "params.yaml"
Id = Annotated[str, typer.Argument(help="id of the experiment: e001", show_default=False)]  # of the commands
HEADING = re.compile(r"## (?P<id>e\d+)(?: +(?P<title>.*?))? *$")
STATE = re.compile(r"State: (?P<state>open|concluded)\b")
STEP = re.compile(
    r"(?P<number>\d+)\. \[( |(?P<done>[xX]))\] (?P<text>.*?)(?(done)(?: \((?P<commit>[0-9a-f]{7,40})\))?) *$"
)
CODE = re.compile(r"^```.*?^```.*?$", re.MULTILINE | re.DOTALL)
START = "# Experiments\n\nThe log that `python -m Models.experiment` adds to; Models/README.md says how.\n"


@dataclass(frozen=True)
class Step:
    """One step of an experiment; line: its index in the log."""

    text: str
    done: bool
    commit: str | None
    line: int


@dataclass
class Experiment:
    """One section, with its steps by number; the others are indices of lines. end: after its last that is not blank."""

    id: str
    title: str
    heading: int
    state: str = ""
    state_line: int = 0
    conclusions: int = 0
    end: int = 0
    steps: dict[int, Step] = field(default_factory=dict)

    def anchor(self) -> str:
        """The fragment by which Markdown viewers link to the heading."""
        return re.sub(r"[^\w\- ]", "", f"{self.id} {self.title}".strip().lower()).replace(" ", "-")


class Log:
    """The lines of the log, and the experiments in it by id. Each change is written; read the log again after it.

    Raises UserError with the line that is wrong. A missing file is a log without experiments.
    """

    def __init__(self, path: Path = LOG) -> None:
        self.path = path
        text = read_text(path, START)
        self.lines = text.split("\n")
        self.experiments: dict[str, Experiment] = {}
        current: Experiment | None = None
        without_code = CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
        for index, line in enumerate(without_code.split("\n")):
            current = self._read_line(index, line, current)
            if current and self.lines[index].strip():
                current.end = index + 1
        for each in self.experiments.values():
            if not each.state:
                raise self._wrong(each.heading, f"{each.id} has no line `State: open` or `State: concluded`")

    def _read_line(self, index: int, line: str, current: Experiment | None) -> Experiment | None:
        """Read one line outside code, and return the experiment that the next line belongs to."""
        if line.startswith("```"):
            raise self._wrong(index, "opens a block of code that is never closed")
        if heading := HEADING.match(line):
            if same := self.experiments.get(heading["id"]):
                raise self._wrong(index, f"{same.id} is already at line {same.heading + 1}; give this one another id")
            current = Experiment(heading["id"], heading["title"] or "", index)
            self.experiments[current.id] = current
        elif current is None or line.startswith(("# ", "## ")):
            return None
        elif line.startswith("### Conclusions"):
            current.conclusions = index
        elif not current.state and (state := STATE.match(line)):
            current.state, current.state_line = state["state"], index
        elif step := STEP.match(line):
            if earlier := current.steps.get(number := int(step["number"])):
                raise self._wrong(index, f"step {number} of {current.id} is already at line {earlier.line + 1}")
            current.steps[number] = Step(step["text"], bool(step["done"]), step["commit"], index)
        return current

    def _wrong(self, index: int, why: str) -> UserError:
        return UserError(f"{self.path}: line {index + 1}: {why}")

    def __getitem__(self, name: str) -> Experiment:
        """The experiment of an id. Raises UserError if there is none."""
        if name not in self.experiments:
            existing = ", ".join(self.experiments) or "none"
            begin = f'`python -m Models.experiment new {name} "TITLE"` begins it'
            raise UserError(f"{self.path}: has no experiment {name!r}; it has: {existing}; {begin}")
        return self.experiments[name]

    def open_step(self, name: str) -> Step:
        """The step e004.1. Raises UserError if there is none, or if it is done."""
        match = re.fullmatch(r"(e\d+)\.(\d+)", name)
        if not match:
            raise UserError(f"{name!r} is not a step; write e001.1 for the first step of e001")
        steps = self[match[1]].steps
        step = steps.get(int(match[2]))
        if step is None:
            existing = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{self.path}: {match[1]} has no step {match[2]}; it has: {existing}; add it to the list")
        if step.done:
            raise self._wrong(step.line, f"{name} is done ({step.commit or 'no commit'}); add a step for another run")
        return step

    def add_experiment(self, name: str, title: str, steps: Sequence[str]) -> None:
        """Add an experiment at the end. Raises UserError for an id that is taken or malformed."""
        if not re.fullmatch(r"e\d+", name):
            raise UserError(f"{name!r} is not the id of an experiment; they are e001, e002 and so on")
        if name in self.experiments:
            raise self._wrong(self.experiments[name].heading, f"{name} exists already")
        gap = [""] if self.lines[-1] else []
        self.lines += [*gap, f"## {name} {paragraph(title)}", "", f"State: open, begun {date.today()}"]
        if steps:
            self.lines += ["", *(f"{number}. [ ] {paragraph(step)}" for number, step in enumerate(steps, 1))]
        self.write()

    def add_note(self, name: str, text: str) -> None:
        """Add a dated note above the experiment's first step, or above its conclusions, or at its end."""
        experiment = self[name]
        below = [step.line for step in experiment.steps.values()]
        at = min([*below, experiment.conclusions or experiment.end])
        while not self.lines[at - 1].strip():
            at -= 1
        self._insert_entry(at, text)

    def add_conclusion(self, name: str, text: str) -> None:
        """Add a dated conclusion at the experiment's end, and set its state to concluded."""
        experiment = self[name]
        state = self.lines[experiment.state_line]
        self.lines[experiment.state_line] = state.replace("State: open", f"State: concluded {date.today()}", 1)
        at = experiment.end
        if not experiment.conclusions:
            self.lines[at:at] = ["", "### Conclusions"]
            at += 2
        self._insert_entry(at, text)

    def _insert_entry(self, at: int, text: str) -> None:
        gap = [] if self.lines[at - 1].startswith("- ") else [""]
        self.lines[at:at] = [*gap, f"- {date.today()}: {paragraph(text)}"]
        self.write()

    def tick(self, step: Step, commit: str) -> None:
        """Mark a step as done by a commit."""
        self.lines[step.line] = self.lines[step.line].rstrip().replace("[ ]", "[x]", 1) + f" ({commit})"
        self.write()

    def write(self) -> None:
        """Write the lines."""
        write_text(self.path, "\n".join(self.lines if not self.lines[-1] else [*self.lines, ""]))


def in_params(section: str) -> dict[str, Any]:
    """The entries of a section of params.yaml, by name."""
    return parsed(text_of(PARAMS), PARAMS).get(section) or {}


def read_text(path: Path, default: str) -> str:
    """The text of a UTF-8 file with "\n" as line ends, or the default if the file does not exist."""
    return decode_text(path.read_bytes(), path, "utf-8").replace("\r\n", "\n") if path.exists() else default


def paragraph(text: str) -> str:
    """The text of a user as a paragraph of one line. Raises UserError if it is empty."""
    line = " ".join(text.split())
    if not line:
        raise UserError("the text is empty")
    return line
