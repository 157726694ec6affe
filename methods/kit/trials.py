"""What the conformance kit trains and looks at: a small synthetic problem, runs on it, a spy on the weights read.

No data files: Gaussian blobs as integer pixels, three classes, far enough apart to be learnt within a second.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from core.architectures import InputForm, LawFactory, build
from core.contractions import Watched
from core.fit import Run
from core.interface import (
    Budget,
    Contract,
    Method,
    Predictor,
    Preparation,
    Rng,
    Signal,
    Tape,
    WeightLaw,
    WeightReading,
)
from core.predict import predict
from core.problems.evaluator import TestSet
from core.problems.interface import Description, Problem, Split
from core.seeds import generator
from methods import make

EXAMPLES, FEATURES, CLASSES, BATCH = 192, 12, 3, 32
STEPS = 180  # 30 epochs
FORM = InputForm(FEATURES, shift=127.5, scale=64.0, maximum=255.0, integer=True)

# steps of a run that need not learn: into the second epoch, so that the data order is part of what is compared; and
# steps after a save that must agree
FEW = 8

Network = list[tuple[WeightLaw, list[Tensor]]]  # every read of one network: the law, the weights it was contracted with


def start(
    name: str,
    hyperparameters: Mapping[str, Any],
    *,
    seed: int = 0,
    global_seed: int = 0,
    activation: str = "relu",
    real_parts: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    prepares: bool = True,
) -> Run:
    """A fresh run of method `name` on an MLP 12-16-8-3. real_parts: a real last layer and affine batch norm.
    prepares: after the method's `prepare`, else as it is initialised.

    Seeds the global generators with `global_seed`: only noise that ignores `rng` can depend on it.
    """
    torch.manual_seed(global_seed)
    np.random.seed(global_seed)
    random.seed(global_seed)
    method = make(name, **hyperparameters)
    if not isinstance(method, Method):
        raise TypeError(f"the factory returned a {type(method).__name__}; it must return a core.interface.Method")
    data = problem().to(device)
    reason = method.supports(data)
    if reason is not None:
        raise ValueError(f"supports() refuses the kit's problem ({CLASSES} classes, {FEATURES} pixels): {reason}")
    rng = generator("conformance", "initialisation", seed, device=device)
    last = "real" if real_parts else "binary"
    options = {"widths": (16, 8), "activation": activation, "affine": real_parts, "last": last}
    model = build("mlp", FORM, CLASSES, method.law, rng, method.normalisation, **options).to(device, dtype)
    noise = generator("conformance", "noise", seed, device=device)
    order = generator("conformance", "data order", seed)
    budget = Budget(EXAMPLES, BATCH, STEPS)

    def twin(law: LawFactory, **changed: Any) -> Module:
        rng = generator("conformance", "initialisation", seed, device=device)
        return build("mlp", FORM, CLASSES, law, rng, **{**options, **changed}).to(device, dtype)

    given = Preparation(model, data, budget, "cosine", noise, order, twin)
    prepared = method.prepare(given) if method.prepare and prepares else None
    inputs, labels = data.train.inputs, data.train.labels
    return Run(model, method, inputs, labels, budget, schedule="cosine", order=order, noise=noise, prepared=prepared)


def advanced(run: Run) -> Run:
    """The run after a few steps, or at the end of its budget: a method may finish in `prepare`."""
    for _ in range(steps_left(run)):
        run.step()
    return run


def steps_left(run: Run) -> int:
    """FEW, or as many as the budget still has."""
    return min(FEW, run.budget.steps - run.done)


def forward_passes(run: Run, rule: Predictor) -> int:
    """Forward passes of the whole network, counted by a hook, while `rule` predicts the training inputs.

    Both estimation and prediction of these few inputs are one batch.
    """
    passes: list[None] = []
    hook = run.model.register_forward_hook(lambda module, inputs, output: passes.append(None))
    rng = generator("conformance", "prediction", device=run.noise.device)
    predict(run.model, rule, run.inputs, (run.inputs,), rng)
    hook.remove()
    return len(passes)


def problem() -> Problem:
    """Three blobs around random corners of a cube of pixels; the same numbers at every call."""
    rng = generator("conformance", "problem")
    corners = torch.rand(CLASSES, FEATURES, generator=rng).round() * 100 + 77
    description = Description(name="conformance", title="three blobs", batch=BATCH, epochs=STEPS * BATCH // EXAMPLES)
    train, held_out, test = (_blobs(corners, rng) for _ in range(3))
    sealed = TestSet(test.inputs, test.labels, test.indices)
    names = tuple(str(c) for c in range(CLASSES))
    return Problem(description, FORM, CLASSES, names, train, held_out, sealed, {})


def read(run: Run, rule: Predictor) -> list[Network]:
    """Predict with `rule` and return, for each network it averaged, every read of its weights."""
    return _predicted(run, rule)[0]


def scores(run: Run, rule: Predictor) -> tuple[Tensor, ...]:
    """Scores of `rule` on the training inputs."""
    return _predicted(run, rule)[1]


def tensors(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested state with its path."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors(value, f"{path}.{key}" if path else str(key))
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            yield from tensors(value, f"{path}[{i}]")
    else:
        yield path, state


def differences(a: Any, b: Any) -> list[str]:
    """Paths of the leaves in which two states differ by any bit, or which only one of them has."""
    left, right = dict(tensors(a)), dict(tensors(b))
    return sorted(p for p in left.keys() | right.keys() if not _equal(left.get(p), right.get(p)))


def isolated(law: Callable[..., None]) -> Callable[..., None]:
    """The law, with the global generators put back afterwards."""

    @functools.wraps(law)
    def run(name: str, **hyperparameters: Any) -> None:
        with global_generators_restored():
            law(name, **hyperparameters)

    return run


@contextmanager
def global_generators_restored() -> Iterator[None]:
    """Puts the global generators of torch (every device), NumPy and Python back at the end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@dataclass
class _Spy:
    """A weight reading that notes, for every read, the law and the weights its contractions used."""

    reading: WeightReading
    reads: Network = field(default_factory=list)

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Signal:
        used: list[Tensor] = []
        self.reads.append((law, used))
        watched = Watched(contract, lambda weights: used.append(weights.detach().clone()))
        return self.reading(law, watched, x, rng, tape)


def _predicted(run: Run, rule: Predictor) -> tuple[list[Network], tuple[Tensor, ...]]:
    rng = generator("conformance", "prediction", device=run.noise.device)
    readings = list(rule.readings(run.model, rng))
    spies = [_Spy(reading.weights) for reading in readings]
    watched = [replace(reading, weights=spy) for reading, spy in zip(readings, spies, strict=True)]
    # the number declared is one check's business; here every network there is is looked at
    counted = replace(rule, networks=len(watched), readings=lambda model, rng: watched)
    prediction = predict(run.model, counted, run.inputs, (run.inputs,), rng)
    return [spy.reads for spy in spies], prediction.scores


def _blobs(corners: Tensor, rng: Rng) -> Split:
    labels = torch.arange(EXAMPLES) % CLASSES
    pixels = corners[labels] + 30 * torch.randn(EXAMPLES, FEATURES, generator=rng)
    return Split(pixels.round().clamp(0, 255).to(torch.uint8), labels, torch.arange(EXAMPLES))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
