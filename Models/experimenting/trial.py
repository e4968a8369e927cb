"""Trying experiments: train, evaluate and export on a few batches, in a temporary directory, recording nothing."""

import importlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from Datasets.format.curated import Curated, write_annotations, write_curated
from Datasets.format.records import SPLITS, Record
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Models.learning.initial_weights import RANDOM
from Models.learning.scripts import load_script

BATCHES = 2
FEW = 8  # images to evaluate on
STAGES = ("train", "evaluate", "export")
PATHS = ("--curated", "--out", "--trained", "--evaluated")  # options that are led elsewhere


def try_experiments(root: Path, experiments: Sequence[str], curated: Path) -> None:
    """Run the stages' own commands, as DVC resolves them, on a few images of `curated`.

    Raises UserError for an experiment that params.yaml does not have; a stage that fails says why itself.
    """
    commands = stage_commands(root, experiments)
    for experiment in experiments:
        begun = time.monotonic()
        try_stages(commands[experiment], curated)
        print(
            f"{experiment} trains, evaluates and exports: tried in {time.monotonic() - begun:.0f} s, and nothing kept"
        )


def try_stages(commands: Mapping[str, list[str]], curated: Path) -> None:
    """Run the commands of one experiment in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="fourfold-try-") as directory:
        place = Path(directory)
        os.environ["DVC_ROOT"] = str(place)  # where checkpoints go
        train = commands["train"]
        task = load_script(option(train, "--script")).TASK
        write_few(Curated(curated), place / "curated", BATCHES * images_of_step(train), task)
        for stage in STAGES:
            run_here(commands[stage], place)


def stage_commands(root: Path, experiments: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Of each experiment the words of the command of each stage."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            commands = {stage.addressing: stage.cmd for stage in repo.index.stages if stage.cmd}
    except DvcException as error:
        raise UserError(f"dvc: {error}") from error
    there = [name.partition("@")[2] for name in commands if name.startswith("train@")]
    for each in experiments:
        if each not in there:
            raise UserError(f"params.yaml: has no experiment {each!r}; it has: {', '.join(there) or 'none'}")
    return {each: {stage: shlex.split(commands[f"{stage}@{each}"]) for stage in STAGES} for each in experiments}


def option(words: Sequence[str], name: str) -> str:
    """The value of an option among the words of a command, empty without it."""
    return words[words.index(name) + 1] if name in words[:-1] else ""


def images_of_step(train: Sequence[str]) -> int:
    """The value of --batch; what is no number, the stage itself refuses."""
    value = option(train, "--batch")
    return int(value) if value.isdigit() else 16


def write_few(curated: Curated, out: Path, train: int, task: str) -> None:
    """Write a curated dataset with the first images of each split, those that `task` can learn most of first."""
    rows = {split: few(curated.records(split), train if split == "train" else FEW, task) for split in SPLITS}
    files = {split: curated.images(split) for split in SPLITS}
    data = {record["image"]: files[split][row] for split in SPLITS for row, record in rows[split]}
    records = {split: [named_in_source(record) for _, record in rows[split]] for split in SPLITS}
    sizes = {split: [len(data[record["image"]]) for _, record in rows[split]] for split in SPLITS}
    out.mkdir()
    list(write_curated(out, records, sizes, lambda record: (data[f"{record['source']}/{record['image']}"], None)))
    write_annotations(out, [record for split in SPLITS for record in records[split]], curated.classes)


def few(records: Sequence[Record], count: int, task: str) -> list[tuple[int, Record]]:
    """At most `count` records with their places: first those with an object in the field `task`, last the unknown."""
    said = [record[task] for record in records]  # type: ignore[literal-required]
    if task == "boxes":
        said = [boxes and [box for box in boxes if not box["crowd"]] for boxes in said]
    return sorted(enumerate(records), key=lambda pair: (said[pair[0]] is None, not said[pair[0]]))[:count]


def named_in_source(record: Record) -> Record:
    """The record with its image's path inside its source."""
    return Record(**{**record, "image": record["image"].removeprefix(f"{record['source']}/")})


def run_here(words: Sequence[str], place: Path) -> None:
    """Run a stage in this process, which saves loading torch again, on what lies in `place`."""
    module = words[words.index("-m") + 1]
    rest = list(words[words.index("-m") + 2 :])
    for index, word in enumerate(rest[:-1]):
        if word == "--init" and not Path(rest[index + 1]).exists():
            print(f"{rest[index + 1]}: not there yet; tried from random weights", file=sys.stderr)
            rest[index + 1] = str(Path(rest[index + 1]).with_name(RANDOM))
        if word in PATHS:
            rest[index + 1] = str(place / ("curated" if word == "--curated" else rest[index + 1]))
    if module == "Models.train":
        end = rest.index("--") if "--" in rest else len(rest)
        rest[end:end] = ["--epochs", "1", "--tracker", "none"]
    sys.argv = [module, *rest]
    try:
        run(importlib.import_module(module).main)
    except SystemExit as ended:
        if ended.code:
            raise
