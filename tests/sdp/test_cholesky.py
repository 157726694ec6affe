"""Factorisations decide definiteness; the sparse ones are the dense one in another order, native or not."""

from contextlib import nullcontext

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from core import extension
from solvers.sdp import cholesky
from solvers.sdp.problem import cost

BUILT = extension.module() is not None
PATHS = [pytest.param("native", marks=pytest.mark.skipif(not BUILT, reason="not built here")), "twin"]


def decides(path, of, diagonal):
    if path == "native":
        return cholesky.Factoriser(of).succeeds(diagonal)
    with extension.twins_only(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(extension, "warn_once", lambda: None)
        return cholesky.Factoriser(of).succeeds(diagonal)


def random_sparse(n, density, seed):
    rng = np.random.default_rng(seed)
    upper = sp.random_array((n, n), density=density, rng=rng, data_sampler=rng.standard_normal)
    return cost(sp.csr_array(upper + upper.T), dense=False)


def grid(side):
    """A torus: elimination leaves a small core."""
    ring = sp.diags_array([np.ones(side - 1)] * 2, offsets=[-1, 1]).tolil()
    ring[0, side - 1] = ring[side - 1, 0] = 1
    return cost(sp.csr_array(sp.kron(ring, sp.eye_array(side)) + sp.kron(sp.eye_array(side), ring)), dense=False)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), density=st.floats(0.0, 0.5), seed=st.integers(0, 2**32 - 1), above=st.booleans())
def test_success_means_positive_definite(path, n, density, seed, above):
    of = random_sparse(n, density, seed)
    least = np.linalg.eigvalsh(of.off.toarray())[0]
    # 1e-8 is far above the rounding of a 40 x 40 factorisation with entries of size 1, and far below their size.
    assert decides(path, of, np.full(n, -least + (1e-8 if above else -1e-8))) is above


@pytest.mark.parametrize("path", PATHS)
def test_dense_and_sparse_agree_up_to_rounding(path):
    rng = np.random.default_rng(3)
    for seed in range(20):
        of = random_sparse(60, 0.1, seed)
        dense = cost(of.off, dense=True)
        base = np.abs(of.off).sum(1) * rng.uniform(0.3, 1.0, 60) + 0.1
        least = np.linalg.eigvalsh(of.off.toarray() + np.diag(base))[0]
        for shift in (1e-9, -1e-9):
            diagonal = base - least + shift
            assert decides(path, of, diagonal) == decides(path, dense, diagonal) == (shift > 0)


@pytest.mark.parametrize(
    "build", [lambda: random_sparse(120, 0.05, 1), lambda: grid(9), lambda: random_sparse(5, 0, 0)]
)
@pytest.mark.skipif(not BUILT, reason="not built here")
def test_both_paths_make_the_same_plan(build):
    of = build()
    native = cholesky.plan(of.off)
    with extension.twins_only():
        twin = cholesky.plan(of.off)
    assert native.eliminated == twin.eliminated
    for name in ("order", "column", "rows"):
        np.testing.assert_array_equal(getattr(native, name), getattr(twin, name))


def test_the_plan_is_an_elimination():
    of = random_sparse(80, 0.05, 7)
    plan = cholesky.plan(of.off)
    assert sorted(plan.order) == list(range(80))
    pattern = (of.off[plan.order][:, plan.order]).toarray() != 0
    for p in range(plan.eliminated):  # fill: eliminating p joins its later neighbours
        later = p + 1 + np.flatnonzero(pattern[p, p + 1 :])
        np.testing.assert_array_equal(plan.rows[plan.column[p] : plan.column[p + 1]], later)
        pattern[np.ix_(later, later)] = True
        assert len(later) <= cholesky.SHARE * (80 - p)


@pytest.mark.parametrize("path", PATHS)
def test_an_elimination_stops_when_its_work_is_spent(path):
    of = grid(12)
    with extension.twins_only() if path == "twin" else nullcontext():
        stopped = cholesky.plan(of.off, work=500.0)
    assert 0 < stopped.eliminated < cholesky.plan(of.off).eliminated
    assert (np.diff(stopped.column).astype(float) ** 2).sum() <= 500


def test_a_torus_keeps_a_small_core_and_few_operations():
    factoriser = cholesky.Factoriser(grid(40))
    assert factoriser.core < 400 and factoriser.flops < 0.02 * 1600**3 / 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diagonal_that_is_not_finite_never_succeeds(path, bad):
    for of in (random_sparse(30, 0.1, 0), cost(np.ones((4, 4)))):
        diagonal = np.full(of.n, 100.0)
        assert decides(path, of, diagonal)
        diagonal[of.n // 2] = bad
        assert not decides(path, of, diagonal)


@pytest.mark.parametrize("path", PATHS)
def test_a_singular_block_that_is_eliminated_fails(path):
    pairs = cost(sp.csr_array(sp.kron(sp.eye_array(20), np.array([[0.0, 1.0], [1.0, 0.0]]))), dense=False)
    diagonal = np.ones(40)
    assert cholesky.Factoriser(pairs).plan.eliminated > 20
    assert not decides(path, pairs, diagonal)  # every block has eigenvalues 0 and 2
    assert decides(path, pairs, diagonal + 1e-12)
