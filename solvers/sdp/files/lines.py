"""Text files of numbers, line by line: errors name the file, the line, what was read and what was expected."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import numpy as np
import scipy.sparse as sp

INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
LARGEST = 1e290  # sums of 2^31 such numbers are finite


class Lines:
    """The lines of a file that are not blank, with their numbers, and the errors that name them.

    option: how an error names the choice of a format, with the format in place of {}.
    """

    def __init__(self, name: str, text: str, option: str) -> None:
        self.name, self.option = name, option
        self.all = text.splitlines()
        self.rest = ((k, line.strip()) for k, line in enumerate(self.all, 1) if line.strip())

    @property
    def instance(self) -> str:
        """The file's name without .gz."""
        return self.name.removesuffix(".gz")

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self.rest

    def take(self, expected: str) -> tuple[int, str]:
        """The next line."""
        for line in self.rest:
            return line
        self.fail(len(self.all) + 1, "the end of the file", expected)

    def fail(self, line: int, found: str, expected: str) -> NoReturn:
        """Say where, what was read and what was expected."""
        shown = found if len(found) <= 60 else found[:57] + "..."
        raise ValueError(f"{self.name}, line {line}: expected {expected}, read {shown!r}")


class Entries:
    """Symmetric entries collected line by line: in range, no pair twice, numbers finite."""

    def __init__(self, lines: Lines, n: int) -> None:
        self.lines, self.n = lines, n
        self.values: dict[tuple[int, int], float] = {}
        self.first: dict[tuple[int, int], int] = {}
        self.exact = True
        self.known: dict[str, tuple[float, bool] | None] = {}

    def add(self, line: int, text: str, fields: Sequence[str], expected: str) -> tuple[int, int]:
        """Take `i j value` of a line; returns its rows from 0, the lower first."""
        ends = [integer(field) for field in fields[:2]]
        if len(fields) != 3 or any(end is None or not 1 <= end <= self.n for end in ends):
            self.lines.fail(line, text, expected)
        value = self.number(line, fields[2], text, expected)
        low, high = sorted(int(end or 0) - 1 for end in ends)
        if (low, high) in self.first:
            before = self.first[low, high]
            self.lines.fail(line, text, f"every pair once ({low + 1} {high + 1} is on line {before} already)")
        self.first[low, high] = line
        self.values[low, high] = value
        return low, high

    def number(self, line: int, token: str, text: str, expected: str) -> float:
        """A finite number; remembers whether all so far are float64 numbers."""
        if token not in self.known:
            value = number(token)
            self.known[token] = None if value is None else (value, Decimal(token) == Decimal(value))
        found = self.known[token]
        if found is None:
            self.lines.fail(line, text, expected)
        self.exact &= found[1]
        return found[0]

    def matrix(self, sign: int = 1) -> sp.csr_array:
        """The symmetric matrix of the entries, times `sign`."""
        pairs = np.array(list(self.values), dtype=np.int64).reshape(-1, 2)
        weights = sign * np.array(list(self.values.values()), dtype=np.float64)
        off = pairs[:, 0] != pairs[:, 1]
        rows = np.concatenate([pairs[:, 0], pairs[off, 1]])
        columns = np.concatenate([pairs[:, 1], pairs[off, 0]])
        return sp.csr_array((np.concatenate([weights, weights[off]]), (rows, columns)), shape=(self.n, self.n))


def integer(field: str) -> int | None:
    """The integer that a field is, None if it is none."""
    return int(field) if INTEGER.fullmatch(field) else None


def number(field: str) -> float | None:
    """The number that a field is, None if it is none or above 1e290."""
    value = float(field) if NUMBER.fullmatch(field) else math.inf
    return value if abs(value) <= LARGEST else None


def text_of(file: Path) -> str:
    """A file's text, decompressed where it is gzip; ValueError where it is neither."""
    data = file.read_bytes()
    try:
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file.name}: not a whole gzip file ({error}); fetch it again") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name}: byte {error.start} is no text; expected a rudy, SDPA or BQP file") from error
