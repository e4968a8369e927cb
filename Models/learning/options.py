"""The options of a training. Nothing here loads torch, so that the command line answers at once."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from typer import Option

# fp32: the same bits each time on a CPU. bf16: multiplications in bfloat16, weights in float32
Precision = StrEnum("Precision", ["fp32", "bf16", "auto"])
Keep = StrEnum("Keep", ["last", "best"])  # which epoch's weights the next stages use


@dataclass(frozen=True)
class Options:
    """All that decides the result of a training beside code and data: options of the command line."""

    size: Annotated[int, Option(min=0, max=8192, help="side of the letterboxed square, in pixels; 0: by the data")] = 0
    epochs: Annotated[int, Option(min=0, help="how often each image is seen; 0: by the data")] = 0
    batch: Annotated[int, Option(min=0, help="images in a step; 0: by the data")] = 0
    accumulate: Annotated[int, Option(min=1, help="parts of a step, one after another, to save memory")] = 1
    learning_rate: Annotated[float, Option(min=0, max=1e6, help="highest, of one cycle; 0: by the batch")] = 0.0
    init_rate: Annotated[float, Option(min=0, max=1, help="share of it for weights that init gave")] = 0.2
    weight_decay: Annotated[float, Option(min=0, max=1e6, help="AdamW's weight decay")] = 0.01
    flip: Annotated[bool, Option(help="mirror images at random; wrong for digits and letters")] = False
    zoom: Annotated[float, Option(min=0, max=4, help="scale and shift at random, by up to 1 + zoom")] = 0.25
    crop: Annotated[float, Option(min=0, max=0.9, help="cut out parts, of sides from 1 - crop to all")] = 0.0
    colour: Annotated[float, Option(min=0, max=1, help="vary brightness, contrast and saturation")] = 0.0
    clip: Annotated[float, Option(min=0, max=1e6, help="largest norm of the gradient; 0 sets no limit")] = 10.0
    ema: Annotated[float, Option(min=0, max=0.99999, help="decay of the weights' moving average; 0: none")] = 0.0
    validate_every: Annotated[int, Option(min=1, help="epochs between measurements on val")] = 1
    patience: Annotated[int, Option(min=0, help="stop after so many epochs without gain on val; 0: never")] = 0
    keep: Annotated[Keep, Option(help="weights for the next stages; the schedule ends in its best")] = Keep.last
    seed: Annotated[int, Option(min=0, max=2**32 - 1, help="of weights, order and augmentation")] = 0
    threads: Annotated[int, Option(min=1, max=1024, help="CPU threads; they decide the last bits")] = 2
    workers: Annotated[int, Option(min=0, max=1024, help="processes that decode images; 0: two threads")] = 0
    device: Annotated[str, Option(help="cpu, cuda or auto; only cpu gives the same bits each time")] = "auto"
    deterministic: Annotated[bool, Option(help="use only operations that give the same bits each time")] = True
    precision: Annotated[Precision, Option(help="auto: bf16 on a GPU that has it")] = Precision.auto
    processes: Annotated[int, Option(min=1, max=1024, help="that share each step, started by torchrun")] = 1
