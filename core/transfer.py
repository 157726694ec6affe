"""Transfer initialisation: a full-precision network of the same architecture sets the means of binary weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.claims import laws
from core.fit import Run, fit
from core.interface import Method, Preparation, Prepared, WeightLaw
from core.laws import Bernoulli


class TransferError(ValueError):
    """The two networks do not fit; the message names the first layer in which they differ."""


@torch.no_grad()
def transfer(source: nn.Module, model: nn.Module, *, largest: float = 0.9) -> None:
    """Means of every Bernoulli layer of `model` := w / std(w) of the same layer of `source`, clipped to +-largest.

    std is over the layer's weights. Real layers and batch-norm affine parameters are copied. Peters & Welling 2018 take
    0.9: a weight that starts certain has no gradient, one that starts at 0 must cross the region of highest variance.
    Raises TransferError, with nothing changed, where a layer is missing or has another shape.
    """
    if not 0 < largest < 1:
        raise ValueError(f"largest must be in (0, 1): a mean of 1 has no natural parameter (got {largest})")
    given = dict(laws(source))
    pairs = [(name, law, _matching(name, law.shape, given)) for name, law in laws(model)]
    binary = [(_bernoulli(name, law), _spread_out(name, w)) for name, law, w in pairs if law.levels is not None]
    real = [(name, p) for name, p in model.named_parameters() if not name.endswith("law.natural")]
    copies = [(p, _parameter(name, p, source)) for name, p in real]
    for law, weights in binary:
        law.natural.copy_(torch.atanh((weights / weights.std()).clamp(-largest, largest)))
    for parameter, value in copies:
        parameter.copy_(value)


def transferred(given: Preparation, control: Method, share: float) -> Prepared:
    """Train a full-precision twin by `control` for `share` of the budget and start the binary means from its weights.

    Its sign activations become hardtanh, the real function they limit. Its steps are taken from the cell's budget.
    """
    changed = {"activation": "hardtanh"} if given.model.activation == "sign" else {}
    steps = int(share * given.budget.steps)
    transfer(trained_twin(given, control, steps, **changed), given.model)
    return Prepared(steps=steps)


def trained_twin(given: Preparation, control: Method, steps: int, **changed: Any) -> nn.Module:
    """A network of the same architecture with the laws of `control`, trained by it for `steps` of the budget.

    It starts from the cell's own initial draw; `changed` replaces network options. Raises RuntimeError where it
    diverges.
    """
    twin = given.twin(control.law, **changed)
    train = given.problem.train
    run = Run(
        twin,
        control,
        train.inputs,
        train.labels,
        dataclasses.replace(given.budget, steps=steps),
        schedule=given.schedule,
        order=given.order,
        noise=given.rng,
        masks=given.masks,
    )
    ended = fit(run)
    if ended.diverged is not None:
        raise RuntimeError(f"the full-precision network to transfer from has diverged: {ended.diverged}")
    return twin


def _matching(name: str, shape: torch.Size, given: Mapping[str, WeightLaw]) -> Tensor:
    if name not in given:
        raise TransferError(f"the network to transfer from has no layer {name!r}; it has {', '.join(given) or 'none'}")
    weights = given[name].mean()
    if weights.shape != shape:
        raise TransferError(
            f"layer {name!r}: the network to transfer from has weights {tuple(weights.shape)}, this one "
            f"{tuple(shape)}; both must be of one architecture with equal options"
        )
    return weights


def _bernoulli(name: str, law: WeightLaw) -> Bernoulli:
    if not isinstance(law, Bernoulli):
        raise TransferError(f"layer {name!r}: the mean of a {type(law).__name__} law is not set here; use Bernoulli")
    return law


def _spread_out(name: str, weights: Tensor) -> Tensor:
    if not weights.std() > 0:
        raise TransferError(f"layer {name!r}: the weights to transfer are all equal, {weights.flatten()[0]:g}")
    return weights


def _parameter(name: str, parameter: Tensor, source: nn.Module) -> Tensor:
    found: Tensor | None = dict(source.named_parameters()).get(name)
    if found is None or found.shape != parameter.shape:
        have = "none" if found is None else f"one of shape {tuple(found.shape)}"
        raise TransferError(
            f"parameter {name!r} of shape {tuple(parameter.shape)}: the network to transfer from has {have}"
        )
    return found
