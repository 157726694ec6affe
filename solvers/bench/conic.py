"""S1-S4: conic solvers through cvxpy, as users write the problem and in the dual form, against ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from solvers.bench.clock import interleaved
from solvers.bench.goals import Goal, Measured, Setting, instance, ours, proven, words
from solvers.bench.peers import dual, primal
from solvers.sdp.conic import Conic
from solvers.sdp.problem import Matrix

Form: TypeAlias = Callable[[Matrix, Conic, float], float]


def ratio(file: str, solver: Conic, tolerance: float, form: Form, _setting: Setting) -> Measured:
    """Seconds of the peer at a tolerance over seconds of ours to a gap as small, proven."""
    C = instance(file).C
    peer = partial(form, C, solver, tolerance)
    primal(instance("sdplib/mcp100.dat-s.gz").C[:3, :3], solver, 1e-3)  # cvxpy's first problem loads its compiler
    mine = ours(file, tolerance)
    mine()
    timed = interleaved({"ours": mine, "peer": peer})
    value = timed["ours"].result.value
    away = abs(timed["peer"].result - value) / max(1.0, abs(value))
    detail = f"peer {timed['peer']}, its value off by {away:.0e}; ours {timed['ours']}, {words(timed['ours'].result)}"
    return Measured(timed["peer"].median / timed["ours"].median, detail, proven(timed["ours"].result, tolerance))


def goals() -> list[Goal]:
    """S1-S4."""
    small, middle, large = (f"sdplib/{name}.dat-s.gz" for name in ("mcp100", "mcp250-3", "mcp500-3"))
    return [
        Goal("S1", "cvxpy+SCS(1e-3) / ours 1e-3, mcp250-3", 150, "x", partial(ratio, middle, "SCS", 1e-3, primal)),
        Goal("S2", "cvxpy+SCS(1e-6) / ours 1e-6, mcp250-3", 1500, "x", partial(ratio, middle, "SCS", 1e-6, primal)),
        Goal("S3", "cvxpy+SCS(1e-3) / ours 1e-3, mcp500-3", 200, "x", partial(ratio, large, "SCS", 1e-3, primal)),
        Goal(
            "S4 primal",
            "cvxpy+Clarabel / ours 1e-6, mcp100",
            2000,
            "x",
            partial(ratio, small, "CLARABEL", 1e-6, primal),
        ),
        Goal(
            "S4 dual", "dual-form Clarabel / ours 1e-6, mcp100", 40, "x", partial(ratio, small, "CLARABEL", 1e-6, dual)
        ),
    ]
