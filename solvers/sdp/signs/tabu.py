"""Searches that flip one sign at a time: steepest descent to one-flip optima, and tabu search.

Tabu search: Glover 1989 (ORSA Journal on Computing 1); with one flip a move for x'Cx: Glover, Kochenberger and Alidaee
1998 (Management Science 44). Native where the extension is built, else twins that visit the same vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
from jaxtyping import Float64, Int8

from core import extension
from solvers.sdp.problem import Cost, lattice
from solvers.sdp.signs import tabu_twins

WIDEST_RANGE = 4096  # of gains, in units of their common divisor: up to it, those of a sparse C are kept in buckets


@dataclass(frozen=True, eq=False)
class OneFlip:
    """The one-flip neighbourhood of min x'Cx over signs x, prepared for many searches.

    The gain of i, g_i = x_i (off x)_i, is a quarter of what flipping x_i takes off x'Cx.
    """

    cost: Cost

    def gains(self, signs: Int8[np.ndarray, "*m n"]) -> Float64[np.ndarray, "*m n"]:
        """g_i of each vector."""
        x = signs.astype(np.float64)
        gains: np.ndarray = x * (self.cost.off @ x.T).T
        return np.ascontiguousarray(gains)

    def values(self, signs: Int8[np.ndarray, "m n"]) -> Float64[np.ndarray, " m"]:
        """x'Cx of each vector."""
        return np.asarray(self.gains(signs).sum(axis=1) + self.cost.constant)

    def descend(self, starts: Int8[np.ndarray, "m n"], *, level: int | None = None) -> Int8[np.ndarray, "m n"]:
        """From each start, the flip of largest gain (the first of equals) while that is above `noise`.

        level: of the CPU, as in `core.native`; None is the best.
        """
        signs, gains = np.array(starts, order="C"), self.gains(starts)
        if not extension.allowed():
            extension.warn_once()
            tabu_twins.descend(self.cost.off, signs, gains, self.noise)
        else:
            _kernels().sign_descent(_level(level), *_rows(self.cost.off), signs, gains, self.noise)
        return signs

    def tabu(
        self,
        start: Int8[np.ndarray, " n"],
        *,
        flips: int,
        seed: int,
        tenure: int,
        spread: int,
        level: int | None = None,
    ) -> Int8[np.ndarray, " n"]:
        """The best vector met on `flips` flips from start, each of the largest gain among signs not barred.

        A sign flipped is barred for tenure + (0 .. spread - 1) flips, unless its flip leads below the best met.
        Of equal gains one at random: from a bucket of all, or the first from a random place on. seed: 0 .. 2^64 - 1.
        Raises ValueError unless tenure >= 0, spread >= 1 and tenure + spread <= n.
        """
        if not (flips >= 0 and tenure >= 0 and 1 <= spread <= self.cost.n - tenure):
            raise ValueError(
                f"tabu: flips={flips}, tenure={tenure}, spread={spread}; need flips >= 0, tenure >= 0, spread >= 1 "
                f"and tenure + spread <= n = {self.cost.n}"
            )
        signs, gains, budget = np.array(start, order="C"), self.gains(start), (flips, seed, tenure, spread)
        off, whole = self.cost.off, self._whole
        if not extension.allowed():
            extension.warn_once()
            twin = tabu_twins.scan if whole is None else tabu_twins.buckets
            twin(off if whole is None else whole.off, signs, gains if whole is None else whole.gains(gains), *budget)
        elif whole is None:
            _kernels().sign_tabu(_level(level), *_rows(off), signs, gains, *budget)
        else:
            kernel = _kernels().sign_tabu_buckets
            kernel(_level(level), *_rows(whole.off), signs, whole.gains(gains), *budget, whole.range)
        return signs

    @cached_property
    def noise(self) -> float:
        """Gains up to it may be rounding: 8 n eps times the largest absolute row sum; 0 where all sums are exact."""
        largest = float(abs(self.cost.off).sum(axis=1).max())
        if self._divisor is not None and largest / self._divisor < 2**52:
            return 0.0
        return 8 * self.cost.n * float(np.finfo(np.float64).eps) * largest

    @cached_property
    def _divisor(self) -> float | None:
        """Of which every entry is an integer multiple; None without one, or for C = 0."""
        grid = lattice(self.cost)
        return float(grid[1] / 4) if grid is not None and grid[1] else None

    @cached_property
    def _whole(self) -> _Whole | None:
        """C in units of its divisor, where it is sparse and gains have a small range."""
        if self._divisor is None or isinstance(self.cost.off, np.ndarray):
            return None
        off = self.cost.off.copy()
        off.data = np.rint(off.data / self._divisor).astype(np.int32)
        widest = abs(off.astype(np.float64)).sum(axis=1).max()
        return _Whole(off, self._divisor, int(widest)) if widest <= WIDEST_RANGE else None


@dataclass(frozen=True, eq=False)
class _Whole:
    off: tabu_twins.Rows  # int32
    divisor: float
    range: int  # of absolute gains, in units of the divisor

    def gains(self, real: np.ndarray) -> np.ndarray:
        return np.rint(real / self.divisor).astype(np.int32)


def _rows(off: tabu_twins.Rows) -> tuple[np.ndarray, ...]:
    return (off,) if isinstance(off, np.ndarray) else (off.indptr, off.indices, off.data)


def _kernels() -> ModuleType:
    module = extension.module()
    assert module is not None, "ask core.extension.allowed() first"
    return module


def _level(level: int | None) -> int:
    return int(_kernels().best_level()) if level is None else level
