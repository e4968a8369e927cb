"""What the README says is there, is there."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

from dvc.repo import Repo

from tests.template.conftest import ROOT, stage, succeeded

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {
    path: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "AGENTS.md", *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]
}


def test_the_graph_is_the_pipelines():
    drawn = set()
    for line in README.split("```mermaid")[1].split("```")[0].splitlines():
        names = [re.sub(r"\[.*", "", part).strip() for part in re.split(r"--(?: \".*\" --)?>", line) if part.strip()]
        drawn |= set(pairwise(names))
    graph = Repo(str(ROOT)).index.graph
    stages = {stage: stage.name.split("@") for stage in graph if stage.cmd}
    edges = [(stages[upstream], stages[down]) for down, upstream in graph.edges if {upstream, down} <= set(stages)]
    direct = {(a, b) for (a, *of), (b, *to) in edges if not (of and to) or of == to}  # others start from an export
    longer = {(a, c) for a, b in direct for b2, c in closure(direct) if b == b2}
    assert drawn == direct - longer


def closure(edges: set) -> set:
    """All pairs that are connected by one edge or more."""
    found = set(edges)
    while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= more
    return found


def test_every_file_and_folder_in_the_tree_exists():
    made = {"Datasets/curated", "Data_processing/report.html"}  # by the pipeline
    folder = Path()
    for line in README.split("## What lies where")[1].split("```")[1].strip().splitlines():
        names = re.split(r"\s{3,}", line.strip())[0].split()
        if not line.startswith(" "):
            folder = Path(names[0]) if names[0].endswith("/") else Path()
        paths = [folder / name if line.startswith(" ") else Path(name) for name in names if name != "…"]
        assert paths
        for path in paths:
            assert (ROOT / path).exists() or path.as_posix() in made, line


def test_every_command_that_a_readme_names_has_a_help():
    modules = {
        name
        for text in TEXTS.values()
        for name in re.findall(r"python3? -m ((?:Data|Models|Deploy)\w*(?:\.\w+)+)", text)
    }
    assert len(modules) >= 10
    for module in sorted(modules - {"Models.rebuild"}):
        assert "--" in succeeded(stage(module, "--help")).stdout


def test_the_documented_test_command_is_the_one_that_runs():
    makefile = (ROOT / "Makefile").read_text()
    command = re.search(r"python -m pytest.*", makefile)[0]
    assert command in README
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_every_extra_that_is_installed_exists():
    extras = set(re.search(r"'\.\[(.*?)\]'", README)[1].split(","))
    there = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert extras == there


def quoted(text: str) -> dict[str, set[str]]:
    """What a document shows commands to print: the lines with figures, by what is left of a line without them."""
    found: dict[str, set[str]] = {}
    for block in text.split("```console")[1:]:
        for line in filter(re.compile(r".*\d").match, block.split("```")[0].splitlines()):
            found.setdefault(re.sub(r"\d[\d.]*", "#", line), set()).add(line)
    return found


def test_the_documents_show_one_run_of_the_demonstration():
    packages = [path.read_text(encoding="utf-8") for path in ROOT.glob("*/README.md")]
    here, there = quoted(README), [quoted(text) for text in packages]
    again = {line for text in there for line in text.keys() & here.keys()}
    assert again
    assert [text[line] for text in there for line in again & text.keys() if text[line] != here[line]] == []
    everywhere = "".join([README, *packages])
    assert len(set(re.findall(r"(\d+) test images", everywhere))) == 1
    parts = re.search(r"(\d+) train, (\d+) val, (\d+) test images", everywhere).groups()
    assert sum(map(int, parts)) == int(re.search(r"= (\d+) accepted", README)[1])


def test_every_link_of_a_document_leads_somewhere():
    for path, text in TEXTS.items():
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        assert [link for link in links if not (path.parent / link).exists()] == [], path
