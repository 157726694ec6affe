"""Better multipliers from the same factor, and predictions of the bound they will give.

At the optimum C - Diag(y) =: S is psd and vanishes on the range of V. The first-order multipliers y_i = <(CV)_i, v_i>
of an approximate V have an error of first order, and so has the least eigenvalue of S, though the value <C, VV'> is
right to second order. Polishing takes the smallest change of y (in Euclidean norm) that makes S vanish on the range of
V in the sense Q'SQ = 0, Q a basis of it. Then sum(y) stays at the value, and the least eigenvalue is of second order in
the residual SQ: the certified gap falls to the accuracy of the value itself, with far fewer iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.linalg
from jaxtyping import Float

Vector: TypeAlias = Float[np.ndarray, " n"]
Factor: TypeAlias = Float[np.ndarray, "n k"]
Product: TypeAlias = Callable[[np.ndarray], np.ndarray]

NEGLIGIBLE = 1e-7  # singular values of V below this share of the largest are rounding (V'V is squared)
FLOOR = 1e-2  # of a scaled shift, relative to the mean multiplier: an isolated or weak row needs some margin too
RIDGE = 1e-13  # of the normal equations, relative to their mean diagonal: keeps them solvable where they are singular


@dataclass(frozen=True, eq=False)
class Bounding:
    """Multipliers y, the shape d of a shift (mean 1), and the estimate `least` of the largest number such that
    S - least Diag(d) is psd: then sum(y) + n min(0, least) bounds the optimum.
    """

    multipliers: Vector
    shape: Vector
    least: float
    columns: int  # of the basis used to polish; 0: not polished

    def gap(self, value: float) -> float:
        """value less the estimated bound."""
        return value - float(self.multipliers.sum()) + len(self.multipliers) * max(0.0, -self.least)


def candidates(product: Product, V: Factor, P: Factor, y: Vector, *, value: float, wanted: float) -> Iterator[Bounding]:
    """Polished multipliers y + dy, dy of least norm with Q'(C - Diag(y + dy))Q = 0; last the first-order ones.

    V: (n, k); P = C V; y_i = <P_i, v_i>; product: X -> C X. Q: the Ritz vectors of S in the range of V with the least
    values; first as few as leave out at most half of `wanted`, a gap, of <S, VV'>, so that directions which V is about
    to lose are not forced to zero; then as many as come before the largest jump of the Ritz values. Shifts are plain,
    or in proportion to the multipliers where a plain one is estimated to leave more than `wanted`.
    """
    basis = _basis(V, P, y)
    most = int((np.sqrt(8.0 * len(y) + 1) - 1) / 2)  # r (r + 1) / 2 <= n
    for r in dict.fromkeys([min(_by_mass(basis, wanted / 2), most), min(_by_jump(basis), most), 0]):
        dy = _change(basis, r) if r else np.zeros_like(y)
        W, inner = _enlarged(product, basis, y, dy)
        bounding = Bounding(y + dy, np.ones_like(y), _least(inner, W.T @ W), r)
        if bounding.gap(value) > wanted:
            scaled = np.maximum(-bounding.multipliers, FLOOR * np.abs(y).mean())
            scaled /= scaled.mean()
            other = Bounding(bounding.multipliers, scaled, _least(inner, W.T @ (scaled[:, None] * W)), r)
            bounding = max(bounding, other, key=lambda tried: tried.least)
        yield bounding


def _change(basis: _Basis, r: int) -> Vector:
    q = basis.Q[:, :r]
    a, b = np.triu_indices(r)
    features = q[:, a] * q[:, b]
    features[:, a != b] *= np.sqrt(2.0)
    normal = features.T @ features
    normal[np.diag_indices_from(normal)] += RIDGE * normal.trace() / len(normal)
    change: np.ndarray = features @ scipy.linalg.solve(normal, np.where(a == b, basis.ritz[a], 0.0), assume_a="pos")
    return change


@dataclass(frozen=True, eq=False)
class _Basis:
    Q: np.ndarray  # (n, <= k): Ritz vectors of S in the range of V, ascending
    SQ: np.ndarray
    ritz: np.ndarray
    mass: np.ndarray  # <S, VV'> by Ritz vector: ritz * |V'q|^2


def _basis(V: np.ndarray, P: np.ndarray, y: np.ndarray) -> _Basis:
    squares, W = np.linalg.eigh(V.T @ V)
    keep = squares > NEGLIGIBLE**2 * squares[-1]
    squares, W = squares[keep], W[:, keep]
    scaled = W / np.sqrt(squares)
    U = V @ scaled
    SU = P @ scaled - y[:, None] * U
    inner = U.T @ SU
    ritz, Z = np.linalg.eigh((inner + inner.T) / 2)
    mass = ritz * (squares @ (Z * Z))
    return _Basis(U @ Z, SU @ Z, ritz, mass)


def _by_mass(basis: _Basis, drop: float) -> int:
    lost = np.cumsum(np.maximum(basis.mass, 0.0)[::-1])[::-1]  # lost[r]: by keeping the first r
    return int(np.argmax(np.append(lost, 0.0) <= drop))


def _by_jump(basis: _Basis) -> int:
    size = np.maximum(np.abs(basis.ritz), np.finfo(float).tiny)
    return int(np.argmax(size[1:] / size[:-1])) + 1 if len(size) > 1 else 1


def _enlarged(product: Product, basis: _Basis, y: Vector, dy: Vector) -> tuple[np.ndarray, np.ndarray]:
    """W = [Q, what S makes of Q outside it], and W'SW, for the S of y + dy."""
    SQ = basis.SQ - dy[:, None] * basis.Q
    R = SQ - basis.Q @ (basis.Q.T @ SQ)
    R /= np.maximum(np.linalg.norm(R, axis=0), np.finfo(float).tiny)
    W = np.hstack([basis.Q, R])
    SW = np.hstack([SQ, product(R) - (y + dy)[:, None] * R])
    inner = W.T @ SW
    return W, (inner + inner.T) / 2


def _least(inner: np.ndarray, metric: np.ndarray) -> float:
    """The least generalised eigenvalue, the metric's null directions left out."""
    squares, W = np.linalg.eigh(metric)
    keep = squares > 1e-10 * squares[-1]
    root = W[:, keep] / np.sqrt(squares[keep])
    return float(np.linalg.eigvalsh(root.T @ inner @ root)[0])
