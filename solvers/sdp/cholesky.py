"""Does a Cholesky factorisation of off + Diag(d) run to completion? Dense by LAPACK; sparse by elimination first.

Sparse matrices: vertices of low degree are eliminated in order of least degree, and what is left, a core that
elimination has made dense, goes to LAPACK: on random sparse graphs a small part of the dense work, on planar ones
almost none of it. Both are Cholesky factorisations in the sense of the backward error bound that `certificate` uses:
each entry of the factor is a difference of an entry and a sum of products, in some order, divided by or rooted to a
pivot.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg.lapack as lapack
import scipy.sparse as sp
from jaxtyping import Float

from core import extension
from solvers.sdp.problem import Cost
from solvers.sdp.threads import threads_for

# A vertex is eliminated while its degree is below this share of the vertices left: then its sparse update, and the
# bookkeeping of its neighbours, cost less than the rank-one update of the dense core that it saves.
SHARE = 0.1
WORK = 2e8  # sum of squared degrees an elimination may take, about a second; what is left then is the core
RATE = 2e10  # flops a second of a factorisation, roughly: for time limits only


@dataclass(frozen=True, eq=False)
class Plan:
    """Order of elimination, from the pattern alone.

    order: vertices by position; the first `eliminated` go one by one, the rest is the core. Column p of the factor has
    its entries below the diagonal at positions rows[column[p] : column[p + 1]], ascending.
    """

    eliminated: int
    order: np.ndarray
    column: np.ndarray
    rows: np.ndarray

    @property
    def core(self) -> int:
        """Vertices left to the dense factorisation."""
        return len(self.order) - self.eliminated

    @property
    def flops(self) -> float:
        """Multiplications and additions of one factorisation."""
        degrees = np.diff(self.column).astype(float)
        return float((degrees**2).sum()) + self.core**3 / 3


class Factoriser:
    """Tries Cholesky factorisations of off + Diag(d) for one `off` and many d. The plan is made at the first."""

    def __init__(self, of: Cost) -> None:
        self.off = of.off

    @cached_property
    def plan(self) -> Plan | None:
        """None for a dense matrix."""
        return None if isinstance(self.off, np.ndarray) else plan(self.off)

    def succeeds(self, diagonal: Float[np.ndarray, " n"]) -> bool:
        """Whether all pivots of off + Diag(diagonal) are positive."""
        if not np.isfinite(diagonal).all():
            return False
        if isinstance(self.off, np.ndarray):
            matrix = self.off.copy()
            np.fill_diagonal(matrix, diagonal)
            return _dense(matrix)
        assert self.plan is not None
        core = np.empty((self.plan.core, self.plan.core))
        if extension.allowed():
            going = _native(self.off, diagonal, self.plan, core)
        else:
            extension.warn_once()
            going = _numpy(self.off, diagonal, self.plan, core)
        return going and _dense(core)

    @property
    def core(self) -> int:
        """Rows of the dense factorisation."""
        return self.off.shape[0] if self.plan is None else self.plan.core

    @property
    def flops(self) -> float:
        """Of one try."""
        return self.core**3 / 3 if self.plan is None else self.plan.flops

    @property
    def seconds(self) -> float:
        """Of one try, roughly, on a core of today."""
        return self.flops / RATE

    @property
    def bytes(self) -> int:
        """Memory of one try, beyond the matrix itself."""
        return 8 * self.core**2 + (0 if self.plan is None else 8 * len(self.plan.rows))


def plan(off: sp.csr_array, share: float = SHARE, work: float = WORK) -> Plan:
    """Eliminate the vertex of least degree, ties by index, while degree <= share * vertices left, within `work`."""
    native = extension.module()
    if native is not None and extension.allowed():
        return Plan(*native.plan_elimination(off.indptr, off.indices, share, work))
    adjacent = [set(off.indices[a:b].tolist()) for a, b in zip(off.indptr, off.indptr[1:], strict=False)]
    queue = [(len(neighbours), v) for v, neighbours in enumerate(adjacent)]
    heapq.heapify(queue)
    columns: list[set[int]] = []
    order: list[int] = []
    gone = np.zeros(len(adjacent), dtype=bool)
    while queue:
        degree, v = heapq.heappop(queue)
        if gone[v] or degree != len(adjacent[v]):
            continue  # an entry of before its degree changed
        if degree > share * (len(adjacent) - len(order)):
            break
        work -= float(degree) ** 2
        if work < 0:
            break
        gone[v] = True
        order.append(v)
        columns.append(adjacent[v])
        for u in adjacent[v]:
            adjacent[u] = (adjacent[u] | adjacent[v]) - {u, v}
            heapq.heappush(queue, (len(adjacent[u]), u))
    return _assembled(np.array([*order, *np.flatnonzero(~gone)], dtype=np.int32), columns)


def _assembled(order: np.ndarray, columns: list[set[int]]) -> Plan:
    position = np.empty_like(order)
    position[order] = np.arange(len(order), dtype=np.int32)
    rows = [np.sort(position[list(column)]) if column else np.empty(0, np.int32) for column in columns]
    start = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return Plan(len(columns), order, start, np.concatenate([np.empty(0, np.int32), *rows]).astype(np.int32))


def _dense(matrix: np.ndarray) -> bool:
    """In place. Row-major lower is column-major upper, which LAPACK reads without a copy."""
    if matrix.shape[0] == 0:
        return True
    with threads_for(len(matrix)):
        factor, info = lapack.dpotrf(matrix.T, lower=0, clean=0, overwrite_a=1)
    # LAPACK compares pivots with <= 0, which a nan passes.
    return info == 0 and bool(np.isfinite(np.diagonal(factor)).all())


def _native(off: sp.csr_array, diagonal: np.ndarray, plan: Plan, core: np.ndarray) -> bool:
    module = extension.module()
    assert module is not None
    level = module.best_level()
    pattern = (off.indptr, off.indices, off.data)
    return bool(module.eliminate(level, *pattern, diagonal, plan.eliminated, plan.order, plan.column, plan.rows, core))


def _numpy(off: sp.csr_array, diagonal: np.ndarray, plan: Plan, core: np.ndarray) -> bool:
    """The same by outer products, each as its column is done."""
    m = plan.eliminated
    permuted = sp.csr_array(off[plan.order][:, plan.order])
    pivots = np.array(diagonal[plan.order], dtype=np.float64)
    core[:] = permuted[m:, m:].toarray()
    rows = [plan.rows[a:b] for a, b in zip(plan.column, plan.column[1:], strict=False)]
    entries = [np.zeros(len(r)) for r in rows]
    for p in range(m):
        a, b = permuted.indptr[p], permuted.indptr[p + 1]
        below = permuted.indices[a:b] > p
        entries[p][np.searchsorted(rows[p], permuted.indices[a:b][below])] = permuted.data[a:b][below]
    for p in range(m):
        if not pivots[p] > 0:
            return False
        column = entries[p] / np.sqrt(pivots[p])
        pivots[rows[p]] -= column * column
        inside = int(np.searchsorted(rows[p], m))
        for at in range(inside):
            q = rows[p][at]
            entries[q][np.searchsorted(rows[q], rows[p][at + 1 :])] -= column[at] * column[at + 1 :]
        where = rows[p][inside:] - m
        core[np.ix_(where, where)] -= np.outer(column[inside:], column[inside:])
    np.fill_diagonal(core, pivots[m:])
    return True
