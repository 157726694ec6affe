"""Images a second of a packed network and of torch, on one thread: rounds in turn in one process, medians."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from core.deploy import PackedNetwork
from core.predict import logits
from core.readings import Fixed
from studies.deploying.backends import Array, Backend, Step, profiles
from studies.deploying.cell import Trained
from studies.deploying.plain import plain

BATCHES = (1, 256)
ROUNDS = 9
SHORTEST = 3e-3  # seconds of one timing: calls are repeated until it lasts as long
Key = tuple[str, int]  # name, batch
SLOW = 1.0  # seconds of a call beyond which it is timed once, after no warm-up


@dataclass(frozen=True)
class Rate:
    """seconds: median of one call over `rounds`."""

    name: str
    batch: int
    seconds: float
    rounds: int

    @property
    def images(self) -> float:
        """Images a second."""
        return self.batch / self.seconds


def rates(trained: Trained, backends: list[Backend], inputs: Tensor, *, rounds: int = ROUNDS) -> list[Rate]:
    """Every backend, torch's evaluation of the trained network, and plain torch layers, at each batch of BATCHES.

    inputs: raw test inputs, repeated where there are fewer than a batch.
    """
    calls = {}
    for batch in BATCHES:
        x = inputs[torch.arange(batch) % len(inputs)].contiguous()
        for name, call in {**_packed(backends, x.numpy()), **_torch(trained, x)}.items():
            calls[name, batch] = call
    found = medians(calls, rounds)
    return [Rate(name, batch, *found[name, batch]) for name, batch in calls]


def medians(calls: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, tuple[float, int]]:
    """Seconds of a call, median over rounds in which all take their turn in a new order, and how many rounds."""
    first = {key: _seconds(call, 1) for key, call in calls.items()}
    quick = {key: call for key, call in calls.items() if first[key] <= SLOW}
    warm = {key: _seconds(call, 1) for key, call in quick.items()}
    repeats = {key: max(1, int(SHORTEST / warm[key])) for key in quick}
    taken: dict[Key, list[float]] = {key: [] for key in quick}
    order, shuffle = list(quick), random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for key in order:
            taken[key].append(_seconds(quick[key], repeats[key]))
    return {key: (median(taken[key]), rounds) if key in quick else (first[key], 1) for key in calls}


def shares(network: PackedNetwork, inputs: Tensor, *, rounds: int = ROUNDS) -> dict[Step, float]:
    """Seconds of the largest batch by step of the native kernels, median over rounds; empty without them."""
    x = inputs[torch.arange(BATCHES[-1]) % len(inputs)].contiguous().numpy()
    samples: dict[Step, list[float]] = {}
    for found in profiles(network, x, rounds):
        for step, seconds in found.items():
            samples.setdefault(step, []).append(seconds)
    return {step: median(values) for step, values in samples.items()}


def plain_networks(trained: Trained) -> list[nn.Module]:
    """Each network that the rule averages, as plain torch layers."""
    networks = []
    for reading, statistics in zip(trained.readings, trained.statistics, strict=True):
        assert isinstance(reading.weights, Fixed), "export refuses rules of other readings"
        networks.append(plain(trained.built.model, reading.weights.weights, statistics))
    return networks


def _packed(backends: list[Backend], x: Array) -> dict[str, Callable[[], object]]:
    return {backend.name: partial(backend.run, x) for backend in backends}


def _torch(trained: Trained, x: Tensor) -> dict[str, Callable[[], object]]:
    model, rng = trained.built.model, trained.rng()
    pairs = list(zip(trained.readings, trained.statistics, strict=True))
    networks = plain_networks(trained)
    floats = x.float()

    def evaluated() -> None:
        for reading, statistics in pairs:
            logits(model, reading, statistics, x, rng)

    @torch.no_grad()
    def layers() -> None:
        for network in networks:
            network(floats)

    return {"torch fp32, its evaluation": evaluated, "torch fp32, plain layers": layers}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
