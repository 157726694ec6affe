"""Q6: ten thousand attempts to have something false certified."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from solvers.bench.goals import Goal, Measured, Setting
from solvers.sdp.certificate import prove
from solvers.sdp.problem import Cost, cost
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.solver import solve

MATRICES, EACH, LARGEST = 200, 50, 14
BEYOND = 1e-9  # of the scale of C: how far a claim goes beyond what is true


def trials(_setting: Setting) -> Measured:
    """False certificates: a bound above the optimum over signs or a feasible value, or of an indefinite matrix.

    Every matrix also has claims that are true with a margin; they must be proven, or the test would say nothing.
    """
    false, accepted, controls, attempts = [], 0, 0, 0
    rng = np.random.default_rng(0)
    for number in range(MATRICES):
        of = cost(_matrix(rng))
        scale = float(np.abs(of.off).sum(axis=1).max()) if of.n > 1 else 1.0
        best, found = enumerate_signs(of).value, solve(of.off + np.diag(of.diagonal), gap=1e-7)
        for kind, y, true in _claims(of, found.multipliers, best - of.constant, scale, rng):
            attempts += 1
            proof = prove(of, y)
            accepted += proof is not None
            if true:
                controls += proof is None
            elif proof is not None and _is_false(of, proof.bound, proof.multipliers, min(best, found.value), scale):
                false.append(f"matrix {number}, {kind}")
    detail = f"{attempts} trials, {accepted} accepted, {controls} true claims refused; false: {false[:3] or 'none'}"
    return Measured(len(false), detail, controls == 0 and attempts == MATRICES * EACH)


def _matrix(rng: np.random.Generator) -> np.ndarray:
    """Symmetric: Gaussian, signs or a sparse graph, times a power of ten, some with a diagonal."""
    n = int(rng.integers(2, LARGEST + 1))
    kinds = (
        rng.normal(size=(n, n)),
        rng.choice((-1.0, 1.0), size=(n, n)),
        rng.integers(1, 9, size=(n, n)) * (rng.random((n, n)) < 0.4),
    )
    half = kinds[int(rng.integers(3))] * 10.0 ** int(rng.integers(-6, 7))
    whole = np.triu(half, 1) + np.triu(half, 1).T + np.diag(np.diag(half)) * float(rng.integers(2))
    return np.asarray(whole, dtype=np.float64)


def _claims(
    of: Cost, y: np.ndarray, best: float, scale: float, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, bool]]:
    """EACH multipliers for the off-diagonal part, what they are, and whether the claim must be proven.

    y: multipliers of a proven bound. best: the optimum over signs of the off-diagonal part.
    """
    n = of.n
    for k in range(EACH // 10):
        noise = rng.normal(size=n)
        yield "random", scale * noise, False
        yield "scaled", y * 2.0 ** rng.normal(), False
        yield "swapped", rng.permutation(y), False
        yield "not finite", np.where(np.arange(n) == k % n, rng.choice((np.nan, np.inf, -np.inf)), y), False
        yield "near", y + BEYOND * scale * noise, False
        yield "indefinite", y + _least(of, y) + BEYOND * scale, False
        rough = y + 0.1 * scale * noise
        yield "indefinite far from the optimum", rough + _least(of, rough) + BEYOND * scale, False
        yield "above the signs", y + (best + BEYOND * abs(best) - y.sum()) / n, False
        yield "above the signs, uneven", _with_sum(np.abs(noise) * y, best + BEYOND * scale), False
        yield "true", y - 1e-6 * scale, True


def _least(of: Cost, y: np.ndarray) -> float:
    dense = of.off if isinstance(of.off, np.ndarray) else of.off.toarray()
    return float(np.linalg.eigvalsh(dense - np.diag(y))[0])


def _with_sum(y: np.ndarray, total: float) -> np.ndarray:
    """y moved evenly to a sum."""
    return np.asarray(y + (total - y.sum()) / len(y))


def _is_false(of: Cost, bound: float, t: np.ndarray, value: float, scale: float) -> bool:
    """Whether a proof claims what is not: judged to a few roundings of an eigenvalue decomposition."""
    size = of.n * max(scale, float(np.abs(t).max())) * 1e-14
    return bool(bound > value + size or _least(of, t) < -size)


def goals() -> list[Goal]:
    """Q6."""
    return [Goal("Q6", "false certificates in 10 000 adversarial trials", 0, "false", trials, False)]
