"""A graph as kernel calls: sums joined with what follows them, values that share memory, bits regrouped.

Values lie on the device as they are in `core.deploy.form`, so a trace reads them as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.deploy.cuda.move_steps import channels_last, move_steps, part_groups
from core.deploy.cuda.steps import Step
from core.deploy.cuda.sum_steps import Sums, sum_step
from core.deploy.form import Graph, Node, Value
from core.deploy.operations import Affine, Flatten, Threshold
from core.deploy.sums import BinConv2d, Convolution, Linear

RAW = ""  # the raw input; no node has this name


@dataclass(frozen=True)
class Plan:
    """The calls in order, the bytes of each place for one example, and the place where each value lies."""

    steps: tuple[Step, ...]
    sizes: dict[str, int]
    places: dict[str, str]

    def first_uses(self) -> dict[str, int]:
        """The first call that reads or writes each place; the raw input is there before all."""
        found = {RAW: -1}
        for number, step in enumerate(self.steps):
            for name in (*step.inputs, step.output):
                found.setdefault(self.places[name], number)
        return found

    def last_uses(self) -> dict[str, int]:
        """The last call that reads or writes each place."""
        return {
            self.places[name]: number for number, step in enumerate(self.steps) for name in (*step.inputs, step.output)
        }


def plan(graph: Graph, *, fused: bool = True, sums: Sums = "auto", tensor_cores: bool = True) -> Plan:
    """The calls that run `graph`; without `fused` every node's value is made, as a trace needs them.

    sums: which kernels sum bits ("auto" chooses by the size of the layer). Raises FormError for what no kernel can run.
    """
    steps: list[Step] = []
    sizes = {RAW: value_bytes(graph.input.value)}
    places = {RAW: RAW, "input": RAW}
    if graph.input.image and len(graph.input.raw_shape) == 3 and graph.input.raw_shape[0] > 1:
        places["input"] = "input"
        sizes["input"] = sizes[RAW]
        steps.append(channels_last(RAW, graph.input.value))
    for node, follower in _joined(graph, fused=fused):
        values, made = tuple(graph.values[name] for name in node.inputs), graph.values[node.name]
        operation, output = node.operation, follower.name if follower else node.name
        if isinstance(operation, Flatten) and _same_bytes(values[0]):
            places[output] = places[node.inputs[0]]
            continue
        places[output] = output
        sizes[output] = value_bytes(graph.values[output])
        if not isinstance(operation, Linear | Convolution):
            steps += move_steps(node, values, made)
            continue
        source = node.inputs[0]
        if isinstance(operation, BinConv2d) and operation.groups > 1 and values[0].channels // operation.groups % 32:
            source = _unused_name(f"{output} by groups", graph)
            step = part_groups(node.inputs[0], source, values[0], operation.groups)
            steps.append(step)
            places[source] = source
            sizes[source] = 4 * step.count
        follows = follower.operation if follower else None
        steps.append(sum_step(node, values[0], made, follows, output, source, sums=sums, tensor_cores=tensor_cores))
    return Plan(tuple(steps), sizes, places)


def value_bytes(value: Value) -> int:
    """What one example of `value` takes."""
    return int(np.prod(value.array_shape, dtype=np.int64)) * (1 if value.kind == "u8" else 4)


def _joined(graph: Graph, *, fused: bool) -> Iterator[tuple[Node, Node | None]]:
    """Each node, a sum with the threshold or affine map that is its only user."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses[graph.output] += 1
    users = {node.inputs[0]: node for node in graph.nodes if isinstance(node.operation, Threshold | Affine)}
    taken: set[str] = set()
    for node in graph.nodes:
        if node.name in taken:
            continue
        follower = users.get(node.name) if fused and uses[node.name] == 1 else None
        if follower and not _joins(node, follower):
            follower = None
        if follower:
            taken.add(follower.name)
        yield node, follower


def _joins(node: Node, follower: Node) -> bool:
    """Whether one kernel can do both: the bits of a group fill whole words."""
    operation = node.operation
    if not isinstance(operation, Linear | Convolution):
        return False
    groups = operation.groups if isinstance(operation, Convolution) else 1
    bits = isinstance(follower.operation, Threshold)
    return not bits or groups == 1 or operation.weights.shape[0] // groups % 32 == 0


def _same_bytes(value: Value) -> bool:
    return value.kind != "bits" or value.channels % 32 == 0 or value.shape[:2] == (1, 1)


def _unused_name(name: str, graph: Graph) -> str:
    while name in graph.values:
        name += "'"
    return name
