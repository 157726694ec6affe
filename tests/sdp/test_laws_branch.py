"""Branch and bound: the optimum over signs, proven; and a true interval where time ends before the proof."""

from fractions import Fraction

import numpy as np
import pytest

from solvers.sdp.signs.branch import branch_and_bound
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.rounding import round
from solvers.sdp.solver import solve


@pytest.mark.parametrize("n", [1, 2, 7, 14])
def test_branch_and_bound_proves_the_enumerated_optimum(family, oracle, n):
    C = family(max(n, 3), np.random.default_rng([9, n]))[:n, :n]
    answer = branch_and_bound(C)
    assert set(np.unique(answer.signs)) <= {-1, 1} and answer.signs.shape == (n,)
    optimum, _ = oracle.optimum(C)
    slack = Fraction(2 * n * n * 2.0**-52 * float(np.abs(C).sum()))
    assert answer.proven and answer.nodes >= 0
    assert Fraction(answer.bound) <= optimum <= oracle.value(C, answer.signs.astype(float)) <= optimum + slack


def test_branch_and_bound_agrees_with_enumeration_on_22_rows(families):
    for name in ("signs", "graph", "least-squares"):
        C = families[name](22, np.random.default_rng(22))
        answer = branch_and_bound(C, time_limit=60.0)
        assert answer.proven and answer.value == answer.bound == enumerate_signs(C).value


def test_branch_and_bound_stops_in_time_with_a_true_interval(families):
    C = families["signs"](100, np.random.default_rng(100))
    answer = branch_and_bound(C, time_limit=1.0)
    assert not answer.proven and answer.seconds <= 4.0  # a node in progress is finished
    assert answer.bound <= answer.value
    assert answer.bound <= round(solve(C).factor, C).value
    assert answer.bound >= solve(C, gap=1e-3).bound


def test_branch_and_bound_stops_at_the_gap_asked(families):
    C = families["gaussian"](16, np.random.default_rng(16))
    answer = branch_and_bound(C, gap=0.05)
    exact = enumerate_signs(C).value
    assert answer.proven and answer.bound <= exact * (1 - 1e-12) + 1e-9 and exact <= answer.value + 1e-9
    assert answer.value - answer.bound <= 0.05 * max(1, abs(answer.value)) + 1e-9


def test_branching_follows_a_relabelling_of_the_rows(families):
    C = families["graph"](12, np.random.default_rng(12))
    order, flips = np.random.default_rng(1).permutation(12), np.resize([1.0, -1.0, -1.0], 12)
    turned = (flips[:, None] * C * flips)[np.ix_(order, order)]
    assert branch_and_bound(C).value == branch_and_bound(turned).value == enumerate_signs(C).value


@pytest.mark.parametrize("C", [np.full((3, 3), np.nan), np.triu(np.ones((3, 3))), np.zeros((0, 0)), np.zeros((2, 3))])
def test_branching_refuses_what_a_solve_refuses(shapes_unchecked, C):
    with pytest.raises(ValueError, match="C"):
        branch_and_bound(C)
