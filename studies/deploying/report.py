"""What the command says of a deployed network, in lines for the terminal and as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.deploy import PackedNetwork
from core.deploy.summary import Layer, layers, lines, table
from core.problems import Problem
from studies.deploying.backends import Step
from studies.deploying.cell import Trained
from studies.deploying.choice import Asked, Choice
from studies.deploying.parity import Proven
from studies.deploying.sizes import Size
from studies.deploying.timing import BATCHES, Rate
from studies.runner import machine
from studies.runner.command import counted

PLAIN = "torch fp32, plain layers"
STANDARDISED = (
    "inputs are standardised features, (raw - mean) / deviation; the file has both: network.standardised(raw), or "
    "--classes RAW.npy --raw"
)
MOST_REASONS = 3  # of an inexact file; its facts have all
MOST_STEPS = 30  # beyond which only sums by kind of work are printed


def choice_line(choice: Choice, asked: Asked) -> str:
    """Which record, and what it says of itself."""
    record = choice.record
    scores = f"validation {_percent(choice.validation)}, test {_percent(choice.prediction['metrics']['test'])}"
    how = f", the best on validation of {counted(choice.among, 'cell')}" if asked.best else ""
    label = f"{record['problem']} / {record['method']} / seed {record['seed']}"
    taken = f"\n  the only one there: {', '.join(choice.taken)}" if choice.taken else ""
    return f"{label} / {choice.prediction['prediction']}{how}{taken}\n  record {record['key']}: {scores}"


def facts(choice: Choice, problem: Problem, source: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its origin and inputs, beside what its export says.

    standardised: what `PackedNetwork.standardised` applies to raw features; absent where inputs are raw pixels.
    """
    record, standardisation = choice.record, problem.standardisation
    inputs = {} if standardisation is None else {"standardised": standardisation.data()}
    return {
        **inputs,
        "cell": {name: record[name] for name in ("study", "problem", "method", "seed", "key")},
        "prediction": choice.prediction["prediction"],
        "validation_accuracy": choice.validation["accuracy"],
        "test_accuracy": choice.prediction["metrics"]["test"]["accuracy"],
        "classes": list(problem.class_names),
        "source": dict(source),
    }


def network_lines(network: PackedNetwork, trained: Trained, choice: Choice) -> list[str]:
    """The network's layers, whether the file is exact, and what its sources differ in since the record."""
    said = ["", *lines(network.form), ""]
    known = network.form.facts
    if known["exact"]:
        said.append("exact: every sum and every bit is that of torch, and so are the logits")
    else:
        said.append(f"equal predictions, not equal bits: {_some(known['inexact_because'])}")
    if "standardised" in known:
        said.append(STANDARDISED)
    if trained.changed:
        said.append(
            f"sources changed since the record ({'; '.join(trained.changed)}); the network built now has the record's "
            "validation scores"
        )
    return said


def parity_lines(proofs: Sequence[Proven], network: PackedNetwork, choice: Choice, of: int) -> list[str]:
    """What was proven, backend by backend, and what follows for the accuracy."""
    whole = proofs[0].examples == of
    part = "" if whole else f", of the first {proofs[0].examples:,} of {of:,} test inputs alone (--test-limit)"
    said = [f"parity with torch on the CPU{part}:", *(f"  {proof}" for proof in proofs)]
    accuracy = _percent(choice.prediction["metrics"]["test"])
    if whole:
        said.append(f"  so test accuracy is the record's, {accuracy}; no test label was read")
    return said


def size_lines(size: Size, to: Path) -> list[str]:
    """The file against float32."""
    kept = f"; {100 * size.kept_real:.2g} % of weights kept in float" if size.real else ""
    share = f"1/{size.ratio:.1f} of" if size.ratio >= 1 else f"{1 / size.ratio:.1f} times"
    return [
        "",
        f"{to}: {size.file:,} bytes, {share} the {size.float32:,} of its float32 parameters "
        f"({size.binary:,} weights of 1 bit, {size.real:,} real{kept})",
    ]


def time_lines(rates: Sequence[Rate], shares: Mapping[Step, float]) -> list[str]:
    """Images a second by batch, with the ratio to plain torch, and where the native time goes."""
    if not rates:
        return []
    by = {(rate.name, rate.batch): rate for rate in rates}
    head = ["one thread", *(text for batch in BATCHES for text in (f"images/s, batch {batch}", "x torch"))]
    rows = []
    for name in dict.fromkeys(rate.name for rate in rates):
        row = [name]
        for batch in BATCHES:
            rate, plain = by[name, batch], by[PLAIN, batch]
            row += [f"{rate.images:,.0f}", _times(plain.seconds / rate.seconds)]
        rows.append(row)
    rounds = max(rate.rounds for rate in rates)
    where = f"on {machine.cpu()}, load {machine.load():.1f}; medians of {counted(rounds, 'round')}"
    return ["", *table(head, rows), where, *_share_lines(shares)]


def data(
    choice: Choice,
    network: PackedNetwork,
    proofs: Sequence[Proven],
    size: Size,
    rates: Sequence[Rate],
    shares: Mapping[Step, float],
) -> dict[str, Any]:
    """The same as plain JSON data."""
    return {
        "facts": dict(network.form.facts),
        "validation": dict(choice.validation),
        "layers": [_layer(layer) for layer in layers(network.form.networks[0])],
        "parity": [asdict(proof) for proof in proofs],
        "size": size.data(),
        "rates": [{**asdict(rate), "images_per_second": rate.images} for rate in rates],
        "steps": [{"step": name, "work": kind, "seconds": taken} for (name, kind), taken in shares.items()],
    }


def _some(reasons: Sequence[str]) -> str:
    more = [f"and {len(reasons) - MOST_REASONS} more"] if len(reasons) > MOST_REASONS else []
    return "; ".join([*reasons[:MOST_REASONS], *more])


def _layer(layer: Layer) -> dict[str, Any]:
    kinds = {"takes": layer.takes.kind, "makes": layer.makes.kind}
    shapes = {"takes_shape": layer.takes.shape, "makes_shape": layer.makes.shape}
    return {**asdict(layer), **kinds, **shapes}


def _share_lines(shares: Mapping[Step, float]) -> list[str]:
    """A line a step where they are few, and a line a kind of work that sums several."""
    if not shares:
        return []
    total = sum(shares.values())

    def row(name: str, kind: str, seconds: float) -> tuple[str, ...]:
        return name, kind, f"{1e3 * seconds:.3f}", f"{100 * seconds / total:.1f}"

    kinds: dict[str, list[float]] = {}
    for (_, kind), seconds in shares.items():
        kinds.setdefault(kind, []).append(seconds)
    few = len(shares) <= MOST_STEPS
    steps = [row(name, kind, seconds) for (name, kind), seconds in shares.items()] if few else []
    largest = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    sums = [row("all", kind, sum(seconds)) for kind, seconds in largest if len(seconds) > 1 or not few]
    return ["", *table((f"native, batch {BATCHES[-1]}", "work", "ms", "%"), [*steps, *sums])]


def _times(ratio: float) -> str:
    """ "12.3", "0.0042"."""
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2g}"


def _percent(metrics: Mapping[str, Any]) -> str:
    return f"{100 * metrics['accuracy']:.2f} %"
