"""Searches that flip one sign at a time: steepest descent to one-flip optima, and tabu search.

Tabu search: Glover 1989 (ORSA Journal on Computing 1); with one flip a move for x'Cx, Glover, Kochenberger and Alidaee
1998 (Management Science 44). Both run native where the extension is built, else in NumPy, with the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int8

from core import extension
from solvers.sdp.problem import Cost, lattice

WIDEST_RANGE = 4096  # of gains in units of their divisor, up to which they are kept in buckets


@dataclass(frozen=True, eq=False)
class OneFlip:
    """The one-flip neighbourhood of min x'Cx over signs x, prepared for searches from many starts.

    The gain of i, g_i = x_i (off x)_i, is a quarter of what flipping x_i takes off x'Cx.
    """

    cost: Cost

    def gains(self, signs: Int8[np.ndarray, "*starts n"]) -> Float64[np.ndarray, "*starts n"]:
        """g_i of every vector."""
        x = signs.astype(np.float64)
        return np.ascontiguousarray(x * (self.cost.off @ x.T).T)

    def values(self, signs: Int8[np.ndarray, "m n"]) -> Float64[np.ndarray, " m"]:
        """x'Cx of every row."""
        return self.gains(signs).sum(axis=1) + self.cost.constant

    @property
    def tenure(self) -> dict[str, int]:
        """Bars that suit n."""
        n = self.cost.n
        return {"tenure": n // 40, "spread": max(1, min(10, n - n // 40))}

    def descend(self, starts: Int8[np.ndarray, "m n"]) -> Int8[np.ndarray, "m n"]:
        """From each start, the flip of largest gain (the first of equals) until no gain is above `noise`."""
        signs, gains = np.array(starts, order="C"), self.gains(starts)
        if extension.allowed():
            kernels, level = _kernels()
            kernels.sign_descent(level, *self._rows, signs, gains, self.noise)
        else:
            extension.warn_once()
            for x, g in zip(signs, gains, strict=True):
                while g.max() > self.noise:
                    self._flip(x, g, int(g.argmax()))
        return signs

    def tabu(
        self, start: Int8[np.ndarray, " n"], *, flips: int, seed: int, tenure: int, spread: int
    ) -> Int8[np.ndarray, " n"]:
        """The best vector met on `flips` flips from start, each the best of those not barred.

        A sign flipped is barred for tenure + (0 .. spread - 1) flips, unless its flip leads below the best met.
        Equal gains: of buckets the latest to have come to its gain, else the first from a random place on.
        seed: 0 .. 2^64 - 1. Raises ValueError unless tenure >= 0, spread >= 1 and tenure + spread <= n.
        """
        if tenure < 0 or spread < 1 or tenure + spread > self.cost.n:
            raise ValueError(
                f"tenure={tenure}, spread={spread}: need tenure >= 0, spread >= 1, their sum <= n = {self.cost.n}"
            )
        signs, gains = np.array(start, order="C"), self.gains(start)
        kernels, level = _kernels()
        if self._buckets is not None:
            unit, span, values = self._buckets
            whole = np.rint(gains / unit).astype(np.int32)
            kernels.sign_tabu_levels(
                level,
                self.cost.off.indptr,
                self.cost.off.indices,
                values,
                signs,
                whole,
                flips,
                seed,
                tenure,
                spread,
                span,
            )
        else:
            kernels.sign_tabu(level, *self._rows, signs, gains, flips, seed, tenure, spread)
        return signs

    @cached_property
    def noise(self) -> float:
        """What rounding can leave of a gain that is zero: descents stop at it. Exactly zero for integers."""
        if lattice(self.cost) is not None:
            return 0.0
        return 8 * self.cost.n * np.finfo(np.float64).eps * float(abs(self.cost.off).sum(axis=1).max())

    @property
    def _rows(self) -> tuple[np.ndarray, ...]:
        off = self.cost.off
        return (off,) if isinstance(off, np.ndarray) else (off.indptr, off.indices, off.data)

    @cached_property
    def _buckets(self) -> tuple[float, int, np.ndarray] | None:
        """(divisor, range of gains in it, entries in it), where C is sparse and that range is small."""
        grid = lattice(self.cost) if self.cost.sparse else None
        if grid is None or not grid[1]:
            return None
        unit = float(grid[1] / 4)
        values = np.rint(self.cost.off.data / unit)
        span = int(abs(self.cost.off).sum(axis=1).max() / unit)
        if span > WIDEST_RANGE:
            return None
        return unit, span, values.astype(np.int32)

    def _flip(self, x: np.ndarray, gains: np.ndarray, i: int) -> None:
        """Flips x_i, in place."""
        gains -= _row(self.cost, i) * ((2.0 * x[i]) * x)
        gains[i], x[i] = -gains[i], -x[i]


def _kernels():
    module = extension.module()
    return module, module.best_level()
