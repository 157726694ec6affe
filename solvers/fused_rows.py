"""Burer-Monteiro descent on low-rank rows in one pass: outer product, momentum, retraction and next draw.

The gradient of column k is the drawn weights' gradient times that draw's normal: nothing of the rows' size is formed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from core.geometry import Euclidean, UnitRows
from core.interface import Rng, Surrogate, WeightLaw
from core.low_rank import LowRank
from core.ops import StraightThrough
from core.prefetch import Slot, Slots
from solvers.fused import FusedSGD, path


class FusedRows(FusedSGD):
    """GeometricSGD on low-rank laws, signs drawn ahead, rows of unit length (UnitRows) or free (Euclidean).

    Arguments as GeometricSGD's; the reading is Prefetched(StraightThrough(), slots). A law without a fused pass (see
    `served`) has no slot: Prefetched draws it as Draw does, and its step is GeometricSGD's own.
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
        coordinates = [c for law in chosen for c in law.coordinates()]
        super().__init__(coordinates, lr=lr, scale=scale, momentum=momentum, decay=decay)
        self.slots = _RowsSlot.of_each(filter(served, chosen), self, slots)

    def move_and_draw(self, slot: _RowsSlot, gradient: Tensor, group: dict[str, Any]) -> None:
        """Pull-back, momentum, move, retraction and the next draw."""
        velocity, rate = self.velocity_and_rate(slot, group)
        used, rows = slot.state["noise"], slot.parameter.detach()
        path(gradient, used, rows, velocity, slot.weights).lowrank_step(
            *(gradient, used, slot.next_noise, rows, velocity, slot.weights),
            scale=group["scale"],
            rate=rate,
            momentum=group["momentum"],
            decay=group["decay"],
            unit=isinstance(slot.law.coordinates()[0].geometry, UnitRows),
        )


def served(law: WeightLaw) -> bool:
    """Whether the pass knows this law: LowRank itself, its rows as they are, of unit length or free."""
    return type(law) is LowRank and law.chart == "identity" and isinstance(law.geometry, (UnitRows, Euclidean))


class _RowsSlot(Slot):
    """Noise is the K normals of a draw, shared by all weights."""

    @classmethod
    def of_each(cls, laws: Iterable[WeightLaw], solver: Optimizer, slots: Slots) -> list[_RowsSlot]:
        made = [cls(law, law.rows, solver.state[law.rows]) for law in laws if isinstance(law, LowRank)]
        slots.of.update({slot.law: slot for slot in made})
        return made

    def serves(self, surrogate: Surrogate) -> bool:
        return isinstance(surrogate, StraightThrough)

    def new_noise(self, rng: Rng) -> Tensor:
        noise = self.law.noise(rng)
        assert noise is not None
        return noise

    def draw(self, weights: Tensor, noise: Tensor, surrogate: Surrogate) -> None:
        rows = self.parameter.detach()
        path(rows, noise, weights).lowrank_draw(rows, noise, weights)

    def law_noise(self, noise: Tensor) -> Tensor:
        return noise

    def law_shaped(self) -> Tensor:
        return torch.empty(self.law.shape, dtype=self.parameter.dtype)
