"""Known facts of rounded Gaussians and of their straight-through gradient, measured in the product's laws."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, vmap

from core.geometry import UnitRows
from core.interface import Reading, Rng
from core.low_rank import LowRank, SymmetricLowRank, goemans_williamson, sign_fixed_mean
from core.ops import ClippedStraightThrough, StraightThrough, sign
from core.readings import Draw, SignActivation
from core.seeds import generator
from studies.truth.exact import expected_loss_in_plane, expected_loss_on_line, of_rounded_rows
from studies.truth.problems import Tiny
from studies.truth.rows import Row, Sample, agrees
from studies.truth.stacked import gradients

STEP = 1e-4  # of central differences
RANK, WEIGHTS = 3, 6


def facts(problem: Tiny, draws: int) -> Iterator[Row]:
    """All of them. problem: one neuron with a loss quadratic in its weights."""
    yield from sign_prime(generator("oracle", "sign prime"))
    yield from zero_mean_factor(problem, draws)
    yield from bussgang(draws)
    yield from rounded_moments(draws)


def sign_prime(rng: Rng) -> Iterator[Row]:
    """The gradient of E[f(sign(mu + Z r))] by deltas, against central differences of exact expectations; any table f.

    value: the largest difference relative to the gradient; stderr: what the differences themselves may be off.
    """
    # rank 1: rounding over STEP, and STEP^2. rank 2: the trapezoid's kinks, (24 / 4000)^2 / 8, over the wider step
    for rank, weights, step, allowed in ((1, 5, STEP, 1e-6), (2, 3, 10 * STEP, 4e-3)):
        table = torch.randn(2**weights, generator=rng, dtype=torch.float64)
        rows = torch.randn(rank + 1, weights, generator=rng, dtype=torch.float64)
        value = expected_loss_on_line if rank == 1 else expected_loss_in_plane
        differences = torch.empty_like(rows)
        for k, i in torch.cartesian_prod(torch.arange(rank + 1), torch.arange(weights)).tolist():
            shift = torch.zeros_like(rows)
            shift[k, i] = step
            differences[k, i] = (value(table, rows + shift) - value(table, rows - shift)) / (2 * step)
        (reference,) = of_rounded_rows(table, [rows], rng)
        worst = float((differences - reference.gradient).abs().max() / reference.gradient.norm())
        about = (f"exact gradient, rank {rank}", "its largest difference from finite differences")
        yield Row("random table", "lowrank-sdp", *about, worst, 0.0, allowed, worst <= allowed)


def zero_mean_factor(problem: Tiny, draws: int) -> Iterator[Row]:
    """At mu = 0 the rounded gradient in Z is sqrt(2 / pi) times Burer-Monteiro's 2 C Z, for any quadratic loss."""
    assert problem.curvature is not None
    straight = Reading(Draw(StraightThrough()), SignActivation(ClippedStraightThrough()))
    for rank in (1, 4):
        rng = generator("oracle", "zero mean", rank)
        rows = UnitRows().project(torch.randn(rank, *problem.shapes[0], generator=rng, dtype=torch.float64))
        ((found,),) = gradients(problem, [SymmetricLowRank(rows)], straight, draws, rng)
        exact = (2 * rows @ problem.curvature).flatten()
        sample = Sample.of(found.flatten(1))
        size = float(exact.norm())
        factor = float(torch.dot(sample.mean, exact)) / size**2
        error = sample.error_along(exact / size) / size
        expected = math.sqrt(2 / math.pi)
        holds = agrees(factor, expected, error) and sample.agrees(expected * exact)
        about = (f"rounded, rank {rank}, zero mean", "factor of the gradient 2 C Z of E f(z)")
        yield Row(problem.name, "lowrank-sdp", *about, factor, expected, error, holds)


def bussgang(draws: int) -> Iterator[Row]:
    """E[sign(z_i) r_k] = (2 phi(a_i) / s_i) Z_ik: one row, the factor of regression on the right-hand side."""
    rng = generator("oracle", "bussgang")
    law = LowRank(UnitRows().project(torch.randn(RANK + 1, WEIGHTS, generator=rng, dtype=torch.float64)))
    mean, factors = law.rows.detach()[0], law.rows.detach()[1:]
    normals = torch.randn(draws, RANK, generator=rng, dtype=torch.float64)
    signs = sign(vmap(law.latent)(normals).detach())
    sample = Sample.of((normals[:, :, None] * signs[:, None]).flatten(1))
    deviation = factors.norm(dim=0)
    density = torch.exp(-0.5 * (mean / deviation) ** 2) / math.sqrt(2 * math.pi)
    exact = (2 * density / deviation * factors).flatten()
    size = float(exact.norm())
    factor = float(torch.dot(sample.mean, exact)) / size**2
    about = (f"draws, rank {RANK}", "E[sign(z) r] over (2 phi(a) / s) Z")
    error = sample.error_along(exact / size) / size
    yield Row("law alone", "lowrank-sdp", *about, factor, 1.0, error, sample.agrees(exact))


def rounded_moments(draws: int) -> Iterator[Row]:
    """Means and pair moments of both roundings: erf(a / sqrt 2) with the mean held, (2 / pi) asin with it drawn too."""
    rng = generator("oracle", "moments")
    rows = UnitRows().project(torch.randn(RANK + 1, WEIGHTS, generator=rng, dtype=torch.float64))
    law, i, j = LowRank(rows), *torch.triu_indices(WEIGHTS, WEIGHTS, 1)
    asin = torch.asin((rows.mT @ rows).clamp(-1, 1)) * 2 / math.pi
    for name, drawn, mean, pairs in (
        ("mean held", sign_fixed_mean(rows, draws, rng), law.mean().detach(), law.second_moment()),
        ("Goemans-Williamson", goemans_williamson(rows, draws, rng), torch.asin(rows[0]) * 2 / math.pi, asin),
    ):
        yield _largest(f"rounding, {name}", "E[w]", drawn, mean)
        yield _largest(f"rounding, {name}", "E[w_i w_j]", drawn[:, i] * drawn[:, j], pairs[i, j])


def _largest(estimator: str, quantity: str, drawn: Tensor, exact: Tensor) -> Row:
    """The entry that is farthest from its exact value, in standard errors."""
    sample = Sample.of(drawn)
    worst = int(((sample.mean - exact).abs() / sample.errors.clamp_min(1e-300)).argmax())
    value, error = float(sample.mean[worst]), float(sample.errors[worst])
    about = f"{quantity}, the entry farthest off"
    return Row("law alone", "lowrank-sdp", estimator, about, value, float(exact[worst]), error, sample.agrees(exact))
