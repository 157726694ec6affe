"""Every estimator's gradient against the exact one: relative bias, cosine, norm ratio, variance of one draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from core.interface import Method, Rng, WeightLaw
from core.seeds import generator
from studies.truth.exact import Reference
from studies.truth.problems import Tiny
from studies.truth.rows import Row, Sample, Z, cosine
from studies.truth.stacked import gradients

CHUNK = 5_000  # draws in one pass

Exact = Callable[[Tiny, Tensor, Sequence[WeightLaw], Rng], list[Reference]]
Predicted = Callable[[Tiny, WeightLaw], Tensor]
Enumerated = Callable[[Tiny, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Case:
    """An estimator of a method, and what theory says of it.

    exact: the gradient that it is measured against, of the objective named in `objective`. unbiased, biased: degrees of
    the problems ("multilinear", "quadratic", "" for all others) on which theory says it is, or is not. predicted: its
    mean on quadratic losses, where theory has it in closed form. enumerated: its mean on the others, flat, of the
    parameters of all layers, where the hidden units can be enumerated.
    """

    name: str
    estimator: str
    method: Method
    exact: Exact
    objective: str = "E f(w)"
    unbiased: frozenset[str] = frozenset()
    biased: frozenset[str] = frozenset()
    predicted: Predicted | None = None
    enumerated: Enumerated | None = None
    only: frozenset[str] = frozenset({"multilinear", "quadratic", ""})
    parameter: str = ""
    at: float = float("nan")


def laws_of(case: Case, problem: Tiny) -> list[WeightLaw]:
    """The method's own laws for each layer, in float64; the same starting point for all estimators of a method."""
    return [
        case.method.law(Size(shape), generator("oracle", "laws", problem.name, i)).double()
        for i, shape in enumerate(problem.shapes)
    ]


def measure(case: Case, problem: Tiny, table: Tensor, *, draws: int) -> list[Row]:
    """The rows of one estimator on one problem, from `draws` training passes."""
    laws = laws_of(case, problem)
    references = case.exact(problem, table, laws, generator("oracle", "reference", problem.name, case.name))
    exact = torch.cat([r.gradient.flatten() for r in references])
    error = torch.cat([r.error.flatten() for r in references])
    sample = Sample.of(_draws(case, problem, laws, draws))
    return list(_rows(case, problem, sample, exact, error, _predicted(case, problem, laws)))


def _predicted(case: Case, problem: Tiny, laws: Sequence[WeightLaw]) -> Tensor | None:
    """What theory says the mean of all gradients is, flat; None where it says nothing."""
    if problem.degree:
        return None if case.predicted is None else case.predicted(problem, laws[0]).detach().flatten()
    if case.enumerated is None:
        return None
    return case.enumerated(problem, [law.coordinates()[0].parameter.detach() for law in laws])


def _draws(case: Case, problem: Tiny, laws: Sequence[WeightLaw], draws: int) -> Tensor:
    rng = generator("oracle", "draws", problem.name)  # the same noise for every method that uses it alike
    chunks = []
    for start in range(0, draws, CHUNK):
        found = gradients(problem, laws, case.method.train(0.0), min(CHUNK, draws - start), rng)
        chunks.append(torch.cat([g.flatten(1) for layer in found for g in layer], 1))
    return torch.cat(chunks)


def _rows(
    case: Case, problem: Tiny, sample: Sample, exact: Tensor, error: Tensor, predicted: Tensor | None
) -> Iterator[Row]:
    size = float(exact.norm())
    bias = sample.mean - exact
    found = not sample.agrees(exact, error)
    holds = None
    if problem.degree in case.unbiased:
        holds = not found
    elif problem.degree in case.biased:
        holds = found
    expected = 0.0 if problem.degree in case.unbiased else None
    if predicted is not None:
        expected = float((predicted - exact).norm()) / size
        holds = holds is not False and sample.agrees(predicted)
    noise = float((sample.errors**2 + error**2).sum().sqrt()) / size  # what the norm of pure noise would be

    def row(quantity: str, value: float, exact: float | None, stderr: float, holds: bool | None) -> Row:
        about = f"{quantity} of the gradient of {case.objective}"
        return Row(problem.name, case.name, case.estimator, about, value, exact, stderr, holds, case.parameter, case.at)

    yield row("relative bias", float(bias.norm()) / size, expected, noise, holds)
    along = sample.error_along(exact / size) / size
    across = math.sqrt(max(0.0, float((sample.errors**2).sum()) / size**2 - along**2))
    # whatever its bias, every one of these estimators is trained by: its mean step must lower the objective
    descends = float(sample.mean @ exact) / size**2 > Z * along
    angle = None if predicted is None else cosine(predicted, exact)
    yield row("cosine", cosine(sample.mean, exact), angle, across, descends)
    ratio = float(sample.mean.norm()) / size
    yield row("norm ratio", ratio, None if predicted is None else float(predicted.norm()) / size, along, None)
    yield row("relative variance", sample.variance / size**2, None, sample.variance_error / size**2, None)
