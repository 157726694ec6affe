"""The registry's methods on a layer of neurons: each through its own law, reading and solver, the loss squared.

The product's loop runs them. Full batch, on the QR-reduced inputs: the same loss at a fraction of the work. Restarts
are further rows of the one law. Every method is tuned alike: decades of its rate around its default, further on while
the best is at an end; what tuning takes is not limited. Then it is started anew at the best rate for as many seconds as
every other method. Rates are judged by what is reported: the best of all looks; final weights by the rate best for
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Size, Tensor

import methods
from core.fit import Run
from core.interface import Budget, Gaussian, Method, Signal
from core.layers import BinaryLinear, Network
from core.seeds import generator
from studies.certifying.answers import Answer
from studies.certifying.heuristics import one_opt
from studies.certifying.neurons import Layer

DECADES, FARTHEST = (-1, 0, 1), 6  # of the rate, tried at first and at most, either way
RATES = ("lr", "adaptivity")  # what a method's rate may be called
STEPS = 300
RESTARTS = 4
LOOK_EVERY = 3  # steps between looks at the weights


@dataclass(frozen=True)
class Refused:
    """Why a method of the registry has no entry."""

    method: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Trained:
    """One run of RESTARTS rows a neuron: signs of the best look (T, n), their values and those at the end (R, T)."""

    signs: ndarray
    best: ndarray
    last: ndarray


def trainable() -> tuple[list[str], list[Refused]]:
    """The methods that can train a layer of signs by steps, and why the others cannot."""
    able, refused = [], []
    for name in methods.names():
        reason = _unable(methods.make(name))
        if reason is None:
            able.append(name)
        else:
            refused.append(Refused(name, reason))
    return able, refused


def train(
    name: str,
    layer: Layer,
    *,
    seconds: float,
    noise: Float[ndarray, " T"],
    seed: int = 0,
    restarts: int | None = None,
    steps: int | None = None,
) -> Answer:
    """Tune and train the method `name` on all neurons of a layer at once.

    seconds: of CPU time, after tuning, for which the best rate is started anew. restarts: this many instead, whatever
    they take; None: by the seconds. steps: of a run; None: STEPS. noise: the residual sums of squares that the loss
    takes for noise.
    """
    started = time.process_time()

    def run(decade: int, again: int) -> _Trained | None:
        return _run(name, layer, 10.0**decade, noise, seed, again, steps or STEPS)

    runs = _tuned(lambda decade: run(decade, 0))
    chosen, steady, again = _best(runs), _steady(runs), 0
    tuned = time.process_time()
    while time.process_time() - tuned < seconds if restarts is None else again < restarts:
        again += 1
        runs[chosen] += [found for found in [run(chosen, again)] if found is not None]
    spent = time.process_time() - started
    every = [run for of_factor in runs.values() for run in of_factor]
    best = np.stack([run.best for run in every]).argmin(0)
    signs = np.stack([every[k].signs[t] for t, k in enumerate(best)])
    return Answer(
        name,
        layer.values(signs),
        spent,
        last=np.concatenate([run.last for run in runs[steady]]).mean(0),
        polished=layer.values(one_opt(layer, signs)),
        note=f"x{10.0**chosen:g}, {RESTARTS * len(every)} runs",
        factor=10.0**chosen,
    )


def at_rate(name: str, factor: float) -> Method:
    """The method at `factor` times its default rate. Raises ValueError where it has none, or refuses that one."""
    signature = methods.signature(name)
    rate = next((key for key in RATES if key in signature), None)
    if rate is None:
        if factor != 1:
            raise ValueError(f"{name} has no rate to tune")
        return methods.make(name)
    return methods.make(name, **{rate: factor * signature[rate].default})


def _tuned(run: Callable[[int], _Trained | None]) -> dict[int, list[_Trained]]:
    """The runs of every decade tried; one that the method refuses ends the search on its side."""
    runs: dict[int, list[_Trained]] = {}
    waiting = list(DECADES)
    while waiting:
        for decade in waiting:
            if (found := run(decade)) is not None:
                runs[decade] = [found]
        if not runs:
            raise ValueError("the method refuses its default rate and its neighbours")
        best, lowest, highest = _best(runs), min(runs), max(runs)
        beyond = ([best - 1] if best == lowest else []) + ([best + 1] if best == highest else [])
        waiting = [decade for decade in beyond if abs(decade) <= FARTHEST and decade not in waiting]
    return runs


def _best(runs: dict[int, list[_Trained]]) -> int:
    """The decade whose best looks are best, summed over the layer: what is reported."""
    return min(runs, key=lambda decade: float(runs[decade][0].best.sum()))


def _steady(runs: dict[int, list[_Trained]]) -> int:
    """The decade whose final weights are best, over the layer, on average."""
    return min(runs, key=lambda decade: float(runs[decade][0].last.sum(1).mean()))


def _unable(method: Method) -> str | None:
    if method.weight_bits != 1:
        return f"trains weights of {method.weight_bits} bits"
    if method.step is not None:
        return "replaces the loop's step by its own, which need not know a squared loss"
    if not method.law(Size((1, 2)), generator("certify", "unused")).coordinates():
        return "no step moves its law: its signs come from its preparation, which solves such problems by GW + 1-opt"
    return None


def _run(name: str, layer: Layer, factor: float, noise: ndarray, seed: int, again: int, steps: int) -> _Trained | None:
    """RESTARTS runs side by side at `factor` times the default rate; None where the method refuses that rate."""
    try:
        method = at_rate(name, factor)
    except ValueError:  # a rate beyond what the method allows is no candidate
        return None
    parts = ("certify", layer.name, seed, again)
    law = method.law(Size((RESTARTS * layer.neurons, layer.n)), generator(*parts, "initial"))
    inputs, targets, loss = squared_loss(layer, noise, RESTARTS)
    budget = Budget(n_train=len(inputs), batch=len(inputs), steps=steps)
    run = Run(
        Network(BinaryLinear(law), activation="relu"),
        replace(method, loss=loss, prepare=None),
        inputs,
        targets,
        budget,
        schedule="cosine",
        order=generator(*parts, "order"),
        noise=generator(*parts, "noise"),
    )
    signs = np.zeros((layer.neurons, layer.n))
    best, last = np.full(layer.neurons, np.inf), np.empty((RESTARTS, layer.neurons))
    for loss_value in _steps(run):
        found = law.mode().detach().double().numpy().reshape(RESTARTS, layer.neurons, layer.n)
        last = layer.values(found)
        which = last.argmin(0)
        better = last.min(0) < best
        best = np.where(better, last.min(0), best)
        signs = np.where(better[:, None], found[which, np.arange(layer.neurons)], signs)
        if not math.isfinite(loss_value):  # the signs are looked at as it ended
            break
    return _Trained(signs, best, last)


def _steps(run: Run) -> Iterator[float]:
    """The loss at every look."""
    for done in range(1, run.budget.steps + 1):
        loss = run.step()
        if done % LOOK_EVERY == 0 or done == run.budget.steps:
            yield float(loss)


def squared_loss(
    layer: Layer, noise: Float[ndarray, " T"], restarts: int = 1
) -> tuple[Tensor, Tensor, Callable[[Signal, Tensor], Tensor]]:
    """(inputs, targets, loss) of `restarts` times the layer's neurons, loss = sum of N ||y - a X w||^2 / (2 noise) / r.

    Times the r rows of the inputs it is the negative log likelihood of N examples under Gaussian noise of variance
    noise / N, in nats, but for a constant: methods that weigh the loss against a prior see it in its own units.
    """
    r, kept, _ = layer.reduced()
    weight = torch.from_numpy(np.tile(len(layer.inputs) / len(r) * layer.scale**2 / (2 * noise), restarts)).float()
    targets = torch.from_numpy(kept / layer.scale).float().repeat(1, restarts)

    def loss(output: Signal, y: Tensor) -> Tensor:
        mean = output.mean if isinstance(output, Gaussian) else output
        squares = ((mean - y) ** 2).sum(0)
        if isinstance(output, Gaussian):
            squares = squares + output.variance.sum(0)
        return (weight * squares).sum()

    return torch.from_numpy(r).float(), targets, loss
