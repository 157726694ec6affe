"""Branch and bound against enumeration, its triangle inequalities, its interval when it is stopped, its refusals."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp.problem import cost
from solvers.sdp.signs.branch import _minimised, _Search, branch_and_bound
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


def test_a_time_limit_leaves_a_valid_interval() -> None:
    least = 3 * enumerate_signs(matrix(26, 8)).value
    # three copies that do not touch: the minimum of 78 signs is three times that of 26
    C = np.kron(np.eye(3), matrix(26, 8))
    found = branch_and_bound(C, time_limit=1e-3)
    assert found.bound <= least <= found.value and math.isfinite(found.bound)
    assert found.status == ("optimal" if found.proven else "time_limit")


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
