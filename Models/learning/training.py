"""The training loop: plain PyTorch, exact to resume.

The order of the images follows from (seed, epoch), and whatever else is random from (seed, step): so a training that
was killed and goes on from a checkpoint ends, on a CPU with the same number of threads, with the same bits. Several
processes share out the images of each step; Models/learning/distributed.py says how.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from Datasets.tools.errors import UserError
from Models.display.meter import Meter
from Models.learning.augmentation import Augmentation, augment
from Models.learning.batch_norm import synchronised
from Models.learning.checkpoints import load_checkpoint, save_checkpoint
from Models.learning.data_loading import Batch, Samples, epoch_order
from Models.learning.distributed import Loss, count, from_first, is_first, loss_of, mean, rank, share
from Models.learning.precision import autocast
from Models.learning.scripts import check_losses

WARM_UP = 0.2  # of all steps; the learning rate rises, then falls: Smith and Topin, 2017, arXiv:1708.07120
CHECKPOINT_STEPS = 50  # a checkpoint costs about as much as a third of a step
NAMED = 8  # images named when a step fails

Row = dict[str, float | int]


@dataclass(frozen=True)
class Options:
    """What decides the result of a training, beside code and data; Models/train.py says what each means."""

    size: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    flip: bool
    zoom: float
    crop: float
    colour: float
    clip: float
    patience: int
    keep: str
    seed: int
    threads: int
    device: str
    deterministic: bool
    precision: str = "fp32"
    processes: int = 1


@dataclass
class State:
    """A training in progress: step counts the steps done, sums adds up the loss's parts over the epoch so far.

    loss: the model's, with gradients averaged over the processes.
    best: epoch, value (of the first figure that validation gives) and model (its weights) of the best epoch so far.
    """

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    step: int
    sums: dict[str, float]
    history: list[Row]
    best: dict[str, Any] | None = None


def train(
    model: nn.Module,
    samples: Samples,
    options: Options,
    validate: Callable[[nn.Module], Mapping[str, float]],
    checkpoint: Path,
    report: Callable[[list[Row]], None],
) -> State:
    """Train `model` in place; the state's history has a row for each epoch: its loss and what `validate` measured.

    The first figure that `validate` gives, the more the better, decides which epoch is best, and on stopping early.
    report: is given all rows so far, at the start and after each epoch. Of several processes, the first validates,
    reports and saves. Raises UserError, with the step and its images, when the loss or its gradient is no number; the
    last checkpoint stays.
    """
    samples.cache()
    steps = len(epoch_order(len(samples), options.batch, 0, 0))
    if len(samples) // steps < count():
        raise UserError(f"processes: {count()} cannot share the {len(samples) // steps} images of a step; raise batch")
    state = start(model, options, options.epochs * steps)
    resume(state, checkpoint)
    if is_first():
        report(state.history)
    for epoch in range(state.step // steps, options.epochs):
        if from_first(stalled(state, options.patience)):
            break
        meter = Meter(epoch, options.epochs, steps, state)
        order = epoch_order(len(samples), options.batch, options.seed, epoch)[state.step % steps :]
        for images, batch in zip(order, samples.batches(each[share(len(each))] for each in order), strict=True):
            try:
                update(state, batch, options, len(images))
            except NotFinite as error:
                raise UserError(explained(error, state.step, samples, images, options, checkpoint)) from error
            meter.tick(len(images))
            if state.step % CHECKPOINT_STEPS == 0 and state.step % steps:  # at the end of an epoch, once it is reported
                save(state, checkpoint)
        row: Row = {"step": state.step, "epoch": epoch + 1, "learning_rate": float(state.schedule.get_last_lr()[0])}
        row |= {name: value / steps for name, value in state.sums.items()}
        measured = validate(model) if is_first() else {}
        state.history.append({**row, **measured})
        keep_best(state, next(iter(measured.values()), None))
        state.sums = dict.fromkeys(state.sums, 0.0)  # the names stay: each step has the same
        if is_first():
            report(state.history)
        meter.epoch_line()
        if state.step % CHECKPOINT_STEPS == 0:
            save(state, checkpoint)
    return state


def keep_best(state: State, value: float | None) -> None:
    """Note the weights as they are if no epoch before was as good; of equals the first is best."""
    if value is not None and (state.best is None or value > state.best["value"]):
        weights = {name: values.detach().cpu().clone() for name, values in state.model.state_dict().items()}
        state.best = {"epoch": len(state.history), "value": value, "model": weights}


def stalled(state: State, patience: int) -> bool:
    """Whether no epoch of the last `patience` was better than all before; says so. A patience of 0 never ends."""
    if not patience or state.best is None or len(state.history) - state.best["epoch"] < patience:
        return False
    epoch, value = state.best["epoch"], state.best["value"]
    print(f"stopped: {patience} epochs were no better than epoch {epoch} with {value:.3f}", file=sys.stderr)
    return True


def start(model: nn.Module, options: Options, steps: int) -> State:
    """A training that has done nothing yet."""
    model.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = synchronised(model, options.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    warm_up = 0.3 if steps == 5 else WARM_UP  # of 5 steps, it would end at the first: PyTorch divides by that length
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.learning_rate, total_steps=steps, pct_start=warm_up
    )
    return State(model, loss_of(model), optimizer, schedule, 0, {}, [])


class NotFinite(ArithmeticError):
    """The loss, or its gradient, is infinite or no number."""


def explained(
    error: NotFinite, step: int, samples: Samples, images: Sequence[int], options: Options, checkpoint: Path
) -> str:
    """The line about a step that failed: its images, and what there is to do."""
    names = [samples.records[index]["image"] for index in images]
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    kept = f"; the checkpoint before it is kept: {checkpoint}" if checkpoint.exists() else ""
    return (
        f"{error} at step {step + 1}: lower learning_rate (now {options.learning_rate:g}), or look at the images of "
        f"this step: {shown}{kept}"
    )


def varied(options: Options) -> Augmentation:
    """The augmentation among the options."""
    return Augmentation(options.flip, options.zoom, options.crop, options.colour)


def update(state: State, batch: Batch, options: Options, images: int | None = None) -> None:
    """One step of the optimizer. Raises NotFinite, in every process, before the weights are touched.

    images: how many the step has in all processes, if `batch` is only this one's share of them.
    """
    state.model.train()
    images = images or len(batch.indices)
    torch.manual_seed(options.seed * 1_000_003 + state.step + 2**40 * rank())  # so there is no random state to save
    batch = augment(batch, varied(options), [options.seed, state.step], share(images), images)
    targets = {name: values.to(options.device) for name, values in batch.targets.items()}
    with autocast(options.precision, options.device):
        losses = state.loss(batch.images.to(options.device), targets)
    check_losses(losses, [name.removesuffix("_loss") for name in state.sums if name != "loss"])
    total = torch.stack(list(losses.values())).sum()
    values = mean(torch.stack([total, *losses.values()]).detach()).tolist()
    parts = dict(zip(["loss", *(f"{name}_loss" for name in losses)], values, strict=True))
    if not math.isfinite(parts["loss"]):
        raise NotFinite(f"the loss is {parts['loss']}")
    state.optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), options.clip or math.inf)
    if not math.isfinite(float(norm)):
        raise NotFinite(f"the gradient is {float(norm)}")
    state.optimizer.step()
    state.schedule.step()
    state.step += 1
    state.sums = {name: state.sums.get(name, 0.0) + value for name, value in parts.items()}


def save(state: State, path: Path) -> None:
    """Write the checkpoint; where that fails, say so and go on: what is trained is worth more than what secures it."""
    if not is_first():
        return
    parts = {name: getattr(state, name).state_dict() for name in ("model", "optimizer", "schedule")}
    rest = {name: getattr(state, name) for name in ("step", "sums", "history", "best")}
    try:
        save_checkpoint({**parts, **rest}, path)
    except OSError as error:
        print(f"step {state.step}: {path} cannot be written ({error.strerror}); training goes on", file=sys.stderr)


def resume(state: State, path: Path) -> None:
    """Set `state` to the checkpoint, if the first process has one."""
    saved = from_first(load_checkpoint(path) if is_first() else None)
    if saved is None:
        return
    for name in ("model", "optimizer", "schedule"):
        getattr(state, name).load_state_dict(saved[name])
    for name in ("step", "sums", "history", "best"):
        setattr(state, name, saved[name])
    print(f"resumed at step {state.step} from {path}", file=sys.stderr)
