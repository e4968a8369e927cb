"""Train a model script on the curated dataset.

    python -m Models.train --script e001_center_detector --out Models/outputs/e001/train --epochs 20 -- --width 32

What follows `--` goes to the script's build(). Reads Datasets/curated: the split train to learn from, val to measure
after each epoch. Writes into --out: history.tsv (a row per epoch, from the start on), and once complete
weights.safetensors (of the last epoch or the one that was best on val, as --keep says), run.json (what is needed to
build the model again) and, last, metrics.json (the row of that epoch).

Killed and started again, it continues from its checkpoint and ends with the same bytes (Models/learning/training.py).
On two cores the demonstration takes a good minute and reaches a mAP50 of 0.96.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from Datasets.tools.command import options_of, run, with_options
from Datasets.tools.errors import UserError
from Models.learning.options import Options

RANDOM = Path("Datasets/pretrained/random")  # weights


@with_options(options_of(Options))
def main(
    script: Annotated[str, typer.Option(help="name of a model script in Models/, without .py")],
    out: Annotated[Path, typer.Option(help="directory to write to")],
    model: Annotated[list[str] | None, typer.Argument(help="after --, options of the script's build()")] = None,
    helpers: Annotated[Path, typer.Option(help="file or folder with all that it imports")] = Path("Models/backbones"),
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    init: Annotated[Path, typer.Option(help="export's directory or .safetensors file to start from")] = RANDOM,
    **options: Any,
) -> None:
    """Train a model script on the curated dataset."""
    from Models.learning import hardware  # not above: they load torch, and --help does not need it
    from Models.learning.work import learn, prepare

    how = Options(**{**options, "device": hardware.usable_device(options["device"])})
    if how.processes > (how.batch or how.processes):
        raise UserError(f"processes: {how.processes} cannot share the {how.batch} images of a step; raise batch")
    if how.processes > 1 and not hardware.launched():
        hardware.launch(how.processes, how.threads, "Models.train", sys.argv[1:])
        return
    with hardware.joined(how.device):
        learn(prepare(script, helpers, model or [], curated, init, how), out)


if __name__ == "__main__":
    run(main)
