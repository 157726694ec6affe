"""Exact gradients of E[loss] in the coordinates of every kind of law, from the table of all networks.

Independent laws: the chain rule from E[f] as a polynomial of the means. Signs of a rank-K Gaussian z = mu + Z r: the
derivative of a sign is twice a delta, so d E / d (mu_i, Z_i) = (2 phi(a_i) / s_i) E[(1, r) D_i f | z_i = 0], with
s_i = |Z_i| and a_i = mu_i / s_i; for K <= 2 by exact integrals of step functions, else by drawing r given z_i = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from core.interface import Rng, WeightLaw
from core.ops import sign
from solvers import enumeration

CONDITIONAL_DRAWS = 20_000
NODES = 96  # of Gauss-Hermite quadrature, a dimension: relative error 3e-6 at d = 0.3, |row| = 1
LINE = 12.0  # standard normals beyond it have probability 4e-33


class Reference(NamedTuple):
    """What an estimator is measured against: the gradient of one law's only parameter, and its standard error."""

    gradient: Tensor
    error: Tensor


def of_means(table: Tensor, laws: Sequence[WeightLaw]) -> list[Reference]:
    """Gradient of E[f] for independent laws, by autograd through their means; exact."""
    means = [law.mean() for law in laws]
    value = enumeration.multilinear(table, torch.cat([mean.flatten() for mean in means]))
    parameters = [law.coordinates()[0].parameter for law in laws]
    return [_exactly(gradient) for gradient in torch.autograd.grad(value, parameters)]


def of_chances(right: Tensor, laws: Sequence[WeightLaw]) -> list[Reference]:
    """Gradient of -mean_b log P(right_b) for independent laws. right: (table, B), 1 where a network has b right."""
    parameters = [law.coordinates()[0].parameter for law in laws]
    log_law = enumeration.log_product(torch.atanh(torch.cat([law.mean().flatten() for law in laws])))
    value = -(log_law.exp() @ right).log().mean()
    return [_exactly(gradient) for gradient in torch.autograd.grad(value, parameters)]


def of_flips(table: Tensor, laws: Sequence[WeightLaw]) -> list[Reference]:
    """Half the gain of flipping each weight of a point law: the gradient of E[f] in the means, at the signs."""
    signs = torch.cat([law.mode().detach().flatten() for law in laws])
    gradients = enumeration.mean_gradient(table, signs).split([law.shape.numel() for law in laws])
    return [_exactly(gradient.reshape(law.shape)) for gradient, law in zip(gradients, laws, strict=True)]


def of_rounded_rows(table: Tensor, rows: Sequence[Tensor], rng: Rng) -> list[Reference]:
    """Gradient of E[f(sign(mu + Z r))] in the rows (K+1, *shape) of every layer, each with its own r.

    One layer of rank <= 2: exact. Else a mean over CONDITIONAL_DRAWS draws a weight, with its standard error.
    """
    if len(rows) == 1 and rows[0].shape[0] <= 3:
        flat = rows[0].flatten(1)
        columns = [_on_line(table, flat, i) for i in range(flat.shape[1])]
        return [_exactly(torch.stack(columns, 1).reshape(rows[0].shape))]
    return [_by_conditioning(table, rows, layer, rng) for layer in range(len(rows))]


def expected_loss_on_line(table: Tensor, rows: Float[Tensor, "2 n"]) -> Tensor:
    """E[f(sign(mu + Z r))] for rank 1, exactly: between the zeros of z the signs, and so the loss, are constant."""
    mean, column = rows
    return _step_moments(table, mean, column)[0]


def expected_loss_in_plane(table: Tensor, rows: Float[Tensor, "3 n"], *, nodes: int = 4001) -> Tensor:
    """The same for rank 2: exact along r_2, trapezoid along r_1 (kinks only, so the error falls as nodes^-2)."""
    grid = torch.linspace(-LINE, LINE, nodes, dtype=rows.dtype)
    inner = torch.vmap(lambda r: _step_moments(table, rows[0] + r * rows[1], rows[2])[0])(grid)
    return torch.trapezoid(inner * _density(grid), grid)


def of_diagonal_rows(table: Tensor, rows: Sequence[Tensor], diagonal: float, rng: Rng) -> list[Reference]:
    """Gradient of E[f(sign(mu + Z r + d eta))], eta a normal a weight, in the rows of every layer.

    One layer of rank <= 2: E_r[f~(m(r))], m = erf((mu + Z r) / (sqrt(2) d)), f~ the polynomial of means, by
    Gauss-Hermite. Else d eta is n more columns of Z, of which no gradient is asked.
    """
    flat = [r.detach().flatten(1) for r in rows]
    if len(rows) == 1 and len(rows[0]) <= 3:
        normals, weights = _normal_nodes(len(rows[0]) - 1)

        def value(parameter: Tensor, r: Tensor) -> Tensor:
            latent = parameter[0] + r @ parameter[1:]
            return enumeration.multilinear(table, torch.erf(latent / (math.sqrt(2) * diagonal)))

        terms = torch.vmap(torch.func.grad(value), in_dims=(None, 0), chunk_size=500)(flat[0], normals)
        return [_exactly(torch.tensordot(weights, terms, 1).reshape(rows[0].shape))]
    wide = [torch.cat([r, diagonal * torch.eye(r.shape[1], dtype=r.dtype)]) for r in flat]
    found = of_rounded_rows(table, wide, rng)
    cut = [(r.gradient[: len(like)], r.error[: len(like)]) for r, like in zip(found, rows, strict=True)]
    return [Reference(g.reshape(r.shape), e.reshape(r.shape)) for (g, e), r in zip(cut, rows, strict=True)]


def _normal_nodes(dimensions: int, nodes: int = NODES) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes (n, dimensions) and weights (n,) of standard normals; from the Jacobi matrix."""
    off = torch.arange(1, nodes, dtype=torch.float64).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    weights = vectors[0] ** 2
    grid = torch.cartesian_prod(*[points] * dimensions).reshape(-1, dimensions)
    product = torch.cartesian_prod(*[weights] * dimensions).reshape(-1, dimensions).prod(1)
    return grid, product


def _on_line(table: Tensor, rows: Tensor, i: int) -> Tensor:
    """The column (mu_i, Z_i) of the exact gradient for rank 1 (r is fixed by z_i = 0) and 2 (r is on a line)."""
    mean, factors = rows[0], rows[1:]
    deviation = factors[:, i].norm()
    weight = 2 * _density(mean[i] / deviation) / deviation
    origin = -mean[i] * factors[:, i] / deviation**2
    derivative = enumeration.discrete_derivative(table, i)
    at_origin = mean + origin @ factors
    if len(factors) == 1:
        return weight * derivative[enumeration.index(at_origin)] * torch.cat([torch.ones_like(origin), origin])
    along = torch.stack([-factors[1, i], factors[0, i]]) / deviation
    total, moment = _step_moments(derivative, at_origin, along @ factors)
    return weight * torch.cat([total[None], total * origin + moment * along])


def _step_moments(values: Tensor, mean: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """E[v(t)] and E[t v(t)], t standard normal, v(t) the table's entry at sign(mean + t column): a step function."""
    never = column == 0  # then z does not move, and has its zero at infinity
    zeros = torch.where(never, math.inf, -mean / torch.where(never, 1.0, column)).sort().values
    ends = torch.cat([torch.full_like(zeros[:1], -math.inf), zeros, torch.full_like(zeros[:1], math.inf)])
    middles = ends.clamp(-LINE, LINE)
    middles = 0.5 * (middles[1:] + middles[:-1])
    steps = values[enumeration.index(mean + middles[:, None] * column)]
    share = torch.special.ndtr(ends).diff()
    density = _density(ends)
    return torch.dot(steps, share), torch.dot(steps, density[:-1] - density[1:])


def _by_conditioning(table: Tensor, rows: Sequence[Tensor], layer: int, rng: Rng) -> Reference:
    flat = [r.flatten(1) for r in rows]
    first = sum(r.shape[1] for r in flat[:layer])
    columns, errors = [], []
    for i in range(flat[layer].shape[1]):
        draws = [torch.randn(CONDITIONAL_DRAWS, len(r) - 1, generator=rng, dtype=r.dtype) for r in flat]
        mean, factor = flat[layer][0, i], flat[layer][1:, i]
        deviation = factor.norm()
        # the normal r given z_i = 0: what it has along Z_i is replaced
        conditioned = draws[layer] - ((draws[layer] @ factor + mean) / deviation**2)[:, None] * factor
        draws[layer] = conditioned
        weights = torch.cat([sign(r[0] + d @ r[1:]) for r, d in zip(flat, draws, strict=True)], 1)
        derivative = enumeration.discrete_derivative(table, first + i)[enumeration.index(weights)]
        ones = torch.ones_like(derivative)[:, None]
        terms = 2 * _density(mean / deviation) / deviation * derivative[:, None] * torch.cat([ones, conditioned], 1)
        columns.append(terms.mean(0))
        errors.append(terms.std(0) / math.sqrt(CONDITIONAL_DRAWS))
    shape = rows[layer].shape
    return Reference(torch.stack(columns, 1).reshape(shape), torch.stack(errors, 1).reshape(shape))


def _exactly(gradient: Tensor) -> Reference:
    return Reference(gradient.detach(), torch.zeros_like(gradient))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
