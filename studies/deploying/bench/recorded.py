"""Packed networks on a GPU for timing: recorded once as one graph of kernel calls, on random bits, in many buffers.

One recording holds `copies` of the same calls, each on weights, inputs and outputs of its own: where all of them exceed
the device's cache, every call reads its memory anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core.deploy.cuda.launcher import Launcher, Memory, has_bit_tensor_cores
from core.deploy.cuda.plan import Plan, plan
from core.deploy.cuda.steps import Launch, Step, SumStep
from core.deploy.cuda.sum_steps import Sums
from core.deploy.form import Graph
from studies.deploying.bench import graphs


@dataclass(frozen=True)
class Recording:
    """What repeats the calls: `copies` networks a replay."""

    replay: Callable[[], None]
    copies: int
    held: tuple[Memory, ...]  # as long as it may be replayed
    inputs: tuple[Memory, ...]  # of each copy, filled with random data
    outputs: tuple[Memory, ...]


def record(
    launcher: Launcher, graph: Graph, batch: int, *, copies: int = 1, sums: Sums = "auto", layer: bool = False
) -> Recording:
    """Records `copies` of a network for a batch. layer: its sums alone, from random bits, without what packs them."""
    made = plan(graph, sums=sums, tensor_cores=has_bit_tensor_cores(launcher.capability))
    steps = tuple(step for step in made.steps if isinstance(step, SumStep)) if layer else made.steps
    rng = np.random.default_rng(0)
    calls: list[Launch] = []
    held: list[Memory] = []
    inputs, outputs = [], []
    for _ in range(copies):
        places = {place: launcher.allocate(batch * made.sizes[place]) for place in _used(made, steps)}
        values = {name: places[place].address for name, place in made.places.items() if place in places}
        (first,) = steps[0].inputs
        launcher.write(places[made.places[first]], 0, _random(graph, first, batch, rng))
        for step in steps:
            constants = {name: _uploaded(launcher, array) for name, array in step.constants.items()}
            calls.append(step.launch(batch, values, {name: memory.address for name, memory in constants.items()}))
            held += constants.values()
        held += places.values()
        inputs.append(places[made.places[first]])
        outputs.append(places[made.places[graph.output]])

    def issue() -> None:
        for call in calls:
            launcher.launch(call)

    return Recording(launcher.capture(issue), copies, tuple(held), tuple(inputs), tuple(outputs))


def touched(graph: Graph, batch: int, *, layer: bool = False) -> int:
    """Bytes of constants and values that one network, or its sums alone, reads and writes."""
    made = plan(graph)
    steps = tuple(step for step in made.steps if isinstance(step, SumStep) or not layer)
    constants = sum(array.nbytes for step in steps for array in step.constants.values())
    return constants + batch * sum(made.sizes[place] for place in _used(made, steps))


def _random(graph: Graph, name: str, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Values of this name, or raw inputs: random bits, uniform pixels, standard normal reals."""
    value = graph.values.get(name, graph.input.value)
    shape = (batch, *value.shape)
    if value.kind == "bits":
        return graphs.bits(shape, rng)
    if value.kind == "u8":
        return rng.integers(0, 256, size=shape, dtype=np.uint8)
    return rng.normal(size=shape).astype(np.float32)


def _uploaded(launcher: Launcher, array: np.ndarray) -> Memory:
    memory = launcher.allocate(array.nbytes)
    launcher.write(memory, 0, np.ascontiguousarray(array))
    return memory


def _used(made: Plan, steps: tuple[Step, ...]) -> list[str]:
    """The places that steps read and write, each once."""
    return list(dict.fromkeys(made.places[name] for step in steps for name in (*step.inputs, step.output)))
