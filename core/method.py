"""What a method declares: its record of choices, its prediction rules, what it may spend. By `core.interface`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch.nn.functional as F
from torch import Size, Tensor, nn
from torch.optim import Optimizer

from core.passes import Reading, Rng, Tape, WeightLaw
from core.signals import Gaussian, Signal


class TensorExpected(TypeError):
    """A Gaussian came where a loss or a prediction rule reads plain logits; the message says what to declare."""


def plain_logits(output: Signal) -> Tensor:
    """The output itself. Raises TensorExpected for a Gaussian."""
    if isinstance(output, Gaussian):
        raise TensorExpected(
            "the network's output is a Gaussian: declare Method.loss and Predictor.scores that read its moments "
            "(core.moments has them), or read the weights with Draw(surrogate)"
        )
    return output


@dataclass(frozen=True)
class Predictor:
    """A prediction rule: the networks it averages, each a reading with its own re-estimated statistics.

    `networks` is the number of forward passes averaged; `weight_bits` the width of the weights those passes use
    (the mean rule of a binary law uses real weights: 32). `combine` says what is averaged.
    levels: the values the weights take where they are not the law's own (ternary: -1, 0, 1). activation_bits: of the
    activations, where they are not the network's own (propagated moments are real: 32). scores: the network's output
    -> logits, for rules whose output is a Gaussian.
    """

    name: str
    networks: int
    weight_bits: int
    readings: Callable[[nn.Module, Rng], Iterable[Reading]]
    combine: Literal["logits", "probabilities"] = "logits"
    levels: tuple[float, ...] | None = None
    activation_bits: int | None = None
    scores: Callable[[Signal], Tensor] = plain_logits

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


def cross_entropy(output: Signal, labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy of logits (B, C), nats: the problem's loss."""
    return F.cross_entropy(plain_logits(output), labels)


@dataclass(frozen=True)
class Preparation:
    """What `prepare` is given. twin: the same architecture with laws of another kind, initialised from the cell's own
    initial draw; keyword arguments replace network options (activation="hardtanh"). masks: dropout's generator.
    """

    model: nn.Module
    problem: Any
    budget: Budget
    schedule: str
    rng: Rng
    order: Rng
    twin: Callable[..., nn.Module]
    masks: Rng | None = None


@dataclass(frozen=True)
class Prepared:
    """What `prepare` hands to the loop: extra modules (teachers, heads; never exported) and what was and will be spent.

    solvers claim what the modules train, exactly once; a parameter that needs no gradient (a teacher's) is nobody's.
    steps: spent already, so the loop runs `budget.steps - steps`. passes: forwards of modules a step, counted.
    facts: what the preparation found, plain JSON data for the cell's record.
    """

    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    solvers: Sequence[Optimizer] = ()
    steps: int = 0
    passes: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A training method: a record of choices, no loop. Built by a factory whose keywords are its hyperparameters.

    law: (weight shape, rng) -> law, for every layer the network declares binary.
    train: progress in [0, 1) -> reading (anneal temperatures here); the loop adds phase and tape.
    solvers: (model, budget) -> optimizers; together they claim every float parameter exactly once.
    predictors: the first is called "mode" and is compulsory: it is what gets exported.
    objective: (mean loss, context) -> what is differentiated; per-example units, like the loss.
    loss: (the network's output, labels) -> mean loss; another than the problem's where outputs are Gaussians.
    prepare: runs before the loop (transfer initialisation); step: replaces forward, backward and update of a step
    and returns the mean loss (integer-only training needs it). Nothing else of the loop is replaceable.
    supports: a reason (str) means: skip this problem, and say so.
    """

    law: Callable[[Size, Rng], WeightLaw]
    train: Callable[[float], Reading]
    solvers: Callable[[nn.Module, Budget], Sequence[Optimizer]]
    predictors: Sequence[Predictor]
    weight_bits: int = 1
    teacher: bool = False
    normalisation: Literal["batch", "stochastic", "per-task"] = "batch"  # the role the architecture's norms play
    draws: int = 1
    objective: Callable[[Tensor, Context], Tensor] = plain_loss
    loss: Callable[[Signal, Tensor], Tensor] = cross_entropy
    prepare: Callable[[Preparation], Prepared] | None = None
    step: Callable[[nn.Module, Context, Rng], Tensor] | None = None
    supports: Callable[[Any], str | None] = lambda problem: None

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be >= 1 (got {self.draws})")
