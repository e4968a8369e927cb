"""What the experiment log's commands write, and that they keep what people wrote."""

import datetime
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from Datasets.tools.errors import UserError
from Models.experimenting.log import Log
from tests.template.conftest import copy_code, refused, stage, succeeded

TODAY = datetime.date.today().isoformat()
BY_HAND = """# Our experiments

We log here.  Two trailing spaces:

## e001 Center detector: the first!

State: open, begun 2026-01-02
(Anna)

Some *notes*,
and a table:

| a | b |
|---|---|
| 1 | 2 |

1. [x] width 32 (1a2b3c4)
   with more below it
2. [ ] width 64

```
## e001 this is code, no heading
```

## Ideas

1. [ ] not a step
## e7
State: concluded 2026-01-04, begun 2026-01-03

### Conclusions

Nothing."""


@pytest.fixture
def checkout(tmp_path):
    """The log's command in a folder of its own, with a log that people wrote."""
    copy_code(tmp_path, "Datasets", "Datasets/format", "Datasets/tools", "Models", "Models/experimenting")
    (tmp_path / "EXPERIMENTS.md").write_text(BY_HAND)
    return tmp_path


def log(checkout, *words):
    return stage("Models.experiment", *words, cwd=checkout)


def text(checkout):
    return (checkout / "EXPERIMENTS.md").read_text()


def added(checkout, before):
    """The lines that are new; all lines of before are still there, in their order."""
    left = before.splitlines()
    new = []
    for line in text(checkout).splitlines():
        if left and line == left[0]:
            left.pop(0)
        else:
            new.append(line)
    assert [line for line in left if line] == []
    return [line for line in new if line]


def test_a_first_experiment_makes_the_log(checkout):
    (checkout / "EXPERIMENTS.md").unlink()
    succeeded(log(checkout, "new", "e004", "Wider  backbone", "--step", "width 48", "--step", "width 64"))
    end = f"\n## e004 Wider backbone\n\nState: open, begun {TODAY}\n\n1. [ ] width 48\n2. [ ] width 64\n"
    assert text(checkout).startswith("# Experiments\n") and text(checkout).endswith(end)
    assert log(checkout, "list").stdout == "e004  open         0/2  Wider backbone\n"


def test_a_new_experiment_goes_to_the_end(checkout):
    succeeded(log(checkout, "new", "e008", "Nothing new"))
    assert text(checkout) == f"{BY_HAND}\n\n## e008 Nothing new\n\nState: open, begun {TODAY}\n"


def test_notes_go_above_the_steps_and_gather(checkout):
    succeeded(log(checkout, "note", "e001", "first\nthought"))
    succeeded(log(checkout, "note", "e001", "second"))
    assert added(checkout, BY_HAND) == [f"- {TODAY}: first thought", f"- {TODAY}: second"]
    assert f"| 1 | 2 |\n\n- {TODAY}: first thought\n- {TODAY}: second\n\n1. [x] width 32" in text(checkout)
    succeeded(log(checkout, "note", "e7", "late"))
    assert f"- {TODAY}: late\n\n### Conclusions" in text(checkout)


def test_a_conclusion_closes_the_experiment(checkout):
    succeeded(log(checkout, "conclude", "e001", "32 is enough"))
    assert f"State: concluded {TODAY}, begun 2026-01-02\n(Anna)\n" in text(checkout)
    assert f"```\n\n### Conclusions\n\n- {TODAY}: 32 is enough\n\n## Ideas" in text(checkout)
    succeeded(log(checkout, "conclude", "e7", "really"))
    assert text(checkout).endswith(f"Nothing.\n\n- {TODAY}: really\n")
    assert log(checkout, "list", "--open").stdout == ""
    assert "e001  concluded    1/2" in log(checkout, "list").stdout


def test_show_prints_the_section_alone(checkout):
    assert succeeded(log(checkout, "show", "e7")).stdout == BY_HAND[BY_HAND.index("## e7") :] + "\n"


def test_the_journal_links_to_the_experiment(checkout):
    succeeded(log(checkout, "note", "--journal", "Monday"))
    succeeded(log(checkout, "note", "--journal", "e001", "it works"))
    link = "[e001](EXPERIMENTS.md#e001-center-detector-the-first): it works"
    assert (checkout / "NOTES.md").read_text() == f"# Notes\n\n## {TODAY}\n\nMonday\n\n{link}\n"
    assert text(checkout) == BY_HAND
    refused(log(checkout, "note", "--journal", "e009", "nothing"), "no experiment 'e009'", "e001, e7")


@pytest.mark.parametrize(
    ("old", "new", "line", "part"),
    [
        ("## e7", "## e001 again", 28, "e001 is already at line 5"),
        ("State: open", "State: opne", 5, "e001 has no line `State: open`"),
        ("2. [ ]", "1. [ ]", 19, "step 1 of e001 is already at line 17"),
        ("heading\n```", "heading", 21, "never closed"),
        ("(Anna)", "(J\udcf6rg)", 8, "not UTF-8"),
    ],
)
def test_an_ambiguous_log_is_reported_with_its_line_and_kept(checkout, old, new, line, part):
    damaged = BY_HAND.replace(old, new, 1).encode(errors="surrogateescape")
    (checkout / "EXPERIMENTS.md").write_bytes(damaged)
    refused(log(checkout, "conclude", "e001", "x"), f"EXPERIMENTS.md: line {line}: ", part)
    assert (checkout / "EXPERIMENTS.md").read_bytes() == damaged


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["new", "e001", "x"], "line 5: e001 exists already"),
        (["new", "wide", "x"], "'wide' is not the id"),
        (["new", "e008", "  "], "the text is empty"),
        (["note", "e009", "x"], "no experiment 'e009'; it has: e001, e7"),
        (["note", "e001", "two", "words"], "the text in quotes"),
        (["note", "just text"], "the text in quotes"),
        (["run", "e001"], "'e001' is not a step"),
        (["run", "e001.3"], "e001 has no step 3; it has: 1, 2"),
        (["run", "e001.1"], "line 17: e001.1 is done (1a2b3c4)"),
        (["delete", "e001"], "No such command 'delete'"),
    ],
)
def test_a_mistake_is_reported_in_one_line(checkout, words, part):
    refused(log(checkout, *words), part)
    assert text(checkout) == BY_HAND


WRITTEN = ["## e001 A", "## e002", "State: open", "State: concluded 2026-01-01", "1. [ ] one", "2. [x] two (abcdef0)"]
WRITTEN += ["", "- note", "### Conclusions", "```", "# Other", "## Ideas", "<!-- 1. [ ] -->", "[1](link)", "\t"]
ALPHABET = st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")
LINES = st.lists(st.sampled_from(WRITTEN) | st.text(ALPHABET, max_size=9), max_size=20)


@settings(max_examples=300)
@given(lines=LINES)
def test_whatever_people_wrote_is_kept(lines):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "EXPERIMENTS.md"
        path.write_bytes("\n".join(lines).encode())
        try:
            names = list(Log(path).experiments)
        except UserError:
            return
        changes = [(Log.add_experiment, "e999", "New", ["a"])]
        changes += [(change, name, "text") for name in names for change in (Log.add_note, Log.add_conclusion)]
        for change, *values in changes:
            log = Log(path)
            change(log, *values)
            log.write()
        after = path.read_bytes().decode().split("\n")
        rest = iter(line.replace(f"State: concluded {TODAY}", "State: open") for line in after)
        assert all(line in rest for line in lines), "each line, in its order"
        assert set(Log(path).experiments) == {"e999", *names}
