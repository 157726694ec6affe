"""The way out of a stationary point whose rank is too low: a column along a direction of negative curvature.

At a stationary V the matrix S = C - Diag(y) decides: if u'Su < 0, appending the column eps u to V (and making rows unit
again) lowers the value to second order in eps, as u is orthogonal to nothing V has used. A V whose columns are
dependent and which is a second-order point is optimal already (Boumal, Voroninski & Bandeira 2016), so only a V of full
rank is asked.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse.linalg as linalg

from solvers.sdp.device import DeviceDescent
from solvers.sdp.lbfgs import Descent
from solvers.sdp.problem import Cost

DEPENDENT = 0.02  # least singular value of V, relative to the largest, from which its columns count as independent
DIRECTIONS = 8  # columns added at most: the least eigenvectors found
SIZE = 0.1  # of the new entries, beside rows of length 1, where u is spread evenly


def largest_rank(n: int) -> int:
    """ceil(sqrt(2n)) + 1, at most n: no spurious local optimum has it, for generic C."""
    return min(n, math.ceil(math.sqrt(2 * n)) + 1)


def full_rank(V: np.ndarray) -> bool:
    """Whether all columns of V are in use."""
    values = np.linalg.svd(V, compute_uv=False)
    return bool(values[-1] > DEPENDENT * values[0])


def escape(descent: Descent | DeviceDescent, of: Cost, tolerance: float, rng: np.random.Generator) -> bool:
    """Append columns to the descent's factor along eigenvectors of S below -tolerance; whether there are any."""
    V, y, n = descent.V[:, : descent.rank], descent.y, of.n
    room = min(DIRECTIONS, largest_rank(n) - descent.rank)
    if room < 1 or not full_rank(V):
        return False
    values, vectors = _least(of, y, min(room, n - 1), rng)
    below = values < -tolerance
    if not below.any():
        return False
    new = SIZE * math.sqrt(n) * vectors[:, below]
    descent.replace(np.hstack([V, new]), sweeps=2)
    return True


def _least(of: Cost, y: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The least eigenvalues of S, roughly: what has converged within some iterations."""
    n = of.n
    if n <= 64:  # too small for Lanczos
        whole = of.off if isinstance(of.off, np.ndarray) else of.off.toarray()
        values, vectors = np.linalg.eigh(whole - np.diag(y))
        return values[:count], vectors[:, :count]
    operator = linalg.LinearOperator((n, n), matvec=lambda x: of.off @ x - y * x, dtype=np.float64)
    start = rng.standard_normal(n)
    try:
        values, vectors = linalg.eigsh(operator, k=count, which="SA", tol=1e-2, maxiter=40, v0=start)
    except linalg.ArpackNoConvergence as partly:
        values, vectors = partly.eigenvalues, partly.eigenvectors
    return values, vectors
