"""What the problem tests share: writing idx files as the format's page describes them, by code independent of core."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

IdxWriter = Callable[..., Path]


def _write_idx(path: Path, array: np.ndarray, *, packed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    if packed:
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content, mtime=0)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="session")
def write_idx() -> IdxWriter:
    """write_idx(path, array, packed=False) -> the file written, with .gz added to its name where packed."""
    return _write_idx


@pytest.fixture(scope="session")
def write_pair() -> Callable[..., None]:
    """write_pair(folder, part, images, labels, packed=False): the two idx files of one part, train or t10k."""

    def write(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, *, packed: bool = False) -> None:
        _write_idx(folder / f"{part}-images-idx3-ubyte", images, packed=packed)
        _write_idx(folder / f"{part}-labels-idx1-ubyte", labels, packed=packed)

    return write
