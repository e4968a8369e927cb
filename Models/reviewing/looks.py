"""What a model makes of the images of a split; of train, models that were trained without the images."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from Datasets.format.predictions import uncertainty
from Datasets.tools.errors import UserError
from Models.learning import hardware
from Models.learning.data_loading import Samples
from Models.learning.metrics import TASKS, answer, outputs_of
from Models.learning.options import Options
from Models.learning.scripts import ROOT, script_file
from Models.learning.training import checkpoint_path, train
from Models.learning.weights import Run, read_initial
from Models.learning.work import STAGE, begin


class Look(NamedTuple):
    """The images of a split, and of each the answer and what came with it.

    unseen: whether the model was trained without them; else there are no predictions, confidences and mistakes.
    confidences: of masks, uint8 [S, S], 255 for certain. features: float32 [D], None where the model gives none.
    mistakes: how many, the more the worse.
    """

    split: str
    unseen: bool
    samples: Samples
    predictions: Sequence[Any]
    confidences: Sequence[np.ndarray]
    uncertainties: Sequence[float]
    features: Sequence[np.ndarray | None]
    mistakes: Sequence[float]


def look(samples: Samples, split: str, model: nn.Module, batch: int, threshold: float, unseen: bool = True) -> Look:
    """Let a model look at images of a split."""
    predictions, confidences, uncertainties, features = [], [], [], []
    for row, outputs, square in outputs_of(model.to(hardware.usable_device("auto")), samples, batch):
        if unseen:
            predictions.append(answer(samples, row, outputs, square))
            certain = np.ones(outputs["mask"].shape if samples.task == "mask" else ())
            confidences.append(np.rint(outputs.get("confidence", certain) * 255).astype(np.uint8))
        uncertainties.append(uncertainty(samples.task, outputs, threshold))
        features.append(outputs.get("features"))
    mistakes = TASKS[samples.task].measure(samples, predictions, threshold).mistakes if unseen else []
    return Look(split, unseen, samples, predictions, confidences, uncertainties, features, mistakes)


def out_of_sample(train_look: Look, done: Run, threshold: float, folds: int) -> Look:
    """The look at train by `folds` models, each at a part of the groups that it was trained without.

    The features stay those of the model itself.
    """
    samples = train_look.samples
    groups = np.array([record["group"] or record["image"] for record in samples.records])
    names = np.unique(groups)
    if len(names) < folds:
        raise UserError(f"folds: {folds} are more than the {len(names)} groups of train; give fewer")
    dealt = dict(zip(np.random.default_rng(0).permutation(names), np.arange(len(names)) % folds, strict=True))
    part = np.array([dealt[group] for group in groups])
    found: dict[int, tuple[Any, ...]] = {}
    for fold in range(folds):
        model = trained_without(samples.subset(np.flatnonzero(part != fold).tolist()), done, [fold, folds])
        rows = np.flatnonzero(part == fold).tolist()
        each = look(samples.subset(rows), "train", model, done.train["batch"], threshold)
        values = zip(each.predictions, each.confidences, each.uncertainties, each.mistakes, strict=True)
        found |= dict(zip(rows, values, strict=True))
    predictions, confidences, uncertainties, mistakes = zip(*(found[row] for row in range(len(samples))), strict=True)
    return Look("train", True, samples, predictions, confidences, uncertainties, train_look.features, mistakes)


def trained_without(samples: Samples, done: Run, fold: list[int]) -> nn.Module:
    """A model trained as `done` says, on these samples alone; it can be interrupted as any training."""
    options = Options(**{**done.train, "processes": 1, "device": hardware.usable_device(done.train["device"])})
    hardware.set_up_torch(options.threads, options.deterministic, options.seed)
    initial = read_initial(Path(done.init["source"])) if done.init else None
    network, groups, _ = begin(done, options, initial)
    code = [STAGE, script_file(done.script)]
    checkpoint = checkpoint_path({**asdict(done), "fold": fold}, code, ROOT, done.data)
    state = train(network, samples, replace(options, patience=0), lambda _: {}, checkpoint, lambda _: None, groups)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return state.result
