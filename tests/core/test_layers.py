"""Layers: an exact first layer, dropout that only the passed generator drives, activations and what the tape keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.interface import Gaussian, Reading, Tape
from core.laws import Bernoulli, Point, Real
from core.layers import Activation, BatchNorm, BinaryLinear, Chain, Dropout, InputLinear, Network
from core.ops import ClippedStraightThrough, StraightThrough, sign
from core.readings import Draw, SignActivation, drawn_weights, mode_weights
from core.seeds import generator
from core.statistics import Estimation, Evaluation, Statistics, Training

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
SIGNS = SignActivation(StraightThrough())
TRAINING = Reading(Draw(StraightThrough()), SIGNS, Training())
EVALUATION = Reading(Draw(StraightThrough()), SIGNS, Evaluation(Statistics()))
ESTIMATION = Reading(Draw(StraightThrough()), SIGNS, Estimation(Statistics()))
U = 2.0**-24  # unit roundoff of float32


def normal(*shape: int, part: str = "x", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator("layers", part, *shape), dtype=dtype)


def pixels(batch: int, features: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, features), generator=generator("pixels", batch, features)).float()


def first_layer(
    law, *, shift: float = 0.0, scale: float = 1.0, maximum: float = 255.0, dropout: float = 0.0
) -> InputLinear:
    return InputLinear(law, shift=shift, scale=scale, maximum=maximum, dropout=dropout)


def integer_sums(x: torch.Tensor, law) -> np.ndarray:
    return np.matmul(x.cpu().numpy().astype(np.int64), law.mode().detach().cpu().numpy().astype(np.int64).T)


# ------------------------------------------------------------------------------------------------- first layer


@pytest.mark.parametrize("reading", [EVALUATION, ESTIMATION, Reading(Draw(StraightThrough()), SIGNS)])
@pytest.mark.parametrize("features", [1, 63, 784, 3072])
def test_outside_training_the_first_layer_sums_pixels_as_integers_do(features, reading):
    layer, x = first_layer(Point(normal(17, features, part="latent"))), pixels(9, features)
    out = layer(x, reading, generator("unused")).detach().numpy()
    np.testing.assert_array_equal(out.astype(np.int64), integer_sums(x, layer.law))
    np.testing.assert_array_equal(out, np.trunc(out))


@given(features=st.integers(1, 900), batch=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_integer_sums_are_exact_for_any_pixels_and_signs(features, batch, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (batch, features), generator=rng).float()
    layer = first_layer(Point(torch.randn((6, features), generator=rng)))
    out = layer(x, EVALUATION, rng).detach().numpy()
    np.testing.assert_array_equal(out, integer_sums(x, layer.law).astype(np.float32))


@pytest.mark.parametrize("pattern", ["all up", "all down", "alternating", "halves"])
@pytest.mark.parametrize("device", DEVICES)
def test_the_largest_layer_allowed_is_exact_at_the_worst_pixels(pattern, device):
    # 65793 * 255 = 2^24 - 1: every partial sum of any order of summation is a whole number float32 holds.
    features = 65793
    signs = {
        "all up": torch.ones(features),
        "all down": -torch.ones(features),
        "alternating": 1.0 - 2.0 * (torch.arange(features) % 2),
        "halves": 1.0 - 2.0 * (torch.arange(features) >= features // 2),
    }[pattern]
    layer = first_layer(Point(signs.expand(3, -1).clone())).to(device)
    x = torch.stack([torch.full((features,), 255.0), pixels(1, features)[0]]).to(device)
    out = layer(x, EVALUATION, generator("unused", device=device)).detach().cpu().numpy()
    np.testing.assert_array_equal(out, integer_sums(x, layer.law).astype(np.float32))


@pytest.mark.parametrize("features", [65794, 70000])
def test_a_first_layer_whose_sums_could_leave_float32_is_refused_with_its_numbers(features):
    message = rf"first layer: {features} inputs up to 255.0 can sum to {features * 255}.0, beyond 2\^24"
    with pytest.raises(ValueError, match=message):
        first_layer(Point(torch.ones(1, features)))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 255.0), (33.3, 78.57), (127.5, 1.0), (-4.0, 0.3)])
@pytest.mark.parametrize("device", DEVICES)
def test_normalisation_is_one_multiply_and_one_add_after_the_integer_sum(shift, scale, device):
    law = Point(normal(64, 784, part="latent"))
    layer, x = first_layer(law, shift=shift, scale=scale).to(device), pixels(50, 784).to(device)
    out = layer(x, EVALUATION, generator("unused", device=device)).detach().cpu().numpy()
    sums, inverse = integer_sums(x, law).astype(np.float32), np.float32(1 / scale)
    signs = law.mode().detach().cpu().numpy()
    offset = np.float32(-shift) * inverse * signs.sum(1, dtype=np.int64).astype(np.float32)
    expected = np.add(np.multiply(sums, inverse), offset)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(out.view(np.int32), expected.view(np.int32))
    if shift and scale != 1.0:
        # the product of two float32 is exact in float64, so this is what a fused multiply-add would give
        fused = (sums.astype(np.float64) * np.float64(inverse) + offset.astype(np.float64)).astype(np.float32)
        assert (fused != expected).any()


@pytest.mark.parametrize("integer", [True, False])
def test_training_and_evaluation_agree_to_float32_rounding(integer):
    shift, scale, features = (33.3, 78.57, 784) if integer else (0.25, 0.5, 784)
    x = pixels(20, features) if integer else normal(20, features)
    law = Bernoulli(normal(40, features, part="natural"))
    layer = first_layer(law, shift=shift, scale=scale, maximum=255.0 if integer else 0.0)
    weights = drawn_weights(layer, generator("draw"))
    training = layer(x, Reading(weights, SIGNS, Training()), generator("unused"))
    evaluation = layer(x, Reading(weights, SIGNS, EVALUATION.phase), generator("unused"))
    # Training: each of I terms carries two roundings, their sum at most I more of the running sum of magnitudes.
    # Evaluation: at most I roundings of sum |x| / scale for real inputs (none for integers), then three of the result
    # and two of the offset. A common bound in units U: (I + 5) (sum |x| + I |shift|) / scale.
    bound = (features + 5) * U * (x.abs().sum(1, keepdim=True) + features * abs(shift)) / scale
    assert ((training - evaluation).abs() <= bound).all()


def test_in_float64_training_and_evaluation_are_the_same_map():
    law = Bernoulli(normal(40, 100, part="natural", dtype=torch.float64))
    layer = first_layer(law, shift=33.3, scale=78.57).double()
    weights, x = drawn_weights(layer, generator("draw")), pixels(20, 100).double()
    training = layer(x, Reading(weights, SIGNS, Training()), generator("unused"))
    evaluation = layer(x, Reading(weights, SIGNS, EVALUATION.phase), generator("unused"))
    # sums of 100 numbers below 4 in size: 100 * 400 * 2^-53 < 1e-11
    torch.testing.assert_close(training, evaluation, rtol=0, atol=1e-11)


def test_training_drops_normalised_inputs_not_pixels():
    # Identity weights show the signal: a dropped pixel is the mean pixel (0 after normalisation), not black.
    features, p = 50, 0.4
    layer = first_layer(Real(torch.eye(features)), shift=100.0, scale=50.0, maximum=0.0, dropout=p)
    x = pixels(200, features)
    out = layer(x, TRAINING, generator("dropout")).detach()
    kept = (x - 100.0) * torch.tensor(1 / 50.0) / (1 - p)
    assert ((out == 0) | (out == kept)).all()
    # 10000 coins: 5 sd = 0.0245
    assert abs((out == 0).float().mean() - p) < 0.0245


def test_the_normalisation_travels_with_the_network():
    layer = first_layer(Point(normal(3, 4)), shift=33.5, scale=64.0)
    other = first_layer(Point(normal(3, 4, part="other")))
    other.load_state_dict(layer.state_dict())
    x = pixels(5, 4)
    assert torch.equal(layer(x, EVALUATION, generator("x")), other(x, EVALUATION, generator("x")))


def test_a_first_layer_of_scale_zero_is_refused():
    with pytest.raises(ValueError, match=r"first layer: scale must be finite and > 0 \(got 0.0\)"):
        first_layer(Point(normal(3, 4)), scale=0.0)


# ------------------------------------------------------------------------------------------------- linear maps


@pytest.mark.parametrize("device", DEVICES)
def test_a_binary_linear_layer_of_signs_counts_agreements_exactly(device):
    law = Point(normal(33, 129, part="latent"))
    layer = BinaryLinear(law).to(device)
    x = sign(normal(8, 129)).to(device)
    out = layer(x, EVALUATION, generator("unused", device=device)).detach().cpu().numpy()
    np.testing.assert_array_equal(out, integer_sums(x, law).astype(np.float32))


def test_layers_pass_one_generator_on_in_order():
    first, second = Bernoulli(normal(6, 4, part="first")), Bernoulli(normal(3, 6, part="second"))
    chain, x, rng = Chain(BinaryLinear(first), BinaryLinear(second)), normal(5, 4), generator("chain")
    out = chain(x, TRAINING, generator("chain"))
    w1, w2 = sign(first.natural + first.noise(rng)), sign(second.natural + second.noise(rng))
    assert torch.equal(out, (x @ w1.T) @ w2.T)  # small whole multiples: both orders of rounding agree bitwise


# ------------------------------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("reading", [EVALUATION, ESTIMATION, Reading(Draw(StraightThrough()), SIGNS)])
def test_dropout_is_off_outside_training_and_draws_nothing(reading):
    x, rng = normal(20, 30), generator("dropout")
    before = rng.get_state()
    assert torch.equal(Dropout(0.7)(x, reading, rng), x)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize("p", [0.2, 0.75])
@pytest.mark.parametrize("device", DEVICES)
def test_dropout_keeps_each_entry_with_probability_one_minus_p_and_rescales_it(p, device):
    x = (1.0 + normal(400, 250).abs()).to(device)  # no zeros of its own
    out = Dropout(p)(x, TRAINING, generator("dropout", device=device))
    assert ((out == 0) | (out == x / (1 - p))).all()
    n = x.numel()
    assert abs((out != 0).double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    # so the mean is kept: Var(out - x) = x^2 p / (1 - p)
    sd = (x.double().square().sum().item() * p / (1 - p)) ** 0.5 / n
    assert abs((out - x).double().mean().item()) < 5 * sd


def test_dropout_takes_its_noise_from_the_passed_generator_only():
    x, layer = normal(20, 30), Dropout(0.5)
    before = torch.get_rng_state()
    first = layer(x, TRAINING, generator("dropout", 0))
    torch.rand(7)  # the global generator moves between; nothing changes
    moved = torch.get_rng_state()
    assert not torch.equal(moved, before)
    assert torch.equal(layer(x, TRAINING, generator("dropout", 0)), first)
    assert not torch.equal(layer(x, TRAINING, generator("dropout", 1)), first)
    assert torch.equal(torch.get_rng_state(), moved)


def test_dropout_of_zero_is_the_identity_and_spends_no_noise():
    x, rng = normal(20, 30), generator("dropout")
    before = rng.get_state()
    assert torch.equal(Dropout(0.0)(x, TRAINING, rng), x)
    assert torch.equal(rng.get_state(), before)


def test_dropped_entries_take_no_gradient():
    x = normal(20, 30).requires_grad_()
    out = Dropout(0.5)(x, TRAINING, generator("dropout"))
    out.sum().backward()
    assert torch.equal(x.grad, (out != 0) * 2.0)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_dropout_outside_zero_to_one_is_refused_with_the_value(p):
    with pytest.raises(ValueError, match=rf"network.dropout must be in \[0, 1\) \(got {p}\)"):
        Dropout(p)


# -------------------------------------------------------------------------------------------------- activations


def forbidden(h, rng):
    raise AssertionError("a real activation asked the reading")


@pytest.mark.parametrize(
    ("function", "formula"), [("relu", lambda h: h.clamp_min(0)), ("hardtanh", lambda h: h.clamp(-1, 1))]
)
def test_real_activations_follow_their_formula_and_never_ask_the_reading(function, formula):
    h, tape = 2 * normal(20, 30), Tape()
    reading = Reading(Draw(StraightThrough()), forbidden, Training(), tape)
    assert torch.equal(Activation(function)(h, reading, generator("x")), formula(h))
    assert tape.signs == []


def test_a_sign_activation_is_exactly_plus_or_minus_one_and_plus_one_at_zero():
    h = torch.cat([normal(500), torch.tensor([0.0, -0.0, 1e-45, -1e-45, torch.inf, -torch.inf])])
    out = Activation("sign")(h, TRAINING, generator("x"))
    assert set(out.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(out[-6:], torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0, -1.0]))


@pytest.mark.parametrize("window", [0.5, 2.0])
def test_the_slope_of_a_sign_is_the_methods(window):
    h = normal(500).requires_grad_()
    reading = Reading(Draw(StraightThrough()), SignActivation(ClippedStraightThrough(window)), Training())
    Activation("sign")(h, reading, generator("x")).sum().backward()
    assert torch.equal(h.grad, (h.abs() <= window).float())


def small_network(activation: str) -> Network:
    def block(n_in: int, n_out: int) -> list[torch.nn.Module]:
        law = Point(normal(n_out, n_in, part=f"{n_in}"))
        return [BinaryLinear(law), BatchNorm(n_out, affine=False, eps=1e-4, momentum=0.1), Activation(activation)]

    return Network(*block(8, 6), *block(6, 4), activation=activation)


def test_the_tape_keeps_each_sign_before_and_after_by_layer_name_in_order():
    network, tape, norms = small_network("sign"), Tape(), []
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.register_forward_hook(lambda module, args, out: norms.append(out))
    out = network(normal(10, 8), TRAINING.during(Training(), tape), generator("x"))
    assert [pair.name for pair in tape.signs] == ["layers.2", "layers.5"]
    for pair, normalised in zip(tape.signs, norms, strict=True):
        assert network.get_submodule(pair.name).function == "sign"
        assert pair.before is normalised
        assert torch.equal(pair.after, sign(pair.before))
    assert tape.signs[-1].after is out
    # an objective may differentiate what it finds there
    tape.signs[0].before.square().mean().backward()
    assert tape.drawn[0].weights.grad is not None


def test_without_a_tape_nothing_is_kept():
    network = small_network("sign")
    network(normal(10, 8), TRAINING, generator("x"))
    assert TRAINING.tape is None


def test_layers_know_their_paths_in_the_network():
    network = small_network("relu")
    named = {name: m for name, m in network.named_modules() if isinstance(m, (BatchNorm, Activation))}
    assert {name: module.name for name, module in named.items()} == {
        name: name for name in ("layers.1", "layers.2", "layers.4", "layers.5")
    }


@pytest.mark.parametrize(("activation", "bits"), [("relu", 32), ("hardtanh", 32), ("sign", 1)])
def test_a_network_declares_the_bits_that_its_activations_take(activation, bits):
    network, seen = small_network(activation), []
    for module in network.modules():
        if isinstance(module, Activation):
            module.register_forward_hook(lambda module, args, out: seen.append(out))
    network(normal(64, 8), TRAINING, generator("x"))
    assert network.activation_bits == bits
    assert len(seen) == 2
    for values in seen:
        assert (values.unique().numel() <= 2) == (bits == 1)


def test_an_unknown_activation_lists_the_known_ones():
    message = r"network.activation must be one of relu, hardtanh, sign \(got 'tanh'\)"
    with pytest.raises(ValueError, match=message):
        Activation("tanh")


# --------------------------------------------------------------------------------------------------- batch norm


@pytest.mark.parametrize(
    ("eps", "momentum", "message"),
    [
        (-1e-4, 0.1, r"network.eps must be finite and > 0 \(got -0.0001\)"),
        (0.0, 0.1, r"network.eps must be finite and > 0 \(got 0.0\)"),
        (float("nan"), 0.1, r"network.eps must be finite and > 0 \(got nan\)"),
        (1e-4, -0.1, r"network.momentum must be in \[0, 1\] \(got -0.1\)"),
        (1e-4, 1.1, r"network.momentum must be in \[0, 1\] \(got 1.1\)"),
    ],
)
def test_an_impossible_batch_norm_is_refused_at_construction(eps, momentum, message):
    with pytest.raises(ValueError, match=message):
        BatchNorm(4, affine=False, eps=eps, momentum=momentum)


def test_mode_weights_of_a_layer_are_what_evaluation_contracts():
    layer, x = first_layer(Bernoulli(normal(5, 30, part="natural"))), pixels(4, 30)
    out = layer(x, Reading(mode_weights(layer), SIGNS, EVALUATION.phase), generator("x"))
    assert torch.equal(out, x @ sign(layer.law.natural.detach()).T)


def test_dropout_of_a_gaussian_drops_and_rescales_both_moments():
    p, n = 0.2, 50_000
    h = Gaussian(torch.full((n, 1), 3.0), torch.full((n, 1), 0.5))
    out = Dropout(p)(h, TRAINING, generator("moments"))
    kept = out.mean != 0
    torch.testing.assert_close(out.mean[kept], torch.full_like(out.mean[kept], 3.0 / 0.8))
    torch.testing.assert_close(out.variance[kept], torch.full_like(out.mean[kept], 0.5 / 0.8**2))
    assert not out.variance[~kept].any() and abs(kept.float().mean().item() - 0.8) < 5 * math.sqrt(0.16 / n)
