"""A graph on its way to a program of the native engine: where its values lie, and what is fused to what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.deploy.form import Graph, Node, Value
from core.deploy.lowering_constants import Constants
from core.deploy.operations import Affine, Flatten, Threshold
from core.deploy.sums import BinConv2d

KINDS = {"bits": 0, "i32": 1, "u8": 2, "f32": 3}
INPUT, OUTPUT, ARENA = 0, 1, 2  # where a buffer lies


@dataclass(frozen=True)
class Step:
    """What one step of a program does: the node whose value it makes, and of which kind of work it is."""

    name: str
    kind: str  # pack, sums (bits), first layer, real layers, pool, other


class Lowering:
    """The buffers and steps of a program while it is built. Without `fuse` every value is an output."""

    def __init__(self, graph: Graph, program: Any, constants: Constants, *, fuse: bool) -> None:
        self.graph, self.program, self.constants, self.fuse = graph, program, constants, fuse
        needed = _needed(graph) if fuse else {node.name for node in graph.nodes}
        self.nodes = [node for node in graph.nodes if node.name in needed]
        self.users: dict[str, list[Node]] = {name: [] for name in graph.values}
        for node in self.nodes:
            for name in node.inputs:
                self.users[name].append(node)
        self.outputs = (graph.output,) if fuse else tuple(node.name for node in self.nodes)
        self.steps: list[Step] = []
        self.placed: dict[str, int] = {}
        self.borders: dict[int, int] = {}
        self.copies: dict[tuple[str, int], int] = {}
        self.skipped: set[str] = set()
        self._flattened = {node.name: node.inputs[0] for node in self.nodes if isinstance(node.operation, Flatten)}
        given = graph.input
        self.planar = given.image and given.value.channels > 1
        self.placed["input"] = self.new_buffer(given.value, place=INPUT, planar=self.planar)

    # buffers

    def new_buffer(self, value: Value, *, place: int = ARENA, border: int = 0, planar: bool = False) -> int:
        number: int = self.program.buffer(KINDS[value.kind], *value.shape, border, place, planar)
        self.borders[number] = border
        return number

    def target(self, name: str) -> int:
        """The buffer of a node's value: an output, or an image with the border that its convolutions need."""
        value = self.graph.values[name]
        if name in self.outputs:
            self.placed[name] = self.new_buffer(value, place=OUTPUT)
        else:
            borders = (_border(user.operation, value) for user in self.users[name]) if value.kind == "bits" else ()
            self.placed[name] = self.new_buffer(value, border=max(borders, default=0))
        return self.placed[name]

    def source(self, name: str) -> int:
        """The buffer of a value, with channels last."""
        if name == "input" and self.planar:
            return self._copied(name, 0)
        return self.placed[name]

    def bordered(self, name: str, border: int) -> int:
        """The buffer of a value of bits, with a border of at least this many pixels."""
        return self.placed[name] if self.borders[self.placed[name]] >= border else self._copied(name, border)

    def _copied(self, name: str, border: int) -> int:
        if (name, border) not in self.copies:
            target = self.new_buffer(self.graph.values[name], border=border)
            self.add(name, "other", "copy", self.placed[name], target)
            self.copies[name, border] = target
        return self.copies[name, border]

    def add(self, name: str, kind: str, step: str, *arguments: Any) -> None:
        self.constants.count(arguments)
        getattr(self.program, step)(*arguments)
        self.steps.append(Step(name, kind))

    # what a step makes

    def follows(self, node: Node, groups: int = 1) -> Node | None:
        """The node to be fused with a sum: its only user, a threshold or an affine map."""
        users = self.users[node.name]
        if not self.fuse or node.name in self.outputs or len(users) != 1 or len(users[0].inputs) != 1:
            return None
        operation, value = users[0].operation, self.graph.values[node.name]
        if isinstance(operation, Threshold) and (groups == 1 or value.channels // groups % 32 == 0):
            return users[0]
        return users[0] if isinstance(operation, Affine) else None

    def taken(self, node: Node) -> tuple[str, Value]:
        """The value that a linear layer reads: the one that was flattened, where a flatten is left out."""
        name = node.inputs[0]
        while name in self.skipped and name not in self.placed:
            name = self._flattened[name]
        return name, self.graph.values[name]


def _needed(graph: Graph) -> set[str]:
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return needed


def _border(operation: Any, value: Value) -> int:
    aligned = isinstance(operation, BinConv2d) and (
        operation.groups == 1 or value.channels // operation.groups % 32 == 0
    )
    return operation.padding if aligned else 0
