"""How the published numbers were trained, as far as what was read says.

A field is None where it does not; nothing is filled in by guess. Networks are in our own terms (the keywords of
`core.architectures`), so that differences can be computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from core.architectures import LENET_PBNET, MLP_BAYESBINN, RESNET18_VISPA, VGG_BAYESBINN, VGG_VISPA


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a number was trained. net: the paper's words; network: what of it our architectures can say.

    validation: training examples held out, 0 where none were. augmentation: "none" where the source says so. beyond:
    what of the net our architectures do not have, as differences ("ours for theirs").
    """

    problem: str
    net: str
    network: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    batch: int | None = None
    schedule: str | None = None
    validation: int | None = None
    augmentation: str | None = None
    beyond: tuple[str, ...] = ()


CROP_AND_FLIP = "crop from a pad of 4 and flip"
_BINARY_CONNECT_MLP = Recipe(
    problem="mnist",
    net="784-2048x3-10, dropout 0.2",
    network={"name": "mlp", **MLP_BAYESBINN, "activation": "relu", "affine": False},
)
_BINARY_CONNECT_VGG = Recipe(
    problem="cifar10",
    net="VGG-BinaryConnect, two layers of 1024",
    network={"name": "vgg-small", **VGG_BAYESBINN, "activation": "relu"},
)
_PBNET_LENET = Recipe(
    problem="mnist",
    net="32C3-MP2-64C3-MP2-512FC-10, signs",
    network={"name": "lenet", **LENET_PBNET},
)
_VISPA = Recipe(
    problem="cifar10",
    net="VGG-Small, signs, real first and last layer",
    network={"name": "vgg-small", **VGG_VISPA},
    epochs=600,
    batch=256,
    schedule="cosine",
    validation=0,
    augmentation=CROP_AND_FLIP,
    beyond=("no PReLU for one before each sign", "batch norm on the logits for none"),
)
RECIPES: Mapping[str, Recipe] = {
    "mnist-mlp": replace(
        _BINARY_CONNECT_MLP, epochs=500, batch=100, schedule="cosine", validation=6_000, augmentation="none"
    ),
    "mnist-mlp-again": _BINARY_CONNECT_MLP,
    "mnist-mlp-again-ste": replace(_BINARY_CONNECT_MLP, epochs=500, schedule="cosine"),
    "cifar10-vgg": replace(
        _BINARY_CONNECT_VGG, epochs=500, batch=50, schedule="cosine", validation=5_000, augmentation=CROP_AND_FLIP
    ),
    "cifar10-vgg-again": _BINARY_CONNECT_VGG,
    "cifar10-vgg-again-ste": replace(_BINARY_CONNECT_VGG, epochs=500, schedule="cosine"),
    "mnist-lenet": _PBNET_LENET,
    "mnist-fpnet": replace(
        _PBNET_LENET, net="32C3-MP2-64C3-MP2-512FC-10, full precision", network={"name": "lenet", "affine": True}
    ),
    "mnist-bnn": Recipe(problem="mnist", net="not said where it is quoted"),
    "mnist-lrnet": Recipe(
        problem="mnist",
        net="32C5-MP2-64C5-MP2-512FC-10, ReLU",
        network={"name": "lenet", "activation": "relu"},
        epochs=190,
        validation=0,
        beyond=("3x3 kernels for 5x5",),
    ),
    "cifar10-fpnet": Recipe(problem="cifar10", net="not said in what was read, full precision"),
    "cifar10-pbnet": Recipe(problem="cifar10", net="not said in what was read"),
    "cifar10-vispa-vgg": _VISPA,
    "cifar10-vispa-resnet18": replace(
        _VISPA,
        net="ResNet-18 (64-128-256-512), signs, real first and last layer",
        network={"name": "resnet18", **RESNET18_VISPA, "activation": "sign"},
    ),
    "cifar10-vispa-resnet18-real": replace(
        _VISPA,
        net="ResNet-18 (64-128-256-512), ReLU, real first and last layer",
        network={"name": "resnet18", **RESNET18_VISPA, "activation": "relu"},
        epochs=500,
    ),
    "cifar10-bop": Recipe(
        problem="cifar10",
        net="BinaryNet, signs, first layer binary too",
        network={"name": "vgg-small", "activation": "sign", "first": "binary"},
        epochs=500,
    ),
    "cifar10-bnn": Recipe(
        problem="cifar10",
        net="VGG of the BNN paper, signs",
        network={"name": "vgg-small", "activation": "sign"},
        augmentation="none",
    ),
}
