"""E[sign(x) sign(y)] of two correlated normals: the orthant probability behind every pair moment of rounded Gaussians.

Plackett 1954: the derivative of the orthant probability in the correlation is the density at the thresholds.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

PANELS, NODES = 24, 32  # of the quadrature: at most 1.8 units of log angle a panel, where the integrand is smooth
SMALLEST = 1e-18  # radians: the integral below is no larger than this
CERTAIN = 40.0  # standard deviations beyond which a sign is certain in float64


def angle_between(x: Float[Tensor, "R pairs"], y: Float[Tensor, "R pairs"]) -> Float[Tensor, " pairs"]:
    """Angle in [0, pi] between the columns of x and y, none of them zero; equal columns give exactly 0.

    2 atan2(|u - v|, |u + v|) of the unit columns (Kahan): acos of the inner product loses half the digits at 0 and pi.
    """
    u, v = x / x.norm(dim=0), y / y.norm(dim=0)
    return 2 * torch.atan2((u - v).norm(dim=0), (u + v).norm(dim=0))


def sign_product(
    a: Float[Tensor, " pairs"], b: Float[Tensor, " pairs"], angle: Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """E[sign(x) sign(y)], x ~ N(a, 1), y ~ N(b, 1), correlation rho = cos(angle); float64, to 1e-13.

    4 Phi2(a, b; rho) - 2 Phi(a) - 2 Phi(b) + 1 = erf(a / sqrt 2) erf(b / sqrt 2) + 4 int_0^rho phi2(a, b; t) dt. With
    t = cos(u) the integral is over the angle u, and at a = b = 0 the whole is 1 - 2 angle / pi = (2 / pi) asin rho.
    """
    # opposite signs of rho: (x, -y) has the supplementary angle and minus the moment
    flip = torch.where(angle > math.pi / 2, -1.0, 1.0).double()
    a, b = a.double().clamp(-CERTAIN, CERTAIN), flip * b.double().clamp(-CERTAIN, CERTAIN)
    least = torch.minimum(angle.double(), math.pi - angle.double())
    independent = torch.erf(a / math.sqrt(2)) * torch.erf(b / math.sqrt(2))
    return flip * (independent + 2 / math.pi * _density_integral(a[:, None], b[:, None], least[:, None]))


def _density_integral(a: Tensor, b: Tensor, least: Tensor) -> Tensor:
    """Over u from `least` to pi / 2 of exp(-((a - b)^2 / (2 sin^2 u) + a b / (1 + cos u))).

    In log u, where the fall of exp(-c / u^2) towards u = 0 has a width of order 1 whatever c is; Gauss-Legendre.
    """
    points, weights = (torch.from_numpy(v).to(least.device) for v in _panels())
    start, end = least.clamp_min(SMALLEST).log(), math.log(math.pi / 2)
    u = torch.exp(start + (end - start) * points)
    exponent = (a - b) ** 2 / (2 * torch.sin(u) ** 2) + a * b / (1 + torch.cos(u))
    return ((end - start) * weights * u * torch.exp(-exponent)).sum(1)


def _panels() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the composite rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    starts = np.arange(PANELS)[:, None]
    return ((starts + (nodes + 1) / 2) / PANELS).ravel(), np.tile(weights / 2 / PANELS, PANELS)
