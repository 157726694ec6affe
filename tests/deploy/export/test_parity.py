"""Packed networks say what the network says in torch: every architecture, both kinds of activation."""

import pytest
import torch
from torch import Tensor

from core.architectures import InputForm, build
from core.deploy.export import export
from core.interface import Rng
from core.laws import Point, initial_uniform
from core.layers import Network

SHAPE = (3, 12, 12)
FORM = InputForm(432, shift=100.3, scale=61.7, maximum=255.0, integer=True, shape=SHAPE)
ALL_BINARY = {"first": "binary", "last": "binary"}
NETWORKS = {
    "mlp": ("mlp", {"widths": (40, 33), "dropout": 0.2}),
    "mlp, affine": ("mlp", {"widths": (31, 64), "affine": True}),
    "lenet": ("lenet", {"channels": (20, 37), "units": 50}),
    "lenet, pool before norm": (
        "lenet",
        {"channels": (20, 37), "units": 50, "affine": True, "pool": "before-norm", "channel_scale": "learned"},
    ),
    "lenet, no padding": ("lenet", {"channels": (32, 5), "units": 7, "affine": True, "padding": 0}),
    "vgg-small": ("vgg-small", {"channels": (16, 32, 64), "units": 128, "affine": True}),
    "resnet18": ("resnet18", {"channels": (8, 16, 32, 64), "affine": True, "downsample": "binary", **ALL_BINARY}),
    "resnet18, no affine": ("resnet18", {"channels": (8, 8, 16, 16), "downsample": "binary", **ALL_BINARY}),
}
INEXACT = {
    "resnet18, averages of 36": ("resnet18", {"channels": (8, 16), "downsample": "binary", **ALL_BINARY}),
    "mlp, real ends": ("mlp", {"widths": (40, 33), "first": "real", "last": "real"}),
    "lenet, real first": ("lenet", {"channels": (20, 37), "units": 50, "first": "real", "affine": True}),
    "vgg-small, real ends": ("vgg-small", {"channels": (16, 32), "hidden": 0, "first": "real", "last": "real"}),
    "resnet18": ("resnet18", {"channels": (8, 16, 32, 64), "affine": True, "channel_scale": "learned"}),
    "resnet18, bi-real": ("resnet18", {"channels": (8, 16, 32, 64), "block": "bi-real", "affine": True}),
    "resnet18, bi-real, binary": (
        "resnet18",
        {"channels": (8, 16, 32), "block": "bi-real", "downsample": "binary", **ALL_BINARY},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_sums_signs_and_logits_are_identical(name: str, case, check_identical) -> None:
    net = network(*NETWORKS[name], activation="sign")
    inputs, unseen = pixels(200), pixels(100, seed=2)
    packed = export(net, inputs=inputs)
    check_identical(case(net, inputs), packed, unseen)


@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
@pytest.mark.parametrize("name", NETWORKS)
def test_classes_are_equal_under_real_activations(name: str, activation: str, case, check_close) -> None:
    net = network(*NETWORKS[name], activation=activation)
    inputs = pixels(200)
    packed = export(net, inputs=inputs)
    assert "activations are real" in packed.form.facts["inexact_because"]
    check_close(case(net, inputs), packed, pixels(100, seed=2))


@pytest.mark.parametrize("name", INEXACT)
def test_classes_are_equal_where_layers_stay_real(name: str, case, check_close) -> None:
    net = network(*INEXACT[name], activation="sign")
    inputs = pixels(200)
    packed = export(net, inputs=inputs)
    assert not packed.form.facts["exact"]
    check_close(case(net, inputs), packed, pixels(100, seed=2), strays=0.05)


def network(name: str, options: dict, *, activation: str) -> Network:
    """With gains and scales of both signs, and some that are 0."""
    rng = Rng().manual_seed(0)
    law = lambda shape, rng: Point(initial_uniform(shape, rng))  # noqa: E731
    net = build(name, FORM, 10, law, rng, activation=activation, **options)
    with torch.no_grad():
        for parameter in (p for key, p in net.named_parameters() if "law" not in key):
            parameter.normal_(generator=rng)
            parameter[:: 1 + len(parameter) // 3] = 0.0
    return net


def pixels(n: int, *, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (n, *SHAPE), generator=Rng().manual_seed(seed), dtype=torch.uint8)
