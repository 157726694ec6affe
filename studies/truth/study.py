"""The whole study as rows: facts, gradients, learnt laws. A size says how much of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from studies.truth import gradients, low_rank_facts, relaxed_facts, stochastic_units
from studies.truth.cases import RANKS, TEMPERATURES, bce_cases, cases
from studies.truth.learners import lessons
from studies.truth.problems import positive, problems
from studies.truth.rows import Row


@dataclass(frozen=True)
class Size:
    """draws: gradients an estimator is measured by (facts take ten times as many). temperatures: of the relaxed sign;
    posteriors: of the posterior; steps, seeds: of training.
    """

    draws: int = 20_000
    temperatures: tuple[float, ...] = TEMPERATURES
    ranks: tuple[int, ...] = RANKS
    posteriors: tuple[float, ...] = (1.0, 0.25, 4.0)
    steps: int = 200
    seeds: int = 3


QUICK = Size(draws=4_000, temperatures=(1.0,), ranks=(1,), posteriors=(1.0,), steps=10, seeds=1)


def rows(size: Size, *, told: Callable[[str], None] = lambda part: None) -> Iterator[Row]:
    """Every row, in the order of the table; `told` hears which part begins."""
    found = problems()
    tables = {name: problem.table() for name, problem in found.items()}
    told("facts")
    yield from relaxed_facts.gumbel_scale(10 * size.draws)
    yield from stochastic_units.straight_through_scale(5 * size.draws)
    yield from low_rank_facts.facts(found["neuron-squared"], 5 * size.draws)
    for case in cases(size.temperatures, size.ranks):
        told(f"gradients: {case.name}, {case.estimator}")
        for name, problem in found.items():
            if problem.degree in case.only:
                yield from gradients.measure(case, problem, tables[name], draws=size.draws)
    told("gradients: output bce")
    name = "network-sign"
    for case in bce_cases():
        yield from gradients.measure(case, replace(found[name], loss=positive), tables[name], draws=size.draws)
    told("learnt laws")
    yield from lessons(
        found, tables, temperatures=size.posteriors, ranks=size.ranks, steps=size.steps, seeds=size.seeds
    )
