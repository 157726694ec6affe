"""Descent on min <C, VV'> over unit rows: mixing sweeps, then diagonally scaled Riemannian L-BFGS.

Mixing: Wang, Chang & Kolter 2017 (arXiv 1706.00476). Compact form of L-BFGS: Byrd, Nocedal & Schnabel 1994,
"Representations of quasi-Newton matrices and their use in limited memory methods".
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from solvers.sdp import kernels
from solvers.sdp.problem import Cost

ROUNDING = 1e-15  # of the value: changes below are not told from rounding


class Descent:
    """State of a descent: factor V, multipliers y_i = <(CV)_i, v_i>, value <C, VV'> (constant included).

    V: (n, padded columns). residual = ||(C - Diag y) V|| / ||C V||, in [0, 1]; off-diagonal C throughout.
    iterations: products with C so far, a sweep being one. stalled: rounding stops progress.
    """

    def __init__(self, cost: Cost, V: Float[np.ndarray, "n k"], *, memory: int = 5, sweeps: int = 15) -> None:
        self.cost, self.memory, self.sweeps = cost, memory, sweeps
        self.iterations = 0
        self.replace(V)

    def replace(self, V: Float[np.ndarray, "n k"], *, sweeps: int | None = None) -> None:
        """Go on from another factor, of any number of columns; rows are normalised; `sweeps` of mixing come first."""
        self.rank = V.shape[1]
        self.V = kernels.padded(V / np.sqrt(np.einsum("ij,ij->i", V, V))[:, None])
        self.y = np.zeros(len(V))
        self._sweeps_left = self.sweeps if sweeps is None else sweeps
        self._restart()

    def run(self, iterations: int, *, residual: float = 0.0) -> None:
        """At most `iterations` more products with C, fewer once the residual is at most `residual` or it stalls."""
        end = self.iterations + iterations
        while self._sweeps_left and self.iterations < end:
            kernels.sweep(self.cost.off, self.V, self.y)
            self._sweeps_left -= 1
            self.iterations += 1
            if not self._sweeps_left or self.iterations == end:
                self._restart()
        while self.iterations < end and self.residual > residual and not self.stalled:
            self._iterate()

    @property
    def gradient(self) -> Float[np.ndarray, "n k"]:
        """(C - Diag y) V, half the Riemannian gradient; rows are orthogonal to those of V."""
        return self._g * self._root[:, None]

    def _restart(self) -> None:
        """Forget the history, evaluate, and take the scaling from the multipliers."""
        self.stalled = False
        self._s: list[np.ndarray] = []
        self._z: list[np.ndarray] = []
        self._root = np.ones(len(self.V))
        self.value, self.y, self._g, self.residual = self._evaluate(self.V)
        floor = max(1e-2 * float(np.abs(self.y).mean()), np.finfo(float).tiny)
        self._root = np.sqrt(np.maximum(np.abs(self.y), floor))
        self._g = self._g / self._root[:, None]

    def _evaluate(self, V: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, float]:
        product = self.cost.off @ V
        y = np.einsum("ij,ij->i", product, V)
        gradient = product - y[:, None] * V
        size = float(np.linalg.norm(product))
        residual = float(np.linalg.norm(gradient)) / size if size else 0.0
        return float(y.sum()) + self.cost.constant, y, gradient / self._root[:, None], residual

    def _iterate(self) -> None:
        direction = self._direction() / self._root[:, None]
        direction -= np.einsum("ij,ij->i", direction, self.V)[:, None] * self.V
        scaled = direction * self._root[:, None]
        slope = 2 * float(np.vdot(scaled, self._g))
        step = 1.0
        for _ in range(20):
            moved = self.V + step * direction
            moved /= np.sqrt(np.einsum("ij,ij->i", moved, moved))[:, None]
            value, y, g, residual = self._evaluate(moved)
            self.iterations += 1
            if value <= self.value + 1e-4 * step * slope or (
                value <= self.value + ROUNDING * len(y) ** 0.5 * abs(self.value) and residual < self.residual
            ):
                break
            step *= 0.4
        else:
            if self._s:
                self._s, self._z = [], []
            else:
                self.stalled = True
            return
        s, z = step * scaled, g - self._g
        if np.vdot(s, z) > 1e-12 * np.linalg.norm(s) * np.linalg.norm(z):
            self._s, self._z = [*self._s[1 - self.memory :], s], [*self._z[1 - self.memory :], z]
        self.V, self.value, self.y, self._g, self.residual = moved, value, y, g, residual

    def _direction(self) -> np.ndarray:
        if not self._s:
            return -0.5 * self._g
        s, z = np.array(self._s), np.array(self._z)
        sz, zz = np.einsum("aij,bij->ab", s, z), np.einsum("aij,bij->ab", z, z)
        gamma = sz[-1, -1] / zz[-1, -1]
        upper = np.triu(sz)
        sg, zg = np.einsum("aij,ij->a", s, self._g), np.einsum("aij,ij->a", z, self._g)
        q = np.linalg.solve(upper, sg)
        a = np.linalg.solve(upper.T, np.diag(sz) * q + gamma * (zz @ q - zg))
        return -(gamma * (self._g - np.einsum("a,aij->ij", q, z)) + np.einsum("a,aij->ij", a, s))
