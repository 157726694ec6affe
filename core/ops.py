"""Signs, surrogates and stable special functions. sign(0) = +1 everywhere.

Surrogates: Bengio et al. 2013 and Courbariaux et al. 2015 (identity), Hubara et al. 2016 (clipped), Meng et al. 2020
(relaxed tanh), Liu et al. 2018 (arXiv 1808.00278, ApproxSign). Element-wise, any shape, float32 and float64, cpu and
cuda.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.interface import Rng, Surrogate

REAL_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "hardtanh": F.hardtanh}


def sign(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-1 or +1 by the sign of z; sign(0) = sign(-0) = +1, so never 0."""
    return (z >= 0).to(z.dtype).mul_(2).sub_(1)


def log_sech2(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log sech^2(x) = log(1 - tanh^2 x) = log 4 - 2|x| - 2 log(1 + exp(-2|x|)), in nats; finite for |x| <= max / 2.

    1 - tanh^2 x by subtraction is 0 in float32 from |x| = 9.01 on and loses digits long before.
    """
    twice = 2 * x.abs()
    return math.log(4.0) - twice - 2 * torch.log1p(torch.exp(-twice))


def half_logit(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(1/2) log(u / (1 - u)) for uniforms in [0, 1): a Logistic(0, 1/2) draw that cannot be infinite.

    torch.rand returns u = 0 about once in 2^24 float32 draws; it is moved to half the grid's first step.
    """
    u = u.clamp_min(torch.finfo(u.dtype).eps / 4)
    return 0.5 * (torch.log(u) - torch.log1p(-u))


def logistic_noise(like: Float[Tensor, "*shape"], rng: Rng) -> Float[Tensor, "*shape"]:
    """delta ~ Logistic(0, 1/2) shaped, typed and placed as `like`: P(lambda + delta >= 0) = sigmoid(2 lambda).

    Meng et al. 2020, eq. for w_tau. Finite for every value of the generator; uses one uniform per entry.
    """
    return half_logit(torch.rand(like.shape, generator=rng, dtype=like.dtype, device=like.device))


def _require_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and > 0 (got {value})")


@dataclass(frozen=True)
class Identity:
    """w = z with slope 1: the reading of the full-precision control."""

    def __call__(self, latent: Tensor) -> Tensor:
        return latent

    def slope(self, latent: Tensor) -> Tensor:
        return torch.ones_like(latent)


@dataclass(frozen=True)
class StraightThrough:
    """sign(z) with slope 1 everywhere. Courbariaux et al. 2015 (BinaryConnect), deterministic form."""

    def __call__(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def slope(self, latent: Tensor) -> Tensor:
        return torch.ones_like(latent)


@dataclass(frozen=True)
class ClippedStraightThrough:
    """sign(z) with slope 1 where |z| <= window, else 0. Hubara et al. 2016: the slope of hardtanh at window 1."""

    window: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("window", self.window)

    def __call__(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def slope(self, latent: Tensor) -> Tensor:
        return (latent.abs() <= self.window).to(latent.dtype)


@dataclass(frozen=True)
class ExactSign:
    """sign(z) with another surrogate's slope: how any slope serves a binary activation."""

    shaped: Surrogate

    def __call__(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def slope(self, latent: Tensor) -> Tensor:
        return self.shaped.slope(latent)


@dataclass(frozen=True)
class RelaxedSign:
    """tanh(z / temperature) with its true slope sech^2(z / temperature) / temperature, formed in log space."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("temperature", self.temperature)

    def __call__(self, latent: Tensor) -> Tensor:
        return torch.tanh(latent / self.temperature)

    def slope(self, latent: Tensor) -> Tensor:
        return torch.exp(log_sech2(latent / self.temperature) - math.log(self.temperature))


@dataclass(frozen=True)
class ApproxSign:
    """sign(z) with slope max(0, 2 - 2|z|), that of a piecewise quadratic sign. Bi-Real net, Liu et al. 2018."""

    def __call__(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def slope(self, latent: Tensor) -> Tensor:
        return (2 - 2 * latent.abs()).clamp_min(0)


@dataclass(frozen=True)
class ErfSign:
    """erf(z / (sqrt 2 d)), the mean of sign(z + d eta) over eta ~ N(0, 1), d = `diagonal`; with its true slope."""

    diagonal: float

    def __post_init__(self) -> None:
        _require_positive("diagonal", self.diagonal)

    def __call__(self, latent: Tensor) -> Tensor:
        return torch.erf(latent / (math.sqrt(2) * self.diagonal))

    def slope(self, latent: Tensor) -> Tensor:
        standard = latent / self.diagonal
        return math.sqrt(2 / math.pi) / self.diagonal * torch.exp(-0.5 * standard * standard)


@dataclass(frozen=True)
class FlooredRelaxedSign:
    """tanh(z / temperature) with slope (1 - w^2 + floor) / temperature by subtraction, as BayesBiNN's code has it.

    In float32 at temperature 1e-10 the first term vanishes and floor / temperature IS the slope.
    """

    temperature: float
    slope_floor: float

    def __post_init__(self) -> None:
        _require_positive("temperature", self.temperature)
        _require_positive("slope_floor", self.slope_floor)

    def __call__(self, latent: Tensor) -> Tensor:
        return torch.tanh(latent / self.temperature)

    def slope(self, latent: Tensor) -> Tensor:
        w = self(latent)
        return (1 - w * w + self.slope_floor) / self.temperature


class _Surrogated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(z)
        ctx.surrogate = surrogate
        return surrogate(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return gradients[0] * ctx.surrogate.slope(z), None


def surrogate_value(z: Float[Tensor, "*shape"], surrogate: Surrogate) -> Float[Tensor, "*shape"]:
    """surrogate(z), differentiated by the surrogate's slope instead of its true derivative."""
    value: Tensor = _Surrogated.apply(z, surrogate)  # type: ignore[no-untyped-call]
    return value
