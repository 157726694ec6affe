"""S13: a layer of 256 neurons on the digits, their relaxations solved together, against cvxpy+SCS one by one."""

from __future__ import annotations

from functools import partial

import numpy as np
from sklearn.datasets import load_digits

from solvers.bench.clock import interleaved
from solvers.bench.goals import Goal, Measured, Setting
from solvers.bench.peers import primal
from solvers.sdp.batching.solver import BatchSolution, solve_batch
from solvers.sdp.least_squares import Normal, bordered, normal

PIXELS, NEURONS, SHOWN = 54, 256, 5  # SHOWN: neurons that the peer solves
GAP = 1e-3


def ratio(_setting: Setting) -> Measured:
    """Seconds of the peer for a neuron over ours for one of 256, all proven."""
    problem = neurons()
    matrices = [bordered(problem.G, problem.B[t], problem.constants[t]) for t in range(0, NEURONS, NEURONS // SHOWN)]
    primal(matrices[0][:3, :3], "SCS", GAP)  # cvxpy's first problem loads its compiler
    ours = partial(solve_batch, problem.G, problem.B, constants=problem.constants, gap=GAP)
    ours()
    runs = {"ours": ours} | {f"peer {t}": partial(primal, C, "SCS", GAP) for t, C in enumerate(matrices)}
    timed = interleaved(runs)
    found: BatchSolution = timed["ours"].result
    each = timed["ours"].median / NEURONS
    peer = float(np.median([run.median for name, run in timed.items() if name != "ours"]))
    proven = int((found.proven & (found.gap <= GAP)).sum())
    detail = (
        f"peer {peer:.3g} s a neuron (median of {len(matrices)}), ours {each * 1e3:.3g} ms, "
        f"{proven}/{NEURONS} proven, mean gap {found.gap.mean():.1e}, largest {found.gap.max():.1e}"
    )
    return Measured(peer / each, detail, proven == NEURONS)


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
