"""What `solve` does on its way: looks, growth of the rank, limits, labels, other devices."""

import math
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp import bounding, cholesky, device, growth, prove, solve, solver
from solvers.sdp.device import DeviceDescent
from solvers.sdp.files.readers import read
from solvers.sdp.lbfgs import Descent
from solvers.sdp.options import check_options
from solvers.sdp.problem import cost
from solvers.sdp.reduction import reduce


def gaussian(n, seed=0):
    C = np.random.default_rng(seed).standard_normal((n, n))
    return C + C.T


def random_graph(n, degree, seed=0):
    rng = np.random.default_rng(seed)
    upper = sp.triu(sp.random_array((n, n), density=degree / n, rng=rng, data_sampler=lambda size: np.ones(size)), 1)
    return sp.csr_array(upper + upper.T)


@pytest.mark.parametrize("C", [gaussian(120), random_graph(200, 10)], ids=["dense", "sparse"])
def test_few_factorisations_prove_small_gaps(C):
    for gap in (1e-3, 1e-6):
        solution = solve(C, gap=gap)
        assert solution.status == "certified" and solution.proven and solution.gap <= gap
        assert solution.factorisations <= 2


def test_the_proof_can_be_made_again_from_the_multipliers_returned():
    C = gaussian(60, 1)
    solution = solve(C)
    proof = prove(cost(C), solution.multipliers)
    assert proof is not None and proof.bound == solution.bound


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_rank_that_is_too_low_grows_until_a_proof_is_possible(rank):
    C = random_graph(150, 8, 3)
    grown, free = solve(C, gap=1e-5, rank=rank), solve(C, gap=1e-5)
    assert grown.status == "certified" and grown.rank > rank
    assert grown.value == pytest.approx(free.value, rel=2e-5)


def test_a_column_of_negative_curvature_lowers_the_value():
    C = cost(gaussian(80, 5))
    descent = solver.Descent(C, np.random.default_rng(0).standard_normal((80, 3)))
    descent.run(2000, residual=1e-9)
    stuck = descent.value
    assert growth.escape(descent, C, 1e-9, np.random.default_rng(1)) and descent.rank > 3
    descent.run(200)
    assert descent.value < stuck - 1e-3 * abs(stuck)


def test_negative_directions_are_what_they_say():
    C = cost(gaussian(70, 5))
    descent = solver.Descent(C, np.random.default_rng(0).standard_normal((70, 2)))
    descent.run(500, residual=1e-6)
    V, S = descent.V[:, :2], C.off - np.diag(descent.y)
    found = growth.negative_directions(C, descent.y, V, 1e-3, np.random.default_rng(1))
    curvature = np.einsum("ij,ij->j", found, S @ found)
    assert found.shape[1] and (curvature < -1e-3).all() and curvature[0] == curvature.min()
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-10)
    np.testing.assert_allclose(V.T @ found, 0.0, atol=1e-10)
    # 68 = 70 - 2 steps span the complement: the least eigenvalue there is found exactly.
    left, _, _ = np.linalg.svd(V)
    inside = left[:, 2:].T @ S @ left[:, 2:]
    assert curvature[0] == pytest.approx(np.linalg.eigvalsh(inside)[0], rel=1e-8)


def test_at_an_optimum_no_column_is_added():
    C = cost(gaussian(40, 6))
    left, values, _ = np.linalg.svd(solve(C.off, gap=1e-9).factor, full_matrices=False)
    used = values > 0.05 * values[0]
    descent = solver.Descent(C, left[:, used] * values[used], sweeps=0)
    descent.run(300)
    assert growth.in_use(descent.V[:, : descent.rank]).shape[1] == descent.rank
    assert not growth.escape(descent, C, 1e-4, np.random.default_rng(1))


def test_the_largest_rank_is_that_of_the_theory():
    assert [growth.largest_rank(n) for n in (1, 2, 8, 50, 800)] == [1, 2, 5, 11, 41]


def test_estimates_are_labelled_and_never_proven():
    C = gaussian(100, 2)
    estimated, nothing, certified = (solve(C, certify=how) for how in ("estimate", "none", "rigorous"))
    assert (estimated.status, estimated.proven, estimated.factorisations) == ("estimated", False, 0)
    assert estimated.gap <= 1e-6 and estimated.bound == pytest.approx(certified.bound, rel=1e-5)
    assert (nothing.status, nothing.proven, nothing.bound, nothing.gap) == ("stationary", False, -math.inf, math.inf)
    assert nothing.value == pytest.approx(certified.value, rel=1e-4)
    assert estimated.note == nothing.note == certified.note == ""


def test_a_time_limit_returns_a_proven_interval_and_says_so():
    solution = solve(random_graph(3000, 12), gap=1e-7, time_limit=1e-3)
    assert solution.status == "time_limit" and solution.proven
    assert -math.inf < solution.bound < solution.value and solution.gap > 1e-7
    assert "time limit" in solution.note and "1e-07 was asked" in solution.note


def test_a_time_limit_is_looked_at_between_pieces_of_bounded_work(monkeypatch):
    monkeypatch.setattr(solver, "PIECE", 1.0)
    descents = []
    monkeypatch.setattr(solver, "Descent", lambda *started: descents.append(Descent(*started)) or descents[0])
    assert solve(gaussian(60), gap=1e-9, time_limit=1e-9).status == "time_limit"
    assert descents[0].iterations == 1


def test_a_last_proof_that_holds_the_gap_certifies_it_after_the_limit():
    solution = solve(gaussian(40), gap=0.5, time_limit=1e-9)
    assert solution.status == ("certified" if solution.gap <= 0.5 else "time_limit")
    wide = solve(gaussian(40), gap=50.0, time_limit=1e-9)
    assert wide.status == "certified" and wide.note == "" and wide.gap <= 50


def test_where_no_factorisation_is_in_time_rows_that_dominate_are_the_proof(monkeypatch):
    monkeypatch.setattr(cholesky, "RATE", 1e-9)  # a factorisation would take for ever
    C = gaussian(50)
    solution = solve(C, time_limit=0.05)
    assert solution.proven and solution.factorisations == 0 and solution.status == "time_limit"
    assert solution.bound == pytest.approx(np.trace(C) - np.abs(cost(C).off).sum(), rel=1e-12)


def test_an_iteration_limit_is_one_more_end(monkeypatch):
    monkeypatch.setattr(solver, "MOST_ITERATIONS", 30)
    solution = solve(gaussian(200), gap=1e-9)
    assert solution.status == "iteration_limit" and solution.proven and "30 iterations" in solution.note


def test_the_looks_are_on_record():
    solution = solve(gaussian(150, 3))
    last = solution.history[-1]
    assert last.proven <= 1e-6 and last.predicted <= 1e-6 and last.rank >= solution.rank
    iterations = [look.iteration for look in solution.history]
    assert iterations == sorted(iterations) and last.seconds <= solution.seconds.total
    assert last.value == pytest.approx(solution.value, rel=1e-8)  # the factor returned has fewer columns


def test_a_gap_below_what_rounding_allows_says_what_is_provable():
    with pytest.raises(
        ValueError, match=r"gap=1e-15 cannot be proven .* 120 rows alone costs a gap of \S+; ask for"
    ) as told:
        solve(gaussian(120), gap=1e-15)
    provable = float(str(told.value).split("gap=")[2].split()[0])
    solution = solve(gaussian(120), gap=3 * provable)
    assert solution.proven and solution.gap <= 100 * provable


def test_a_first_value_near_zero_by_chance_is_no_reason_to_refuse():
    C = gaussian(80, 2) * 1e9
    np.fill_diagonal(C, 0.0)
    bounder, descent = bounding.Bounder(cost(C)), Descent(cost(C), np.ones((80, 8)) + np.eye(80, 8))
    descent.run(25)
    with pytest.raises(ValueError, match="cannot be proven in float64"):
        bounder.check_gap(descent, 1e-9, 1e-9, 1e-6)
    bounder.check_gap(descent, 1e-9, 1e3, 1e-6)
    constant = -float(solve(C, certify="none").value)
    balanced = solve(C + np.diag(np.full(80, constant / 80)), gap=1e-3)  # value near 0: the gap is nearly absolute
    assert balanced.proven


def test_memory_that_will_not_suffice_is_said_before_any_work(monkeypatch):
    monkeypatch.setattr(bounding, "available_memory", lambda: 1000)
    monkeypatch.setattr(solver, "Descent", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(MemoryError, match=r"a proof for 300 rows factors a dense core of 300 rows.*certify='estimate'"):
        solve(gaussian(300))


def test_without_a_proof_no_memory_is_asked_for(monkeypatch):
    monkeypatch.setattr(bounding, "available_memory", lambda: 1000)
    assert solve(gaussian(30), certify="estimate").status == "estimated"


def test_a_warm_start_saves_iterations_and_keeps_the_value():
    C = random_graph(400, 10, 1)
    cold = solve(C)
    for warm in (cold, cold.factor, np.hstack([cold.factor, np.zeros((400, 3))])):
        again = solve(C, warm=warm)
        assert again.history[-1].iteration < cold.history[-1].iteration
        assert again.value == pytest.approx(cold.value, rel=2e-6)


@pytest.mark.parametrize("columns", [1, 4, 12])
def test_a_warm_start_at_a_saddle_is_left(columns):
    C = gaussian(60, 4)
    signs = np.where(np.random.default_rng(0).standard_normal(60) < 0, -1.0, 1.0)
    saddle = np.zeros((60, columns))
    saddle[:, 0] = signs  # rank 1: the gradient vanishes, whatever the signs
    solution = solve(C, warm=saddle)
    assert solution.status == "certified" and solution.value == pytest.approx(solve(C).value, rel=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gap": 0.0}, "gap must be a positive number"),
        ({"gap": math.nan}, "gap must be a positive number"),
        ({"rank": 0}, "rank must be 'auto' or a positive integer"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"time_limit": 0.0}, "time_limit must be positive seconds"),
        ({"warm": np.ones((3, 2))}, r"warm must be a finite factor of 20 rows \(got shape \(3, 2\)\)"),
        ({"warm": np.full((20, 2), np.nan)}, "warm must be a finite factor"),
        ({"warm": np.zeros((20, 2))}, "warm has a row of zeros"),
        ({"device": "nonsense"}, "device='nonsense' cannot be used here: .*; use device='cpu'"),
    ],
)
def test_wrong_options_are_named_with_what_they_may_be(options, message):
    with pytest.raises(ValueError, match=message):
        solve(gaussian(20), **options)


@pytest.mark.parametrize(
    ("rank", "certify", "message"),
    [("full", "none", "rank must be 'auto' or a positive integer"), (4, "maybe", "certify must be 'rigorous', 'estim")],
)
def test_wrong_words_are_named_too(rank, certify, message):  # where no type checker has refused them
    with pytest.raises(ValueError, match=message):
        check_options(1e-6, rank, certify, 0, None)


def test_a_masked_warm_factor_is_refused():
    with pytest.raises(TypeError, match="warm is a masked array"):
        solve(gaussian(5), warm=np.ma.masked_array(np.ones((5, 2)), mask=np.eye(5, 2)))


def test_a_device_is_checked_even_where_nothing_is_left_to_descend():
    with pytest.raises(ValueError, match="device='meta' cannot be used here"):
        solve(np.eye(3), device="meta")


def test_a_sparse_problem_on_a_device_is_refused_by_name(monkeypatch):
    for module in (solver, device):
        monkeypatch.setattr(module, "check_device", lambda name: None)
    with pytest.raises(ValueError, match="only a dense C is solved there"):
        solve(random_graph(50, 4), device="meta")


def test_the_descent_of_a_device_serves_the_same_solve(monkeypatch):
    C = gaussian(90, 8)
    ours = solve(C)
    monkeypatch.setattr(solver, "Descent", lambda of, start: DeviceDescent(of, start, "cpu"))
    theirs = solve(C)
    assert theirs.status == "certified" and theirs.value == pytest.approx(ours.value, rel=2e-6)


@pytest.mark.gpu
def test_the_same_on_a_cuda_device():
    C = gaussian(300, 8)
    assert solve(C, device="cuda").value == pytest.approx(solve(C).value, rel=2e-6)


@pytest.mark.parametrize("power", [-900, -40, 40, 900])
def test_powers_of_two_scale_everything_exactly(power):
    C = random_graph(60, 5, 2).toarray() * np.float64(3.0)
    plain, scaled = solve(C, certify="none"), solve(np.ldexp(C, power), certify="none")
    np.testing.assert_array_equal(plain.factor, scaled.factor)
    assert scaled.value == math.ldexp(plain.value, power)


def test_the_bound_of_a_diagonal_matrix_is_not_above_its_exact_trace():
    C = np.diag([1.0, 0.75 * 2.0**-52])  # the nearest float to the trace is above it
    solution = solve(C)
    assert solution.proven and solution.status == "certified"
    assert Fraction(solution.bound) <= Fraction(1) + Fraction(3, 4) / 2**52


def test_multipliers_that_become_subnormal_are_rounded_downwards():
    ring = np.zeros((5, 5))
    for i in range(5):
        ring[i, (i + 1) % 5] = ring[(i + 1) % 5, i] = 2 * 5e-324
    solution = solve(ring, gap=1.0)
    exact = [[Fraction(x) for x in row] for row in ring.tolist()]
    optimum = -10 * 2 * Fraction(5e-324) * Fraction(8090, 10000)  # 10 c cos(4 pi / 5), a little above the optimum
    assert exact[0][1] > 0 and Fraction(solution.bound) <= optimum


def test_a_range_that_cannot_be_scaled_exactly_is_refused():
    C = np.zeros((3, 3))
    C[0, 1] = C[1, 0] = 1e300
    C[0, 2] = C[2, 0] = 3e-320
    with pytest.raises(ValueError, match="a range that float64 cannot scale exactly"):
        solve(C)


def test_the_factor_returned_has_no_column_to_spare():
    C = gaussian(100, 7)
    solution = solve(C, rank=40, gap=1e-8)
    values = np.linalg.svd(solution.factor, compute_uv=False)
    assert solution.rank < 40 and values[-1] > 1e-9 * values[0]
    np.testing.assert_allclose(np.linalg.norm(solution.factor, axis=1), 1.0, rtol=1e-14)


def test_seconds_of_the_plan_are_those_of_the_certificate(monkeypatch):
    plan = cholesky.plan
    monkeypatch.setattr(cholesky, "plan", lambda off: time.sleep(0.2) or plan(off))
    assert solve(random_graph(60, 4)).seconds.certify > 0.2


@pytest.mark.data
@pytest.mark.parametrize("rank", [3, 5])
def test_a_torus_is_certified_from_a_rank_too_low(rank, instances):
    C = read(instances / "gset" / "G11.gz").C
    solution = solve(C, gap=1e-5, rank=rank)
    assert solution.status == "certified" and solution.factorisations < 12


def test_reduction_takes_isolated_rows_off_and_puts_them_back():
    C = np.zeros((6, 6))
    C[1, 4] = C[4, 1] = 3.0
    np.fill_diagonal(C, np.arange(6.0))
    for of in (cost(C, dense=True), cost(C, dense=False)):
        reduced = reduce(of)
        assert list(reduced.rows) == [1, 4] and reduced.scale == 4.0 and reduced.cost.n == 2
        whole = reduced.expanded(np.array([[0.0, 1.0], [0.0, -1.0]]), 6)
        np.testing.assert_array_equal(np.linalg.norm(whole, axis=1), np.ones(6))
        assert float(np.vdot(whole, of.off @ whole)) == -6.0
    assert reduce(cost(np.diag([1.0, 2.0]))) is None
    solution = solve(C)
    assert solution.proven and solution.value == pytest.approx(9.0) and solution.bound <= 9.0


def test_a_solution_is_a_value():
    solution = solve(gaussian(10))
    assert replace(solution, note="x").note == "x"
    with pytest.raises(AttributeError):
        solution.value = 0.0
