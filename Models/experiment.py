"""The experiment log: what was tried, why, on which commit, and what came of it.

    python -m Models.experiment --help

The log is EXPERIMENTS.md, which people may write in: the commands keep what they find.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import typer

from Datasets.format.classes import write_classes
from Datasets.format.curated import Curated
from Datasets.format.proposal import propose_for
from Datasets.format.records import SPLITS
from Datasets.tools.atomic import editing, write_text
from Datasets.tools.command import run as run_command
from Datasets.tools.errors import UserError, one_line
from Datasets.tools.params import with_entry, with_other_name, without_entry, written_entry
from Models.experimenting.log import LOG, PARAMS, ROOT, Id, Log, in_params, paragraph, read_text
from Models.experimenting.results import compare, lock_at, show
from Models.experimenting.run import alone, git, lock_without, opened, run

JOURNAL = ROOT / "NOTES.md"
LOCK = ROOT / "dvc.lock"
TASK = re.compile(r'^TASK = "(\w+)"', re.MULTILINE)
IMAGES = 32  # that `try` trains on
FEW = 8  # that it evaluates on
MADE = [
    "Datasets/pretrained/{}",
    "Deployment/bundles/{}",
    "Deployment/bundles/{}.tar.gz",
    "Deployment/bundles/{}.verification.json",
]


def new(
    experiment: Annotated[str | None, typer.Argument(help="id of the experiment: e001")] = None,
    title: Annotated[str | None, typer.Argument(help="what is tried, in some words")] = None,
    step: Annotated[list[str] | None, typer.Option(help="one thing to try; repeat it for more")] = None,
    task: Annotated[str, typer.Option("--for", help="also write an entry into params.yaml that learns this")] = "",
) -> None:
    """Begin an experiment in EXPERIMENTS.md; with --for boxes, mask, labels or counts, in params.yaml, too."""
    if not task and not (experiment and title):
        raise UserError('new: write `new e004 "what is tried"`, or `new --for boxes`')
    with editing(LOG), editing(PARAMS):
        log, changed = Log(), None
        if task:
            taken = {*in_params("experiments"), *log.experiments}
            number = max((int(each[1:]) for each in taken if each[1:].isdigit()), default=0) + 1
            experiment, title = experiment or f"e{number:03d}", title or f"{task}, with what the data suggest"
            entry = proposed_entry(task)
            changed = with_entry(PARAMS, "experiments", experiment, entry)
            print(f"{PARAMS.name}: experiments has got\n{written_entry(experiment, entry)}", end="")
            print("flip: false if a mirror changes what an image shows (text, digits, left and right)")
        log.add_experiment(str(experiment), str(title), step or [])
        if changed:
            write_text(PARAMS, changed)


def proposed_entry(task: str) -> dict[str, Any]:
    """An entry of params.yaml for a task, as the curated dataset suggests. Raises UserError if nothing can learn it."""
    scripts: dict[str, str] = {}
    for path in sorted(ROOT.glob("Models/e[0-9]*.py")):
        if found := TASK.search(path.read_text("utf-8")):
            scripts.setdefault(found[1], path.stem)
    if task not in scripts:
        raise UserError(f"--for {task}: no script of Models learns it; they learn {', '.join(scripts)}")
    data = Curated(ROOT / "Datasets/curated")
    records = [record for record in data.records("train", masks=False) if record[task] is not None]  # type: ignore[literal-required]
    if not records:
        raise UserError(f"--for {task}: no image of the split train has it")
    proposed = propose_for(records, data.classes)._asdict()
    moved = {"zoom": 0.0 if task in ("counts", "labels") else 0.3, "colour": 0.1}
    ready = "efficientnet_lite0" in in_params("pretrained")
    return {
        "script": scripts[task],
        "helpers": "Models/backbones",
        "init": "efficientnet_lite0" if ready else "random",
        "train": {**proposed, "weight_decay": 0.05, **moved},
        "model": {"backbone": "efficientnet_lite0", "width": 48} if ready else {"backbone": "tiny", "width": 32},
        "export": {"precisions": ["fp32"], "serve": "fp32", "max_loss": 0.01},
    }


def note(
    words: Annotated[list[str], typer.Argument(help="ID TEXT; with --journal, ID is optional", show_default=False)],
    journal: Annotated[bool, typer.Option("--journal", help="add it to NOTES.md, linked to the experiment")] = False,
) -> None:
    """Add a dated note to an experiment, or to the journal."""
    if len(words) != 2 and not (journal and len(words) == 1):
        raise UserError('note: write `note e001 "text"`, the text in quotes')
    *name, text = words
    if not journal:
        with editing(LOG):
            Log().add_note(name[0], text)
        return
    link = f"[{name[0]}]({LOG.name}#{Log()[name[0]].anchor()}): " if name else ""
    with editing(JOURNAL):
        before, today = read_text(JOURNAL, "# Notes\n"), str(date.today())
        days = re.findall(r"^## (\S+)", before, re.MULTILINE)
        heading = "" if days[-1:] == [today] else f"\n## {today}\n"
        write_text(JOURNAL, f"{before.rstrip()}\n{heading}\n{link}{paragraph(text)}\n")


def conclude(experiment: Id, text: Annotated[str, typer.Argument(help="what came of it")]) -> None:
    """Add a dated conclusion to an experiment, and close it."""
    with editing(LOG):
        Log().add_conclusion(experiment, text)


def list_(open_only: Annotated[bool, typer.Option("--open", help="only those without a conclusion")] = False) -> None:
    """List the experiments: id, state, steps done, title."""
    for each in Log().experiments.values():
        if each.state == "open" or not open_only:
            steps = f"{sum(step.done for step in each.steps.values())}/{len(each.steps)}"
            print(f"{each.id}  {each.state:9}  {steps:>5}  {each.title}")


def try_(
    experiments: Annotated[list[str], typer.Argument(help="ids of experiments in params.yaml", show_default=False)],
    curated: Annotated[Path, typer.Option(help="curated dataset")] = ROOT / "Datasets/curated",
) -> None:
    """Train, evaluate and export on a few batches in a temporary directory, recording nothing."""
    from Models.learning.scripts import load_script  # not above: most commands work without torch
    from Models.learning.weights import RANDOM

    curated = curated.resolve()
    with opened() as repo:  # the words of each stage's command, as DVC resolves it
        commands = {stage.addressing: shlex.split(stage.cmd) for stage in repo.index.stages if stage.cmd}
    existing = [name.removeprefix("train@") for name in commands if name.startswith("train@")]
    if unknown := [each for each in experiments if each not in existing]:
        raise UserError(f"params.yaml: has no experiment {unknown[0]!r}; it has: {', '.join(existing) or 'none'}")
    os.environ["PYTHONPATH"] = str(ROOT)  # for the processes of a training
    for experiment in experiments:
        begun = time.monotonic()
        train, evaluate, export = (commands[f"{stage}@{experiment}"] for stage in ("train", "evaluate", "export"))
        options = dict(pairwise(train))
        init = ROOT / options["--init"]
        if not init.exists():
            print(f"{options['--init']}: does not exist yet; trying random weights", file=sys.stderr)
            init = Path(RANDOM)
        end = train.index("--") if "--" in train else len(train)
        train[end:end] = ["--epochs", "1", "--init", str(init)]  # the last of an option counts
        with tempfile.TemporaryDirectory(prefix="fourfold-try-") as directory, chdir(directory):
            os.environ["DVC_ROOT"] = directory  # where checkpoints go
            write_few(curated, Path("Datasets/curated"), load_script(options["--script"]).TASK, IMAGES)
            for words in (train, evaluate, [*export, "--max-loss", "1"]):  # figures of few images say nothing
                run_here(words)
        print(f"{experiment} trains, evaluates and exports: tried in {time.monotonic() - begun:.0f} s, nothing kept")


def write_few(curated: Path, out: Path, task: str, train: int) -> None:
    """Write a curated dataset of FEW images of each split, of the split train so many, with objects if possible."""
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
        run_command(importlib.import_module(module).main)
    except SystemExit as ended:
        if ended.code:
            raise


def drift(experiment: Id) -> None:
    """Check whether today's code still builds what was exported: compare the scripts and the answers to the samples."""
    from Models.exporting.agreement import agreement
    from Models.rebuild import rebuilt_answers

    export = ROOT / "Datasets/pretrained" / experiment
    if not (export / "manifest.json").exists():
        raise UserError(f"{export}/manifest.json: not found; run the export stage, or `dvc pull` it")
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    compare_scripts(export / "script", str(manifest["git"]["commit"]))
    expected = json.loads((export / "sample/expected.json").read_text(encoding="utf-8"))
    try:
        answers = rebuilt_answers(export, [export / "sample" / name for name in expected])
    except Exception as error:  # whatever today's code does with yesterday's weights
        raise UserError(f"{export}: today's code does not build it: {one_line(error)[:300]}") from error
    found = agreement(manifest["task"], expected, answers, manifest["score_threshold"], "today's code")
    differences = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    print(f"{export.relative_to(ROOT)}: today's code answers as exported; largest difference: {differences}")


def compare_scripts(scripts: Path, commit: str) -> None:
    """Print for each exported script whether it is as in the working tree, and as in its commit."""
    for path in sorted(scripts.rglob("*.py")):
        name = path.relative_to(scripts).as_posix()
        exported = path.read_text(encoding="utf-8")
        today = (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else None
        try:
            then = git("show", f"{commit}:./{name}")
        except UserError:
            then = None
        kinds = {None: "not in", exported: "as in"}
        states = [kinds.get(text, "differs from") for text in (today, then)]
        print(f"{name}: {states[0]} the working tree, {states[1]} its commit {commit[:7]}")


@alone()
def remove(experiment: Id) -> None:
    """Remove an experiment from params.yaml and dvc.lock, and what its stages wrote; the log and its script stay."""
    entries = in_params("experiments")
    others = {**in_params("sources"), **in_params("pretrained")}
    stages = [name for name in lock_at("") if name.endswith(f"@{experiment}") and experiment not in others]
    if started := [name for name, entry in entries.items() if entry.get("init") == experiment != name]:
        raise UserError(f"{experiment}: {', '.join(started)} in {PARAMS.name} starts from it; remove that first")
    is_id = re.fullmatch(r"e\d+", experiment)  # else what is deleted could be any folder
    found = delete(experiment, *MADE, "Models/outputs/{}") if is_id else []
    if experiment in entries:
        with editing(PARAMS):
            write_text(PARAMS, without_entry(PARAMS, "experiments", experiment))
        print(f"Models/{entries[experiment]['script']}.py: stays; `git rm` it if no other experiment needs it")
    elif not found and not stages:
        raise UserError(f"{PARAMS}: has no experiment {experiment!r}; it has: {', '.join(entries) or 'none'}")
    if stages:
        write_text(LOCK, lock_without(stages))
    print(f"{experiment} is removed; what it wrote stays in DVC's cache, and the last commit has its entry")


@alone()
def rename(experiment: Id, new: Id) -> None:
    """Give an experiment another id; what it learned stays, and its export and bundle are made again, with the id."""
    entries = in_params("experiments")
    if experiment not in entries or new in entries or not re.fullmatch(r"e\d+", new):
        why = f"there is no {experiment}" if experiment not in entries else f"{new} is taken, or no id"
        raise UserError(f"{PARAMS}: {why}; the experiments are {', '.join(entries) or 'none'}")
    if (ROOT / "Models/outputs" / new).exists():
        raise UserError(f"Models/outputs/{new}: is there already; `python -m Models.experiment remove {new}`")
    with editing(PARAMS):
        write_text(PARAMS, with_other_name(PARAMS, "experiments", experiment, new))
    with editing(LOG):
        write_text(LOG, re.sub(rf"^## {experiment}\b", f"## {new}", read_text(LOG, ""), flags=re.MULTILINE))
    if LOCK.exists():
        made_again = [f"{stage}@{experiment}" for stage in ("review", "export", "package", "verify")]
        write_text(LOCK, re.sub(rf"(?<=[@/]){experiment}\b", new, lock_without(made_again)))
    delete(experiment, *MADE)
    if (ROOT / "Models/outputs" / experiment).exists():
        (ROOT / "Models/outputs" / experiment).rename(ROOT / "Models/outputs" / new)
    print(f"{experiment} is {new} now; next: `dvc repro`, which trains again only what starts from it")


def delete(experiment: str, *places: str) -> list[Path]:
    """Delete what an experiment's stages wrote; returns what there was."""
    found = [ROOT / place.format(experiment) for place in places if (ROOT / place.format(experiment)).exists()]
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


if __name__ == "__main__":
    run_command(new, note, try_, run, conclude, compare, list_, show, drift, rename, remove)
