"""A row of the study: what one entry reached on one neuron, between the certified bound and what is known above it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from studies.certifying.answers import Answer
from studies.certifying.bounds import Bounds
from studies.certifying.heuristics import EXACT
from studies.certifying.neurons import Layer

SLACK = 1e-9  # of ||y||^2: what sums of squares in float64 may lose in the comparisons of `doubts`


@dataclass(frozen=True)
class Row:
    """One entry on one neuron; numbers in units of ||y - a X w||^2, y and X centred, summed over the examples.

    value: of the signs the entry stands for. last, polished: see `Answer`; nan where there are none. bound: no signs
    do better; proven in floating point where `proven`. relaxed: the semidefinite program's value. floor: the least
    over real weights; norm: ||y||^2; box: an estimate of the least over -1 <= w <= 1. optimum: the least over signs,
    enumerated; nan where it was not. best: the least found by any entry. gap: (value - bound) / value, certified where
    proven. share: (value - bound) / (value - floor), the part of the cost of signs that is not proven necessary.
    method_error, relaxation_error: (value - optimum) / value and (optimum - bound) / value; they add to the gap.
    seconds: CPU seconds of the entry on the whole layer, bound_seconds those of all its bounds.
    """

    problem: str
    layer: str
    neuron: int
    entry: str
    n: int
    examples: int
    scale: float
    value: float
    last: float
    polished: float
    bound: float
    proven: bool
    relaxed: float
    floor: float
    norm: float
    box: float
    optimum: float
    best: float
    gap: float
    share: float
    method_error: float
    relaxation_error: float
    seconds: float
    bound_seconds: float
    note: str

    def plain(self) -> dict[str, Any]:
        """All fields for JSON; numbers that are not finite become None."""
        fields = asdict(self).items()
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields}


def rows(layer: Layer, bounds: Bounds, answers: Sequence[Answer]) -> Iterator[Row]:
    """One row an entry and neuron, entries in order."""
    floors, norms = layer.floors(), layer.norms
    best = np.stack([answer.reached() for answer in answers]).min(0)
    exact = next((answer.values for answer in answers if answer.entry == EXACT), np.full(layer.neurons, math.nan))
    missing = np.full(layer.neurons, math.nan)
    for answer in answers:
        last = missing if answer.last is None else answer.last
        polished = missing if answer.polished is None else answer.polished
        for t in range(layer.neurons):
            value, bound, optimum = float(answer.values[t]), float(bounds.bound[t]), float(exact[t])
            yield Row(
                problem=layer.problem,
                layer=layer.setting,
                neuron=t,
                entry=answer.entry,
                n=layer.n,
                examples=len(layer.inputs),
                scale=float(layer.scale[t]),
                value=value,
                last=float(last[t]),
                polished=float(polished[t]),
                bound=bound,
                proven=bool(bounds.proven[t]),
                relaxed=float(bounds.relaxed[t]),
                floor=float(floors[t]),
                norm=float(norms[t]),
                box=float(bounds.box[t]),
                optimum=optimum,
                best=float(best[t]),
                gap=(value - bound) / value,
                share=(value - bound) / (value - float(floors[t])),
                method_error=(value - optimum) / value,
                relaxation_error=(optimum - bound) / value,
                seconds=answer.seconds,
                bound_seconds=bounds.seconds,
                note=answer.note,
            )


def frame(found: Sequence[Row]) -> pd.DataFrame:
    """All fields, one row a row."""
    return pd.DataFrame([vars(row) for row in found])


def doubts(found: Sequence[Row]) -> list[str]:
    """What must hold and does not: bounds proven, no signs below a bound, nor below the enumerated optimum."""
    said = []
    for row in found:
        where = f"{row.problem}, {row.layer}, neuron {row.neuron}"
        least, slack = float(np.nanmin([row.value, row.last, row.polished])), SLACK * row.norm
        if not row.proven:
            said.append(f"{where}: the bound is not proven")
        if least < row.bound - slack:
            said.append(f"{where}: {row.entry} reaches {least:.12g}, below the bound {row.bound:.12g}")
        if least < row.optimum - slack:
            said.append(f"{where}: {row.entry} reaches {least:.12g}, below the optimum {row.optimum:.12g}")
    return list(dict.fromkeys(said))
