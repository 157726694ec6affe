"""What is timed: one training step of every method on every network and path, in interleaved shuffled rounds.

Random data of MNIST's shape, resident; batch 100; the loss is read as a number after each step. A path is "native" or
"torch" (passes by kernels or by their twins), or "eager" (Draw and GeometricAdam: STE without a fused pass).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch.optim import Adam

import methods
from core import extension
from core.architectures import InputForm, build
from core.claims import binary_coordinates, laws, real_parameters
from core.fit import Run
from core.interface import Budget, Method, Reading
from core.laws import Bernoulli
from core.moments import Moments
from core.ops import StraightThrough
from core.readings import Draw
from core.seeds import generator
from solvers.bop import Bop
from solvers.fused import FusedAdam, FusedSGD
from solvers.geometric import GeometricAdam, real_solvers

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "784-256-10": ("mlp", {"widths": (256,)}),
    "784-512-512-10": ("mlp", {"widths": (512, 512)}),
    "lenet": ("lenet", {}),
}
TINY: dict[str, tuple[str, dict[str, Any]]] = {  # of the same layers, for what a process loads at first use
    "784-256-10, tiny": ("mlp", {"widths": (4,)}),
    "784-512-512-10, tiny": ("mlp", {"widths": (4, 4)}),
    "lenet, tiny": ("lenet", {"channels": (2, 2), "units": 4}),
}
FORM = InputForm(784, shift=33.3, scale=78.6, maximum=255.0, integer=True, shape=(1, 28, 28))
DEFAULT_ADAM = "full-precision, default Adam"  # the control with torch's default (unfused) Adam, as most code has it
EXAMPLES, BATCH, STEPS = 2_000, 100, 1_000_000  # so many steps that no schedule moves while timing


@dataclass(frozen=True)
class Entry:
    """One thing to time."""

    network: str
    method: str
    path: str


def entries(network: str, names: list[str]) -> list[Entry]:
    """Every method on this network by every path it has here."""
    found = []
    for name in names:
        paths = ["native", "torch"] if _has_kernels(name) else ["torch"]
        if extension.info().path == "torch":
            paths = ["torch"]
        paths += ["eager"] if name == "ste" else []
        found += [Entry(network, name, path) for path in paths]
        found += [Entry(network, DEFAULT_ADAM, "torch")] if name == "full-precision" else []
    return found


def started(entry: Entry) -> Run:
    """A run of this entry at its first step."""
    method = _method(entry)
    name, options = (NETWORKS | TINY)[entry.network]
    model = build(name, FORM, 10, method.law, generator("speed", "start"), method.normalisation, **options)
    chooser = generator("speed", "data")
    inputs = torch.randint(0, 256, (EXAMPLES, *FORM.shape), generator=chooser, dtype=torch.uint8)
    labels = torch.randint(0, 10, (EXAMPLES,), generator=chooser)
    budget = Budget(EXAMPLES, BATCH, STEPS)
    order, noise = generator("speed", "order"), generator("speed", "noise")
    return Run(model, method, inputs, labels, budget, schedule="cosine", order=order, noise=noise)


def advance(run: Run, path: str, steps: int) -> float:
    """Take steps on this path; seconds of this process's CPU, the reading of each loss included.

    CPU time, not the clock on the wall: one thread does all the work, and others on the machine do not count.
    """
    with extension.twins_only() if path == "torch" else nullcontext():
        began = time.process_time()
        for _ in range(steps):
            run.step().item()
        return time.process_time() - began


def timed(
    chosen: list[Entry], *, rounds: int, steps: int, told: Callable[[int], None] = lambda done: None
) -> dict[Entry, float]:
    """Milliseconds a step: the median over rounds, the first of which warms up and is dropped.

    Every round runs each entry once, in a new shuffled order, so that what the machine does besides falls on all.
    """
    runs = {entry: started(entry) for entry in chosen}
    seen: dict[Entry, list[float]] = {entry: [] for entry in chosen}
    shuffle = random.Random(0).shuffle
    for done in range(rounds + 1):
        order = list(chosen)
        shuffle(order)
        for entry in order:
            advance(runs[entry], entry.path, 1)  # its data back into the caches
            seen[entry].append(advance(runs[entry], entry.path, steps) / steps * 1e3)
        told(done)
    return {entry: median(times[1:]) for entry, times in seen.items()}


def _method(entry: Entry) -> Method:
    if entry.method == DEFAULT_ADAM:
        lr = methods.signature("full-precision")["lr"].default
        control = methods.make("full-precision")
        return replace(control, solvers=lambda model, budget: [Adam(real_parameters(model), lr=lr, foreach=False)])
    method = methods.make(entry.method)
    return _eager(method) if entry.path == "eager" else method


def _eager(method: Method) -> Method:
    """STE through Draw, Tape.pull_back and GeometricAdam."""
    lr, activations = methods.signature("ste")["lr"].default, method.train(0.0).activations
    return replace(
        method,
        train=lambda progress: Reading(Draw(StraightThrough()), activations),
        solvers=lambda model, budget: [
            GeometricAdam(binary_coordinates(model), lr=lr),
            *real_solvers(real_parameters(model)),
        ],
    )


def _has_kernels(name: str) -> bool:
    """By a fused pass of its solver, or where it reads the moments of Bernoulli laws."""
    run = started(Entry("784-256-10, tiny", name, "native"))
    fused = any(isinstance(solver, (Bop, FusedAdam, FusedSGD)) for solver in run.solvers)
    propagated = isinstance(run.method.train(0.0).weights, Moments)
    return fused or (propagated and any(isinstance(law, Bernoulli) for _, law in laws(run.model)))
