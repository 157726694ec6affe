"""Polished multipliers: S vanishes where it should, the sum stays, and the bound is of second order."""

import numpy as np
import pytest

from solvers.sdp import solve
from solvers.sdp.lbfgs import Descent
from solvers.sdp.multipliers import candidates
from solvers.sdp.problem import cost


def random_cost(n, seed):
    C = np.random.default_rng(seed).standard_normal((n, n))
    C = C + C.T
    np.fill_diagonal(C, 0.0)
    return cost(C)


def at(of, iterations, seed=0):
    descent = Descent(of, np.random.default_rng(seed).standard_normal((of.n, 12)))
    descent.run(iterations)
    V, y = descent.V[:, :12], descent.y
    P = of.off @ V
    return (
        descent,
        V,
        P,
        y,
        list(candidates(lambda X: of.off @ X, V, P, y, value=descent.value, wanted=4e-6 * abs(descent.value))),
    )


def exact_gap(of, descent, bounding):
    """value less the bound of the smallest plain shift."""
    least = np.linalg.eigvalsh(of.off - np.diag(bounding.multipliers))[0]
    return descent.value - bounding.multipliers.sum() + of.n * max(0.0, -least)


def test_after_polishing_s_vanishes_on_the_ritz_vectors_it_was_polished_on():
    of = random_cost(80, 1)
    _, V, _, y, found = at(of, 60)
    left, _, _ = np.linalg.svd(V, full_matrices=False)
    before = left.T @ (of.off - np.diag(y)) @ left
    _, ritz = np.linalg.eigh(before)
    assert len(found) > 1
    for bounding in found[:-1]:
        q = left @ ritz[:, : bounding.columns]
        after = q.T @ (of.off - np.diag(bounding.multipliers)) @ q
        assert np.linalg.norm(after) < 1e-6 * np.linalg.norm(before)


@pytest.mark.parametrize("seed", range(4))
def test_polishing_beats_the_first_order_multipliers_by_an_order_of_magnitude(seed):
    of = random_cost(150, seed)
    descent, _, _, _, found = at(of, 45, seed)
    *polished, plain = (exact_gap(of, descent, bounding) for bounding in found)
    assert min(polished) < plain / 5


def test_the_polished_gap_is_of_second_order():
    of = random_cost(120, 9)
    residuals, gaps = [], []
    for iterations in (40, 55, 70, 85):
        descent, _, _, _, found = at(of, iterations)
        residuals.append(descent.residual)
        gaps.append(min(exact_gap(of, descent, bounding) for bounding in found))
    slope = np.polyfit(np.log(residuals), np.log(gaps), 1)[0]
    assert slope > 1.4  # first order would be 1


def test_the_estimate_is_at_least_the_eigenvalue_it_estimates():
    of = random_cost(60, 3)
    for iterations in (20, 50, 100):
        for bounding in at(of, iterations)[-1]:
            S, d = of.off - np.diag(bounding.multipliers), bounding.shape
            exact = np.linalg.eigvalsh(S / np.sqrt(d)[:, None] / np.sqrt(d))[0]
            assert bounding.least >= exact - 1e-9  # a Ritz value: no proof, only a guide
            assert bounding.shape.mean() == pytest.approx(1.0)


def test_at_the_optimum_nothing_changes():
    of = random_cost(40, 4)
    solution = solve(of.off, gap=1e-9)
    V = solution.factor
    P = of.off @ V
    y = np.einsum("ij,ij->i", P, V)
    for bounding in candidates(lambda X: of.off @ X, V, P, y, value=solution.value, wanted=1e-9 * abs(solution.value)):
        np.testing.assert_allclose(bounding.multipliers, y, atol=1e-3 * np.abs(y).mean())
