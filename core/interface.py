"""The nouns and verbs every method is written in. Imports torch and nothing of ours.

law x reading x geometry x solver: what a weight is, how one pass reads it, where its parameter lives, how it moves.
STE = Point x Draw(straight-through) x Box x Adam; BayesBiNN = Bernoulli x Draw(relaxed sign) x BernoulliFisher x SGD.
Third parties import from here and from the modules `docs/architecture.md` lists; INTERFACE_VERSION grows on a break.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

INTERFACE_VERSION = 1

Rng = torch.Generator
Contract = Callable[[Tensor, Tensor], Tensor]  # (signal, weights) -> pre-activations; bilinear, e.g. F.linear
BINARY = (-1.0, 1.0)  # the level set of a sign


class NoMode(ValueError):
    """The law has no single likeliest sign pattern; the message names what to use instead."""


class UnsupportedReading(ValueError):
    """A law and a reading that cannot go together; the message names both and the alternative."""


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
    """

    shape: torch.Size
    levels: tuple[float, ...] | None = BINARY

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
    before: Tensor
    after: Tensor


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

    def __call__(self, law: WeightLaw, contract: Contract, x: Tensor, rng: Rng, tape: Tape | None) -> Tensor: ...


@runtime_checkable
class ActivationReading(Protocol):
    """How one pass reads a binary activation: its slope or its sampler. Real activations never reach it."""

    def __call__(self, h: Tensor, rng: Rng) -> Tensor: ...


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

    def normalise(self, name: str, h: Tensor, norm: Any) -> Tensor:
        """Batch norm of `h` for the layer called `name`."""
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


@dataclass(frozen=True)
class Predictor:
    """A prediction rule: the networks it averages, each a reading with its own re-estimated statistics.

    `networks` is the number of forward passes averaged; `weight_bits` the width of the weights those passes use
    (the mean rule of a binary law uses real weights: 32). `combine` says what is averaged.
    """

    name: str
    networks: int
    weight_bits: int
    readings: Callable[[nn.Module, Rng], Iterable[Reading]]
    combine: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        if self.combine not in ("logits", "probabilities"):
            raise ValueError(f"rule {self.name!r}: combine must be logits or probabilities (got {self.combine!r})")


@dataclass(frozen=True)
class Budget:
    """What a run may spend. One pass = one forward and backward over a batch; steps x draws passes in all."""

    n_train: int  # training-set size N; enters updates only through a solver's `scale`
    batch: int
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training set (the remainder is dropped, the order reshuffled)."""
        return max(1, self.n_train // self.batch)


@dataclass(frozen=True)
class Context:
    """What an objective may look at besides the loss: the batch, its indices, the pass's tape, extra modules."""

    inputs: Tensor
    labels: Tensor
    indices: Tensor
    tape: Tape
    model: nn.Module
    modules: Mapping[str, nn.Module]
    progress: float


def plain_loss(loss: Tensor, context: Context) -> Tensor:
    """The objective of most methods: the mean loss itself."""
    return loss


@dataclass(frozen=True)
class Prepared:
    """What `prepare` hands to the loop: extra modules (teachers, heads; never exported) and what was and will be spent.

    solvers claim what the modules train, exactly once; a parameter that needs no gradient (a teacher's) is nobody's.
    steps: spent already, so the loop runs `budget.steps - steps`. passes: forwards of modules a step, counted.
    """

    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    solvers: Sequence[Optimizer] = ()
    steps: int = 0
    passes: int = 0


@dataclass(frozen=True)
class Method:
    """A training method: a record of choices, no loop. Built by a factory whose keywords are its hyperparameters.

    law: (weight shape, rng) -> law, for every layer the network declares binary.
    train: progress in [0, 1) -> reading (anneal temperatures here); the loop adds phase and tape.
    solvers: (model, budget) -> optimizers; together they claim every float parameter exactly once.
    predictors: the first is called "mode" and is compulsory: it is what gets exported.
    objective: (mean loss, context) -> what is differentiated; per-example units, like the loss.
    prepare: runs before the loop (transfer initialisation); step: replaces forward, backward and update of a step
    and returns the mean loss (integer-only training needs it). Nothing else of the loop is replaceable.
    supports: a reason (str) means: skip this problem, and say so.
    """

    law: Callable[[torch.Size, Rng], WeightLaw]
    train: Callable[[float], Reading]
    solvers: Callable[[nn.Module, Budget], Sequence[Optimizer]]
    predictors: Sequence[Predictor]
    weight_bits: int = 1
    teacher: bool = False
    normalisation: Literal["batch"] = "batch"  # the role the architecture's norms play; others come with their layers
    draws: int = 1
    objective: Callable[[Tensor, Context], Tensor] = plain_loss
    prepare: Callable[[nn.Module, Any, Rng], Prepared] | None = None
    step: Callable[[nn.Module, Context, Rng], Tensor] | None = None
    supports: Callable[[Any], str | None] = lambda problem: None

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be >= 1 (got {self.draws})")
