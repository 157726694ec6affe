"""`solve_batch`: each task is the SDP of one homogenised problem, whatever its neighbours in the batch are.

Task t: min over signs w of w'Gw - 2 b_t'w + constant_t, as C_t = [[G, -b_t], [-b_t', constant_t]].
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.sdp.batching.solver import solve_batch
from solvers.sdp.least_squares import least_squares
from solvers.sdp.solver import solve


def _matrix(G, b, constant=0.0):
    return np.block([[G, -b[:, None]], [-b[None, :], np.array([[constant]])]])


def _rounding(C) -> float:
    """Of <C, VV'> added up in float64 in any order."""
    return 4 * len(C) * 2.0**-52 * float(np.abs(C).sum())


def _integers(m, n, tasks, rng):
    """Gram matrix, right-hand sides and constants of ||y_t - Xw||^2 with +-1 inputs: exact integers."""
    X = rng.integers(0, 2, (m, n)) * 2.0 - 1.0
    Y = rng.integers(-n, n + 1, (m, tasks)).astype(float)
    return X.T @ X, (X.T @ Y).T.copy(), (Y**2).sum(0)


def _real(m, n, tasks, rng):
    X, Y = rng.standard_normal((m, n)), rng.standard_normal((m, tasks)) * np.sqrt(n)
    G = X.T @ X
    return (G + G.T) / 2, (X.T @ Y).T.copy(), (Y**2).sum(0)


EXAMPLES = 25  # of a law each; a solve or a batch takes milliseconds
MAKERS = pytest.mark.parametrize("make", [_integers, _real])


def _check(batch, G, B, constants, gap=1e-3):
    """The facts about every task that need no oracle."""
    tasks, n = B.shape
    assert batch.factor.shape[:2] == (tasks, n + 1)
    for name in ("value", "bound", "bound_integer", "gap", "proven", "rank", "status"):
        assert len(getattr(batch, name)) == tasks, name
    assert np.abs(np.linalg.norm(batch.factor, axis=2) - 1).max() <= 1e-12
    for t in range(tasks):
        C = _matrix(G, B[t], constants[t])
        V = batch.factor[t]
        assert abs(float(((C @ V) * V).sum()) - batch.value[t]) <= _rounding(C)
        assert batch.gap[t] == pytest.approx(
            abs(batch.value[t] - batch.bound[t]) / max(1, abs(batch.value[t])), rel=1e-12
        )
        assert batch.bound[t] <= batch.value[t] + _rounding(C)
        assert batch.bound_integer[t] >= batch.bound[t]
        if batch.status[t] == "certified":
            assert batch.proven[t] and batch.gap[t] <= gap


@MAKERS
@pytest.mark.parametrize("n", [1, 2, 5, 9, 12])
def test_every_task_holds_its_exact_optimum(oracle, make, n):
    G, B, constants = make(3 * n, n, 6, np.random.default_rng(n))
    batch = solve_batch(G, B, constants=constants, gap=1e-5)
    _check(batch, G, B, constants, 1e-5)
    for t in range(6):
        C = _matrix(G, B[t], constants[t])
        lower, upper = oracle.interval(C)
        optimum, _ = oracle.optimum(C)
        assert batch.proven[t] and batch.status[t] == "certified"
        assert Fraction(float(batch.bound[t])) <= upper
        assert Fraction(float(batch.value[t])) >= lower - Fraction(_rounding(C))
        assert Fraction(float(batch.bound_integer[t])) <= optimum


@MAKERS
def test_a_batch_and_single_solves_agree(make):
    G, B, constants = make(120, 40, 12, np.random.default_rng(40))
    batch = solve_batch(G, B, constants=constants, gap=1e-4)
    assert batch.proven.all()
    for t in range(12):
        C = _matrix(G, B[t], constants[t])
        single = solve(C, gap=1e-4)
        assert single.status == batch.status[t] == "certified"
        assert batch.bound[t] <= single.value + _rounding(C)
        assert single.bound <= batch.value[t] + _rounding(C)


def test_constants_move_value_and_bound_and_nothing_else():
    G, B, constants = _integers(60, 15, 5, np.random.default_rng(1))
    with_them, without = solve_batch(G, B, constants=constants, gap=1e-6), solve_batch(G, B, gap=1e-6)
    slack = 1e-9 * constants.max()
    assert with_them.proven.all() and without.proven.all()
    assert (with_them.bound - constants <= without.value + slack).all()
    assert (without.bound <= with_them.value - constants + slack).all()
    assert np.array_equal(with_them.bound_integer, without.bound_integer + constants)


def test_integer_bounds_of_integer_data_are_attainable(oracle):
    """w'Gw - 2 b'w + c of signs keeps its parity class: the homogenised matrix moves in steps of 4 times a divisor."""
    G, B, constants = _integers(33, 11, 8, np.random.default_rng(11))
    batch = solve_batch(G, B, constants=constants, gap=1e-6)
    for t in range(8):
        C = _matrix(G, B[t], constants[t])
        optimum, _ = oracle.optimum(C)
        assert batch.bound[t] <= batch.bound_integer[t] <= optimum
        assert batch.bound_integer[t] == np.rint(batch.bound_integer[t])
        assert (int(batch.bound_integer[t]) - int(C.sum())) % 4 == 0


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 20), tasks=st.integers(1, 9))
def test_order_of_the_tasks_does_not_matter(seed, n, tasks):
    rng = np.random.default_rng(seed)
    G, B, constants = _real(2 * n + 3, n, tasks, rng)
    order = rng.permutation(tasks)
    batch = solve_batch(G, B, constants=constants)
    turned = solve_batch(G, B[order], constants=constants[order])
    assert batch.proven.all() and turned.proven.all()
    slack = np.array([_rounding(_matrix(G, B[t], constants[t])) for t in order])
    assert (turned.bound <= batch.value[order] + slack).all() and (batch.bound[order] <= turned.value + slack).all()


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 20))
def test_flipping_and_permuting_the_inputs_keeps_every_optimum(seed, n):
    rng = np.random.default_rng(seed)
    G, B, constants = _integers(3 * n, n, 4, rng)
    order, flips = rng.permutation(n), rng.integers(0, 2, n) * 2.0 - 1.0
    turned_G, turned_B = (flips[:, None] * G * flips)[np.ix_(order, order)], (B * flips)[:, order]
    plain = solve_batch(G, B, constants=constants)
    turned = solve_batch(turned_G.copy(), turned_B.copy(), constants=constants)
    assert plain.proven.all() and turned.proven.all()
    slack = 1e-9 * constants
    assert (turned.bound <= plain.value + slack).all() and (plain.bound <= turned.value + slack).all()


@pytest.mark.parametrize("n", [1, 6])
def test_tasks_of_every_difficulty_share_a_batch(oracle, n):
    """A task without a target, one with a planted answer, one 10^6 times larger: masks must not mix them up."""
    rng = np.random.default_rng(2)
    X = rng.integers(0, 2, (40, n)) * 2.0 - 1.0
    planted = rng.integers(0, 2, n) * 2.0 - 1.0
    Y = np.stack([np.zeros(40), X @ planted, rng.standard_normal(40), 1e6 * rng.standard_normal(40)], axis=1)
    G, B, constants = X.T @ X, (X.T @ Y).T.copy(), (Y**2).sum(0)
    batch = solve_batch(G, B, constants=constants, gap=1e-6)
    _check(batch, G, B, constants, 1e-6)
    assert batch.proven.all() and batch.gap.max() <= 1e-6
    assert -1e-6 * max(1.0, constants[1]) <= batch.bound[1] <= 0.0 and batch.bound_integer[1] == 0.0
    for t in range(4):
        assert Fraction(float(batch.bound[t])) <= oracle.interval(_matrix(G, B[t], constants[t]))[1]


def test_duplicated_and_dead_inputs_are_served(oracle):
    """A singular Gram matrix: one column twice, one column zero (a pixel that never lights)."""
    rng = np.random.default_rng(4)
    X = rng.integers(0, 2, (30, 8)) * 2.0 - 1.0
    X[:, 5], X[:, 6] = X[:, 4], 0.0
    Y = rng.integers(-8, 9, (30, 3)).astype(float)
    G, B, constants = X.T @ X, (X.T @ Y).T.copy(), (Y**2).sum(0)
    batch = solve_batch(G, B, constants=constants, gap=1e-5)
    assert batch.proven.all() and (np.asarray(batch.status) == "certified").all()
    for t in range(3):
        assert Fraction(float(batch.bound[t])) <= oracle.interval(_matrix(G, B[t], constants[t]))[1]


def test_a_batch_of_one_least_squares_problem_is_that_problem():
    rng = np.random.default_rng(6)
    X, y = rng.integers(0, 2, (90, 30)) * 2.0 - 1.0, rng.integers(-30, 31, 90).astype(float)
    C = least_squares(X, y)
    assert np.array_equal(C, _matrix(X.T @ X, X.T @ y, float(y @ y)))  # integers: exact, no rounding to allow for
    batch = solve_batch(X.T @ X, (X.T @ y)[None], constants=np.array([y @ y]), gap=1e-5)
    single = solve(C, gap=1e-5)
    assert batch.bound[0] <= single.value + _rounding(C) and single.bound <= batch.value[0] + _rounding(C)
    w = np.where(rng.random(30) < 0.5, -1.0, 1.0)
    loss = float(((y - X @ w) ** 2).sum())
    assert batch.bound_integer[0] <= loss and float(np.append(w, 1) @ C @ np.append(w, 1)) == loss


def test_warm_start_converges_to_the_same_values():
    G, B, constants = _real(100, 30, 7, np.random.default_rng(30))
    cold = solve_batch(G, B, constants=constants, gap=1e-6)
    moved = B + 1e-3 * np.random.default_rng(1).standard_normal(B.shape)
    for right in (B, moved):
        fresh = solve_batch(G, right, constants=constants, gap=1e-6)
        for warm in (cold, cold.factor):
            again = solve_batch(G, right, constants=constants, gap=1e-6, warm=warm)
            _check(again, G, right, constants, 1e-6)
            assert again.proven.all() and again.gap.max() <= 1e-6
            slack = 1e-10 * constants
            assert (again.bound <= fresh.value + slack).all() and (fresh.bound <= again.value + slack).all()


def test_rank_too_low_never_gives_a_wrong_certificate(oracle):
    G, B, constants = _real(20, 11, 8, np.random.default_rng(8))
    for rank in (1, 2):
        batch = solve_batch(G, B, constants=constants, rank=rank, time_limit=5.0)
        _check(batch, G, B, constants)
        for t in range(8):
            upper = oracle.interval(_matrix(G, B[t], constants[t]))[1]
            assert Fraction(float(batch.bound[t])) <= upper
            if Fraction(float(batch.value[t])) > upper + Fraction(2e-3) * max(1, abs(upper)):
                assert batch.status[t] != "certified" and batch.gap[t] > 1e-3


def test_same_seed_gives_the_same_bits():
    G, B, constants = _real(60, 20, 9, np.random.default_rng(20))
    first, again = (solve_batch(G, B, constants=constants, seed=3) for _ in range(2))
    assert np.array_equal(first.factor, again.factor)
    assert np.array_equal(first.value, again.value) and np.array_equal(first.bound, again.bound)


def test_estimates_and_silence_are_never_called_proven():
    G, B, _ = _real(60, 20, 4, np.random.default_rng(21))
    for certify in ("estimate", "none"):
        batch = solve_batch(G, B, certify=certify)
        assert not batch.proven.any() and "certified" not in list(batch.status)
    assert (batch.bound == -np.inf).all()


def test_a_time_limit_returns_true_intervals():
    G, B, constants = _real(400, 200, 32, np.random.default_rng(5))
    full = solve_batch(G, B, constants=constants, gap=1e-3)
    assert full.proven.all()
    for limit in (1e-4, 1e-2):
        batch = solve_batch(G, B, constants=constants, gap=1e-9, time_limit=limit)
        assert set(batch.status) == {"time_limit"}
        assert np.isfinite(batch.bound).all() and (batch.bound <= batch.value).all()
        assert (batch.bound <= full.value).all() and (full.bound <= batch.value).all()


def test_arguments_are_left_alone():
    G, B, constants = _real(40, 12, 3, np.random.default_rng(12))
    copies = G.copy(), B.copy(), constants.copy()
    solve_batch(G, B, constants=constants)
    assert all(np.array_equal(now, before) for now, before in zip((G, B, constants), copies, strict=True))
