"""Sign vectors from a factor: random hyperplanes, then descent or tabu search. Goemans and Williamson 1995."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int8

from solvers.sdp.problem import Cost, Matrix, cost
from solvers.sdp.tabu import OneFlip

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
    flips: int = 100_000,
) -> Rounded:
    """The best of `n` roundings sign(V z), z standard normal, each improved as `local` says.

    "none": as drawn; "descent": to a one-flip optimum; "tabu": from the best of these, `flips` flips of tabu search.
    """
    problem = C if isinstance(C, Cost) else cost(C)
    rng = np.random.default_rng(seed)
    signs = hyperplanes(factor, n, rng)
    moves = OneFlip(problem)
    if local != "none":
        signs = moves.descend(signs)
    values = moves.values(signs)
    best = signs[int(values.argmin())]
    if local == "tabu":
        best = moves.tabu(best, flips=flips, seed=int(rng.integers(2**63)), **moves.tenure)
    return Rounded(best, problem.value(best))


def hyperplanes(factor: Float[np.ndarray, "rows k"], n: int, rng: np.random.Generator) -> Int8[np.ndarray, "n rows"]:
    """sign(V z) of `n` standard normal z, sign(0) = +1."""
    above = rng.standard_normal((n, factor.shape[1])) @ factor.T >= 0
    return np.where(above, 1, -1).astype(np.int8)
