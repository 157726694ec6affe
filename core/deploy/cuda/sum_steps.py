"""Linear layers and convolutions as calls of kernels: weights laid out, bases of border classes, the kernel chosen.

Kernels read a tap on the padding as zeros. Let a weight vector of K bits have n of them on padded taps, q of those set.
The sum over bits is base - 2 popcount(x xor w), with base = K - n + 2 q for padded taps that add nothing, K for taps of
-1, and K - 2 n + 4 q for taps of +1; and for tensor cores base - 2 popcount(w) - 2 popcount(x) + 4 popcount(x and w).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np

from core.deploy.cuda.steps import SumStep
from core.deploy.form import FormError, Node, Operation, Value, words
from core.deploy.operations import Affine, Threshold
from core.deploy.packing import unpack_bits
from core.deploy.sums import BinConv2d, BinLinear, Convolution, Linear

Sums = Literal["auto", "tile", "mma"]
SUMS_BY: tuple[Sums, ...] = get_args(Sums)
FOLLOWS = {Affine: 1, Threshold: 2}  # the enum of sums.h; 0 is the sums themselves
KINDS = {"Bin": "bits", "Int": "bytes", "F32Bin": "signs", "F32": "reals"}
LEAST_MMA_OUTPUTS = 33  # a group of 32 fills a quarter of the tensor cores' tile, and a half of the other
MOST_FEW_ROWS = 8
MOST_GROUPS = 65535  # blocks of a grid's third side


def sum_step(
    node: Node,
    value: Value,
    made: Value,
    follows: Operation | None,
    output: str,
    source: str,
    *,
    sums: Sums,
    tensor_cores: bool,
) -> SumStep:
    """The call that makes `output` of `source`: the sums of `node`, and `follows` after them."""
    operation = node.operation
    assert isinstance(operation, Linear | Convolution)
    kind = KINDS[type(operation).__name__.removesuffix("Linear").removesuffix("Conv2d")]
    numbers = _linear(kind, operation, value) if isinstance(operation, Linear) else _conv(kind, operation, value, made)
    channels = value.channels // (1 if isinstance(operation, Linear) else operation.groups)
    constants = {"weights": _weights(kind, operation, channels)} | _followed(follows)
    if isinstance(operation, BinConv2d):
        constants |= _bases(operation, value, made)
    elif isinstance(operation, BinLinear):
        constants |= _linear_bases(operation, value)
    numbers |= {"pitch": constants["weights"].shape[-1], "follows": FOLLOWS[type(follows)] if follows else 0}
    rows = 1 if isinstance(operation, Linear) else made.shape[0] * made.shape[1]
    choose = _chooser(kind, isinstance(operation, Linear), numbers, sums=sums, tensor_cores=tensor_cores)
    return SumStep(output, (source,), constants, numbers, rows, choose)


def _chooser(
    kind: str, linear: bool, numbers: Mapping[str, int], *, sums: Sums, tensor_cores: bool
) -> Callable[[int], str]:
    shape = "linear" if linear else "conv"
    if kind != "bits":
        return lambda rows: f"{kind}_{shape}_tile"
    chunks = all(numbers.get(name, 0) % 4 == 0 for name in ("pixel", "group_units", "tap_units"))
    mma = f"bits_{shape}_mma{16 if chunks else 4}"
    large = mma if tensor_cores and numbers["outputs"] >= LEAST_MMA_OUTPUTS else f"bits_{shape}_tile"
    if sums != "auto":
        large = mma if sums == "mma" else f"bits_{shape}_tile"
    few = linear and sums == "auto"
    return lambda rows: f"bits_linear_few{_power(rows)}" if few and rows <= MOST_FEW_ROWS else large


def _power(rows: int) -> int:
    """The least of 1, 2, 4, 8 that is not below `rows`."""
    return 1 << (rows - 1).bit_length()


def _units(kind: str, channels: int) -> int:
    return words(channels) if kind == "bits" else channels


def _linear(kind: str, operation: Linear, value: Value) -> dict[str, int]:
    height, width, channels = value.shape
    pixel = height * width * _units(kind, channels)
    return {
        "outputs": operation.weights.shape[0],
        "groups": 1,
        "depth": pixel,
        "pixel": pixel,
        "tap_units": channels if kind == "signs" else pixel,  # weights of signs begin a word with every pixel
    }


def _conv(kind: str, operation: Convolution, value: Value, made: Value) -> dict[str, int]:
    height, width, channels = value.shape
    n_out, kernel_height, kernel_width = operation.weights.shape[:3]
    groups = operation.groups
    if groups > MOST_GROUPS:
        raise FormError(f"the GPU backend runs at most {MOST_GROUPS} groups (got {groups}); use backend='native'")
    group_units = _units(kind, channels // groups)
    return {
        "outputs": n_out // groups,
        "groups": groups,
        "depth": kernel_height * kernel_width * group_units,
        "tap_units": group_units,
        "height": height,
        "width": width,
        "pixel": groups * group_units,
        "group_units": group_units,
        "out_height": made.shape[0],
        "out_width": made.shape[1],
        "kernel_width": kernel_width,
        "stride": operation.stride,
        "dilation": operation.dilation,
        "padding": operation.padding,
    }


def _weights(kind: str, operation: Linear | Convolution, channels: int) -> np.ndarray:
    """(outputs, units): vectors of whole chunks of 16 bytes, filled up with zeros. Weights of bytes are 0 and 1."""
    weights, n_out = operation.weights, operation.weights.shape[0]
    if kind == "bytes":
        octets = unpack_bits(weights, channels).reshape(n_out, -1).view(np.uint8)
        units = np.pad(octets, ((0, 0), (0, -octets.shape[1] % 16))).view(np.uint32)
    else:
        flat = np.ascontiguousarray(weights).reshape(n_out, -1).view(np.uint32)
        units = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))
    return units


def _followed(follows: Operation | None) -> dict[str, np.ndarray]:
    if isinstance(follows, Threshold):
        return {"at": follows.at, "flip": follows.flip}
    return {"scale": follows.scale, "bias": follows.bias} if isinstance(follows, Affine) else {}


def _linear_bases(operation: BinLinear, value: Value) -> dict[str, np.ndarray]:
    depth = value.shape[0] * value.shape[1] * value.channels
    set_bits = np.bitwise_count(operation.weights).sum(axis=(1, 2, 3), dtype=np.int64)
    base = np.full_like(set_bits, depth)
    return _both(base, set_bits)


def _bases(operation: BinConv2d, value: Value, made: Value) -> dict[str, np.ndarray]:
    """Bases (classes, outputs) of both forms, and the class of each row and column of outputs."""
    set_bits = np.bitwise_count(operation.weights).sum(axis=3, dtype=np.int64)  # (O, h, w)
    tap = value.channels // operation.groups
    rows, row_class = _classes(operation, value.shape[0], made.shape[0], operation.weights.shape[1])
    columns, column_class = _classes(operation, value.shape[1], made.shape[1], operation.weights.shape[2])
    padded = ~(rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, *set_bits.shape[1:])  # (classes, h, w)
    missing = padded.sum(axis=(1, 2), dtype=np.int64)[:, None] * tap
    on_padding = np.einsum("khw,ohw->ko", padded.astype(np.int64), set_bits)
    times = {"minus": 0, "zero": 1, "plus": 2}[operation.pad]
    base = set_bits[0].size * tap - times * missing + 2 * times * on_padding
    classes = {"row_class": row_class * np.int32(len(columns)), "column_class": column_class}
    return _both(base, set_bits.sum(axis=(1, 2))) | classes


def _classes(operation: Convolution, length: int, outputs: int, kernel: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct sets of taps inside, (classes, kernel) of bool, and the class of each output along one side."""
    first = np.arange(outputs) * operation.stride - operation.padding
    places = first[:, None] + np.arange(kernel) * operation.dilation
    inside, classes = np.unique((places >= 0) & (places < length), axis=0, return_inverse=True)
    return inside, classes.reshape(-1).astype(np.int32)


def _both(base: np.ndarray, set_bits: np.ndarray) -> dict[str, np.ndarray]:
    return {"base_xor": base.astype(np.int32), "base_and": (base - 2 * set_bits).astype(np.int32)}
