"""Least squares over signs: the quadratic is ||y - Xw||^2, and what counts as exact is."""

from fractions import Fraction

import numpy as np
import pytest

from solvers.sdp.least_squares import bordered, exact, least_squares, normal, signs_of
from solvers.sdp.solver import solve


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((30, 6)), rng.standard_normal((30, 4)), np.where(rng.random((6, 5)) < 0.5, -1.0, 1.0)


def test_quadratic_is_the_squared_distance() -> None:
    X, Y, W = data()
    for w in W.T:
        x = np.append(w, 1.0)
        for t in range(4):
            C = least_squares(X, Y[:, t])
            # terms of size up to 6 ||X||^2 ~ 1e3, a few hundred roundings
            assert x @ C @ x == pytest.approx(np.sum((Y[:, t] - X @ w) ** 2), abs=1e-9)
            assert x @ C @ x == (-x) @ C @ (-x)


def test_normal_holds_the_blocks_of_every_target() -> None:
    X, Y, _ = data(1)
    G, B, constants = normal(X, Y)
    np.testing.assert_array_equal(G, G.T)
    for t in range(4):
        np.testing.assert_allclose(bordered(G, B[t], constants[t]), least_squares(X, Y[:, t]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool])
def test_integers_do_not_wrap(dtype: type) -> None:
    rng = np.random.default_rng(2)
    X, y = rng.integers(0, 2 if dtype is bool else 120, (40, 3)).astype(dtype), rng.integers(0, 2, 40).astype(dtype)
    C = least_squares(X, y)
    whole = np.column_stack([X.astype(object), -y.astype(object)])
    assert (C.astype(object) == whole.T @ whole).all() and exact(X, y)


def test_exact_is_refused_where_sums_of_products_pass_two_to_the_53() -> None:
    X = np.full((2, 1), 2.0**26)
    assert exact(X[:1], np.zeros(1)) and not exact(X, np.zeros(2))
    assert not exact(np.array([[0.5]]), np.zeros(1)) and not exact(np.ones((1, 1)), np.array([np.pi]))


def test_what_is_called_exact_has_no_rounding() -> None:
    rng = np.random.default_rng(3)
    X = rng.integers(-(2**24), 2**24, (16, 4))
    y = rng.integers(-(2**24), 2**24, 16)
    assert exact(X, y)
    C = least_squares(X, y)
    columns = [*X.T.tolist(), (-y).tolist()]
    for i, a in enumerate(columns):
        for j, b in enumerate(columns):
            assert Fraction(C[i, j]) == sum(p * q for p, q in zip(a, b, strict=True))


def test_signs_follow_the_homogenising_row_and_zero_is_plus() -> None:
    factor = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.6, -0.8]])
    np.testing.assert_array_equal(signs_of(factor), [1, -1, -1])
    np.testing.assert_array_equal(
        signs_of(np.stack([factor, np.diag([1, 1, 1, -1]) @ factor])), [[1, -1, -1], [-1, 1, 1]]
    )
    np.testing.assert_array_equal(signs_of(np.eye(2)), [1])  # orthogonal to it


def test_signs_are_read_from_a_solution_as_from_its_factor():
    solution = solve(least_squares(np.eye(3), np.array([2.0, -3.0, 4.0])))
    np.testing.assert_array_equal(signs_of(solution), signs_of(solution.factor))
    np.testing.assert_array_equal(signs_of(solution), [1, -1, 1])  # each the sign of its own target


def test_signs_of_what_is_no_factor_are_refused(shapes_unchecked):
    with pytest.raises(ValueError, match=r"factor must have two dimensions, .*got shape \(3,\)"):
        signs_of(np.ones(3))
    with pytest.raises(TypeError, match=r"or a Solution \(got list\); pass solution.factor"):
        signs_of([[1.0], [1.0]])


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.ones((3, 2)), np.ones(4), "X has 3 rows but Y has 4"),
        (np.ones(3), np.ones(3), r"X must be a matrix .*\(3,\)"),
        (np.ones((3, 0)), np.ones(3), "at least one column"),
        (np.ones((3, 2)), np.ones((3, 2)), "y must be a vector"),
        (np.ones((0, 3)), np.ones(0), r"X must have at least one row.*\(0, 3\)"),
        (np.array([[1e200]]), np.ones(1), r"X'X overflows float64: entries reach 1e\+200; divide"),
        (np.array([[1e100]]), np.array([1e250]), "Y'X overflows float64"),
        (np.ones((1, 1)), np.array([-1e200]), r"\|\|Y\|\|\^2 overflows float64: entries reach 1e\+200"),
        (np.array([[1], [2**62 + 1]]), np.ones(2), rf"X\[1, 0\] is {2**62 + 1}; float64 holds integers up to 2\^53"),
        (np.ones((1, 1)), np.array([-(2**53) - 1]), r"Y\[0, 0\] is -9007199254740993"),
        (np.array([[2**64 - 1]], dtype=np.uint64), np.ones(1), r"X\[0, 0\] is 18446744073709551615"),
        (np.array([[1.0, np.nan]]), np.ones(1), r"X\[0, 1\] is nan"),
        (np.ones((1, 2)), np.array([np.inf]), r"Y\[0, 0\] is inf"),
    ],
)
def test_bad_data_are_named(X: np.ndarray, y: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        least_squares(X, y)


def test_integers_up_to_two_to_the_53_are_taken() -> None:
    G, _, _ = normal(np.array([[2**53]]), np.array([[-(2**53)]]))
    assert G[0, 0] == 2.0**106


def test_complex_data_are_refused() -> None:
    with pytest.raises(TypeError, match="complex128"):
        normal(np.ones((2, 2)) * 1j, np.ones((2, 1)))
