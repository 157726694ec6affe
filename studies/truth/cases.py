"""The estimators under test, built by the methods' own factories, each with what theory says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import methods
from core.gaussian_laws import UnitGaussian
from core.interface import Rng, WeightLaw
from core.low_rank import LowRank, LowRankPlusDiagonal
from core.ops import sign
from solvers import enumeration
from studies.truth import exact, hidden_units, theory
from studies.truth.exact import Reference
from studies.truth.gradients import Case
from studies.truth.problems import Tiny

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
RANKS = (1, 2, 4, 8)
NATURAL = 0.6  # |lambda| of the Bernoulli laws: means of 0.54, where neither sign is certain
LARGEST_MEAN = 0.6  # of the unit Gaussians, for the same reason
LOW_RANK = {"scale0": 0.5, "diagonal": 0.3}  # neither mu nor Z alone makes the signs
PUBLISHED = {"rank": 2, "precision": 4.0}  # at the released 100 hardly a sign is uncertain, nor a gradient above 0
MULTILINEAR, QUADRATIC = frozenset({"multilinear"}), frozenset({"quadratic"})
POLYNOMIAL, OTHER = MULTILINEAR | QUADRATIC, frozenset({""})
ALL = POLYNOMIAL | OTHER


def cases(temperatures: Sequence[float] = TEMPERATURES, ranks: Sequence[int] = RANKS) -> Iterator[Case]:
    """Every estimator, the relaxed one at every temperature and the low-rank ones at every rank."""
    yield Case(
        "ste",
        "identity at the sign",
        methods.make("ste"),
        _flips,
        objective="E f(w) in the mean",
        unbiased=MULTILINEAR,
        biased=QUADRATIC | OTHER,
        predicted=_unit_slope,
    )
    for temperature in temperatures:
        yield Case(
            "bayesbinn",
            f"relaxed sign, temperature {temperature:g}",
            methods.make("bayesbinn", temperature=temperature, natural0=NATURAL),
            _means,
            predicted=lambda problem, law, t=temperature: theory.relaxed(problem, _parameter(law), t),
            parameter="temperature",
            at=temperature,
        )
    yield Case(
        "bayesbinn-published",
        "floored slope",
        methods.make("bayesbinn-published", natural0=NATURAL),
        _means,
        biased=ALL,
        predicted=_unit_slope,
    )
    # in one neuron the moments are all there is; a logistic loss of the mean ignores the variance
    for name, estimator, enumerated in (
        ("blrnet", "moments, sampled signs", hidden_units.sampled),
        ("blrnet-propagate", "moments, propagated signs", hidden_units.propagated),
    ):
        yield Case(
            name,
            estimator,
            methods.make(name, output="ce"),
            _means,
            unbiased=POLYNOMIAL,
            biased=OTHER,
            predicted=lambda problem, law: _through_mean(law, theory.at_means(_folded(problem), law.mean())),
            enumerated=enumerated,
        )
    yield from _diagonal()
    for rank in ranks:
        yield from _low_rank(rank)
    yield Case(
        "lowrank-sdp-published",
        "rounded, rank {rank}, precision {precision:g}".format(**PUBLISHED),
        methods.make("lowrank-sdp-published", **PUBLISHED),
        _published_rows,
        biased=ALL,
        # the gradient of Z is taken times the unit normal: that of the columns the draws use, not of the stored ones
        predicted=lambda problem, law: theory.rounded_rows(problem, _columns(law)),
    )


def bce_cases() -> Iterator[Case]:
    """BLRNet's default output, which reads the variance too; on `problems.positive` of hidden signs."""
    for name, estimator, enumerated in (
        ("blrnet", "moments, sampled signs, output bce", hidden_units.sampled_bce),
        ("blrnet-propagate", "moments, propagated signs, output bce", hidden_units.propagated_bce),
    ):
        made = methods.make(name)
        yield Case(name, estimator, made, _chances, "-log P(y h > 0)", biased=OTHER, enumerated=enumerated, only=OTHER)


def _diagonal() -> Iterator[Case]:
    """gaussian-vi: signs of independent Gaussians with m^2 + s^2 = 1."""
    rounded, smooth = (methods.make("gaussian-vi", estimator=e, init=LARGEST_MEAN) for e in ("rounded", "smooth"))
    yield Case("gaussian-vi", "rounded, held spread", rounded, _means, biased=ALL, predicted=_unit_slope)
    relaxed = {"objective": "E f(z)", "only": POLYNOMIAL, "exact": _relaxed_means}
    yield Case(
        "gaussian-vi",
        "smooth, moving spread",
        smooth,
        unbiased=POLYNOMIAL,
        predicted=lambda problem, law: theory.at_means(_folded(problem), _parameter(law)),
        **relaxed,
    )
    held = replace(smooth, law=lambda shape, rng: UnitGaussian(_parameter(smooth.law(shape, rng)), spread="held"))
    yield Case(
        "gaussian-vi",
        "smooth, held spread",
        held,
        unbiased=MULTILINEAR,
        biased=QUADRATIC,
        predicted=lambda problem, law: theory.at_means(problem, _parameter(law)),
        **relaxed,
    )


def _low_rank(rank: int) -> Iterator[Case]:
    """lowrank-sdp: signs of z = mu + Z r with unit rows, K = rank normals a layer."""
    at = {"parameter": "rank", "at": float(rank)}
    rounded, smooth, conditional = (
        methods.make("lowrank-sdp", rank=rank, estimator=estimator, **LOW_RANK)
        for estimator in ("rounded", "smooth", "conditional")
    )
    yield Case(
        "lowrank-sdp",
        f"rounded, rank {rank}",
        rounded,
        _rounded_rows,
        biased=ALL,
        predicted=lambda problem, law: theory.rounded_rows(problem, _parameter(law)),
        **at,
    )
    yield Case(
        "lowrank-sdp",
        f"smooth, rank {rank}",
        smooth,
        _relaxed_rows,
        objective="E f(z)",
        unbiased=POLYNOMIAL,
        predicted=lambda problem, law: theory.smooth_rows(problem, _parameter(law)),
        only=POLYNOMIAL,
        **at,
    )
    yield Case(
        "lowrank-sdp",
        f"conditional, rank {rank}",
        conditional,
        _conditional_rows,
        unbiased=MULTILINEAR,
        biased=QUADRATIC | OTHER,
        **at,
    )


def _means(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    return exact.of_means(table, laws)


def _chances(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    first, last = problem.split(enumeration.signs(problem.weights))
    hidden = sign(problem.inputs @ first.mT)
    right = problem.targets * (hidden @ last.mT).squeeze(-1) > 0
    return exact.of_chances(right.double(), laws)


def _flips(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    return exact.of_flips(table, laws)


def _relaxed_means(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    # E[z_i^2] = 1 whatever the mean is: the squares add a constant to E f(z)
    gradient = theory.at_means(_folded(problem), _parameter(laws[0]))
    return [Reference(gradient, torch.zeros_like(gradient))]


def _rounded_rows(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    return exact.of_rounded_rows(table, [_parameter(law) for law in laws], rng)


def _published_rows(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    found = exact.of_rounded_rows(table, [_columns(law) for law in laws], rng)
    chain = torch.ones(1 + PUBLISHED["rank"], 1, 1, dtype=torch.float64)
    chain[1:] /= math.sqrt(PUBLISHED["precision"])
    return [Reference(r.gradient * chain, r.error * chain) for r in found]


def _relaxed_rows(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    gradient = theory.smooth_rows(problem, _parameter(laws[0]))
    return [Reference(gradient, torch.zeros_like(gradient))]


def _conditional_rows(problem: Tiny, table: Tensor, laws: Sequence[WeightLaw], rng: Rng) -> list[Reference]:
    (diagonal,) = {law.diagonal for law in laws if isinstance(law, LowRankPlusDiagonal)}
    return exact.of_diagonal_rows(table, [_parameter(law) for law in laws], diagonal, rng)


def _unit_slope(problem: Tiny, law: WeightLaw) -> Tensor:
    return theory.at_means(problem, law.mean())


def _parameter(law: WeightLaw) -> Tensor:
    (coordinate,) = law.coordinates()
    return coordinate.parameter.detach()


def _columns(law: WeightLaw) -> Tensor:
    assert isinstance(law, LowRank)
    return law.columns().detach()


def _through_mean(law: WeightLaw, gradient: Tensor) -> Tensor:
    """A gradient in the means, in the law's parameter."""
    (chained,) = torch.autograd.grad(law.mean(), law.coordinates()[0].parameter, gradient)
    return chained


def _folded(problem: Tiny) -> Tiny:
    """The problem with w_i^2 = 1 put in, which moments know by themselves."""
    assert problem.curvature is not None
    return replace(problem, curvature=problem.curvature - torch.diag(problem.curvature.diagonal()))
