"""Instances of max-cut and its relatives from files: rudy graphs, SDPA sparse, quadratic programs over {0, 1}.

Every file becomes min <C, X>, diag X = 1, with the map back to the file's own objective. Files are plain or gzip and
count rows from 1.
rudy: `n m`, then `i j w` (G-set, Biq Mac). SDPA sparse: the format of SDPLIB (Borchers 1999). BQP: `n m`, then `i j q`
(Biq Mac's form of Beasley's problems).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp

from solvers.sdp.files.instance import Instance
from solvers.sdp.files.lines import LARGEST, Entries, Lines, integer, text_of

Format = Literal["rudy", "sdpa", "bqp"]
SUFFIXES = {".dat-s": "sdpa", ".sparse": "bqp", ".bqp": "bqp", ".qubo": "bqp"}  # any other name: rudy
BLANKS = str.maketrans(",(){}", "     ")
MOST_ROWS = 10_000_000  # a header beyond this is taken for a damaged file before anything is allocated


def read(path: str | PathLike[str], *, format: Format | None = None, option: str = "format='{}'") -> Instance:
    """Read an instance and check it whole.

    format: None decides by the name: .dat-s is SDPA sparse, .sparse, .bqp and .qubo are BQP, any other a rudy graph
    (.gz aside).
    rudy: the weight of the maximum cut, sum_{i<j} w_ij / 2 - <W, X> / 4 with W the symmetric weights.
    SDPA: max <F_0, Y> subject to <F_i, Y> = c_i, where F_1 ... F_n pick the diagonal entries and c_i / F_i is one
    number d > 0 for all: then Y = d X.
    BQP: min x'Qx over x in {0, 1}^n, Q symmetric, each pair given once; x = (1 + s) / 2 and a last row that
    homogenises s.
    option: how errors name the choice of a format; a command has a flag for it.
    Raises FileNotFoundError; ValueError naming file, line, what was read and what was expected.
    """
    file = Path(path)
    named = file.with_suffix("") if file.suffix == ".gz" else file
    chosen = format or SUFFIXES.get(named.suffix, "rudy")
    if chosen not in _READERS:
        raise ValueError(f"format={chosen!r}, but the readers are {', '.join(_READERS)}")
    return _READERS[chosen](Lines(file.name, text_of(file), option))


def _rudy(lines: Lines) -> Instance:
    entries = _pairs(lines, loops=False, letter="w")
    total = sum(_exactly(weight) for weight in entries.values.values())
    kind = f"max-cut of a graph, {_many(entries.n, 'node')}, {_many(len(entries.values), 'edge')}"
    scale, offset = Fraction(-1, 4), Fraction(total) / 2
    return Instance(lines.instance, kind, entries.n, entries.matrix(), "max", scale, offset, entries.exact, "cut")


def _bqp(lines: Lines) -> Instance:
    entries = _pairs(lines, loops=True, letter="q")
    n, linear = entries.n, [Fraction(0)] * entries.n
    for (i, j), value in entries.values.items():
        linear[i] += _exactly(value)
        if i != j:
            linear[j] += _exactly(value)
    column = np.array([[float(q)] for q in linear])
    exact = entries.exact and all(Fraction(stored) == q for stored, q in zip(column[:, 0], linear, strict=True))
    C = sp.csr_array(sp.block_array([[entries.matrix(), sp.csr_array(column)], [sp.csr_array(column.T), None]]))
    kind = f"quadratic program over {{0, 1}}, {_many(n, 'variable')}"
    # x'Qx = (1'Q1 + 2 s'Q1 + s'Qs) / 4, and 2 s'Q1 + s'Qs = <C, zz'> for z = (s, 1).
    offset = sum(linear, Fraction(0)) / 4
    return Instance(lines.instance, kind, n, C, "min", Fraction(1, 4), offset, exact, "0-1 point")


def _pairs(lines: Lines, *, loops: bool, letter: str) -> Entries:
    """`n m`, then m lines `i j value`, then nothing."""
    header = "`n m`: the numbers of rows and of entries"
    at, text = lines.take(header)
    counts = [integer(field) for field in text.split()]
    if len(counts) != 2 or counts[0] is None or counts[1] is None or counts[1] < 0:
        lines.fail(at, text, header)
    n, m = _rows(lines, at, text, counts[0]), counts[1]
    entries = Entries(lines, n)
    expected = f"`i j {letter}` with 1 <= i, j <= {n} and a finite {letter}"
    for k in range(m):
        line, text = lines.take(f"entry {k + 1} of the {m} that line {at} announces")
        i, j = entries.add(line, text, text.split(), expected)
        if i == j and not loops:
            bits = lines.option.format("bqp")
            lines.fail(line, text, f"i != j: no cut contains a loop ({bits} reads a quadratic program)")
    for line, text in lines:
        lines.fail(line, text, f"the end of the file after the {m} entries that line {at} announces")
    return entries


def _sdpa(lines: Lines) -> Instance:
    at, text = _first_of_sdpa(lines)
    m = _count(lines, at, text, "the number of constraints")
    at, text = lines.take("the number of blocks")
    if (blocks := _count(lines, at, text, "the number of blocks")) != 1:
        lines.fail(at, text, f"one block of a diagonally constrained problem, not {blocks}")
    at, text = lines.take("the size of the block")
    size = _count(lines, at, text, "the size of one block (a diagonal block, of negative size, is not read)")
    n = _rows(lines, at, text, size)
    if m != n:
        lines.fail(at, text, f"a block of size {m}, one constraint for each diagonal entry")
    entries = Entries(lines, n)
    right = _right_hand_side(lines, m, entries)
    d = _scale_of_sdpa(lines, entries, right, _entries_of_sdpa(lines, entries, m))
    kind = f"semidefinite program with a fixed diagonal, {_many(n, 'row')}"
    return Instance(lines.instance, kind, n, entries.matrix(-1), "max", -d, Fraction(0), entries.exact, "+-1 point")


def _first_of_sdpa(lines: Lines) -> tuple[int, str]:
    """The first line that is not a comment."""
    for at, text in lines:
        if text[0] not in '"*':
            return at, text
    lines.fail(len(lines.all) + 1, "the end of the file", "the number of constraints")


def _scale_of_sdpa(
    lines: Lines, entries: Entries, right: Sequence[float], fixed: Mapping[int, tuple[int, float]]
) -> Fraction:
    """d of diag Y = d, at which the objective, sum |F_0| d at most, is a float64.

    fixed: the line and the value of each constraint's entry.
    """
    pairs = {(c, fixed[i][1]) for i, c in enumerate(right)}
    ratios = {Fraction(c) / Fraction(value) for c, value in pairs}
    if len(ratios) != 1 or (d := ratios.pop()) <= 0:
        lines.fail(len(lines.all), "other values", "c_i / F_i to be one positive number for all i: diag Y = d")
    total = math.fsum(map(abs, entries.values.values()))
    if 2 * d * Fraction(total) > LARGEST:
        at = fixed[0][0]
        lines.fail(at, lines.all[at - 1].strip(), f"c_i / F_i times the sum of |F_0| to be at most {LARGEST:g}")
    return d


def _right_hand_side(lines: Lines, m: int, entries: Entries) -> list[float]:
    """c_1 ... c_m, on one line or more."""
    values: list[float] = []
    while len(values) < m:
        expected = f"{m} right-hand sides c_i, of which {len(values)} came before"
        line, text = lines.take(expected)
        values += [entries.number(line, field, field, expected) for field in _fields(text)]
        if len(values) > m:
            lines.fail(line, f"{len(values)} numbers", f"{m} right-hand sides c_i")
    return values


def _entries_of_sdpa(lines: Lines, entries: Entries, m: int) -> dict[int, tuple[int, float]]:
    """Fills `entries` with F_0; returns each constraint's line and value, a diagonal entry of its own."""
    found: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    expected = f"`matrix 1 i j value` with a matrix of 0..{m} and 1 <= i <= j <= {entries.n}"
    for line, text in lines:
        fields = _fields(text)
        which = integer(fields[0]) if len(fields) == 5 else None
        if which is None or not 0 <= which <= m or integer(fields[1]) != 1:
            lines.fail(line, text, expected)
        if which == 0:
            entries.add(line, text, fields[2:], expected)
            continue
        row = integer(fields[2])
        if row is None or not 1 <= row <= entries.n or fields[2] != fields[3]:
            lines.fail(line, text, f"constraint {which} to fix a diagonal entry; other constraints are not read")
        value = entries.number(line, fields[4], text, expected)
        if which - 1 in found or row in taken or not value:
            lines.fail(line, text, "a constraint for each diagonal entry, once, with a value that is not 0")
        found[which - 1] = line, value
        taken.add(row)
    if len(found) != m:
        lines.fail(len(lines.all) + 1, "the end of the file", f"{m} constraints, of which {len(found)} have an entry")
    return found


def _rows(lines: Lines, at: int, text: str, n: int) -> int:
    if not 1 <= n <= MOST_ROWS:
        lines.fail(at, text, f"from 1 to {MOST_ROWS} rows")
    return n


def _count(lines: Lines, at: int, text: str, what: str) -> int:
    """The one number of a line; SDPA files may explain it behind, in words."""
    fields = _fields(text)
    value = integer(fields[0]) if fields and (len(fields) < 2 or integer(fields[1]) is None) else None
    if value is None or value < 1:
        lines.fail(at, text, f"{what}, at least 1")
    return value


def _fields(text: str) -> list[str]:
    """Fields of a line of an SDPA file, where commas and brackets count as blanks."""
    return text.translate(BLANKS).split()


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _exactly(value: float) -> int | Fraction:
    return int(value) if value.is_integer() else Fraction(value)


_READERS: dict[str, Callable[[Lines], Instance]] = {"rudy": _rudy, "sdpa": _sdpa, "bqp": _bqp}
