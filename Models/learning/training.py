"""The training loop: plain PyTorch, exact to resume.

The order of the images follows from (seed, epoch), and all else that is random from (seed, step): on a CPU with the
same number of threads, a training that was killed and continues from its checkpoint ends with the same bits. Several
processes share the images of each step; see Models/learning/hardware.py.

Checkpoints are not outputs of the pipeline, as DVC deletes outputs before a run or resets them. They lie in
`$DVC_ROOT/.checkpoints/KEY/`, KEY being a hash of parameters, code and data, so that a changed run never meets
another's. A file is the sha256 of what follows, then torch's format, read without unpickling objects.
"""

import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from Datasets.format.import_closure import import_closure
from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress
from Datasets.tools.errors import UserError, some
from Models.learning.augmentation import augment
from Models.learning.data_loading import Batch, Samples, epoch_order
from Models.learning.hardware import Loss, count, from_first, is_first, loss_of, mean, rank, share
from Models.learning.options import Options, Precision
from Models.learning.scripts import check_losses

WARM_UP = 0.2  # of all steps; the learning rate rises, then falls: Smith and Topin, 2017, arXiv:1708.07120
CHECKPOINT_SHARE = 0.01  # of the time, for checkpoints
PARTS = ("model", "optimizer", "schedule", "average")  # of the state, that have a state_dict
DIGEST_BYTES = 32

Row = dict[str, float | int]


@dataclass
class State:
    """A training in progress.

    loss: the model's, with gradients averaged over the processes. average: the moving average of the weights. step:
    steps done. sums: of the loss's parts since the last row of the history. best: epoch, value (of validation's first
    figure) and model (its weights) of the best epoch so far.
    """

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    average: AveragedModel | None
    step: int
    sums: dict[str, float]
    history: list[Row]
    best: dict[str, Any] | None = None

    @property
    def since(self) -> int:
        """Steps done since the last row of the history."""
        return self.step - int(self.history[-1]["step"] if self.history else 0)

    def loss_so_far(self) -> str:
        """The mean loss of those steps, in words."""
        return f"loss {self.sums['loss'] / self.since:.3f}"

    @property
    def result(self) -> nn.Module:
        """The model as it will be used: with averaged weights, if there are some."""
        return self.average.module if self.average else self.model


def train(
    model: nn.Module,
    samples: Samples,
    options: Options,
    validate: Callable[[nn.Module], Mapping[str, float]],
    checkpoint: Path,
    report: Callable[[list[Row]], None],
    groups: list[dict[str, Any]] | None = None,
) -> State:
    """Train `model` in place; the state's history has a row per epoch: the losses and what `validate` measured.

    With `validate_every` there is a row for each so many epochs, and the last. validate: its first figure, the higher
    the better, decides on the best epoch and on stopping early. report: gets all rows so far, at the start and after
    each. groups: AdamW's, else those of `parameter_groups`. Of several processes, the first validates, reports
    and saves. Raises UserError with the step and its images where the loss or its gradient is not finite; the last
    checkpoint stays.
    """
    samples.cache()
    steps = len(epoch_order(len(samples), options.batch, 0, 0))
    if len(samples) // steps < count():
        raise UserError(f"processes: {count()} cannot share the {len(samples) // steps} images of a step; raise batch")
    state = start(model, options, options.epochs * steps, groups)
    resume(state, checkpoint)
    due = 0.0
    if is_first():
        report(state.history)
    for epoch in range(state.step // steps, options.epochs):
        if from_first(stalled(state, options.patience)):
            break
        order = epoch_order(len(samples), options.batch, options.seed, epoch)[state.step % steps :]
        shares = [each[share(len(each))] for each in order]
        batches = samples.batches(shares, options.workers, pin=options.device != "cpu")
        what = f"epoch {epoch + 1}/{options.epochs}"
        shown = progress(batches, len(order), what, "steps", more=state.loss_so_far)
        for images, batch in zip(order, shown, strict=True):
            try:
                update(state, batch, options, len(images))
            except FloatingPointError as error:
                names = some([samples.records[index]["image"] for index in images])
                remedy = f"lower learning_rate (now {options.learning_rate:g}), or look at its images: {names}"
                raise UserError(f"{error} at step {state.step + 1}: {remedy}") from error
            if state.step % steps:  # at the end of an epoch, after its report
                due = save_if_due(state, checkpoint, due)
        if epoch + 1 == options.epochs or (epoch + 1) % options.validate_every == 0:
            end_epoch(state, epoch + 1, validate(state.result) if is_first() else {})
            if is_first():
                report(state.history)
                row = state.history[-1]
                figures = (f"{name} {row[name]:.3f}" for name in row if name == "loss" or name.startswith("val_"))
                print("", *figures, sep="  ", file=sys.stderr)
        due = save_if_due(state, checkpoint, due)
    return state


def start(model: nn.Module, options: Options, steps: int, groups: list[dict[str, Any]] | None = None) -> State:
    """A training before its first of `steps` steps. groups: AdamW's, else those of `parameter_groups`."""
    groups = groups or parameter_groups(model, options)
    model.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.device == "cuda" and count() > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(groups, fused=True)
    warm_up = 0.3 if steps == 5 else WARM_UP  # of 5 steps, it would end at the first: PyTorch divides by that length
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=steps, pct_start=warm_up)
    average = AveragedModel(model, multi_avg_fn=partial(follow, options.ema), use_buffers=True) if options.ema else None
    return State(model, loss_of(model), optimizer, schedule, average, 0, {}, [])


def follow(decay: float, averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor) -> None:
    """Move the averages to the values, at first faster than by `decay` (as TensorFlow's ExponentialMovingAverage)."""
    kept = min(decay, (1 + int(updates)) / (10 + int(updates)))
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, 1 - kept)
        else:
            average.copy_(value)


def parameter_groups(model: nn.Module, options: Options, loaded: Collection[str] = ()) -> list[dict[str, Any]]:
    """AdamW's groups: the parameters that learn, by learning rate and decay.

    loaded: names of those that did not begin with random weights, which learn at `init_rate` of the rate. Norms and
    biases do not decay.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in loaded, parameter.dim() > 1), []).append(parameter)
    rates = {False: options.learning_rate, True: options.learning_rate * options.init_rate}
    decay = {False: 0.0, True: options.weight_decay}
    return [{"params": each, "lr": rates[given], "weight_decay": decay[wide]} for (given, wide), each in groups.items()]


def update(state: State, batch: Batch, options: Options, images: int | None = None) -> None:
    """One step of the optimizer. Raises FloatingPointError, in every process, before the weights are changed.

    images: of the step in all processes, if `batch` is only this one's share of them.
    """
    images = images or len(batch.indices)
    torch.manual_seed(options.seed * 1_000_003 + state.step + 2**40 * rank())  # so there is no random state to save
    batch = batch.to(options.device)
    batch = augment(batch, options, [options.seed, state.step], share(images), images)
    state.optimizer.zero_grad()
    sums, bf16 = [], options.precision == Precision.bf16
    chunks = (values.chunk(options.accumulate) for values in (batch.images, *batch.targets.values()))
    pieces = list(zip(*chunks, strict=True))
    for part, *targets in pieces:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=bf16):
            losses = state.loss(part, dict(zip(batch.targets, targets, strict=True)))
        check_losses(losses, [name.removesuffix("_loss") for name in state.sums if name != "loss"])
        total = torch.stack(list(losses.values())).sum()
        (total / len(pieces)).backward()  # type: ignore[no-untyped-call]
        sums.append(torch.stack([total, *losses.values()]).detach())
    values = mean(torch.stack(sums).mean(0)).tolist()
    parts = dict(zip(["loss", *(f"{name}_loss" for name in losses)], values, strict=True))
    if not math.isfinite(parts["loss"]):
        raise FloatingPointError(f"the loss is {parts['loss']}")
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), options.clip or math.inf)
    if not math.isfinite(float(norm)):
        raise FloatingPointError(f"the gradient is {float(norm)}")
    state.optimizer.step()
    state.schedule.step()
    if state.average:
        state.average.update_parameters(state.model)
    state.step += 1
    state.sums = {name: state.sums.get(name, 0.0) + value for name, value in parts.items()}


def end_epoch(state: State, epoch: int, measured: Mapping[str, float]) -> None:
    """Add a row to the history; keep the weights if none before were as good."""
    row: Row = {"step": state.step, "epoch": epoch, "learning_rate": float(max(state.schedule.get_last_lr()))}
    row |= {name: value / state.since for name, value in state.sums.items()}
    state.history.append({**row, **measured})
    state.sums = dict.fromkeys(state.sums, 0.0)  # the names stay: each step has the same
    value = next(iter(measured.values()), None)
    if value is not None and (state.best is None or value > state.best["value"]):
        weights = {name: values.detach().cpu().clone() for name, values in state.result.state_dict().items()}
        state.best = {"epoch": epoch, "value": value, "model": weights}


def stalled(state: State, patience: int) -> bool:
    """Whether none of the last `patience` epochs was better than all before, which is reported. 0 never stops."""
    if not patience or state.best is None or int(state.history[-1]["epoch"]) - state.best["epoch"] < patience:
        return False
    epoch, value = state.best["epoch"], state.best["value"]
    print(f"stopped: {patience} epochs were no better than epoch {epoch} with {value:.3f}", file=sys.stderr)
    return True


def checkpoint_path(parameters: Mapping[str, Any], scripts: Iterable[Path], root: Path, data: str) -> Path:
    """Where the checkpoint of a training lies.

    parameters: all that the result depends on. scripts: the files that run, relative to `root`; what they import counts
    too. data: the dataset's fingerprint. The version of torch counts as well.
    """
    digest = hashlib.sha256(json.dumps([torch.__version__, data, parameters], sort_keys=True).encode())
    for file in import_closure(scripts, root):
        digest.update(f"\n{file.as_posix()} {hashlib.sha256((root / file).read_bytes()).hexdigest()}".encode())
    home = Path(os.environ.get("DVC_ROOT") or Path.cwd())
    return home / ".checkpoints" / digest.hexdigest()[:32] / "checkpoint.pt"


def save_if_due(state: State, path: Path, due: float) -> float:
    """Write the checkpoint in the first process; returns when the next is due, so that they take CHECKPOINT_SHARE."""
    began = time.monotonic()
    if not is_first() or began < due:
        return due
    save(state, path)
    ended = time.monotonic()
    return ended + (ended - began) / CHECKPOINT_SHARE


def save(state: State, path: Path) -> None:
    """Write the checkpoint; where that fails, report it, keep the one before, and go on."""
    saved = {name: part.state_dict() for name in PARTS if (part := getattr(state, name)) is not None}
    saved |= {name: getattr(state, name) for name in ("step", "sums", "history", "best")}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    data = buffer.getvalue()
    try:
        with replacing(path) as file:
            file.write_bytes(hashlib.sha256(data).digest() + data)
    except OSError as error:
        print(f"step {state.step}: {path} cannot be written ({error.strerror}); training goes on", file=sys.stderr)


def resume(state: State, path: Path) -> None:
    """Set `state` to the checkpoint of the first process, if it has one."""
    saved = from_first(load_checkpoint(path) if is_first() else None)
    if saved is None:
        return
    for name in PARTS:
        if name in saved:
            getattr(state, name).load_state_dict(saved[name])
    for name in ("step", "sums", "history", "best"):
        setattr(state, name, saved[name])
    print(f"resumed at step {state.step} from {path}", file=sys.stderr)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state saved last, or None if there is none; a damaged file is reported and counts as none."""
    if not path.is_file():
        return None
    digest, data = (content := path.read_bytes())[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        print(f"{path}: damaged checkpoint; training starts from the beginning", file=sys.stderr)
        return None
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
