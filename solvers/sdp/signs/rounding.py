"""Sign vectors from a factor: random hyperplanes (Goemans and Williamson 1995), then descent or tabu search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int8

from solvers.sdp.problem import Cost, Matrix, cost
from solvers.sdp.signs.elite import evolve
from solvers.sdp.signs.tabu import OneFlip

Local = Literal["none", "descent", "tabu"]


@dataclass(frozen=True, eq=False)
class Rounded:
    """A sign vector and its x'Cx, computed anew (exact where `Cost.value` is)."""

    signs: Int8[np.ndarray, " n"]
    value: float


def round(
    factor: Float[np.ndarray, "rows k"],
    C: Matrix | Cost,
    n: int = 200,
    local: Local = "tabu",
    seed: int = 0,
    *,
    flips: int | None = None,
    seconds: float = math.inf,
    bound: float = -math.inf,
) -> Rounded:
    """The best of `n` roundings sign(V z), z standard normal, improved as `local` says.

    "none": as drawn. "descent": each to a one-flip optimum. "tabu": the best of those found a population of tabu
    searches with `flips` flips in all (None: 2000 a sign), ended by `seconds` (then an answer depends on the machine)
    or by a vector that reaches `bound` (as of `Solution.bound_integer`: it is then optimal).
    factor: V, a row a sign. With the same seed the same answer. Raises ValueError.
    """
    problem = C if isinstance(C, Cost) else cost(C)
    _check(factor, problem, n, local, flips, seconds)
    rng = np.random.default_rng(seed)
    moves = OneFlip(problem)
    signs = hyperplanes(factor, n, rng)
    if local != "none":
        signs = moves.descend(signs)
    ranked = np.argsort(moves.values(signs), kind="stable")
    best = signs[ranked[0]]
    if local == "tabu" and problem.value(best) > bound:
        budget = 2000 * problem.n if flips is None else flips
        best = evolve(moves, signs[ranked], rng, flips=budget, seconds=seconds, bound=bound)
    return Rounded(best, problem.value(best))


def hyperplanes(factor: Float[np.ndarray, "rows k"], n: int, rng: np.random.Generator) -> Int8[np.ndarray, "n rows"]:
    """sign(V z) of `n` standard normal z; sign(0) = +1."""
    positive = rng.standard_normal((n, factor.shape[1])) @ factor.T >= 0
    return np.where(positive, 1, -1).astype(np.int8)


def _check(factor: np.ndarray, problem: Cost, n: int, local: str, flips: int | None, seconds: float) -> None:
    if factor.ndim != 2 or len(factor) != problem.n or not np.isfinite(factor).all():
        raise ValueError(
            f"factor must be finite, with one row for each of the {problem.n} rows of C (got shape {factor.shape})"
        )
    if n < 1:
        raise ValueError(f"n={n} hyperplanes; at least 1 is needed")
    if local not in get_args(Local):
        raise ValueError(f"local={local!r}; it is one of {', '.join(map(repr, get_args(Local)))}")
    if flips is not None and flips < 0:
        raise ValueError(f"flips={flips}; a budget is >= 0 (local='descent' makes no tabu search)")
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}; a limit is above 0 (math.inf: none)")
