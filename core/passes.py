"""The nouns of one pass: laws, contractions, readings, the tape and the phase. Imported through `core.interface`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core.signals import Gaussian, Signal

Rng = torch.Generator
BINARY = (-1.0, 1.0)  # the level set of a sign


class NoMode(ValueError):
    """The law has no single likeliest sign pattern; the message names what to use instead."""


class UnsupportedReading(ValueError):
    """A law and a reading that cannot go together; the message names both and the alternative."""


@runtime_checkable
class Contract(Protocol):
    """A layer's linear map, as the two sums a reading may need of it. x: (B, ...), weights: of the law's shape."""

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        """sum_i w_i x_i for every output, bilinear (a first layer owns its normalisation: affine in x)."""
        ...

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        """sum_i w_i x_i^2 for every output, x as the layer normalises it; the batch may be 1 where all agree."""
        ...


@runtime_checkable
class Surrogate(Protocol):
    """A sign (exact or relaxed) with the slope an estimator chooses for it; element-wise, any shape."""

    def __call__(self, latent: Tensor) -> Tensor:
        """The weight or activation that the pass uses."""
        ...

    def slope(self, latent: Tensor) -> Tensor:
        """d(value)/d(latent) as the backward pass takes it; same shape."""
        ...


@runtime_checkable
class Geometry(Protocol):
    """The set a parameter lives in and how to move inside it; element-wise over any leading dimensions."""

    def to_tangent(self, point: Tensor, gradient: Tensor) -> Tensor:
        """Steepest-ascent direction at `point` for a Euclidean gradient: identity, inverse Fisher or projection."""
        ...

    def project(self, point: Tensor) -> Tensor:
        """The nearest point of the set (clamp, renormalise or nothing); idempotent."""
        ...

    def retract(self, point: Tensor, step: Tensor) -> Tensor:
        """`point + step` brought back into the set; retract(p, 0) = p, error O(|step|^2) along tangents."""
        ...


@dataclass(frozen=True)
class Coordinate:
    """One parameter of a law: the tensor, the set it lives in, and the point it decays to (None: the origin)."""

    parameter: nn.Parameter
    geometry: Geometry
    anchor: Tensor | None = None


class WeightLaw(nn.Module):
    """The distribution of one weight tensor, w = values(z) of a reparameterised latent z. Facts only, no estimator.

    `shape` is the weight's shape; `levels` is its level set ((-1, 1) for a sign), None where the weight is real.
    `independent`: whether the weights of one draw are; moment propagation needs it.
    """

    shape: torch.Size
    levels: tuple[float, ...] | None = BINARY
    independent: bool = True

    @abstractmethod
    def noise(self, rng: Rng) -> Tensor | None:
        """Everything random about one draw, on the parameters' device and dtype; None for a point law."""

    @abstractmethod
    def latent(self, noise: Tensor | None) -> Tensor:
        """z of shape `shape`; pure in the parameters, given the noise."""

    @abstractmethod
    def values(self, latent: Tensor) -> Tensor:
        """The weights at a latent: sign(z), sign(0) = +1, for binary laws; z itself for a real one."""

    @abstractmethod
    def pull_back(self, noise: Tensor | None, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient with respect to z -> gradients with respect to `coordinates()`, in that order."""

    @abstractmethod
    def mean(self) -> Tensor:
        """E[w]."""

    def variance(self) -> Tensor:
        """Var[w] of each weight: 1 - E[w]^2 for signs, 0 for a real weight."""
        mean = self.mean()
        return torch.zeros_like(mean) if self.levels is None else 1 - mean * mean

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean, variance) of each weight, differentiable; one pass over the parameters where a law has one."""
        return self.mean(), self.variance()

    @abstractmethod
    def mode(self) -> Tensor:
        """The likeliest weights. Raises NoMode, naming an alternative, where the law is symmetric."""

    @abstractmethod
    def coordinates(self) -> tuple[Coordinate, ...]:
        """The float parameters a solver moves; empty for a law held in integer buffers."""


@dataclass(frozen=True)
class Drawn:
    """One drawn weight tensor: a leaf of the pass, at which backward ends."""

    law: WeightLaw
    noise: Tensor | None
    latent: Tensor
    weights: Tensor
    surrogate: Surrogate

    def pull_back(self) -> None:
        """Turn the leaf's gradient into gradients of the law's parameters (accumulated into `.grad`)."""
        if self.weights.grad is None:
            return
        gradients = self.law.pull_back(self.noise, self.weights.grad * self.surrogate.slope(self.latent))
        for coordinate, gradient in zip(self.law.coordinates(), gradients, strict=True):
            parameter = coordinate.parameter
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


@dataclass(frozen=True)
class SignPair:
    """One binarised activation: the named layer, before and after the sign (for objectives that look inside)."""

    name: str
    before: Signal
    after: Signal


@dataclass
class Tape:
    """What one training pass leaves for the backward half. Made new for each pass; None in evaluation."""

    drawn: list[Drawn] = field(default_factory=list)
    signs: list[SignPair] = field(default_factory=list)

    def pull_back(self) -> None:
        """After `loss.backward()`: every drawn leaf's gradient becomes parameter gradients."""
        for drawn in self.drawn:
            drawn.pull_back()


@runtime_checkable
class WeightReading(Protocol):
    """How one pass reads the weights of a layer."""

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Signal: ...


@runtime_checkable
class ActivationReading(Protocol):
    """How one pass reads a binary activation: its slope or its sampler. Real functions of tensors never reach it."""

    def __call__(self, h: Signal, rng: Rng) -> Signal: ...


@runtime_checkable
class GaussianActivationReading(ActivationReading, Protocol):
    """An activation reading for passes in which pre-activations are Gaussians (moment propagation)."""

    def real(self, h: Gaussian, function: str, rng: Rng) -> Signal:
        """The real activation `function` ("relu", "hardtanh") of a Gaussian: of a sample, or its moments."""
        ...

    def pool(self, h: Gaussian, window: tuple[int, int], function: str, rng: Rng) -> Signal:
        """Max pooling of (B, C, H, W) before the activation `function`, "sign" or a real one."""
        ...

    def fork(self, h: Gaussian, rng: Rng, *, assume_independent: bool) -> Signal:
        """What both branches of a residual block receive: one sample, or the moments if their dependence is ignored."""
        ...


@runtime_checkable
class Phase(Protocol):
    """Which batch-norm statistics a pass uses, and whether dropout is on. See `core.statistics`."""

    @property
    def training(self) -> bool:
        """Whether this pass trains: dropout on, inputs normalised before the first contraction."""
        ...

    @property
    def masks(self) -> Rng | None:
        """The generator of dropout masks; None: the pass's own. Apart, so that methods drop the same inputs."""
        ...

    def normalise(self, name: str, h: Signal, norm: Any) -> Signal:
        """Batch norm of `h` for the layer called `name`; of a Gaussian, stochastic batch norm."""
        ...


@dataclass(frozen=True)
class Reading:
    """How one forward pass reads weights, activations and statistics: `model(x, reading, rng)`. Never a global."""

    weights: WeightReading
    activations: ActivationReading
    phase: Phase | None = None  # set by the loop and by the predictors, not by methods
    tape: Tape | None = None

    def during(self, phase: Phase, tape: Tape | None = None) -> Reading:
        """The same reading in another phase."""
        return replace(self, phase=phase, tape=tape)
