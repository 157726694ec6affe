"""The ways at hand to run a packed network, and where its time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from core.deploy import PackedNetwork

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
    return [_chosen(network, "numpy", "numpy")]


def profiles(network: PackedNetwork, x: Array, rounds: int) -> Iterator[dict[Step, float]]:
    """Seconds by step, over all networks, of so many native runs of `x`; nothing without native kernels."""
    yield from ()


def _chosen(network: PackedNetwork, backend: str, name: str) -> Backend:
    return Backend(
        name,
        lambda x: network.run(x, backend=backend),
        lambda x, index: network.trace(x, backend=backend, network=index),
    )
