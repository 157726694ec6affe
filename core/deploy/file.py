"""The file of a packed network, version 1: header, JSON, arrays; little-endian, memory-mapped, checked whole.

    0  magic (8 bytes)       48  size of the file      72  offset of the arrays
    8  version               56  offset of the JSON    80  bytes of the arrays
    12 bytes of the header   64  bytes of the JSON     88  zeros, to 128
    16 SHA-256 of all bytes from 48 on

Whole numbers have 4 bytes before the digest and 8 after it. The JSON (`core.deploy.layout`; ASCII, sorted, without
spaces) follows the header. The arrays begin at the next multiple of 64, each at a multiple of 64, back to back with
zeros between; equal ones are stored once. So one form has one file.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.deploy.form import Form
from core.deploy.layout import check_uses, from_data, to_data
from core.deploy.plain import LONGEST_JSON, FileError, read, record, shown, typed, whole_numbers, written

MAGIC = b"\x89BNN\r\n\x1a\n"  # no text, and broken by whatever rewrites line ends, as in PNG
VERSION = 1
HEADER = struct.Struct("<8sII32s5Q40s")
HASHED = 48  # the digest is of all bytes from here on
ALIGNMENT = 64
LONGEST_REASON = 500  # letters of an error that may quote the file
DTYPES = ("uint32", "int32", "float32")


def form_to_bytes(form: Form) -> bytes:
    """The file of `form`. Raises FileError where no file can hold it."""
    return b"".join(_pieces(form))


def save_form(form: Form, path: str | os.PathLike[str]) -> None:
    """Writes the file of `form`, whole or not at all: under another name first, then renamed to `path`.

    Who has the old file mapped keeps the old one. Raises FileError where no file can hold `form`.
    """
    pieces = _pieces(form)
    path = Path(os.path.realpath(path))  # what a link names is replaced, and the link stays
    draft = path.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.part")
    file = open(draft, "xb")
    try:
        with file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _keep_name(path.parent)


def _keep_name(folder: Path) -> None:
    """Puts the renaming on the disk too, where a folder can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def load_form(path: str | os.PathLike[str]) -> Form:
    """The form in the file at `path`, its arrays read-only views of the mapped file.

    Raises FileError for whatever is wrong with the content, and OSError where the file cannot be read. Replace a file
    that is in use, as `save_form` does; one that is overwritten or cut short takes its readers with it.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileError(f"{os.fspath(path)}: is no regular file; name the file of a packed network")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
    try:
        return form_from_bytes(data)
    except FileError as error:
        raise FileError(f"{os.fspath(path)}: {error}") from None


def form_from_bytes(data: bytes | mmap.mmap) -> Form:
    """The form in the bytes of a file, its arrays read-only views of them. Raises FileError for whatever is wrong."""
    view = memoryview(data)
    header = _checked_header(view)
    text = bytes(view[header.json : header.json + header.json_bytes])
    try:
        return _form(text, view[header.blobs :])
    except FileError as error:
        reason = str(error)
        raise FileError(f"{reason[:LONGEST_REASON]}; no release writes such a file, so export it again") from None


def _form(text: bytes, blobs: memoryview) -> Form:
    content = record(read(text), "the JSON", "arrays", "facts", "networks")
    return from_data(content, _arrays(typed(content, "arrays", list), blobs))


@dataclass(frozen=True)
class Header:
    """Where things lie in a file, in bytes; every other field of the header follows from these."""

    size: int
    json: int
    json_bytes: int
    blobs: int
    blob_bytes: int

    @classmethod
    def of(cls, json_bytes: int, blob_bytes: int) -> Header:
        """The only layout of so many bytes of JSON and of arrays."""
        blobs = _aligned(HEADER.size + json_bytes)
        return cls(blobs + blob_bytes, HEADER.size, json_bytes, blobs, blob_bytes)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


# writing


def _pieces(form: Form) -> list[bytes]:
    """The file of `form`, in pieces: the header, the JSON, each array, and zeros between."""
    store = _Store()
    data = to_data(form, store.place)
    check_uses(store.used, sum(len(blob) for blob in store.blobs), "the form")
    text = written({**data, "arrays": store.entries})
    header = Header.of(len(text), store.end)
    gap = bytes(header.blobs - HEADER.size - len(text))
    body = [text, gap, *store.blobs]
    fields = (header.size, header.json, header.json_bytes, header.blobs, header.blob_bytes)
    blank = HEADER.pack(MAGIC, VERSION, HEADER.size, bytes(32), *fields, bytes(40))
    digest = hashlib.sha256(blank[HASHED:])
    for piece in body:
        digest.update(piece)
    return [HEADER.pack(MAGIC, VERSION, HEADER.size, digest.digest(), *fields, bytes(40)), *body]


class _Store:
    """The arrays of a file in the order in which they are first met, each once."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.blobs: list[bytes] = []
        self.end = self.used = 0  # bytes laid out, and bytes of all uses
        self._places: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def place(self, array: np.ndarray) -> int:
        """The number of an array equal to `array`, which is added where there is none."""
        blob = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        self.used += len(blob)
        key = (array.dtype.name, array.shape, hashlib.sha256(blob).digest())
        if key not in self._places:
            self._places[key] = len(self.entries)
            start = _aligned(self.end)
            self.blobs.append(bytes(start - self.end) + blob)
            self.entries.append({"dtype": array.dtype.name, "offset": start, "shape": list(array.shape)})
            self.end = start + len(blob)
        return self._places[key]


# reading


def _checked_header(view: memoryview) -> Header:
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise FileError(f"is no packed network (begins with {bytes(view[: len(MAGIC)])!r}, not with {MAGIC!r})")
    if len(view) < HEADER.size:
        raise FileError(f"is truncated: {len(view)} bytes, and the header alone has {HEADER.size}; copy it again")
    _, version, header_bytes, digest, *numbers, reserved = HEADER.unpack_from(view)
    if version > VERSION:
        raise FileError(f"is of version {version}; this release reads up to {VERSION}: install a newer bitrelax")
    if version < 1 or header_bytes != HEADER.size:
        raise FileError(f"has version {version} and a header of {header_bytes} bytes (needs 1 and {HEADER.size})")
    header = Header(*numbers)
    if header.size != len(view):
        what = "is truncated: it" if len(view) < header.size else "has bytes at its end that do not belong to it:"
        raise FileError(f"{what} should have {header.size} bytes (got {len(view)}); copy it again")
    if header != Header.of(header.json_bytes, header.blob_bytes):  # before the digest, which takes seconds a GiB
        raise FileError(f"has offsets that do not fit its lengths ({header}); copy or export it again")
    if header.json_bytes > LONGEST_JSON:
        raise FileError(f"the JSON has {header.json_bytes} bytes; at most {LONGEST_JSON} are read: export it again")
    if hashlib.sha256(view[HASHED:]).digest() != digest:
        raise FileError("has been changed since it was written (its SHA-256 does not match); copy or export it again")
    _check_zeros(view[HEADER.size - len(reserved) : HEADER.size], "the end of the header")
    _check_zeros(view[header.json + header.json_bytes : header.blobs], "the gap after the JSON")
    return header


def _check_zeros(view: memoryview, where: str) -> None:
    if any(view):
        raise FileError(f"{where} must hold zeros")


def _arrays(entries: list[Any], blobs: memoryview) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    end = 0
    for k, entry in enumerate(entries):
        where = f"array {k}"
        entry = record(entry, where, "dtype", "offset", "shape")
        shape = _shape(entry, where)
        size = 4 * math.prod(shape)
        offset = typed(entry, "offset", int, where)
        _check_place(where, offset, size, end, len(blobs))
        _check_zeros(blobs[end:offset], f"the gap before {where}")
        end = offset + size
        array = np.frombuffer(blobs[offset:end], np.dtype(entry["dtype"]).newbyteorder("<")).reshape(shape)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        array.flags.writeable = False  # as the copy of a big-endian machine would be
        arrays.append(array)
    if end != len(blobs):
        raise FileError(f"the arrays end at {end}, but {len(blobs)} bytes are kept for them")
    return arrays


def _shape(entry: dict[str, Any], where: str) -> list[int]:
    if typed(entry, "dtype", str, where) not in DTYPES:
        raise FileError(f"{where}: dtype must be one of {', '.join(DTYPES)} (got {shown(entry['dtype'])})")
    shape = whole_numbers(entry, "shape", where)
    if not 1 <= len(shape) <= 4 or any(side < 1 for side in shape):
        raise FileError(f"{where}: a shape has 1 to 4 sides, each at least 1 (got {shown(shape)})")
    return shape


def _check_place(where: str, offset: int, size: int, end: int, room: int) -> None:
    """Raises FileError unless so many bytes at `offset` follow the array before, which ends at `end`, and fit."""
    if offset % ALIGNMENT:
        raise FileError(f"{where}: offset {offset} is no multiple of {ALIGNMENT}")
    if offset < end:
        raise FileError(f"{where}: offset {offset} lies before the end of the array before, {end}")
    if offset != _aligned(end):
        raise FileError(f"{where}: offset must be {_aligned(end)}, right after the array before (got {offset})")
    if offset + size > room:
        raise FileError(f"{where}: ends at {offset + size}, beyond the {room} bytes of the arrays")
