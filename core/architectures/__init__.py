"""Networks by name, with an explicit policy for first and last layer, batch norm and activations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from core.architectures.dense import MLP_BAYESBINN, mlp
from core.architectures.parts import InputForm, LawFactory, real_law
from core.architectures.plain import LENET_PBNET, VGG_BAYESBINN, VGG_PBNET, VGG_VISPA, lenet, vgg_small
from core.architectures.residual import RESNET18_VISPA, resnet18
from core.interface import Rng
from core.layers import Network

ARCHITECTURES: Mapping[str, Callable[..., Network]] = {
    "mlp": mlp,
    "lenet": lenet,
    "vgg-small": vgg_small,
    "resnet18": resnet18,
}

__all__ = [
    "ARCHITECTURES",
    "InputForm",
    "LENET_PBNET",
    "LawFactory",
    "MLP_BAYESBINN",
    "RESNET18_VISPA",
    "VGG_BAYESBINN",
    "VGG_PBNET",
    "VGG_VISPA",
    "build",
    "defaults",
    "lenet",
    "mlp",
    "real_law",
    "resnet18",
    "vgg_small",
]


def defaults(name: str) -> dict[str, Any]:
    """The architecture's keyword options with their defaults: the schema of `--set network.KEY=VALUE`."""
    parameters = inspect.signature(_architecture(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(
    name: str, form: InputForm, classes: int, law: LawFactory, rng: Rng, role: str = "batch", **options: Any
) -> Network:
    """The named architecture for a problem's inputs and classes, its laws initialised from `rng`.

    role: the normalisation that the method declares. Raises ValueError for an option or a form that it cannot take.
    """
    return _architecture(name)(form, classes, law, rng, role, **options)


def _architecture(name: str) -> Callable[..., Network]:
    if name not in ARCHITECTURES:
        raise ValueError(f"network.name must be one of {', '.join(ARCHITECTURES)} (got {name!r})")
    return ARCHITECTURES[name]
