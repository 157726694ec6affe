"""The idx reader: round trip for any size, gzip = plain, and one clear message for every malformed file."""

import gzip
import hashlib
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.problems import ProblemUnavailable, idx

images = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9))
labels = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=1, max_side=50))


@settings(deadline=None)  # writes files
@given(st.one_of(images, labels), st.booleans())
def test_reading_returns_what_was_written(write_idx: Callable[..., Path], array: np.ndarray, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_idx(Path(folder, "some-idx"), array, packed=packed)
        read, sha256 = idx.read(path, dimensions=array.ndim)
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    assert np.array_equal(read, array)
    assert read.dtype == np.uint8
    assert sha256 == hashlib.sha256(content).hexdigest()


def test_gzip_is_told_by_content_and_not_by_name(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    plain = write_idx(tmp_path / "a", array).rename(tmp_path / "plain.gz")
    packed = write_idx(tmp_path / "b", array, packed=True).rename(tmp_path / "packed")
    (a, sum_a), (b, sum_b) = (idx.read(path, dimensions=3) for path in (plain, packed))
    assert np.array_equal(a, b)
    assert sum_a == sum_b


def test_find_prefers_the_plain_file_and_falls_back_to_gz(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    array = np.zeros((1, 1, 1), dtype=np.uint8)
    assert idx.find(tmp_path / "a") is None
    packed = write_idx(tmp_path / "a", array, packed=True)
    assert idx.find(tmp_path / "a") == packed
    plain = write_idx(tmp_path / "a", array)
    assert idx.find(tmp_path / "a") == plain


def _header(*sizes: int, type_byte: int = 8) -> bytes:
    return bytes([0, 0, type_byte, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)


MALFORMED = {
    "empty": (b"", "starts with nothing, an idx file of this kind with 00 00 08 03"),
    "text": (b"<html>not found</html>", "starts with 3c 68 74 6d, an idx file of this kind with 00 00 08 03"),
    "labels for images": (_header(2) + b"ab", "starts with 00 00 08 01"),
    "floats": (_header(1, 1, 1, type_byte=0x0D) + b"abcd", "starts with 00 00 0d 03"),
    "short header": (_header(2, 3, 4)[:9], "is truncated within its header"),
    "short values": (_header(2, 3, 4) + bytes(23), "is truncated: 2 x 3 x 4 bytes promised, 23 found"),
    "long values": (_header(2, 3, 4) + bytes(25), "goes on after the 2 x 3 x 4 bytes that its header promises"),
    "no images": (_header(0, 3, 4), "declares 0 x 3 x 4 bytes; 1 to 4,294,967,296 can be read"),
    "huge": (_header(2**32 - 1, 2**32 - 1, 2**32 - 1), "declares 4,294,967,295 x 4,294,967,295 x 4,294,967,295 bytes"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file_is_refused_with_its_path_and_fault(tmp_path: Path, case: str, packed: bool) -> None:
    content, fault = MALFORMED[case]
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ProblemUnavailable) as caught:
        idx.read(path, dimensions=3)
    assert str(caught.value).startswith(f"{path} {fault}")
    assert "\n" in str(caught.value)  # the second line says what to do


def test_a_false_header_allocates_no_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(_header(60_000, 256, 256) + bytes(1000))  # promises 3.9 GB
    tracemalloc.start()
    try:
        with pytest.raises(ProblemUnavailable, match="is truncated"):
            idx.read(path, dimensions=3)
        assert tracemalloc.get_traced_memory()[1] < 4 * idx.BLOCK
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_gzip_is_refused_with_its_path(tmp_path: Path, write_idx: Callable[..., Path], damage: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 8, 8)).astype(np.uint8)
    path = write_idx(tmp_path / "images", noise, packed=True)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-12:]
    else:
        content[-5] ^= 1  # in gzip's own checksum
    path.write_bytes(content)
    with pytest.raises(ProblemUnavailable, match="cannot be decompressed"):
        idx.read(path, dimensions=3)


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemUnavailable, match="cannot be read: Is a directory"):
        idx.read(tmp_path, dimensions=3)
