"""Arrays of bytes that take long to make, kept in the user's cache folder: files of a SHA-256, then the bytes.

Written under a temporary name and renamed, so that any number of processes may read and make one at the same time.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from core.problems.interface import ProblemUnavailable

CACHE_VARIABLE = "BITRELAX_CACHE"
DIGEST = hashlib.sha256().digest_size


def folder() -> Path:
    """BITRELAX_CACHE, or bitrelax in XDG_CACHE_HOME, or ~/.cache/bitrelax."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitrelax"


def cached(
    name: str, shape: tuple[int, ...], make: Callable[[], UInt8[ndarray, " *shape"]]
) -> tuple[UInt8[ndarray, " *shape"], str]:
    """The array called `name`, read-only, and the SHA-256 hex digest of its bytes; made and kept where it is not there.

    A file that is cut short or altered is made anew. Raises ProblemUnavailable where the folder cannot be used.
    """
    path = folder() / name
    try:
        if (content := _content(path, math.prod(shape))) is None:
            pixels = np.ascontiguousarray(make()).data
            content = hashlib.sha256(pixels).digest() + pixels.tobytes()
            _write(path, content)
    except OSError as error:
        raise ProblemUnavailable(
            f"the cache folder {path.parent} cannot be used: {error.strerror or error}\n"
            f"Name one that can be written, with room for {math.prod(shape) / 1e6:.0f} MB, with {CACHE_VARIABLE}=DIR."
        ) from error
    return np.frombuffer(content, np.uint8, offset=DIGEST).reshape(shape), content[:DIGEST].hex()


def _content(path: Path, size: int) -> bytes | None:
    """The whole file if it is what it says; None where there is none, or it is damaged."""
    if not path.exists():
        return None
    content = path.read_bytes()
    whole = len(content) == DIGEST + size and hashlib.sha256(memoryview(content)[DIGEST:]).digest() == content[:DIGEST]
    return content if whole else None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with open(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
