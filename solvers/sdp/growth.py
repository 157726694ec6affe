"""The way out of a stationary point whose rank is too low: a column along a direction of negative curvature.

At a stationary V the matrix S = C - Diag(y) decides: if u'Su < 0, appending the column eps u to V (and making rows unit
again) lowers the value by eps^2 |u'Su| to second order. A V whose columns are dependent and which is a second-order
point is optimal already (Boumal, Voroninski & Bandeira 2016), so a V with columns to spare is asked only where the
descent has stalled: it may have been started at a saddle.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from solvers.sdp.device import DeviceDescent
from solvers.sdp.lbfgs import Descent
from solvers.sdp.problem import Cost

DEPENDENT = 0.02  # least singular value of V, relative to the largest, from which its columns count as independent
DIRECTIONS = 8  # columns added at most: the least eigenvectors found
STEPS = (80, 320, 1280)  # of Lanczos: more where fewer find nothing and the descent has come to its end
SIZE = 0.1  # of the new entries, beside rows of length 1, where u is spread evenly


def largest_rank(n: int) -> int:
    """ceil(sqrt(2n)) + 1, at most n: no spurious local optimum has it, for generic C."""
    return min(n, math.ceil(math.sqrt(2 * n)) + 1)


def in_use(V: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n used"]:
    """V rotated, which changes no inner product, without the columns that are small then."""
    left, values, _ = np.linalg.svd(V, full_matrices=False)
    used = values > DEPENDENT * values[0]
    rotated: np.ndarray = left[:, used] * values[used]
    return rotated


def escape(descent: Descent | DeviceDescent, of: Cost, tolerance: float, rng: np.random.Generator) -> bool:
    """Append columns to the descent's factor along directions of curvature below -tolerance; whether there are any.

    A factor with columns to spare is left to the descent, which turns them along such directions by itself; but not
    where it has stalled, at a saddle that it was started from.
    """
    V = in_use(descent.V[:, : descent.rank])
    room = min(DIRECTIONS, largest_rank(of.n) - V.shape[1])
    if room < 1 or (V.shape[1] < descent.rank and not descent.stalled):
        return False
    for steps in STEPS if descent.stalled else STEPS[:1]:
        directions = negative_directions(of, descent.y, V, tolerance, rng, steps=steps)[:, :room]
        if directions.shape[1]:
            break
    else:
        return False
    descent.replace(np.hstack([V, SIZE * math.sqrt(of.n) * directions]), sweeps=2)
    return True


def negative_directions(
    of: Cost, y: np.ndarray, V: np.ndarray, tolerance: float, rng: np.random.Generator, *, steps: int = STEPS[0]
) -> Float[np.ndarray, "n directions"]:
    """Unit vectors u orthogonal to the range of V with u'Su < -tolerance, the least first; at times there are others.

    Lanczos on S between projections onto the complement of the range, where S nearly vanishes: its eigenvalues there,
    clustered at zero, would hide the negative ones. A Ritz value is attained, so what is returned is true curvature.
    """
    Q, _ = np.linalg.qr(V)
    steps = min(steps, of.n - Q.shape[1])
    kept = np.empty((of.n, steps))
    u = _complement(rng.standard_normal(of.n), Q)
    images = np.empty_like(kept)
    for step in range(steps):
        length = np.linalg.norm(u)
        if not length > 0:
            steps = step
            break
        kept[:, step] = u / length
        images[:, step] = of.off @ kept[:, step] - y * kept[:, step]
        before = np.hstack([Q, kept[:, : step + 1]])
        u = _complement(_complement(images[:, step], before), before)  # twice: the second time against rounding
    values, W = np.linalg.eigh(kept[:, :steps].T @ images[:, :steps])
    directions: np.ndarray = kept[:, :steps] @ W[:, values < -tolerance]
    return directions


def _complement(u: np.ndarray, Q: np.ndarray) -> np.ndarray:
    projected: np.ndarray = u - Q @ (Q.T @ u)
    return projected
