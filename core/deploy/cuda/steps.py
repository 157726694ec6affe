"""One kernel call of a network, for any batch: which kernel, on how many blocks, with which numbers and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from core.deploy.cuda.records import MOVES, SUMS, THREADS, merged

Grid = tuple[int, int, int]


class Launch(NamedTuple):
    """What a launcher is told: the kernel, its blocks, its dynamic shared memory in bytes, its struct."""

    kernel: str
    grid: Grid
    shared: int
    parameters: np.ndarray


@runtime_checkable
class Step(Protocol):
    """Makes one value of others. `constants` are arrays that lie on the device under their names."""

    @property
    def output(self) -> str:
        """The value it makes."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values it takes."""
        ...

    @property
    def constants(self) -> Mapping[str, np.ndarray]:
        """Its parameters that are arrays, by the field of the struct (or a name of its own)."""
        ...

    def launch(self, batch: int, values: Mapping[str, int], constants: Mapping[str, int]) -> Launch:
        """The call for a batch, given the addresses of values and constants."""
        ...


@dataclass(frozen=True)
class SumStep:
    """A linear layer or a convolution with what follows it. `choose(rows)` names a kernel of KERNELS."""

    output: str
    inputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    numbers: Mapping[str, int]
    rows: int  # of one example
    choose: Callable[[int], str]

    def launch(self, batch: int, values: Mapping[str, int], constants: Mapping[str, int]) -> Launch:
        """Tiles of rows x tiles of outputs x groups; few rows: 32 outputs a block."""
        rows = batch * self.rows
        kernel = self.choose(rows)
        numbers, shared = self.numbers, 0
        base = constants.get("base_and" if "_mma" in kernel else "base_xor", 0)
        grid = (_blocks(rows, 64), _blocks(numbers["outputs"], 64), numbers["groups"])
        if "_mma" in kernel:
            grid, shared = (_blocks(rows, 128), _blocks(numbers["outputs"], 128), numbers["groups"]), MMA_SHARED
        if "_few" in kernel:
            grid = (_blocks(numbers["outputs"], 32), 1, 1)
        own = {name: place for name, place in constants.items() if name in (SUMS.names or ())}
        places = {"x": values[self.inputs[0]], "out": values[self.output], "base": base}
        return Launch(kernel, grid, shared, merged(SUMS, numbers, own, places, {"rows": rows}))


MMA_SHARED = 3 * 2 * 128 * 32 * 4  # bytes: stages x operands x vectors x words


@dataclass(frozen=True)
class MoveStep:
    """Everything else: `count` threads, or warps where `warps`, for one example."""

    output: str
    inputs: tuple[str, ...]
    kernel: str
    count: int
    warps: bool = False
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)

    def launch(self, batch: int, values: Mapping[str, int], constants: Mapping[str, int]) -> Launch:
        """One number or one word of the output a thread or a warp."""
        count = batch * self.count
        places = {"x": values[self.inputs[0]], "out": values[self.output]}
        if len(self.inputs) == 2:
            places["y"] = values[self.inputs[1]]
        grid = (_blocks(count, THREADS // 32 if self.warps else THREADS), 1, 1)
        return Launch(self.kernel, grid, 0, merged(MOVES, self.numbers, constants, places, {"count": count}))


def _blocks(count: int, each: int) -> int:
    return -(-count // each)
