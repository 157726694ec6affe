"""What theory says an estimator's mean is, where it says so: quadratic losses, whose gradient 2 (C w - d) is linear.

The bias of an estimator then is known in closed form or by one-dimensional quadrature, and can be tested as a bias.
Relaxed signs: Meng, Bachmann & Khan 2020. Rounded Gaussians: Bussgang's theorem.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.ops import log_sech2
from studies.truth.problems import Tiny

WIDTH, NODES = 24.0, 4801  # sech^2 is below 1e-20 beyond WIDTH; the trapezoid rule is exact to rounding on it


def at_means(problem: Tiny, means: Tensor) -> Tensor:
    """2 (C E[w] - d): the mean of a unit-slope gradient at w, whatever the law's correlations. means: (1, n)."""
    assert problem.curvature is not None and problem.slope is not None, f"{problem.name} is not quadratic"
    return 2 * (means @ problem.curvature - problem.slope)


def relaxed(problem: Tiny, natural: Tensor, temperature: float) -> Tensor:
    """Mean of the pulled-back gradient, in lambda, of w = tanh((lambda + delta) / temperature). natural: (1, n).

    sum over j != i of 2 C_ij E[w_j] E[s_i], plus 2 C_ii E[w_i s_i] - 2 d_i E[s_i], s the slope.
    """
    assert problem.curvature is not None and problem.slope is not None, f"{problem.name} is not quadratic"
    diagonal = problem.curvature.diagonal()
    mean, slope, both = relaxed_moments(natural, temperature)
    others = mean @ problem.curvature - mean * diagonal - problem.slope
    return 2 * (others * slope + diagonal * both)


def relaxed_moments(natural: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """E[w], E[s], E[w s] of w = tanh(z / tau), s = sech^2(z / tau) / tau, z = lambda + Logistic(0, 1/2).

    Over y = z / tau: E[s] = integral of sech^2(y) p(tau y), E[w] = integral of sech^2(y) P(z > tau y) - 1.
    """
    y = torch.linspace(-WIDTH, WIDTH, NODES, dtype=natural.dtype)
    bump = torch.exp(log_sech2(y))
    offset = temperature * y - natural[..., None]
    density, above = 0.5 * torch.exp(log_sech2(offset)), torch.sigmoid(-2 * offset)

    def integral(values: Tensor) -> Tensor:
        return torch.trapezoid(values, y, dim=-1)

    return integral(bump * above) - 1, integral(bump * density), integral(torch.tanh(y) * bump * density)


def gumbel_scale(natural: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of s / N, N s the published scale (1 - w^2) / (tau (1 - tanh^2 lambda)).

    1 and 0 for an unbiased scale; the mean tends to 1 as tau -> 0, the deviation grows as tau^(-1/2).
    """
    fisher = torch.exp(log_sech2(natural))
    y = torch.linspace(-WIDTH, WIDTH, NODES, dtype=natural.dtype)
    square = torch.exp(2 * log_sech2(y))
    density = 0.5 * torch.exp(log_sech2(temperature * y - natural[..., None]))
    second = torch.trapezoid(square * density, y, dim=-1) / temperature
    mean = relaxed_moments(natural, temperature)[1]
    return mean / fisher, (second - mean * mean).sqrt() / fisher


def rounded_rows(problem: Tiny, rows: Tensor) -> Tensor:
    """Mean of the straight-through gradient g (1, r) at w = sign(mu + Z r), in the rows (K+1, 1, n).

    mu: 2 (C erf(a / sqrt 2) - d). Z: 2 C (2 phi(a_j) / s_j) Z_j, since E[sign(z_j) r] = (2 phi(a_j) / s_j) Z_j.
    """
    assert problem.curvature is not None, f"{problem.name} is not quadratic"
    deviation = rows[1:].norm(dim=0)
    a = rows[0] / deviation
    density = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
    factors = 2 * (2 * density / deviation * rows[1:]) @ problem.curvature
    return torch.cat([at_means(problem, torch.erf(a / math.sqrt(2)))[None], factors])


def smooth_rows(problem: Tiny, rows: Tensor) -> Tensor:
    """Gradient of E[f(z)] itself, z = mu + Z r, in the rows (K+1, 1, n): 2 (C mu - d) and 2 C Z (Burer-Monteiro)."""
    assert problem.curvature is not None, f"{problem.name} is not quadratic"
    return torch.cat([at_means(problem, rows[0])[None], 2 * rows[1:] @ problem.curvature])
