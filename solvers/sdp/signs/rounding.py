"""Sign vectors from a factor: random hyperplanes (Goemans and Williamson 1995), then descent or tabu search."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int8

from solvers.sdp.problem import Cost, Matrix, cost
from solvers.sdp.signs.elite import MEMBERS, evolve
from solvers.sdp.signs.tabu import OneFlip
from solvers.sdp.solution import Solution, factor_of

AT_ONCE = 2**18  # signs drawn together: memory is of that order, or of n
Local = Literal["none", "descent", "tabu"]


@dataclass(frozen=True, eq=False)
class Rounded:
    """A sign vector and its x'Cx, computed anew (exact where `Cost.value` is)."""

    signs: Int8[np.ndarray, " n"]
    value: float


def round(
    factor: Float[np.ndarray, "rows k"] | Solution,
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
    searches with `flips` flips in all (None: 2000 a sign), ended by a vector that reaches `bound` (as of
    `Solution.bound_integer`: it is then optimal).
    seconds: a limit of all this, after which nothing is begun (then an answer depends on the machine).
    factor: V, a row a sign, or a solution. With the same seed the same answer. Raises ValueError and TypeError.
    """
    ends = time.perf_counter() + seconds
    problem, V = C if isinstance(C, Cost) else cost(C), factor_of(factor)
    _check(V, problem, n, local, flips, seconds)
    rng = np.random.default_rng(seed)
    moves = OneFlip(problem)
    starts = _best_drawn(moves, V, n, local, rng, ends)
    best, left = starts[0], ends - time.perf_counter()
    if local == "tabu" and left > 0 and problem.value(best) > bound:
        budget = 2000 * problem.n if flips is None else flips
        best = evolve(moves, starts, rng, flips=budget, seconds=left, bound=bound)
    return Rounded(best, problem.value(best))


def hyperplanes(factor: Float[np.ndarray, "rows k"], n: int, rng: np.random.Generator) -> Int8[np.ndarray, "n rows"]:
    """sign(V z) of `n` standard normal z; sign(0) = +1."""
    positive = rng.standard_normal((n, factor.shape[1])) @ factor.T >= 0
    return np.where(positive, np.int8(1), np.int8(-1))


def _best_drawn(
    moves: OneFlip, factor: np.ndarray, n: int, local: Local, rng: np.random.Generator, ends: float
) -> np.ndarray:
    """The best of n roundings, as many as a population begins with, least value first."""
    signs, values = np.empty((0, len(factor)), dtype=np.int8), np.empty(0)
    size = max(1, AT_ONCE // len(factor))
    for drawn in range(0, n, size):
        new = hyperplanes(factor, min(size, n - drawn), rng)
        if local != "none":
            new = moves.descend(new)
        signs, values = np.concatenate([signs, new]), np.concatenate([values, moves.values(new)])
        best = np.argsort(values, kind="stable")[:MEMBERS]
        signs, values = signs[best], values[best]
        if time.perf_counter() > ends:
            break
    return signs


def _check(factor: np.ndarray, problem: Cost, n: int, local: str, flips: int | None, seconds: float) -> None:
    if len(factor) != problem.n or not np.isfinite(factor).all():
        raise ValueError(
            f"factor must be finite, with one row for each of the {problem.n} rows of C (got shape {factor.shape})"
        )
    for name, count in (("n", n), ("flips", flips)):
        if count is not None and not isinstance(count, int | np.integer):
            raise TypeError(f"{name}={count!r}; it must be an integer")
    if n < 1:
        raise ValueError(f"n={n} hyperplanes; at least 1 is needed")
    if local not in get_args(Local):
        raise ValueError(f"local={local!r}; it is one of {', '.join(map(repr, get_args(Local)))}")
    if flips is not None and flips < 0:
        raise ValueError(f"flips={flips}; a budget is >= 0 (local='descent' makes no tabu search)")
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}; a limit is above 0 (math.inf: none)")
