"""Integer thresholds against brute force: every reachable sum, through the layers' own float32 code."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.contractions import Dense, Pixels
from core.deploy.export import ExportError
from core.deploy.export.stream import Pooled, Reach, Scaled, Step
from core.deploy.export.thresholds import cut
from core.interface import Reading, Rng
from core.layers import BatchNorm
from core.ops import StraightThrough, sign
from core.readings import Fixed, SignActivation
from core.spatial import ChannelScale
from core.statistics import Evaluation, Moments2, Statistics

CHANNELS = 2000


@pytest.mark.parametrize("fan_in", [784, 2048, 4608])
def test_threshold_is_exact_at_every_reachable_sum(fan_in: int) -> None:
    steps = [batch_norm(fan_in, Rng().manual_seed(fan_in))]
    assert mismatches(steps, symmetric(fan_in)) == 0


@pytest.mark.parametrize("fan_in", [784, 2048, 4608])
def test_closed_form_is_wrong_somewhere(fan_in: int) -> None:
    # why export bisects: h * scale + bias >= 0 is not h >= -bias / scale once each step is rounded
    step = batch_norm(fan_in, Rng().manual_seed(fan_in))
    closed = -step.bias / step.scale
    sums = torch.arange(-fan_in, fan_in + 1, dtype=torch.float32)[:, None]
    wrong = (step.apply(sums.expand(-1, CHANNELS)) >= 0) != (sums >= closed)
    assert wrong[:, step.scale > 0].any()


@pytest.mark.parametrize("pooled", [False, True])
def test_runs_of_scales_of_either_sign_are_exact(pooled: bool) -> None:
    rng = Rng().manual_seed(3)
    fan_in = 300
    steps: list[Step] = [scale(rng), batch_norm(fan_in, rng), scale(rng)]
    if pooled:
        steps.insert(1, Pooled("pool", 2))
    assert mismatches([s for s in steps if isinstance(s, Scaled)], symmetric(fan_in)) == 0


def test_pixels_through_normalisation_scale_and_batch_norm_are_exact() -> None:
    rng = Rng().manual_seed(4)
    fan_in = 25
    weights = sign(torch.randn(CHANNELS, fan_in, generator=rng))
    pixels = Pixels(Dense(), torch.tensor(33.3184), torch.tensor(1 / 78.5675))
    first = Scaled(
        "layers.0.normalised",
        pixels.inverse_scale.expand(CHANNELS),
        pixels.offset(weights),
        lambda h: pixels.of_sums(h, weights),
    )
    positive = (weights > 0).sum(1).numpy().astype(np.int64)
    reach = Reach(-255 * (fan_in - positive), 255 * positive)
    norm = batch_norm(1, rng, spread=40.0)
    assert mismatches([first, norm], reach) == 0


@pytest.mark.parametrize("gain", [0.0, -0.0])
@pytest.mark.parametrize("bias", [-1.0, -0.0, 0.0, 1.0])
def test_gain_of_zero_is_all_or_nothing(gain: float, bias: float) -> None:
    step = scaled("norm", torch.full((3,), gain), torch.full((3,), bias))
    found = cut("sign", [step], symmetric(9, channels=3))
    np.testing.assert_array_equal(found.flip, False)
    np.testing.assert_array_equal(found.at, -9 if bias >= 0 else 10)  # sign(-0.0) = +1


@pytest.mark.parametrize("gain", [2.0, -2.0])
def test_ties_are_plus_one(gain: float) -> None:
    # 2 s - 6 is exactly 0 at s = 3: rising, +1 from 3 on; falling, +1 up to -3
    found = cut("sign", [scaled("norm", torch.tensor([gain]), torch.tensor([-6.0]))], symmetric(9, channels=1))
    bits = [(s >= found.at[0]) != found.flip[0] for s in range(-9, 10)]
    assert bits == [gain * s - 6 >= 0 for s in range(-9, 10)]


@pytest.mark.parametrize("bias", [-1e6, 1e6])
@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_thresholds_out_of_reach_stay_at_its_ends(gain: float, bias: float) -> None:
    found = cut("sign", [scaled("norm", torch.tensor([gain]), torch.tensor([bias]))], symmetric(9, channels=1))
    assert -9 <= found.at[0] <= 10
    assert all(((s >= found.at[0]) != found.flip[0]) == (bias > 0) for s in range(-9, 10))


def test_denormal_scales_are_exact() -> None:
    rng = Rng().manual_seed(5)
    tiny = torch.randn(CHANNELS, generator=rng) * 1e-40
    step = scaled("norm", tiny, torch.randn(CHANNELS, generator=rng) * 1e-39)
    assert mismatches([step], symmetric(60)) == 0


@given(
    st.lists(st.tuples(st.sampled_from([-3.0, -1e-30, -0.0, 0.0, 0.3, 1.0]), st.floats(-9, 9, width=32)), max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(0, 2**31),
)
def test_poolings_anywhere_are_ands_and_ors_of_bits(
    affine: list[tuple[float, float]], pool_after: list[bool], seed: int
) -> None:
    """Largest of a window at any place of the run: on bits it is *or*, or *and* where what follows falls."""
    steps: list[Step] = []
    for (gain, bias), pool in zip(affine, pool_after, strict=False):
        steps.append(scaled("norm", torch.tensor([gain]), torch.tensor([bias])))
        steps += [Pooled("pool", 2)] if pool else []
    sums = torch.randint(-9, 10, (64, 1, 16, 16), generator=Rng().manual_seed(seed)).float()
    expected = sums
    for step in steps:
        expected = torch.max_pool2d(expected, 2) if isinstance(step, Pooled) else affine_images(step, expected)
    found = cut("sign", steps, symmetric(9, channels=1))
    bits = (sums.numpy() >= found.at[0]) != found.flip[0]
    for smallest in found.smallest:
        windows = [bits[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        bits = (np.logical_and if smallest[0] else np.logical_or).reduce(windows)
    np.testing.assert_array_equal(bits, (expected >= 0).numpy())


@pytest.mark.parametrize("scale_, bias", [(3e38, 0.0), (1.0, float("inf")), (float("nan"), 0.0)])
def test_numbers_that_leave_float32_are_refused_by_layer(scale_: float, bias: float) -> None:
    steps = [scaled("layers.7", torch.tensor([1.0, scale_]), torch.tensor([0.0, bias]))]
    with pytest.raises(ExportError, match=r"layers\.7: what it makes of the sum -?9 must be finite"):
        cut("layers.8", steps, symmetric(9, channels=2))


def test_what_is_not_monotone_is_refused() -> None:
    square = Scaled("layers.7", torch.ones(1), torch.zeros(1), lambda h: h * h - 4)
    with pytest.raises(ExportError, match=r"layers\.8: the sign of channel 0 is no threshold"):
        cut("layers.8", [square], symmetric(9, channels=1))


def mismatches(steps: Sequence[Scaled], reach: Reach) -> int:
    """Over every reachable sum of every channel."""
    found = cut("sign", steps, reach)
    wrong = 0
    for block in np.array_split(np.arange(reach.least.min(), reach.most.max() + 1), 40):
        sums = np.clip(block[:, None], *reach)
        h = torch.from_numpy(sums).float()
        for step in steps:
            h = step.apply(h)
        wrong += int(((h >= 0).numpy() != ((sums >= found.at) != found.flip)).sum())
    return wrong


def symmetric(fan_in: int, channels: int = CHANNELS) -> Reach:
    return Reach(np.full(channels, -fan_in, np.int64), np.full(channels, fan_in, np.int64))


def scaled(name: str, gain: Tensor, bias: Tensor) -> Scaled:
    return Scaled(name, gain, bias, lambda h: torch.add(torch.mul(h, gain), bias))


def affine_images(step: Scaled, h: Tensor) -> Tensor:
    return torch.add(torch.mul(h, step.scale[:, None, None]), step.bias[:, None, None])


def batch_norm(fan_in: int, rng: Rng, *, spread: float | None = None) -> Scaled:
    """The layer itself, with means and variances as sums of `fan_in` signs have them, gains of both signs and 0."""
    norm = BatchNorm(CHANNELS, affine=True, eps=1e-4, momentum=0.1)
    norm.name = "layers.1"
    deviation = fan_in**0.5 if spread is None else spread
    mean = torch.randn(CHANNELS, generator=rng, dtype=torch.float64) * deviation
    variance = torch.rand(CHANNELS, generator=rng, dtype=torch.float64) * deviation**2
    with torch.no_grad():
        norm.weight.normal_(generator=rng)
        norm.weight[::100] = 0.0
        norm.bias.normal_(generator=rng)
        norm.bias[::7] = 0.0
        mean[::3] = mean[::3].round()  # with a bias of 0, ties where the sum is the mean
    count = 10_000
    statistics = Statistics({"layers.1": Moments2(count, mean, variance * (count - 1), torch.zeros_like(mean))})
    reading = Reading(Fixed({}), SignActivation(StraightThrough()), Evaluation(statistics))
    gain, bias = statistics.affine("layers.1", norm)
    return Scaled("layers.1", gain, bias, lambda h: norm(h, reading, Rng()).detach())


def scale(rng: Rng) -> Scaled:
    layer = ChannelScale(CHANNELS)
    with torch.no_grad():
        layer.scale.normal_(generator=rng)
        layer.scale[::50] = 0.0
    reading = Reading(Fixed({}), SignActivation(StraightThrough()))
    nothing = torch.full((CHANNELS,), -0.0)
    return Scaled("scale", layer.scale.detach(), nothing, lambda h: layer(h, reading, Rng()).detach())
