"""Shared by the tests of the SDP room: small costs of every kind, and an oracle that trusts no floating-point result.

The oracle owes nothing to the solver: +-1 optima by enumeration and SDP optima by a dense interior-point method, both
confirmed in rational arithmetic. Its interval of an SDP optimum is therefore a theorem, not a second opinion.
"""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg


def _gaussian(n, rng):
    upper = np.triu(rng.standard_normal((n, n)))
    return upper + np.triu(upper, 1).T


def _signs(n, rng):
    upper = np.triu(rng.integers(0, 2, (n, n)) * 2.0 - 1.0, 1)
    return upper + upper.T


def _graph(n, rng):
    upper = np.triu((rng.random((n, n)) < 0.4) * rng.integers(1, 6, (n, n)), 1).astype(float)
    return upper + upper.T


def _least_squares(n, rng):
    """||y - Xw||^2 of +-1 inputs and integer targets, homogenised in the last row: exact integers."""
    inputs = rng.integers(0, 2, (3 * n, n - 1)) * 2.0 - 1.0
    both = np.column_stack([inputs, -rng.integers(-2 * n, 2 * n + 1, 3 * n).astype(float)])
    return both.T @ both


def _negative_semidefinite(n, rng):
    factor = rng.integers(-3, 4, (n, max(1, n // 2))).astype(float)
    return -factor @ factor.T


def _isolated(n, rng):
    """Two blocks without an edge between them, and rows that touch nothing."""
    C = _gaussian(n, rng)
    half = n // 2
    C[:half, half:] = C[half:, :half] = 0.0
    C[-1, :] = C[:, -1] = 0.0
    return C


def _wide_range(n, rng):
    """Entries from 2^-20 to 2^20."""
    upper = np.triu(rng.standard_normal((n, n)) * 2.0 ** rng.integers(-20, 21, (n, n)), 1)
    return upper + upper.T


FAMILIES = {
    "gaussian": _gaussian,
    "signs": _signs,
    "graph": _graph,
    "least-squares": _least_squares,
    "negative-semidefinite": _negative_semidefinite,
    "isolated": _isolated,
    "wide-range": _wide_range,
}


class Oracle:
    """Exact answers for small problems: C is a dense float64 array, results are rationals."""

    @staticmethod
    def optimum(C) -> tuple[Fraction, np.ndarray]:
        """The least x'Cx over signs with x_1 = 1, and a minimiser: every vector in float64, the candidates exactly."""
        n = len(C)
        signs = np.ones((2 ** (n - 1), n))
        signs[:, 1:] = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1)
        values = ((signs @ C) * signs).sum(1)
        # n^2 terms added in float64: an error of n^2 u sum |c| at most, so the true minimiser is among the candidates.
        near = values <= values.min() + 2 * n * n * 2.0**-53 * np.abs(C).sum()
        return min(((Oracle.value(C, x), tuple(x)) for x in signs[near][:64]), key=lambda pair: pair[0])

    @staticmethod
    def value(C, x) -> Fraction:
        """x'Cx, exactly."""
        return Oracle.inner(C, np.outer(x, x))

    @staticmethod
    def inner(C, X) -> Fraction:
        """<C, X> of two float64 matrices, exactly."""
        products = (Fraction(float(c)) * Fraction(float(x)) for c, x in zip(C.flat, X.flat, strict=True) if c and x)
        return sum(products, Fraction(0))

    @staticmethod
    def total(values) -> Fraction:
        """The exact sum of floats."""
        return sum((Fraction(float(v)) for v in values), Fraction(0))

    @staticmethod
    def psd(C, less=0.0, plus=0.0) -> bool:
        """Whether C - Diag(less) + Diag(plus) is psd: fraction-free elimination over the integers, no rounding."""
        n = len(C)
        A = [[Fraction(float(c)) for c in row] for row in C]
        for i, (y, s) in enumerate(zip(np.broadcast_to(less, n), np.broadcast_to(plus, n), strict=True)):
            A[i][i] += Fraction(float(s)) - Fraction(float(y))
        unit = max(a.denominator for row in A for a in row)  # all are powers of two
        return _integer_psd([[int(a * unit) for a in row] for row in A])

    @staticmethod
    def interval(C) -> tuple[Fraction, Fraction]:
        """Rationals lower <= min <C, X> over diag X = 1, X psd <= upper: both ends confirmed exactly."""
        largest = float(np.abs(C).max())
        if largest == 0:
            return Fraction(0), Fraction(0)
        exponent = int(np.frexp(largest)[1])
        X, y = _interior_point(np.ldexp(C, -exponent))
        y = np.ldexp(y, exponent)
        # The iterates are interior, so a pull of 1e-12 towards the interior outweighs the rounding in forming them.
        assert Oracle.psd(C, less=y, plus=1e-12 * largest), "the oracle's multipliers are not feasible"
        assert Oracle.psd(X, plus=1e-12), "the oracle's matrix is not psd"
        lower = Oracle.total(y) - len(C) * Fraction(1e-12 * largest)
        spread = 1 + Fraction(1e-12)  # (X + 1e-12 I) / (1 + 1e-12) has a unit diagonal and is psd
        return lower, (Oracle.inner(C, X) + Fraction(1e-12) * Oracle.total(np.diag(C))) / spread

    @staticmethod
    def multipliers(C) -> np.ndarray:
        """y with sum(y) within 1e-9 of the SDP's optimum and C - Diag(y) positive definite, up to 1e-12 max |c|."""
        exponent = int(np.frexp(np.abs(C).max())[1])
        return np.ldexp(_interior_point(np.ldexp(C, -exponent))[1], exponent)


def _integer_psd(A: list[list[int]]) -> bool:
    previous = 1
    for k in range(len(A)):
        pivot = A[k][k]
        if pivot < 0 or (pivot == 0 and any(A[k][k:])):
            return False
        if pivot == 0:
            continue
        for i in range(k + 1, len(A)):
            for j in range(i, len(A)):
                A[i][j] = (A[i][j] * pivot - A[k][i] * A[k][j]) // previous
        previous = pivot
    return True


def _interior_point(C) -> tuple[np.ndarray, np.ndarray]:
    """X and y of min <C, X>, diag X = 1: the primal-dual method of Helmberg, Rendl, Vanderbei and Wolkowicz 1996."""
    n = len(C)
    X, y = np.eye(n), -np.abs(C).sum(1) - 0.1
    for _ in range(100):
        S = C - np.diag(y)
        product = float((X * S).sum())
        if product <= 1e-10 * (1 + abs(y.sum())):
            break
        inverse = np.linalg.inv(S)
        target = product / (4 * n)
        dy = np.linalg.solve(X * inverse, 1 - target * np.diag(inverse))
        move = target * inverse - X + (X * dy) @ inverse
        dX = (move + move.T) / 2
        np.fill_diagonal(dX, 0.0)
        X, y = X + _step(X, dX) * dX, y + _step(S, -np.diag(dy)) * dy
    np.fill_diagonal(X, 1.0)
    return (X + X.T) / 2, y


def _step(A, direction) -> float:
    """0.95 of the way to the boundary of the psd cone, at most 1."""
    least = float(scipy.linalg.eigh(direction, A, eigvals_only=True)[0])
    return min(1.0, 0.95 / -least) if least < 0 else 1.0


@pytest.fixture(scope="session")
def oracle():
    """Exact answers for small problems."""
    return Oracle()


@pytest.fixture(scope="session")
def families():
    """Name -> make(n, rng), a dense symmetric C of n >= 3 rows: the kinds of cost that laws quantify over."""
    return FAMILIES


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def family(request):
    """make(n, rng) of one kind of cost; a test that asks for it runs once for each kind."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def instances():
    """The folder with the published instances; tests that ask for it carry the marker `data`."""
    return Path(os.environ["BITRELAX_DATA"]) / "sdp"
