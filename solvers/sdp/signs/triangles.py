"""Triangle inequalities, and bounds from a relaxation with some of them moved into its cost.

Of three signs, x_i x_j + x_i x_k + x_j x_k >= -1, and so with the signs of any two turned: four a triple. They cut off
most of what a relaxation X of x x' still gains (Helmberg and Rendl 1998, Mathematical Programming 82). With multipliers
m >= 0, <C, X> >= <C - sum m_t A_t, X> - sum m_t where they hold, <A_t, X> being the left side of t: a problem of the
same kind, whose bound is one of x'Cx. The multipliers come from the volume algorithm (Barahona and Anbil 2000,
Mathematical Programming 87), which needs nothing but its minimisers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

TURNS = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])  # of the pairs ij, ik, jk
VIOLATION = 0.02  # from which an inequality is taken in
AT_ONCE = 2**18  # triples looked at together, or those of one index: memory is of order n^2
SEPARATED = 5  # rounds between looks for violated inequalities, at most 3 n of them
WEIGHT = 0.1  # of the latest minimiser in the mean that stands for X
LONGER, SHORTER = 1.1, 0.9  # steps after a round that raised the bound, and after one that did not
FIRST_STEP = 0.2  # share of the step to where a linear bound would reach the target


@dataclass(frozen=True, eq=False)
class Triangles:
    """Inequalities turns[t, 0] X_ij + turns[t, 1] X_ik + turns[t, 2] X_jk >= -1, each with a multiplier >= 0."""

    triples: np.ndarray  # (T, 3), three different indices each
    turns: np.ndarray  # (T, 3) of +-1, their product +1
    multipliers: np.ndarray  # (T,)

    def excess(self, X: np.ndarray) -> np.ndarray:
        """By how much each left side is above -1."""
        return np.asarray((self.turns * _edges(X, self.triples)).sum(axis=1) + 1.0)

    def taken_off(self, off: np.ndarray) -> np.ndarray:
        """off - sum m_t A_t, exactly symmetric where off is."""
        i, j, k = self.triples.T
        rows, columns = np.concatenate([i, i, j]), np.concatenate([j, k, k])
        halves = np.zeros(off.shape)
        np.add.at(halves, (rows, columns), (0.5 * self.multipliers[:, None] * self.turns).T.ravel())
        return np.asarray(off - (halves + halves.T))

    def merged(self, i: int, j: int, sign: float) -> Triangles:
        """With index j replaced by i, x_j = sign x_i, later ones moved up; triples with both are left out."""
        keep = ~((self.triples == i).any(axis=1) & (self.triples == j).any(axis=1))
        at_j = self.triples[keep] == j
        turned = np.where(at_j, sign, 1.0)
        turns = self.turns[keep] * np.stack(
            [turned[:, 0] * turned[:, 1], turned[:, 0] * turned[:, 2], turned[:, 1] * turned[:, 2]], axis=1
        )
        triples = np.where(at_j, i, self.triples[keep])
        return Triangles(triples - (triples > j), turns, self.multipliers[keep])

    def chosen(self, which: np.ndarray) -> Triangles:
        """Some of them."""
        return Triangles(self.triples[which], self.turns[which], self.multipliers[which])

    def joined(self, more: Triangles) -> Triangles:
        """These, and those of `more` that are not among them."""
        known = set(map(tuple, np.column_stack([self.triples, self.turns]).tolist()))
        new = [row not in known for row in map(tuple, np.column_stack([more.triples, more.turns]).tolist())]
        pairs = zip(vars(self).values(), vars(more.chosen(np.array(new, dtype=bool))).values(), strict=True)
        return Triangles(*(np.concatenate(pair) for pair in pairs))


NONE = Triangles(np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3)), np.zeros(0))


def violated(X: np.ndarray, ends: float = math.inf) -> Triangles:
    """The 3 n inequalities that X violates most, if by more than `VIOLATION`, with multipliers 0.

    ends: a time of `time.perf_counter`; triples not looked at by then are left out.
    """
    most, triples, turns, excess = 3 * len(X), NONE.triples, NONE.turns, np.zeros(0)
    for some in _triples(len(X)):
        found = (_edges(X, some) @ TURNS.T + 1.0).ravel()
        new = np.flatnonzero(found < (excess[-1] if len(excess) == most else -VIOLATION))
        excess = np.concatenate([excess, found[new]])
        order = np.argsort(excess, kind="stable")[:most]
        excess = excess[order]
        triples = np.concatenate([triples, some[new // 4]])[order]
        turns = np.concatenate([turns, TURNS[new % 4]])[order]
        if time.perf_counter() > ends:
            break
    return Triangles(triples, turns, np.zeros(len(triples)))


@dataclass(frozen=True, eq=False)
class Raised:
    """Triangles whose multipliers gave the largest value, that value, the factor that had it, and the mean X."""

    triangles: Triangles
    value: float
    factor: np.ndarray
    mean: np.ndarray


Minimiser = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]  # off, factor -> value, factor


def raised(
    off: np.ndarray,
    triangles: Triangles,
    factor: np.ndarray,
    minimise: Minimiser,
    *,
    target: float,
    rounds: int,
    ends: float = math.inf,
) -> Raised:
    """At most `rounds` rounds of the volume algorithm on min <off - sum m_t A_t, X> - sum m_t, towards `target`.

    ends: a time of `time.perf_counter`, after which no round begins.
    """
    value, start = minimise(triangles.taken_off(off), factor)
    value -= float(triangles.multipliers.sum())
    best = Raised(triangles, value, start, start @ start.T)
    factor, step, since = start, FIRST_STEP, 0
    for turn in range(rounds):
        if best.value >= target or since > rounds // 4 + SEPARATED or time.perf_counter() > ends:
            break
        if turn % SEPARATED == 0:
            slack = best.triangles.excess(best.mean)
            kept = best.triangles.chosen((best.triangles.multipliers > 0) | (slack < 0))
            best = replace(best, triangles=kept.joined(violated(best.mean, ends)))
        tried = _stepped(best, step * (target - best.value))
        value, factor = minimise(tried.taken_off(off), factor)
        value -= float(tried.multipliers.sum())
        mean = (1 - WEIGHT) * best.mean + WEIGHT * (factor @ factor.T)
        if value > best.value:
            best, step, since = Raised(tried, value, factor, mean), step * LONGER, 0
        else:
            best, step, since = replace(best, mean=mean), step * SHORTER, since + 1
    return best


def _stepped(best: Raised, gain: float) -> Triangles:
    """Multipliers moved along the violations of the mean, to where a linear bound would have gained `gain`."""
    multipliers, along = best.triangles.multipliers, -best.triangles.excess(best.mean)
    along = np.where((multipliers > 0) | (along > 0), along, 0.0)
    square = float(along @ along)
    moved = multipliers + (gain / square if square else 0.0) * along
    return replace(best.triangles, multipliers=np.maximum(moved, 0.0))


def _edges(X: np.ndarray, triples: np.ndarray) -> np.ndarray:
    i, j, k = triples.T
    return np.stack([X[i, j], X[i, k], X[j, k]], axis=1)


def _triples(n: int) -> Iterator[np.ndarray]:
    """All i < j < k in order, some at a time."""
    i = np.arange(n)
    until = np.cumsum((n - 1 - i) * (n - 2 - i) // 2)
    first = 0
    while first < n - 2:
        before = until[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(until, before + AT_ONCE, side="right")))
        i, j = _pairs(np.arange(first, last), n)
        at, k = _pairs(j, n, np.arange(len(j)))
        yield np.stack([i[at], j[at], k], axis=1)
        first = last


def _pairs(of: np.ndarray, n: int, named: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Each of `of`, or its name, beside every later index."""
    later = n - 1 - of
    first = np.repeat(np.cumsum(later) - later, later)
    return np.repeat(of if named is None else named, later), np.repeat(of + 1, later) + np.arange(later.sum()) - first
