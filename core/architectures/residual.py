"""Residual networks: `resnet18` in its CIFAR form (He et al. 2016), with basic blocks or those of Bi-Real net.

Bi-Real net: Liu et al. 2018 (arXiv 1808.00278), a shortcut around every convolution.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from core.architectures.parts import InputForm, LawFactory, Parts, one_of, positive_integers
from core.interface import Rng
from core.layers import Activation, Chain, Network
from core.spatial import AveragePool, Flatten, Residual

RESNET18_VISPA: dict[str, Any] = {"activation": "sign", "affine": True, "channel_scale": "learned"}
BLOCKS = 2  # a stage


def resnet18(
    form: InputForm,
    classes: int,
    law: LawFactory,
    rng: Rng,
    role: str = "batch",
    *,
    channels: tuple[int, ...] = (64, 128, 256, 512),
    block: str = "basic",
    activation: str = "relu",
    affine: bool = False,
    eps: float = 1e-5,
    momentum: float = 0.1,
    first: str = "real",
    last: str = "real",
    downsample: str = "real",
    channel_scale: str = "none",
    assume_independent: bool = False,
) -> Network:
    """3x3 convolution, then two blocks of two 3x3 convolutions per entry of `channels`, average pool, linear.

    Every stage but the first halves height and width (rounded up). block: basic, [convolution -> batch norm ->
    activation -> convolution -> batch norm] + shortcut -> activation; or bi-real, twice [activation -> convolution ->
    batch norm] + shortcut, whose stream of sums stays real under sign activations: the only real activations then,
    besides the input and the pooled features. downsample: binary or real weights of the 1x1 convolution in a shortcut
    that changes shape (bi-real: of the 2 x 2 averaged stream). first, last: binary (the method's law) or real.
    activation, affine, eps, momentum, channel_scale: as for `lenet`; batch norm follows the last layer too.
    assume_independent: let moments be propagated through residual sums as if their branches were independent.
    """
    positive_integers("channels", channels)
    one_of("block", block, ("basic", "bi-real"))
    for key, kind in (("first", first), ("last", last), ("downsample", downsample)):
        one_of(key, kind, ("binary", "real"))
    parts = Parts(form, law, rng, role, activation, affine, eps, momentum, channel_scale=channel_scale)
    image = form.image("resnet18")
    layers = [*parts.first_convolution(image, channels[0], first, padding=1), parts.norm(channels[0])]
    if block == "basic":
        layers.append(Activation(activation))
    make = _basic if block == "basic" else _bi_real
    n_in, (height, width) = channels[0], image[1:]
    for stage, n_out in enumerate(channels):
        for i in range(BLOCKS):
            halves = stage > 0 and i == 0
            layers += make(parts, n_in, n_out, 2 if halves else 1, downsample, assume_independent)
            n_in = n_out
        if stage > 0:
            height, width = -(-height // 2), -(-width // 2)
    layers += [AveragePool((height, width)), Flatten(), *parts.linear(n_in, classes, last, signs=False)]
    return Network(*layers, parts.norm(classes), activation=activation)


def _basic(
    parts: Parts, n_in: int, n_out: int, stride: int, downsample: str, assume_independent: bool
) -> list[nn.Module]:
    branch = [*parts.convolution(n_in, n_out, "binary", stride=stride, padding=1), parts.norm(n_out)]
    branch += [Activation(parts.activation), *parts.convolution(n_out, n_out, "binary", padding=1), parts.norm(n_out)]
    shortcut: list[nn.Module] = []
    if (n_in, stride) != (n_out, 1):
        shortcut = [*parts.convolution(n_in, n_out, downsample, size=1, stride=stride, padding=0), parts.norm(n_out)]
    sum_ = Residual(Chain(*branch), Chain(*shortcut), assume_independent=assume_independent)
    return [sum_, Activation(parts.activation)]


def _bi_real(
    parts: Parts, n_in: int, n_out: int, stride: int, downsample: str, assume_independent: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for n, step in ((n_in, stride), (n_out, 1)):
        branch = [Activation(parts.activation), *parts.convolution(n, n_out, "binary", stride=step, padding=1)]
        shortcut: list[nn.Module] = []
        if (n, step) != (n_out, 1):
            pool: list[nn.Module] = [AveragePool((step, step))] if step > 1 else []
            linear = parts.convolution(n, n_out, downsample, size=1, padding=0, signs=False)
            shortcut = [*pool, *linear, parts.norm(n_out)]
        whole = Chain(*branch, parts.norm(n_out))
        layers.append(Residual(whole, Chain(*shortcut), assume_independent=assume_independent))
    return layers
