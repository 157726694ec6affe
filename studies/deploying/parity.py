"""Proof that a packed network is the trained one: every integer sum, every logit, every prediction, on the test inputs.

Labels are not read: where predictions are the same, so is the accuracy. Sums and signs are those of `trace`, which
keeps every value; `run`, which fuses them, is held to the logits.

A network that is not exact is held to torch layer by layer as well: to rounding (ROUNDING of a layer's largest value)
up to its first signs. Behind them rounding may turn a sign here and there, so no channel may differ in MOST_TURNED of
the examples: a wrong weight or a turned sign differs in nearly all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.claims import laws
from core.deploy import PackedNetwork
from core.deploy.form import Graph
from core.deploy.operations import Binarize, Threshold
from core.deploy.packing import unpack
from core.spatial import AveragePool
from studies.deploying import inside
from studies.deploying.backends import Array, Backend
from studies.deploying.cell import Trained
from studies.deploying.inside import Seen
from studies.runner.command import counted
from studies.runner.request import Stop

LONGEST = 120.0  # seconds a backend gets, where it is not the one that runs by default
BATCH_BYTES = 1 << 26  # of all values of a batch, as 4-byte numbers
LARGEST_BATCH = 256
ROUNDING = 1e-3  # float32 sums of some thousand terms in another order, through batch norms of some layers
MOST_TURNED, FEWEST = 0.5, 32  # of examples; in batches of at least as many
LARGEST_WHOLE = 2**24  # up to here torch's float32 sums of integers are exact


class ParityFailed(Stop):
    """A packed network that differs from the trained one; the message names backend, layer, example and values."""

    code = 1


@dataclass
class Proven:
    """What one backend was held to, and what was equal to the bit: sums, signs and logits, each of how many.

    layers: whose integer sums were compared. largest: difference of two logits.
    """

    backend: str
    of: int
    examples: int = 0
    layers: int = 0
    sums: int = 0
    sums_of: int = 0
    signs: int = 0
    signs_of: int = 0
    logits: int = 0
    logits_of: int = 0
    largest: float = 0.0
    seconds: float = field(default=0.0, compare=False)
    exact: bool = True

    def __str__(self) -> str:
        whole = "all" if self.examples == self.of else f"the first {self.examples:,} of"
        inputs = f"{whole} {self.of:,} test inputs"
        if self.exact:
            return (
                f"{self.backend}: {self.sums:,} sums of {counted(self.layers, 'layer')}, {self.signs:,} signs and "
                f"{self.logits:,} logits of {inputs} identical"
            )
        inside = f"{self.sums:,} of {self.sums_of:,} integer sums of {counted(self.layers, 'layer')} identical"
        told = f"; {inside}" if self.layers else ""
        return f"{self.backend}: predictions of {inputs} identical, logits within {self.largest:.2g}{told}"


def prove(trained: Trained, network: PackedNetwork, backends: Sequence[Backend], inputs: Tensor) -> list[Proven]:
    """Hold every backend to torch on `inputs` (N, *shape). Raises ParityFailed at the first difference.

    Sums, signs and logits must be equal where the file says that it is exact, predictions always; else they are held
    as the module says. The first backend
    sees all inputs; the others as many as they get through in LONGEST seconds each.
    """
    exact = bool(network.form.facts["exact"])
    if not exact and _must_be_exact(trained):
        raise ParityFailed(
            "binary weights, sign activations and pixels make an exact network, but the file claims equal predictions "
            f"only ({'; '.join(network.form.facts['inexact_because'])})"
        )
    truth = trained.scores(inputs).numpy()
    if not np.isfinite(truth).all():
        raise ParityFailed("the logits of torch are not finite; there is nothing to hold the file to")
    proofs = [Proven(backend.name, len(inputs), exact=exact) for backend in backends]
    size = _batch(network)
    steady = [_steady(graph) for graph in network.form.networks]
    ends = all(graph.output in names for graph, names in zip(network.form.networks, steady, strict=True))
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        insides = inside.of(trained, batch)
        for place, (backend, proof) in enumerate(zip(backends, proofs, strict=True)):
            if place and proof.seconds > LONGEST:
                continue
            started = time.perf_counter()
            where = _Where(backend.name, start)
            for index, seen in enumerate(insides):
                _hold_inside(where, proof, backend.trace(batch.numpy(), index), seen, steady[index])  # names the layer
            _hold_logits(where, proof, backend.run(batch.numpy()), truth[start : start + size], ends)
            proof.examples += len(batch)
            proof.seconds += time.perf_counter() - started
    return proofs


@dataclass(frozen=True)
class _Where:
    """What a message of failure begins with."""

    backend: str
    start: int  # the first example of the batch

    def failed(self, what: str, wrong: Array, got: Array, want: Array, unit: str) -> ParityFailed:
        """Names the first entry of `wrong` (B, ...) and says how many there are."""
        example, *place = (int(i) for i in np.argwhere(wrong)[0])
        at = f", entry {tuple(place)}" if place else ""
        first = (example, *place)
        return ParityFailed(
            f"parity failed: {self.backend}, {what}, test input {self.start + example}{at}: "
            f"{got[first]:.9g} in the file, {want[first]:.9g} in torch; "
            f"{int(wrong.sum())} of {wrong.size} {unit} of this batch differ"
        )


def _must_be_exact(trained: Trained) -> bool:
    """Whether the network itself, not its file, says that every integer must be the same: averages aside."""
    model, inputs = trained.built.model, trained.built.problem.train.inputs
    binary = all(law.levels is not None for _, law in laws(model))
    averaged = any(isinstance(module, AveragePool) for module in model.modules())
    return binary and model.activation_bits == 1 and inputs.dtype == torch.uint8 and not averaged


def _hold_logits(where: _Where, proof: Proven, got: Array, want: Array, steady: bool) -> None:
    if got.shape != want.shape:
        raise ParityFailed(f"parity failed: {where.backend} gives logits of shape {got.shape}, torch {want.shape}")
    same = got.view(np.uint32) == want.view(np.uint32)
    if proof.exact and not same.all():
        raise where.failed("logits", ~same, got, want, "logits")
    predicted, truly = got.argmax(1), want.argmax(1)
    if (predicted != truly).any():
        wrong = predicted != truly
        row = int(wrong.argmax())
        margin = float(np.diff(np.sort(want[row])[-2:])[0])
        failure = where.failed("prediction", wrong, predicted, truly, "predictions")
        raise ParityFailed(f"{failure} (torch's two largest logits there are {margin:.3g} apart)")
    if not proof.exact and (wrong := _beyond(got, want, steady)) is not None:
        raise where.failed("logits", wrong, got, want, "logits")
    proof.logits += int(same.sum())
    proof.logits_of += same.size
    proof.largest = max(proof.largest, float(np.abs(got - want).max(initial=0.0)))


def _hold_inside(where: _Where, proof: Proven, traced: Mapping[str, Array], seen: Seen, steady: set[str]) -> None:
    """Every layer; of networks that are not exact to rounding, and the integers that are equal are counted."""
    for layer, want in seen.items():
        signs = want.dtype == np.int8
        if signs and layer not in traced:
            continue  # a sign of signs makes nothing
        got = unpack(traced[layer], want.shape[-1]) if signs else _sums(traced, layer)
        unit = "signs" if signs else "sums"
        if got is None or got.shape != want.shape:
            found = "has none" if got is None else f"those of shape {got.shape}"
            raise ParityFailed(
                f"parity failed: {where.backend}, layer {layer!r}: torch has {unit} of shape {want.shape}, "
                f"the file {found}"
            )
        wrong = got != want
        if proof.exact and wrong.any():
            raise where.failed(f"layer {layer!r}", wrong, got, want, unit)
        if not proof.exact and (beyond := _beyond(got, want, layer in steady)) is not None:
            raise where.failed(f"layer {layer!r}", beyond, got, want, unit)
        if got.dtype == np.float32 and not proof.exact:
            continue
        right = wrong.size - int(wrong.sum())
        if signs:
            proof.signs, proof.signs_of = proof.signs + right, proof.signs_of + wrong.size
        else:
            proof.sums, proof.sums_of = proof.sums + right, proof.sums_of + wrong.size
            proof.layers += where.start == 0


def _steady(graph: Graph) -> set[str]:
    """Values with no sign before them: in another order of sums they are the same to rounding."""
    found = {"input"}
    for node in graph.nodes:
        if not isinstance(node.operation, (Binarize, Threshold)) and found.issuperset(node.inputs):
            found.add(node.name)
    return found


def _beyond(got: Array, want: Array, steady: bool) -> Array | None:
    """What no rounding explains (B, ..., C): entries of a steady value; channels that differ in too many examples."""
    largest = float(np.abs(want).max(initial=0.0))
    whole = not np.issubdtype(got.dtype, np.floating) and largest <= LARGEST_WHOLE
    within = np.abs(got - want) <= (0.0 if whole else ROUNDING * largest)
    wrong: Array = (got != want) & ~within  # a nan is within nothing
    if steady:
        return wrong if wrong.any() else None
    turned = wrong.reshape(len(wrong), -1, wrong.shape[-1]).any(1).mean(0) > MOST_TURNED
    return wrong & turned if len(wrong) >= FEWEST and turned.any() else None


def _sums(traced: Mapping[str, Array], layer: str) -> Array | None:
    """Of the layer `layer`, before any normalisation."""
    bases = traced.get(f"{layer}.bases")  # of weights -1, 0, +1: two sums of signs, together twice the layer's
    found = traced.get(layer) if bases is None else bases
    return found if found is None or bases is None else found / 2


def _batch(network: PackedNetwork) -> int:
    """So many examples that what a trace holds of them stays small."""
    graph = network.form.networks[0]
    numbers = sum(math.prod(value.shape) for value in graph.values.values())
    return max(1, min(LARGEST_BATCH, BATCH_BYTES // (4 * numbers)))
