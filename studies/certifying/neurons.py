"""A layer of neurons as least-squares problems over signs: min ||y_t - a_t X w||^2, w in {-1, 1}^n, one t a neuron.

The scale a_t is XNOR-Net's (Rastegari et al. 2016): the mean |weight| of the real neuron. Divided by a_t^2 all neurons
share one Gram matrix, so the solver is given G = X'X once and a vector a neuron.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from solvers.sdp.least_squares import normal


@dataclass(frozen=True, eq=False)
class Layer:
    """T neurons on shared inputs. inputs (N, n), targets (N, T), weights (T, n): the real neurons, all float64.

    setting: which layer of what, as tables call it. about: what inputs and targets are, in a sentence.
    """

    problem: str
    setting: str
    about: str
    inputs: Float[ndarray, "N n"]
    targets: Float[ndarray, "N T"]
    weights: Float[ndarray, "T n"]
    scale: Float[ndarray, " T"] = field(init=False)
    gram: Float[ndarray, "n n"] = field(init=False)
    cross: Float[ndarray, "T n"] = field(init=False)
    constants: Float[ndarray, " T"] = field(init=False)

    def __post_init__(self) -> None:
        scale = np.abs(self.weights).mean(1)
        if not (scale > 0).all():
            dead = int(np.flatnonzero(~(scale > 0))[0])
            raise ValueError(f"{self.problem}, {self.setting}: neuron {dead} has no weights, so its scale is 0")
        gram, cross, constants = normal(self.inputs, self.targets / scale)
        for name, value in (("scale", scale), ("gram", gram), ("cross", cross), ("constants", constants)):
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """Problem and setting."""
        return f"{self.problem}, {self.setting}"

    @property
    def n(self) -> int:
        """Binary weights of a neuron."""
        return self.inputs.shape[1]

    @property
    def neurons(self) -> int:
        """T."""
        return self.targets.shape[1]

    @property
    def norms(self) -> Float[ndarray, " T"]:
        """||y_t||^2: what a neuron that says 0 leaves."""
        return self.scale**2 * self.constants

    def values(self, signs: ndarray) -> ndarray:
        """||y_t - a_t X w||^2 of signs (..., T, n), from Gram matrix and vectors as the solver has them; (..., T)."""
        w = np.asarray(signs, dtype=np.float64)
        shared: ndarray = np.einsum("...n,...n->...", w @ self.gram - 2 * self.cross, w) + self.constants
        return self.scale**2 * shared

    def floors(self) -> Float[ndarray, " T"]:
        """min ||y_t - X v||^2 over real v: what no weights at all, binary or not, can avoid."""
        return self._least_squares()[1]

    def least_squares(self) -> Float[ndarray, "T n"]:
        """The real weights of least norm that attain the floors."""
        return self._least_squares()[0]

    def reduced(self) -> tuple[Float[ndarray, "r n"], Float[ndarray, "r T"], Float[ndarray, " T"]]:
        """(R, Q'Y, rest) of X = QR: ||y_t - X v||^2 = ||(Q'y)_t - R v||^2 + rest_t for every v, with r <= n rows.

        The same loss at a fraction of the work: what methods are trained on.
        """
        q, r = np.linalg.qr(self.inputs)
        kept = q.T @ self.targets
        return r, kept, np.maximum(0.0, ((self.targets - q @ kept) ** 2).sum(0))

    def _least_squares(self) -> tuple[ndarray, ndarray]:
        solution = np.linalg.lstsq(self.inputs, self.targets)[0]
        return solution.T, ((self.targets - self.inputs @ solution) ** 2).sum(0)
