"""What `prove` promises, checked in exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp import certificate
from solvers.sdp.certificate import prove
from solvers.sdp.problem import cost


def exactly_psd(matrix):
    """Whether a symmetric matrix of rationals is psd: LDL' without rounding, zero pivots only with zero rows."""
    a = [row[:] for row in matrix]
    n = len(a)
    for k in range(n):
        if a[k][k] < 0 or (a[k][k] == 0 and any(a[k][j] != 0 for j in range(k, n))):
            return False
        if a[k][k] == 0:
            continue
        for i in range(k + 1, n):
            for j in range(k + 1, n):
                a[i][j] -= a[i][k] * a[k][j] / a[k][k]
    return True


def shifted(of, multipliers):
    off = of.off if isinstance(of.off, np.ndarray) else of.off.toarray()
    return [
        [Fraction(float(off[i, j])) - (Fraction(float(multipliers[i])) if i == j else 0) for j in range(of.n)]
        for i in range(of.n)
    ]


def multipliers_near_the_edge(of, rng):
    off = of.off if isinstance(of.off, np.ndarray) else of.off.toarray()
    y = -np.abs(off).sum(1) * rng.uniform(0.2, 1.0, of.n)
    return y + np.linalg.eigvalsh(off - np.diag(y))[0]


@pytest.mark.parametrize("n", [2, 5, 9])
@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_proven_holds_in_exact_arithmetic(n, sparse):
    rng = np.random.default_rng(n)
    proofs = 0
    for _ in range(40):
        C = rng.standard_normal((n, n)) * 10.0 ** rng.integers(-3, 4)
        of = cost(sp.csr_array(C + C.T) if sparse else C + C.T, dense=not sparse)
        y = multipliers_near_the_edge(of, rng)
        size = float(np.abs(y).max())
        for shift in (0.0, 1e-16, 1e-15, 1e-14, 1e-12):  # about where a proof becomes possible
            proof = prove(of, y, shift * size)
            if proof is not None:
                proofs += 1
                assert exactly_psd(shifted(of, proof.multipliers))
                exact = sum(map(Fraction, proof.multipliers.tolist())) + sum(map(Fraction, of.diagonal.tolist()))
                assert Fraction(proof.bound) <= exact
                assert float(exact) - proof.bound <= 4 * math.ulp(proof.bound)
    assert proofs >= 40  # 1e-12 always suffices


def test_a_margin_covers_every_error_that_cholesky_may_make():
    # Rump's theorem on the worst admissible error: E = -g r r', with r = sqrt(b) the diagonal that was factored.
    rng = np.random.default_rng(0)
    for n in (3, 8, 40):
        diagonal = rng.uniform(0.1, 30.0, n) ** 3
        tested = certificate._with_margin(diagonal, np.zeros(n, dtype=bool))
        gamma = (n + 2) * certificate.UNIT / (1 - (n + 2) * certificate.UNIT)
        root = np.sqrt(tested)
        worst = np.diag(diagonal - tested) - gamma / (1 - gamma) * np.outer(root, root)
        assert np.linalg.eigvalsh(worst)[0] > 0


def test_without_a_margin_singular_matrices_would_pass():
    # The reason for the margin: of singular matrices, some factorisations complete by luck of rounding.
    rng = np.random.default_rng(2)
    lucky = proven = 0
    for _ in range(200):
        x = rng.standard_normal((6, 3))
        gram = x @ x.T
        gram = (gram + gram.T) / 2
        lucky += certificate.Factoriser(cost(gram)).succeeds(np.diagonal(gram).copy())
        proven += prove(cost(gram), -np.diagonal(gram)) is not None
    assert lucky > 0 and proven == 0


def test_below_is_the_largest_float_under_the_exact_sum():
    rng = np.random.default_rng(1)
    for _ in range(300):
        terms = rng.standard_normal(rng.integers(1, 9)) * 10.0 ** rng.integers(-20, 20)
        found, exact = certificate.below(terms), sum(map(Fraction, terms.tolist()))
        assert Fraction(found) <= exact < Fraction(math.nextafter(found, math.inf))
    assert certificate.below(np.zeros(2)) == 0.0 and certificate.below(np.array([0.5, 0.25])) == 0.75
    assert math.isnan(certificate.below(np.array([1.7e308, 1.7e308])))


def test_sums_beyond_float64_prove_nothing():
    of = cost(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert prove(of, np.full(2, -1.5e308)) is None


def test_a_factoriser_of_another_matrix_is_refused():
    one, other = cost(np.ones((3, 3))), cost(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="factoriser is of another C"):
        prove(one, np.full(3, -0.1), factoriser=certificate.Factoriser(other))


def test_a_matrix_will_do_where_there_is_no_cost():
    assert prove(np.ones((3, 3)), np.full(3, -3.0)).bound == -6.0


def test_the_shift_may_be_one_number_or_one_a_row():
    of = cost(np.array([[0.0, 2.0], [2.0, 0.0]]))
    y = np.array([-1.0, -3.0])
    assert prove(of, y) is None
    assert prove(of, y, 1.0).bound == pytest.approx(-6.0)
    assert prove(of, y, np.array([1.0, 0.0])).bound == pytest.approx(-5.0)


def test_isolated_rows_need_no_shift_and_take_no_part():
    C = np.zeros((4, 4))
    C[1, 2] = C[2, 1] = 1.0
    for of in (cost(C, dense=True), cost(C, dense=False)):
        y = np.array([0.0, -1.0, -1.0, 0.0])
        shift = np.array([0.0, 1e-12, 1e-12, 0.0])
        assert prove(of, y, shift).bound == pytest.approx(-2.0)
        assert prove(of, y + np.array([1e-300, 0, 0, 0]), shift) is None  # C_00 = 0 < t_0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_multipliers_that_are_no_numbers_prove_nothing(bad):
    of = cost(np.ones((3, 3)))
    assert prove(of, np.full(3, -10.0)) is not None
    assert prove(of, np.array([-10.0, bad, -10.0])) is None
    assert prove(of, np.full(3, -10.0), np.array([0.0, 0.0, -bad])) is None


@pytest.mark.parametrize("sparse", [False, True])
def test_dominated_rows_are_a_proof_in_exact_arithmetic(sparse):
    rng = np.random.default_rng(4)
    for n in (1, 2, 7):
        C = rng.standard_normal((n, n)) * 10.0 ** rng.integers(-9, 9, (n, n))
        C = np.triu(C) + np.triu(C, 1).T
        of = cost(sp.csr_array(C) if sparse else C, dense=not sparse)
        proof = certificate.dominated(of)
        assert exactly_psd(shifted(of, proof.multipliers))
        assert Fraction(proof.bound) <= sum(map(Fraction, [*proof.multipliers.tolist(), *of.diagonal.tolist()]))
    for _ in range(100):  # a row's sum rounds upwards or downwards; t may only be further from it
        C = rng.standard_normal((9, 9))
        of = cost(sp.csr_array(C + C.T) if sparse else C + C.T, dense=not sparse)
        off = of.off.toarray() if sparse else of.off
        for row, t in zip(np.abs(off).tolist(), certificate.dominated(of).multipliers.tolist(), strict=True):
            assert -Fraction(t) >= sum(map(Fraction, row))
    assert certificate.dominated(cost(np.zeros((3, 3)))).bound == pytest.approx(0.0, abs=1e-300)


def test_a_wrong_number_of_multipliers_is_refused():
    with pytest.raises(ValueError, match=r"one multiplier a row of C: shape \(3,\) \(got \(2,\)\)"):
        prove(cost(np.ones((3, 3))), np.zeros(2))


def test_the_diagonal_counts_in_the_bound_exactly():
    C = np.array([[1e16, 1.0], [1.0, -1e16]])
    of = cost(C)
    assert of.constant == 0.0
    assert prove(of, np.array([-2.0, -2.0])).bound == pytest.approx(-4.0, rel=1e-15)


def test_the_rounding_margin_is_what_a_proof_needs():
    rng = np.random.default_rng(5)
    C = rng.standard_normal((50, 50))
    of = cost(C + C.T)
    y = multipliers_near_the_edge(of, rng)
    margin = certificate.rounding_margin(y) / of.n
    assert prove(of, y, 0.01 * margin) is None
    assert prove(of, y, 4 * margin + 1e-12) is not None
