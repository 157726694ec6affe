"""CIFAR-10 (Krizhevsky 2009) from the folder of its Python version: six pickles of 10,000 images, checked by SHA-256.

Unpickled by a reader that knows only what these files hold: plain values and one array of bytes, never a callable of
the file's choosing.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from core.problems import known_files
from core.problems.assemble import Source
from core.problems.interface import Description, FileSpec, ProblemUnavailable

SHAPE = (3, 32, 32)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # labels 0..9
_KNOWN = (
    ("data_batch_1", 31_035_704, "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"),
    ("data_batch_2", 31_035_320, "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"),
    ("data_batch_3", 31_035_999, "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"),
    ("data_batch_4", 31_035_696, "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"),
    ("data_batch_5", 31_035_623, "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"),
    ("test_batch", 31_035_526, "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"),
)
FILES = tuple(FileSpec(f"cifar-10-batches-py/{name}", size, sha256) for name, size, sha256 in _KNOWN)


def read(description: Description, root: Path | None) -> Source:
    """The images (N, 3, 32, 32), channels R, G, B, of the description's files; the last one is the test set.

    Labels are the class names. Raises ProblemUnavailable where a file is absent, not the expected one or malformed.
    """
    batches, sums = [], {}
    for spec, path in zip(description.files, known_files.locate(description, root), strict=True):
        content = path.read_bytes()
        sums[spec.path] = hashlib.sha256(content).hexdigest()
        known_files.check(description.name, path, spec, sums[spec.path])
        batches.append(batch(path, content))
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    test = len(batches[-1][1])
    return Source(images, np.array(CLASSES)[labels], blocks=(len(labels) - test, test), checksums=sums)


def batch(path: Path, content: bytes) -> tuple[UInt8[ndarray, "N 3 32 32"], UInt8[ndarray, " N"]]:
    """Images and labels 0..9 of one pickled batch. path: for messages. Raises ProblemUnavailable."""
    held = _unpickled(path, content)
    pixels, labels = held.get(b"data"), held.get(b"labels")
    if not isinstance(pixels, ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (np.prod(SHAPE),):
        _fail(path, "has no array 'data' of rows of 3,072 bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        _fail(path, f"has no list 'labels' of {len(pixels):,} entries, one a row of 'data'")
    if wrong := [label for label in labels if type(label) is not int or not 0 <= label < len(CLASSES)]:
        _fail(path, f"has a label {wrong[0]!r}; they are 0 to {len(CLASSES) - 1}")
    return pixels.reshape(-1, *SHAPE), np.array(labels, dtype=np.uint8)


def _unpickled(path: Path, content: bytes) -> dict[Any, Any]:
    try:
        held: object = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a malformed pickle raises anything, from EOFError to IndexError
        _fail(path, f"is no pickle of a CIFAR-10 batch ({type(error).__name__}: {error})", error)
    if not isinstance(held, dict):
        _fail(path, f"holds a {type(held).__name__}, not the dict of a CIFAR-10 batch")
    return held


class _Unpickler(pickle.Unpickler):
    """Knows the three names by which an array is pickled, and of arrays only those of bytes."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


class _Bytes:
    """Stands for numpy.ndarray in the file; called by `_empty` alone."""


def _empty(kind: type, shape: tuple[int, ...], code: bytes) -> ndarray:
    blank: ndarray = _reconstruct(np.ndarray, (0,), b"b")  # its state, shape and bytes, follows in the file
    return blank


def _byte_type(code: bytes, align: int, copy: int) -> np.dtype[Any]:
    if code != b"u1":
        raise pickle.UnpicklingError(f"it holds an array of type {code!r}, not of bytes")
    return np.dtype("u1", copy=True)


_reconstruct: Any = np.empty(0).__reduce__()[0]  # NumPy's own, whatever module it lives in
# the files were written by Python 2 and an early NumPy: its names, in place of which ours are called
_NAMES: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy", "ndarray"): _Bytes,
    ("numpy", "dtype"): _byte_type,
}


def _fail(path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    raise ProblemUnavailable(f"{path} {reason}\nPut the file of the original cifar-10-python.tar.gz there.") from cause
