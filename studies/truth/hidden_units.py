"""What moment propagation's gradient is on average on the losses that are no polynomials: enumeration, quadrature.

Formulas of Peters & Welling 2018 (arXiv 1809.03368), written out once more: nothing here is the product's. lambda are
the natural parameters, theta = tanh(lambda); pre-activations have mean sum theta x and variance sum (1 - theta^2) x^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solvers import enumeration
from studies.truth.problems import Tiny

NODES = 64  # of Gauss-Legendre quadrature on at most 2 TAIL deviations: exact to 1e-12
PRODUCT_NODES = 24  # in each of three dimensions: to 1e-6, where draws leave 1e-3
TAIL = 8.0  # standard normals beyond it have probability 1e-15
WIDTH = 60.0  # sech^2(s / 2) is below 1e-25 beyond it
SLOPE_NODES = 128


def sampled(problem: Tiny, naturals: Sequence[Tensor]) -> Tensor:
    """Mean gradient in lambda, flat, of BLRNet: hidden signs sampled straight through, hidden hard tanh sampled."""
    if len(naturals) == 1:
        return propagated(problem, naturals)
    if problem.activation != "sign":
        return _pathwise(problem, naturals)
    return _straight_through(problem, naturals, lambda s, theta: F.softplus(-problem.targets[:, None] * (s @ theta)))


def propagated(problem: Tiny, naturals: Sequence[Tensor]) -> Tensor:
    """Gradient in lambda, flat, of the loss of the output's mean, hidden units replaced by their moments."""
    leaves = [natural.detach().requires_grad_() for natural in naturals]
    entering = problem.inputs
    if len(leaves) == 2:
        units = _units(problem.activation, *_moments(problem.inputs, leaves[0]), nodes=NODES)
        entering = (units.values * units.weights).sum(-1)
    loss = F.softplus(-problem.targets * (entering @ torch.tanh(leaves[-1][0]))).mean()
    return _flat(torch.autograd.grad(loss, leaves))


def propagated_bce(problem: Tiny, naturals: Sequence[Tensor]) -> Tensor:
    """The same of -log P(y h > 0), h normal with the output's moments: theta' m and sum (1 - (theta m)^2) of signs."""
    first, last = (natural.detach().requires_grad_() for natural in naturals)
    units = _units("sign", *_moments(problem.inputs, first), nodes=NODES)
    entering, theta = (units.values * units.weights).sum(-1), torch.tanh(last[0])
    spread = (1 - (theta * entering) ** 2).sum(-1).sqrt()
    loss = -torch.special.log_ndtr(problem.targets * (entering @ theta) / spread).mean()
    return _flat(torch.autograd.grad(loss, [first, last]))


def sampled_bce(problem: Tiny, naturals: Sequence[Tensor]) -> Tensor:
    """As `sampled`, of -log P(y h > 0) given the hidden signs s: h has moments theta' s and sum (1 - theta^2) s^2."""

    def loss(s: Tensor, theta: Tensor) -> Tensor:
        spread = ((s * s) @ (1 - theta * theta)).sqrt()
        return -torch.special.log_ndtr(problem.targets[:, None] * (s @ theta) / spread)

    return _straight_through(problem, naturals, loss)


def mean_slopes(z: Tensor) -> tuple[Tensor, Tensor]:
    """E[s 1(sign = -1)] and E[s 1(sign = +1)] of the sampled sign's slope s = d/dz tanh((logit Phi(z) + t) / 2).

    t is Logistic(0, 1). With v = logit Phi(z) + t, whose sign the unit has, s = sech^2(v / 2) / 2 * phi / (Phi(z)
    Phi(-z)), and each side is an integral over v.
    """
    logit = torch.special.log_ndtr(z) - torch.special.log_ndtr(-z)
    density = torch.exp(-0.5 * z * z) / (2 * torch.pi) ** 0.5
    steep = density / (torch.special.ndtr(z) * torch.special.ndtr(-z))
    v, weights = _legendre(0.0, WIDTH, SLOPE_NODES)

    def side(sign: float) -> Tensor:
        t = sign * v - logit[..., None]
        bump = 0.5 / torch.cosh(v / 2) ** 2 * torch.sigmoid(t) * torch.sigmoid(-t)
        return steep * (bump * weights).sum(-1)

    return side(-1.0), side(1.0)


class _Units(NamedTuple):
    """A discrete law of each hidden unit and example: values and weights (B, H, K), a sum over the last being E."""

    values: Tensor
    weights: Tensor


def _units(activation: str, mean: Tensor, deviation: Tensor, *, nodes: int) -> _Units:
    """The activation of a normal: two atoms, and for the hard tanh a truncated normal between them by quadrature."""
    if activation == "sign":
        share = torch.special.ndtr(torch.stack([-mean / deviation, mean / deviation], -1))
        return _Units(torch.tensor([-1.0, 1.0]).to(share).expand_as(share), share)
    low, high = (((end - mean) / deviation).clamp(-TAIL, TAIL)[..., None] for end in (-1, 1))
    points, weights = _legendre(0.0, 1.0, nodes)
    e = low + (high - low) * points
    inside = (high - low) * weights * torch.exp(-0.5 * e * e) / (2 * torch.pi) ** 0.5
    values = [torch.full_like(low, -1.0), mean[..., None] + deviation[..., None] * e, torch.full_like(low, 1.0)]
    shares = [torch.special.ndtr(low), inside, torch.special.ndtr(-high)]
    return _Units(torch.cat(values, -1), torch.cat(shares, -1))


def _pathwise(problem: Tiny, naturals: Sequence[Tensor]) -> Tensor:
    """Reparameterised samples through a continuous activation: the gradient of the expected loss of their output."""
    total = torch.zeros(problem.weights, dtype=torch.float64)
    for x, y in zip(problem.inputs, problem.targets, strict=True):
        leaves = [natural.detach().requires_grad_() for natural in naturals]
        values, weights = _units(problem.activation, *_moments(x[None], leaves[0]), nodes=PRODUCT_NODES)
        terms = values[0] * torch.tanh(leaves[1][0])[:, None]
        output, share = terms[0], weights[0, 0]
        for term, weight in zip(terms[1:], weights[0, 1:], strict=True):  # all combinations of the units' values
            output, share = output[..., None] + term, share[..., None] * weight
        total += _flat(torch.autograd.grad((share * F.softplus(-y * output)).sum(), leaves))
    return total / len(problem.inputs)


def _straight_through(problem: Tiny, naturals: Sequence[Tensor], loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Sum over the 2^H hidden states of the loss's slope there times each unit's mean slope at its sign.

    loss: of hidden signs (B, states, H) and the last layer's means (H,), of every example and state.
    """
    first, last = (natural.detach().requires_grad_() for natural in naturals)
    mean, deviation = _moments(problem.inputs, first)
    z = mean / deviation
    states = enumeration.signs(z.shape[1])
    sides = torch.stack([torch.special.ndtr(-z), torch.special.ndtr(z)], -1).detach()  # (B, H, 2)
    slopes = torch.stack(mean_slopes(z.detach()), -1)
    here = (states > 0).long().mT.expand(len(z), -1, -1)  # (B, H, states)
    shares, slopes = sides.gather(2, here), slopes.gather(2, here)
    signs = states.expand(len(z), -1, -1).clone().requires_grad_()
    losses = loss(signs, torch.tanh(last[0]))
    (at_last,) = torch.autograd.grad((shares.prod(1) * losses).sum(1).mean(), last, retain_graph=True)
    (at_signs,) = torch.autograd.grad(losses.sum(), signs)
    back = []
    for unit in range(z.shape[1]):
        others = shares[:, [j for j in range(z.shape[1]) if j != unit]].prod(1)
        back.append((others * slopes[:, unit] * at_signs[..., unit]).sum(1))
    (at_first,) = torch.autograd.grad((torch.stack(back, 1) * z).sum(1).mean(), first)
    return _flat([at_first, at_last])


def _moments(x: Tensor, natural: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every hidden unit's pre-activation. x: (B, I), natural: (H, I)."""
    theta = torch.tanh(natural)
    return x @ theta.mT, ((x * x) @ (1 - theta * theta).mT).sqrt()


def _legendre(low: float, high: float, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre points and weights on [low, high]."""
    points, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    return low + (high - low) * (points + 1) / 2, weights * (high - low) / 2


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
