"""What architectures are made of: the input's form, and the parts of one network under one policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn

from core.interface import Rng, WeightLaw
from core.laws import Real, initial_uniform
from core.layers import BatchNorm, BinaryLinear, Dropout, InputLinear
from core.spatial import BinaryConv2d, ChannelScale, InputConv2d

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

    def image(self, network: str) -> tuple[int, int, int]:
        """(channels, height, width) for `network`, which convolves. Raises ValueError where inputs are no images."""
        if not self.shape:
            raise ValueError(
                f"network.name={network} convolves images, and this problem's inputs are {self.features} features "
                "without a shape; use network.name=mlp, or a problem of images"
            )
        channels, height, width = self.shape
        return channels, height, width


@dataclass(frozen=True)
class Parts:
    """The layers of one network, all under its one policy. Laws are made in the order of the calls.

    Each linear map comes after its dropout and before its channel scale; `kind` is binary (the method's law) or real.
    """

    form: InputForm
    law: LawFactory
    rng: Rng
    role: str
    activation: str
    affine: bool
    eps: float
    momentum: float
    dropout: float = 0.0
    channel_scale: str = "none"

    def __post_init__(self) -> None:
        one_of("channel_scale", self.channel_scale, ("none", "learned"))

    @property
    def signs(self) -> bool:
        """Whether a linear map after an activation receives nothing but -1 and +1."""
        return self.activation == "sign" and self.dropout == 0

    def norm(self, channels: int) -> BatchNorm:
        return BatchNorm(channels, affine=self.affine, eps=self.eps, momentum=self.momentum, role=self.role)

    def first_linear(self, n_out: int, kind: str) -> list[nn.Module]:
        law = self._weights(kind, n_out, self.form.features)
        layer = InputLinear(
            law, shift=self.form.shift, scale=self.form.scale, maximum=self._maximum, dropout=self.dropout
        )
        return [layer, *self._scale(law)]

    def linear(self, n_in: int, n_out: int, kind: str, *, signs: bool | None = None) -> list[nn.Module]:
        law = self._weights(kind, n_out, n_in)
        layer = BinaryLinear(law, signs=self.signs if signs is None else signs)
        return [Dropout(self.dropout), layer, *self._scale(law)]

    def first_convolution(self, shape: tuple[int, int, int], n_out: int, kind: str, padding: int) -> list[nn.Module]:
        law = self._weights(kind, n_out, shape[0], 3, 3)
        layer = InputConv2d(
            law,
            shape=shape,
            padding=padding,
            shift=self.form.shift,
            scale=self.form.scale,
            maximum=self._maximum,
            dropout=self.dropout,
        )
        return [layer, *self._scale(law)]

    def convolution(
        self,
        n_in: int,
        n_out: int,
        kind: str,
        *,
        size: int = 3,
        stride: int = 1,
        padding: int,
        signs: bool | None = None,
    ) -> list[nn.Module]:
        law = self._weights(kind, n_out, n_in, size, size)
        layer = BinaryConv2d(law, stride=stride, padding=padding, signs=self.signs if signs is None else signs)
        return [Dropout(self.dropout), layer, *self._scale(law)]

    @property
    def _maximum(self) -> float:
        return self.form.maximum if self.form.integer else 0.0  # only whole numbers promise exact sums

    def _weights(self, kind: str, *shape: int) -> WeightLaw:
        return (real_law if kind == "real" else self.law)(torch.Size(shape), self.rng)

    def _scale(self, law: WeightLaw) -> list[nn.Module]:
        binary = law.levels is not None
        return [ChannelScale(law.shape[0])] if binary and self.channel_scale == "learned" else []


def real_law(shape: torch.Size, rng: Rng) -> Real:
    """Real weights, uniform in +-sqrt(3 / fan_in): unit gain on unit-variance inputs."""
    return Real(initial_uniform(shape, rng) * math.sqrt(3 / math.prod(shape[1:])))


def one_of(key: str, value: str, known: Collection[str]) -> None:
    """Raises ValueError unless the option network.KEY has one of its known values."""
    if value not in known:
        *others, last = known
        raise ValueError(f"network.{key} must be {', '.join(others)} or {last} (got {value!r})")


def positive_integers(key: str, values: tuple[int, ...]) -> None:
    """Raises ValueError unless the option network.KEY is a list of at least one integer >= 1."""
    if not values or any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"network.{key} must be positive integers (got {values})")


def at_least(key: str, value: int, bound: int) -> None:
    """Raises ValueError unless the option network.KEY is at least `bound`."""
    if value < bound:
        raise ValueError(f"network.{key} must be >= {bound} (got {value})")
