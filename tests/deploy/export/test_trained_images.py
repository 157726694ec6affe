"""`vgg-small` and `resnet18` at an eighth of their width, after 20 steps on pictures, as every option leaves them."""

import pytest
import torch
from torch import Tensor

import methods
from core.architectures import InputForm, build
from core.deploy.export import export
from core.fit import Run, fit
from core.interface import Budget, Rng
from core.layers import Network

SHAPE = (3, 32, 32)
FORM = InputForm(3072, shift=120.7, scale=64.2, maximum=255.0, integer=True, shape=SHAPE)
VGG = {"channels": (16, 32, 64), "units": 128}
RESNET = {"channels": (8, 16, 32, 64)}
BINARY = {"first": "binary", "last": "binary"}
EXACT = {
    "vgg-small": ("vgg-small", VGG),
    "vgg-small, affine, scales": ("vgg-small", {**VGG, "affine": True, "channel_scale": "learned"}),
    "vgg-small, pool after norm": ("vgg-small", {**VGG, "affine": True, "pool": "after-norm", "hidden": 1}),
    "resnet18": ("resnet18", {**RESNET, **BINARY, "downsample": "binary"}),
    "resnet18, affine, scales": (
        "resnet18",
        {**RESNET, **BINARY, "downsample": "binary", "affine": True, "channel_scale": "learned"},
    ),
}
REAL_LAYERS = {
    "vgg-small, real ends": ("vgg-small", {**VGG, "first": "real", "last": "real", "hidden": 0}),
    "resnet18, real ends and shortcuts": ("resnet18", {**RESNET, "affine": True, "channel_scale": "learned"}),
    "resnet18, real shortcuts": ("resnet18", {**RESNET, **BINARY}),
    "resnet18, bi-real": ("resnet18", {**RESNET, "block": "bi-real", "affine": True}),
    "resnet18, bi-real, binary": ("resnet18", {**RESNET, **BINARY, "block": "bi-real", "downsample": "binary"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ste", "bayesbinn"])
@pytest.mark.parametrize("name", EXACT)
def test_all_binary_networks_are_identical(name: str, method: str, case, check_identical) -> None:
    net, inputs, unseen = trained(method, *EXACT[name], activation="sign")
    check_identical(case(net, inputs), export(net, inputs=inputs), unseen)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_LAYERS)
def test_networks_with_real_layers_have_equal_classes(name: str, case, check_close) -> None:
    net, inputs, unseen = trained("ste", *REAL_LAYERS[name], activation="sign")
    packed = export(net, inputs=inputs)
    assert not packed.form.facts["exact"]
    check_close(case(net, inputs), packed, unseen, strays=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg-small", "resnet18, affine, scales"])
def test_networks_with_real_activations_have_equal_classes(name: str, case, check_close) -> None:
    net, inputs, unseen = trained("ste", *EXACT[name], activation="relu")
    check_close(case(net, inputs), export(net, inputs=inputs), unseen)


def trained(method: str, name: str, options: dict, *, activation: str) -> tuple[Network, Tensor, Tensor]:
    made, rng = methods.make(method), Rng().manual_seed(0)
    net = build(name, FORM, 10, made.law, rng, activation=activation, **options)
    inputs, labels = pictures(120, seed=1)
    noise, order = Rng().manual_seed(2), Rng().manual_seed(3)
    run = Run(net, made, inputs, labels, Budget(120, 20, 20), schedule="cosine", order=order, noise=noise)
    assert fit(run).diverged is None
    return net, inputs, pictures(60, seed=4)[0]


def pictures(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Noise over a pattern of each class."""
    patterns = torch.rand(10, *SHAPE, generator=Rng().manual_seed(0)) * 120 + 60
    labels = torch.arange(n) % 10
    noise = 40 * torch.randn(n, *SHAPE, generator=Rng().manual_seed(seed))
    return (patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels
