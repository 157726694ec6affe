"""What flows between layers: a tensor, or a signal known by the mean and variance of its independent entries.

Moment propagation: Peters & Welling 2018 (arXiv 1809.03368); LR-net, Shayer, Levi & Fetaya 2018 (arXiv 1710.07739).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Gaussian:
    """Independent entries with these means and variances (equal shapes, variance >= 0).

    Pre-activations are treated as normal; of propagated signs (mean p, variance 1 - p^2) only the two moments count.
    """

    mean: Tensor
    variance: Tensor

    def __post_init__(self) -> None:
        if self.mean.shape != self.variance.shape:
            shapes = f"mean {tuple(self.mean.shape)}, variance {tuple(self.variance.shape)}"
            raise ValueError(f"Gaussian: the shapes differ ({shapes})")

    @property
    def shape(self) -> torch.Size:
        return self.mean.shape

    def map(self, rearrange: Callable[[Tensor], Tensor]) -> Gaussian:
        """The same entries in another arrangement (flatten, slice, permute)."""
        return Gaussian(rearrange(self.mean), rearrange(self.variance))

    def deviation(self) -> Tensor:
        """sqrt(variance), with slope 0 instead of infinity where the variance is 0."""
        positive = self.variance > 0
        return torch.where(positive, self.variance, 1).sqrt() * positive

    def sample(self, rng: torch.Generator) -> Tensor:
        """mean + deviation * normal, one normal an entry, differentiable in both (reparameterisation)."""
        normals = torch.randn(self.shape, generator=rng, dtype=self.mean.dtype, device=self.mean.device)
        sampled: Tensor = _Sampled.apply(self.mean, self.variance, normals)  # type: ignore[no-untyped-call]
        return sampled


class _Sampled(torch.autograd.Function):
    """mean + sqrt(variance) normals; the slope in a variance, normal / (2 deviation), is 0 where the variance is 0."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor, normals: Tensor) -> Tensor:
        deviation = variance.sqrt()
        ctx.save_for_backward(deviation, variance, normals)
        return torch.addcmul(mean, deviation, normals)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        deviation, variance, normals = ctx.saved_tensors
        inverse = deviation / variance.clamp_min(torch.finfo(variance.dtype).tiny)  # 0 where both are 0
        return gradients[0], inverse.mul_(normals).mul_(gradients[0]).mul_(0.5), None


Signal = Tensor | Gaussian


def rearranged(x: Signal, rearrange: Callable[[Tensor], Tensor]) -> Signal:
    """A rearrangement of entries, of a tensor or of both moments."""
    return x.map(rearrange) if isinstance(x, Gaussian) else rearrange(x)
