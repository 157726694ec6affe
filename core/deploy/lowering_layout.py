"""Weights, thresholds and border classes of packed networks as the native kernels read them.

Output channels stand in blocks of 16, padded with channels that are never written. With groups, one group's blocks
follow the other's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from core.deploy.form import FormError, words
from core.deploy.packing import unpack
from core.deploy.sums import Convolution

BLOCK = 16
LARGEST_TABLE = 1 << 25  # numbers in a table of border classes, absent channels counted: 128 MB
AT_ONCE = 1 << 22  # weights that are unpacked at a time: each becomes a byte or two on its way
FAR = 1 << 27  # beyond every sum and base: five times the largest fan-in and more


def by_lanes(rows: np.ndarray, groups: int) -> np.ndarray:
    """(O, K) -> (groups, blocks, K, 16), absent channels 0."""
    n_out, n_taps = rows.shape
    outputs = n_out // groups
    blocks = -(-outputs // BLOCK)
    lanes = np.zeros((groups, blocks * BLOCK, n_taps), rows.dtype)
    lanes[:, :outputs] = rows.reshape(groups, outputs, n_taps)
    return lanes.reshape(groups, blocks, BLOCK, n_taps).transpose(0, 1, 3, 2)


def bit_weights(weights: np.ndarray, groups: int) -> np.ndarray:
    """Packed weights (O, h, w, words) for sums over bits: [groups][blocks][h w words][16] words."""
    return flat(by_lanes(weights.reshape(len(weights), -1), groups))


def pixel_weights(signs: np.ndarray, groups: int) -> np.ndarray:
    """Signs (O, K) of -1 and +1 for sums over pixels: [groups][blocks][ceil(K / 4)] of 64 bits, bit 4 lane + tap."""
    n_out, n_taps = signs.shape
    positive = np.zeros((n_out, -(-n_taps // 4) * 4), np.uint8)
    positive[:, :n_taps] = signs > 0
    lanes = by_lanes(positive, groups)
    fours = lanes.reshape(*lanes.shape[:2], -1, 4, BLOCK).swapaxes(-1, -2)
    return packed_lanes(fours.reshape(*fours.shape[:3], 4 * BLOCK), "<u8")


def sign_weights(signs: np.ndarray, groups: int) -> np.ndarray:
    """Signs (O, K) of -1 and +1 for sums over real values: [groups][blocks][K] of 16 bits, a lane each."""
    return packed_lanes(by_lanes((signs > 0).astype(np.uint8), groups), "<u2")


def real_weights(weights: np.ndarray, groups: int) -> np.ndarray:
    """Real weights (O, K): [groups][blocks][K][16]."""
    return flat(by_lanes(weights, groups))


def row_weights(
    weights: np.ndarray,
    lay: Callable[[np.ndarray, int], np.ndarray],
    groups: int,
    packed: int,
    taps: tuple[int, int, int],
    planar: bool,
) -> np.ndarray:
    """Weights (O, h, w, C) by `lay`, the taps in the order in which the source holds them.

    packed: channels of the bits that the weights are, 0 of real ones. taps: (h, w, C), also of a flattened source.
    planar: of raw images, whose channels come first.
    """

    def laid(first: int, last: int, groups: int) -> np.ndarray:
        signs = signs_of(weights[first:last], packed) if packed else weights[first:last]
        rows = signs.reshape(last - first, *taps)
        return lay((rows.transpose(0, 3, 1, 2) if planar else rows).reshape(last - first, -1), groups)

    own, room = len(weights) // groups, max(1, AT_ONCE // math.prod(taps) // BLOCK) * BLOCK
    if own > room:  # a part of a group at a time
        starts = [(g * own + k, min(room, own - k), 1) for g in range(groups) for k in range(0, own, room)]
    else:
        several = max(1, room // (-(-own // BLOCK) * BLOCK))
        starts = [(g * own, own * n, n) for g in range(0, groups, several) for n in [min(several, groups - g)]]
    return np.concatenate([laid(first, first + count, n) for first, count, n in starts])


def packed_lanes(bits: np.ndarray, word: str) -> np.ndarray:
    """Zeros and ones along the last axis as words, the first in the least significant bit."""
    return flat(np.packbits(bits, axis=-1, bitorder="little")).view(word).astype(np.dtype(word).newbyteorder("="))


def signs_of(weights: np.ndarray, channels: int) -> np.ndarray:
    """Packed weights (O, h, w, words) as -1 and +1, (O, h, w, channels)."""
    return unpack(weights, channels)


def padded(numbers: np.ndarray, groups: int, fill: int = 0) -> np.ndarray:
    """A number a channel (..., O) -> (..., groups * 16 blocks), `fill` where there is no channel."""
    outputs = numbers.shape[-1] // groups
    lanes = -(-outputs // BLOCK) * BLOCK
    wide = np.full((*numbers.shape[:-1], groups, lanes), fill, numbers.dtype)
    wide[..., :outputs] = numbers.reshape(*numbers.shape[:-1], groups, outputs)
    return wide.reshape(*numbers.shape[:-1], groups * lanes)


def flips(packed: np.ndarray, outputs: int) -> np.ndarray:
    """Packed flips (words,) as 16 bits a block; groups that are fused have whole words."""
    halves = packed.astype("<u4").view("<u2").astype(np.uint16)
    return np.ascontiguousarray(halves[: -(-outputs // BLOCK)])


def flat(array: np.ndarray) -> np.ndarray:
    """The array in one dimension, C-contiguous."""
    return np.ascontiguousarray(array).reshape(-1)


class Bases:
    """What a sum over bits starts from: s = base - 2 popcount(w xor x), where padded taps hold 0 bits.

    Taps that lie inside count C - 2 popcount; padded ones nothing, -1 times or +1 times the sum of their weights.
    So base depends on which taps lie inside: classes of rows times classes of columns, one class without padding.
    """

    def __init__(
        self,
        weights: np.ndarray,
        channels: int,
        groups: int,
        padding: str,
        rows: tuple[np.ndarray, ...],
        columns: tuple[np.ndarray, ...],
    ) -> None:
        """weights: packed, (O, h, w, words). rows, columns: (first, last) taps inside of each position of a side."""
        height, width = weights.shape[1:3]
        if padding == "minus":
            rows, columns = (
                (np.zeros_like(first), np.full_like(first, n)) for (first, _), n in ((rows, height), (columns, width))
            )
        row_kinds, self.row_class = np.unique(np.stack(rows, axis=1), axis=0, return_inverse=True)
        column_kinds, self.column_class = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        lanes = groups * -(-len(weights) // groups // BLOCK) * BLOCK
        if len(row_kinds) * len(column_kinds) * lanes > LARGEST_TABLE:
            raise FormError(
                f"{len(row_kinds)} x {len(column_kinds)} classes of borders times {len(weights)} outputs in {groups} "
                f"groups, each filled up to {BLOCK}, are beyond what the native backend tabulates ({LARGEST_TABLE}); "
                "use backend='numpy'"
            )
        ones = np.bitwise_count(weights).sum(axis=-1, dtype=np.int32)  # (O, h, w)
        inside_ones, inside = _boxes(ones, row_kinds, column_kinds), _counts(row_kinds, column_kinds)[..., np.newaxis]
        outside_ones = ones.sum(axis=(1, 2), dtype=np.int32) - inside_ones
        self.of_class = channels * inside + 2 * outside_ones  # (row classes, column classes, O)
        if padding == "plus":
            self.of_class += 2 * outside_ones - channels * (height * width - inside)

    def table(self, groups: int) -> np.ndarray:
        """The bases of every group, class and lane, int32."""
        return self._by_group(padded(self.of_class, groups), groups)

    def most(self, at: np.ndarray, groups: int) -> np.ndarray:
        """The largest popcount at which s >= at; -1 where none is and for channels that are not there."""
        most = (self.of_class - np.clip(at, -FAR, FAR)) >> 1
        return self._by_group(padded(np.maximum(most, -1), groups, fill=-1), groups)

    def _by_group(self, table: np.ndarray, groups: int) -> np.ndarray:
        return flat(np.moveaxis(table.reshape(*table.shape[:2], groups, -1), 2, 0))


def inside(operation: Convolution, length: int, kernel: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the taps of each position along a side that lie inside."""
    start = np.arange(outputs, dtype=np.int64) * operation.stride - operation.padding
    first = np.clip(-(start // operation.dilation), 0, kernel)
    last = np.clip((length - 1 - start) // operation.dilation + 1, 0, kernel)
    return first, np.maximum(first, last)


def _counts(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    counts: np.ndarray = (rows[:, 1] - rows[:, 0])[:, np.newaxis] * (columns[:, 1] - columns[:, 0])
    return counts.astype(np.int32)


def _boxes(numbers: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums of numbers (O, h, w) over boxes of rows [a, b) and columns [c, d): (boxes of rows, of columns, O)."""
    total = np.zeros((numbers.shape[1] + 1, numbers.shape[2] + 1, len(numbers)), np.int32)
    total[1:, 1:] = numbers.cumsum(axis=1, dtype=np.int32).cumsum(axis=2, dtype=np.int32).transpose(1, 2, 0)
    strips = total[rows[:, 1]] - total[rows[:, 0]]
    boxes: np.ndarray = strips[:, columns[:, 1]] - strips[:, columns[:, 0]]
    return boxes


def pixel_thresholds(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x >= at[c] over pixels as x >= least[c] (uint8) and possible[c] (packed): nothing reaches 256."""
    least = np.clip(np.ceil(at.astype(np.float64)), 0, 256)
    bits = np.zeros(words(len(at)) * 32, np.uint8)
    bits[: len(at)] = least <= 255
    return np.minimum(least, 255).astype(np.uint8), packed_lanes(bits, "<u4")
