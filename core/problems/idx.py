"""The idx format of MNIST: 00 00, a type byte, the number of dimensions, big-endian uint32 sizes, then the values.

Only unsigned bytes (type 08), as all image sets in this format use. Plain or gzip, told apart by content. A header is
never believed: nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from core.problems.interface import ProblemUnavailable

UNSIGNED_BYTES = 8
MAX_BYTES = 2**32  # data stay resident as one tensor; also the end of a gzip file made to expand without end
BLOCK = 2**20
DAMAGED = "The file is damaged or only partly copied; fetch it again."


def find(path: Path) -> Path | None:
    """`path` itself or, where there is none, `path` with .gz added; None where neither is a file."""
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def read(path: Path, *, dimensions: int) -> tuple[UInt8[ndarray, " *shape"], str]:
    """The array in an idx file of unsigned bytes, and the SHA-256 hex digest of the uncompressed file.

    Raises ProblemUnavailable, naming the file and the fault, for anything else than one whole array of that many
    dimensions, none of size 0.
    """
    with _opened(path) as stream:
        header = _take(stream, 4 + 4 * dimensions)
        sizes = _sizes(path, header, dimensions)
        content = _take(stream, math.prod(sizes))
        rest = stream.read(1)  # reaching the end also makes gzip compare its own checksum
    if len(content) < math.prod(sizes):
        _fail(path, f"is truncated: {_by(sizes)} bytes promised, {len(content):,} found", DAMAGED)
    if rest:
        _fail(path, f"goes on after the {_by(sizes)} bytes that its header promises", DAMAGED)
    sha256 = hashlib.sha256(header)
    sha256.update(content)
    return np.frombuffer(content, dtype=np.uint8).reshape(sizes), sha256.hexdigest()


def _sizes(path: Path, header: bytearray, dimensions: int) -> tuple[int, ...]:
    wanted = bytes((0, 0, UNSIGNED_BYTES, dimensions))
    if header[:4] != wanted:
        reason = f"starts with {header[:4].hex(' ') or 'nothing'}, an idx file of this kind with {wanted.hex(' ')}"
        _fail(path, reason, "It is another format, or images and labels are exchanged.")
    if len(header) < 4 + 4 * dimensions:
        _fail(path, "is truncated within its header", DAMAGED)
    sizes = struct.unpack(f">{dimensions}I", header[4:])
    if not 0 < math.prod(sizes) <= MAX_BYTES:
        _fail(path, f"declares {_by(sizes)} bytes; 1 to {MAX_BYTES:,} can be read", DAMAGED)
    return sizes


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield gzip.GzipFile(fileobj=raw) if packed else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        _fail(path, f"cannot be decompressed: {error}", DAMAGED, cause=error)
    except OSError as error:
        _fail(path, f"cannot be read: {error.strerror or error}", "Check that it is a readable file.", cause=error)


def _take(stream: BufferedIOBase, count: int) -> bytearray:
    """Up to `count` bytes, in blocks: memory grows with what is there, not with what a header says."""
    taken = bytearray()
    while len(taken) < count and (block := stream.read(min(BLOCK, count - len(taken)))):
        taken += block
    return taken


def _by(sizes: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in sizes)


def _fail(path: Path, reason: str, remedy: str, *, cause: Exception | None = None) -> NoReturn:
    raise ProblemUnavailable(f"{path} {reason}\n{remedy}") from cause
