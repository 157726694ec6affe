"""Networks by name, with an explicit policy for first and last layer, batch norm and activations.

`mlp` covers the fully connected nets of the literature; MLP_BAYESBINN is the MNIST net of Meng et al. 2020
(784-2048x3-10, dropout 0.2 before every layer, batch norm without affine, eps 1e-4, momentum 0.15, all layers binary).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.interface import Rng, WeightLaw
from core.laws import Real, initial_uniform
from core.layers import Activation, BatchNorm, BinaryLinear, Dropout, InputLinear, Network

LawFactory = Callable[[torch.Size, Rng], WeightLaw]


@dataclass(frozen=True)
class InputForm:
    """What a network receives: raw values of `features` numbers and their normalisation (x - shift) / scale.

    maximum: largest |raw value|; integer: raw values are whole numbers (then first-layer sums are exact). shape:
    (channels, height, width) of images, () for other features. One shift and scale for all channels: then the exact
    integer sums of a first convolution are normalised by one multiply and one add.
    """

    features: int
    shift: float = 0.0
    scale: float = 1.0
    maximum: float = 1.0
    integer: bool = False
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.shape and (len(self.shape) != 3 or math.prod(self.shape) != self.features):
            raise ValueError(
                f"shape must be (channels, height, width) of {self.features} features in all (got {self.shape})"
            )


MLP_BAYESBINN: dict[str, Any] = {"widths": (2048, 2048, 2048), "dropout": 0.2}


def mlp(
    form: InputForm,
    classes: int,
    law: LawFactory,
    rng: Rng,
    role: str = "batch",
    *,
    widths: tuple[int, ...] = (512, 512),
    activation: str = "relu",
    dropout: float = 0.0,
    affine: bool = False,
    eps: float = 1e-4,
    momentum: float = 0.15,
    first: str = "binary",
    last: str = "binary",
) -> Network:
    """[dropout -> linear -> batch norm -> activation] per width, then dropout -> linear -> batch norm (the logits).

    widths: hidden units per layer. activation: relu, hardtanh or sign. dropout: probability, before every linear map,
    the input's included. affine, eps, momentum: batch norm's. first, last: binary (the method's law) or real. role: the
    normalisation that the method declares.
    """
    _check_widths(widths)
    pick = {"binary": law, "real": real_law}
    for key, policy in (("first", first), ("last", last)):
        if policy not in pick:
            raise ValueError(f"network.{key} must be binary or real (got {policy!r})")
    if first == last == "real" and len(widths) == 1:
        raise ValueError(
            "network.first=real and network.last=real leave one hidden layer no binary weights; add a width"
        )
    sizes = (form.features, *widths, classes)
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        is_last = i == len(sizes) - 2
        factory = pick[first] if i == 0 else pick[last] if is_last else law
        weights = factory(torch.Size((n_out, n_in)), rng)
        if i == 0:
            layers.append(_input_layer(weights, form, dropout))
        else:
            layers += [Dropout(dropout), BinaryLinear(weights, signs=activation == "sign" and dropout == 0)]
        layers.append(BatchNorm(n_out, affine=affine, eps=eps, momentum=momentum, role=role))
        if not is_last:
            layers.append(Activation(activation))
    return Network(*layers, activation=activation)


ARCHITECTURES: Mapping[str, Callable[..., Network]] = {"mlp": mlp}


def defaults(name: str) -> dict[str, Any]:
    """The architecture's keyword options with their defaults: the schema of `--set network.KEY=VALUE`."""
    parameters = inspect.signature(_architecture(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(
    name: str, form: InputForm, classes: int, law: LawFactory, rng: Rng, role: str = "batch", **options: Any
) -> Network:
    """The named architecture for a problem's inputs and classes, its laws initialised from `rng`.

    role: the normalisation that the method declares.
    """
    return _architecture(name)(form, classes, law, rng, role, **options)


def real_law(shape: torch.Size, rng: Rng) -> Real:
    """Real weights, uniform in +-sqrt(3 / fan_in): unit gain on unit-variance inputs."""
    return Real(initial_uniform(shape, rng) * math.sqrt(3 / math.prod(shape[1:])))


def _architecture(name: str) -> Callable[..., Network]:
    if name not in ARCHITECTURES:
        raise ValueError(f"network.name must be one of {', '.join(ARCHITECTURES)} (got {name!r})")
    return ARCHITECTURES[name]


def _input_layer(law: WeightLaw, form: InputForm, dropout: float) -> InputLinear:
    maximum = form.maximum if form.integer else 0.0  # only whole numbers promise exact sums
    return InputLinear(law, shift=form.shift, scale=form.scale, maximum=maximum, dropout=dropout)


def _check_widths(widths: tuple[int, ...]) -> None:
    if not widths or any(not isinstance(w, int) or w < 1 for w in widths):
        raise ValueError(f"network.widths must be positive integers (got {widths})")
