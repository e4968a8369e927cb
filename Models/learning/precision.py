"""In which numbers a model learns: float32, or bfloat16 where the hardware has it."""

import sys
from contextlib import AbstractContextManager
from enum import StrEnum

from Datasets.tools.errors import UserError


class Precision(StrEnum):
    """fp32: the same bits each time on a CPU. bf16: multiplications in bfloat16, weights in float32."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"


def chosen(precision: Precision, device: str) -> Precision:
    """fp32 or bf16; auto is bf16 where the device has it, and says what it took.

    Raises UserError for bf16 on a device without: a CPU with AVX2 only is six times slower with it than without.
    """
    has = _has_bf16(device)
    if precision == Precision.bf16 and not has:
        raise UserError(f"precision: bf16: this {device} has no bfloat16 arithmetic; take fp32, or auto")
    taken = Precision.bf16 if has and precision != Precision.fp32 else Precision.fp32
    if precision != Precision.fp32:
        print(f"precision: {taken.value}, for {device} has {'' if has else 'no '}bfloat16 arithmetic", file=sys.stderr)
    return taken


def _has_bf16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """In here, what profits from it is computed in bfloat16; nothing changes with fp32."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == Precision.bf16)
