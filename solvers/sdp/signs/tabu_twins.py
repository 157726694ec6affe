"""The searches of `signs.tabu` in NumPy and Python: the vectors that the native kernels visit, in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

Rows: TypeAlias = np.ndarray | sp.csr_array
HALF = 2**32
_Ends = defaultdict[int, list[int]]  # when a bar ends: whose


def descend(off: Rows, signs: np.ndarray, gains: np.ndarray, least: float) -> None:
    """Each row of signs to where no gain is above `least`, in place."""
    for x, g in zip(signs, gains, strict=True):
        while g.max() > least:
            _flip(off, x, g, int(g.argmax()))


def scan(off: Rows, signs: np.ndarray, gains: np.ndarray, flips: int, seed: int, tenure: int, spread: int) -> None:
    """Tabu search; of equal gains the first from a random place on. The best vector met replaces signs."""
    x, barred, ends = signs.copy(), np.zeros(len(signs)), _Ends(list)
    lowered = most = 0.0
    for t, (upper, lower) in enumerate(_noise(seed, flips)):
        barred[ends.pop(t, [])] = 0.0
        keys, largest = gains + barred, gains.max()
        aspires = largest > keys.max() and lowered + largest > most
        ties = np.flatnonzero(gains == largest if aspires else keys == keys.max())
        i = int(ties[np.searchsorted(ties, upper * len(x) // HALF) % len(ties)])
        lowered += gains[i]
        _flip(off, x, gains, i)
        length = tenure + lower * spread // HALF
        if length and not aspires:
            barred[i] = -np.inf
            ends[t + 1 + length].append(i)
        if lowered > most:
            most, signs[:] = lowered, x


def buckets(
    off: sp.csr_array, signs: np.ndarray, gains: np.ndarray, flips: int, seed: int, tenure: int, spread: int
) -> None:
    """Tabu search on a sparse C of integers; of equal gains a random one. The best vector met replaces signs."""
    x, levels, ends = signs.copy(), _Levels(gains.tolist()), _Ends(list)
    lowered = most = 0
    for t, (upper, lower) in enumerate(_noise(seed, flips)):
        for i in reversed(ends.pop(t, [])):  # the native list is linked from its latest
            levels.bar(i, 0)
        free, barred = levels.best(0), levels.best(1)
        aspires = bool(barred) and levels.gain[barred[0]] > levels.gain[free[0]]
        aspires = aspires and lowered + levels.gain[barred[0]] > most
        chosen = barred if aspires else free
        i = chosen[upper * len(chosen) // HALF]
        lowered += levels.gain[i]
        for at in range(off.indptr[i], off.indptr[i + 1]):
            j = int(off.indices[at])
            levels.move(j, levels.gain[j] - 2 * int(off.data[at]) * int(x[i]) * int(x[j]))
        levels.move(i, -levels.gain[i])
        x[i] = -x[i]
        length = tenure + lower * spread // HALF
        if length and not aspires:
            levels.bar(i, 1)
            ends[t + 1 + length].append(i)
        if lowered > most:
            most, signs[:] = lowered, x


class _Levels:
    """Vertices by (barred, gain): a list each, in the kernel's order, since a random place in it is drawn."""

    def __init__(self, gains: list[int]) -> None:
        self.gain, self.barred, self.place = gains, [0] * len(gains), [0] * len(gains)
        self.lists: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
        for i in range(len(gains)):
            self._enter(i)

    def best(self, barred: int) -> list[int]:
        lists = self.lists[barred]
        return lists[max(lists)] if lists else []

    def move(self, i: int, gain: int) -> None:
        self._leave(i)
        self.gain[i] = gain
        self._enter(i)

    def bar(self, i: int, barred: int) -> None:
        self._leave(i)
        self.barred[i] = barred
        self._enter(i)

    def _enter(self, i: int) -> None:
        bucket = self.lists[self.barred[i]].setdefault(self.gain[i], [])
        self.place[i] = len(bucket)
        bucket.append(i)

    def _leave(self, i: int) -> None:
        lists = self.lists[self.barred[i]]
        bucket = lists[self.gain[i]]
        last = bucket.pop()
        if last != i:
            bucket[self.place[i]], self.place[last] = last, self.place[i]
        if not bucket:
            del lists[self.gain[i]]


def _flip(off: Rows, x: np.ndarray, gains: np.ndarray, i: int) -> None:
    """Flips x_i and carries the gains along, in place."""
    if isinstance(off, np.ndarray):
        gains -= off[i] * (2.0 * x[i] * x)
    else:
        row = slice(off.indptr[i], off.indptr[i + 1])
        j = off.indices[row]
        gains[j] -= off.data[row] * (2.0 * x[i] * x[j])
    gains[i], x[i] = -gains[i], -x[i]


def _noise(seed: int, count: int) -> Iterator[tuple[int, int]]:
    """Both halves of `count` words of splitmix64 (Steele, Lea and Flood 2014)."""
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return zip((z >> np.uint64(32)).tolist(), (z & np.uint64(HALF - 1)).tolist(), strict=True)
