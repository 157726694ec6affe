"""The Bayesian learning rule on Bernoulli laws in one pass: pull-back, step and the next relaxed draw.

Khan & Rue; Meng, Bachmann & Khan 2020 (BayesBiNN), exactly or with the rounding of their released code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from core.counter import Key, logistic, new_key
from core.geometry import BernoulliFisher, DampedBernoulliFisher
from core.interface import Rng, Surrogate, WeightLaw
from core.laws import Bernoulli
from core.native import Relaxation
from core.ops import FlooredRelaxedSign, RelaxedSign
from core.prefetch import Slot, Slots, stamp
from solvers.fused import FusedSGD, described, path


class FusedLearningRule(FusedSGD):
    """GeometricSGD on Bernoulli laws, relaxed weights drawn ahead: the Bayesian learning rule in one pass.

    Khan & Rue; Meng, Bachmann & Khan 2020, in the geometry BernoulliFisher or as their released code computes it
    (DampedBernoulliFisher). Arguments as GeometricSGD's. Raises ValueError for another law or geometry.
    """

    def __init__(
        self,
        laws: Iterable[WeightLaw],
        *,
        slots: Slots,
        lr: float,
        scale: float = 1.0,
        momentum: float = 0.0,
        decay: float = 0.0,
    ) -> None:
        chosen = list(laws)
        for law in chosen:
            if not (isinstance(law, Bernoulli) and isinstance(law.geometry, (BernoulliFisher, DampedBernoulliFisher))):
                raise ValueError(
                    f"FusedLearningRule moves Bernoulli laws in their Fisher geometry, not {described(law)}; "
                    "use GeometricSGD"
                )
        coordinates = [c for law in chosen for c in law.coordinates()]
        super().__init__(coordinates, lr=lr, scale=scale, momentum=momentum, decay=decay)
        self.slots = _BernoulliSlot.of_each(chosen, self, slots)

    def move_and_draw(self, slot: _BernoulliSlot, gradient: Tensor, group: dict[str, Any]) -> None:
        """Pull-back, the learning rule and the next draw."""
        velocity, rate = self.velocity_and_rate(slot, group)
        arrays = (gradient, slot.prior(), slot.parameter.detach(), velocity, slot.weights, slot.factor)
        path(*arrays).bernoulli_step(
            *arrays,
            key=slot.next_noise,
            relaxation=slot.relaxation,
            scale=group["scale"],
            rate=rate,
            momentum=group["momentum"],
            decay=group["decay"],
        )


class _BernoulliSlot(Slot):
    """Noise is a key; beside the weights lies the factor of each one's gradient in the step."""

    factor: Tensor
    _prior: tuple[tuple[int, int, torch.dtype], bool] | None = None  # its stamp, and whether it is 0 everywhere

    @classmethod
    def of_each(cls, laws: Iterable[WeightLaw], solver: Optimizer, slots: Slots) -> list[_BernoulliSlot]:
        made = [cls(law, law.natural, solver.state[law.natural]) for law in laws if isinstance(law, Bernoulli)]
        slots.of.update({slot.law: slot for slot in made})
        return made

    @property
    def relaxation(self) -> Relaxation:
        """Of the surrogate it draws through, in the law's geometry."""
        assert self.surrogate is not None
        return _relaxation(self.surrogate, self.law)

    def serves(self, surrogate: Surrogate) -> bool:
        damped = isinstance(self.law, Bernoulli) and isinstance(self.law.geometry, DampedBernoulliFisher)
        return isinstance(surrogate, FlooredRelaxedSign if damped else RelaxedSign)

    def new_noise(self, rng: Rng) -> Key:
        return new_key(rng)

    def draw(self, weights: Tensor, noise: Key, surrogate: Surrogate) -> None:
        natural = self.parameter.detach()
        self.factor = torch.empty_like(natural)
        relaxation = _relaxation(surrogate, self.law)
        path(natural).bernoulli_draw(natural, weights, self.factor, key=noise, relaxation=relaxation)

    def law_noise(self, noise: Key) -> Tensor:
        return logistic(self.parameter.detach(), noise)

    def prior(self) -> Tensor | None:
        """The prior's natural parameter; None where it is 0 everywhere, so that a pass need not read it."""
        assert isinstance(self.law, Bernoulli)
        prior = self.law.prior
        if self._prior is None or self._prior[0] != stamp(prior):
            self._prior = stamp(prior), not prior.any()
        return None if self._prior[1] else prior


def _relaxation(surrogate: Surrogate, law: WeightLaw) -> Relaxation:
    geometry = law.coordinates()[0].geometry
    if isinstance(surrogate, FlooredRelaxedSign) and isinstance(geometry, DampedBernoulliFisher):
        return Relaxation(surrogate.temperature, math.inf, surrogate.slope_floor, geometry.damping)
    assert isinstance(surrogate, RelaxedSign) and isinstance(geometry, BernoulliFisher)
    return Relaxation(surrogate.temperature, geometry.bound)
