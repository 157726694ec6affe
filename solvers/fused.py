"""Solvers whose step pulls back, moves and draws the next weights in one pass over a law's parameter.

The same rules as GeometricAdam and GeometricSGD, on the laws they are fastest for; `core.native` runs the pass where it
can, `solvers.passes` elsewhere. A gradient that came another way (a second pass in one step) takes the plain rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from core import extension, native
from core.geometry import Box, Euclidean
from core.interface import Rng, Surrogate, WeightLaw
from core.laws import Point
from core.ops import StraightThrough
from core.prefetch import Slot, Slots
from solvers import passes
from solvers.geometric import GeometricSGD


class FusedAdam(Optimizer):
    """GeometricAdam on point laws in a box, signs drawn ahead. Kingma & Ba 2015; BinaryConnect's clipping.

    Raises ValueError for another law or geometry, and for lr < 0.
    """

    def __init__(
        self,
        laws: Iterable[WeightLaw],
        *,
        slots: Slots,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if lr < 0:
            raise ValueError(f"lr must be >= 0 (got {lr})")
        chosen = list(laws)
        for law in chosen:
            if not (isinstance(law, Point) and isinstance(law.geometry, (Box, Euclidean))):
                raise ValueError(f"FusedAdam moves Point laws in a Box, not {described(law)}; use GeometricAdam")
        super().__init__(
            [c.parameter for law in chosen for c in law.coordinates()], {"lr": lr, "betas": betas, "eps": eps}
        )
        self.slots = _PointSlot.of_each(chosen, self, slots)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on every law whose drawn weights, or parameter, have a gradient; then the next signs."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        group = self.param_groups[0]
        for slot in self.slots:
            gradient = _sum(slot.gradient, slot.parameter.grad)
            if gradient is not None:
                self._move(slot, gradient, group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Also forgets what was pulled back from drawn weights."""
        super().zero_grad(set_to_none)
        for slot in self.slots:
            slot.forget()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also has every slot draw again, from the loaded state."""
        super().load_state_dict(state_dict)
        reset(self, self.slots)

    def _move(self, slot: _PointSlot, gradient: Tensor, group: dict[str, Any]) -> None:
        latent, state, (beta1, beta2) = slot.parameter, self.state[slot.parameter], group["betas"]
        if "exp_avg" not in state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(latent), "exp_avg_sq": torch.zeros_like(latent)}
        state["step"] += 1
        weights = slot.weights if slot.gradient is not None else torch.empty_like(latent)
        arrays = (gradient.contiguous(), latent.detach(), state["exp_avg"], state["exp_avg_sq"], weights)
        path(*arrays).point_adam(
            *arrays,
            rate=group["lr"] / (1 - beta1 ** state["step"]),
            betas=(beta1, beta2),
            root=(1 - beta2 ** state["step"]) ** -0.5,
            eps=group["eps"],
            bound=_bound(slot.law),
        )
        if slot.gradient is not None:
            slot.moved()


class FusedSGD(GeometricSGD):
    """What fused forms of GeometricSGD share: one slot a law, and the plain rule for gradients of several passes."""

    slots: list[Any]  # of a class that the subclass knows

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on every law whose drawn weights, or parameter, have a gradient; then the next draw."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        group = self.param_groups[0]
        for slot in self.slots:
            if slot.gradient is not None and slot.parameter.grad is None:
                self.move_and_draw(slot, slot.gradient.contiguous(), group)
                slot.moved()
            elif slot.gradient is not None or slot.parameter.grad is not None:
                self._move_plainly(slot, group)
        ahead = {id(slot.parameter) for slot in self.slots}
        for parameter in group["params"]:
            if id(parameter) not in ahead and parameter.grad is not None:
                self._move(parameter, self._coordinates[id(parameter)], group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Also forgets what was pulled back from drawn weights."""
        super().zero_grad(set_to_none)
        for slot in self.slots:
            slot.forget()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also has every slot draw again, from the loaded state."""
        super().load_state_dict(state_dict)
        reset(self, self.slots)

    def move_and_draw(self, slot: Any, gradient: Tensor, group: dict[str, Any]) -> None:
        """The fused pass: the subclass's. gradient: with respect to the drawn weights, contiguous."""
        raise NotImplementedError

    def velocity_and_rate(self, slot: Slot, group: dict[str, Any]) -> tuple[Tensor | None, float]:
        """The average to update (None without momentum) and lr / (1 - momentum^t), t counting this step."""
        state, momentum = self.state[slot.parameter], group["momentum"]
        if not momentum:
            return None, group["lr"]
        if "velocity" not in state:
            state |= {"step": 0, "velocity": torch.zeros_like(slot.parameter)}
        state["step"] += 1
        return state["velocity"], group["lr"] / (1 - momentum ** state["step"])

    def _move_plainly(self, slot: Slot, group: dict[str, Any]) -> None:
        """Gradients of several passes: pull back what is left to pull back, add, and take GeometricSGD's step."""
        before = slot.parameter.grad
        if slot.gradient is not None:
            slot.parameter.grad = _sum(slot.pulled_back(), before)
        self._move(slot.parameter, self._coordinates[id(slot.parameter)], group)
        slot.parameter.grad = before
        if slot.gradient is not None:
            slot.undraw()


class _PointSlot(Slot):
    """A point law has no noise: its draw is the sign of its latent."""

    @classmethod
    def of_each(cls, laws: Iterable[WeightLaw], solver: Optimizer, slots: Slots) -> list[_PointSlot]:
        made = [cls(law, law.latents, solver.state[law.latents]) for law in laws if isinstance(law, Point)]
        slots.of.update({slot.law: slot for slot in made})
        return made

    def serves(self, surrogate: Surrogate) -> bool:
        return isinstance(surrogate, StraightThrough)

    def new_noise(self, rng: Rng) -> None:
        return None

    def draw(self, weights: Tensor, noise: None, surrogate: Surrogate) -> None:
        weights.copy_(surrogate(self.parameter))

    def law_noise(self, noise: None) -> None:
        return None


def path(*arrays: Tensor | None) -> ModuleType:
    """The module whose functions run the pass on these tensors."""
    extension.warn_once()
    return native if native.serves(*arrays) else passes


def _bound(law: WeightLaw) -> float:
    geometry = law.coordinates()[0].geometry
    return geometry.bound if isinstance(geometry, Box) else math.inf


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def reset(solver: Optimizer, slots: Iterable[Slot]) -> None:
    """After a load: every slot looks at its new state and draws again."""
    for slot in slots:
        slot.reset(solver.state[slot.parameter])


def described(law: WeightLaw) -> str:
    """A law and where its parameters live, for messages."""
    geometries = " and ".join(type(c.geometry).__name__ for c in law.coordinates())
    return f"a {type(law).__name__} in {geometries}"
