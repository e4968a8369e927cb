"""Several processes, one training: what torchrun started together, on one machine or many.

A step's images are shared out among the processes, and losses and gradients are means over them, so that all hold the
same weights. The first process measures and writes. Without torchrun there is one process: nothing here does anything.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed, nn

from Datasets.tools.command import end_with_parent
from Datasets.tools.errors import UserError

WAIT = timedelta(hours=1)  # at most, for another process: the first may be measuring the val split
AFTER_OTHERS = 3.0  # seconds in which another process says what is wrong, and torchrun ends this one
T = TypeVar("T")
Loss = Callable[[torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(processes: int, threads: int, module: str, words: Sequence[str]) -> None:
    """Run `python -m MODULE WORDS` in so many processes on this machine, by torchrun, until all have ended.

    Raises SystemExit with the code of the first that failed, which has said why, and UserError if one was killed.
    Interrupted or ended, it ends them too.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # torchrun's own account of a failure, which follows what the process said of it
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torchrun warns where it is not set
    place = ["--standalone", "--local-addr=127.0.0.1", "--monitor-interval=0.1", f"--nproc-per-node={processes}"]
    try:
        torchrun.main([*place, "-m", module, *words])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from None
        raise UserError(f"process {rank} of {processes} was killed by {failure.signal_name()}") from None
    except SignalException as error:
        if error.sigval == error.sigval.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Be one of the processes that torchrun started, until all are done; only the first tells how it goes.

    Raises UserError if this machine has too few GPUs, and if another process has ended.
    """
    if not launched():
        yield
        return
    end_with_parent()
    _join(device)
    try:
        with nullcontext() if is_first() else redirect_stderr(Path(os.devnull).open("w")):
            yield
        distributed.barrier()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # what launched it says so
    except UserError:
        time.sleep(0 if is_first() else AFTER_OTHERS)
        raise
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        time.sleep(AFTER_OTHERS)
        raise UserError(f"another process of this training has ended ({str(error).splitlines()[0]})") from error
    distributed.destroy_process_group()


def _join(device: str) -> None:
    if device != "cuda":
        distributed.init_process_group("gloo", timeout=WAIT)
        return
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise UserError(f"device: cuda: {local + 1} or more processes on this machine, which has {there} GPUs")
    torch.cuda.set_device(local)
    distributed.init_process_group("nccl", timeout=WAIT, device_id=torch.device("cuda", local))


def _is_lost(error: RuntimeError) -> bool:
    lost = ("gloo", "connection closed", "connection reset", "broken pipe", "socket")
    return isinstance(error, distributed.DistError) or any(part in str(error).lower() for part in lost)


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that measures and writes."""
    return rank() == 0


def share(images: int) -> slice:
    """Which of a step's images are this process's; no two shares differ by more than one."""
    least, over = divmod(images, count())
    first = rank() * least + min(rank(), over)
    return slice(first, first + least + (rank() < over))


def from_first(value: T) -> T:
    """The value that the first process has."""
    if count() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of each value over the processes, without gradient."""
    if count() == 1:
        return values
    summed = values.detach().clone()
    distributed.all_reduce(summed)
    return summed / count()


class _Loss(nn.Module):
    """A model whose forward is its loss: DistributedDataParallel sees to the gradients of what forward returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.model.loss(images, targets)  # type: ignore[operator]


def loss_of(model: nn.Module) -> Loss:
    """The model's loss; with several processes, its gradients come out as their mean over the processes.

    Weights that a step does not use are looked for: this allows for them, and keeps the order in which gradients are
    added up from changing after the first step, so that a resumed training adds them up as the undisturbed one did.
    """
    if count() == 1:
        return model.loss  # type: ignore[return-value]
    return nn.parallel.DistributedDataParallel(_Loss(model), find_unused_parameters=True)
