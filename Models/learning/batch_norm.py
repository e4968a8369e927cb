"""Batch normalisation over the images of all processes, on CPUs too, where torch has none."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from Models.learning.distributed import count


def synchronised(model: nn.Module, device: str) -> nn.Module:
    """The model, whose batch normalisation takes the statistics of a step's whole batch if several processes share it.

    Names and values of weights and statistics stay, and so does what the model answers in evaluation.
    """
    if count() == 1:
        return model
    if device == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if isinstance(model, _BatchNorm):
        return SharedBatchNorm.like(model)
    for name, child in model.named_children():
        setattr(model, name, synchronised(child, device))
    return model


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167) of float [N, C, ...], N over all processes."""

    @classmethod
    def like(cls, other: _BatchNorm) -> "SharedBatchNorm":
        """One with the weights and statistics of `other`, which it shares."""
        new = cls(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        new.weight, new.bias = other.weight, other.bias
        new.running_mean, new.running_var = other.running_mean, other.running_var
        new.num_batches_tracked = other.num_batches_tracked
        return new

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise; in training, by the whole batch's statistics, which the running ones follow."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        mean, variance, number = shared_statistics(x)
        self._follow(mean.detach(), variance.detach() * number / (number - 1))
        scale = (variance + self.eps).rsqrt()
        scale = scale * self.weight if self.affine else scale
        shift = self.bias - mean * scale if self.affine else -mean * scale
        along = (1, -1, *[1] * (x.dim() - 2))
        return (x * scale.view(along) + shift.view(along)).to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        part = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, part)
        self.running_var.lerp_(variance, part)


def shared_statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance of each channel of float [N, C, ...] over all processes, and of how many values."""
    variance, mean = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0)
    number = x.numel() // x.shape[1]
    mean, variance = mean.double(), variance.double()  # the difference of two large squares follows
    sums = torch.cat([mean * number, (variance + mean**2) * number, mean.new_tensor([number])])
    total: Tensor = _Sum.apply(sums)  # type: ignore[no-untyped-call]
    whole = float(total[-1].detach())
    mean, square = (total[:-1] / whole).chunk(2)
    return mean.float(), (square - mean**2).clamp(min=0).float(), whole


class _Sum(torch.autograd.Function):
    """The sum over the processes. Each process's loss depends on what every other put in, so gradients are summed."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone()
        distributed.all_reduce(summed)
        return summed
