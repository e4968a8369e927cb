"""Prints, as JSON, each model's loss in each of some steps, trained by one process, and by two.

python -m tests.template.Models.shared_steps CURATED STEPS float64
"""

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import torch

from Datasets.format.curated import Curated
from Models import e001_center_detector, e002_coarse_to_fine, e003_density_counter
from Models.learning.data_loading import Samples, epoch_order
from Models.learning.hardware import is_first, joined, launch, launched, share
from Models.learning.training import Options, start, update

torch.set_num_threads(1)
torch.set_deterministic_debug_mode("error")


def without_batch_norm(model: torch.nn.Module) -> torch.nn.Module:
    """The model with group normalisation, whose statistics are of each image alone."""
    for name, child in model.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(model, name, torch.nn.GroupNorm(2, child.num_features))
        without_batch_norm(child)
    return model


def losses(script: ModuleType, curated: Path, steps: int) -> list[float]:
    """The loss of each step over the whole batch of 8, or of 7: two processes then have unequal shares."""
    options = Options(
        48, 50, 8, learning_rate=6e-3, flip=True, crop=0.2, colour=0.3, threads=1, device="cpu", precision="fp32"
    )
    samples = Samples(Curated(curated), "train", 48, script.TASK)
    torch.manual_seed(0)
    state = start(without_batch_norm(script.build(classes=2, width=8)), options, steps * 3 // 2)
    order = [part for epoch in range(-(-steps // 8)) for part in epoch_order(len(samples), 8, 0, epoch)][:steps]
    found = []
    for part in order:
        state.sums = {}
        update(state, next(samples.batches([part[share(len(part))]])), options, len(part))
        found.append(state.sums["loss"])
    return found


def main() -> None:
    """Start two processes, or be one of them."""
    if not launched():
        return launch(2, 1, "tests.template.Models.shared_steps", sys.argv[1:])
    if sys.argv[3] == "float64":  # in which differences are those of the method, not of rounding
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
    scripts = (e001_center_detector, e002_coarse_to_fine, e003_density_counter)

    def of_each() -> dict[str, list[float]]:
        return {script.TASK: losses(script, Path(sys.argv[1]), int(sys.argv[2])) for script in scripts}

    alone = of_each() if os.environ["RANK"] == "0" else None
    with joined("cpu"):
        shared = of_each()
        if is_first():
            print(json.dumps({"alone": alone, "shared": shared}))


if __name__ == "__main__":
    main()
