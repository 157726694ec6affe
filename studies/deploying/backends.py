"""The ways at hand to run a packed network: the native kernels at each level of this CPU, and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from core.deploy import PackedNetwork, info, native

Array = np.ndarray
Step = tuple[str, str]  # the node that a step makes, and its kind of work


@dataclass(frozen=True)
class Backend:
    """One way. run: raw inputs -> averaged outputs (B, C). trace: (inputs, network) -> every value by its name."""

    name: str
    run: Callable[[Array], Array]
    trace: Callable[[Array, int], Mapping[str, Array]]


def at_hand(network: PackedNetwork) -> list[Backend]:
    """The one that `run` takes by itself first, then the others."""
    numpy = _chosen(network, "numpy", "numpy")
    if info().backend != "native":
        return [numpy]
    own = native.chosen_level()
    others = [level for level in reversed(native.levels()) if level != own]
    return [_chosen(network, "native", f"native ({own})"), *(_at_level(network, level) for level in others), numpy]


def profiles(network: PackedNetwork, x: Array, rounds: int) -> Iterator[dict[Step, float]]:
    """Seconds by step, over all networks, of so many native runs of `x`; nothing without native kernels."""
    if info().backend != "native":
        return
    executors = [native.Executor(graph) for graph in network.form.networks]
    for _ in range(rounds):
        seconds: dict[Step, float] = {}
        for executor in executors:
            for name, kind, taken in executor.profile(x):
                seconds[name, kind] = seconds.get((name, kind), 0.0) + taken
        yield seconds


def _chosen(network: PackedNetwork, backend: str, name: str) -> Backend:
    return Backend(
        name,
        lambda x: network.run(x, backend=backend),
        lambda x, index: network.trace(x, backend=backend, network=index),
    )


def _at_level(network: PackedNetwork, level: str) -> Backend:
    """The same calls as at the best level, so that times compare."""
    other = PackedNetwork(network.form)
    other._executors["native", 1] = native.executors(network.form, level=level)
    return _chosen(other, "native", f"native ({level})")
