"""Convolutional networks: those of the papers layer by layer, against plain formulas, for every kind of pass."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from core.architectures import (
    LENET_PBNET,
    RESNET18_VISPA,
    VGG_BAYESBINN,
    VGG_PBNET,
    VGG_VISPA,
    InputForm,
    build,
    defaults,
)
from core.claims import laws
from core.interface import Reading, Tape, UnsupportedReading
from core.laws import Bernoulli, Point, Real, initial_uniform
from core.layers import Activation, BatchNorm, Dropout, Network
from core.moments import Moments, PropagatedSign, StochasticSign, ce_of_means, means
from core.ops import StraightThrough, sign
from core.predict import logits, mode, reestimate
from core.readings import Draw, SignActivation, mode_weights
from core.seeds import generator
from core.spatial import ChannelScale, MaxPool, Residual
from core.statistics import Evaluation, Training
from core.transfer import transfer
from methods.bayesbinn import bayesbinn
from methods.bop import bop
from methods.full_precision import full_precision
from methods.ste import ste

SIGNS = SignActivation(StraightThrough())
DIGITS = InputForm(64, shift=4.9, scale=6.0, maximum=16.0, integer=True, shape=(1, 8, 8))
MNIST = InputForm(784, shift=33.3, scale=78.6, maximum=255.0, integer=True, shape=(1, 28, 28))
CIFAR = InputForm(3072, shift=120.7, scale=64.2, maximum=255.0, integer=True, shape=(3, 32, 32))
NAMES = ["lenet", "vgg-small", "resnet18"]
SMALL = {
    "lenet": {"channels": (6, 8), "units": 16},
    "vgg-small": {"channels": (4, 6), "units": 12},
    "resnet18": {"channels": (4, 6)},
}
FUNCTIONS = {"relu": F.relu, "hardtanh": F.hardtanh, "sign": sign}


def coins(shape: torch.Size, rng: torch.Generator) -> Bernoulli:
    return Bernoulli(initial_uniform(shape, rng))


def shapes_only(shape: torch.Size, rng: torch.Generator) -> Point:
    """A law of the right shape and no memory, for networks that are only looked at."""
    return Point(torch.empty(shape, device="meta"))


def whole(name: str, form: InputForm, **options) -> Network:
    return build(name, form, 10, shapes_only, generator("whole"), **options)


def small(name: str, role: str = "batch", *, form: InputForm = DIGITS, law=coins, seed: int = 0, **options) -> Network:
    return build(name, form, 3, law, generator("small", seed), role, **{**SMALL[name], **options})


def images(batch: int = 12, form: InputForm = DIGITS) -> torch.Tensor:
    high = int(form.maximum) + 1
    return torch.randint(0, high, (batch, *form.shape), generator=generator("images", batch, *form.shape)).float()


def kinds(model: Network) -> list[str]:
    return [type(layer).__name__ for layer in model.layers if not isinstance(layer, Dropout)]


def shapes(model: Network, *, binary: bool | None = None) -> list[tuple[int, ...]]:
    return [tuple(law.shape) for _, law in laws(model) if binary in (None, law.levels is not None)]


# -------------------------------------------------------------------------------------------- networks of the papers

BLOCK = ["BinaryConv2d", "BatchNorm", "Activation"]
LINEAR = ["BinaryLinear", "BatchNorm", "Activation"]


def test_lenet_is_the_mnist_net_of_pbnet():
    model = whole("lenet", MNIST, **LENET_PBNET)
    assert shapes(model) == [(32, 1, 3, 3), (64, 32, 3, 3), (512, 64 * 7 * 7), (10, 512)]
    stage = ["BatchNorm", "MaxPool", "Activation"]
    assert kinds(model) == ["InputConv2d", *stage, "BinaryConv2d", *stage, "Flatten", *LINEAR, *LINEAR[:2]]
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    assert all(n.weight is not None and n.bias is not None for n in norms)
    assert model.activation_bits == 1


def test_lenet_without_padding_loses_its_borders():
    # 28 -> 26 -> 13 -> 11 -> 5
    assert shapes(whole("lenet", MNIST, padding=0))[2] == (512, 64 * 5 * 5)


def test_vgg_small_is_the_cifar_net_of_bayesbinn():
    model = whole("vgg-small", CIFAR, **VGG_BAYESBINN)
    pooled = ["BinaryConv2d", "MaxPool", "BatchNorm", "Activation"]
    first = ["InputConv2d", "BatchNorm", "Activation"]
    assert kinds(model) == [*first, *pooled, *BLOCK, *pooled, *BLOCK, *pooled, "Flatten", *LINEAR, *LINEAR, *LINEAR[:2]]
    pairs = [(3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    convolutions = [(n_out, n_in, 3, 3) for n_in, n_out in pairs]
    assert shapes(model, binary=True) == [*convolutions, (1024, 8192), (1024, 1024), (10, 1024)]
    assert sum(math.prod(shape) for shape in shapes(model)) == 14_022_016  # 14.02 M
    assert sum(p.numel() for p in model.parameters()) == 14_022_016  # no bias, no affine batch norm
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    assert {(n.eps, n.momentum) for n in norms} == {(1e-5, 0.2)}
    assert {m.function for m in model.modules() if isinstance(m, Activation)} == {"relu"}


def test_vgg_small_is_that_of_vispa():
    model = whole("vgg-small", CIFAR, **VGG_VISPA)
    assert shapes(model, binary=False) == [(128, 3, 3, 3), (10, 8192)]
    assert len(shapes(model, binary=True)) == 5
    # a learned scale per channel right after each binary map, none after the real ones
    scaled = [kinds(model)[i - 1] for i, kind in enumerate(kinds(model)) if kind == "ChannelScale"]
    assert scaled == ["BinaryConv2d"] * 5
    channels = [m.scale.numel() for m in model.modules() if isinstance(m, ChannelScale)]
    assert channels == [128, 256, 256, 512, 512]
    assert kinds(model)[3:8] == ["BinaryConv2d", "ChannelScale", "MaxPool", "BatchNorm", "Activation"]


def test_vgg_small_is_that_of_pbnet():
    model = whole("vgg-small", CIFAR, **VGG_PBNET)
    assert shapes(model)[-2:] == [(1024, 8192), (10, 1024)]
    assert kinds(model)[3:7] == ["BinaryConv2d", "BatchNorm", "MaxPool", "Activation"]


@pytest.mark.parametrize("block", ["basic", "bi-real"])
def test_resnet18_has_its_eighteen_layers_and_three_shortcuts_that_change_shape(block):
    model = whole("resnet18", CIFAR, block=block, **RESNET18_VISPA)
    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    expected: list[tuple[int, ...]] = [(64, 3, 3, 3)]
    for n_in, n_out, stride in stages:
        expected += [(n_out, n_in, 3, 3)] + [(n_out, n_out, 3, 3)] * 3 + [(n_out, n_in, 1, 1)] * (stride == 2)
    expected.append((10, 512))
    assert sorted(shapes(model)) == sorted(expected)
    # first, last and the shortcuts' 1 x 1 are real: 16 binary convolutions
    assert len(shapes(model, binary=True)) == 16
    assert sorted(shapes(model, binary=False)) == sorted(s for s in expected if s[1:] == (3, 3, 3) or s[-1] in (1, 512))
    sums = [m for m in model.modules() if isinstance(m, Residual)]
    assert len(sums) == (8 if block == "basic" else 16)
    everything = whole("resnet18", CIFAR, block=block, first="binary", last="binary", downsample="binary")
    assert shapes(everything, binary=False) == []


# --------------------------------------------------------------------------------------------- networks as formulas


def batch_norm(h: torch.Tensor, norm: BatchNorm) -> torch.Tensor:
    return F.batch_norm(h, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


class ByHand:
    """The network's weights and norms in the order they were made, and the plain formula over them."""

    def __init__(self, model: Network) -> None:
        self.weights = [law.mode().detach() for _, law in laws(model)]
        self.norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
        self.function = FUNCTIONS[model.activation]

    def convolution(self, h: torch.Tensor, stride: int = 1, padding: int = 1) -> torch.Tensor:
        return F.conv2d(h, self.weights.pop(0), stride=stride, padding=padding)

    def norm(self, h: torch.Tensor) -> torch.Tensor:
        return batch_norm(h, self.norms.pop(0))

    def head(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(F.linear(h.flatten(1), self.weights.pop(0)))


def framed(x: torch.Tensor, form: InputForm) -> torch.Tensor:
    """Normalised pixels in a frame of pixels of value 0."""
    return (F.pad(x, [1] * 4) - form.shift) / form.scale


def trained_output(model: Network, x: torch.Tensor) -> torch.Tensor:
    for norm in (m for m in model.modules() if isinstance(m, BatchNorm) and m.weight is not None):
        torch.nn.init.normal_(norm.weight, 1.0, 0.3, generator=generator("gain", norm.name))
        torch.nn.init.normal_(norm.bias, generator=generator("bias", norm.name))
    return model(x, Reading(mode_weights(model), SIGNS, Training()), generator("unused"))


EXACT = InputForm(64, shift=4.0, scale=8.0, maximum=16.0, integer=True, shape=(1, 8, 8))  # its inverse is not rounded


def agree(got: torch.Tensor, want: torch.Tensor) -> None:
    """float64: rounding of 1e-16 grows by fan-in and 1 / sqrt(eps) < 400 a layer; signs flip at |h| < 1e-12 only."""
    torch.testing.assert_close(got, want.detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("pool", ["after-norm", "before-norm"])
@pytest.mark.parametrize("affine", [False, True])
def test_lenet_is_its_formula(activation, pool, affine):
    model = small("lenet", form=EXACT, activation=activation, pool=pool, affine=affine).double()
    x = images(form=EXACT).double()
    out, by_hand = trained_output(model, x), ByHand(model)
    h = framed(x, EXACT)
    for padding in (0, 1):
        h = by_hand.convolution(h, padding=padding)
        h = F.max_pool2d(by_hand.norm(h), 2) if pool == "after-norm" else by_hand.norm(F.max_pool2d(h, 2))
        h = by_hand.function(h)
    h = by_hand.function(by_hand.head(h))
    agree(out, by_hand.head(h))
    assert not by_hand.weights and not by_hand.norms


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("downsample", ["real", "binary"])
def test_basic_resnet18_is_its_formula(activation, downsample):
    model = small("resnet18", form=EXACT, activation=activation, downsample=downsample, affine=True).double()
    x = images(form=EXACT).double()
    out, net = trained_output(model, x), ByHand(model)
    h = net.function(net.norm(net.convolution(framed(x, EXACT), padding=0)))
    for stride, reshaped in ((1, False), (1, False), (2, True), (1, False)):
        branch = net.function(net.norm(net.convolution(h, stride)))
        branch = net.norm(net.convolution(branch))
        shortcut = net.norm(net.convolution(h, stride, padding=0)) if reshaped else h
        h = net.function(branch + shortcut)
    agree(out, net.head(h.mean((2, 3))))
    assert not net.weights and not net.norms


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_bi_real_resnet18_is_its_formula(activation):
    model = small("resnet18", form=EXACT, activation=activation, block="bi-real", affine=True).double()
    x = images(form=EXACT).double()
    out, net = trained_output(model, x), ByHand(model)
    h = net.norm(net.convolution(framed(x, EXACT), padding=0))
    for i in range(8):
        halves = i == 4
        branch = net.norm(net.convolution(net.function(h), 2 if halves else 1))
        h = branch + (net.norm(net.convolution(F.avg_pool2d(h, 2), padding=0)) if halves else h)
    agree(out, net.head(h.mean((2, 3))))
    assert not net.weights and not net.norms


# ------------------------------------------------------------------------------------------------- 1-bit networks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block", ["basic", "bi-real"])
def test_under_sign_activations_binary_maps_see_signs_and_declare_it(name, block):
    received = {}

    def keep(law, contract, x, rng, tape):
        received[law] = (contract, x)
        return contract(x, law.mode().detach())

    residual = {"block": block} if name == "resnet18" else {}
    model = small(name, activation="sign", first="binary", last="binary", **residual)
    model(images(), Reading(keep, SIGNS, Training()), generator("unused"))
    # besides the pixels, only pooled features (and in a bi-real net the averaged stream) are real, as is said
    exceptions = {next(laws(model))[1]}
    if name == "resnet18":
        exceptions |= {law for path, law in laws(model) if law.shape[0] == 3 or law.levels is None}
    for path, law in laws(model):
        contract, x = received[law]
        if law not in exceptions:
            assert contract.signs, path
            assert set(x.unique().tolist()) == {-1.0, 1.0}, path
            h = contract(x, law.mode().detach())
            assert torch.equal(h, h.round()), path
    real = [law for law in exceptions if not getattr(received[law][0], "signs", False)]
    assert len(real) == {"lenet": 1, "vgg-small": 1, "resnet18": 2 if block == "basic" else 3}[name]


@pytest.mark.parametrize("name", [name for name in NAMES if "dropout" in defaults(name)])
def test_dropped_inputs_are_not_declared_signs(name):
    model = small(name, activation="sign", dropout=0.1)
    assert not any(getattr(m.contract, "signs", False) for m in model.modules() if hasattr(m, "contract"))
    assert [m.p for m in model.modules() if isinstance(m, Dropout)] == [0.1] * len(list(laws(model)))


@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_change_the_logits_of_a_1_bit_network(name):
    options = {"first": "binary", "last": "binary"} if name != "resnet18" else {"first": "binary"}
    model = small(name, activation="sign", affine=True, **options)
    (reading,) = mode(SIGNS).readings(model, generator("mode"))
    x = images(40)
    statistics = reestimate(model, reading, x, generator("estimation"))
    together = logits(model, reading, statistics, x, generator("a"))
    alone = torch.cat([logits(model, reading, statistics, one, generator("a")) for one in x.split(1)])
    if name == "resnet18":  # its last layer and its shortcut are real: equal to the rounding of 54 float32 products
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(alone, together)


# ------------------------------------------------------------------------------------------------ every kind of pass

PASSES = {
    "draw": (Reading(Draw(StraightThrough()), SIGNS), "batch"),
    "sampled": (Reading(Moments(), StochasticSign()), "stochastic"),
    "propagated": (Reading(Moments(), PropagatedSign()), "stochastic"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["relu", "hardtanh", "sign"])
@pytest.mark.parametrize("kind", PASSES)
def test_every_weight_has_a_finite_gradient_in_every_kind_of_pass(name, activation, kind):
    reading, role = PASSES[kind]
    blocks = ["basic", "bi-real"] if name == "resnet18" else [None]
    for block in blocks:
        residual = {"block": block, "assume_independent": True} if block else {}
        model = small(name, role, activation=activation, channel_scale="learned", affine=True, **residual)
        tape = Tape()
        out = model(images(), reading.during(Training(), tape), generator("pass"))
        ce_of_means(out, torch.arange(12) % 3).backward()
        tape.pull_back()
        assert out.shape == (12, 3)
        for path, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), path
        for path, law in laws(model):
            assert all(p.grad.any() for p in law.parameters()), path


@pytest.mark.parametrize("block", ["basic", "bi-real"])
def test_propagation_through_sums_is_refused_until_independence_is_assumed(block):
    model = small("resnet18", "stochastic", activation="sign", block=block)
    reading = PASSES["propagated"][0].during(Training())
    with pytest.raises(UnsupportedReading, match="network.assume_independent=true"):
        model(images(), reading, generator("pass"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
def test_moments_of_certain_weights_are_the_binary_network(name, activation):
    # tanh(30) = 1 - 2e-26: deviations of at most sqrt(100 * 4e-26) = 2e-12 a layer, and pools choose the largest
    def certain(shape, rng):
        return Bernoulli(30 * sign(initial_uniform(shape, rng)))

    model, twin = (small(name, role, law=certain, activation=activation).double() for role in ("stochastic", "batch"))
    x, plain = images().double(), Reading(mode_weights(twin), SIGNS)
    statistics = reestimate(twin, plain, x, generator("estimation"))
    out = model(x, PASSES["sampled"][0].during(Evaluation(statistics)), generator("a"))
    agree(means(out), twin(x, plain.during(Evaluation(statistics)), generator("a")))


# --------------------------------------------------------------------------------------------------- equal starts


@pytest.mark.parametrize("name", NAMES)
def test_every_method_starts_a_network_from_the_same_signs(name):
    starts = [
        [sign(law.mode().detach()) for _, law in laws(small(name, law=m().law))]
        for m in (ste, bop, bayesbinn, full_precision)
    ]
    for other in starts[1:]:
        assert all(torch.equal(sign(a), sign(b)) for a, b in zip(starts[0], other, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "policy",
    [{"first": "real"}, {"last": "binary"}, {"activation": "sign"}, {"affine": True}, {"channel_scale": "learned"}],
)
def test_shared_binary_weights_start_alike_under_every_policy(name, policy):
    plain, other = ([law for _, law in laws(small(name, **options))] for options in ({}, policy))
    assert [law.shape for law in plain] == [law.shape for law in other]
    both = [(a, b) for a, b in zip(plain, other, strict=True) if isinstance(a, Bernoulli) and isinstance(b, Bernoulli)]
    assert len(both) >= 2 and all(torch.equal(a.natural, b.natural) for a, b in both)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", ["after-norm", "before-norm"])
def test_a_real_twin_of_another_activation_fits_layer_by_layer(name, pool):
    options = {"affine": True} | ({} if name == "resnet18" else {"pool": pool})
    model = small(name, activation="sign", **options)
    twin = small(name, law=full_precision().law, activation="hardtanh", seed=1, **options)
    transfer(twin, model, largest=0.9)
    weights = dict(laws(twin))
    binary = [(path, law) for path, law in laws(model) if isinstance(law, Bernoulli)]
    assert len(binary) >= 4
    for path, law in binary:
        w = weights[path].mean()
        torch.testing.assert_close(law.mean(), (w / w.std()).clamp(-0.9, 0.9), rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------- options and messages


@pytest.mark.parametrize("name", NAMES)
def test_options_reach_every_norm(name):
    norms = [
        m for m in small(name, "stochastic", eps=1e-3, momentum=0.4, affine=True).modules() if isinstance(m, BatchNorm)
    ]
    assert {(n.eps, n.momentum, n.role, n.weight is not None) for n in norms} == {(1e-3, 0.4, "stochastic", True)}
    model = small(name)
    assert isinstance(model.layers[-1], BatchNorm) and model.layers[-1].running_mean.numel() == 3


@pytest.mark.parametrize("name", NAMES)
def test_first_and_last_have_the_law_their_policy_says(name):
    for first in ("binary", "real"):
        for last in ("binary", "real"):
            kinds = [type(law) for _, law in laws(small(name, first=first, last=last))]
            assert (kinds[0], kinds[-1]) == tuple({"binary": Bernoulli, "real": Real}[k] for k in (first, last))


@pytest.mark.parametrize("form", [DIGITS, MNIST, CIFAR], ids=["digits", "mnist", "cifar"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block", ["basic", "bi-real"])
def test_networks_take_images_of_every_size_of_ours(form, name, block):
    residual = {"block": block, "channels": (2, 2, 2, 2)} if name == "resnet18" else {}
    model = small(name, form=form, **residual)
    out = model(images(4, form), Reading(mode_weights(model), SIGNS, Training()), generator("unused"))
    assert out.shape == (4, 3) and out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_no_image_are_refused_with_a_way_out(name):
    with pytest.raises(ValueError, match=rf"network.name={name} convolves images, and this problem's inputs are 30 "):
        build(name, InputForm(30), 2, coins, generator("x"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet", {"channels": (4, 4, 4, 4)}, r"network.name=lenet: images of 8 x 8 are used up by layer 4 of 4 conv"),
        ("lenet", {"padding": 0, "channels": (4, 4)}, r"used up by layer 2 .* a larger network.padding \(got 0\)"),
        ("lenet", {"padding": -1}, r"network.padding must be >= 0 \(got -1\)"),
        ("lenet", {"channels": ()}, r"network.channels must be positive integers \(got \(\)\)"),
        ("lenet", {"units": 0}, r"network.units must be >= 1 \(got 0\)"),
        ("lenet", {"pool": "never"}, r"network.pool must be after-norm or before-norm \(got 'never'\)"),
        ("lenet", {"first": "fp"}, r"network.first must be binary or real \(got 'fp'\)"),
        ("lenet", {"channel_scale": "xnor"}, r"network.channel_scale must be none or learned \(got 'xnor'\)"),
        ("lenet", {"dropout": 1.0}, r"network.dropout must be in \[0, 1\) \(got 1.0\)"),
        ("lenet", {"activation": "gelu"}, r"network.activation must be one of relu, hardtanh, sign \(got 'gelu'\)"),
        ("vgg-small", {"channels": (4, 4, 4, 4)}, r"network.name=vgg-small: images of 8 x 8 are used up by layer 8"),
        ("vgg-small", {"hidden": -1}, r"network.hidden must be >= 0 \(got -1\)"),
        ("vgg-small", {"last": "fp"}, r"network.last must be binary or real \(got 'fp'\)"),
        ("resnet18", {"block": "bottleneck"}, r"network.block must be basic or bi-real \(got 'bottleneck'\)"),
        ("resnet18", {"downsample": "fp"}, r"network.downsample must be binary or real \(got 'fp'\)"),
        ("resnet18", {"channels": (4, 0)}, r"network.channels must be positive integers \(got \(4, 0\)\)"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named_as_the_user_types_it(name, options, message):
    with pytest.raises(ValueError, match=message):
        small(name, **options)


def test_pools_follow_every_convolution_of_lenet_and_every_second_of_vgg():
    assert sum(isinstance(m, MaxPool) for m in small("lenet", channels=(2, 2, 2)).modules()) == 3
    assert sum(isinstance(m, MaxPool) for m in small("vgg-small", channels=(2, 2, 2)).modules()) == 3
