"""min <C, X>, diag X = 1, X psd by a general conic solver through cvxpy: an independent second opinion, slow.

The dual is what is handed over: max sum(y) over C - Diag(y) psd, whose n variables a modelling layer turns into a cone
program directly. The primal form brings a dense block of order n(n + 1)/2 to interior-point solvers (Clarabel: 60
times slower and 10 times the memory at n = 100); X is the dual value of the constraint.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from solvers.sdp.problem import Matrix, cost

Conic = Literal["SCS", "CLARABEL"]
OPTIONS = {
    "SCS": lambda tolerance: {"eps_abs": tolerance, "eps_rel": tolerance, "max_iters": 1_000_000},
    "CLARABEL": lambda tolerance: {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance},
}


@dataclass(frozen=True, eq=False)
class Reference:
    """What a conic solver says; feasible and optimal only to its tolerance, so nothing here is proven.

    value: <C, X>. bound_estimate: sum(y) + trace C. multipliers: y of the off-diagonal part, as in `Solution`.
    matrix: X (n, n), symmetrised. seconds: wall clock, modelling included. status: the solver's word.
    """

    value: float
    bound_estimate: float
    multipliers: Float[np.ndarray, " n"]
    matrix: Float[np.ndarray, "n n"]
    seconds: float
    status: str


def reference(C: Matrix, solver: Conic = "SCS", *, tolerance: float = 1e-6) -> Reference:
    """Solve by SCS (first order) or Clarabel (interior point) to a relative and absolute `tolerance`.

    Raises what `cost` raises, ValueError for an unknown solver or a tolerance outside (0, 1), RuntimeError when the
    solver returns no solution.
    """
    if solver not in OPTIONS:
        raise ValueError(f"solver={solver!r}, but the reference solvers are {' and '.join(OPTIONS)}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance}, but it must lie in (0, 1)")
    of = cost(C)
    import cvxpy as cp  # late: a second of imports that only this function needs

    begin = time.perf_counter()
    y = cp.Variable(of.n)
    psd = of.off - cp.diag(y) >> 0
    problem = cp.Problem(cp.Maximize(cp.sum(y)), [psd])
    try:
        problem.solve(solver=solver, **OPTIONS[solver](tolerance))
    except cp.error.SolverError as error:
        raise RuntimeError(f"{solver} gave up on {of.n} rows at tolerance {tolerance}: {error}") from error
    if y.value is None or psd.dual_value is None:
        raise RuntimeError(f"{solver} found no solution of {of.n} rows at tolerance {tolerance}: {problem.status}")
    matrix = (psd.dual_value + psd.dual_value.T) / 2
    multipliers = np.asarray(y.value, dtype=np.float64)
    value = float((of.off * matrix).sum()) + of.constant
    bound = math.fsum(multipliers) + of.constant
    return Reference(value, bound, multipliers, matrix, time.perf_counter() - begin, str(problem.status))
