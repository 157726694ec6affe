"""Straight-through gradients of stochastic binary units, whose errors are mostly of scale, layer by layer.

Networks of real weights and logistic noise with 2^6 states: the gradient, and the mean of every straight-through
estimator of it, are sums over states. Estimators as in Bengio, Leonard & Courville 2013.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.interface import Rng, Surrogate
from core.ops import StraightThrough, log_sech2, logistic_noise, sign, surrogate_value
from core.seeds import generator
from solvers import enumeration
from studies.truth.rows import Row, Sample, cosine

NETS, UNITS = 8, 3  # networks, units a layer
# what the median network shows of the identity, at least
LEAST = {"norm ratio": 1.0, "cosine": 0.6, "relative bias": 0.5, "share of error that one factor removes": 0.5}


def straight_through_scale(draws: int) -> Iterator[Row]:
    """Two layers of stochastic signs 3-3-3: what is wrong with the identity's gradient is mostly its length, by layer.

    Real weights, logistic noise; the gradient and every estimator's mean exact by enumerating the units' 2^6 states.
    The slope 2F' = sech^2 at the noiseless input stands beside the identity. A statement about networks at large: the
    medians over NETS of them must show it, a single one need not.
    """
    identity: dict[str, list[float]] = {}
    for net in range(NETS):
        case = _StochasticNet.of(net)
        truths = case.exact()
        for name, unit in (("identity", _LogisticSign(StraightThrough())), ("2F'", _LogisticSign(None))):
            samples = [Sample.of(g) for g in case.draws(unit, draws)]
            for layer, found in enumerate(zip(samples, case.mean_gradient(name), truths, strict=True), 1):
                for row in _scale_rows(f"signs 3-3-3, network {net}", name, layer, *found):
                    yield row
                    if name == "identity" and row.exact is not None:
                        identity.setdefault(row.quantity, []).append(row.exact)
    for quantity, values in identity.items():
        middle, least = float(torch.tensor(values).median()), LEAST[quantity.partition(",")[0]]
        about = "straight-through, slope identity"
        yield Row("signs 3-3-3", "ste", about, f"median {quantity}", middle, None, 0.0, middle > least)


def _scale_rows(place: str, name: str, layer: int, sample: Sample, mean: Tensor, truth: Tensor) -> Iterator[Row]:
    """mean: the estimator's, by enumeration; the sampled one must agree with it."""
    size, length = float(truth.norm()), float(mean.norm())
    as_derived = sample.agrees(mean)
    along, across = sample.error_along(sample.mean / sample.mean.norm()) / size, float(sample.errors.norm())

    def row(quantity: str, value: float, exact: float, stderr: float) -> Row:
        about = f"straight-through, slope {name}"
        return Row(place, "ste", about, f"{quantity}, layer {layer}", value, exact, stderr, as_derived)

    angle = cosine(mean, truth)
    yield row("norm ratio", float(sample.mean.norm()) / size, length / size, along)
    yield row("cosine", cosine(sample.mean, truth), angle, across / float(sample.mean.norm()))
    bias = float((sample.mean - truth).norm()) / size
    yield row("relative bias", bias, float((mean - truth).norm()) / size, across / size)
    # the best factor of the mean leaves |truth|^2 (1 - cosine^2) of |mean - truth|^2
    left = [
        (1 - c * c) * size**2 / float((m - truth).norm() ** 2)
        for c, m in ((cosine(sample.mean, truth), sample.mean), (angle, mean))
    ]
    yield row("share of error that one factor removes", 1 - left[0], 1 - left[1], across / size)


@dataclass(frozen=True)
class _LogisticSign:
    """A stochastic unit sign(h + Logistic(0, 1/2)): P(+1) = sigmoid(2 h). slope None: 2F'(h) = sech^2(h)."""

    slope: Surrogate | None

    def __call__(self, h: Tensor, rng: Rng) -> Tensor:
        if self.slope is not None:
            return surrogate_value(h + logistic_noise(h, rng), self.slope)
        noisy = (h + logistic_noise(h, rng)).detach()
        smooth = torch.tanh(h)
        return sign(noisy) + smooth - smooth.detach()


@dataclass(frozen=True, eq=False)
class _StochasticNet:
    """x0 -> sign(W1 x0 + noise) -> sign(W2 x1 + noise) -> x2'A x2 + tanh(b'x2), three units a layer, diag A = 0."""

    inputs: Tensor
    first: Tensor
    second: Tensor
    quadratic: Tensor
    linear: Tensor

    @classmethod
    def of(cls, net: int) -> _StochasticNet:
        rng = generator("oracle", "stochastic net", net)
        shapes = ((UNITS,), (UNITS, UNITS), (UNITS, UNITS), (UNITS, UNITS), (UNITS,))
        x, first, second, pairs, linear = (torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes)
        return cls(sign(x), first, second, pairs.triu(1), linear)

    def loss(self, x: Tensor) -> Tensor:
        return ((x @ self.quadratic) * x).sum(-1) + torch.tanh(x @ self.linear)

    def exact(self) -> list[Tensor]:
        """Gradient of the expected loss in W1 and W2, flat."""
        first, second = self.first.clone().requires_grad_(), self.second.clone().requires_grad_()
        states = enumeration.signs(UNITS)
        inner = torch.stack([torch.dot(enumeration.log_product(second @ x).exp(), self.loss(states)) for x in states])
        value = torch.dot(enumeration.log_product(first @ self.inputs).exp(), inner)
        return [g.flatten() for g in torch.autograd.grad(value, [first, second])]

    def mean_gradient(self, slope: str) -> list[Tensor]:
        """What the straight-through gradient in W1 and W2 is on average: the chain rule with that slope, enumerated."""
        states = enumeration.signs(UNITS)
        outer = states.clone().requires_grad_()
        (derivative,) = torch.autograd.grad(self.loss(outer).sum(), outer)
        entry = self.first @ self.inputs
        firsts, seconds = torch.zeros_like(self.first), torch.zeros_like(self.second)
        for x, share in zip(states, enumeration.log_product(entry).exp(), strict=True):
            hidden = self.second @ x
            back = enumeration.log_product(hidden).exp() @ derivative
            back = back if slope == "identity" else back * torch.exp(log_sech2(hidden))
            seconds += share * torch.outer(back, x)
            further = self.second.mT @ back
            further = further if slope == "identity" else further * torch.exp(log_sech2(entry))
            firsts += share * torch.outer(further, self.inputs)
        return [firsts.flatten(), seconds.flatten()]

    def draws(self, unit: _LogisticSign, draws: int) -> list[Tensor]:
        """One gradient a draw, flat, in W1 and W2."""
        rng = generator("oracle", "stochastic draws")
        first = self.first.expand(draws, -1, -1).clone().requires_grad_()
        second = self.second.expand(draws, -1, -1).clone().requires_grad_()
        hidden = unit((first @ self.inputs[:, None]).squeeze(-1), rng)
        output = unit((second @ hidden[..., None]).squeeze(-1), rng)
        return [g.flatten(1) for g in torch.autograd.grad(self.loss(output).sum(), [first, second])]
