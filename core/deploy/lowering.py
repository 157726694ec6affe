"""A graph as a program of the native engine: buffers, steps, weights laid out for the kernels, and what is fused.

A threshold or an affine map that alone uses an integer sum is part of the sum. Bits that a convolution pads are written
into an image with a border. A flattened value is not moved where only linear layers read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from core.deploy.form import Graph
from core.deploy.lowering_constants import Constants
from core.deploy.lowering_rules import add_node
from core.deploy.lowering_state import OUTPUT, Lowering, Step


@dataclass(frozen=True)
class Lowered:
    """A program that is ready, its steps, and the names of the values it writes out, in order."""

    program: Any
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]


def lower(
    graph: Graph,
    kernels: ModuleType,
    *,
    level: int,
    threads: int,
    fuse: bool = True,
    chunk: int = 0,
    constants: Constants | None = None,
) -> Lowered:
    """The program of a graph. Without `fuse` every node is a step of its own and every value is written out.

    chunk: examples at a time, 0 for the engine's choice. constants: those of all graphs of a form. Raises FormError for
    what the native engine cannot hold.
    """
    constants = constants or Constants((graph,))
    lowering = Lowering(graph, kernels.PackedProgram(level, threads), constants, fuse=fuse)
    for node in lowering.nodes:
        if node.name not in lowering.skipped:
            add_node(lowering, node)
    if "input" in lowering.outputs:
        copied = lowering.new_buffer(graph.input.value, place=OUTPUT)
        lowering.add("output", "other", "copy", lowering.placed["input"], copied)
    lowering.program.finish(chunk)
    return Lowered(lowering.program, tuple(lowering.steps), lowering.outputs)
