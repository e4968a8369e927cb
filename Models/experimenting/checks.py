"""Checks of an experiment's code that record nothing.

`try`: does it train, evaluate and export? `drift`: does today's code still build what was exported?
"""

import importlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from Datasets.format.classes import write_classes
from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Datasets.tools.command import run
from Datasets.tools.errors import UserError, one_line
from Models.experimenting.run import git
from Models.export import agreement
from Models.learning.scripts import RANDOM, load_script
from Models.rebuild import rebuilt_answers

BATCHES = 2  # to train on
FEW = 8  # images to evaluate on
STAGES = ("train", "evaluate", "export")


def try_experiments(root: Path, experiments: Sequence[str], curated: Path) -> None:
    """Run the stages' own commands, as DVC resolves them, on a few images of `curated`, in a temporary directory.

    Raises UserError for an experiment that params.yaml does not have; a stage that fails exits with its own message.
    """
    curated = curated.resolve()
    os.environ["PYTHONPATH"] = str(root)  # for the processes of a training
    for experiment, stages in stage_commands(root, experiments).items():
        begun = time.monotonic()
        train = stages["train"]
        batch = option(train, "--batch")
        images = BATCHES * (int(batch) if batch.isdigit() else 16)  # the stage itself refuses what is not a number
        task = load_script(option(train, "--script")).TASK
        train[train.index("--init") + 1] = available(root, option(train, "--init"))
        end = train.index("--") if "--" in train else len(train)
        train[end:end] = ["--epochs", "1"]
        with tempfile.TemporaryDirectory(prefix="fourfold-try-") as directory, chdir(directory):
            os.environ["DVC_ROOT"] = directory  # where checkpoints go
            write_few(curated, Path("Datasets/curated"), task, images)
            for stage in STAGES:
                run_here(stages[stage])
        print(f"{experiment} trains, evaluates and exports: tried in {time.monotonic() - begun:.0f} s, nothing kept")


def available(root: Path, init: str) -> str:
    """The weights to start from: random ones where those of the experiment are not there yet."""
    path = root / init
    if path.exists():
        return str(path)
    print(f"{init}: does not exist yet; trying random weights", file=sys.stderr)
    return RANDOM


def stage_commands(root: Path, experiments: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """The words of each stage's command, by experiment and stage."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            commands = {stage.addressing: stage.cmd for stage in repo.index.stages if stage.cmd}
    except DvcException as error:
        raise UserError(f"dvc: {error}") from error
    existing = [name.partition("@")[2] for name in commands if name.startswith("train@")]
    for each in experiments:
        if each not in existing:
            raise UserError(f"params.yaml: has no experiment {each!r}; it has: {', '.join(existing) or 'none'}")
    return {each: {stage: shlex.split(commands[f"{stage}@{each}"]) for stage in STAGES} for each in experiments}


def option(words: Sequence[str], name: str) -> str:
    """The value of an option in a command, empty without it."""
    return words[words.index(name) + 1] if name in words[:-1] else ""


def write_few(curated: Path, out: Path, task: str, train: int) -> None:
    """Write a curated dataset of a few images of each split, with objects if there are any.

    train: number of images in the split train.
    """
    classes = Curated(curated).classes
    out.mkdir(parents=True)
    write_classes(classes, out / "classes.json")
    known = ds.field(task).is_valid()
    learnable = known if task == "mask" else pc.list_value_length(ds.field(task)) > 0
    for split in SPLITS:
        images = ds.dataset(sorted(curated.glob(f"{split}-*.parquet")))
        count = train if split == "train" else FEW
        rows = images.head(count, filter=learnable)
        pq.write_table(rows if len(rows) else images.head(count, filter=known), out / f"{split}-00000-of-00001.parquet")


def run_here(words: Sequence[str]) -> None:
    """Run the command `python -m MODULE ...` in this process, which saves loading torch again."""
    _, _, module, *options = words
    sys.argv = [module, *options]
    try:
        run(importlib.import_module(module).main)
    except SystemExit as ended:
        if ended.code:
            raise


def check_drift(root: Path, experiment: str) -> None:
    """Compare an export's scripts with the working tree's and their commit's, and its answers with today's code's.

    Prints what differs. Raises UserError if there is no export, or today's code does not answer as it did.
    """
    export = root / "Datasets/pretrained" / experiment
    if not (export / "manifest.json").exists():
        raise UserError(f"{export}/manifest.json: not found; run the export stage, or `dvc pull` it")
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    compare_scripts(root, export / "script", str(manifest["git"]["commit"]))
    expected = json.loads((export / "sample/expected.json").read_text(encoding="utf-8"))
    try:
        answers = rebuilt_answers(export, [export / "sample" / name for name in expected])
    except Exception as error:  # whatever today's code does with yesterday's weights
        raise UserError(f"{export}: today's code does not build it: {one_line(error)[:300]}") from error
    found = agreement(manifest["task"], expected, answers, manifest["score_threshold"], "today's code")
    differences = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    print(f"{export.relative_to(root)}: today's code answers as exported; largest difference: {differences}")


def compare_scripts(root: Path, scripts: Path, commit: str) -> None:
    """Print for each exported script whether it is as in the working tree, and as in its commit."""
    for path in sorted(scripts.rglob("*.py")):
        name = path.relative_to(scripts).as_posix()
        today = (root / name).read_text(encoding="utf-8") if (root / name).exists() else None
        try:
            then = git(root, "show", f"{commit}:./{name}")
        except UserError:
            then = None
        exported, states = path.read_text(encoding="utf-8"), []
        for text, where in ((today, "the working tree"), (then, f"its commit {commit[:7]}")):
            states.append("not in" if text is None else "as in" if text == exported else "differs from")
            states[-1] += f" {where}"
        print(f"{name}: {', '.join(states)}")
