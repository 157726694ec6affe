"""Which methods are trained on which problems, at which temperatures of the posterior; and what must come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

import methods
from solvers import enumeration
from studies.truth.cases import NATURAL, RANKS
from studies.truth.learning import KL, Learner, best_independent, learn
from studies.truth.problems import EXAMPLES, Tiny
from studies.truth.rows import Row

PROBLEMS = ("neuron-folded", "neuron-logistic", "network-hardtanh", "network-sign")
# 600 steps at 0.01, annealed, leave exp(-3) of the start; the noise of a draw and that rest make 0.02 nats
SMALL_PROBLEM, SMALL_STEPS, SMALL_WITHIN = "neuron-logistic", 600, 0.1


def learners(ranks: Sequence[int] = RANKS) -> Iterator[Learner]:
    """Every method at its defaults; low rank at each rank.

    But BayesBiNN starts where neither sign is certain, the losses have no BCE output, and `train` has no `prepare`:
    blrnet is read as CE and starts where its law does, without transferred weights.
    """
    for name in ("ste", "bop", "bayesbinn-published"):
        yield Learner(name, "as in training", methods.make(name))
    yield Learner("bayesbinn", "as in training", methods.make("bayesbinn", natural0=NATURAL))
    for name in ("blrnet", "blrnet-propagate"):
        yield Learner(name, "output ce", methods.make(name, output="ce"))
    for estimator in ("rounded", "smooth"):
        yield Learner("gaussian-vi", estimator, methods.make("gaussian-vi", estimator=estimator))
    for rank in ranks:
        made = methods.make("lowrank-sdp", rank=rank)
        yield Learner("lowrank-sdp", f"rounded, rank {rank}", made, "rank", float(rank))
    made = methods.make("lowrank-sdp", estimator="conditional")
    yield Learner("lowrank-sdp", "conditional, rank 4", made)
    yield Learner("lowrank-sdp-published", "as in training", methods.make("lowrank-sdp-published"))


def lessons(
    problems: Mapping[str, Tiny],
    tables: Mapping[str, Tensor],
    *,
    temperatures: Sequence[float],
    ranks: Sequence[int],
    steps: int,
    seeds: int,
) -> Iterator[Row]:
    """Rows of all learners at the first temperature, of ste, bayesbinn and one low rank at the others; small steps."""
    chosen = list(learners(ranks))
    for name in PROBLEMS:
        problem, table = problems[name], tables[name]
        for temperature in temperatures:
            floor = best_independent(table, problem, temperature=temperature)
            point = float(-enumeration.log_posterior(table, examples=EXAMPLES, temperature=temperature).max())
            quantity = f"{KL}, T={temperature:g}"
            yield Row(name, "exact", "best independent signs", quantity, floor, None, 0.0, None)
            yield Row(name, "exact", "point at the optimum", quantity, point, None, 0.0, None)
            for learner in chosen:
                if temperature != temperatures[0] and not _at_every_temperature(learner):
                    continue
                yield from learn(learner, problem, table, temperature=temperature, steps=steps, seeds=seeds)
    yield from small_steps(problems[SMALL_PROBLEM], tables[SMALL_PROBLEM])


def small_steps(problem: Tiny, table: Tensor) -> Iterator[Row]:
    """BayesBiNN at a rate and a temperature so small that it must end where its rule does with exact gradients."""
    made = methods.make("bayesbinn", natural0=NATURAL, lr=0.01, temperature=0.2)
    learner = Learner("bayesbinn", f"small steps, to {SMALL_WITHIN:g} nats", made, within=SMALL_WITHIN)
    yield from learn(learner, problem, table, temperature=4.0, steps=SMALL_STEPS, seeds=2)


def _at_every_temperature(learner: Learner) -> bool:
    return learner.name in ("ste", "bayesbinn") or learner.estimator == "rounded, rank 4"
