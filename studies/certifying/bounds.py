"""Certified lower bounds of a layer's neurons, and the box relaxation's value beside them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.optimize import lsq_linear

from solvers.sdp.batching.solver import solve_batch
from studies.certifying.neurons import Layer


@dataclass(frozen=True, eq=False)
class Bounds:
    """Of every neuron, in the units of ||y - a X w||^2.

    bound: no signs do better, proven in floating point where `proven`, of the problem as float64 holds it (G, X'y and
    ||y||^2 rounded). relaxed: the SDP's value, `gap` above it at most. factor: (T, n + 1, k), the
    homogenising row last. box: min over -1 <= w <= 1, by a solver without a certificate: an estimate.
    """

    bound: Float[ndarray, " T"]
    relaxed: Float[ndarray, " T"]
    proven: Bool[ndarray, " T"]
    factor: Float[ndarray, "T rows k"]
    seconds: float
    box: Float[ndarray, " T"]


def bounds(layer: Layer, *, gap: float, seed: int = 0) -> Bounds:
    """All neurons at once, each to a certified gap of `gap`."""
    started = time.process_time()
    solved = solve_batch(layer.gram, layer.cross, constants=layer.constants, gap=gap, seed=seed)
    seconds = time.process_time() - started
    squared = layer.scale**2
    scaled = squared * solved.bound  # two roundings, of the square and of the product: less than four units together
    return Bounds(
        bound=scaled - 4 * np.spacing(np.abs(scaled)),
        relaxed=squared * solved.value,
        proven=np.asarray(solved.proven),
        factor=np.asarray(solved.factor),
        seconds=seconds,
        box=boxes(layer),
    )


def boxes(layer: Layer) -> Float[ndarray, " T"]:
    """min ||y_t - a_t X w||^2 over -1 <= w <= 1, to the solver's tolerance."""
    r, kept, rest = layer.reduced()
    found = [
        2 * lsq_linear(a * r, y, bounds=(-1.0, 1.0), method="bvls" if layer.n < 200 else "trf").cost
        for a, y in zip(layer.scale, kept.T, strict=True)
    ]
    return np.array(found) + rest
