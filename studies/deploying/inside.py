"""What torch makes on its way through a trained network: the sums of every linear map, the output of every sign."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.contractions import Pixels
from core.interface import Contract, Rng, Signal, Tape, WeightLaw, WeightReading
from core.layers import Activation
from core.predict import as_float
from core.statistics import Evaluation
from studies.deploying.cell import Trained

Array = np.ndarray
Seen = dict[str, Array]


@torch.no_grad()
def of(trained: Trained, batch: Tensor) -> list[Seen]:
    """Of every network that the rule averages, by the layer's name and in the order in which torch made it.

    Sums (B, H, W, O) are float32, before any normalisation; signs (B, H, W, C) are int8.
    """
    model = trained.built.model
    modules = model.named_modules()
    names = {module.law: name for name, module in modules if isinstance(getattr(module, "law", None), WeightLaw)}
    found = []
    for reading, statistics in zip(trained.readings, trained.statistics, strict=True):
        seen: Seen = {}
        watched = replace(reading, weights=_Watched(reading.weights, names, seen))
        with _signs_seen(model, seen):
            model(as_float(batch, model), watched.during(Evaluation(statistics)), trained.rng())
        found.append(seen)
    return found


@contextlib.contextmanager
def _signs_seen(model: nn.Module, kept: Seen) -> Iterator[None]:
    """Within, every sign activation leaves its output in `kept`."""

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            kept[name] = _channels_last(output).astype(np.int8)

        return keep

    signs = [m for m in model.modules() if isinstance(m, Activation) and m.function == "sign"]
    handles = [module.register_forward_hook(hook(module.name)) for module in signs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Watched:
    """A reading that keeps the sums of every linear map, before any normalisation."""

    inner: WeightReading
    names: Mapping[WeightLaw, str]
    kept: Seen

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Signal:
        def keep(sums: Tensor) -> None:
            self.kept[self.names[law]] = _channels_last(sums)

        return self.inner(law, _Kept(contract, keep), x, rng, tape)


@dataclass(frozen=True)
class _Kept:
    """A contract that gives its sums to `keep`: a first layer's of raw values, before their normalisation."""

    inner: Contract
    keep: Callable[[Tensor], None]

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        if isinstance(self.inner, Pixels):
            self.keep(self.inner.inner(x, weights))
            return self.inner(x, weights)
        sums = self.inner(x, weights)
        self.keep(sums)
        return sums

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.inner.squares(x, weights)


def _channels_last(values: Tensor) -> Array:
    array: Array = values.numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array[:, None, None, :]
