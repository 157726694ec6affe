"""The exact minimum of x'Cx over signs, by visiting half of all sign vectors in Gray code."""

from __future__ import annotations

import numpy as np

from core import extension
from solvers.sdp.certificate import UNIT
from solvers.sdp.problem import Cost, Matrix, cost, lattice
from solvers.sdp.signs.rounding import Rounded

LARGEST = 26  # signs: 2^25 vectors
RUN = 8  # digits that the kernel runs through before it computes its fields anew
AT_ONCE = 12  # digits whose patterns NumPy evaluates together


def enumerate_signs(C: Matrix | Cost) -> Rounded:
    """A sign vector of least x'Cx, and that value; the last sign is +1, since x and -x cost the same.

    Where sums of entries round, one whose value is above the least by up to `rounding` may be returned.
    Raises ValueError for n > 26, naming branch_and_bound.
    """
    problem = C if isinstance(C, Cost) else cost(C, dense=True)
    if problem.n > LARGEST:
        raise ValueError(f"enumerate_signs: n = {problem.n}, at most {LARGEST}; use branch_and_bound")
    off = problem.off if isinstance(problem.off, np.ndarray) else problem.off.toarray()
    if extension.allowed():
        module = extension.module()
        assert module is not None
        signs = np.empty(problem.n, dtype=np.int8)
        module.sign_enumerate(module.best_level(), off, signs)
    else:
        extension.warn_once()
        signs = _enumerate(off)
    return Rounded(signs, problem.value(signs))


def rounding(of: Cost) -> float:
    """By how much x'Cx of the vector that `enumerate_signs` returns may exceed the least; 0 where sums are exact.

    Of a run of K = 2^8 flips the k-th finds fields with errors up to (k + n) u R, R the largest absolute row sum, and
    adds 4 of them to a value below the sum S of all: (2 K^2 + 4 n K) u R + (K + 2 n) u S, for each of two vectors.
    """
    sizes = np.abs(of.off).sum(axis=1)
    largest, total = float(sizes.max()), float(sizes.sum())
    grid = lattice(of)
    if grid is not None and total <= 2**52 * grid[1] / 4:
        return 0.0
    run: int = 2**RUN
    return float(2.1 * UNIT * ((2 * run**2 + 4 * of.n * run) * largest + (run + 2 * of.n) * total))


def _enumerate(off: np.ndarray) -> np.ndarray:
    """The kernel's twin: all patterns of the low digits at once, for every pattern of the others."""
    free = len(off) - 1
    low = min(free, AT_ONCE)
    patterns = _patterns(low)
    within = np.einsum("pi,ij,pj->p", patterns, off[:low, :low], patterns, optimize=True)
    best, least = np.ones(len(off)), np.inf
    for high in _patterns(free - low):
        rest = np.append(high, 1.0)
        values = within + patterns @ (2 * off[:low, low:] @ rest) + rest @ off[low:, low:] @ rest
        at = int(values.argmin())
        if values[at] < least:
            best, least = np.concatenate([patterns[at], rest]), values[at]
    return best.astype(np.int8)


def _patterns(digits: int) -> np.ndarray:
    """Every vector of that many signs, (2^digits, digits)."""
    return 1.0 - 2.0 * ((np.arange(2**digits)[:, None] >> np.arange(digits)) & 1)
