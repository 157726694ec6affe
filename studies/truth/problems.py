"""The oracle's problems: networks of at most 16 binary weights on real tumours, small enough to enumerate.

Features are breast-cancer's (scikit-learn), standardised; labels -1 malignant, +1 benign. Networks are built of the
product's own layers and read by its readings; only the contraction differs, which takes one weight tensor or a stack
of them, so that thousands of networks run in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Size, Tensor, nn

from core.interface import Gaussian, Reading, Signal, Tape, WeightLaw
from core.layers import Activation, BinaryLinear, Network
from core.moments import log_positive
from core.ops import ClippedStraightThrough
from core.problems import load
from core.readings import Fixed, SignActivation
from core.seeds import generator
from solvers import enumeration

EXAMPLES = 60  # few, so that the posterior at temperature 1 is neither flat nor a point
Loss = Callable[[Signal, Tensor], Tensor]


@dataclass(frozen=True)
class EachCopy:
    """x (B, I) or (S, B, I), weights (O, I) or (S, O, I) -> (B, O) or (S, B, O): every copy its own weights."""

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        return x @ weights.mT

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        return (x * x) @ weights.mT


@dataclass(frozen=True, eq=False)
class Tiny:
    """A network and a loss on EXAMPLES real examples. inputs (B, I) float64, targets (B,) -1 or +1.

    shapes: of each layer's weights. activation: between layers. loss: (output, targets) -> mean loss of every copy.
    degree: "multilinear" or "quadratic" where the loss, as the readings differentiate it, is such a polynomial of the
    weights; else "". curvature, slope: C and d of a quadratic f(w) = w'Cw - 2 d'w + const. diagonal: of the squares
    folded into that constant, so that f is multilinear.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    shapes: tuple[tuple[int, int], ...]
    activation: str
    loss: Loss
    degree: str = ""
    curvature: Tensor | None = None
    slope: Tensor | None = None
    diagonal: Tensor | None = None

    @property
    def weights(self) -> int:
        """How many binary weights it has in all."""
        return sum(math.prod(shape) for shape in self.shapes)

    def network(self, laws: Sequence[WeightLaw]) -> Network:
        """The network over these laws, one a layer, in float64."""
        layers: list[nn.Module] = []
        for law in laws:
            layer = BinaryLinear(law)
            layer.contract = EachCopy()  # type: ignore[assignment]
            layers += [*([Activation(self.activation)] if layers else []), layer]
        return Network(*layers, activation=self.activation).double()

    def value(self, model: nn.Module, reading: Reading, rng: torch.Generator) -> Tensor:
        """The loss of one pass, of every copy, with the tape of `reading` filled."""
        output = model(self.inputs, reading, rng)
        return self.loss(output, self.targets) + self.folding(reading.tape or Tape())

    def folding(self, tape: Tape) -> Tensor | float:
        """- sum_i C_ii (w_i^2 - 1) of the drawn weights: 0 on signs, and takes w_i^2 out of a squared loss off them.

        Nothing where moments are propagated: they hold E[w_i^2] = 1 by themselves.
        """
        if self.diagonal is None or not tape.drawn:
            return 0.0
        weights = tape.drawn[0].weights
        return -((weights * weights - 1) * self.diagonal).sum((-2, -1))

    def table(self) -> Float[Tensor, " table"]:
        """The loss of all 2^n networks, weights layer after layer, signs read by the product's Fixed weights."""
        return enumeration.tabulate(self.losses, self.weights, chunk=2048)

    @torch.no_grad()
    def losses(self, weights: Float[Tensor, "S n"]) -> Float[Tensor, " S"]:
        """The loss of each row of signs."""
        laws = [Stub(shape) for shape in self.shapes]
        layers = self.split(weights)
        reading = Reading(Fixed(dict(zip(laws, layers, strict=True))), SignActivation(ClippedStraightThrough()))
        output = self.network(laws)(self.inputs, reading, generator("unused"))
        return self.loss(output, self.targets)

    def split(self, weights: Float[Tensor, "S n"]) -> list[Tensor]:
        """Rows of all weights -> a stack of weight tensors for every layer."""
        parts = weights.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Stub(WeightLaw):
    """A shape and nothing else: the place of weights that a reading brings along."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = Size(shape)


def squared(output: Signal, targets: Tensor) -> Tensor:
    """Mean (h - y)^2 of every copy; of a Gaussian h its expectation, exactly."""
    if isinstance(output, Gaussian):
        return ((output.mean.squeeze(-1) - targets) ** 2 + output.variance.squeeze(-1)).mean(-1)
    return ((output.squeeze(-1) - targets) ** 2).mean(-1)


def logistic(output: Signal, targets: Tensor) -> Tensor:
    """Mean log(1 + exp(-y h)) of every copy, nats; of a Gaussian h that of its mean, as BLRNet's CE output has it."""
    h = output.mean if isinstance(output, Gaussian) else output
    return F.softplus(-targets * h.squeeze(-1)).mean(-1)


def positive(output: Signal, targets: Tensor) -> Tensor:
    """Mean -log P(y h > 0) of every copy of a Gaussian h, nats: BLRNet's BCE output for one class."""
    assert isinstance(output, Gaussian), "a tensor has no chance to be positive"
    turned = Gaussian(targets * output.mean.squeeze(-1), output.variance.squeeze(-1))
    return -log_positive(turned).mean(-1)


def problems() -> Mapping[str, Tiny]:
    """The five problems by name: one neuron under three losses, two-layer networks with real and binary units."""
    data = load("breast-cancer", None).train
    features = data.inputs[:EXAMPLES].double()
    features = (features - features.mean(0)) / features.std(0, correction=0)
    targets = 2.0 * data.labels[:EXAMPLES].double() - 1
    wide = features[:, list(NEURON_FEATURES)] / math.sqrt(len(NEURON_FEATURES))
    narrow = features[:, list(NETWORK_FEATURES)] / math.sqrt(len(NETWORK_FEATURES))
    curvature, slope = wide.mT @ wide / EXAMPLES, wide.mT @ targets / EXAMPLES
    neuron = {"inputs": wide, "targets": targets, "shapes": ((1, len(NEURON_FEATURES)),), "activation": "hardtanh"}
    network = {"inputs": narrow, "targets": targets, "shapes": ((HIDDEN, len(NETWORK_FEATURES)), (1, HIDDEN))}
    quadratic = {"curvature": curvature, "slope": slope}
    diagonal = curvature.diagonal()
    folded = {"curvature": curvature - torch.diag(diagonal), "slope": slope, "diagonal": diagonal}
    found = (
        # the squared loss with w_i^2 = 1 put in: the same on signs, so the same exact answers, but multilinear off them
        Tiny("neuron-folded", **neuron, loss=squared, degree="multilinear", **folded),
        Tiny("neuron-squared", **neuron, loss=squared, degree="quadratic", **quadratic),
        Tiny("neuron-logistic", **neuron, loss=logistic),
        Tiny("network-hardtanh", **network, activation="hardtanh", loss=logistic),
        Tiny("network-sign", **network, activation="sign", loss=logistic),
    )
    return {problem.name: problem for problem in found}


NEURON_FEATURES = (0, 1, 4, 5, 6, 7, 8, 9, 11, 14)  # ten of the thirty, of radius only one
NETWORK_FEATURES = (0, 1, 4, 7)  # mean radius, texture, smoothness, concave points
HIDDEN = 3
