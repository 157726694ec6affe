"""The bit kernels of the extension on random operands: products of signs, thresholds fused, from bits to bits."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from core import extension
from core.deploy.form import words
from core.deploy.native import chosen_level
from studies.deploying.bench import graphs
from studies.deploying.bench.goals import Missing

BLOCK = 16  # output channels side by side in the kernels' weights


class Product:
    """Packed x (rows, words) times weights (outputs, words), then (popcount <= most[o]) != flip[o], packed.

    A call is one native call, and returns bits (rows, words(outputs)) that the next call overwrites.
    """

    def __init__(self, level: str, x: np.ndarray, weights: np.ndarray, most: np.ndarray, flip: np.ndarray) -> None:
        self.x, self.weights, self.most, self.flip = x, weights, most, flip
        (rows, depth), outputs = x.shape, len(weights)
        blocked = _padded(weights, 0).reshape(-1, BLOCK, depth).transpose(0, 2, 1)
        sums = built().BitSums(
            x.reshape(-1),
            np.ascontiguousarray(blocked),
            outputs=outputs,
            rows=rows,
            row_pitch=depth,
            offsets=np.zeros(1, np.int64),
            segment_words=depth,
        )
        flips = np.packbits(_padded(flip, 0), bitorder="little").view(np.uint16)
        self._call = sums.to_bits
        self._bits = np.empty((rows, words(outputs)), np.uint32)
        self._arguments = extension.LEVELS.index(level), _padded(most, -1)[None], flips, self._bits

    def __call__(self) -> np.ndarray:
        self._call(*self._arguments)
        return self._bits


def built() -> ModuleType:
    """The extension. Raises Missing where it is not built."""
    module = extension.module()
    if module is None:
        raise Missing(extension.info().reason or "the native extension is not built here")
    return module


def levels() -> tuple[str, ...]:
    """CPU levels up to the one that networks take here, slowest first: BITRELAX_CPU_LEVEL's, or the best.

    Raises Missing where the extension is not built.
    """
    built()
    return extension.LEVELS[: extension.LEVELS.index(chosen_level()) + 1]


def product(level: str, rows: int, outputs: int, inputs: int) -> Product:
    """Of random bits, with thresholds near the middle; the same at every level."""
    rng = np.random.default_rng(0)
    x, weights = graphs.bits((rows, inputs), rng), graphs.bits((outputs, inputs), rng)
    most = rng.normal(inputs / 2, np.sqrt(inputs) / 2, outputs).astype(np.int32)
    return Product(level, x, weights, most, rng.integers(0, 2, outputs, dtype=np.uint8))


def _padded(array: np.ndarray, value: int) -> np.ndarray:
    """Outputs (axis 0) up to a whole number of blocks."""
    more = -len(array) % BLOCK
    return np.concatenate([array, np.full((more, *array.shape[1:]), value, array.dtype)])
