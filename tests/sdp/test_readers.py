"""Files of max-cut graphs, SDPA problems and quadratic programs: read right, mapped right, refused with a line."""

import csv
import gzip
import itertools
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from solvers.sdp.files.readers import read
from solvers.sdp.problem import cost

GRAPH = "4 5\n1 2 1\n2 3 -2\n3 4 3\n1 4 1\n2 4 5\n"
PROGRAM = "3 4\n1 1 -7\n1 2 3\n2 3 -4\n3 3 2\n"
SDPA = (
    '" a comment\n* another\n3 = mDIM\n1 = nBLOCK\n{3} = bLOCKsTRUCT\n{2.0, 2.0,\n2.0}\n'
    "0 1 1 2 -0.5\n0 1 2 2 1.5\n1 1 1 1 1\n3 1 3 3 1.0\n2 1 2 2 1\n"
)


@pytest.fixture
def write(tmp_path):
    """Writes a text to a file of a name and returns its path."""

    def of(name: str, text: str, pack: bool = False) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if pack else text.encode())
        return path

    return of


def sign_vectors(n: int):
    return (np.array(signs) for signs in itertools.product((-1, 1), repeat=n))


def worth(instance, signs) -> float:
    return instance.objective(cost(instance.C).value(signs))


def test_graph_is_read_as_the_weight_of_its_cuts(write):
    instance = read(write("graph", GRAPH))
    edges = [tuple(map(int, line.split())) for line in GRAPH.splitlines()[1:]]
    assert (instance.n, instance.sense, instance.scale, instance.offset) == (4, "max", Fraction(-1, 4), 4)
    for signs in sign_vectors(4):
        cut = sum(w for i, j, w in edges if signs[i - 1] != signs[j - 1])
        assert worth(instance, signs) == cut


def test_quadratic_program_is_read_as_its_values_over_zero_and_one(write):
    instance = read(write("p.sparse", PROGRAM))
    Q = np.array([[-7, 3, 0], [3, 0, -4], [0, -4, 2]])
    assert (instance.n, instance.sense) == (4, "min")
    for signs in sign_vectors(4):
        x = (1 + signs[:3] * signs[3]) // 2
        assert worth(instance, signs) == x @ Q @ x


def test_sdpa_file_is_read_as_its_objective_at_the_scale_of_its_diagonal(write):
    instance = read(write("p.dat-s", SDPA))
    F0 = np.array([[0, -0.5, 0], [-0.5, 1.5, 0], [0, 0, 0]])
    assert (instance.n, instance.sense, instance.exact) == (3, "max", True)
    for signs in sign_vectors(3):
        assert worth(instance, signs) == 2 * signs @ F0 @ signs  # diag Y = 2


@pytest.mark.parametrize("scale, weight, fits", [(1e145, 1e144, True), (1e-290, 1e280, True), (1e145, 1e145, False)])
def test_sdpa_file_whose_objective_is_no_float64_is_refused_with_the_line_of_the_scale(write, scale, weight, fits):
    path = write("p.dat-s", f"2\n1\n2\n{scale} {scale}\n0 1 1 2 {weight}\n1 1 1 1 1\n2 1 2 2 1\n")
    if not fits:
        with pytest.raises(
            ValueError, match=r"p.dat-s, line 6: expected c_i / F_i times the sum of .F_0. to be at most"
        ):
            read(path)
        return
    instance = read(path)
    assert worth(instance, np.ones(2)) == pytest.approx(2 * scale * weight, rel=1e-15)
    assert math.isfinite(instance.bound(-2 * weight))


def test_sign_vectors_are_named_by_what_they_are_to_the_file(write):
    files = (("graph", GRAPH), ("p.sparse", PROGRAM), ("p.dat-s", SDPA))
    assert [read(write(*file)).point for file in files] == ["cut", "0-1 point", "+-1 point"]


@pytest.mark.parametrize("name, text", [("graph", GRAPH), ("p.sparse", PROGRAM), ("p.dat-s", SDPA)])
def test_packed_file_is_read_like_the_plain_one(write, name, text):
    plain, packed = read(write(name, text)), read(write(name + ".gz", text, pack=True))
    assert (plain.C != packed.C).nnz == 0
    assert (plain.sense, plain.scale, plain.offset) == (packed.sense, packed.scale, packed.offset)


@pytest.mark.usefixtures("shapes_unchecked")
def test_format_named_outweighs_the_name_of_the_file(write):
    path = write("graph", PROGRAM)
    assert read(path, format="bqp").sense == "min"
    with pytest.raises(
        ValueError, match="line 2: expected i != j: no cut contains a loop .format='bqp'.*read '1 1 -7'"
    ):
        read(path)
    with pytest.raises(ValueError, match="line 2: .* no cut contains a loop .--format bqp reads"):
        read(path, option="--format {}")
    with pytest.raises(ValueError, match="format='mps', but the readers are rudy, sdpa, bqp"):
        read(path, format="mps")


def test_objective_of_a_bound_is_rounded_outwards(write):
    graph, program = read(write("graph", "2 1\n1 2 0.1\n")), read(write("p.sparse", "2 1\n1 2 0.1\n"))
    rng = np.random.default_rng(1)
    for lower in [-1e-17, 1 / 3, *rng.normal(size=200)]:
        for instance, side in ((graph, 1), (program, -1)):
            exact = instance.offset + instance.scale * Fraction(lower)
            rounded = instance.bound(lower)
            assert (Fraction(rounded) - exact) * side >= 0
            assert abs(rounded - float(exact)) <= math.ulp(rounded)
    assert graph.bound(-math.inf) == math.inf and program.bound(-math.inf) == -math.inf


@pytest.mark.parametrize("name, text", [("graph", GRAPH), ("p.sparse", PROGRAM), ("thirds", "2 1\n1 2 0.3\n")])
def test_folded_instance_has_the_same_objective_and_no_offset_in_it(write, name, text):
    instance = read(write(name, text))
    folded = instance.folded()
    assert folded.offset == 0
    for signs in sign_vectors(instance.n):
        assert worth(folded, signs) == pytest.approx(worth(instance, signs), abs=1e-15)


def test_what_float64_cannot_hold_is_said(write):
    assert read(write("graph", "2 1\n1 2 0.5\n")).exact
    assert not read(write("graph", "2 1\n1 2 0.1\n")).exact
    assert not read(write("graph", "2 1\n1 2 9007199254740993\n")).exact
    # Each entry is a float64, the row sum 2^53 + 1 is not.
    assert not read(write("p.sparse", "2 2\n1 1 9007199254740992\n1 2 1\n")).exact


@pytest.mark.parametrize("name", ["graph", "p.sparse"])
def test_single_row_and_no_entries_are_a_problem(write, name):
    instance = read(write(name, "1 0\n\n"))
    assert instance.C.nnz == 0 and instance.objective(0.0) == 0


MALFORMED = {
    "empty": ("g", "", "line 1: expected `n m`.*read 'the end of the file'"),
    "blank": ("g", "\n \n", "line 3: expected `n m`"),
    "header": ("g", "4\n", "line 1: expected `n m`.*read '4'"),
    "header in words": ("g", "four five\n", "line 1: expected `n m`"),
    "negative count": ("g", "4 -1\n", "line 1: expected `n m`"),
    "no rows": ("g", "0 0\n", "line 1: expected from 1 to 10000000 rows"),
    "absurd rows": ("g", "99999999999 1\n1 2 3\n", "line 1: expected from 1 to 10000000 rows"),
    "too few": ("g", "3 2\n1 2 1\n", "line 3: expected entry 2 of the 2 that line 1 announces, read 'the end"),
    "too many": ("g", "3 1\n1 2 1\n\n2 3 1\n", "line 4: expected the end of the file after the 1 entries.*'2 3 1'"),
    "out of range": ("g", "3 1\n1 4 1\n", "line 2: expected `i j w` with 1 <= i, j <= 3 .*read '1 4 1'"),
    "from zero": ("g", "3 1\n0 2 1\n", "line 2: expected `i j w` with 1 <= i"),
    "loop": ("g", "3 1\n2 2 1\n", "line 2: expected i != j"),
    "twice": ("g", "3 2\n1 2 1\n2 1 1\n", "line 3: expected every pair once .1 2 is on line 2 already."),
    "no weight": ("g", "3 1\n1 2\n", "line 2: expected `i j w`"),
    "four fields": ("g", "3 1\n1 2 3 4\n", "line 2: expected `i j w`"),
    "fraction index": ("g", "3 1\n1.0 2 3\n", "line 2: expected `i j w`"),
    "nan": ("g", "3 1\n1 2 nan\n", "line 2: expected `i j w` .* a finite w"),
    "infinite": ("g", "3 1\n1 2 1e999\n", "line 2: expected `i j w`"),
    "underscore": ("g", "3 1\n1 2 1_0\n", "line 2: expected `i j w`"),
    "other digits": ("g", "3 1\n1 2 \u0663\n", "line 2: expected `i j w`"),
    "program twice": ("p.sparse", "3 2\n1 1 1\n1 1 2\n", "line 3: expected every pair once"),
    "no constraints": ("p.dat-s", '" only a comment\n', "line 2: expected the number of constraints"),
    "two blocks": ("p.dat-s", "2\n2\n1 1\n", "line 2: expected one block .* not 2"),
    "diagonal block": ("p.dat-s", "2\n1\n-2\n", "line 3: expected the size of one block"),
    "sizes": ("p.dat-s", "2\n1\n2 2\n", "line 3: expected the size of one block"),
    "count of constraints": ("p.dat-s", "2\n1\n3\n1 1\n", "line 3: expected a block of size 2"),
    "right sides": ("p.dat-s", "2\n1\n2\n1 1 1\n", "line 4: expected 2 right-hand sides"),
    "right sides missing": ("p.dat-s", "2\n1\n2\n1\n", "line 5: expected 2 right-hand sides c_i, of which 1"),
    "unequal diagonal": ("p.dat-s", "2\n1\n2\n1 2\n1 1 1 1 1\n2 1 2 2 1\n", "c_i / F_i to be one positive number"),
    "negative diagonal": ("p.dat-s", "1\n1\n1\n-1\n1 1 1 1 1\n", "c_i / F_i to be one positive number"),
    "off-diagonal": ("p.dat-s", "2\n1\n2\n1 1\n1 1 1 2 1\n", "line 5: expected constraint 1 to fix a diagonal entry"),
    "two entries": ("p.dat-s", "2\n1\n2\n1 1\n1 1 1 1 1\n1 1 2 2 1\n", "line 6: expected a constraint for each diag"),
    "same entry": ("p.dat-s", "2\n1\n2\n1 1\n1 1 1 1 1\n2 1 1 1 1\n", "line 6: expected a constraint for each diag"),
    "zero constraint": ("p.dat-s", "1\n1\n1\n1\n1 1 1 1 0\n", "line 5: expected a constraint .* not 0"),
    "missing constraint": ("p.dat-s", "2\n1\n2\n1 1\n1 1 1 1 1\n", "line 6: expected 2 constraints, of which 1 have"),
    "matrix out of range": ("p.dat-s", "1\n1\n1\n1\n2 1 1 1 1\n", "line 5: expected `matrix 1 i j value` .* of 0..1"),
    "other block": ("p.dat-s", "1\n1\n1\n1\n1 2 1 1 1\n", "line 5: expected `matrix 1 i j value`"),
    "short entry": ("p.dat-s", "1\n1\n1\n1\n1 1 1 1\n", "line 5: expected `matrix 1 i j value`"),
    "huge scale": (
        "p.dat-s",
        "1\n1\n1\n1e290\n0 1 1 1 1\n1 1 1 1 1e-290\n",
        "line 6: expected c_i / F_i times the sum",
    ),
    "cost twice": ("p.dat-s", "2\n1\n2\n1 1\n0 1 1 2 1\n0 1 2 1 1\n", "line 6: expected every pair once"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file_is_refused_with_its_line_and_what_was_expected(write, case):
    name, text, message = MALFORMED[case]
    with pytest.raises(ValueError, match=rf"^{name}, .*{message}|^{name}, {message}"):
        read(write(name, text))


def test_damaged_archives_and_other_bytes_are_refused(write, tmp_path):
    whole = gzip.compress(GRAPH.encode())
    for damaged in (whole[:-9], whole[:20], b"\x1f\x8b" + b"nonsense"):
        (tmp_path / "g.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match="g.gz: not a whole gzip file"):
            read(tmp_path / "g.gz")
    (tmp_path / "g").write_bytes(b"4 1\n\xff\xfe")
    with pytest.raises(ValueError, match="g: byte 4 is no text"):
        read(tmp_path / "g")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent")


@pytest.mark.data
def test_every_instance_has_the_size_and_entries_its_table_says():
    root = Path(os.environ["BITRELAX_DATA"]) / "sdp"
    with (root / "published.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 65
    for row in rows:
        instance = read(root / row["file"])
        graph = row["kind"] == "maxcut-graph"
        assert instance.n == int(row["n"]) + (row["kind"] == "qubo-min")
        assert instance.exact and instance.sense == ("min" if row["kind"] == "qubo-min" else "max")
        if graph:  # no edge of weight 0 in these graphs
            assert instance.C.nnz == 2 * int(row["m"])


@pytest.mark.data
def test_graph_and_its_semidefinite_program_agree():
    root = Path(os.environ["BITRELAX_DATA"]) / "sdp"
    graph, program = (read(root / name).folded() for name in ("gset/G11.gz", "sdplib/maxG11.dat-s.gz"))
    signs = np.random.default_rng(2).choice((-1, 1), size=(20, 800))
    assert [worth(graph, x) for x in signs] == [worth(program, x) for x in signs]
