"""The minimum of x'Cx over signs by branch and bound, every bound a certified one of a relaxation.

A node knows some signs relative to each other: they form a group, and C is summed over the groups, so that a node is a
smaller problem of the same kind. Two groups are then equal or opposite; the relaxation of either starts from the
parent's factor with two rows merged. Nodes of least bound go first. Rendl, Rinaldi and Wiegele 2010 (Mathematical
Programming 121) do so for max-cut, with triangle inequalities besides.
"""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from jaxtyping import Int8

from solvers.sdp.bounding import Bounder
from solvers.sdp.certificate import UNIT, below
from solvers.sdp.lbfgs import Descent
from solvers.sdp.problem import Cost, Matrix, cost, lattice, next_attainable
from solvers.sdp.signs.enumeration import enumerate_signs, rounding
from solvers.sdp.signs.rounding import round
from solvers.sdp.signs.triangles import NONE, Raised, Triangles, raised
from solvers.sdp.solver import solve

ENUMERATED = 18  # groups, up to which a node is enumerated: under a millisecond
ROOT_ROUNDS, ROUNDS = 120, 25  # of multipliers of triangles, at the root and at other nodes
RESIDUAL = 3e-3  # of a node's descents, relative, while multipliers move
CLOSER = (1e-4, 3e-6)  # for a proof: first, and where that does not end a node that it should
PIECE = 50  # iterations between looks at the clock
SAFETY = 0.99  # share of the gap asked that ends a node, so that the last roundings cannot exceed it
ROUNDED_GAP = 1e-9  # asked at least, where sums of entries round
SURPLUS = 0.05  # of a step between values of x'Cx, or of twice the gap: how far above its target a bound is aimed

Ending = Literal["optimal", "time_limit", "rounding"]


@dataclass(frozen=True, eq=False)
class Branched:
    """The best signs found, their x'Cx, and a proven lower bound of it over all signs.

    proven: value - bound is within the gap asked. nodes: how many were bounded or enumerated.
    status: "optimal" (so it is), "time_limit", or "rounding" (every node was ended, and rounding left a larger gap).
    """

    signs: Int8[np.ndarray, " n"]
    value: float
    bound: float
    proven: bool
    nodes: int
    status: Ending
    seconds: float


def branch_and_bound(C: Matrix | Cost, *, gap: float = 0.0, time_limit: float | None = None, seed: int = 0) -> Branched:
    """Minimise x'Cx over signs until value - bound <= gap * max(1, |value|); meant for n up to about 60.

    Bounds are raised to the next value that x'Cx can take (`next_attainable`). Where sums of entries round, what that
    costs is taken off the bound, and gap=0.0 means 1e-9; so it does where float64 cannot hold the least value.
    time_limit: seconds; the interval proven by then is returned. The step in progress is finished: one search of 100 n
    flips, one descent or one factorisation. Memory is of order n^2 and what is kept of every open node.
    Deterministic for a seed where no limit interferes. Raises ValueError.
    """
    if not 0 <= gap < math.inf:
        raise ValueError(f"gap={gap}; it must be a number >= 0, 0 for the exact minimum")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit={time_limit}; it must be positive seconds, or None for none")
    ends = math.inf if time_limit is None else time.perf_counter() + time_limit
    return _Search(C if isinstance(C, Cost) else cost(C), gap, seed, ends).run()


@dataclass(order=True)
class _Node:
    bound: float
    order: int
    group: np.ndarray = field(compare=False)  # of every sign: its group
    signs: np.ndarray = field(compare=False)  # of every sign, relative to its group
    factor: np.ndarray = field(compare=False)  # a row a group
    triangles: Triangles = field(compare=False)  # of groups


class _Search:
    """On C without its diagonal, scaled by a power of two to a largest entry in [1, 2): values and bounds inside are
    of that. Scaling is exact but where entries are 2^-1074 of the largest, far below what `_rounding` counts; the
    diagonal, a constant, joins the bound at the end, by one outward rounding."""

    def __init__(self, whole: Cost, gap: float, seed: int, ends: float = math.inf) -> None:
        self.started, self.ends = time.perf_counter(), ends
        self.whole, self.seed, self.nodes, self.pruned = whole, seed, 0, math.inf
        given: np.ndarray = whole.off if isinstance(whole.off, np.ndarray) else whole.off.toarray()
        self.exponent = int(np.frexp(np.abs(given).max())[1]) - 1
        self.off = np.ldexp(given, -self.exponent)
        self.of = Cost(self.off, np.zeros(whole.n), 0.0)
        self.open: list[_Node] = []
        self.kept, self.total = 0, math.fsum(np.abs(self.off).ravel())
        grid = lattice(self.of)
        divisor = float(grid[1] / 4) if grid is not None and grid[1] else 0.0
        self.step = 4 * divisor
        # Multipliers are multiples of a power of two, so that integers stay exact in float64.
        unit = divisor or 1e-6 * self.total / whole.n or 1.0
        self.quantum = 2.0 ** (math.frexp(unit)[1] - 12)
        self.exact = grid is not None and math.fmod(divisor, self.quantum / 2) == 0
        self.gap = max(gap, ROUNDED_GAP) if self._rounding(NONE) else gap

    def run(self) -> Branched:
        root = solve(self.off, gap=1e-3, seed=self.seed, time_limit=self._half() if self.ends < math.inf else None)
        known = next_attainable(root.bound, self.of) if root.proven else -math.inf
        found = round(root.factor, self.of, seed=self.seed, seconds=self._half(), bound=known)
        self._improve(found.signs, found.value)
        self._keep(known, np.arange(self.of.n), np.ones(self.of.n), root.factor, NONE)
        while self.open and self._left() > 0:
            self._visit(heapq.heappop(self.open))
        return self._answer(min([self.pruned, *(node.bound for node in self.open)]))

    def _answer(self, least: float) -> Branched:
        """What the search proved, of all of C. least: a lower bound of the scaled problem."""
        value = self.whole.value(self.signs)
        bound = min(value, self._unscaled(least))  # the value may have been rounded downwards
        gap = self.gap if self._is_exact(value) else max(self.gap, ROUNDED_GAP)
        proven = value - bound <= gap * max(1.0, abs(value))
        status: Ending = "optimal" if proven else "time_limit" if self.open else "rounding"
        return Branched(self.signs, value, bound, proven, self.nodes, status, time.perf_counter() - self.started)

    def _unscaled(self, least: float) -> float:
        """A bound of x'Cx from one of the scaled problem."""
        with np.errstate(over="ignore", under="ignore"):
            back = float(np.ldexp(least, self.exponent))
        if not math.isfinite(back):
            return -math.inf
        if Fraction(back) > Fraction(least) * Fraction(2) ** self.exponent:
            back = math.nextafter(back, -math.inf)
        return next_attainable(below(np.array([back, *self.whole.diagonal])), self.whole)

    def _is_exact(self, value: float) -> bool:
        """Whether no sum was rounded on the way to the value of the signs found."""
        diagonal = sum(map(Fraction, self.whole.diagonal.tolist()), Fraction(0))
        scaled = Fraction(self.value) * Fraction(2) ** self.exponent
        return not self._rounding(NONE) and Fraction(value) == scaled + diagonal

    def _left(self) -> float:
        return self.ends - time.perf_counter()

    def _half(self) -> float:
        """Of the seconds left, for a step that others follow."""
        return max(0.5 * self._left(), 1e-3)

    def _improve(self, signs: np.ndarray, value: float) -> None:
        self.signs, self.value = signs, value
        with np.errstate(over="ignore", under="ignore"):
            size = max(1.0, abs(self.whole.value(signs)))
            self.allowed = float(np.ldexp(SAFETY * self.gap * size, -self.exponent))

    def _keep(
        self, bound: float, group: np.ndarray, signs: np.ndarray, factor: np.ndarray, triangles: Triangles
    ) -> None:
        """Opens a node, unless its bound says that it holds nothing better."""
        if bound >= self._target():
            self.pruned = min(self.pruned, bound)
        else:
            self.kept += 1
            heapq.heappush(self.open, _Node(bound, -self.kept, group, signs, factor, triangles))

    def _target(self) -> float:
        """A bound that ends a node."""
        return self.value - self.allowed

    def _visit(self, node: _Node) -> None:
        if node.bound >= self._target():  # the value has fallen since
            self.pruned = min(self.pruned, node.bound)
            return
        self.nodes += 1
        small = self._summed(node)
        if small.n <= ENUMERATED:
            self._leaf(node, small)
            return
        bound, found = self._bounded(small, node)
        if bound >= self._target():
            self.pruned = min(self.pruned, bound)
            return
        for child in _children(node, found):
            self._keep(bound, *child)

    def _summed(self, node: _Node) -> Cost:
        """C over the groups; its diagonal is what each group is worth by itself."""
        m = len(node.factor)
        P = np.zeros((self.of.n, m))
        P[np.arange(self.of.n), node.group] = node.signs
        M = P.T @ (self.off @ P)
        M = np.tril(M) + np.tril(M, -1).T  # rounding may have made it asymmetric
        diagonal = M.diagonal().copy()
        np.fill_diagonal(M, 0.0)
        return Cost(M, diagonal, math.fsum(diagonal))

    def _leaf(self, node: _Node, small: Cost) -> None:
        found = enumerate_signs(small)
        signs = (node.signs * found.signs[node.group]).astype(np.int8)
        value = self.of.value(signs)
        if value < self.value:
            self._improve(signs, value)
        self.pruned = min(self.pruned, self._lower(value, rounding(small), 2 * self._rounding(NONE)))

    def _lower(self, value: float, *rounded: float) -> float:
        """A bound of x'Cx from a value that rounding may have made too large by the sum of `rounded`."""
        return next_attainable(below(np.array([value, *(-part for part in rounded)])), self.of)

    def _bounded(self, small: Cost, node: _Node) -> tuple[float, Raised]:
        """A bound of x'Cx in the node, and the relaxation it came from."""
        target = self._target() - float(small.diagonal.sum())  # in terms of <off, X>
        target += SURPLUS * max(self.step, 2 * self.allowed, 0.0 if self.step else 1e-3 * abs(target)) - self.step
        rounds = ROUNDS if self.nodes > 1 else ROOT_ROUNDS
        found = raised(small.off, node.triangles, node.factor, _minimised, target=target, rounds=rounds, ends=self.ends)
        triangles = found.triangles.chosen(found.triangles.multipliers > self.quantum)
        whole = np.floor(triangles.multipliers / self.quantum) * self.quantum
        triangles = replace(triangles, multipliers=whole)
        bound = max(node.bound, self._proven(small, triangles, found.factor, end=found.value >= target))
        return bound, replace(found, triangles=triangles)

    def _proven(self, small: Cost, triangles: Triangles, factor: np.ndarray, *, end: bool) -> float:
        """A bound of x'Cx over the node; a close one only where that should `end` the node."""
        shifted = replace(small, off=triangles.taken_off(small.off))
        descent, bounder = Descent(shifted, factor), Bounder(shifted)
        bound = -math.inf
        for residual in CLOSER if end else CLOSER[:1]:
            for _ in range(500 // PIECE):
                if descent.residual > residual and not descent.stalled and self._left() > 0:
                    descent.run(PIECE, residual=residual)
            proof = bounder.last_resort(descent, residual * abs(descent.value), self._left())
            terms = [np.array([proof.bound, -self._rounding(triangles)]), -triangles.multipliers]
            bound = max(bound, next_attainable(below(np.concatenate(terms)), self.of))
            if bound >= self._target() or self._left() <= 0:
                break
        return bound

    def _rounding(self, triangles: Triangles) -> float:
        """What rounding of the node's entries can be worth: each by gamma of the absolute terms summed in it."""
        total = self.total + 3 * float(triangles.multipliers.sum())
        if self.exact and total <= 2**51 * self.quantum:
            return 0.0
        return 4 * (self.of.n + len(triangles.multipliers)) * UNIT * total


def _minimised(off: np.ndarray, factor: np.ndarray) -> tuple[float, np.ndarray]:
    descent = Descent(Cost(off, np.zeros(len(off)), 0.0), factor, sweeps=2)
    descent.run(60, residual=RESIDUAL)
    return descent.value, descent.V[:, : descent.rank]


def _children(node: _Node, found: Raised) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, Triangles]]:
    """Groups, signs, factors and triangles with the most nearly parallel pair of rows equal, and opposite."""
    angles = np.abs(np.triu(found.mean, 1))
    i, j = map(int, np.unravel_index(int(angles.argmax()), angles.shape))
    children = []
    for sign in (1.0, -1.0):
        rows = found.factor.copy()
        rows[i] += sign * rows[j]
        if not rows[i].any():
            rows[i] = found.factor[i]
        group = np.where(node.group == j, i, node.group)
        signs = np.where(node.group == j, sign, 1.0) * node.signs
        triangles = found.triangles.merged(i, j, sign)
        children.append((group - (group > j), signs, np.delete(rows, j, axis=0), triangles))
    return children
