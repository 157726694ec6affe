"""Geometries: the set a parameter lives in, as `to_tangent`, `project` and `retract(p, s) = project(p + s)`.

Natural gradients of the Bernoulli in its natural parameter: Khan & Rue (Bayesian learning rule); Meng et al. 2020. Unit
rows: Burer & Monteiro 2003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.ops import log_sech2


@dataclass(frozen=True)
class Euclidean:
    """All of R^n: the gradient is the direction and nothing is projected."""

    def to_tangent(self, point: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, point: Tensor) -> Tensor:
        return point

    def retract(self, point: Tensor, step: Tensor) -> Tensor:
        return point + step


EUCLIDEAN = Euclidean()


@dataclass(frozen=True)
class Box:
    """[-bound, bound]^n with Euclidean directions: clipping after the step (BinaryConnect's latent clip)."""

    bound: float = 1.0

    def __post_init__(self) -> None:
        _require_bound(self.bound)

    def to_tangent(self, point: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, point: Tensor) -> Tensor:
        return point.clamp(-self.bound, self.bound)

    def retract(self, point: Tensor, step: Tensor) -> Tensor:
        return self.project(point + step)


@dataclass(frozen=True)
class BernoulliFisher:
    """Natural parameters of signs, |lambda| <= bound: to_tangent divides by the Fisher information 1 - tanh^2.

    The quotient is the gradient with respect to the mean mu = tanh(lambda), so a step against it is the Bayesian
    learning rule. 1 / sech^2 is formed in log space and capped near the dtype's largest number, where a gradient
    with respect to lambda has underflowed already: 0 times the cap is 0, never nan.
    """

    bound: float = math.inf

    def __post_init__(self) -> None:
        _require_bound(self.bound)

    def to_tangent(self, point: Tensor, gradient: Tensor) -> Tensor:
        largest = math.log(torch.finfo(point.dtype).max) - 1
        return gradient * torch.exp((-log_sech2(point)).clamp_max(largest))

    def project(self, point: Tensor) -> Tensor:
        return point.clamp(-self.bound, self.bound)

    def retract(self, point: Tensor, step: Tensor) -> Tensor:
        return self.project(point + step)


@dataclass(frozen=True)
class DampedBernoulliFisher:
    """BernoulliFisher as BayesBiNN's released code has it: divides by 1 - tanh^2(lambda) + damping, no bound.

    By subtraction, in working precision: in float32 the first part is 0 from |lambda| = 9.01 on, and damping is
    all that is left.
    """

    damping: float

    def __post_init__(self) -> None:
        if not (self.damping > 0 and math.isfinite(self.damping)):
            raise ValueError(f"damping must be finite and > 0 (got {self.damping})")

    def to_tangent(self, point: Tensor, gradient: Tensor) -> Tensor:
        mean = torch.tanh(point)
        return gradient / (1 - mean * mean + self.damping)

    def project(self, point: Tensor) -> Tensor:
        return point

    def retract(self, point: Tensor, step: Tensor) -> Tensor:
        return point + step


@dataclass(frozen=True)
class UnitRows:
    """Unit vectors along dimension 0, one for every other index: a product of spheres (Burer & Monteiro 2003).

    to_tangent removes the part along the vector. A zero vector has no direction, every unit vector is as near: project
    takes e_0, the one whose sign is that of 0, +1.
    """

    def to_tangent(self, point: Tensor, gradient: Tensor) -> Tensor:
        return gradient - (gradient * point).sum(0) * point

    def project(self, point: Tensor) -> Tensor:
        lengths = (point * point).sum(0).sqrt_()  # torch's vector_norm over dimension 0 takes 50 ns an entry
        zero = lengths == 0
        unit = point / torch.where(zero, 1, lengths)
        unit[0] += zero  # in place: of the new tensor
        return unit

    def retract(self, point: Tensor, step: Tensor) -> Tensor:
        return self.project(point + step)


def _require_bound(bound: float) -> None:
    if not bound > 0:
        raise ValueError(f"bound must be > 0 (got {bound})")
