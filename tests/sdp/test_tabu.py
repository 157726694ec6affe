"""One-flip searches: descents end where they should, tabu keeps its best, native and twin visit the same vectors."""

import numpy as np
import pytest
import scipy.sparse as sp

from core import extension
from solvers.sdp.problem import Cost, cost
from solvers.sdp.signs.tabu import OneFlip

KINDS = ("integers", "reals", "sparse integers", "sparse reals", "one wide entry")
SIZES = (1, 2, 9, 33, 70)
LEVELS = [None, *range(0 if extension.module() is None else extension.module().best_level() + 1)]


def problem(kind: str, n: int, seed: int = 0) -> Cost:
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((n, n)) if "reals" in kind else rng.integers(-3, 4, (n, n)).astype(float)
    if "sparse" in kind or "wide" in kind:
        C *= rng.random((n, n)) < 0.15
    C = C + C.T
    if "wide" in kind and n > 1:
        C[0, 1] = C[1, 0] = 10_000.0  # too wide for buckets
    return cost(C, dense="sparse" not in kind and "wide" not in kind)


def starts(n: int, m: int = 4, seed: int = 1) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random((m, n)) < 0.5, -1, 1).astype(np.int8)


def bars(n: int) -> dict[str, int]:
    return {"tenure": n // 10, "spread": max(1, n // 10)}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_gain_is_a_quarter_of_what_a_flip_takes_off(kind: str, n: int) -> None:
    moves = OneFlip(problem(kind, n))
    x = starts(n, 1)[0]
    for i, gain in enumerate(moves.gains(x)):
        flipped = x.copy()
        flipped[i] *= -1
        # rounding: n products and sums of entries below 10^4, each good to 2^-53
        assert moves.cost.value(x) - moves.cost.value(flipped) == pytest.approx(4 * gain, abs=1e-9)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_descent_ends_where_no_flip_helps_and_never_rises(kind: str, n: int) -> None:
    moves = OneFlip(problem(kind, n))
    x = starts(n)
    found = moves.descend(x)
    # incremental gains of reals differ from fresh ones by rounding, at most as much again as `noise`
    assert moves.gains(found).max() <= 2 * moves.noise
    assert (moves.values(found) <= moves.values(x) + 4 * n * moves.noise).all()
    assert moves.noise == 0 or "reals" in kind


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_native_and_twin_visit_the_same_vectors(kind: str, n: int, level: int | None) -> None:
    moves, x = OneFlip(problem(kind, n)), starts(n)
    for flips in (1, 10, 400):
        native = moves.tabu(x[0], flips=flips, seed=2**64 - n, **bars(n), level=level)
        with extension.twins_only():
            assert np.array_equal(native, moves.tabu(x[0], flips=flips, seed=2**64 - n, **bars(n)))
    native = moves.descend(x, level=level)
    with extension.twins_only():
        assert np.array_equal(native, moves.descend(x))


def test_buckets_serve_sparse_integers_alone() -> None:
    assert {kind: OneFlip(problem(kind, 33))._whole is not None for kind in KINDS} == {
        kind: kind == "sparse integers" for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tabu_returns_the_best_vector_it_met(kind: str) -> None:
    n, flips = 33, 60
    moves, x = OneFlip(problem(kind, n)), starts(n, 1)[0]
    best = [moves.tabu(x, flips=k, seed=5, **bars(n)) for k in range(flips)]
    values = [moves.cost.value(b) for b in best]
    assert np.array_equal(best[0], x)
    assert all(later <= earlier for earlier, later in zip(values, values[1:], strict=False))
    assert values[-1] < values[0]


@pytest.mark.parametrize("kind", KINDS)
def test_tabu_leaves_local_optima_that_hold_descent(kind: str) -> None:
    moves = OneFlip(problem(kind, 70, seed=3))
    optima = moves.descend(starts(70, 20))
    searched = [moves.tabu(x, flips=5000, seed=0, **bars(70)) for x in optima]
    assert np.mean([moves.cost.value(x) for x in searched]) < moves.values(optima).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_signs_turned_in_cost_and_start_turn_the_answer(kind: str) -> None:
    n = 33
    turn = starts(n, 1, seed=9)[0]
    given = problem(kind, n)
    D = sp.diags_array(turn.astype(float))
    C = given.off.toarray() if given.sparse else given.off
    turned = cost(D @ C @ D, dense=not given.sparse)
    x = starts(n, 1)[0]
    one = OneFlip(given).tabu(x, flips=500, seed=3, **bars(n))
    other = OneFlip(turned).tabu(x * turn, flips=500, seed=3, **bars(n))
    assert np.array_equal(one * turn, other)


def test_seeds_break_ties_and_choose_bars_differently() -> None:
    moves = OneFlip(cost(np.ones((40, 40)), dense=True))
    found = {moves.tabu(np.ones(40, dtype=np.int8), flips=20, seed=s, **bars(40)).tobytes() for s in range(5)}
    assert len(found) == 5


@pytest.mark.parametrize("wrong", [{"tenure": 9}, {"tenure": -1}, {"spread": 0}, {"flips": -1}])
def test_bars_that_would_leave_no_sign_free_are_refused(wrong: dict[str, int]) -> None:
    moves = OneFlip(problem("reals", 9))
    budget = {"flips": 1, "tenure": 0, "spread": 1} | wrong
    with pytest.raises(ValueError, match=r"tenure \+ spread <= n = 9"):
        moves.tabu(starts(9)[0], seed=0, **budget)


def test_every_sign_can_be_barred_but_one() -> None:
    moves = OneFlip(problem("sparse integers", 9))
    found = moves.tabu(starts(9)[0], flips=100, seed=0, tenure=8, spread=1)
    with extension.twins_only():
        assert np.array_equal(found, moves.tabu(starts(9)[0], flips=100, seed=0, tenure=8, spread=1))
