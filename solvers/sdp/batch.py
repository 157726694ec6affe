"""Many certified SDPs at once: the relaxations of min over signs of w'Gw - 2 b_t'w, for every t, with one shared G."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num

from solvers.sdp.batch_bounds import Family
from solvers.sdp.batch_search import Search, gauged
from solvers.sdp.problem import cost
from solvers.sdp.solution import Certify, Seconds


@dataclass(frozen=True, eq=False)
class BatchSolution:
    """min <C_t, X> over diag X = 1, X psd of every task t; C_t = [[G, -b_t], [-b_t', constant_t]], the last row of the
    n + 1 homogenising. One entry a task, with the meanings of `Solution`.

    factor: (T, n + 1, k). rank: columns that are not zero. finished: seconds after which the task was done.
    """

    factor: Float[np.ndarray, "T rows k"]
    value: Float[np.ndarray, " T"]
    multipliers: Float[np.ndarray, "T rows"]
    bound: Float[np.ndarray, " T"]
    bound_integer: Float[np.ndarray, " T"]
    gap: Float[np.ndarray, " T"]
    proven: Bool[np.ndarray, " T"]
    rank: Int[np.ndarray, " T"]
    status: np.ndarray
    iterations: Int[np.ndarray, " T"]
    finished: Float[np.ndarray, " T"]
    seconds: Seconds

    def __len__(self) -> int:
        """Tasks."""
        return len(self.value)


def solve_batch(
    G: Num[np.ndarray, "n n"],
    B: Num[np.ndarray, "T n"],
    *,
    constants: Num[np.ndarray, " T"] | None = None,
    gap: float = 1e-3,
    rank: int | Literal["auto"] = "auto",
    warm: Float[np.ndarray, "T rows k"] | BatchSolution | None = None,
    certify: Certify = "rigorous",
    seed: int = 0,
    device: str = "cpu",
    time_limit: float | None = None,
) -> BatchSolution:
    """For each row b of B, bound and relax min over w in {-1, +1}^n of w'Gw - 2 b'w + constant.

    G: (n, n) symmetric, never copied per task. gap: relative, of value with the constant. warm: factors to start from.
    Raises ValueError or TypeError for data that are not finite, symmetric or of matching shapes.
    """
    start = time.perf_counter()
    family = _family(G, B, constants)
    rows, tasks = len(family.off) + 1, torch.arange(len(family.linear))
    search = Search(family, gap, certify, device, start + (math.inf if time_limit is None else time_limit))
    V = _start(family, rank, warm, seed)
    largest = math.ceil(math.sqrt(2 * rows)) + 1 if rank == "auto" else V.shape[2]
    while True:
        tasks = search.descend(tasks, V)
        if not len(tasks) or V.shape[2] >= largest:
            break
        V = search.grown(tasks, largest)
    search.close()
    return _solution(search, time.perf_counter() - start)


def _family(G: np.ndarray, B: np.ndarray, constants: np.ndarray | None) -> Family:
    gram = cost(G, dense=True)
    linear = np.array(B, dtype=np.float64, order="C")
    if linear.ndim != 2 or linear.shape[1] != gram.n or not len(linear):
        raise ValueError(f"B must have {gram.n} columns, as G, and a row a task (got shape {np.shape(B)})")
    given = np.zeros(len(linear)) if constants is None else np.array(constants, dtype=np.float64)
    if given.shape != (len(linear),):
        raise ValueError(f"constants must have one entry a row of B, {len(linear)} (got shape {given.shape})")
    for name, array in (("B", linear), ("constants", given)):
        if not np.isfinite(array).all():
            where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
            raise ValueError(f"{name}{list(where)} is {array[where]}; every entry must be finite")
    return Family(torch.as_tensor(gram.off), torch.as_tensor(linear), gram.diagonal, given)


def _start(
    family: Family, rank: int | str, warm: np.ndarray | BatchSolution | None, seed: int
) -> Float[torch.Tensor, "T n k"]:
    tasks, n = family.linear.shape
    if warm is not None:
        return gauged(torch.as_tensor(warm.factor if isinstance(warm, BatchSolution) else warm))
    k = min(max(8, math.ceil(1.3 * math.log2(n + 1))), n + 1) if rank == "auto" else int(rank)
    rng = np.random.default_rng(seed)
    return gauged(torch.as_tensor(rng.standard_normal((tasks, n + 1, k))))


def _solution(search: Search, seconds: float) -> BatchSolution:
    bound, value = search.bound.numpy(), search.value.numpy()
    factor = search.full(torch.arange(len(value))).numpy()
    return BatchSolution(
        factor=factor,
        value=value,
        multipliers=search.multipliers.numpy(),
        bound=bound,
        bound_integer=bound,
        gap=np.abs(value - bound) / np.maximum(1, np.abs(value)),
        proven=search.proven.numpy(),
        rank=(np.abs(factor).max(1) > 0).sum(1),
        status=search.status.astype(str),
        iterations=search.iterations.numpy(),
        finished=search.finished.numpy(),
        seconds=Seconds(seconds - search.certifying, search.certifying),
    )
