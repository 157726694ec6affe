"""Least squares over signs for all neurons of one layer: min |y_t - a_t X w_t|^2 over signs w_t and scales a_t > 0.

The neurons share X, so they share its Gram matrix. At given scales every neuron is a +-1 problem whose semidefinite
relaxation is solved in a batch (`solvers.sdp.solve_batch`), with a proven bound, and rounded; scales and signs take
turns. X and Y are centred: a batch norm follows the layer, which removes an offset and a positive scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from solvers.sdp.batching.solver import BatchSolution, solve_batch
from solvers.sdp.least_squares import bordered, normal
from solvers.sdp.signs.rounding import round as rounded
from solvers.sdp.solution import Certify

Matrix: TypeAlias = Float[np.ndarray, "T I"]  # one row a neuron
Vector: TypeAlias = Float[np.ndarray, " T"]
ROUNDING = 1e-12  # of sums over a row of the Gram matrix, relative to its trace
SOLVED = 1e-6  # share of a neuron's variance: to an error below it no gap is relative
CONSTANT = 1e-12  # an input or output whose variance is this small beside the largest is constant


@dataclass(frozen=True, eq=False)
class Regression:
    """The moments of M centred rows: gram = X'X (I, I), cross = Y'X (T, I), squares = diag(Y'Y); errors are sums."""

    gram: Float[np.ndarray, "I I"]
    cross: Matrix
    squares: Vector

    @staticmethod
    def of(X: Float[np.ndarray, "M I"], Y: Float[np.ndarray, "M T"]) -> Regression:
        """From inputs X and the outputs Y to be reproduced, centred here. Raises ValueError below two rows."""
        if len(X) < 2:
            raise ValueError(f"a regression needs at least two rows (got {len(X)}); raise `examples`")
        return Regression(*normal(X - X.mean(0), Y - Y.mean(0)))

    def errors(self, signs: Matrix, scales: Vector) -> Vector:
        """|y_t - a_t X w_t|^2."""
        power, agreement = self._forms(signs)
        errors: Vector = scales**2 * power - 2 * scales * agreement + self.squares
        return errors

    def scales(self, signs: Matrix) -> Vector:
        """The best a_t > 0 for these signs; where they point away from y, the one that matches its power.

        Where X takes the signs to nothing every scale leaves |y_t|^2: there it is |y_t| / sqrt(tr G), which matches the
        power of signs drawn at random. Raises ValueError where all inputs are constant.
        """
        typical = float(np.trace(self.gram))  # the mean power of all signs
        if not typical > 0:
            raise ValueError("every input is constant, so no scale is better than another; drop such a layer")
        power, agreement = self._forms(signs)
        seen = power > ROUNDING * typical
        power = np.where(seen, power, typical)
        scales: Vector = np.where(seen & (agreement > 0), agreement / power, np.sqrt(self.squares / power))
        return scales

    def floor(self) -> Vector:
        """|y_t - X w_t|^2 of the best real weights: least squares."""
        values, vectors = np.linalg.eigh(self.gram)
        seen = values > CONSTANT * len(values) * values[-1]
        explained = (self.cross @ vectors[:, seen]) ** 2 / values[seen]
        left: Vector = np.maximum(self.squares - explained.sum(1), 0.0)
        return left

    def varied_inputs(self) -> Bool[np.ndarray, " I"]:
        """The inputs that are not constant."""
        return _above(np.diag(self.gram))

    def varied_outputs(self) -> Bool[np.ndarray, " T"]:
        """The outputs that are not constant."""
        return _above(self.squares)

    def restricted(self, neurons: Bool[np.ndarray, " T"], inputs: Bool[np.ndarray, " I"]) -> Regression:
        """The same of some neurons and inputs."""
        return Regression(self.gram[np.ix_(inputs, inputs)], self.cross[np.ix_(neurons, inputs)], self.squares[neurons])

    def _forms(self, signs: Matrix) -> tuple[Vector, Vector]:
        return np.einsum("ti,ti->t", signs @ self.gram, signs), np.einsum("ti,ti->t", self.cross, signs)


@dataclass(frozen=True, eq=False)
class Fit:
    """Signs (T, I) of a layer, the scales of their +-1 problems, the errors there, and proven lower bounds of these.

    errors, bounds: |y_t - a_t X w_t|^2, a neuron each, at `scales`; `proven` says which bounds are.
    """

    signs: Matrix
    scales: Vector
    errors: Vector
    bounds: Vector
    proven: Bool[np.ndarray, " T"]


@runtime_checkable
class Fitter(Protocol):
    """How the signs of a layer are found, from some to start from; seed: of whatever is drawn."""

    def __call__(self, problem: Regression, start: Matrix, seed: int) -> Fit: ...


@dataclass(frozen=True)
class RelaxedAndRounded:
    """Signs by the semidefinite relaxation, rounded and improved by single flips; never worse than the start.

    gap: relative, to which each relaxation is solved and proven. turns: of solving for the signs at given scales, then
    for the scales at given signs; the last is the one certified. hyperplanes: of the rounding, a neuron. largest: more
    weights a neuron than this are fitted by `descended`, without a bound: the time grows with their third power. Raises
    ValueError for what is not positive.
    """

    gap: float
    turns: int
    hyperplanes: int
    largest: int

    def __post_init__(self) -> None:
        for name in ("gap", "turns", "hyperplanes", "largest"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0 (got {getattr(self, name)})")

    def __call__(self, problem: Regression, start: Matrix, seed: int) -> Fit:
        if start.shape[1] > self.largest:
            return descended(problem, start, seed)
        signs, scales = start, problem.scales(start)
        for _ in range(self.turns - 1):
            signs, _ = self._turn(problem, signs, scales, seed, certify="none")
            scales = problem.scales(signs)
        signs, relaxed = self._turn(problem, signs, scales, seed, certify="rigorous")
        bounds = relaxed.bound / _unit(problem, scales) * scales**2
        return Fit(signs, scales, problem.errors(signs, scales), bounds, relaxed.proven)

    def _turn(
        self, problem: Regression, signs: Matrix, scales: Vector, seed: int, *, certify: Certify
    ) -> tuple[Matrix, BatchSolution]:
        """Better signs at these scales, from the relaxation |y / a - X w|^2."""
        unit = _unit(problem, scales)
        cross, constants = unit * problem.cross / scales[:, None], unit * problem.squares / scales**2
        relaxed = solve_batch(
            unit * problem.gram,
            cross,
            constants=constants,
            gap=self.gap,
            certify=certify,
            seed=seed,
        )
        found = np.empty_like(signs)
        for t, factor in enumerate(relaxed.factor):
            matrix = bordered(unit * problem.gram, cross[t], constants[t])
            x = rounded(factor, matrix, n=self.hyperplanes, local="descent", seed=seed + t).signs.astype(float)
            found[t] = x[:-1] * x[-1]
        better = problem.errors(found, scales) < problem.errors(signs, scales)
        return np.where(better[:, None], found, signs), relaxed


def descended(problem: Regression, start: Matrix, seed: int) -> Fit:
    """From `start`, the flip that lowers a neuron's error most, at the scale of `start`, until none does; no bound."""
    signs, scales = start.copy(), problem.scales(start)
    field = signs @ problem.gram - problem.cross / scales[:, None]
    diagonal, every = np.diag(problem.gram), np.arange(len(signs))
    while True:
        gain = signs * field - diagonal  # a quarter of what the flip of w_i takes from |y / a - X w|^2
        best = gain.argmax(1)
        # above rounding, so that every flip lowers an error and none comes back
        moving = np.flatnonzero(gain[every, best] > ROUNDING * diagonal.sum())
        if not len(moving):
            return _unproven(problem, signs, scales)
        at = best[moving]
        field[moving] -= 2 * signs[moving, at][:, None] * problem.gram[at]
        signs[moving, at] *= -1


def kept(problem: Regression, start: Matrix, seed: int) -> Fit:
    """`start` itself, at its best scales; no bound."""
    return _unproven(problem, start, problem.scales(start))


def total(values: Vector) -> float:
    """A sum of lower bounds that is one: correctly rounded, then moved down by the rounding of its terms."""
    return math.fsum(values) - 8 * float(np.finfo(float).eps) * math.fsum(np.abs(values))


def _unit(problem: Regression, scales: Vector) -> float:
    """A power of two that makes SOLVED |y / a|^2 at least 1 for every neuron: below 1 a solver's gap is absolute."""
    return float(2.0 ** np.ceil(-np.log2(SOLVED * (problem.squares / scales**2).min())))


def _above(variances: np.ndarray) -> np.ndarray:
    above: np.ndarray = variances > CONSTANT * variances.max(initial=0.0)
    return above


def _unproven(problem: Regression, signs: Matrix, scales: Vector) -> Fit:
    none = np.zeros(len(signs))
    return Fit(signs, scales, problem.errors(signs, scales), none, none.astype(bool))
