"""The audit of prediction: the weights and signs a rule really contracts, against the bits it declares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.contractions import Watched
from core.interface import (
    BINARY,
    ActivationReading,
    Contract,
    Gaussian,
    GaussianActivationReading,
    Predictor,
    Reading,
    Rng,
    Signal,
    Tape,
    WeightLaw,
    WeightReading,
)
from core.layers import Network


class AuditError(ValueError):
    """A prediction used weights or activations of more bits than declared; the message says which and how many."""


def audited(rule: Predictor, own: Collection[WeightLaw]) -> Predictor:
    """The same rule; its passes raise AuditError at weights or signs that its declaration does not allow.

    own: the laws that the method made. A rule of b < 32 bits may give them only weights of the law's level set, of at
    most 2^b levels. Layers that the network declares real are not the method's and are not looked at.
    """

    def readings(model: nn.Module, rng: Rng) -> Iterator[Reading]:
        for reading in rule.readings(model, rng):
            yield replace(
                reading,
                weights=_Weights(reading.weights, rule, frozenset(own)),
                activations=_signs(reading.activations, rule),
            )

    return replace(rule, readings=readings)


@contextmanager
def one_bit_inputs(model: Network, rule: Predictor) -> Iterator[None]:
    """Within, hooks raise AuditError at an input that is not -1 or +1 of a layer that declares 1-bit inputs.

    A rule that declares 32-bit activations (propagated moments) is let be.
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        declared = f"rule {rule.name!r}, layer {name!r}: the network declares 1-bit inputs (network.activation=sign)"
        return lambda module, inputs: _check_levels(declared, inputs[0], BINARY)

    watched = model.one_bit_inputs() if rule.activation_bits != 32 else {}
    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in watched.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@dataclass(frozen=True)
class _Weights:
    inner: WeightReading
    rule: Predictor
    own: frozenset[WeightLaw]

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Signal:
        if law in self.own and self.rule.weight_bits < 32:
            contract = Watched(contract, lambda weights: _check_weights(self.rule, law, weights))
        return self.inner(law, contract, x, rng, tape)


@dataclass(frozen=True)
class _Signs:
    inner: ActivationReading
    rule: Predictor

    def __call__(self, h: Signal, rng: Rng) -> Signal:
        after = self.inner(h, rng)
        if (self.rule.activation_bits or 1) == 1:  # a sign activation was asked for, and the rule keeps to its bit
            declared = f"rule {self.rule.name!r}: the network declares 1-bit activations"
            if isinstance(after, Gaussian):
                raise AuditError(f"{declared}, but the rule propagates their moments; declare activation_bits=32")
            _check_levels(declared, after, BINARY)
        return after


@dataclass(frozen=True)
class _GaussianSigns(_Signs):
    """The same for readings that know Gaussians, whose other verbs give real activations and are let be."""

    inner: GaussianActivationReading

    def real(self, h: Gaussian, function: str, rng: Rng) -> Signal:
        return self.inner.real(h, function, rng)

    def pool(self, h: Gaussian, window: tuple[int, int], function: str, rng: Rng) -> Signal:
        return self.inner.pool(h, window, function, rng)

    def fork(self, h: Gaussian, rng: Rng, *, assume_independent: bool) -> Signal:
        return self.inner.fork(h, rng, assume_independent=assume_independent)


def _signs(inner: ActivationReading, rule: Predictor) -> _Signs:
    return _GaussianSigns(inner, rule) if isinstance(inner, GaussianActivationReading) else _Signs(inner, rule)


def _check_weights(rule: Predictor, law: WeightLaw, weights: Tensor) -> None:
    declared = f"rule {rule.name!r} declares {rule.weight_bits}-bit weights"
    if law.levels is None:
        raise AuditError(f"{declared}, but its {type(law).__name__} law is real; declare 32")
    levels = rule.levels or law.levels
    if len(levels) > 2**rule.weight_bits:
        raise AuditError(f"{declared}, but its {type(law).__name__} weights have {len(levels)} levels")
    _check_levels(declared, weights, levels)


def _check_levels(declared: str, values: Tensor, levels: tuple[float, ...]) -> None:
    allowed = torch.tensor(levels, dtype=values.dtype, device=values.device)
    outside = values[~torch.isin(values, allowed)]
    if len(outside):
        raise AuditError(
            f"{declared}, but {len(outside)} of {values.numel()} values are outside {levels}, e.g. {outside[0]:.6g}"
        )
