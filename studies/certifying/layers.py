"""The layers that are certified: those of a trained full-precision network, and one-vs-rest labels on its features.

A network's neuron is to be reconstructed: its target is its real pre-activation on the training examples, given the
layer's own real inputs. Both are centred: the batch norm that follows re-centres whatever the binary neuron says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

import methods
from core import problems
from core.architectures import mlp
from core.contractions import Pixels
from core.fit import Run, fit
from core.interface import Budget, Contract, Rng, Signal, Tape, WeightLaw, WeightReading
from core.layers import Network
from core.predict import as_float, reestimate
from core.problems import Problem, ProblemUnavailable
from core.seeds import generator
from core.statistics import Evaluation
from studies.certifying.neurons import Layer

EXAMPLES = 10_000  # at most: what a layer is certified on
WIDTHS = {"digits": (16,), "breast-cancer": (16,), "mnist": (64, 64)}  # of the networks whose layers are certified
EPOCHS = {"digits": 30, "breast-cancer": 30, "mnist": 2}
LABELLED = ("digits", "breast-cancer")  # problems of which the labels are a layer too
QUICK = LABELLED  # what a check certifies where no problem is named: their networks are trained in seconds
HIDDEN_ONLY = ("mnist",)  # its first layer, of 679 inputs that vary, takes the methods minutes
ORDINALS = ("first", "second", "third")


def at_hand(data_dir: Path | None) -> list[str]:
    """The problems whose data are there: what is certified where none is named."""
    return [problem for problem in WIDTHS if _located(problem, data_dir)]


def layers(problem: str, data_dir: Path | None, *, neurons: int, seed: int = 0) -> Iterator[Layer]:
    """The layers of a problem, each cut to its first `neurons` neurons.

    Raises ProblemUnavailable where its data are missing.
    """
    data = problems.load(problem, data_dir)
    if problem in LABELLED:
        yield labels(data, neurons)
    yield from trained(data, neurons, seed)


def labels(data: Problem, neurons: int) -> Layer:
    """One-vs-rest: targets +1 for a class and -1 for the others, inputs standardised features; of two classes one."""
    inputs = _flat(data)[:EXAMPLES]
    kept = _standardised(inputs)
    classes = range(data.classes if data.classes > 2 else 1)
    labels = data.train.labels[:EXAMPLES].numpy()
    targets = _centred(np.stack([np.where(labels == c, 1.0, -1.0) for c in classes], 1))[:, :neurons]
    real = np.linalg.lstsq(kept, targets)[0].T
    about = "features standardised, targets +-1 for a class against the rest, real weights by least squares"
    return Layer(data.description.name, "labels", about, kept, targets, real)


def trained(data: Problem, neurons: int, seed: int) -> Iterator[Layer]:
    """Every layer of a full-precision network trained on the problem, but the first of those in HIDDEN_ONLY."""
    problem = data.description.name
    seen = _seen(_network(data, seed), data)
    for i, (law, (inputs, outputs)) in enumerate(seen.items()):
        if i == 0 and problem in HIDDEN_ONLY:
            continue
        place = "last layer" if i == len(seen) - 1 else f"{ORDINALS[i]} layer"
        x, real = inputs.double().numpy(), law.mean().detach().double().numpy()
        alive = np.ptp(x, 0) > 0  # a constant input adds a constant, which batch norm takes away
        targets, kept = _centred(outputs.double().numpy())[:, :neurons], _centred(x[:, alive])
        about = "the layer's own inputs and real pre-activations, both centred as the batch norm after it does"
        yield Layer(problem, place, about, kept, targets, real[:neurons, alive])


@dataclass(frozen=True)
class _Recorded:
    """A weight reading that keeps what each layer contracted, normalised, and what came of it."""

    reading: WeightReading
    seen: dict[WeightLaw, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Signal:
        output = self.reading(law, contract, x, rng, tape)
        assert isinstance(x, Tensor) and isinstance(output, Tensor), "a full-precision network passes tensors"
        self.seen[law] = (contract.normalised(x) if isinstance(contract, Pixels) else x, output)
        return output


def _network(data: Problem, seed: int) -> Network:
    """A full-precision network of the registry's defaults, trained by the loop of every method."""
    name, train, batch = data.description.name, data.train, data.description.batch
    method = methods.make("full-precision")
    rng = generator("certify", "initialisation", name, seed)
    model = mlp(data.form, data.classes, method.law, rng, widths=WIDTHS[name])
    budget = Budget(len(train), batch, EPOCHS[name] * Budget(len(train), batch, 1).steps_per_epoch)
    order, noise = generator("certify", "data order", name, seed), generator("certify", "noise", name, seed)
    ended = fit(Run(model, method, train.inputs, train.labels, budget, schedule="cosine", order=order, noise=noise))
    if ended.diverged is not None:
        raise RuntimeError(f"the full-precision network on {name} diverged: {ended.diverged}")
    return model


@torch.no_grad()
def _seen(model: Network, data: Problem) -> dict[WeightLaw, tuple[Tensor, Tensor]]:
    """Inputs and pre-activations of every layer, on training examples, under re-estimated statistics."""
    rng = generator("certify", "unused")
    (reading,) = methods.make("full-precision").predictors[0].readings(model, rng)
    statistics = reestimate(model, reading, data.train.inputs, rng)
    recorded = _Recorded(reading.weights)
    evaluated = type(reading)(recorded, reading.activations).during(Evaluation(statistics))
    model(as_float(data.train.inputs[:EXAMPLES], model), evaluated, rng)
    return recorded.seen


def _located(problem: str, data_dir: Path | None) -> bool:
    try:
        problems.locate(problem, data_dir)
    except ProblemUnavailable:
        return False
    return True


def _flat(data: Problem) -> ndarray:
    wide: ndarray = data.train.inputs.flatten(1).double().numpy()
    return wide


def _centred(values: ndarray) -> ndarray:
    centred: ndarray = values - values.mean(0)
    return centred


def _standardised(values: ndarray) -> ndarray:
    """Every feature that varies, with mean 0 and deviation 1."""
    varied = values[:, np.ptp(values, 0) > 0]
    return _centred(varied) / varied.std(0)
