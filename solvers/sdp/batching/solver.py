"""Many certified SDPs at once: the relaxations of min over signs of w'Gw - 2 b_t'w, for every t, with one shared G."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from solvers.sdp.batching.bounds import Family
from solvers.sdp.batching.search import GRACE, Search, gauged
from solvers.sdp.device import check_device
from solvers.sdp.growth import largest_rank
from solvers.sdp.least_squares import bordered
from solvers.sdp.options import available_memory, check_options
from solvers.sdp.problem import LARGEST_INTEGER, Cost, cost, lattice, next_attainable
from solvers.sdp.solution import Certify, Seconds
from solvers.sdp.threads import one_thread

MOST_ESCAPES = 10  # from stationary points; the rank doubles at the first ones
NEGLIGIBLE = 1e-8  # a singular value of a factor, relative to its largest, that does not count to its rank


@dataclass(frozen=True, eq=False)
class BatchSolution:
    """min <C_t, X> over diag X = 1, X psd of every task t; C_t = [[G, -b_t], [-b_t', constant_t]], the last row of the
    n + 1 homogenising. One entry a task, with the meanings of `Solution`.

    factor: (T, n + 1, k). rank: of each factor, numerically. multipliers: y with bound = sum(y) + trace C_t and the
    off-diagonal part of C_t less Diag(y) psd. proven: with certify="rigorous", whatever the status and the gap.
    finished: seconds after which the task was done. unprovable: rounding alone costs a proof more than the gap asked,
    where the value is tiny beside C_t (signs that fit their data).
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
    unprovable: Bool[np.ndarray, " T"]
    seconds: Seconds

    def __len__(self) -> int:
        """Tasks."""
        return len(self.value)


@one_thread()
def solve_batch(
    G: np.ndarray,
    B: np.ndarray,
    *,
    constants: np.ndarray | None = None,
    gap: float = 1e-3,
    rank: int | Literal["auto"] = "auto",
    warm: np.ndarray | BatchSolution | None = None,
    certify: Certify = "rigorous",
    seed: int = 0,
    device: str = "cpu",
    time_limit: float | None = None,
) -> BatchSolution:
    """For each row b of B, bound and relax min over w in {-1, +1}^n of w'Gw - 2 b'w + constant.

    G: (n, n) symmetric, never copied per task. B: (T, n). constants: (T,); 0 without. gap: relative, to prove for every
    task. rank: columns to start with; "auto": near sqrt(n), at most near 2 log2 n; more along negative curvature where
    that is what a proof lacks. warm: factors to start from, the homogenising row last. certify, device, time_limit: as
    in `solve`, but "estimate" makes the decisions of "rigorous" and does not call them proven; a task that the limit
    cuts off keeps the best bound proven by then. The same seed on the same machine
    gives the same answer.
    Raises ValueError and TypeError for data that are not finite, symmetric or of matching shapes, MemoryError before
    allocating what would not fit.
    """
    start = time.perf_counter()
    check_options(gap, rank, certify, seed, time_limit)
    check_device(device)
    family = _family(G, B, constants)
    tasks, n = family.linear.shape
    columns = _columns(n) if rank == "auto" else int(rank)
    _check_memory(tasks, n, columns)
    V = _start(family, columns, seed) if warm is None else _warm(warm, tasks, n)
    search = Search(family, gap, certify, device)
    if time_limit is not None:
        search.deadline, search.grace = start + time_limit, GRACE * time_limit
    _run(search, V)
    return _solution(search, start)


def _run(search: Search, V: Float[Tensor, "T n k"]) -> None:
    """Descend; then again, moved along negative curvature, the tasks that are stationary short of their gap."""
    left, largest = search.descend(torch.arange(len(V)), V), largest_rank(V.shape[1] + 1)
    for _ in range(MOST_ESCAPES):
        if not len(left) or search.certify == "none":
            break
        left, V = search.grown(left, largest)
        if len(left):
            left = search.descend(left, V)
    search.close()
    below = search.unprovable()
    if below.all():
        gap = float((search.floor() / search.value.abs().clamp(min=1)).max())
        raise ValueError(
            f"gap={search.gap:g} cannot be proven in float64 here: the rounding of a factorisation of {V.shape[1] + 1} "
            f"rows alone costs a gap of {gap:.1e}; ask for gap={2 * gap:.0e} or more, or certify='estimate'"
        )


def _family(G: np.ndarray, B: np.ndarray, constants: np.ndarray | None) -> Family:
    gram = _gram(G)
    linear = _finite("B", B)
    if linear.ndim != 2 or linear.shape[1] != gram.n or not len(linear):
        raise ValueError(f"B must have a row a task and {gram.n} columns, as G has (got shape {np.shape(B)})")
    given = np.zeros(len(linear)) if constants is None else _finite("constants", constants)
    if given.shape != (len(linear),):
        raise ValueError(f"constants must have one entry a row of B, {len(linear)} (got shape {given.shape})")
    _check_sums(gram, linear, given)
    return Family(torch.as_tensor(gram.off), torch.as_tensor(linear), gram.diagonal, given)


def _check_sums(gram: Cost, linear: np.ndarray, constants: np.ndarray) -> None:
    """As `problem.cost` would of every C_t."""
    with np.errstate(over="ignore"):
        rows = np.abs(gram.off).sum() + np.abs(gram.diagonal).sum()
        finite = np.isfinite(4 * (rows + 2 * np.abs(linear).sum(1) + np.abs(constants)))
    if not finite.all():
        t = int(np.argmin(finite))
        raise ValueError(
            f"task {t} has entries up to {np.abs(gram.off).max():.1e} in G, {np.abs(linear[t]).max():.1e} in B and "
            f"{abs(constants[t]):.1e} in constants, whose sums overflow float64; divide all three by a power of two"
        )


def _gram(G: np.ndarray) -> Cost:
    try:
        return cost(G, dense=True)
    except (ValueError, TypeError) as error:  # the same checks as of C, in the words of this argument
        raise type(error)(re.sub(r"\bC\b", "G", str(error))) from error


def _finite(name: str, data: np.ndarray) -> np.ndarray:
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and no entry can be left out; fill it first, {name}.filled(0)")
    given = np.asarray(data)
    if given.dtype.kind not in "biuf" or given.dtype.itemsize > 8:
        raise TypeError(f"{name} must be bool, integer, float32 or float64 (got {given.dtype}); convert it first")
    if given.dtype.kind in "iu" and given.size and max(int(given.max()), -int(given.min())) > LARGEST_INTEGER:
        raise ValueError(f"{name} has integers beyond 2^53, which float64 would round; divide by a power of two first")
    array = np.array(given, dtype=np.float64, order="C")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{name}{where} is {array[tuple(where)]}; every entry must be finite")
    return array


def _check_memory(tasks: int, n: int, columns: int) -> None:
    needed, available = 8 * (3 * tasks * n * (columns + 3) + 4 * n * n + 2**25), available_memory()
    if needed > available:
        raise MemoryError(
            f"{tasks} tasks of {n} weights in {columns} columns need {needed / 2**30:.1f} GiB, and "
            f"{available / 2**30:.1f} GiB are available; solve fewer tasks a call"
        )


def _columns(n: int) -> int:
    """Measured on least squares of 30 to 800 weights; in eights, the width of a register."""
    return 8 * max(1, min(round(math.sqrt(n) / 8), math.ceil(2 * math.log2(n + 1) / 8)))


def _start(family: Family, columns: int, seed: int) -> Float[Tensor, "T n k"]:
    tasks, n = family.linear.shape
    return gauged(torch.as_tensor(np.random.default_rng(seed).standard_normal((tasks, n + 1, columns))))


def _warm(warm: np.ndarray | BatchSolution, tasks: int, n: int) -> Float[Tensor, "T n k"]:
    factor = _finite("warm", warm.factor if isinstance(warm, BatchSolution) else warm)
    if factor.ndim != 3 or factor.shape[:2] != (tasks, n + 1) or not factor.shape[2]:
        raise ValueError(f"warm must be factors of shape ({tasks}, {n + 1}, k), as here (got {factor.shape})")
    largest = np.abs(factor).max(2, keepdims=True)
    if not largest.all():
        raise ValueError("warm has a row of zeros; rows are vectors of length 1")
    return gauged(torch.as_tensor(np.ldexp(factor, -np.frexp(largest)[1])))  # squares neither overflow nor vanish


def _solution(search: Search, start: float) -> BatchSolution:
    value, certify = search.value.numpy(), search.certify
    bound = np.full(len(value), -math.inf)
    if certify != "none":
        bound = np.array([search.family.bound(t, z) for t, z in enumerate(search.diagonal.numpy())])
    factor = search.full(torch.arange(len(value))).numpy()
    squares = np.linalg.eigvalsh(factor.transpose(0, 2, 1) @ factor)
    attainable = _attainable(search.family, bound)
    return BatchSolution(
        factor=factor,
        value=value,
        multipliers=(search.raw if certify == "none" else -search.diagonal).numpy(),
        bound=bound,
        bound_integer=attainable,
        gap=np.abs(value - bound) / np.maximum(1, np.abs(value)),
        proven=np.full(len(value), certify == "rigorous"),
        rank=(squares > NEGLIGIBLE**2 * squares[:, -1:]).sum(1),
        status=search.status,
        iterations=search.iterations.numpy(),
        finished=search.finished.numpy(),
        unprovable=search.unprovable().numpy(),
        seconds=Seconds(time.perf_counter() - start - search.certifying, search.certifying),
    )


def _attainable(family: Family, bound: np.ndarray) -> np.ndarray:
    """Each bound, raised to the next value that its task can take over signs, where the data are on a lattice."""
    G = family.off.numpy() + np.diag(family.diagonal)
    if lattice(cost(G, dense=True)) is None:
        return bound.copy()
    tasks = zip(family.linear.numpy(), family.constants, bound, strict=True)
    return np.array([next_attainable(b, cost(bordered(G, row, c), dense=True)) for row, c, b in tasks])
