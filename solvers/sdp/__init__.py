"""Certified low-rank semidefinite programs: min <C, X>, diag X = 1, X psd, and the +-1 problems behind them.

`solve` descends on a factor of X and proves a lower bound in floating point.
"""

from solvers.sdp.certificate import Proof, prove
from solvers.sdp.problem import Cost, cost
from solvers.sdp.solution import Look, Seconds, Solution
from solvers.sdp.solver import solve

__all__ = ["Cost", "Look", "Proof", "Seconds", "Solution", "cost", "prove", "solve"]
