"""Q1, Q2: certified intervals and bounds against published values; bounds against enumeration, unpublished."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from decimal import Decimal

import numpy as np

from solvers.bench.goals import Goal, Measured, Setting, folder, instance, ours
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.solver import solve

# Published values that belong to other files: the certified optima are 4006.25552 and within [12869.866, 12869.996].
EXCEPTIONS = ("maxG51", "maxG55")
UNSEEN, ROWS = 20, 16


def published() -> Iterator[tuple[str, str, str, str]]:
    """File, name, kind and published value (as printed) of every instance."""
    with (folder() / "published.csv").open() as table:
        for row in csv.DictReader(table):
            name = row["file"].split("/")[-1].removesuffix(".gz").removesuffix(".dat-s").removesuffix(".sparse")
            yield row["file"], name, row["kind"], row["published_value"]


def sdplib(_setting: Setting) -> Measured:
    """The largest relative gap at which every SDPLIB value lies in its interval, up to half its last printed digit."""
    gaps, outside, listed = [], [], []
    for file, name, kind, value in published():
        if kind != "maxcut-sdp":
            continue
        of, found = instance(file), ours(file, 1e-6)()
        low, high = of.objective(found.value), of.bound(found.bound)
        digit = float(Decimal(1).scaleb(int(Decimal(value).as_tuple().exponent))) / 2
        inside = low - digit <= float(value) <= high + digit
        gaps.append(found.gap if found.proven else np.inf)
        if name in EXCEPTIONS:
            listed.append(f"{name} [{low:.6f}, {high:.6f}], table {value}")
        elif not inside:
            outside.append(f"{name} [{low:.6f}, {high:.6f}], table {value}")
    detail = f"{len(gaps)} solved, outside: {'; '.join(outside) or 'none'}; listed exceptions: {'; '.join(listed)}"
    return Measured(float(max(gaps)), detail, not outside)


def bounds(_setting: Setting) -> Measured:
    """Files whose certified bound is on the wrong side of the best published value, and unseen instances likewise."""
    wrong, files = [], 0
    for file, name, kind, value in published():
        if kind == "maxcut-sdp":
            continue
        of, found = instance(file), ours(file, 1e-4)()
        bound = of.bound(found.bound_integer)
        beaten = bound < float(value) if of.sense == "max" else bound > float(value)
        wrong += [f"{name}: bound {bound:g}, published {value}"] * (beaten or not found.proven)
        files += 1
    for seed in range(UNSEEN):
        C = _unseen(seed)
        found, optimum = solve(C, gap=1e-6), enumerate_signs(C).value
        wrong += [f"unseen {seed}: bound {found.bound_integer}, optimum {optimum}"] * (found.bound_integer > optimum)
    detail = f"{files} files, {UNSEEN} unseen instances against enumeration; wrong: {'; '.join(wrong) or 'none'}"
    return Measured(len(wrong), detail)


def _unseen(seed: int) -> np.ndarray:
    """Integers of a random density and range."""
    rng = np.random.default_rng(seed)
    half = rng.integers(-9, 10, size=(ROWS, ROWS)) * (rng.random((ROWS, ROWS)) < rng.uniform(0.1, 1))
    return np.asarray(half + half.T, dtype=np.float64)


def goals() -> list[Goal]:
    """Q1, Q2."""
    return [
        Goal("Q1", "largest proven gap, every SDPLIB value inside its interval", 1e-6, "gap", sdplib, False),
        Goal("Q2", "bounds on the wrong side of a best known value", 0, "bounds", bounds, False),
    ]
