"""The experiment log: a Markdown file that people write in, and commands add to.

An experiment is a section. What is fixed is its heading, the line that starts with `State:`, and its steps, a numbered
list of boxes; a done step ends with the commit of its results in brackets. Everything else is free text. Each change
returns the whole text with some lines added or replaced: the others stay as they are, byte for byte.

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

from Datasets.format.text_files import decode_text
from Datasets.tools.errors import UserError

HEADING = re.compile(r"## (?P<id>e\d+)(?: +(?P<title>.*?))? *$")
NEARLY_HEADING = re.compile(r" {0,3}#{1,2} *[eE]\d+\b")
STATE = re.compile(r"State: (?P<state>open|concluded)\b")
STEP = re.compile(r"(?P<number>\d+)\. \[(?P<box>[ xX])\] (?P<text>.*?)(?: \((?P<commit>[0-9a-f]{7,40})\))? *$")
NEARLY_STEP = re.compile(r" {0,3}\d+[.)] *\[[^\]]{0,2}\](?!\()")  # [1](…) is a link
CONFLICT = re.compile(r"(<<<<<<<|>>>>>>>) ")
CONCLUSIONS = re.compile(r"### Conclusions\b")
START = "# Experiments\n\nThe log that `python -m Models.experiment` adds to; Models/README.md says how.\n"


@dataclass(frozen=True)
class Step:
    """One step of an experiment; line: its index in the text."""

    number: int
    text: str
    done: bool
    commit: str | None
    line: int


@dataclass
class Experiment:
    """One section. Indices of lines: heading, state, and end, the one after its last that is not blank."""

    id: str
    title: str
    heading: int
    state: str = ""
    state_line: int = 0
    end: int = 0
    conclusions: int | None = None
    steps: list[Step] = field(default_factory=list)

    def step(self, number: int) -> Step | None:
        """The step of that number, if there is one."""
        return next((step for step in self.steps if step.number == number), None)


@dataclass(frozen=True)
class Log:
    """The log as it is: its lines with their ends, and what they mean, by id."""

    path: Path
    lines: list[str]
    experiments: dict[str, Experiment]

    def __getitem__(self, name: str) -> Experiment:
        """The experiment of an id. Raises UserError, naming those that there are."""
        if name not in self.experiments:
            there = ", ".join(self.experiments) or "none"
            begin = f'`python -m Models.experiment new {name} "TITLE"` begins it'
            raise UserError(f"{self.path}: has no experiment {name!r}; it has: {there}; {begin}")
        return self.experiments[name]


def read_log(path: Path) -> Log:
    """Read the log; one that does not exist has no experiments. Raises UserError with the line that is unreadable."""
    text = decode_text(path.read_bytes(), path, "utf-8") if path.exists() else START
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    return Log(path, lines, _parse(path, [line.rstrip("\r\n") for line in lines]))


def _parse(path: Path, lines: Sequence[str]) -> dict[str, Experiment]:
    found: dict[str, Experiment] = {}
    current: Experiment | None = None
    fence: tuple[int, str] | None = None
    for index, line in enumerate(lines):
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if mark and (fence is None or line.strip().startswith(fence[1])):
            fence = (index, mark[1]) if fence is None else None
        elif fence is None:
            current = _read_line(path, index, line, found, current)
        if current and line.strip():
            current.end = index + 1
    if fence:
        raise _unreadable(path, fence[0], "opens a block of code that is never closed")
    for experiment in found.values():
        if not experiment.state:
            raise _unreadable(path, experiment.heading, f"{experiment.id} has no line `State: open` or so below it")
    return found


def _read_line(
    path: Path, index: int, line: str, found: dict[str, Experiment], current: Experiment | None
) -> Experiment | None:
    """Take in one line outside code, and return the experiment that the next belongs to."""
    if CONFLICT.match(line):
        raise _unreadable(path, index, "is left of a merge conflict; resolve it first")
    if heading := HEADING.match(line):
        return _begin(path, index, heading, found)
    if NEARLY_HEADING.match(line):
        raise _unreadable(path, index, f"{line.strip()!r} is no heading of an experiment; write `## e001 Title`")
    if re.match(r"#{1,2} ", line):
        return None  # a section of another kind
    if current is None:
        return None
    if line.startswith("State:"):
        _read_state(path, index, line, current)
    elif CONCLUSIONS.match(line):
        current.conclusions = index
    elif NEARLY_STEP.match(line):
        _read_step(path, index, line, current)
    return current


def _begin(path: Path, index: int, heading: re.Match[str], found: dict[str, Experiment]) -> Experiment:
    name = heading["id"]
    if name in found:
        raise _unreadable(path, index, f"{name} is already at line {found[name].heading + 1}; give it another id")
    found[name] = Experiment(name, heading["title"] or "", index)
    return found[name]


def _read_state(path: Path, index: int, line: str, current: Experiment) -> None:
    state = STATE.match(line)
    if not state:
        raise _unreadable(path, index, f"{line.strip()!r}: the state is `State: open` or `State: concluded`")
    if current.state:
        raise _unreadable(path, index, f"{current.id} has its state already at line {current.state_line + 1}")
    current.state, current.state_line = state["state"], index


def _read_step(path: Path, index: int, line: str, current: Experiment) -> None:
    step = STEP.match(line)
    if not step:
        raise _unreadable(path, index, f"{line.strip()!r} is no step; write `1. [ ] what is tried`, [x] once done")
    number, done = int(step["number"]), step["box"] != " "
    if earlier := current.step(number):
        raise _unreadable(path, index, f"step {number} of {current.id} is already at line {earlier.line + 1}")
    current.steps.append(Step(number, step["text"], done, step["commit"], index))


def _unreadable(path: Path, index: int, why: str) -> UserError:
    return UserError(f"{path}: line {index + 1}: {why}")


def with_experiment(log: Log, name: str, title: str, steps: Sequence[str], day: date) -> str:
    """The text with a new experiment at its end. Raises UserError for an id that is taken or none, and for no title."""
    if not re.fullmatch(r"e\d+", name):
        raise UserError(f"{name!r} is no id of an experiment; they are e001, e002 and so on")
    if name in log.experiments:
        raise UserError(f"{log.path}: line {log.experiments[name].heading + 1}: {name} is there already")
    section = [f"## {name} {paragraph(title)}", "", f"State: open, begun {day}"]
    if steps:
        section += ["", *(f"{number}. [ ] {paragraph(step)}" for number, step in enumerate(steps, 1))]
    last = max((index for index, line in enumerate(log.lines) if line.strip()), default=-1)
    return _insert(log, last + 1, ["", *section])


def with_note(log: Log, name: str, text: str, day: date) -> str:
    """The text with a dated note above the experiment's first step, or above its conclusions, or at its end."""
    experiment = log[name]
    places = [experiment.steps[0].line] if experiment.steps else []
    places += [experiment.conclusions] if experiment.conclusions is not None else []
    note = f"- {day}: {paragraph(text)}"
    if not places:
        return _insert(log, experiment.end, [*_gap(log, experiment.end), note])
    before = min(places)
    while before > experiment.heading and not log.lines[before - 1].strip():
        before -= 1
    return _insert(log, before, [*_gap(log, before), note])


def _gap(log: Log, at: int) -> list[str]:
    """A blank line, but between two entries of a list."""
    return [] if log.lines[at - 1].startswith("- ") else [""]


def with_conclusion(log: Log, name: str, text: str, day: date) -> str:
    """The text with a dated conclusion at the experiment's end, and its state set to concluded."""
    experiment = log[name]
    heading = ["", "### Conclusions"] if experiment.conclusions is None else []
    added = [*heading, *_gap(log, experiment.end), f"- {day}: {paragraph(text)}"]
    state = log.lines[experiment.state_line]
    if experiment.state == "open":
        state = state.replace("State: open", f"State: concluded {day}", 1)
    lines = [*log.lines]
    lines[experiment.state_line] = state
    return _insert(Log(log.path, lines, log.experiments), experiment.end, added)


def with_tick(log: Log, name: str, number: int, commit: str) -> str:
    """The text with a step marked as done by a commit."""
    step = log[name].step(number)
    assert step, "the caller has looked for it"
    line = log.lines[step.line]
    ticked = re.sub(r"\[ \]", "[x]", line.rstrip(), count=1) + f" ({commit})" + _newline(log)
    return "".join([*log.lines[: step.line], ticked, *log.lines[step.line + 1 :]])


def paragraph(text: str) -> str:
    """What a user typed, as a paragraph of one line. Raises UserError if nothing is left."""
    line = " ".join(text.split())
    if not line:
        raise UserError("the text is empty")
    return line


def anchor(experiment: Experiment) -> str:
    """The fragment by which Markdown viewers link to its heading."""
    heading = f"{experiment.id} {experiment.title}".strip().lower()
    return re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def _newline(log: Log) -> str:
    return "\r\n" if log.lines and log.lines[0].endswith("\r\n") else "\n"


def _insert(log: Log, at: int, added: Sequence[str]) -> str:
    newline = _newline(log)
    before = "".join(log.lines[:at])
    if before and not before.endswith("\n"):
        before += newline
    return before + "".join(line + newline for line in added) + "".join(log.lines[at:])
