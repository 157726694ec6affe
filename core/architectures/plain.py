"""Convolutional networks without branches: `lenet` for small grey images, `vgg-small` for CIFAR.

LENET_PBNET, VGG_BAYESBINN, VGG_PBNET and VGG_VISPA are the options that make them the nets of Peters & Welling 2018,
Meng et al. 2020 and VISPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from core.architectures.parts import InputForm, LawFactory, Parts, at_least, one_of, positive_integers
from core.interface import Rng
from core.layers import Activation, Network
from core.spatial import Flatten, MaxPool

LENET_PBNET: dict[str, Any] = {"activation": "sign", "affine": True}
VGG_BAYESBINN: dict[str, Any] = {}
VGG_PBNET: dict[str, Any] = {"activation": "sign", "affine": True, "pool": "after-norm", "hidden": 1}
VGG_VISPA: dict[str, Any] = {
    "activation": "sign",
    "affine": True,
    "first": "real",
    "last": "real",
    "hidden": 0,
    "channel_scale": "learned",
}


def lenet(
    form: InputForm,
    classes: int,
    law: LawFactory,
    rng: Rng,
    role: str = "batch",
    *,
    channels: tuple[int, ...] = (32, 64),
    units: int = 512,
    activation: str = "relu",
    dropout: float = 0.0,
    affine: bool = False,
    eps: float = 1e-4,
    momentum: float = 0.15,
    first: str = "binary",
    last: str = "binary",
    padding: int = 1,
    pool: str = "after-norm",
    channel_scale: str = "none",
) -> Network:
    """32C3-MP2-64C3-MP2-512FC-10: [3x3 convolution -> batch norm -> pool -> activation] twice, linear, linear.

    channels: of each convolution, one pooling (2 x 2) after each. units: of the hidden linear layer. activation: relu,
    hardtanh or sign. dropout: probability, before every linear map, the input's included. affine, eps, momentum: batch
    norm's. first, last: binary (the method's law) or real. padding: pixels of value 0 around the image, then zeros.
    pool: after-norm or before-norm. channel_scale: none, or learned after every binary layer. Batch norm follows every
    linear map, the last included. With activation=sign every hidden linear map receives signs, and sums are integers.
    With affine=true and sign it is the MNIST net of Peters & Welling 2018 (LENET_PBNET).
    """
    positive_integers("channels", channels)
    blocks = [(n, True) for n in channels]
    parts = Parts(form, law, rng, role, activation, affine, eps, momentum, dropout, channel_scale)
    layers = _plain("lenet", parts, classes, blocks, (units,), first=first, last=last, padding=padding, pool=pool)
    return Network(*layers, activation=activation)


def vgg_small(
    form: InputForm,
    classes: int,
    law: LawFactory,
    rng: Rng,
    role: str = "batch",
    *,
    channels: tuple[int, ...] = (128, 256, 512),
    hidden: int = 2,
    units: int = 1024,
    activation: str = "relu",
    dropout: float = 0.0,
    affine: bool = False,
    eps: float = 1e-5,
    momentum: float = 0.2,
    first: str = "binary",
    last: str = "binary",
    padding: int = 1,
    pool: str = "before-norm",
    channel_scale: str = "none",
) -> Network:
    """Two 3x3 convolutions per entry of `channels`, a 2 x 2 pooling in the second, then `hidden` linear layers, linear.

    The options are those of `lenet`; hidden: how many linear layers of `units` precede the last. The defaults are the
    CIFAR net of Meng et al. 2020 (VGG-BinaryConnect: all binary, convolution -> pool -> batch norm -> relu; its linear
    layers' momentum of 0.1 reaches only running averages, which no prediction here uses). VGG_VISPA is VISPA's
    VGG-Small: first and last layer real, no hidden linear layer, learned scales (it has a PReLU before each sign and no
    batch norm on the logits; here there is none and one). VGG_PBNET: one hidden layer, batch norm before pooling.
    """
    positive_integers("channels", channels)
    at_least("hidden", hidden, 0)
    blocks = [(n, pooled) for n in channels for pooled in (False, True)]
    parts = Parts(form, law, rng, role, activation, affine, eps, momentum, dropout, channel_scale)
    widths = (units,) * hidden
    layers = _plain("vgg-small", parts, classes, blocks, widths, first=first, last=last, padding=padding, pool=pool)
    return Network(*layers, activation=activation)


def _plain(
    network: str,
    parts: Parts,
    classes: int,
    blocks: Sequence[tuple[int, bool]],  # channels, and whether a pooling follows
    widths: Sequence[int],
    *,
    first: str,
    last: str,
    padding: int,
    pool: str,
) -> list[nn.Module]:
    one_of("first", first, ("binary", "real"))
    one_of("last", last, ("binary", "real"))
    one_of("pool", pool, ("after-norm", "before-norm"))
    for units in widths:
        at_least("units", units, 1)
    at_least("padding", padding, 0)
    image = parts.form.image(network)
    n_in, height, width = image
    layers: list[nn.Module] = []
    for i, (n_out, pooled) in enumerate(blocks):
        if i == 0:
            layers += parts.first_convolution(image, n_out, first, padding)
        else:
            layers += parts.convolution(n_in, n_out, "binary", padding=padding)
        norm = parts.norm(n_out)
        if pooled:
            maximum = MaxPool(2, parts.activation)
            layers += [norm, maximum] if pool == "after-norm" else [maximum, norm]
        else:
            layers.append(norm)
        layers.append(Activation(parts.activation))
        n_in, height, width = n_out, _side(height, padding, pooled), _side(width, padding, pooled)
        if min(height, width) < 1:
            raise ValueError(
                f"network.name={network}: images of {image[1]} x {image[2]} are used up by layer {i + 1} of "
                f"{len(blocks)} convolutions; give fewer network.channels or a larger network.padding (got {padding})"
            )
    sizes = (n_in * height * width, *widths)
    layers.append(Flatten())
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        layers += [*parts.linear(n_in, n_out, "binary"), parts.norm(n_out), Activation(parts.activation)]
    return [*layers, *parts.linear(sizes[-1], classes, last), parts.norm(classes)]


def _side(length: int, padding: int, pooled: bool) -> int:
    """Of an image after a 3x3 convolution and perhaps a 2x2 pooling."""
    length = length + 2 * padding - 2
    return length // 2 if pooled else length
