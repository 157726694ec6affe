"""A problem from a NumPy .npz file with arrays x and y and, optionally, x_test and y_test. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy import ndarray

from core.problems.assemble import Source
from core.problems.interface import ProblemUnavailable

PAIRS = (("x", "y"), ("x_test", "y_test"))
FAULTS = (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error)  # np.load's, on bad files


def locate(name: str, path: Path) -> Path:
    """`path` if it is a file. Raises ProblemUnavailable."""
    if not path.is_file():
        _fail(name, f"{path} is not a file", "Write npz:FILE with the path of a file that np.savez made.")
    return path


def read(name: str, path: Path) -> Source:
    """The arrays of the file: x (N, ...) uint8 pixels or floats, y (N,) integers or strings, and a test pair if any.

    Images are (N, H, W) or, channels first, (N, C, H, W).
    Raises ProblemUnavailable, naming the array and the fault, where they cannot make a problem.
    """
    arrays = _arrays(name, locate(name, path))
    pairs = [pair for pair in PAIRS if any(key in arrays for key in pair)]
    for x, y in pairs:
        _check_pair(name, arrays, x, y)
    if len(pairs) == 2:
        _check_test_alike(name, arrays)
    inputs, labels = (np.concatenate([arrays[pair[side]] for pair in pairs]) for side in (0, 1))
    blocks = tuple(len(arrays[y]) for _, y in pairs)
    with path.open("rb") as file:
        return Source(inputs, labels, blocks, {path.name: hashlib.file_digest(file, "sha256").hexdigest()})


def _arrays(name: str, path: Path) -> dict[str, ndarray]:
    wanted = [key for pair in PAIRS for key in pair]
    try:
        with path.open("rb") as file:  # opened here: np.load leaks the handle of a damaged file that it opened
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, ndarray):
                _fail(name, f"{path} holds one unnamed array", "Save it as np.savez(FILE, x=..., y=...).")
            if not {"x", "y"} & set(loaded.files):
                held = ", ".join(sorted(loaded.files)) or "nothing"
                _fail(name, f"no arrays x and y; {path} holds {held}", "Save it as np.savez(FILE, x=..., y=...).")
            return {key: loaded[key] for key in wanted if key in loaded}
    except FAULTS as error:
        # not NumPy's own words: they recommend allow_pickle, which runs code from the file
        reason = f"{path} cannot be read as .npz ({type(error).__name__})"
        _fail(name, reason, "Save plain arrays, no objects, with np.savez.", cause=error)


def _check_pair(name: str, arrays: dict[str, ndarray], x: str, y: str) -> None:
    for key, other in ((x, y), (y, x)):
        if key not in arrays:
            _fail(name, f"{other} without {key}", f"Save both, or leave {other} out.")
    inputs, labels = arrays[x], arrays[y]
    if inputs.dtype != np.uint8 and inputs.dtype.kind != "f":
        _fail(name, f"{x} has type {inputs.dtype}", "Pixels must be uint8 (0..255), features float32 or float64.")
    if inputs.ndim < 2 or 0 in inputs.shape:
        _fail(name, f"{x} has shape {inputs.shape}", "One row per example is needed, e.g. (N, features) or (N, H, W).")
    if labels.dtype.kind not in "biuU":
        _fail(name, f"{y} has type {labels.dtype}", "Labels must be integers or strings (astype(int) or astype(str)).")
    if labels.shape != inputs.shape[:1]:
        _fail(name, f"{y} has shape {labels.shape}, {x} {inputs.shape}", f"{y} must hold one label per row of {x}.")


def _check_test_alike(name: str, arrays: dict[str, ndarray]) -> None:
    x, x_test, y, y_test = (arrays[key] for key in ("x", "x_test", "y", "y_test"))
    if x.dtype != x_test.dtype or x.shape[1:] != x_test.shape[1:]:
        rows = f"x has {x.dtype} rows of shape {x.shape[1:]}, x_test {x_test.dtype} rows of shape {x_test.shape[1:]}"
        _fail(name, rows, "Training and test examples must have one form.")
    kinds = {y.dtype.kind, y_test.dtype.kind}
    if kinds != {"U"} and ("U" in kinds or np.result_type(y, y_test).kind == "f"):  # int64 with uint64 gives floats
        _fail(name, f"y has type {y.dtype}, y_test {y_test.dtype}", "Save both with one type.")


def _fail(name: str, reason: str, remedy: str, *, cause: Exception | None = None) -> NoReturn:
    raise ProblemUnavailable(f"{name}: {reason}\n{remedy}") from cause
