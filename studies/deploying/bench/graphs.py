"""Packed networks to time: one layer, several in a row, the MLP of the goals, and the CIFAR network by export.

Weights, inputs and thresholds are random; thresholds are near the middle of the sums, so that bits stay random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from core.architectures import InputForm, build
from core.deploy.export import export
from core.deploy.form import Form, Graph, Input, Node, Value, words
from core.deploy.network import PackedNetwork
from core.deploy.operations import Affine, Binarize, HardTanh, MaxPoolBits, Threshold
from core.deploy.sums import BinConv2d, BinLinear
from core.layers import Network
from core.seeds import generator
from methods.ste import ste

CIFAR = InputForm(3 * 32 * 32, shift=120.7, scale=64.1, maximum=255.0, integer=True, shape=(3, 32, 32))


def bits(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random bits, packed along the last axis (channels): uint32, pad bits 0."""
    channels = shape[-1]
    packed = rng.integers(0, 2**32, size=(*shape[:-1], words(channels)), dtype=np.uint32)
    if channels % 32:
        packed[..., -1] &= np.uint32((1 << channels % 32) - 1)
    return packed


def threshold(channels: int, fan_in: int, rng: np.random.Generator) -> Threshold:
    """A sign after integer sums of `fan_in` products, random within a deviation, a half of the channels flipped."""
    deviation = math.sqrt(fan_in)
    return Threshold(rng.normal(0, deviation, channels).astype(np.int32), bits((channels,), rng))


def floats(channels: int, side: int) -> Graph:
    """Float images, channels first -> the same clipped to [-1, 1], channels last: what real layers hand on."""
    given = Input((channels, side, side), Value("f32", (side, side, channels)))
    return Graph(given, (Node("floats", HardTanh(), ("input",)),), "floats")


def convolutions(
    channels: int, side: int, layers: int, rng: np.random.Generator, *, real_output: bool = False, pool: bool = False
) -> Graph:
    """`floats`, then bits, `layers` 3 x 3 convolutions, zero-padded by 1, each with its sign, and a pooling.

    real_output: the last convolution's sums as float32 in place of a sign.
    """
    before = floats(channels, side)
    nodes = [*before.nodes, Node("pack", Binarize(np.zeros(channels, np.float32)), ("floats",))]
    for index in range(layers):
        convolution = BinConv2d(bits((channels, 3, 3, channels), rng), padding=1)
        nodes.append(Node(f"convolution {index}", convolution, (nodes[-1].name,)))
        after = threshold(channels, 9 * channels, rng)
        nodes.append(Node(f"sign {index}", after, (nodes[-1].name,)))
    if real_output:
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        nodes[-1] = Node("output", Affine(ones, zeros), (nodes[-2].name,))
    if pool:
        nodes.append(Node("pool", MaxPoolBits(2, 2, smallest=bits((channels,), rng)), (nodes[-1].name,)))
    return Graph(before.input, tuple(nodes), nodes[-1].name)


def layer(outputs: int, inputs: int, rng: np.random.Generator) -> Graph:
    """Float inputs -> bits -> one linear layer and its sign."""
    nodes = (
        Node("pack", Binarize(np.zeros(inputs, np.float32)), ("input",)),
        Node("linear", BinLinear(bits((outputs, 1, 1, inputs), rng)), ("pack",)),
        Node("sign", threshold(outputs, inputs, rng), ("linear",)),
    )
    return Graph(Input((inputs,), Value("f32", (1, 1, inputs))), nodes, "sign")


def mlp(widths: Sequence[int], rng: np.random.Generator) -> Graph:
    """Float inputs -> bits -> linear layers of these widths, a sign after each, affine logits at the end."""
    nodes = [Node("pack", Binarize(np.zeros(widths[0], np.float32)), ("input",))]
    for index, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False)):
        nodes.append(Node(f"linear {index}", BinLinear(bits((n_out, 1, 1, n_in), rng)), (nodes[-1].name,)))
        nodes.append(Node(f"sign {index}", threshold(n_out, n_in, rng), (nodes[-1].name,)))
    scale, bias = (rng.normal(size=widths[-1]).astype(np.float32) for _ in range(2))
    nodes[-1] = Node("logits", Affine(scale, bias), (nodes[-2].name,))
    return Graph(Input((widths[0],), Value("f32", (1, 1, widths[0]))), tuple(nodes), "logits")


def binarynet(images: np.ndarray, *, width: int = 1) -> tuple[Network, PackedNetwork]:
    """The CIFAR network with signs, of random weights, statistics from `images`, and what it exports to.

    128C3-128C3-MP2-256C3-256C3-MP2-512C3-512C3-MP2-1024-1024-10; width: divides every layer's, for a check.
    """
    rng = generator("deploy bench", "binarynet")
    channels = tuple(n // width for n in (128, 256, 512))
    units = 1024 // width
    model = build(
        "vgg-small", CIFAR, 10, ste().law, rng, activation="sign", affine=True, channels=channels, units=units
    )
    return model, export(model, "mode", inputs=torch.from_numpy(images), rng=rng)


def packed(graph: Graph) -> PackedNetwork:
    """A network of one graph."""
    return PackedNetwork(Form((graph,)))
