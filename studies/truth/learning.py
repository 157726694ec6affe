"""What methods learn on problems whose posterior and optimum are known: KL to the posterior, distance of the mode.

Trained by the product's loop and the methods' own solvers. A law of independent signs has its KL by enumeration; one
of dependent signs from a histogram of draws. Only BayesBiNN's objective is that KL; the others are told how far from
it they end. Its floor is the best law of independent signs, by the Bayesian learning rule with exact gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Size, Tensor, vmap

from core.fit import Run, fit
from core.interface import Budget, Context, Method, WeightLaw
from core.laws import Point
from core.seeds import generator
from solvers import enumeration
from studies.truth.problems import EXAMPLES, Tiny
from studies.truth.rows import Row, agrees

KL = "KL(learnt law || posterior)"
DRAWS = 200_000  # of a dependent law, for its histogram
STARTS, SWEEPS, RATE = 2, 100, 0.2  # of the search for the best independent law


@dataclass(frozen=True)
class Learner:
    """A method to train, and how its rows are called. within: nats from the exact rule's KL that it must end in."""

    name: str
    estimator: str
    method: Method
    parameter: str = ""
    at: float = math.nan
    within: float | None = None


def learn(
    learner: Learner, problem: Tiny, table: Tensor, *, temperature: float, steps: int, seeds: int
) -> Iterator[Row]:
    """Train with `seeds` seeds on the loss / temperature; means over seeds with their standard errors.

    exact: for a point at w, -log p(w) = -log p(best) + N (f(w) - f(best)) / T, which must be found; for BayesBiNN,
    where its rule ends with exact gradients from the same start, to which `learner.within` may hold it: the two meet as
    rate and temperature tend to 0 and the steps to infinity, and of few steps theory says nothing.
    """
    target = enumeration.log_posterior(table, examples=EXAMPLES, temperature=temperature)
    best, ties = enumeration.optimum(table)
    ends: list[_End] = []
    for seed in range(seeds):
        laws = initial(learner.method, problem, seed)
        exact = math.nan
        if learner.name == "bayesbinn":
            exact = _by_exact_rule(table, torch.cat([_natural(law) for law in laws]), target, temperature)
        train(laws, learner.method, problem, temperature=temperature, steps=steps, seed=seed)
        divergence, error = kl_of(laws, target, seed)
        mode = _mode(laws)
        gap = float(table[enumeration.index(mode)]) - best
        if all(isinstance(law, Point) for law in laws):
            exact = float(-target.max()) + EXAMPLES / temperature * gap
        ends.append(_End(divergence, error, exact, float(enumeration.hamming(mode, ties)), gap))
    yield from _rows(learner, problem, f"T={temperature:g}", ends)


class _End(NamedTuple):
    """How one training ended: KL, its own error, its exact counterpart (nan: none); the mode's distances."""

    divergence: float
    error: float
    exact: float
    distance: float
    gap: float


def _rows(learner: Learner, problem: Tiny, setting: str, ends: Sequence[_End]) -> Iterator[Row]:
    means = torch.tensor(ends, dtype=torch.float64).mean(0).tolist()
    divergence, _, exact, _, _ = means
    known = math.isfinite(exact)

    def row(quantity: str, at: int, exact: float | None, holds: bool | None) -> Row:
        values = torch.tensor([end[at] for end in ends], dtype=torch.float64)
        between = float(values.std()) / math.sqrt(len(ends)) if len(ends) > 1 else 0.0
        within = math.hypot(*(end.error for end in ends)) / len(ends) if at == 0 else 0.0
        about = (learner.name, learner.estimator, f"{quantity}, {setting}")
        stderr = math.hypot(between, within)
        return Row(problem.name, *about, means[at], exact, stderr, holds, learner.parameter, learner.at)

    holds = None
    if known and learner.within is not None:
        holds = abs(divergence - exact) <= learner.within
    elif known and learner.name != "bayesbinn":
        holds = agrees(divergence, exact, 0.0)
    yield row(KL, 0, exact if known else None, holds)
    yield row("Hamming distance of the mode to the optimum", 3, 0.0, None)
    yield row("loss of the mode above the optimum", 4, 0.0, None)


def initial(method: Method, problem: Tiny, seed: int) -> list[WeightLaw]:
    """The method's laws as training starts, in float64."""
    return [
        method.law(Size(shape), generator("oracle", "initial", problem.name, i, seed)).double()
        for i, shape in enumerate(problem.shapes)
    ]


def train(
    laws: Sequence[WeightLaw], method: Method, problem: Tiny, *, temperature: float, steps: int, seed: int
) -> None:
    """Move the laws by `steps` full-batch steps of the product's loop, the rate annealed to zero."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return problem.loss(output, targets) / temperature

    def objective(loss: Tensor, context: Context) -> Tensor:
        return loss + problem.folding(context.tape) / temperature

    run = Run(
        problem.network(laws),
        replace(method, loss=loss, objective=objective, prepare=None),
        problem.inputs,
        problem.targets,
        Budget(n_train=EXAMPLES, batch=EXAMPLES, steps=steps),
        schedule="cosine",
        order=generator("oracle", "order", seed),
        noise=generator("oracle", "noise", problem.name, seed),
    )
    ended = fit(run)
    if ended.diverged is not None:
        raise RuntimeError(f"training on {problem.name} diverged: {ended.diverged}")


def kl_of(laws: Sequence[WeightLaw], target: Tensor, seed: int) -> tuple[float, float]:
    """KL(law || target) and its standard error, 0 where it is enumerated."""
    if all(law.independent for law in laws):
        means = torch.cat([law.mean().detach().flatten() for law in laws])
        return float(enumeration.kl(enumeration.log_product(torch.atanh(means)), target)), 0.0
    rng = generator("oracle", "histogram", seed)
    drawn = torch.cat([_drawn(law, rng).flatten(1) for law in laws], 1)
    divergence, error = enumeration.kl_of_draws(enumeration.index(drawn), target)
    return float(divergence), float(error)


def best_independent(table: Tensor, problem: Tiny, *, temperature: float) -> float:
    """The least KL(q || posterior) found among laws of independent signs.

    By the exact learning rule from several starts, the optimum among them: a local search, an upper bound of the floor.
    """
    target = enumeration.log_posterior(table, examples=EXAMPLES, temperature=temperature)
    rng, (_, ties) = generator("oracle", "floor", problem.name), enumeration.optimum(table)
    starts = [torch.randn(problem.weights, generator=rng, dtype=torch.float64) for _ in range(STARTS)]
    found = [_by_exact_rule(table, start, target, temperature) for start in (*starts, ties[0])]
    return min(*found, float(-target.max()))  # a point is a law of independent signs too


def _by_exact_rule(table: Tensor, natural: Tensor, target: Tensor, temperature: float) -> float:
    """KL where lambda <- (1 - rate) lambda - rate N / T grad_mu E[f] ends, with exact gradients, from `natural`."""
    for _ in range(SWEEPS):
        pull = EXAMPLES / temperature * enumeration.mean_gradient(table, torch.tanh(natural))
        natural = (1 - RATE) * natural - RATE * pull
    return float(enumeration.kl(enumeration.log_product(natural), target))


def _natural(law: WeightLaw) -> Tensor:
    return torch.atanh(law.mean().detach().flatten())


def _mode(laws: Sequence[WeightLaw]) -> Tensor:
    return torch.cat([law.mode().detach().flatten() for law in laws])


def _drawn(law: WeightLaw, rng: torch.Generator) -> Tensor:
    """DRAWS sign vectors of a law whose noise is a vector of standard normals, (DRAWS, *shape)."""
    noise = law.noise(rng)
    assert noise is not None and noise.ndim == 1
    normals = torch.randn(DRAWS, len(noise), generator=rng, dtype=noise.dtype)
    return law.values(vmap(law.latent)(normals).detach())
