"""A training from its parameters to its results: what the command Models.train does."""

import functools
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from Datasets.format.curated import Curated
from Datasets.format.proposal import propose_for, rate
from Datasets.tools.atomic import write_text
from Datasets.tools.errors import UserError
from Models.learning import hardware, scripts, weights
from Models.learning.augmentation import check_augmentation
from Models.learning.data_loading import Samples
from Models.learning.hardware import is_first
from Models.learning.metrics import validate
from Models.learning.options import Keep, Options
from Models.learning.training import Row, State, checkpoint_path, parameter_groups, train
from Models.learning.weights import Initial, Run

STAGE = Path("Models/train.py")  # imports all code that a training depends on, except the model script
RESULTS = ("weights.safetensors", "run.json", "metrics.json")


@dataclass(frozen=True)
class Work:
    """A training to do.

    network: with its initial weights. groups: of its parameters, for AdamW. run: what run.json will hold. checkpoint:
    its file.
    """

    network: nn.Module
    groups: list[dict[str, Any]]
    samples: Samples
    validation: Samples
    options: Options
    run: Run
    checkpoint: Path


def prepare(script: str, helpers: Path, model: Sequence[str], curated: Path, init: Path, options: Options) -> Work:
    """Read, check and build all that a training needs; the arguments are those of Models.train. Raises UserError."""
    module = scripts.load_script(script)
    scripts.check_helpers(script, helpers)
    arguments = scripts.parse_build_arguments(module.build, model)
    data = Curated(curated)
    check_augmentation(options, module.TASK)
    hardware.set_up_torch(options.threads, options.deterministic, options.seed)
    precision = hardware.resolve_precision(options.precision, options.device)
    options = replace(options, precision=precision, processes=hardware.count())
    options = replace(options, **(unset := what_data_suggest(options, data, module.TASK)))
    scripts.check_size(module, options.size)
    samples, validation = (Samples(data, split, options.size, module.TASK) for split in ("train", "val"))
    shown = {tuple(sorted(record["labels"] or ())) for record in samples.records}
    if module.TASK == "labels" and len(shown) == 1:
        problem = f"all images of the split train show {' and '.join(*shown)}: there is nothing to tell apart"
        raise UserError(f"{curated}: {problem}; add images of another class, or some that show none")
    arguments |= scripts.arguments_of_data(module.build, arguments, samples)
    initial = weights.read_initial(init)
    classes, versions = list(data.classes), scripts.library_versions(module)
    origin = initial.origin if initial else None
    run = Run(script, arguments, asdict(options), classes, data.fingerprint(), origin, versions)
    network, groups, lines = begin(run, options, initial)
    scripts.check_outputs(module, network, options.size, len(classes))
    chosen = [f"{name} {value:g}, by the data" for name, value in unset.items()]
    for line in [*chosen, *lines]:
        print(line, file=sys.stderr)
    checkpoint = checkpoint_path(asdict(run), [STAGE, scripts.script_file(script)], scripts.ROOT, run.data)
    return Work(network, groups, samples, validation, options, run, checkpoint)


def begin(run: Run, options: Options, initial: Initial | None) -> tuple[nn.Module, list[dict[str, Any]], list[str]]:
    """The network with its initial weights, the groups of its parameters, and lines that report what was loaded."""
    module = scripts.load_script(run.script)
    network = scripts.build_model(module, len(run.classes), run.build)
    loaded, lines = weights.start_from(network, initial, run.classes, module) if initial else ([], [])
    own = getattr(module, "parameter_groups", None)
    groups = own(network, options.learning_rate) if own else parameter_groups(network, options, loaded)
    return network, groups, lines


def what_data_suggest(options: Options, data: Curated, task: str) -> dict[str, Any]:
    """Values for those of the options that are 0 and may be, by name."""
    records = [record for record in data.records("train", masks=False) if record[task] is not None]  # type: ignore[literal-required]
    proposed = propose_for(records, data.classes)._asdict()
    unset = {name: proposed[name] for name in ("size", "epochs", "batch") if not getattr(options, name)}
    if not options.learning_rate:
        unset["learning_rate"] = rate(unset.get("batch", options.batch))
    return unset


def learn(work: Work, out: Path) -> None:
    """Train, in each of the processes; the first writes the results."""
    for name in RESULTS if is_first() else ():
        (out / name).unlink(missing_ok=True)  # so that a killed training never looks like a complete one
    on_val = functools.partial(validate, samples=work.validation, batch=work.options.batch)
    report = functools.partial(write_history, path=out / "history.tsv")
    state = train(work.network, work.samples, work.options, on_val, work.checkpoint, report, work.groups)
    if is_first():
        write_results(state, work.run, out)
        shutil.rmtree(work.checkpoint.parent, ignore_errors=True)


def write_history(rows: Sequence[Row], path: Path) -> None:
    """Write one row per epoch as tab-separated values with a header, as `dvc plots` reads them."""
    lines = [list(rows[0]) if rows else ["step"], *([f"{value:.8g}" for value in row.values()] for row in rows)]
    write_text(path, "".join("\t".join(line) + "\n" for line in lines))


def write_results(state: State, run: Run, out: Path) -> None:
    """Write the weights, what they were made from and, last, the metrics of the epoch that `keep` names."""
    kept: dict[str, Any] = {"epoch": state.history[-1]["epoch"], "model": state.result.state_dict()}
    if run.train["keep"] == Keep.best and state.best:
        kept = state.best
    weights.write_weights(kept["model"], out / "weights.safetensors")
    weights.write_json(asdict(run), out / "run.json")
    row = next(row for row in state.history if row["epoch"] == kept["epoch"])
    weights.write_json({name: row[name] for name in row if name != "learning_rate"}, out / "metrics.json")
