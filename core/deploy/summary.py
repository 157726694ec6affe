"""What a packed network holds, for people: its layers with weights, bits, bytes and shapes. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.deploy.form import Form, Graph, Node, Value
from core.deploy.sums import Convolution, Linear


@dataclass(frozen=True)
class Layer:
    """One linear map. inputs: products a sum; bytes: of its packed or real weights as they are stored."""

    name: str
    operation: str
    takes: Value
    makes: Value
    inputs: int
    weights: int
    bytes: int
    packed: bool


def layers(graph: Graph) -> tuple[Layer, ...]:
    """The linear maps of one network, in order."""
    return tuple(
        _layer(node, taken[0], made)
        for node, taken, made in graph.steps()
        if isinstance(node.operation, (Linear, Convolution))
    )


def lines(form: Form) -> list[str]:
    """The layers of a form's networks, one a line, under a headline."""
    graph = form.networks[0]
    maps = layers(graph)
    head = ("layer", "operation", "takes", "makes", "weights", "bytes")
    rows = [
        (layer.name, layer.operation, shape(layer.takes), shape(layer.makes), f"{layer.weights:,}", f"{layer.bytes:,}")
        for layer in maps
    ]
    linear = f"{len(maps)} linear map{'' if len(maps) == 1 else 's'}"
    counted = f"{linear} of {len(graph.nodes)} operation{'' if len(graph.nodes) == 1 else 's'}"
    given = f"{shape(graph.input.value)}, given as {graph.input.value.kind} {graph.input.raw_shape}"
    count = len(form.networks)
    networks = "one network" if count == 1 else f"{count} networks, whose outputs are averaged; the first of them"
    return [f"{networks}: {counted} from {given}", "", *table(head, rows)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of plain text: the first to the left, numbers to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [len(rows) > 0 and all(_number(text) for text in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (t.rjust(w) if right else t.ljust(w) for t, w, right in zip(cells, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return [line(head), line(["-" * width for width in widths]), *map(line, rows)]


def shape(value: Value) -> str:
    """ "bits 14 x 14 x 32", "u8 784"."""
    height, width, channels = value.shape
    sides = f"{channels}" if (height, width) == (1, 1) else f"{height} x {width} x {channels}"
    return f"{value.kind} {sides}"


def _layer(node: Node, takes: Value, makes: Value) -> Layer:
    operation = node.operation
    assert isinstance(operation, (Linear, Convolution))
    stored = operation.weights
    if isinstance(operation, Linear):
        inputs = math.prod(takes.shape)
    else:
        inputs = stored.shape[1] * stored.shape[2] * (takes.channels // operation.groups)
    return Layer(
        name=node.name,
        operation=type(operation).__name__,
        takes=takes,
        makes=makes,
        inputs=inputs,
        weights=stored.shape[0] * inputs,
        bytes=stored.nbytes,
        packed=operation.packed,
    )


def _number(text: str) -> bool:
    return bool(text) and (text[0].isdigit() or text[0] in "-~<") and not text.startswith("- ")
