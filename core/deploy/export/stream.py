"""What flows while a graph is made: a value of the graph, and the layers after integer sums that wait for what follows.

Batch norm, scales and pooling after integer sums are not written down at once: a sign makes one integer threshold of
the whole run, and anything else makes them operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from core.deploy.form import Value


@dataclass(frozen=True)
class Scaled:
    """h * scale + bias for each channel, two roundings in float32, as the layer `name` has it.

    scale, bias: (C,) float32; a bias of -0.0 adds nothing. apply: the layer's own code, on (N, C).
    """

    name: str
    scale: Tensor
    bias: Tensor
    apply: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pooled:
    """The largest of each `size` x `size` window, by the layer `name`."""

    name: str
    size: int


Step = Scaled | Pooled


class Grid(NamedTuple):
    """float32 numbers known to be whole multiples of `step`, a power of two, and at most `largest` in size."""

    step: float
    largest: float

    def sums_exactly(self, count: int) -> bool:
        """Whether any sum of +-`count` such numbers is exact in float32, whatever its order."""
        return count * self.largest / self.step <= 2**24


class Reach(NamedTuple):
    """The least and the largest integer sum of each channel, (C,) int64."""

    least: np.ndarray
    most: np.ndarray


@dataclass(frozen=True)
class Stream:
    """The value `name` of the graph, with the steps that still wait.

    flat: torch has flattened it to (B, C H W), channels slowest, while the value keeps (H, W, C). reach: of i32.
    steps: of i32 only. grid: of f32, where known.
    """

    name: str
    value: Value
    flat: bool = False
    reach: Reach | None = None
    steps: tuple[Step, ...] = ()
    grid: Grid | None = None
