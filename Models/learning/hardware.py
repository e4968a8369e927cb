"""Where a training runs: its device and precision, and the processes that share its steps.

The processes are those that torchrun started together, on one machine or many. A step's images are divided among them,
and losses and gradients are averaged, so that all hold the same weights. The first process validates and writes.
Without torchrun there is one process, and nothing here communicates.
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
from Models.learning.options import Precision

TIMEOUT = timedelta(hours=1)  # for another process: the first may be validating
GRACE = 3.0  # seconds in which the process with the error reports it, and torchrun ends the others
LOST = ("gloo", "connection closed", "connection reset", "broken pipe", "socket")  # in the errors of a lost process
T = TypeVar("T")
Loss = Callable[[torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def usable_device(device: str) -> str:
    """The device's name; auto is the GPU, where torch finds one, else the CPU.

    Raises UserError if this machine has no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def set_up_torch(threads: int, deterministic: bool, seed: int) -> None:
    """Seed torch and set its threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the same sums each time on CUDA
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.manual_seed(seed)


def resolve_precision(precision: Precision, device: str) -> Precision:
    """fp32 or bf16; auto is bf16 on a GPU that has it, and else fp32.

    Raises UserError for bf16 on a device without: a CPU with AVX2 only is six times slower with it than without.
    """
    if device.startswith("cuda"):
        available = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        available = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if precision == Precision.bf16 and not available:
        raise UserError(f"precision: bf16: this {device} has no bfloat16 arithmetic; use fp32, or auto")
    if precision == Precision.auto:
        return Precision.bf16 if available and device != "cpu" else Precision.fp32
    return precision


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(processes: int, threads: int, module: str, words: Sequence[str]) -> None:
    """Run `python -m MODULE WORDS` in several processes on this machine by torchrun, and wait for their end.

    Raises SystemExit with the code of the first that failed, which reported why, and UserError if one was killed.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # torchrun's report of a failure, which follows that of the process
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torchrun warns where it is not set
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process warns that it found no unused weights
    place = ["--standalone", "--local-addr=127.0.0.1", "--monitor-interval=0.1", f"--nproc-per-node={processes}"]
    try:
        torchrun.main([*place, "-m", module, *words])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from None
        raise UserError(f"process {rank} of {processes} was killed by {failure.signal_name()}") from None
    except SignalException as error:  # 130 if interrupted
        raise SystemExit(128 + error.sigval) from None
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, until all are done; only the first reports progress.

    Raises UserError if this machine has too few GPUs, and if another process has ended.
    """
    if not launched():
        yield
        return
    end_with_parent()
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(usable_device(f"cuda:{local}"))
        distributed.init_process_group("nccl", timeout=TIMEOUT, device_id=torch.device("cuda", local))
    else:
        distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        with nullcontext() if is_first() else redirect_stderr(Path(os.devnull).open("w")):
            yield
        distributed.barrier()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # `launch` reports it
    except UserError:
        time.sleep(0 if is_first() else GRACE)
        raise
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not any(part in str(error).lower() for part in LOST):
            raise
        time.sleep(GRACE)
        raise UserError(f"another process of this training has ended ({str(error).splitlines()[0]})") from error
    distributed.destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that validates and writes."""
    return rank() == 0


def share(images: int) -> slice:
    """This process's images of a step's; no two shares differ by more than one."""
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
    """A model whose forward is its loss: DistributedDataParallel averages the gradients of what forward returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.model.loss(images, targets)  # type: ignore[operator]


def loss_of(model: nn.Module) -> Loss:
    """The model's loss; with several processes its gradients are averaged over them.

    Looking for unused weights allows for them, and keeps the order in which gradients are summed from changing after
    the first step, so that a resumed training sums them as an undisturbed one does.
    """
    if count() == 1:
        return model.loss  # type: ignore[return-value]
    return nn.parallel.DistributedDataParallel(_Loss(model), find_unused_parameters=True)
