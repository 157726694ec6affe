"""A twin of packed networks that owes them nothing: numbers, not bits, in float64, tap by tap; and all who must agree.

The twin is written from what the operations promise. Bits are arrays of -1 and +1; sums are float64 products of whole
numbers (or of dyadic fractions) far below 2^53, so exact.
"""

import operator
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from core import extension
from core.deploy import native, reference
from core.deploy.cuda.backend import Executor as CudaExecutor
from core.deploy.cuda.host import HostLauncher, built
from core.deploy.cuda.launcher import DeviceError
from core.deploy.form import Graph, Value
from core.deploy.operations import OPERATIONS

FREE_ZERO = {"F32BinLinear", "F32Linear", "F32BinConv2d", "F32Conv2d", "AveragePool"}  # make zeros of either sign


class Twin:
    """The operations of a packed network on plain numbers."""

    @staticmethod
    def pack(values: np.ndarray) -> np.ndarray:
        """-1/+1 (..., C) -> uint32 (..., ceil(C / 32)): channel c is bit c % 32 of word c // 32."""
        short = -values.shape[-1] % 32
        plus = np.pad(values > 0, [(0, 0)] * (values.ndim - 1) + [(0, short)])
        by_word = plus.reshape(*values.shape[:-1], (values.shape[-1] + short) // 32, 32)
        return (by_word * 2 ** np.arange(32, dtype=np.uint64)).sum(-1).astype(np.uint32)

    @staticmethod
    def unpack(bits: np.ndarray, channels: int) -> np.ndarray:
        """The inverse of `pack`, int64."""
        plus = bits[..., None] >> np.arange(32, dtype=np.uint32) & 1
        return 2 * plus.reshape(*bits.shape[:-1], 32 * bits.shape[-1])[..., :channels].astype(np.int64) - 1

    @staticmethod
    def seen(x: np.ndarray, value: Value) -> np.ndarray:
        """Raw inputs (B, ...) as nodes see them: images turned to channels last, vectors in the raw order."""
        height, width, channels = value.shape
        if (height, width) == (1, 1):
            return x.reshape(len(x), 1, 1, channels)
        return np.moveaxis(x.reshape(len(x), channels, height, width), 1, -1)

    @staticmethod
    def run(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
        """Every value by name, unpacked: -1/+1, whole numbers as int64, float32."""
        made = {"input": Twin.seen(x, graph.input.value)}
        for node in graph.nodes:
            made[node.name] = Twin.apply(node.operation, [made[name] for name in node.inputs])
        return made

    @staticmethod
    def apply(operation, inputs: list[np.ndarray]) -> np.ndarray:
        """What one operation makes of unpacked inputs."""
        return getattr(Twin, f"_{type(operation).__name__.lower()}")(operation, *inputs)

    @staticmethod
    def packed(array: np.ndarray, value: Value) -> np.ndarray:
        """An unpacked value as backends hold it."""
        kinds = {"i32": np.int32, "u8": np.uint8, "f32": np.float32}
        return Twin.pack(array) if value.kind == "bits" else array.astype(kinds[value.kind])

    @staticmethod
    def free_zeros(graph: Graph) -> set[str]:
        """Names of the float32 values in which a zero may have either sign."""
        free: set[str] = set()
        for node, _, made in graph.steps():
            kind = type(node.operation).__name__
            if kind in FREE_ZERO or (kind == "MaxPool" and made.kind == "f32") or free & set(node.inputs):
                free.add(node.name)
        return free

    # ------------------------------------------------------------------ sums

    @staticmethod
    def _weights(operation, channels: int) -> np.ndarray:
        weights = operation.weights
        return Twin.unpack(weights, channels) if operation.packed else weights.astype(np.float64)

    @staticmethod
    def _linear(operation, x):
        flat = x.reshape(len(x), x.shape[1] * x.shape[2] * x.shape[3]).astype(np.float64)
        weights = Twin._weights(operation, x.shape[-1])
        return (flat @ weights.reshape(len(weights), -1).T.astype(np.float64))[:, None, None, :]

    @staticmethod
    def _convolution(operation, x, border):
        n_out, taps_high, taps_wide = operation.weights.shape[:3]
        groups, stride, dilation, p = operation.groups, operation.stride, operation.dilation, operation.padding
        batch, height, width, channels = x.shape
        weights = Twin._weights(operation, channels // groups)
        padded = np.full((batch, height + 2 * p, width + 2 * p, channels), float(border))
        padded[:, p : p + height, p : p + width] = x
        high = (height + 2 * p - dilation * (taps_high - 1) - 1) // stride + 1
        wide = (width + 2 * p - dilation * (taps_wide - 1) - 1) // stride + 1
        sums = np.zeros((batch, high, wide, n_out))
        fan_in, fan_out = channels // groups, n_out // groups
        for i in range(taps_high):
            for j in range(taps_wide):
                rows = slice(i * dilation, i * dilation + stride * (high - 1) + 1, stride)
                columns = slice(j * dilation, j * dilation + stride * (wide - 1) + 1, stride)
                met = padded[:, rows, columns]
                for g in range(groups):
                    mine = weights[g * fan_out : (g + 1) * fan_out, i, j].astype(np.float64)
                    taken = met[..., g * fan_in : (g + 1) * fan_in]
                    sums[..., g * fan_out : (g + 1) * fan_out] += taken @ mine.T
        return sums

    @staticmethod
    def _whole(sums):
        assert (np.abs(sums) < 2**31).all() and (sums == np.rint(sums)).all()
        return sums.astype(np.int64)

    @staticmethod
    def _binlinear(operation, x):
        return Twin._whole(Twin._linear(operation, x))

    _intlinear = _binlinear

    @staticmethod
    def _binconv2d(operation, x):
        border = {"zero": 0, "minus": -1, "plus": 1}[operation.pad]
        return Twin._whole(Twin._convolution(operation, x, border))

    @staticmethod
    def _intconv2d(operation, x):
        return Twin._whole(Twin._convolution(operation, x, 0))

    @staticmethod
    def _f32linear(operation, x):
        return Twin._linear(operation, x).astype(np.float32)

    _f32binlinear = _f32linear

    @staticmethod
    def _f32conv2d(operation, x):
        return Twin._convolution(operation, x, 0).astype(np.float32)

    _f32binconv2d = _f32conv2d

    # ------------------------------------------------------------------ entry by entry

    @staticmethod
    def _binarize(operation, x):
        return np.where(x.astype(np.float32) >= operation.at, 1, -1)

    @staticmethod
    def _threshold(operation, s):
        flip = Twin.unpack(operation.flip, s.shape[-1]) > 0
        return np.where((s >= operation.at.astype(np.int64)) != flip, 1, -1)

    @staticmethod
    def _affine(operation, x):
        product = x.astype(np.float32) * operation.scale  # rounded here
        return product + operation.bias  # and here

    @staticmethod
    def _tof32(operation, x):
        return x.astype(np.float32)

    @staticmethod
    def _relu(operation, x):
        return np.where(x <= 0, np.float32(0), x)  # nan is no less than 0, and stays

    @staticmethod
    def _hardtanh(operation, x):
        return np.where(x > 1, np.float32(1), np.where(x < -1, np.float32(-1), x))

    @staticmethod
    def _add(operation, a, b):
        return a + b

    @staticmethod
    def _concat(operation, *parts):
        return np.concatenate(parts, -1)

    @staticmethod
    def _flatten(operation, x):
        return x.reshape(len(x), 1, 1, x.shape[1] * x.shape[2] * x.shape[3])

    @staticmethod
    def _argmax(operation, x):
        best = np.zeros(x.shape[:-1], np.int64)
        for c in range(x.shape[-1]):  # first of ties: only a larger one takes over
            better = x[..., c] > np.take_along_axis(x, best[..., None], -1)[..., 0]
            best = np.where(better, c, best)
        return best[..., None]

    # ------------------------------------------------------------------ windows

    @staticmethod
    def _windows(operation, x, reduction: Callable) -> np.ndarray:
        """The reduction of what lies inside the image of each window, window by window."""
        size, stride, p = operation.size, operation.stride, operation.padding
        high, wide = ((n + 2 * p - size) // stride + 1 for n in x.shape[1:3])
        pooled = np.empty((len(x), high, wide, x.shape[-1]), x.dtype)
        for i in range(high):
            for j in range(wide):
                top, left = i * stride - p, j * stride - p
                inside = x[:, max(0, top) : top + size, max(0, left) : left + size]
                pooled[:, i, j] = reduction(inside)
        return pooled

    @staticmethod
    def _maxpool(operation, x):
        return Twin._windows(operation, x, lambda inside: inside.max((1, 2)))

    @staticmethod
    def _maxpoolbits(operation, x):
        both = Twin.unpack(operation.smallest, x.shape[-1]) > 0
        return Twin._windows(operation, x, lambda inside: np.where(both, inside.min((1, 2)), inside.max((1, 2))))

    @staticmethod
    def _averagepool(operation, x):
        high, wide = -(-x.shape[1] // operation.height), -(-x.shape[2] // operation.width)
        pooled = np.empty((len(x), high, wide, x.shape[-1]), np.float32)
        for i in range(high):
            for j in range(wide):
                rows = x[:, i * operation.height : (i + 1) * operation.height]
                inside = rows[:, :, j * operation.width : (j + 1) * operation.width]
                entries = [inside[:, r, c] for r in range(inside.shape[1]) for c in range(inside.shape[2])]
                pooled[:, i, j] = reduce(operator.add, entries) / np.float32(len(entries))
        return pooled


assert all(hasattr(Twin, f"_{name.lower()}") for name in OPERATIONS), "an operation without a twin"


def _on_the_cpu() -> dict[str, Callable]:
    made: dict[str, Callable] = {"numpy": reference.Executor}
    for level in native.levels() if extension.module() is not None else ():
        made[f"native-{level}"] = lambda graph, level=level: native.Executor(graph, level=level)
    return made


def _emulated(folder: Path, major: int) -> dict[str, Callable]:
    """The CUDA kernels compiled for this CPU, as a device of this capability runs them; none without a compiler."""
    try:
        launcher = HostLauncher(built(folder), capability=(major, 0))
    except DeviceError:
        return {}  # tests/deploy/cuda says why
    return {f"cuda-{major}.0": lambda graph: CudaExecutor(graph, launcher=launcher)}


@pytest.fixture(scope="session")
def twin() -> type[Twin]:
    return Twin


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Callable]]:
    """Emulated devices by capability: 9 sums bits on tensor cores, 12 has none for them."""
    folder = tmp_path_factory.getbasetemp().parent / "cuda-on-the-host"
    folder.mkdir(exist_ok=True)
    return lambda major: _emulated(folder, major)


@pytest.fixture(scope="session")
def backends(emulated) -> dict[str, Callable]:
    """Graph -> executor, of every backend and CPU level that this machine has; of devices, one. NumPy always."""
    return _on_the_cpu() | emulated(9)
