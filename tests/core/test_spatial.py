"""Layers over images: moments by enumeration of every weight, pools by hand, one fork per sum, exact pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from core.architectures import InputForm, build
from core.interface import Gaussian, Reading, Tape, UnsupportedReading, WeightLaw
from core.laws import Bernoulli, Point, Real
from core.layers import Chain
from core.moments import Moments, PropagatedSign, StochasticSign
from core.ops import StraightThrough, sign
from core.readings import Draw, SignActivation, mode_weights
from core.seeds import generator
from core.spatial import (
    AveragePool,
    BinaryConv2d,
    ChannelScale,
    Flatten,
    InputConv2d,
    MaxPool,
    Residual,
    added,
)
from core.statistics import Evaluation, Statistics, Training

F64 = torch.float64
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MOMENTS = Reading(Moments(), StochasticSign())
PROPAGATED = Reading(Moments(), PropagatedSign())
DRAWN = Reading(Draw(StraightThrough()), SignActivation(StraightThrough()))
EVALUATION = DRAWN.during(Evaluation(Statistics()))
SHAPES = [  # stride, padding, groups, weights (O, I / groups, h, w), image (I, H, W)
    (1, 1, 1, (1, 1, 3, 3), (1, 3, 4)),
    (2, 1, 1, (2, 1, 2, 2), (1, 4, 3)),
    (1, 1, 2, (2, 2, 1, 2), (4, 2, 3)),
    (3, 2, 2, (4, 1, 1, 2), (2, 4, 4)),
    (1, 0, 1, (1, 3, 2, 2), (3, 3, 3)),
]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"stride{s[0]}-padding{s[1]}-groups{s[2]}")


def normal(*shape: int, part: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=generator("spatial", part, *shape), dtype=F64)


def gaussian(*shape: int, part: str = "x") -> Gaussian:
    return Gaussian(normal(*shape, part=part), normal(*shape, part=f"{part} spread").square())


def coins(*shape: int, part: str = "natural") -> Bernoulli:
    return Bernoulli(0.7 * normal(*shape, part=part))


def every_pattern(n: int) -> torch.Tensor:
    """(2^n, n) signs."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)), dtype=F64)


def probabilities(patterns: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Of each row of independent signs with these means."""
    return ((1 + patterns * mean.flatten()) / 2).prod(1)


def enumerated(law: WeightLaw) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every weight tensor of the law with its probability."""
    patterns = every_pattern(law.shape.numel())
    yield from zip(patterns.reshape(-1, *law.shape), probabilities(patterns, law.mean().detach()), strict=True)


def expected(values: torch.Tensor, p: torch.Tensor) -> Gaussian:
    """Mean and variance over dimension 0 under probabilities p."""
    weight = p.reshape(-1, *[1] * (values.ndim - 1))
    mean = (weight * values).sum(0)
    return Gaussian(mean, (weight * (values - mean) ** 2).sum(0))


def close(got: Gaussian, want: Gaussian, atol: float = 1e-11) -> None:
    """To the rounding of sums of at most 4096 terms below 10: 4096 * 10 * 2^-53 = 5e-12."""
    torch.testing.assert_close(got.mean, want.mean, rtol=0, atol=atol)
    torch.testing.assert_close(got.variance, want.variance, rtol=0, atol=atol)


# --------------------------------------------------------------------------------------------------- convolutions


@EVERY_SHAPE
@pytest.mark.parametrize("signs", [False, True])
def test_moments_of_a_convolution_are_those_of_all_its_weights(shape, signs):
    stride, padding, groups, weights, image = shape
    layer = BinaryConv2d(coins(*weights), stride=stride, padding=padding, groups=groups, signs=signs)
    x = normal(2, *image)
    x = sign(x) if signs else x
    outputs, p = [], []
    for weight, probability in enumerated(layer.law):
        outputs.append(F.conv2d(x, weight, stride=stride, padding=padding, groups=groups))
        p.append(probability)
    close(layer(x, MOMENTS, generator("unused")), expected(torch.stack(outputs), torch.stack(p)))


@pytest.mark.parametrize("shape", [(1, 1, 1, (1, 1, 2, 2), (1, 2, 2)), (2, 1, 2, (2, 1, 1, 2), (2, 2, 2))], ids=str)
def test_moments_of_random_signs_through_random_weights_are_those_of_all_pairs(shape):
    stride, padding, groups, weights, image = shape
    layer = BinaryConv2d(coins(*weights), stride=stride, padding=padding, groups=groups)
    mean = torch.tanh(normal(*image, part="signal"))
    inputs = every_pattern(mean.numel())
    outputs, p = [], []
    for weight, probability in enumerated(layer.law):
        outputs.append(F.conv2d(inputs.reshape(-1, *image), weight, stride=stride, padding=padding, groups=groups))
        p.append(probability * probabilities(inputs, mean))
    x = Gaussian(mean[None], (1 - mean**2)[None])
    close(layer(x, PROPAGATED, generator("unused")).map(lambda m: m[0]), expected(torch.cat(outputs), torch.cat(p)))


def test_border_variances_count_valid_taps_only():
    layer = BinaryConv2d(Bernoulli(torch.zeros(1, 2, 3, 3, dtype=F64)), padding=1, signs=True)
    variance = layer(sign(normal(3, 2, 4, 4)), MOMENTS, generator("unused")).variance
    by_hand = torch.tensor([[8, 12, 12, 8], [12, 18, 18, 12], [12, 18, 18, 12], [8, 12, 12, 8]], dtype=F64)
    assert torch.equal(variance, by_hand.expand(3, 1, 4, 4))


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_certain_weights_give_the_binary_convolution_bit_for_bit(signs, dtype):
    # tanh(30) = 1 in both dtypes; sums of whole numbers below 2^24 are exact, so the order of terms is no matter
    law = Bernoulli(30 * sign(normal(4, 2, 3, 3)).to(dtype))
    x = sign(normal(3, 4, 5, 5)).to(dtype)
    layer = BinaryConv2d(law, stride=2, padding=1, groups=2, signs=signs)
    out = layer(x, MOMENTS, generator("unused"))
    assert torch.equal(out.mean, F.conv2d(x, law.mode().detach(), stride=2, padding=1, groups=2))
    # sech^2(30) = 4 exp(-60) = 3.5e-26 a tap is all the doubt that is left
    assert out.variance.max() < 18 * 4e-26


def test_a_draw_of_a_convolution_is_a_leaf_with_the_gradient_of_that_convolution():
    layer, x, tape = BinaryConv2d(coins(2, 1, 3, 3), padding=1), normal(2, 1, 4, 4), Tape()
    out = layer(x, DRAWN.during(Training(), tape), generator("draw"))
    (drawn,) = tape.drawn
    out.square().sum().backward()
    weights = drawn.weights.detach().clone().requires_grad_()
    F.conv2d(x, weights, padding=1).square().sum().backward()
    assert set(weights.unique().tolist()) <= {-1.0, 1.0}
    torch.testing.assert_close(drawn.weights.grad, weights.grad, rtol=1e-12, atol=1e-12)


def test_moments_of_a_padded_strided_grouped_convolution_pass_gradcheck():
    layer = BinaryConv2d(coins(2, 1, 2, 2), stride=2, padding=1, groups=2)

    def moments(natural: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = Gaussian(mean, spread.square())
        out = functional_call(layer, {"law.natural": natural}, (x, PROPAGATED, generator("unused")))
        return out.mean, out.variance

    natural = layer.law.natural.detach()
    inputs = [v.clone().requires_grad_() for v in (natural, normal(1, 2, 3, 3), normal(1, 2, 3, 3, part="spread"))]
    assert torch.autograd.gradcheck(moments, inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryConv2d(coins(2, 3)), r"a convolution needs weights \(O, I / groups, h, w\), not \(2, 3\)"),
        (lambda: BinaryConv2d(coins(2, 3, 1, 1), stride=0), r"stride must be >= 1 \(got 0\)"),
        (lambda: BinaryConv2d(coins(2, 3, 1, 1), padding=-1), r"padding must be >= 0 \(got -1\)"),
        (lambda: BinaryConv2d(coins(3, 3, 1, 1), groups=2), r"groups must divide the 3 output channels \(got 2\)"),
        (lambda: BinaryConv2d(coins(3, 3, 1, 1), groups=0), r"groups must be >= 1 \(got 0\)"),
        (lambda: MaxPool(0), r"pool size must be >= 1 \(got 0\)"),
        (lambda: AveragePool((2, 0)), r"pool size must be >= 1 \(got 0\)"),
        (lambda: pixels_layer(coins(2, 3, 1, 1)), r"weights \(2, 3, 1, 1\) do not fit images of shape \(2, 6, 5\)"),
        (lambda: pixels_layer(coins(2, 2, 1, 1), scale=0.0), r"scale must be finite and > 0 \(got 0.0\)"),
        (lambda: pixels_layer(coins(2, 2, 3, 3), maximum=1e6), r"18 inputs up to 1000000.0 can sum to .* beyond 2\^24"),
    ],
)
def test_an_impossible_layer_is_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------------------------------------------- first layer


def pixels_layer(law: WeightLaw, *, dropout: float = 0.0, **options) -> InputConv2d:
    given = {"shape": (2, 6, 5), "padding": 1, "shift": 100.0, "scale": 50.0, "maximum": 255.0, **options}
    return InputConv2d(law, dropout=dropout, **given)


def images(batch: int = 3, shape: tuple[int, ...] = (2, 6, 5)) -> torch.Tensor:
    return torch.randint(0, 256, (batch, *shape), generator=generator("images", *shape)).float()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
def test_outside_training_pixels_are_summed_exactly_then_normalised_by_one_multiply_and_one_add(shape, stride, device):
    law = Point(sign(normal(32, shape[0], 3, 3)).float())
    layer = pixels_layer(law, shape=shape, stride=stride, shift=33.3, scale=78.6).to(device)
    x = images(8, shape).to(device)
    out = layer(x, EVALUATION, generator("unused", device=device)).cpu()
    # sums of whole numbers below 2^53 are exact in float64 in any order
    sums = F.conv2d(x.cpu().double(), law.mode().detach().cpu().double(), stride=stride, padding=1).float()
    offset = -layer.shift.cpu() * layer.inverse_scale.cpu() * law.mode().detach().cpu().flatten(1).sum(1)
    assert torch.equal(out, sums * layer.inverse_scale.cpu() + offset.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("reading", [DRAWN, MOMENTS], ids=["draw", "moments"])
def test_training_and_evaluation_see_the_same_image_in_a_frame_of_pixels_of_value_0(reading, stride):
    law = Real(normal(3, 2, 3, 3)) if reading is DRAWN else coins(3, 2, 3, 3)
    layer, x = pixels_layer(law, stride=stride, scale=64.0).double(), images().double()
    train = layer(x, reading.during(Training()), generator("a"))
    evaluated = layer(x, reading.during(Evaluation(Statistics())), generator("a"))
    framed = (F.pad(x, [1] * 4) - 100.0) / 64.0  # whose inverse is stored without rounding
    mean, variance = law.mean().detach(), law.variance().detach()
    want = Gaussian(F.conv2d(framed, mean, stride=stride), F.conv2d(framed**2, variance, stride=stride))
    for out in (train, evaluated):
        close(out if isinstance(out, Gaussian) else Gaussian(out, torch.zeros_like(out)), want)


@pytest.mark.parametrize("arrange", [lambda x: x, lambda x: x.flatten(1), lambda x: x[:, 0]], ids=["CHW", "flat", "HW"])
def test_images_come_in_any_arrangement_of_their_values(arrange):
    layer, x = pixels_layer(Point(normal(3, 1, 3, 3).float()), shape=(1, 6, 5)), images(shape=(1, 6, 5))
    want = layer(x, EVALUATION, generator("unused"))
    assert torch.equal(layer(arrange(x), EVALUATION, generator("unused")), want)


def test_inputs_that_are_no_images_of_the_layer_are_named():
    with pytest.raises(ValueError, match=r"inputs \(7, 5\) are no images of shape \(2, 6, 5\)"):
        pixels_layer(coins(3, 2, 3, 3))(torch.zeros(4, 7, 5), EVALUATION, generator("unused"))


def test_dropout_of_pixels_acts_in_training_alone():
    received = []

    def keep(law, contract, x, rng, tape):
        received.append(x)
        return contract(x, law.mode().detach())

    layer, x = pixels_layer(coins(3, 2, 3, 3), dropout=0.3).float(), images(400)
    reading = Reading(keep, DRAWN.activations)
    layer(x, reading.during(Training()), generator("masks"))
    layer(x, reading.during(Evaluation(Statistics())), generator("masks"))
    dropped, whole = received
    n = dropped.numel()  # the frame's pixels are pixels: dropped like the others
    assert dropped.shape == (400, 2, 8, 7)
    assert abs((dropped == 0).double().mean().item() - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5
    assert torch.equal(whole, x)


# -------------------------------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize(("size", "image"), [(1, (2, 3)), (2, (4, 6)), (2, (5, 7)), (3, (7, 3))])
def test_pooling_of_tensors_is_over_whole_windows(size, image):
    x = normal(2, 3, *image)
    out = MaxPool(size)(x, DRAWN, generator("unused"))
    assert out.shape == (2, 3, image[0] // size, image[1] // size)
    for i, j in itertools.product(range(out.shape[2]), range(out.shape[3])):
        window = x[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size]
        assert torch.equal(out[:, :, i, j], window.amax((2, 3)))


def test_a_pooled_gaussian_is_one_entry_of_its_window_with_both_its_moments():
    x = gaussian(2, 3, 5, 4)
    out = MaxPool(2)(x, MOMENTS, generator("pool"))
    assert out.shape == (2, 3, 2, 2)
    for i, j in itertools.product(range(2), range(2)):
        window = x.map(lambda m, i=i, j=j: m[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(2))
        same = (window.mean == out.mean[:, :, i, j, None]) & (window.variance == out.variance[:, :, i, j, None])
        assert torch.equal(same.sum(-1), torch.ones(2, 3, dtype=torch.long))


def test_an_entry_is_pooled_with_the_probability_that_it_is_the_largest():
    # two of four entries can win: P(first) = Phi((m1 - m2) / sqrt(v1 + v2)) = Phi(0.6); n windows, 5 sd
    n, means, variances = 20_000, (1.5, 0.3, -50.0, -50.0), (3.0, 1.0, 1.0, 1.0)
    windows = Gaussian(*(torch.tensor(v, dtype=F64).reshape(1, 1, 2, 2).expand(n, 1, 2, 2) for v in (means, variances)))
    out = MaxPool(2)(windows, MOMENTS, generator("frequencies"))
    p = 0.5 * math.erfc(-0.6 / math.sqrt(2))
    assert set(zip(out.mean.flatten().tolist(), out.variance.flatten().tolist(), strict=True)) == {
        (1.5, 3.0),
        (0.3, 1.0),
    }
    assert abs((out.mean == 1.5).double().mean().item() - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_pooling_certain_gaussians_is_ordinary_pooling():
    x = normal(2, 3, 6, 6)
    out = MaxPool(2)(Gaussian(x, torch.zeros_like(x)), MOMENTS, generator("pool"))
    assert torch.equal(out.mean, F.max_pool2d(x, 2)) and not out.variance.any()


def test_gradients_of_a_pooled_gaussian_reach_the_chosen_entries_only():
    x = gaussian(2, 1, 4, 4)
    for moment in (x.mean, x.variance):
        moment.requires_grad_()
    out = MaxPool(2)(x, MOMENTS, generator("pool"))
    (out.mean + 2 * out.variance).sum().backward()
    assert torch.equal(x.variance.grad, 2 * x.mean.grad)
    assert torch.equal(x.mean.grad.unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2)), torch.ones(2, 1, 2, 2, dtype=F64))


@pytest.mark.parametrize(("size", "image"), [((2, 2), (4, 4)), ((2, 2), (3, 5)), ((3, 2), (3, 2)), ((2, 3), (3, 4))])
def test_an_average_counts_the_entries_inside(size, image):
    x = gaussian(2, 3, *image)
    out = AveragePool(size)(x, MOMENTS, generator("unused"))
    rows, columns = (-(-length // side) for length, side in zip(image, size, strict=True))
    assert out.shape == (2, 3, rows, columns)
    for i, j in itertools.product(range(rows), range(columns)):
        window = x.map(
            lambda m, i=i, j=j: m[:, :, size[0] * i : size[0] * (i + 1), size[1] * j : size[1] * (j + 1)].flatten(2)
        )
        want = Gaussian(window.mean.mean(2), window.variance.sum(2) / window.shape[2] ** 2)
        close(out.map(lambda m, i=i, j=j: m[:, :, i, j]), want)
    torch.testing.assert_close(AveragePool(size)(x.mean, DRAWN, generator("unused")), out.mean, rtol=0, atol=0)


def test_moments_of_an_average_of_independent_signs_are_those_of_all_patterns():
    mean = torch.tanh(normal(6, part="signal"))
    patterns = every_pattern(6)
    p = probabilities(patterns, mean)
    x = Gaussian(mean.reshape(1, 1, 2, 3), (1 - mean**2).reshape(1, 1, 2, 3))
    close(
        AveragePool((2, 3))(x, PROPAGATED, generator("unused")).map(torch.flatten),
        expected(patterns.mean(1)[:, None], p),
    )


def test_flatten_keeps_the_order_of_channels_rows_and_columns():
    x = gaussian(2, 3, 4, 5)
    out = Flatten()(x, MOMENTS, generator("unused"))
    assert torch.equal(out.mean, x.mean.reshape(2, 60)) and torch.equal(out.variance, x.variance.reshape(2, 60))
    assert torch.equal(Flatten()(x.mean, DRAWN, generator("unused")), x.mean.reshape(2, 60))


# ------------------------------------------------------------------------------------------------------- residual


def test_a_residual_sum_of_tensors_is_branch_plus_shortcut():
    x = normal(2, 3, 4, 4)
    branch, shortcut = BinaryConv2d(coins(2, 3, 3, 3), padding=1), BinaryConv2d(coins(2, 3, 1, 1, part="shortcut"))
    block = Residual(Chain(branch), Chain(shortcut))
    reading = Reading(mode_weights(block), SignActivation(StraightThrough()))
    want = F.conv2d(x, branch.law.mode(), padding=1) + F.conv2d(x, shortcut.law.mode())
    torch.testing.assert_close(block(x, reading, generator("unused")), want.detach(), rtol=0, atol=1e-12)
    same = BinaryConv2d(coins(3, 3, 3, 3), padding=1)
    identity = Residual(Chain(same), Chain())
    reading = Reading(mode_weights(identity), SignActivation(StraightThrough()))
    want = F.conv2d(x, same.law.mode(), padding=1) + x
    torch.testing.assert_close(identity(x, reading, generator("unused")), want.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("identity", [False, True])
def test_moments_of_a_residual_sum_given_its_input_are_those_of_all_weights_of_both_branches(identity):
    x = normal(1, 1, 3, 3)
    branch = BinaryConv2d(coins(1, 1, 2, 2), padding=0)
    shortcut = Chain() if identity else Chain(BinaryConv2d(coins(1, 1, 2, 2, part="shortcut")))
    if identity:  # of equal shape: a 1 x 1 convolution
        branch = BinaryConv2d(coins(1, 1, 1, 1))
    out = Residual(Chain(branch), shortcut)(x, MOMENTS, generator("unused"))
    values, p = [], []
    for weight, probability in enumerated(branch.law):
        others = [(None, torch.ones((), dtype=F64))] if identity else enumerated(shortcut.layers[0].law)
        for other, likelihood in others:
            values.append(F.conv2d(x, weight) + (x if other is None else F.conv2d(x, other)))
            p.append(probability * likelihood)
    close(out, expected(torch.stack(values), torch.stack(p)))


class Noted(torch.nn.Module):
    """Keeps what it is given and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.given = []

    def forward(self, x, reading, rng):
        self.given.append(x)
        return x


def test_a_sampled_fork_gives_both_branches_one_sample():
    branch, shortcut = Noted(), Noted()
    x = gaussian(2, 3)
    out = Residual(Chain(branch), Chain(shortcut))(x, MOMENTS, generator("fork"))
    (seen,), (other,) = branch.given, shortcut.given
    assert seen is other and isinstance(seen, torch.Tensor)
    assert torch.equal(seen, x.sample(generator("fork")))
    assert torch.equal(out, 2 * seen)


def test_moments_are_added_only_where_the_network_says_that_branches_are_independent():
    x = gaussian(2, 3)
    with pytest.raises(UnsupportedReading, match="network.assume_independent=true"):
        Residual(Chain(), Chain())(x, PROPAGATED, generator("unused"))
    out = Residual(Chain(), Chain(), assume_independent=True)(x, PROPAGATED, generator("unused"))
    # x + x has variance 4 v; two independent signals of the moments of x have 2 v: the error that is on record
    close(out, Gaussian(2 * x.mean, 2 * x.variance))


def test_a_gaussian_reaching_a_residual_block_needs_a_reading_that_knows_it():
    with pytest.raises(UnsupportedReading, match="a Gaussian reached a residual block"):
        Residual(Chain(), Chain())(gaussian(2, 3), DRAWN, generator("unused"))


def test_sums_of_signals_add_means_and_variances_and_a_tensor_has_none():
    a, b, t = gaussian(2, 3), gaussian(2, 3, part="b"), normal(2, 3, part="t")
    close(added(a, b), Gaussian(a.mean + b.mean, a.variance + b.variance))
    close(added(a, t), Gaussian(a.mean + t, a.variance))
    close(added(t, a), Gaussian(a.mean + t, a.variance))
    assert torch.equal(added(t, t), 2 * t)


# -------------------------------------------------------------------------------------------------- channel scale


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)], ids=str)
def test_a_channel_scale_multiplies_a_channel_and_starts_at_one(shape):
    layer, x = ChannelScale(3).double(), gaussian(*shape)
    close(layer(x, MOMENTS, generator("unused")), x)
    scale = torch.tensor([2.0, -0.5, 0.0], dtype=F64)
    with torch.no_grad():
        layer.scale.copy_(scale)
    wide = scale.reshape(1, 3, *[1] * (len(shape) - 2))
    close(layer(x, MOMENTS, generator("unused")), Gaussian(x.mean * wide, x.variance * wide**2))
    assert torch.equal(layer(x.mean, DRAWN, generator("unused")), x.mean * wide)


def test_gaussians_through_scales_and_averages_pass_gradcheck():
    layers = Chain(ChannelScale(2), AveragePool((2, 2)))

    def moments(scale: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = Gaussian(mean, spread.square())
        out = functional_call(layers, {"layers.0.scale": scale}, (x, MOMENTS, generator("unused")))
        return out.mean, out.variance

    inputs = [v.clone().requires_grad_() for v in (normal(2), normal(1, 2, 3, 3), normal(1, 2, 3, 3, part="spread"))]
    assert torch.autograd.gradcheck(moments, inputs)


def test_the_gradient_of_a_channel_scale_is_that_of_the_product():
    layer, x = ChannelScale(3).double(), gaussian(4, 3, 2, 2)
    out = layer(x, MOMENTS, generator("unused"))
    (out.mean.sum() + out.variance.sum()).backward()
    # d/ds of s m + s^2 v at s = 1
    torch.testing.assert_close(layer.scale.grad, (x.mean + 2 * x.variance).sum((0, 2, 3)), rtol=1e-12, atol=1e-12)


def test_before_a_real_activation_the_largest_of_one_sample_is_pooled():
    # E max of two independent N(0, 1) is 1 / sqrt(pi); choosing by one sample and drawing another would give 0
    n = 100_000
    h = Gaussian(torch.zeros(1, n, 1, 2, dtype=torch.float64), torch.ones(1, n, 1, 2, dtype=torch.float64))
    pool = StochasticSign().pool(h, (1, 2), "relu", generator("relu"))
    assert isinstance(pool, torch.Tensor)
    # Var max = 1 - 1 / pi < 1, so 5 standard errors are below 5 / sqrt(n)
    assert pool.mean().item() == pytest.approx(1 / math.sqrt(math.pi), abs=5 / math.sqrt(n))
    assert isinstance(StochasticSign().pool(h, (1, 2), "sign", generator("sign")), Gaussian)


def uncertain(shape, rng):
    return Bernoulli(torch.zeros(shape))


def test_networks_pool_by_the_activation_that_follows():
    for activation in ("relu", "sign"):
        net = build("lenet", InputForm(64, shape=(1, 8, 8)), 3, uncertain, generator("net"), activation=activation)
        assert {m.function for m in net.modules() if isinstance(m, MaxPool)} == {activation}
