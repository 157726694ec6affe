"""Published optima and best known values against certified intervals, in each instance's own sense."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from solvers.sdp.files.readers import read
from solvers.sdp.signs.rounding import round
from solvers.sdp.solver import solve

pytestmark = pytest.mark.data

# The table's values of these two files are wrong (4003.809 and 9999.21); ranges certified before, from their README.
EXCEPTIONS = {"sdplib/maxG51.dat-s.gz": (4006.25552, 1e-5), "sdplib/maxG55.dat-s.gz": (12869.931, 0.065)}
GAP = 1e-3  # the best cuts are percents away from the SDP's optimum: this decides, and costs one proof
# Found by tabu search: better than the -128223 listed.
BETTER = {"bqp/bqp500-2.sparse.gz": -128339.0}


def _rows(kind: str) -> list[dict[str, str]]:
    folder = os.environ.get("BITRELAX_DATA")
    if not folder:
        return [{"file": "none", "n": "0", "published_value": "0"}]
    with open(Path(folder) / "sdp" / "published.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == kind]


def _named(kind: str, **options):
    return pytest.mark.parametrize("row", _rows(kind), ids=lambda row: row["file"], **options)


def _interval(instance, solution) -> tuple[float, float]:
    """The certified interval in the instance's own sense."""
    ends = [instance.offset + instance.scale * end for end in (solution.bound, solution.value)]
    return min(ends), max(ends)


@_named("maxcut-sdp")
def test_sdplib_value_lies_in_the_certified_interval(instances, row):
    instance = read(instances / row["file"])
    gap = 1e-5 if int(row["n"]) > 2000 else 1e-6
    solution = solve(instance.C, gap=gap)
    assert solution.status == "certified" and solution.gap <= gap
    low, high = _interval(instance, solution)
    published, half_digit = float(row["published_value"]), 0.5 * 10.0 ** -len(row["published_value"].partition(".")[2])
    if row["file"] in EXCEPTIONS:
        assert not low - half_digit <= published <= high + half_digit, "the table's value is known to be wrong"
        published, half_digit = EXCEPTIONS[row["file"]]
    assert low - half_digit <= published <= high + half_digit


@_named("maxcut-graph")
def test_bound_is_at_least_the_best_published_cut(instances, row):
    instance = read(instances / row["file"])
    solution = solve(instance.C, gap=GAP)
    assert instance.sense == "max" and instance.C.shape == (int(row["n"]), int(row["n"]))
    assert solution.proven and solution.gap <= GAP
    best = float(row["published_value"])
    bounds = [instance.offset + instance.scale * bound for bound in (solution.bound, solution.bound_integer)]
    assert best <= bounds[1] <= bounds[0]
    assert bounds[1] == int(bounds[1])  # cuts of integer weights


@_named("qubo-min")
def test_bound_is_at_most_the_best_published_minimum(instances, row):
    instance = read(instances / row["file"])
    solution = solve(instance.C, gap=GAP)
    assert instance.sense == "min" and instance.C.shape[0] == int(row["n"]) + 1
    assert solution.proven and solution.gap <= GAP
    best = min(float(row["published_value"]), BETTER.get(row["file"], 0.0))
    bounds = [instance.offset + instance.scale * bound for bound in (solution.bound, solution.bound_integer)]
    assert bounds[0] <= bounds[1] <= best


def test_bqp500_2_has_a_vector_below_the_listed_value(instances):
    """Why it is an exception: the listed -128223 is not the best."""
    instance = read(instances / "bqp" / "bqp500-2.sparse.gz")
    solution = solve(instance.C, gap=1e-2)
    answer = round(solution.factor, instance.C, n=200, local="tabu")
    assert instance.offset + instance.scale * answer.value < -128223


@pytest.mark.parametrize("name", ["gset/G11.gz", "biqmac/pm1s_80.0.gz"])
def test_value_of_a_cut_is_the_weight_across_it(instances, name):
    """offset + scale x'Cx of signs x against the file itself, read here line by line."""
    instance = read(instances / name)
    lines = [line.split() for line in gzip.open(instances / name, "rt") if line.strip()]
    edges = np.array([[float(part) for part in line] for line in lines[1:]])
    i, j, weight = edges[:, 0].astype(int) - 1, edges[:, 1].astype(int) - 1, edges[:, 2]
    x = np.random.default_rng(0).integers(0, 2, int(lines[0][0])) * 2.0 - 1.0
    assert instance.offset + instance.scale * float(x @ (instance.C @ x)) == weight[x[i] != x[j]].sum()
