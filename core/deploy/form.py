"""What a packed network is, without torch: values, nodes, graphs. `core.deploy.operations` has the operations.

A graph is a list of nodes in the order in which they run; each makes one value, named as the node, from values made
before it. Shapes are those of one example, channels last. Every construction is checked: a graph that exists is sound,
whether an exporter or a file made it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

Kind = Literal["bits", "i32", "u8", "f32"]
KINDS: tuple[Kind, ...] = ("bits", "i32", "u8", "f32")
WORD = 32  # bits of a word of packed channels
LARGEST_SIDE = 1 << 20  # of a height, a width, a number of channels
LARGEST_VALUE = 1 << 26  # numbers in one value of one example
LARGEST_GRAPH = 1 << 14  # nodes


class FormError(ValueError):
    """A graph that is not sound; the message names the node, what it got and what it needs."""


def words(channels: int) -> int:
    """How many 32-bit words hold `channels` bits."""
    return -(-channels // WORD)


@dataclass(frozen=True)
class Value:
    """Kind and shape (height, width, channels) of what flows along an edge, for one example; vectors are (1, 1, C).

    As arrays, with the batch in front: i32, u8 and f32 are (B, H, W, C) of int32, uint8 and float32. bits are (B, H, W,
    words(C)) of uint32, channel c in bit c % 32 (least significant first) of word c // 32; 1 is +1, 0 is -1; the bits
    beyond C are 0.
    """

    kind: Kind
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FormError(f"a value is one of {', '.join(KINDS)} (got {self.kind!r})")
        if len(self.shape) != 3 or any(type(n) is not int or not 1 <= n <= LARGEST_SIDE for n in self.shape):
            raise FormError(f"a shape is (height, width, channels), each 1 to {LARGEST_SIDE} (got {self.shape})")
        if math.prod(self.shape) > LARGEST_VALUE:
            raise FormError(f"a value of shape {self.shape} has more than {LARGEST_VALUE} numbers an example")

    @property
    def channels(self) -> int:
        """C, the true number of channels, without padding."""
        return self.shape[2]

    @property
    def array_shape(self) -> tuple[int, int, int]:
        """The shape of the array of one example: packed channels for bits."""
        height, width, channels = self.shape
        return (height, width, words(channels)) if self.kind == "bits" else self.shape


@dataclass(frozen=True)
class Input:
    """What a network is given: raw values as in training, uint8 or float32, of `raw_shape` for one example.

    `value` is what nodes see under the name "input": a flat vector (1, 1, F) in the raw order where the first layer is
    linear, or an image (H, W, C) of raw images (C, H, W), which may be (H, W) where C = 1.
    """

    raw_shape: tuple[int, ...]
    value: Value

    def __post_init__(self) -> None:
        if self.value.kind not in ("u8", "f32"):
            raise FormError(f"an input is u8 or f32 (got {self.value.kind})")
        raw = self.raw_shape
        if not 1 <= len(raw) <= 8 or any(type(n) is not int or not 1 <= n <= LARGEST_SIDE for n in raw):
            raise FormError(f"a raw shape has 1 to 8 sides, each 1 to {LARGEST_SIDE} (got {raw})")
        if math.prod(raw) != math.prod(self.value.shape):
            raise FormError(f"raw inputs {raw} do not have the numbers of a value {self.value.shape}")
        if self.image:
            height, width, channels = self.value.shape
            if raw not in ((channels, height, width), (height, width)):
                raise FormError(f"raw inputs {raw} are no images (channels, height, width) of value {self.value.shape}")

    @property
    def image(self) -> bool:
        """Whether nodes see an image with channels last, not a vector in the raw order."""
        return self.value.shape[:2] != (1, 1)


@runtime_checkable
class Operation(Protocol):
    """One operation with its parameters, as the dataclasses of `core.deploy.operations`."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        """The value it makes of `inputs`. Raises FormError where it cannot take them."""
        ...


@dataclass(frozen=True)
class Node:
    """One operation, the values it takes, and the name of the value it makes (the layer's name in the network)."""

    name: str
    operation: Operation
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """One network: nodes in the order in which they run, and the name of the value that is its answer.

    Raises FormError for a name used twice or not yet made, and for an operation that cannot take its inputs.
    """

    input: Input
    nodes: tuple[Node, ...]
    output: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.nodes) <= LARGEST_GRAPH:
            raise FormError(f"a graph has 1 to {LARGEST_GRAPH} nodes (got {len(self.nodes)})")
        if self.output not in self.values:
            raise FormError(f"the output {self.output!r} is made by no node")

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Kind and shape of every value, "input" first, then in the order of the nodes."""
        made = {"input": self.input.value}
        for node in self.nodes:
            if any(type(name) is not str for name in (node.name, *node.inputs)):
                raise FormError(f"names of values are str (got {node.name!r} of {node.inputs!r})")
            if not node.name or node.name in made:
                raise FormError(f"node {node.name!r}: every node needs a name of its own")
            if missing := [name for name in node.inputs if name not in made]:
                raise FormError(f"node {node.name!r} takes {missing[0]!r}, which no earlier node makes")
            try:
                made[node.name] = node.operation.output(tuple(made[name] for name in node.inputs))
            except FormError as error:
                raise FormError(f"node {node.name!r} ({type(node.operation).__name__}): {error}") from None
        return made

    def arrays(self) -> Iterator[np.ndarray]:
        """The arrays of all nodes, one that several use as often."""
        for node in self.nodes:
            for parameter in vars(node.operation).values():
                if isinstance(parameter, np.ndarray):
                    yield parameter

    def steps(self) -> Iterator[tuple[Node, tuple[Value, ...], Value]]:
        """Each node with the values it takes and the one it makes, in order."""
        for node in self.nodes:
            yield node, tuple(self.values[name] for name in node.inputs), self.values[node.name]


@dataclass(frozen=True)
class Form:
    """What one file holds: one network, or the k networks whose outputs an ensemble averages, and facts about them.

    The answer of k networks is ((f_1 + f_2) + ... + f_k) / k in float32, in that order. All have one input and outputs
    of one value. facts: plain JSON data; the exporter's are described in docs/deploy.md.
    """

    networks: tuple[Graph, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.networks) <= LARGEST_GRAPH:
            raise FormError(f"a file holds 1 to {LARGEST_GRAPH} networks (got {len(self.networks)})")
        first = self.networks[0]
        for graph in self.networks[1:]:
            if graph.input != first.input or graph.values[graph.output] != first.values[first.output]:
                raise FormError("the networks of one file need one input and outputs of one kind and shape")
        if len(self.networks) > 1 and first.values[first.output].kind != "f32":
            raise FormError("networks whose outputs are averaged need outputs of kind f32")
