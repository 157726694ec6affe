"""The mixing method: cyclic exact minimisation of <C, VV'> over single rows of V, each of length 1.

Wang, Chang & Kolter 2017 (arXiv 1706.00476).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from solvers.sdp import kernels
from solvers.sdp.problem import Cost


def mix(cost: Cost, V: Float[np.ndarray, "n k"], sweeps: int, *, tolerance: float = 0.0) -> Float[np.ndarray, " n"]:
    """At most `sweeps` cyclic passes over a factor with unit rows and padded columns, in place.

    Ends after a sweep that decreases <C, VV'> by at most tolerance * sum_i |y_i|. Returns y_i = -|g_i| of each row as
    it was last minimised: lengths of g_i = sum_j c_ij v_j, not the multipliers <(CV)_i, v_i> of the final factor.
    """
    y = np.zeros(len(V))
    for _ in range(sweeps):
        if kernels.sweep(cost.off, V, y) <= -tolerance * float(y.sum()):
            break
    return y
