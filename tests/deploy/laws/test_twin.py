"""The twin itself, against torch in float64 on the same plain numbers: two readings of the form that share no line."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core.deploy.operations import (
    Affine,
    AveragePool,
    BinConv2d,
    BinLinear,
    F32Conv2d,
    MaxPool,
    MaxPoolBits,
)


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float64))


def channels_last(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.numpy(), 1, -1)


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 2, shape) * 2 - 1


@pytest.mark.parametrize("channels", [1, 5, 31, 32, 33, 64, 70])
def test_packed_bits_are_a_binary_number_least_significant_channel_first(channels: int, twin) -> None:
    values = signs(np.random.default_rng(channels), 3, channels)
    for row, words in zip(values, twin.pack(values), strict=True):
        number = sum(int(word) << (32 * i) for i, word in enumerate(words))
        assert number == sum(1 << c for c in range(channels) if row[c] > 0)
    assert np.array_equal(twin.unpack(twin.pack(values), channels), values)


BORDERS = {"zero": 0.0, "minus": -1.0, "plus": 1.0}


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.data())
def test_convolutions_are_those_of_torch(twin, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    taps, stride, dilation, groups = ([data.draw(st.integers(1, 3)) for _ in range(n)] for n in (2, 1, 1, 1))
    padding, pad = data.draw(st.integers(0, 4)), data.draw(st.sampled_from(sorted(BORDERS)))
    x = signs(rng, 2, 8, 7, groups[0] * 5)
    weights = signs(rng, groups[0] * 3, *taps, 5)
    options = {"stride": stride[0], "dilation": dilation[0], "groups": groups[0]}
    padded = F.pad(channels_first(x), [padding] * 4, value=BORDERS[pad])
    expected = channels_last(F.conv2d(padded, channels_first(weights), **options))
    got = twin.apply(BinConv2d(twin.pack(weights), padding=padding, pad=pad, **options), [x])
    assert np.array_equal(got, expected)
    if pad == "zero":
        real = F32Conv2d(weights.astype(np.float32), padding=padding, **options)
        assert np.array_equal(twin.apply(real, [x.astype(np.float32)]), expected)


def test_linear_maps_are_those_of_torch(twin) -> None:
    rng = np.random.default_rng(0)
    x, weights = signs(rng, 4, 3, 2, 37), signs(rng, 9, 3, 2, 37)
    expected = F.linear(torch.from_numpy(x).double().flatten(1), torch.from_numpy(weights).double().flatten(1))
    assert np.array_equal(twin.apply(BinLinear(twin.pack(weights)), [x])[:, 0, 0], expected.numpy())


@pytest.mark.parametrize("size, stride, padding", [(1, 1, 0), (2, 2, 0), (2, 3, 1), (3, 1, 1), (3, 2, 0), (4, 1, 2)])
def test_pools_are_those_of_torch(size: int, stride: int, padding: int, twin) -> None:
    x = signs(np.random.default_rng(1), 3, 7, 6, 40)
    largest = channels_last(F.max_pool2d(channels_first(x), size, stride, padding))
    smallest = -channels_last(F.max_pool2d(-channels_first(x), size, stride, padding))
    assert np.array_equal(twin.apply(MaxPool(size, stride, padding), [x]), largest)
    falling = signs(np.random.default_rng(2), 40)
    pool = MaxPoolBits(size, stride, padding, smallest=twin.pack(falling))
    assert np.array_equal(twin.apply(pool, [x]), np.where(falling > 0, smallest, largest))


@pytest.mark.parametrize("height, width", [(1, 1), (2, 2), (2, 3), (3, 1), (7, 6), (9, 9)])
def test_average_pools_are_those_of_torch(height: int, width: int, twin) -> None:
    # eighths up to 8: sums are exact, and of quotients both sides round one
    x = (np.random.default_rng(3).integers(-64, 65, (2, 7, 6, 5)) / 8).astype(np.float32)
    image = channels_first(x).float()
    sums = F.avg_pool2d(image, (height, width), ceil_mode=True, divisor_override=1)
    counts = F.avg_pool2d(torch.ones_like(image), (height, width), ceil_mode=True, divisor_override=1)
    assert np.array_equal(twin.apply(AveragePool(height, width), [x]), channels_last(sums / counts))


def test_affine_rounds_twice(twin) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-(2**20), 2**20, (50, 1, 1, 100))
    scale, bias = rng.standard_normal((2, 100)).astype(np.float32)
    product, both = torch.from_numpy(x).float() * torch.from_numpy(scale), torch.from_numpy(bias)
    got = twin.apply(Affine(scale, bias), [x])
    assert np.array_equal(got, (product + both).numpy())
    fused = (x.astype(np.float64) * scale + bias).astype(np.float32)
    assert (got != fused).mean() > 0.05, "the data would not tell a fused multiply-add"
