"""The semidefinite program inside training: what `lowrank-sdp` minimises on squared losses, and where it ends.

Its smooth estimator trains E ||y - X z||^2 over z = mu + Z eps, and that is <C, V V'> of the homogenised problem with
unit rows v_i = (mu_i, Z_i) and v_n+1 = e_1: the factorised relaxation of Burer & Monteiro (2003), whose value the
certificate brackets. The method's own law, geometry, solver and loop run here twice: with its draws, one a step, and
with their expectation taken exactly, by the 2K points +-sqrt(K) e_k in the place of the draws (a cubature exact for
polynomials of degree 3): a step of that run costs 2K passes, one of the other runs one. STE runs beside them on the
same loss, at the rate that `training` tuned for it on the layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Size, Tensor

import methods
from core.fit import Run
from core.interface import Budget, Contract, Drawn, Method, Reading, Rng, Signal, Tape, WeightLaw
from core.layers import BinaryLinear, Network
from core.low_rank import LowRank
from core.ops import ClippedStraightThrough, Identity
from core.readings import SignActivation, plain
from core.seeds import generator
from studies.certifying.bounds import Bounds
from studies.certifying.neurons import Layer
from studies.certifying.training import at_rate

EXACT, DRAWN, STE = "lowrank-sdp, all draws", "lowrank-sdp, one draw", "ste"
STEPS = 1000
RUNS = (EXACT, DRAWN, STE)
# rates of a step where the largest curvature is 1, and momenta: each the best of a few tried by hand
RATES, MOMENTA = {EXACT: 150.0, DRAWN: 0.3}, {EXACT: 0.98, DRAWN: 0.9}
LOOKS = 40  # points of a curve, evenly spread on a logarithmic axis
REACHED = 1e-3  # of the certified value: what counts as having reached it


@dataclass(frozen=True)
class Point:
    """Where a run is after `step` steps, all neurons of a layer together, over the certified bound, minus 1.

    passes: over the layer, a step. relaxed: of <C, V V'> (nan for STE, which has no V); the worst neuron's in `worst`.
    signs: of the mode; best: of the best mode so far, neuron by neuron.
    """

    problem: str
    layer: str
    run: str
    step: int
    passes: int
    relaxed: float
    worst: float
    signs: float
    best: float

    def plain(self) -> dict[str, Any]:
        """All fields for JSON; nan becomes None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Cubature:
    """A low-rank law's draws at the 2K points +-sqrt(K) e_k at once, stacked: their mean is that over all draws."""

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        assert isinstance(law, LowRank) and tape is not None, "made for training a low-rank law"
        outputs = []
        for noise in points(law.rank).to(law.rows.dtype):
            with torch.no_grad():
                latent = law.latent(noise)
            weights = latent.detach().requires_grad_()
            tape.drawn.append(Drawn(law, noise, latent, weights, Identity()))
            outputs.append(contract(plain(x, "Cubature"), weights))
        return torch.stack(outputs)


def points(rank: int) -> Float[Tensor, "points rank"]:
    """Mean 0, covariance the identity."""
    return math.sqrt(rank) * torch.cat([torch.eye(rank), -torch.eye(rank)]).double()


def curves(layer: Layer, bounds: Bounds, ste_factor: float, *, seed: int = 0, steps: int = STEPS) -> Iterator[Point]:
    """The three runs on all neurons of a layer; ste_factor: of STE's default rate, tuned."""
    rank = math.ceil(math.sqrt(2 * (layer.n + 1)))  # no spurious minima from here on, generically
    for name in RUNS:
        method = at_rate(STE, ste_factor) if name == STE else _low_rank(name, rank)
        passes = 2 * rank if name == EXACT else 1
        yield from _curve(name, method, passes, layer, bounds, seed, steps)


def reached(points: list[Point]) -> bool:
    """Whether the worst neuron's relaxed value ended within REACHED of the certified bound."""
    return points[-1].worst <= REACHED


def relaxed(layer: Layer, law: LowRank) -> Float[ndarray, " T"]:
    """<C_t, V_t V_t'> of every neuron: the mean of ||y - a X z||^2 over the law's z."""
    columns = law.columns().detach().double().numpy()
    squares = np.einsum("ktn,nm,ktm->t", columns, layer.gram, columns, optimize=True)
    shared: ndarray = squares - 2 * (columns[0] * layer.cross).sum(1) + layer.constants
    return layer.scale**2 * shared


def _curve(
    name: str, method: Method, passes: int, layer: Layer, bounds: Bounds, seed: int, steps: int
) -> Iterator[Point]:
    run = _started(method, layer, seed, steps)
    law = run.model.layers[0].law
    best = np.full(layer.neurons, np.inf)
    looks = set(np.geomspace(1, steps, LOOKS).round().astype(int).tolist())
    for step in range(1, steps + 1):
        run.step()
        if step not in looks:
            continue
        values = layer.values(law.mode().detach().double().numpy())
        best = np.minimum(best, values)
        soft = relaxed(layer, law) if isinstance(law, LowRank) else np.full(layer.neurons, math.nan)
        over = [float(v.sum() / bounds.bound.sum() - 1) for v in (soft, values, best)]
        worst = float((soft / bounds.bound - 1).max())
        yield Point(layer.problem, layer.setting, name, step, passes, over[0], worst, over[1], over[2])


def _low_rank(name: str, rank: int) -> Method:
    method = methods.make("lowrank-sdp", estimator="smooth", rank=rank, lr=RATES[name], momentum=MOMENTA[name])
    if name == DRAWN:
        return method
    reading = Reading(Cubature(), SignActivation(ClippedStraightThrough()))
    return replace(method, train=lambda progress: reading)


def _started(method: Method, layer: Layer, seed: int, steps: int) -> Run:
    """On the QR-reduced inputs; the loss of every neuron in the units in which its largest curvature is 1."""
    r, kept, _ = layer.reduced()
    inputs, targets = torch.from_numpy(r), torch.from_numpy(kept / layer.scale)
    curvature = 2 * float(np.linalg.eigvalsh(layer.gram)[-1])
    parts = ("certify", "link", layer.name, seed)

    def loss(output: Signal, y: Tensor) -> Tensor:
        return ((plain(output, "a squared loss") - y) ** 2).sum((-2, -1)).mean() / curvature

    law = method.law(Size((layer.neurons, layer.n)), generator(*parts, "initial"))
    return Run(
        Network(BinaryLinear(law), activation="relu").double(),
        replace(method, loss=loss),
        inputs,
        targets,
        Budget(n_train=len(inputs), batch=len(inputs), steps=steps),
        schedule="cosine",
        order=generator(*parts, "order"),
        noise=generator(*parts, "noise"),
    )
