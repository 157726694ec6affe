"""S13: a layer of 256 neurons on the digits, their relaxations solved together, against cvxpy+SCS one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.datasets import load_digits

from solvers.bench.clock import interleaved
from solvers.bench.goals import Goal, Measured, Setting
from solvers.bench.peers import dual, primal
from solvers.sdp.batching.solver import BatchSolution, solve_batch
from solvers.sdp.least_squares import Normal, bordered, normal
from solvers.sdp.solver import solve

PIXELS, NEURONS, STEP = 54, 256, 51  # STEP: every so many neurons the peer solves one
GAP = 1e-3


def ratio(_setting: Setting) -> Measured:
    """Seconds of the peer for a neuron, in the primal form as users write it, over ours for one of 256, all proven.

    The detail gives what the dual form takes, and how far the peer's values are from the optimum.
    """
    problem = neurons()
    costs = {t: bordered(problem.G, problem.B[t], problem.constants[t]) for t in range(0, NEURONS, STEP)}
    primal(costs[0][:3, :3], "SCS", GAP)  # cvxpy's first problem loads its compiler
    ours = partial(solve_batch, problem.G, problem.B, constants=problem.constants, gap=GAP)
    ours()
    optima = {t: solve(C, gap=1e-7).value for t, C in costs.items()}
    forms = {"primal": primal, "dual": dual}
    runs: dict[str, Callable[[], object]] = {
        f"{name} {t}": partial(form, C, "SCS", GAP) for t, C in costs.items() for name, form in forms.items()
    }
    timed = interleaved({"ours": ours, **runs})
    found: BatchSolution = timed["ours"].result
    each = timed["ours"].median / NEURONS
    peer = {name: float(np.median([timed[f"{name} {t}"].median for t in costs])) for name in forms}
    off = {name: np.median([abs(timed[f"{name} {t}"].result / optima[t] - 1) for t in costs]) for name in forms}
    proven = int((found.proven & (found.gap <= GAP)).sum())
    detail = (
        f"peer {peer['primal']:.3g} s a neuron (median of {len(costs)}, primal form as users write it), its value off "
        f"by {off['primal']:.0e} (median); its dual form {peer['dual']:.3g} s, {peer['dual'] / each:.3g}x, off by "
        f"{off['dual']:.0e}; ours {each * 1e3:.3g} ms, {proven}/{NEURONS} proven, mean gap {found.gap.mean():.1e}, "
        f"largest {found.gap.max():.1e}"
    )
    return Measured(peer["primal"] / each, detail, proven == NEURONS)


def neurons() -> Normal:
    """||y_t / scale_t - Xw||^2 over signs: ten one-vs-rest targets, then outputs of random real layers.

    X: the 54 pixels of largest variance, standardised. scale: mean |w| of the least-squares or the real weights
    (XNOR-Net, Rastegari et al. 2016).
    """
    pixels, labels = load_digits(return_X_y=True)
    chosen = np.sort(np.argsort(-pixels.var(axis=0), kind="stable")[:PIXELS])
    X = (pixels[:, chosen] - pixels[:, chosen].mean(axis=0)) / pixels[:, chosen].std(axis=0)
    one_vs_rest = np.where(labels[:, None] == np.arange(10), 1.0, -1.0)
    weights = np.linalg.lstsq(X, one_vs_rest, rcond=None)[0]
    real = np.random.default_rng(0).normal(size=(PIXELS, NEURONS - 10))
    targets = np.concatenate([one_vs_rest, X @ real], axis=1)
    scales = np.abs(np.concatenate([weights, real], axis=1)).mean(axis=0)
    return normal(X, targets / scales)


def goals() -> list[Goal]:
    """S13."""
    return [Goal("S13", "cvxpy+SCS(1e-3) / ours 1e-3 a neuron, 256 digits neurons at once", 60, "x", ratio)]
