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


def elimination():
    """Arguments of the compiled elimination for a torus, by name, and the array it writes."""
    of = grid(6)
    plan = cholesky.plan(of.off, share=0.3)
    arrays = {"start": of.off.indptr, "neighbours": of.off.indices, "values": of.off.data, "diagonal": np.full(36, 5.0)}
    arrays |= {"eliminated": plan.eliminated, "order": plan.order, "column": plan.column, "rows": plan.rows}
    return arrays | {"core": np.zeros((plan.core, plan.core))}


def changed(array, at, value):
    copy = array.copy()
    copy[at] = value
    return copy


@pytest.mark.skipif(not BUILT, reason="not built here")
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("start", lambda a: a[:0], "start must rise"),
        ("start", lambda a: a[:-1], "start must rise"),
        ("start", lambda a: changed(a, 0, -1), "start must rise"),
        ("start", lambda a: changed(a, 3, 10**6), "start must rise"),
        ("start", lambda a: changed(a, -1, 10**6), "start must rise"),
        ("neighbours", lambda a: a[:-1], "start must rise"),
        ("neighbours", lambda a: changed(a, 5, 36), "neighbours must be in"),
        ("neighbours", lambda a: changed(a, 5, -1), "neighbours must be in"),
        ("values", lambda a: a[:-1], "one value a neighbour"),
        ("diagonal", lambda a: a[:-1], "entries on the diagonal"),
        ("eliminated", lambda m: -1, "eliminated must be in"),
        ("eliminated", lambda m: 37, "eliminated must be in"),
        ("eliminated", lambda m: m - 1, "column must rise"),
        ("order", lambda a: a[:-1], "permutation"),
        ("order", lambda a: changed(a, 0, a[1]), "permutation"),
        ("order", lambda a: changed(a, 0, 36), "permutation"),
        ("order", lambda a: changed(a, 0, -1), "permutation"),
        ("column", lambda a: a[:-1], "column must rise"),
        ("column", lambda a: changed(a, 1, 10**6), "column must rise"),
        ("column", lambda a: changed(a, 0, -1), "column must rise"),
        ("rows", lambda a: a[:-1], "column must rise"),
        ("rows", lambda a: changed(a, -1, 36), "rows of a column must ascend"),
        ("rows", lambda a: changed(a, 0, 0), "rows of a column must ascend"),
        ("rows", lambda a: changed(a, 1, a[0]), "rows of a column must ascend"),
        ("core", lambda a: np.zeros((len(a), len(a) + 1)), "core must be square"),
        ("core", lambda a: np.zeros((0, 0)), "core must be square"),
    ],
)
def test_the_compiled_elimination_refuses_what_would_reach_outside_its_arrays(name, change, words):
    given = elimination()
    module = extension.module()
    assert module.eliminate(0, *given.values())
    with pytest.raises(ValueError, match=words):
        module.eliminate(0, *(given | {name: change(given[name])}).values())


@pytest.mark.skipif(not BUILT, reason="not built here")
def test_plans_and_levels_are_checked_too():
    given, module = elimination(), extension.module()
    for level in (-1, module.best_level() + 1):
        with pytest.raises(ValueError, match="CPU level"):
            module.eliminate(level, *given.values())
    for start in (given["start"][:0], changed(given["start"], 1, 10**6)):
        with pytest.raises(ValueError, match="start must rise"):
            module.plan_elimination(start, given["neighbours"], 0.1, 1e6)
    with pytest.raises(ValueError, match="neighbours must be in"):
        module.plan_elimination(given["start"], changed(given["neighbours"], 0, 36), 0.1, 1e6)
