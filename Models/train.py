"""Train a model script on the curated dataset.

    python -m Models.train --script e001_center_detector --out Models/outputs/e001/train --epochs 20 -- --width 32

What follows `--` goes to the script's build(). Reads Datasets/curated: the split train to learn from, val to measure
after each epoch. Writes into --out: history.tsv (a row an epoch, there from the first on), and once complete
last.safetensors and best.safetensors (of the epoch that was best on val), weights.safetensors (the one of these that
--keep names, which the next stages use), run.json (what is needed to build the model again) and, last, metrics.json
(the row of that epoch).

Killed and started again it goes on where it was, and ends with the same bytes; see
Models/learning/checkpoints.py. On two cores the demonstration takes a good minute and reaches a mAP50 of 0.96.
`--processes 2`, or torchrun, shares each step out:

    torchrun --nproc-per-node 2 -m Models.train --script e001_center_detector --out Models/outputs/e001/train
"""

import csv
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Models.display.trackers import Tracker, check_tracker, open_tracker
from Models.learning.precision import Precision

if TYPE_CHECKING:
    import torch

    from Models.learning.scripts import Run
    from Models.learning.training import Options, Row, State

# Torch (on Linux) reads this when it is imported: threads that spin long while they wait for each other make training
# many times slower as soon as anything else runs on the machine.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA's sums depend on the moment
if "TORCHELASTIC_RUN_ID" in os.environ:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process warns that it found no unused weights

RESULTS = ("weights.safetensors", "best.safetensors", "last.safetensors", "run.json", "metrics.json")


class Keep(StrEnum):
    """Which epoch's weights go on."""

    last = "last"
    best = "best"


def write_history(rows: Sequence["Row"], path: Path) -> None:
    """Write one row an epoch as tab-separated values with a header, the form that `dvc plots` reads."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["step"], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.8g}" for name, value in row.items()} for row in rows)


def write_weights(weights: Mapping[str, "torch.Tensor"], path: Path) -> None:
    """Write all weights and running statistics as safetensors, which has what layers share once for each of them."""
    from safetensors.torch import save_file

    with replacing(path) as partial:
        save_file({name: values.cpu().contiguous().clone() for name, values in weights.items()}, partial)


def main(
    script: Annotated[str, typer.Option(help="name of a model script in Models/, without .py")],
    out: Annotated[Path, typer.Option(help="directory to write to")],
    model: Annotated[list[str] | None, typer.Argument(help="after --, options of the script's build()")] = None,
    helpers: Annotated[
        Path, typer.Option(help="file or folder of Models that holds all that the script imports")
    ] = Path("Models/backbones"),
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    init: Annotated[
        Path, typer.Option(help="weights to start from: an export's directory, or a .safetensors file")
    ] = Path("Datasets/pretrained/random"),
    size: Annotated[
        int, typer.Option(min=32, max=8192, help="pixels of the square's side that images are fitted to")
    ] = 96,
    epochs: Annotated[int, typer.Option(min=1, help="how often each image is seen")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="images in a step")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0, max=1e6, help="highest rate of the one-cycle schedule")] = 6e-3,
    weight_decay: Annotated[float, typer.Option(min=0, max=1e6, help="AdamW's weight decay")] = 0.01,
    flip: Annotated[bool, typer.Option(help="mirror images at random; wrong for digits and letters")] = False,
    zoom: Annotated[float, typer.Option(min=0, max=4, help="scale and shift at random, by up to 1 + zoom")] = 0.25,
    crop: Annotated[float, typer.Option(min=0, max=0.9, help="cut out parts, of sides from 1 - crop to all")] = 0.0,
    colour: Annotated[float, typer.Option(min=0, max=1, help="vary brightness, contrast and saturation")] = 0.0,
    clip: Annotated[float, typer.Option(min=0, max=1e6, help="largest norm of the gradient; 0 sets no limit")] = 10.0,
    patience: Annotated[int, typer.Option(min=0, help="epochs without gain on val after which to stop; 0: never")] = 0,
    keep: Annotated[Keep, typer.Option(help="which weights go on; the schedule ends in its best")] = Keep.last,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of weights, order and augmentation")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads; they decide the last bits")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda; only cpu gives the same bits each time")] = "cpu",
    deterministic: Annotated[bool, typer.Option(help="use only operations that give the same bits each time")] = True,
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where the device has it")] = Precision.fp32,
    processes: Annotated[int, typer.Option(min=1, max=1024, help="that share each step, started by torchrun")] = 1,
    tracker: Annotated[Tracker, typer.Option(help="where to send each epoch's figures as well")] = Tracker.none,
) -> None:
    """Train a model script on the curated dataset."""
    check_tracker(tracker)
    if processes > batch:
        raise UserError(f"processes: {processes} cannot share the {batch} images of a step; raise batch or lower it")
    from Models.learning import distributed as together
    from Models.learning.training import Options

    if processes > 1 and not together.launched():
        together.launch(processes, threads, "Models.train", sys.argv[1:])
        return
    options = Options(
        size=size,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        flip=flip,
        zoom=zoom,
        crop=crop,
        colour=colour,
        clip=clip,
        patience=patience,
        keep=keep.value,
        seed=seed,
        threads=threads,
        device=device,
        deterministic=deterministic,
        precision=precision.value,
    )
    with together.joined(device):
        learn(script, helpers, out, model or [], curated, init, options, tracker)


def learn(
    script: str,
    helpers: Path,
    out: Path,
    model: Sequence[str],
    curated: Path,
    init: Path,
    options: "Options",
    tracker: Tracker,
) -> None:
    """Train, in each of the processes, and write, in the first; the arguments are those of `main`."""
    from Models.learning.checkpoints import remove_checkpoint
    from Models.learning.distributed import is_first
    from Models.learning.preparation import prepared
    from Models.learning.training import train
    from Models.metrics.evaluation import validate

    work = prepared(script, helpers, model, curated, init, options)
    for name in RESULTS if is_first() else ():
        (out / name).unlink(missing_ok=True)  # so that a killed training never looks like a complete one
    parameters = {**work.run.train, **work.run.build}
    track = open_tracker(tracker, parameters, script, work.checkpoint) if is_first() else None

    def report(rows: "list[Row]") -> None:
        write_history(rows, out / "history.tsv")
        if track:
            track(rows)

    on_val = functools.partial(validate, samples=work.validation, batch=options.batch)
    state = train(work.network, work.samples, work.options, on_val, work.checkpoint, report)
    if is_first():
        write_results(state, work.run, out)
        remove_checkpoint(work.checkpoint)


def write_results(state: "State", run: "Run", out: Path) -> None:
    """Write the weights, what they were made from and, last, the metrics of the epoch that goes on."""
    from Models.learning.scripts import write_run

    last: dict[str, Any] = {"epoch": len(state.history), "model": state.model.state_dict()}
    best = state.best or last
    goes_on = best if run.train["keep"] == Keep.best else last
    write_weights(last["model"], out / "last.safetensors")
    write_weights(best["model"], out / "best.safetensors")
    write_weights(goes_on["model"], out / "weights.safetensors")
    write_run(run, out)
    row = state.history[goes_on["epoch"] - 1]
    with replacing(out / "metrics.json") as partial:
        metrics = {name: value for name, value in row.items() if name != "learning_rate"}
        partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
