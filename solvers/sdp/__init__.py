"""Certified low-rank semidefinite programs: min <C, X>, diag X = 1, X psd, and the +-1 problems behind them.

`solve` descends on a factor of X and proves a lower bound in floating point; `solve_batch` does so for many problems
that share a Gram matrix; `round`, `branch_and_bound` and `enumerate_signs` search signs; `reference` asks a conic
solver; `read` reads files.
"""

from solvers.sdp.batching.solver import BatchSolution, solve_batch
from solvers.sdp.certificate import Proof, prove
from solvers.sdp.conic import Reference, reference
from solvers.sdp.files.instance import Instance
from solvers.sdp.files.readers import read
from solvers.sdp.least_squares import Normal, least_squares, normal, signs_of
from solvers.sdp.moments import gw_moments
from solvers.sdp.problem import Cost, cost
from solvers.sdp.signs.branch import Branched, branch_and_bound
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.rounding import Rounded, round
from solvers.sdp.solution import Look, Seconds, Solution
from solvers.sdp.solver import solve

__all__ = [
    "BatchSolution",
    "Branched",
    "Cost",
    "Instance",
    "Look",
    "Normal",
    "Proof",
    "Reference",
    "Rounded",
    "Seconds",
    "Solution",
    "branch_and_bound",
    "cost",
    "enumerate_signs",
    "gw_moments",
    "least_squares",
    "normal",
    "prove",
    "read",
    "reference",
    "round",
    "signs_of",
    "solve",
    "solve_batch",
]
