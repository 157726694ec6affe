"""Architectures: the networks are the ones the papers and options say, and all methods start from the same one."""

from __future__ import annotations

import hashlib
import inspect
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.architectures import ARCHITECTURES, MLP_BAYESBINN, InputForm, build, defaults, mlp, real_law
from core.claims import laws
from core.interface import Reading
from core.laws import Bernoulli, Real, initial_uniform
from core.layers import Activation, BatchNorm, BinaryLinear, Dropout, InputLinear
from core.ops import StraightThrough, sign
from core.readings import SignActivation, mode_weights
from core.seeds import generator
from core.statistics import Training
from methods.bayesbinn import bayesbinn
from methods.bayesbinn_published import bayesbinn_published
from methods.bop import bop
from methods.full_precision import full_precision
from methods.ste import ste

SIGNS = SignActivation(StraightThrough())
PIXELS = InputForm(784, shift=33.3, scale=78.6, maximum=255.0, integer=True)
REALS = InputForm(12)
IMAGES = InputForm(64, shape=(1, 8, 8))


def coins(shape: torch.Size, rng: torch.Generator) -> Bernoulli:
    return Bernoulli(sign(initial_uniform(shape, rng)))


def network(form: InputForm = REALS, *, seed: int = 0, **options):
    return build("mlp", form, 3, coins, generator("architecture", seed), **options)


def binary_weights(model: torch.nn.Module) -> int:
    return sum(law.shape.numel() for _, law in laws(model) if law.levels is not None)


# ------------------------------------------------------------------------------------------- the BayesBiNN MLP


@pytest.fixture(scope="module")
def bayesbinn_mlp():
    return build("mlp", PIXELS, 10, coins, generator("bayesbinn mlp"), **MLP_BAYESBINN)


def test_the_bayesbinn_mlp_has_its_binary_weights_and_nothing_else(bayesbinn_mlp):
    shapes = [tuple(law.shape) for _, law in laws(bayesbinn_mlp)]
    assert shapes == [(2048, 784), (2048, 2048), (2048, 2048), (10, 2048)]
    assert binary_weights(bayesbinn_mlp) == 784 * 2048 + 2 * 2048**2 + 2048 * 10  # 10.01 M
    # no bias, no batch-norm affine: the laws hold every parameter
    assert sum(p.numel() for p in bayesbinn_mlp.parameters()) == binary_weights(bayesbinn_mlp)


def test_the_bayesbinn_mlp_is_dropout_linear_norm_relu_with_a_norm_after_the_last(bayesbinn_mlp):
    kinds = [type(layer).__name__ for layer in bayesbinn_mlp.layers]
    hidden = ["Dropout", "BinaryLinear", "BatchNorm", "Activation"]
    # the first layer owns the input's dropout
    assert kinds == ["InputLinear", "BatchNorm", "Activation", *hidden, *hidden, "Dropout", "BinaryLinear", "BatchNorm"]
    dropouts = [m.p for m in bayesbinn_mlp.modules() if isinstance(m, Dropout)]
    assert dropouts == [0.2] * 4
    norms = [m for m in bayesbinn_mlp.modules() if isinstance(m, BatchNorm)]
    assert [(n.weight, n.bias, n.eps, n.momentum) for n in norms] == [(None, None, 1e-4, 0.15)] * 4
    assert [n.running_mean.numel() for n in norms] == [2048, 2048, 2048, 10]
    assert [m.function for m in bayesbinn_mlp.modules() if isinstance(m, Activation)] == ["relu"] * 3
    assert bayesbinn_mlp.activation_bits == 32


def test_the_bayesbinn_mlp_drops_a_fifth_before_every_linear_map():
    # What each contraction receives, seen by a reading that keeps it. Narrow, and hardtanh for relu: it makes no zeros
    # of its own, so every zero is a dropped entry.
    received = []

    def keep(law, contract, x, rng, tape):
        received.append(x)
        return contract(x, law.mode().detach())

    options = {**MLP_BAYESBINN, "widths": (400, 400, 400), "activation": "hardtanh"}
    model = build("mlp", InputForm(400), 10, coins, generator("narrow"), **options)
    x = 1.0 + torch.rand(500, 400, generator=generator("x"))
    model(x, Reading(keep, SIGNS, Training()), generator("noise"))
    n = 500 * 400
    assert len(received) == 4
    for signal in received:
        assert abs((signal == 0).double().mean().item() - 0.2) < 5 * (0.2 * 0.8 / n) ** 0.5


# -------------------------------------------------------------------------------------------- network = formula


@pytest.mark.parametrize("activation", ["relu", "hardtanh", "sign"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("widths", [(7,), (7, 5), (6, 6, 6)])
def test_a_network_is_linear_norm_activation_per_width_then_linear_norm(widths, affine, activation):
    form = InputForm(12, shift=0.5, scale=2.0)
    model = network(form, widths=widths, affine=affine, activation=activation, eps=1e-2).double()
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    rng = generator("affine")
    for norm in norms:
        if affine:
            torch.nn.init.normal_(norm.weight, generator=rng)
            torch.nn.init.normal_(norm.bias, generator=rng)
    x = torch.randn((40, 12), generator=rng, dtype=torch.float64)
    functions = {"relu": F.relu, "hardtanh": F.hardtanh, "sign": sign}
    expected = (x - 0.5) / 2.0
    for i, (norm, (_, law)) in enumerate(zip(norms, laws(model), strict=True)):
        h = expected @ law.mode().detach().T
        h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-2).sqrt()
        h = h * norm.weight + norm.bias if affine else h
        expected = h if i == len(widths) else functions[activation](h)
    out = model(x, Reading(mode_weights(model), SIGNS, Training()), generator("unused"))
    # rounding of 1e-16 grows by fan-in and by 1 / sqrt(eps) = 10 a layer; signs flip only at |h| < 1e-12
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_dropout_is_before_every_linear_map_including_the_first(p):
    model = network(widths=(7, 5), dropout=p)
    assert [m.p for m in model.modules() if isinstance(m, Dropout)] == [p] * 3


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_eps_and_momentum_reach_every_batch_norm(eps, momentum):
    norms = [m for m in network(eps=eps, momentum=momentum).modules() if isinstance(m, BatchNorm)]
    assert [(n.eps, n.momentum) for n in norms] == [(eps, momentum)] * 3


# -------------------------------------------------------------------------------------------------- the policy


@pytest.mark.parametrize("first", ["binary", "real"])
@pytest.mark.parametrize("last", ["binary", "real"])
@pytest.mark.parametrize("widths", [(7,), (7, 5)])
def test_first_and_last_layer_have_the_law_their_policy_says(first, last, widths):
    if (first, last, len(widths)) == ("real", "real", 1):
        with pytest.raises(ValueError, match="leave one hidden layer no binary weights; add a width"):
            network(widths=widths, first=first, last=last)
        return
    model = network(widths=widths, first=first, last=last)
    kinds = [type(law) for _, law in laws(model)]
    law_of = {"binary": Bernoulli, "real": Real}
    assert kinds == [law_of[first], *[Bernoulli] * (len(widths) - 1), law_of[last]]
    sizes = (12, *widths, 3)
    real = (first == "real") * sizes[0] * sizes[1] + (last == "real") * sizes[-2] * sizes[-1]
    assert binary_weights(model) == sum(a * b for a, b in zip(sizes, sizes[1:], strict=False)) - real


@pytest.mark.parametrize("policy", [{"first": "real"}, {"last": "real"}, {"activation": "sign"}, {"affine": True}])
def test_the_remaining_binary_layers_start_alike_under_every_policy(policy):
    plain, other = dict(laws(network())), dict(laws(network(**policy)))
    assert list(plain) == list(other)
    shared = [name for name in plain if isinstance(other[name], Bernoulli)]
    assert len(shared) >= 2
    for name in shared:
        assert torch.equal(plain[name].natural, other[name].natural)


@pytest.mark.parametrize("shape", [(400, 50), (50, 400)])
def test_real_weights_have_unit_gain(shape):
    # Var U(-a, a) = a^2 / 3 = 1 / fan_in at a = sqrt(3 / fan_in); n = 20000 weights, whose squares over a^2 have
    # variance 4 / 45: 5 sd of the ratio = 5 sqrt(4 / 45 * 9 / n) = 0.032
    weights = real_law(torch.Size(shape), generator("real")).latents.detach()
    assert weights.abs().max() <= (3 / shape[1]) ** 0.5
    assert abs(weights.square().mean().item() * shape[1] - 1) < 0.032


def test_only_whole_number_inputs_are_promised_exact_sums():
    huge = {"features": 70000, "maximum": 255.0}
    with pytest.raises(ValueError, match=r"2\^24"):
        network(InputForm(**huge, integer=True), widths=(1,))
    assert isinstance(network(InputForm(**huge), widths=(1,)).layers[0], InputLinear)


# --------------------------------------------------------------------------------- identical init across methods

METHODS = {
    "ste": ste,
    "bop": bop,
    "bayesbinn": bayesbinn,
    "bayesbinn-published": bayesbinn_published,
    "full-precision": full_precision,
}


def initial_signs(law, seed: int) -> str:
    """SHA-256 of the packed signs of every initial weight, with names and shapes."""
    model = build("mlp", InputForm(30), 4, law, generator("init", seed), widths=(20, 10))
    digest = hashlib.sha256()
    for name, weights in laws(model):
        digest.update(f"{name}{tuple(weights.shape)}".encode())
        digest.update(np.packbits((weights.mode() >= 0).numpy()).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("seed", [0, 1])
def test_every_method_starts_from_the_same_signs_at_the_same_seed(seed):
    hashes = {name: initial_signs(factory().law, seed) for name, factory in METHODS.items()}
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.parametrize("name", METHODS)
def test_another_seed_starts_from_other_signs_of_even_odds(name):
    law = METHODS[name]().law
    assert initial_signs(law, 0) != initial_signs(law, 1)
    drawn = law(torch.Size((100, 100)), generator("odds"))
    # 10000 fair coins: 5 sd of the mean sign = 0.05
    assert abs(torch.sign(drawn.mode().detach()).mean().item()) < 0.05


def test_initialisation_takes_its_noise_from_the_passed_generator_only():
    before = torch.get_rng_state()
    first = network(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    again = network(seed=4)
    for (name, one), (_, other) in zip(laws(first), laws(again), strict=True):
        assert torch.equal(one.natural, other.natural), name


# ------------------------------------------------------------------------------------------- schema and messages


def test_defaults_are_the_schema_of_the_options():
    schema = defaults("mlp")
    keywords = inspect.signature(mlp).parameters.values()
    assert list(schema) == [p.name for p in keywords if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert {"widths", "activation", "dropout", "affine", "eps", "momentum", "first", "last"} == set(schema)
    json.dumps(schema)  # records hold it as JSON
    plain, spelt = network(), network(**schema)
    assert repr(plain) == repr(spelt)
    for (_, one), (_, other) in zip(laws(plain), laws(spelt), strict=True):
        assert torch.equal(one.natural, other.natural)


def test_defaults_are_a_fresh_value_each_time():
    defaults("mlp")["widths"] = (1,)
    assert defaults("mlp")["widths"] == (512, 512)


def test_every_architecture_is_fully_described_by_its_defaults():
    for name in ARCHITECTURES:
        assert inspect.Parameter.empty not in defaults(name).values()
        model = build(name, IMAGES, 3, coins, generator("any"), **defaults(name))
        assert any(isinstance(m, BinaryLinear) for m in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, r"network.widths must be positive integers \(got \(\)\)"),
        ({"widths": (8, 0)}, r"network.widths must be positive integers \(got \(8, 0\)\)"),
        ({"widths": (-3,)}, r"network.widths must be positive integers \(got \(-3,\)\)"),
        ({"first": "ternary"}, r"network.first must be binary or real \(got 'ternary'\)"),
        ({"last": "fp"}, r"network.last must be binary or real \(got 'fp'\)"),
        ({"activation": "gelu"}, r"network.activation must be one of relu, hardtanh, sign \(got 'gelu'\)"),
        ({"dropout": 1.0}, r"network.dropout must be in \[0, 1\) \(got 1.0\)"),
        ({"eps": 0.0}, r"network.eps must be finite and > 0 \(got 0.0\)"),
        ({"momentum": 2.0}, r"network.momentum must be in \[0, 1\] \(got 2.0\)"),
    ],
)
def test_a_bad_option_is_named_as_the_user_types_it(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


@pytest.mark.parametrize("use", [defaults, lambda name: build(name, REALS, 3, coins, generator("x"))])
def test_an_unknown_architecture_lists_the_known_ones(use):
    with pytest.raises(ValueError, match=r"network.name must be one of mlp, .* \(got 'cnn'\)"):
        use("cnn")
