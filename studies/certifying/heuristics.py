"""Signs by rule: of the least-squares weights, one-flip descent, rounded SDP factors, tabu search, enumeration."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from solvers.sdp.least_squares import bordered
from solvers.sdp.problem import cost
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.rounding import round
from solvers.sdp.signs.tabu import OneFlip
from studies.certifying.answers import Answer
from studies.certifying.bounds import Bounds
from studies.certifying.neurons import Layer

ROUNDINGS = 200
LARGEST_EXACT = 24  # weights; the homogenising one makes 25
EXACT = "exact"
LEAST_SQUARES = "sign of least squares"
DESCENDED = f"{LEAST_SQUARES} + 1-opt"
ROUNDED = {"GW": "none", "GW + 1-opt": "descent", "GW + tabu": "tabu"}  # entry -> local search


def answers(layer: Layer, bounds: Bounds, *, seed: int = 0) -> Iterator[Answer]:
    """All rules, in the order of the table."""
    started = time.process_time()
    signs = signs_of(layer.least_squares())
    plain = time.process_time() - started
    better = one_opt(layer, signs)
    yield Answer(LEAST_SQUARES, layer.values(signs), plain)
    yield Answer(DESCENDED, layer.values(better), time.process_time() - started)
    for entry, local in ROUNDED.items():
        started = time.process_time()
        found = [
            round(bounds.factor[t], homogenised(layer, t), n=ROUNDINGS, local=local, seed=seed) for t in each(layer)
        ]
        seconds = bounds.seconds + time.process_time() - started
        yield Answer(entry, layer.values(np.stack([gauged(f.signs) for f in found])), seconds, note="with the SDP")
    if layer.n <= LARGEST_EXACT:
        started = time.process_time()
        best = np.stack([gauged(enumerate_signs(homogenised(layer, t)).signs) for t in each(layer)])
        yield Answer(EXACT, layer.values(best), time.process_time() - started)


def each(layer: Layer) -> range:
    """The neurons by number."""
    return range(layer.neurons)


def homogenised(layer: Layer, t: int) -> Float[ndarray, "rows rows"]:
    """C of neuron t: (w, 1)' C (w, 1) = ||y - a X w||^2 / a^2; the homogenising row last."""
    return bordered(layer.gram, layer.cross[t], float(layer.constants[t]))


def gauged(signs: ndarray) -> Float[ndarray, " n"]:
    """The weights of homogenised signs: those relative to the last."""
    wide = signs.astype(np.float64)
    return wide[:-1] * wide[-1]


def signs_of(weights: ndarray) -> ndarray:
    """sign(0) = +1."""
    return np.where(weights >= 0, 1.0, -1.0)


def one_opt(layer: Layer, signs: Float[ndarray, "T n"]) -> Float[ndarray, "T n"]:
    """Descend from `signs` until no single flip lowers a neuron's value."""
    starts = np.concatenate([signs, np.ones((len(signs), 1))], 1).astype(np.int8)
    return np.stack([gauged(OneFlip(cost(homogenised(layer, t))).descend(starts[t : t + 1])[0]) for t in each(layer)])
