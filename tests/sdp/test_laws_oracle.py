"""The tests' own oracle: what the other laws lean on is itself checked, in rationals."""

from fractions import Fraction

import numpy as np
import pytest


@pytest.mark.parametrize("n", [3, 7, 14])
def test_interval_of_the_oracle_is_narrow_and_below_the_signs(family, oracle, n):
    C = family(n, np.random.default_rng(n))
    lower, upper = oracle.interval(C)
    optimum, _ = oracle.optimum(C)
    # The interior-point method stops at a complementarity of 1e-10; its end is pulled in by n 1e-12 max |c|.
    assert 0 <= upper - lower <= Fraction(1e-9) * (abs(upper) + Fraction(float(np.abs(C).max())))
    assert lower <= optimum


def test_exact_psd_sees_one_unit_in_the_last_place(oracle):
    A = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert oracle.psd(A)
    assert not oracle.psd(A, less=np.array([0.0, 2.0**-53]))
    assert not oracle.psd(np.array([[0.0, 2.0**-1000], [2.0**-1000, 1.0]]))
    assert oracle.psd(np.zeros((3, 3)))


def test_exact_psd_agrees_with_eigenvalues(oracle):
    rng = np.random.default_rng(0)
    for n in range(2, 11):
        factor = rng.standard_normal((n, n - 1))
        A = factor @ factor.T
        A = (A + A.T) / 2
        # formed with an error of n u |A| < 1e-12: psd plus that much, indefinite less it
        assert oracle.psd(A, plus=1e-12) and not oracle.psd(A, less=1e-12)


def test_enumeration_finds_a_planted_vector(oracle):
    planted = np.array([1, -1, -1, 1, -1.0])
    optimum, x = oracle.optimum(-np.outer(planted, planted))
    assert optimum == -25 and np.array_equal(x, planted)
