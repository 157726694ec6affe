"""Binarising a trained network layer by layer, in one pass: each layer's signs are fitted to what the real network has
there, on the inputs that the layers below it, already binary, send.

Both networks read the same examples. The pass is one batch, so every batch norm in it uses the statistics of the binary
network itself. For post-training quantisation by layers on the quantised network's inputs see Frantar & Alistarh 2022.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.claims import laws
from core.contractions import Rows
from core.interface import (
    ActivationReading,
    Contract,
    Reading,
    Rng,
    Signal,
    Tape,
    UnsupportedReading,
    WeightLaw,
)
from core.laws import Settled
from core.layers import BatchNorm
from core.readings import plain
from core.statistics import Estimation, Statistics
from solvers.sign_regression import SOLVED, Fitter, Matrix, Regression, total

CHUNK = 64  # examples whose patches are formed at a time


@dataclass(frozen=True)
class Target:
    """What the real network has at one layer: its weights, and its outputs (rows, O) at the chosen rows."""

    weights: Tensor
    chosen: Tensor  # indices into examples x positions, ascending
    outputs: Tensor


@dataclass
class Watching:
    """A weight reading of the real network that keeps the target of every layer, at most `rows` of its rows."""

    rows: int
    targets: dict[WeightLaw, Target] = field(default_factory=dict)

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        weights = law.mode()
        h = contract(plain(x, "Watching"), weights)
        outputs = h.flatten(2).transpose(1, 2).flatten(0, 1) if h.ndim > 2 else h
        chosen = torch.randperm(len(outputs), generator=rng, device=h.device)[: self.rows].sort().values
        self.targets[law] = Target(weights.detach().clone(), chosen, outputs[chosen])
        return h


@dataclass
class Binarising:
    """A weight reading that settles each law on the signs fitted to its target, and goes on with them."""

    names: Mapping[WeightLaw, str]
    targets: Mapping[WeightLaw, Target]
    fit: Fitter
    layers: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        x = plain(x, "Binarising")
        if isinstance(law, Settled):
            started = time.perf_counter()
            target = self.targets[law]
            X = _double(chosen_rows(contract, x, law.shape, target.chosen))
            problem = Regression.of(X, _double(target.outputs))
            seed = int(torch.randint(2**31, (1,), generator=rng, device=rng.device))
            signs, facts = fitted(problem, _double(target.weights.flatten(1)), self.fit, seed)
            law.settle(torch.from_numpy(signs).reshape(law.shape))
            named = {"layer": self.names[law], "weights": list(law.shape), "rows": len(X)}
            self.layers.append({**named, **facts, "seconds": time.perf_counter() - started})
        return contract(x, law.mode())


@torch.no_grad()
def binarise(
    model: nn.Module,
    twin: nn.Module,
    inputs: Tensor,
    fit: Fitter,
    activations: ActivationReading,
    rng: Rng,
    *,
    rows: int,
) -> list[dict[str, Any]]:
    """Settle every binary layer of `model` on signs for `twin`, a trained real network of its architecture.

    inputs: one raw batch in the model's dtype. rows: of each layer's problem, drawn from examples (and positions). Real
    layers and batch-norm gains are copied from the twin. Returns what each layer's fit reached, in the order of the
    pass: its name, the weights' shape, rows, what `fitted` tells, seconds.
    """
    copy_real_parts(twin, model)
    watching, phase = Watching(rows), Estimation
    twin(inputs, Reading(watching, activations, phase(Statistics())), rng)
    pairs = list(zip(laws(model), laws(twin), strict=True))
    targets = {law: watching.targets[real] for (_, law), (_, real) in pairs}
    binarising = Binarising({law: name for (name, law), _ in pairs}, targets, fit)
    model(inputs, Reading(binarising, activations, phase(Statistics())), rng)
    return binarising.layers


def fitted(problem: Regression, real: Matrix, fit: Fitter, seed: int) -> tuple[Matrix, dict[str, Any]]:
    """Signs for a layer from its real weights (O, I), and what is known of them as plain numbers.

    Constant inputs and outputs decide nothing: there the signs are those of the real weights. Errors are shares of a
    neuron's variance, averaged over the layer's neurons: `error` at the scales of the fit, `signs_error` of the real
    weights' own signs and `floor` of the best real weights. bound: proven for `error` at these scales, a neuron without
    a proof counting 0. proven: of `neurons`. gap = (error - bound) / error; avoidable = (error - bound) /
    (error - floor) is the share of the price of signs that is not proven necessary. No bound where nothing was proven.
    """
    signs = np.where(real >= 0, 1.0, -1.0)
    neurons, inputs = problem.varied_outputs(), problem.varied_inputs()
    facts: dict[str, Any] = {"neurons": int(neurons.sum())}
    if not (neurons.any() and inputs.any()):
        return signs, facts
    part, here = problem.restricted(neurons, inputs), np.ix_(neurons, inputs)
    start = signs[here]
    found = fit(part, start, seed)
    signs[here] = found.signs
    mine, own, least = found.errors, part.errors(start, part.scales(start)), part.floor()
    error, own_error, floor = (float((values / part.squares).mean()) for values in (mine, own, least))
    facts |= {"error": error, "signs_error": own_error, "floor": floor, "proven": int(found.proven.sum())}
    if found.proven.any():
        bounds = np.where(found.proven, np.maximum(found.bounds, 0.0), 0.0)
        bound = total(bounds / part.squares) / len(bounds)
        facts |= {"bound": bound, "gap": (error - bound) / max(error, SOLVED)}
        facts["avoidable"] = (error - bound) / max(error - floor, SOLVED)
    return signs, facts


def chosen_rows(contract: Contract, x: Tensor, shape: torch.Size, chosen: Tensor) -> Tensor:
    """Rows `chosen` (ascending) of the layer's inputs as a matrix, see `Map.rows`; patches of CHUNK examples at a time.

    Raises UnsupportedReading for a contraction that is no product of rows and weights.
    """
    if not isinstance(contract, Rows):
        raise UnsupportedReading(f"{type(contract).__name__} has no `rows`: the layer cannot be binarised by itself")
    parts, start = [], 0
    for batch in torch.split(x, CHUNK):
        found = contract.rows(batch, shape)
        inside = chosen[(chosen >= start) & (chosen < start + len(found))]
        parts.append(found[inside - start])
        start += len(found)
    return torch.cat(parts)


def copy_real_parts(source: nn.Module, model: nn.Module) -> None:
    """Real layers, batch-norm gains and biases of `model` := those of `source`, in the order of construction.

    A channel's learned scale stays 1: the batch norm behind it removes it.
    """
    for (_, given), (name, law) in zip(laws(source), laws(model), strict=True):
        if given.shape != law.shape:
            raise ValueError(f"layer {name!r}: {tuple(given.shape)} there, {tuple(law.shape)} here")
        if law.levels is None:
            law.load_state_dict(given.state_dict())
    norms = ([m for m in net.modules() if isinstance(m, BatchNorm)] for net in (source, model))
    for given, norm in zip(*norms, strict=True):
        norm.load_state_dict(given.state_dict())


def _double(x: Tensor) -> np.ndarray:
    return np.asarray(x.detach().cpu().double())
