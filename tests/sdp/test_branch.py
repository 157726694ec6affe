"""Branch and bound against enumeration, its triangle inequalities, its interval when it is stopped, its refusals."""

import itertools
import math
import time
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp.least_squares import least_squares
from solvers.sdp.problem import cost
from solvers.sdp.signs.branch import _minimised, _Node, _Search, branch_and_bound
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.triangles import NONE, TURNS, Triangles, raised, violated


def matrix(n: int, seed: int, kind: str = "integers") -> np.ndarray:
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((n, n)) if kind == "reals" else rng.integers(-9, 10, (n, n)).astype(float)
    if kind == "fractions":
        C *= 0.375
    if kind == "sparse":
        C *= rng.random((n, n)) < 0.3
    return C + C.T


def graph(n: int, seed: int) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).integers(0, 2, (n, n)), 1).astype(float)
    return upper + upper.T


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a search that still minimises long after its limit, rather than wait for it."""
    began = time.perf_counter()

    def minimised(*given):
        assert time.perf_counter() - began < 15, "the time limit is ignored"  # a loaded machine gets time
        return _minimised(*given)

    monkeypatch.setattr("solvers.sdp.signs.branch._minimised", minimised)


@pytest.mark.parametrize("kind", ["integers", "reals", "fractions", "sparse"])
@pytest.mark.parametrize("n", [1, 2, 19, 22, 24])
def test_minimum_is_the_enumerated_one(n: int, kind: str) -> None:
    C = matrix(n, n, kind)
    found, least = branch_and_bound(C), enumerate_signs(C)
    assert found.proven and found.status == "optimal"
    # sums of reals round: each of n^2 terms of size 10 to 2^-53 relative
    assert found.value == (pytest.approx(least.value, abs=1e-10) if kind == "reals" else least.value)
    assert found.bound <= least.value <= found.bound + 1e-9 * max(1, abs(found.value))
    assert kind == "reals" or found.bound == found.value
    assert cost(C).value(found.signs) == found.value


def test_a_graph_of_forty_nodes_is_solved_with_its_bound_alone() -> None:
    C = graph(40, 0)
    found = branch_and_bound(C)
    assert found.proven and found.bound == found.value
    order = np.random.default_rng(1).permutation(40)
    turn = np.where(np.random.default_rng(2).random(40) < 0.5, -1.0, 1.0)
    other = branch_and_bound((C * turn * turn[:, None])[np.ix_(order, order)])
    assert other.proven and other.value == found.value  # two searches that share no path


def test_a_planted_minimum_is_found_and_proven() -> None:
    planted = np.where(np.random.default_rng(3).random(50) < 0.5, -1.0, 1.0)
    weights = np.random.default_rng(4).integers(1, 5, (50, 50))
    C = -np.outer(planted, planted) * (weights + weights.T)
    found = branch_and_bound(C)
    assert found.proven and found.value == -abs(C).sum()


def test_sparse_dense_and_prepared_costs_agree() -> None:
    C = matrix(24, 5, "sparse")
    found = [branch_and_bound(form) for form in (C, sp.csr_array(C), cost(C, dense=True), cost(C, dense=False))]
    assert len({f.value for f in found}) == len({f.bound for f in found}) == 1


def test_a_diagonal_adds_its_sum() -> None:
    C = matrix(22, 6)
    assert branch_and_bound(C + np.diag(np.arange(22.0))).value == branch_and_bound(C).value + 231


def test_a_zero_cost_is_optimal_at_once() -> None:
    found = branch_and_bound(np.diag(np.arange(30.0)))
    assert (found.value, found.bound, found.proven, found.nodes) == (435.0, 435.0, True, 0)


def test_a_gap_asked_is_kept_with_fewer_nodes() -> None:
    C = graph(36, 7)
    exact, near = branch_and_bound(C), branch_and_bound(C, gap=0.1)
    assert near.proven and near.nodes <= exact.nodes
    assert near.bound <= exact.value <= near.value <= near.bound + 0.1 * abs(near.value)


def test_a_time_limit_leaves_a_valid_interval(watched) -> None:
    least = 3 * enumerate_signs(matrix(26, 8)).value
    # three copies that do not touch: the minimum of 78 signs is three times that of 26
    C = np.kron(np.eye(3), matrix(26, 8))
    found = branch_and_bound(C, time_limit=1e-3)
    assert found.bound <= least <= found.value and math.isfinite(found.bound)
    assert found.status == ("optimal" if found.proven else "time_limit")


DIAGONALS = {"tenths": 0.1, "thirds": 1e6 / 3, "large": 3.3e5, "larger": 1e16 + 2, "vast": 1e17}


def with_diagonal(kind: str, diagonal: float, seed: int) -> np.ndarray:
    """9 rows of integers or reals, a diagonal far larger or of other fractions."""
    C = np.triu(matrix(9, seed, kind), 1)
    C += C.T
    C[0, 0] = diagonal
    if diagonal < 1e7:
        np.fill_diagonal(C, diagonal)
    return C


def targets_far_away(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 8))
    return least_squares(X, 1e6 + X @ rng.choice([-1.0, 1.0], 8) + 0.1 * rng.standard_normal(40))


def cases() -> dict[str, np.ndarray]:
    kinds = itertools.product(("integers", "reals"), DIAGONALS, range(4))
    found = {f"{kind} {name} {seed}": with_diagonal(kind, DIAGONALS[name], seed) for kind, name, seed in kinds}
    return found | {f"far {seed}": targets_far_away(seed) for seed in range(4)}


def minimum(oracle, C: np.ndarray) -> Fraction:
    """Of x'Cx, exactly: beside a large diagonal the oracle's own float64 could not tell vectors apart."""
    return oracle.optimum(C - np.diag(np.diag(C)))[0] + oracle.total(np.diag(C))


@pytest.mark.parametrize("case", cases())
def test_a_proven_bound_is_below_the_exact_minimum_whatever_the_diagonal(oracle, case: str) -> None:
    C = cases()[case]
    found, least = branch_and_bound(C), minimum(oracle, C)
    assert found.proven and Fraction(found.bound) <= least
    assert found.bound >= found.value - 1e-9 * max(1.0, abs(found.value))


def test_a_leaf_takes_what_rounding_costs_off_its_bound(oracle) -> None:
    """Values of reals, rounded: some above the exact minimum, and no bound is."""
    above = 0
    for seed in range(30):
        C = matrix(7, seed, "reals")
        found, least = branch_and_bound(C), minimum(oracle, C)
        assert Fraction(found.bound) <= least
        above += Fraction(math.nextafter(found.value, -math.inf)) > least
    assert above  # so that the value, and one ulp less, are no bounds


def test_scaling_back_rounds_a_bound_downwards() -> None:
    C = np.ldexp(matrix(7, 0, "reals"), -1028)  # 46 bits are left of a number of this size
    np.fill_diagonal(C, 0.0)
    search = _Search(cost(C), 0.0, 0)
    for bound in np.random.default_rng(0).standard_normal(20):
        exact = Fraction(bound) * Fraction(2) ** search.exponent
        assert 0 < exact - Fraction(search._unscaled(float(bound))) < Fraction(2) ** -1073


def test_summed_entries_differ_from_exact_ones_by_less_than_the_rounding_taken_off(oracle) -> None:
    rng = np.random.default_rng(0)
    C = matrix(8, 1, "reals") / 3
    search = _Search(cost(C), 0.0, 0)
    exact = np.ldexp(C, -search.exponent)
    np.fill_diagonal(exact, 0.0)
    worst = Fraction(0)
    for seed in range(20):
        group, signs = np.array([0, 1, 2, 3, 4, 0, 1, 2]), np.sign(rng.standard_normal(8))
        small = search._summed(_Node(0.0, 0, group, signs, np.ones((5, 1)), NONE))
        triangles = every(5).chosen(rng.random(40) < 0.5)
        triangles = Triangles(triangles.triples, triangles.turns, rng.random(len(triangles.triples)))
        z = np.sign(rng.standard_normal(5))
        given = oracle.value(triangles.taken_off(small.off), z) + oracle.total(small.diagonal)
        left = triangles.turns * np.stack(
            [
                z[a] * z[b]
                for a, b in (triangles.triples.T[[0, 1]], triangles.triples.T[[0, 2]], triangles.triples.T[[1, 2]])
            ],
            axis=1,
        )
        taken = sum(
            (Fraction(m) * int(t) for m, t in zip(triangles.multipliers, left.sum(axis=1), strict=True)), Fraction(0)
        )
        difference = abs(given - (oracle.value(exact, signs * z[group]) - taken))
        assert difference <= Fraction(search._rounding(triangles)), seed
        worst = max(worst, difference)
    assert worst > 0


@pytest.mark.parametrize("exponent", [-1070, -1020, 300, 900])
@pytest.mark.parametrize("kind", ["integers", "reals"])
def test_a_power_of_two_in_the_cost_is_one_in_the_answer(kind: str, exponent: int) -> None:
    C = matrix(22, 11, kind)
    scaled = np.ldexp(C, exponent)
    began = time.perf_counter()
    one, other = branch_and_bound(C), branch_and_bound(scaled, time_limit=60.0)
    assert time.perf_counter() - began < 30
    assert other.proven and other.value == cost(scaled).value(other.signs)
    if kind == "integers":  # below 2^5 times 2^-1070 is exact, and so is the search
        assert other.bound == other.value == math.ldexp(one.value, exponent)
    elif exponent > 0:
        assert other.value == math.ldexp(one.value, exponent)
    else:  # entries were rounded to multiples of 2^-1074; any gap below 1e-9 is one that was asked
        assert other.bound <= other.value <= other.bound + 1e-9


def test_a_time_limit_ends_a_search_that_has_far_to_go(watched) -> None:
    rng = np.random.default_rng(12)
    C = np.triu(rng.choice([-1.0, 1.0], (90, 90)), 1)  # hours, unless it is stopped
    began = time.perf_counter()
    found = branch_and_bound(C + C.T, time_limit=0.5)
    assert found.status == "time_limit" and not found.proven and found.bound < found.value
    assert time.perf_counter() - began < 5  # a loaded machine gets time


def test_a_time_limit_holds_and_memory_is_quadratic_for_many_signs(watched) -> None:
    n = 500
    C = np.triu(np.random.default_rng(13).integers(-5, 6, (n, n)), 1).astype(float)
    tracemalloc.start()
    began = time.perf_counter()
    found = branch_and_bound(C + C.T, time_limit=1.0)
    took, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.status == "time_limit" and math.isfinite(found.bound)
    assert took < 10  # rounds with all n^3 / 6 triples would take minutes; a loaded machine gets time
    assert peak < 400 * 8 * n * n < 8 * n**3 / 6 * 10  # ten numbers a triple would be 1.6 GB


def test_bounds_of_nodes_are_no_larger_than_what_they_contain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound proven on the way, against the enumerated minimum of its node."""
    C = matrix(20, 9)
    inner, seen = _Search._bounded, []

    def watched(self, small, node):
        bound, found = inner(self, small, node)
        seen.append(bound - enumerate_signs(small).value)
        return bound, found

    monkeypatch.setattr(_Search, "_bounded", watched)
    monkeypatch.setattr("solvers.sdp.signs.branch.ENUMERATED", 4)
    monkeypatch.setattr("solvers.sdp.signs.branch.ROOT_ROUNDS", 2)
    monkeypatch.setattr("solvers.sdp.signs.branch.ROUNDS", 4)
    found = branch_and_bound(C)
    assert found.value == enumerate_signs(C).value and found.proven
    assert len(seen) > 3 and max(seen) <= 0


@pytest.mark.parametrize("wrong", [{"gap": -1.0}, {"gap": math.nan}, {"time_limit": 0.0}])
def test_what_cannot_be_asked_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        branch_and_bound(np.zeros((2, 2)), **wrong)


def every(n: int) -> Triangles:
    triples = np.array(list(itertools.combinations(range(n), 3)))
    return Triangles(np.repeat(triples, 4, axis=0), np.tile(TURNS, (len(triples), 1)), np.ones(4 * len(triples)))


def test_every_sign_vector_keeps_every_inequality_and_some_touch_each() -> None:
    excess = [every(4).excess(np.outer(x, x)) for x in itertools.product((-1.0, 1.0), repeat=4)]
    assert np.min(excess) == 0 and (np.min(excess, axis=0) == 0).all()


def test_violated_ones_are_those_a_search_of_all_finds() -> None:
    V = np.random.default_rng(0).standard_normal((7, 2))
    V /= np.linalg.norm(V, axis=1)[:, None]
    excess = np.sort(every(7).excess(V @ V.T))
    wanted = excess[excess < -0.02][:21]
    assert len(wanted) > 5
    assert np.allclose(np.sort(violated(V @ V.T).excess(V @ V.T)), wanted, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_looking_at_some_triples_at_a_time_finds_the_same_ones(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    kind = np.resize([0, 1, 2], 12)  # three vectors at 120 degrees: 64 triples of one of each, violated alike
    X = np.where(kind == kind[:, None], 1.0, -0.5)
    whole = violated(X)
    monkeypatch.setattr("solvers.sdp.signs.triangles.AT_ONCE", at_once)
    some = violated(X)
    assert len(whole.triples) == 36
    assert np.array_equal(whole.triples, some.triples) and np.array_equal(whole.turns, some.turns)


def test_moved_into_the_cost_they_take_off_what_they_say() -> None:
    rng = np.random.default_rng(1)
    triangles = every(5).chosen(rng.random(40) < 0.5)
    triangles = Triangles(triangles.triples, triangles.turns, rng.integers(0, 9, len(triangles.triples)) / 8)
    C, X = matrix(5, 2), matrix(5, 3, "reals")
    left = triangles.excess(X) - 1
    changed = triangles.taken_off(C)
    assert np.array_equal(changed, changed.T)
    assert (changed * X).sum() == pytest.approx((C * X).sum() - triangles.multipliers @ left, rel=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_merging_two_signs_keeps_the_inequalities_of_others(sign: float) -> None:
    small = np.array([1.0, -1.0, -1.0, 1.0])
    i, j = 1, 3
    x = np.insert(small, j, sign * small[i])
    triangles = every(5)
    merged = triangles.merged(i, j, sign)
    touched = (triangles.triples == i).any(axis=1) & (triangles.triples == j).any(axis=1)
    assert np.array_equal(merged.excess(np.outer(small, small)), triangles.excess(np.outer(x, x))[~touched])


def test_rounds_raise_the_bound_and_join_keeps_one_of_each() -> None:
    C = graph(20, 3)
    V = np.random.default_rng(0).standard_normal((20, 8))
    least = enumerate_signs(C).value
    bounds = [raised(C, NONE, V, _minimised, target=least, rounds=rounds).value for rounds in (0, 20, 60)]
    assert bounds[0] < bounds[1] <= bounds[2] <= least + 1e-2 * abs(least)  # values at a residual of 3e-3 are above
    assert len(every(4).joined(every(4)).triples) == 16
