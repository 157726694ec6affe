"""The protocols of the parity study, as data.

`full` is the papers': their networks, epochs and batches, on a GPU; where a paper does not say, ours. `short` fits a
CPU: smaller or shorter, and called "short protocol" wherever its numbers stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import architectures
from studies.published.protocols import Board, Protocol

EVERY_METHOD = (
    "full-precision",
    "ste",
    "bop",
    "bayesbinn",
    "bayesbinn-published",
    "blrnet",
    "blrnet-propagate",
    "gaussian-vi",
    "lowrank-sdp",
    "lowrank-sdp-published",
)
_PUBLISHED_STE = {"lr": 1e-2}  # of the straight-through runs in the BayesBiNN paper and its reproduction
_LONG: dict[str, Mapping[str, Any]] = {
    "full-precision": {"lr": 1e-3},
    "ste": _PUBLISHED_STE,
    "bop": {},
    "bayesbinn": {},
    "bayesbinn-published": {"lr": 1e-4},
    "blrnet": {},
    "blrnet-propagate": {},
    "gaussian-vi": {},
    "lowrank-sdp": {},
    "lowrank-sdp-published": {},
}

FULL = Protocol(
    name="full",
    label="full protocol",
    seeds=5,
    boards=(
        Board(
            name="mnist-mlp",
            title="MNIST, 784-2048x3-10, dropout 0.2, W1/A32",
            problem="mnist",
            network={"name": "mlp", **architectures.MLP_BAYESBINN},
            epochs=500,
            batch=100,
            methods=_LONG,
            recipes=("mnist-mlp", "mnist-mlp-again", "mnist-mlp-again-ste"),
        ),
        Board(
            name="mnist-lenet",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, W1/A1",
            problem="mnist",
            network={"name": "lenet", **architectures.LENET_PBNET},
            epochs=200,
            batch=100,
            methods={name: _LONG[name] for name in ("blrnet", "blrnet-propagate", "ste", "bop")},
            recipes=("mnist-lenet", "mnist-bnn"),
        ),
        Board(
            name="mnist-lenet-real",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, W1/A32",
            problem="mnist",
            network={"name": "lenet", "activation": "relu", "affine": True},
            epochs=200,
            batch=100,
            methods={name: _LONG[name] for name in ("full-precision", "ste", "bayesbinn-published", "blrnet")},
            recipes=("mnist-fpnet", "mnist-lrnet"),
        ),
        Board(
            name="cifar10-vgg",
            title="CIFAR-10, VGG-BinaryConnect, W1/A32",
            problem="cifar10",
            network={"name": "vgg-small", **architectures.VGG_BAYESBINN, "activation": "relu"},
            epochs=500,
            batch=50,
            methods={
                "full-precision": {"lr": 1e-4},
                "ste": _PUBLISHED_STE,
                "bayesbinn": {},
                "bayesbinn-published": {"lr": 3e-4},
            },
            recipes=("cifar10-vgg", "cifar10-vgg-again", "cifar10-vgg-again-ste", "cifar10-fpnet"),
        ),
        Board(
            name="cifar10-vispa-vgg",
            title="CIFAR-10, VGG-Small, real first and last layer, W1/A1",
            problem="cifar10",
            network={"name": "vgg-small", **architectures.VGG_VISPA},
            epochs=600,
            batch=256,
            methods={
                "ste": _PUBLISHED_STE,
                "bop": {},
                "blrnet": {},
                "gaussian-vi": {},
                "lowrank-sdp": {"rank": 4},
                "lowrank-sdp-published": {"rank": 4, "lr": 0.5, "weight_decay": 1e-5},
            },
            recipes=("cifar10-vispa-vgg",),
        ),
        Board(
            name="cifar10-binarynet",
            title="CIFAR-10, VGG-BinaryConnect with signs (BinaryNet), W1/A1",
            problem="cifar10",
            network={"name": "vgg-small", **architectures.VGG_BAYESBINN, "activation": "sign", "affine": True},
            epochs=500,
            batch=50,
            methods={"ste": _PUBLISHED_STE, "bop": {}, "blrnet": {}},
            recipes=("cifar10-bop", "cifar10-bnn"),
        ),
        Board(
            name="cifar10-pbnet",
            title="CIFAR-10, PBNet's VGG, W1/A1",
            problem="cifar10",
            network={"name": "vgg-small", **architectures.VGG_PBNET},
            epochs=200,
            batch=100,
            methods={"ste": _PUBLISHED_STE, "blrnet": {}, "blrnet-propagate": {}},
            recipes=("cifar10-pbnet",),
        ),
        Board(
            name="cifar10-vispa-resnet18",
            title="CIFAR-10, ResNet-18, real first and last layer, W1/A1",
            problem="cifar10",
            network={"name": "resnet18", **architectures.RESNET18_VISPA},
            epochs=600,
            batch=256,
            methods={
                "ste": _PUBLISHED_STE,
                "lowrank-sdp": {"rank": 4},
                "lowrank-sdp-published": {"rank": 4, "lr": 0.5, "weight_decay": 1e-5},
            },
            recipes=("cifar10-vispa-resnet18",),
        ),
        Board(
            name="cifar10-vispa-resnet18-real",
            title="CIFAR-10, ResNet-18, real first and last layer, W1/A32",
            problem="cifar10",
            network={"name": "resnet18", **architectures.RESNET18_VISPA, "activation": "relu"},
            epochs=500,
            batch=256,
            methods={
                "full-precision": {"lr": 1e-3},
                "ste": _PUBLISHED_STE,
                "gaussian-vi": {},
                "lowrank-sdp": {"rank": 8},
                "lowrank-sdp-published": {"rank": 8, "lr": 0.1, "weight_decay": 5e-4},
            },
            recipes=("cifar10-vispa-resnet18-real",),
        ),
    ),
)
SHORT = Protocol(
    name="short",
    label="short protocol",
    seeds=1,
    boards=(
        Board(
            name="mnist-mlp",
            title="MNIST, 784-512-512-10, W1/A32",
            problem="mnist",
            network={"name": "mlp", "widths": (512, 512)},
            epochs=6,
            batch=100,
            methods=dict.fromkeys(EVERY_METHOD, {}),
            recipes=("mnist-mlp", "mnist-mlp-again", "mnist-mlp-again-ste"),
            milliseconds=dict(zip(EVERY_METHOD, (7.3, 6.8, 9.0, 7.6, 8.2, 20.0, 26.0, 13.3, 92.0, 24.3), strict=True)),
        ),
        Board(
            name="mnist-lenet",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, W1/A1",
            problem="mnist",
            network={"name": "lenet", **architectures.LENET_PBNET},
            epochs=4,
            batch=100,
            methods={"blrnet": {}, "ste": {}},
            recipes=("mnist-lenet", "mnist-bnn"),
            milliseconds={"blrnet": 150.0, "ste": 73.7},  # blrnet: its full-precision start included
        ),
        Board(
            name="mnist-lenet-real",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, full precision",
            problem="mnist",
            network={"name": "lenet", "activation": "relu", "affine": True},
            epochs=4,
            batch=100,
            methods={"full-precision": {}},
            recipes=("mnist-fpnet",),
            milliseconds={"full-precision": 73.0},
        ),
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (SHORT, FULL)}
