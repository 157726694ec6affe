"""Descent on min <C, VV'> over unit rows: mixing sweeps, then diagonally scaled Riemannian L-BFGS.

Compact form of L-BFGS: Byrd, Nocedal & Schnabel 1994, "Representations of quasi-Newton matrices and their use in
limited memory methods". An iteration is one product with C and two passes over the history.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from solvers.sdp import kernels
from solvers.sdp.kernels import SLOTS
from solvers.sdp.mixing import mix
from solvers.sdp.problem import Cost

DECREASE = 1e-4  # of what the slope promises, that a step must achieve
SHORTER = 0.4  # a refused step by its predecessor
TRIALS = 12  # refused steps in a row after which the history is forgotten
CURVATURE = 1e-10  # <step, change> / <change, change> of a pair by that of a unit step; below, it is left out
ROUNDING = 2e-16  # of sum |y_i|: decreases below are not told from rounding
PATIENCE = 60  # products without a smaller residual, at values equal to rounding, after which it has stalled
FLOOR = 1e-2  # of the mean multiplier: least scaling of a row, for isolated and weak ones


class Descent:
    """State of a descent on <C, VV'>: factor V, multipliers y_i = <(CV)_i, v_i>, value (the constant included).

    V: (n, rank padded to 8). residual = ||(C - Diag y) V|| / ||C V||, in [0, 1], of C without its diagonal.
    iterations: products with C so far, a sweep being one, that of a restart not counted. stalled: rounding stops
    progress. Arrays are overwritten while it runs: copy what is to be kept.
    """

    V: Float[np.ndarray, "n k"]
    y: Float[np.ndarray, " n"]

    def __init__(self, cost: Cost, V: Float[np.ndarray, "n k"], *, sweeps: int = 10) -> None:
        if V.shape[0] != cost.n or not V.shape[1]:
            raise ValueError(f"the factor must have {cost.n} rows, as C, and a column (got shape {V.shape})")
        self.cost = cost
        self.iterations = 0
        self.replace(V, sweeps=sweeps)

    def replace(self, V: Float[np.ndarray, "n k"], *, sweeps: int = 3) -> None:
        """Go on from another factor, of any number of columns; its rows are normalised, and `sweeps` come first."""
        n, self.rank = V.shape
        lengths = np.sqrt(np.einsum("ik,ik->i", V, V))
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError("every row of the factor must be finite and not zero")
        self.V = kernels.padded(V / lengths[:, None])
        self._other = kernels.aligned(self.V.shape)
        self._gradient, self._other_gradient = kernels.aligned(self.V.shape), kernels.aligned(self.V.shape)
        self.y, self._other_y = np.zeros(n), np.zeros(n)
        self._pairs = kernels.aligned((n, 2, SLOTS, self.V.shape[1]), np.uint16)
        self._sweeps = sweeps
        self._restart()

    def run(self, iterations: int, *, residual: float = 0.0) -> None:
        """`iterations` more products with C; fewer once residual <= `residual`, or where rounding stops it.

        A step that is being shortened is finished: up to 11 products more.
        """
        end = self.iterations + iterations
        now = min(self._sweeps, iterations)
        if now:
            mix(self.cost, self.V, now)
            self._sweeps -= now
            self.iterations += now
            self._restart()
        while self.iterations < end and self.residual > residual and not self.stalled:
            self._iterate()

    @property
    def gradient(self) -> Float[np.ndarray, "n k"]:
        """(C - Diag y) V, half the Riemannian gradient: rows orthogonal to those of V."""
        return self._gradient * (self._scale * self._root)[:, None]

    def _restart(self) -> None:
        """Evaluate at V, take the scaling from the multipliers there, and forget the history."""
        self._root, self._scale = np.ones(len(self.V)), 1.0
        self._pairs[:] = 0
        self._history = _History()
        self._products = np.zeros(2 * SLOTS)
        sums = self._evaluate(self.V, self._gradient, self.y, self._products)
        sizes = np.abs(self.y)
        # Relative to their mean: the history, whose range is that of float32, then has no units.
        self._scale = float(sizes.mean()) or 1.0
        self._root = np.sqrt(np.maximum(sizes / self._scale, FLOOR))
        self._gradient /= (self._scale * self._root)[:, None]
        self._settle(sums)
        self.stalled, self._best, self._waiting = not self.residual, self.residual, 0

    def _evaluate(self, V: np.ndarray, into: np.ndarray, y: np.ndarray, products: np.ndarray) -> kernels.Sums:
        tried = self._history.free
        return kernels.gradient(
            self.cost.off, V, self._root, self._gradient, into, y, self._pairs, self._scale, tried, products
        )

    def _settle(self, sums: kernels.Sums) -> None:
        self.value, self._multipliers = sums.multipliers + self.cost.constant, sums.multipliers
        self.residual = (sums.gradient / sums.product) ** 0.5 if sums.product else 0.0

    def _iterate(self) -> None:
        """One quasi-Newton step, shortened until it decreases the value."""
        history, products = self._history, np.zeros(2 * SLOTS)
        by_gradient, by_pairs = history.direction(self._products)
        length, noise = 1.0, ROUNDING * abs(self._multipliers) / self._scale
        for _ in range(TRIALS):
            slope = kernels.step(
                self.V,
                self._root,
                self._gradient,
                by_pairs,
                by_gradient,
                length,
                self._other,
                self._pairs,
                history.free,
            )
            if not slope < 0:  # rounding has spoilt the history
                self._give_up()
                return
            sums = self._evaluate(self._other, self._other_gradient, self._other_y, products)
            self.iterations += 1
            # Slopes are of half the value. Within rounding of it, the slope there decides: Hager & Zhang 2005.
            change, ahead = (sums.multipliers - self._multipliers) / self._scale, products[history.free]
            if change <= 2 * DECREASE * slope or (abs(change) <= noise and abs(ahead) <= -slope):
                break
            length *= SHORTER
        else:
            self._give_up()
            return
        history.keep(slope, sums.change, self._products, products)
        self.V, self._other = self._other, self.V
        self.y, self._other_y = self._other_y, self.y
        self._gradient, self._other_gradient = self._other_gradient, self._gradient
        self._products = products
        self._settle(sums)
        self._watch(abs(change) <= noise)

    def _give_up(self) -> None:
        if self._history.order:
            best, waiting = self._best, self._waiting
            self._restart()
            self._best, self._waiting = best, waiting
        else:
            self.stalled = True

    def _watch(self, still: bool) -> None:
        """Stalled: the value has long changed by rounding alone, and the residual no longer falls."""
        if self.residual < 0.9 * self._best:
            self._best, self._waiting = self.residual, 0
        elif still:
            self._waiting += 1
            self.stalled = self._waiting > PATIENCE


class _History:
    """Which slots hold pairs (s, z) of steps and changes, and the inner products <s_i, z_j>, <z_i, z_j>."""

    def __init__(self) -> None:
        self.order: list[int] = []  # oldest first
        self.free = 0
        self._sz, self._zz = np.zeros((SLOTS, SLOTS)), np.zeros((SLOTS, SLOTS))

    def direction(self, products: np.ndarray) -> tuple[float, np.ndarray]:
        """Coefficients of -H g by g and by the pairs, from <s_j, g> and <z_j, g>."""
        by_pairs = np.zeros(2 * SLOTS)
        if not self.order:
            return -0.5, by_pairs  # half a step of Jacobi's method, which may overshoot
        return kernels.combination(self.order, self._sz, self._zz, products, by_pairs), by_pairs

    def keep(self, slope: float, change: float, before: np.ndarray, now: np.ndarray) -> None:
        """Take in the pair tried, unless its curvature is not positive.

        slope: <s, g before>; change: <z, z>; before, now: products of all pairs with the gradients before and after.
        """
        new = self.free
        curvature = now[new] - slope
        if not curvature > CURVATURE * change:
            return
        self._sz[:, new] = now[:SLOTS] - before[:SLOTS]
        self._zz[new] = self._zz[:, new] = now[SLOTS:] - before[SLOTS:]
        self._sz[new, new], self._zz[new, new] = curvature, change
        self.order.append(new)
        self.free = self.order.pop(0) if len(self.order) == SLOTS else new + 1
        # The next products are with the gradients from here on; those of the new pair with the one before are known.
