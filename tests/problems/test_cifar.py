"""CIFAR-10 as its authors pickled it and as a JPEG archive: what is read, what is refused, what the cache keeps."""

import hashlib
import io
import os
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core import problems
from core.problems import Description, FileSpec, ProblemUnavailable, cache, cifar, cifar_jpeg
from core.problems.built_in import BUILT_IN

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DATA = os.environ.get("BITRELAX_DATA")


# the opcodes of pickle protocol 2, as Python 2 and an early NumPy used them to write the original files
def _string(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _list(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _array(pixels: np.ndarray, code: bytes = b"u1") -> bytes:
    blank = _global("numpy.core.multiarray", "_reconstruct") + _global("numpy", "ndarray")
    blank += _int(0) + b"\x85" + _string(b"b") + b"\x87R"
    kind = _global("numpy", "dtype") + _string(code) + _int(0) + _int(1) + b"\x87R"
    kind += b"(" + _int(3) + _string(b"|") + b"NNN" + _int(-1) + _int(-1) + _int(0) + b"tb"
    shape = b"".join(_int(size) for size in pixels.shape) + (b"\x86" if pixels.ndim == 2 else b"\x85")
    return blank + b"(" + _int(1) + shape + kind + b"\x89" + _string(pixels.tobytes()) + b"tb"


def _pickle(entries: dict[bytes, bytes]) -> bytes:
    items = b"".join(_string(key) + value for key, value in entries.items())
    return b"\x80\x02}(" + items + b"u."


def _batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    entries = {b"batch_label": _string(b"training batch 1 of 5"), b"labels": _list([_int(label) for label in labels])}
    return _pickle({**entries, b"data": _array(pixels), b"filenames": _list([_string(b"a.png")] * len(labels))})


def _rows(count: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return pixels, [i % 10 for i in range(count)]


def _folder(root: Path, batches: dict[str, bytes]) -> Description:
    """The files under `root`, and the problem's description with their sizes and checksums."""
    (root / "cifar-10-batches-py").mkdir(parents=True)
    for name, content in batches.items():
        (root / "cifar-10-batches-py" / name).write_bytes(content)
    files = tuple(
        FileSpec(f"cifar-10-batches-py/{name}", len(content), hashlib.sha256(content).hexdigest())
        for name, content in batches.items()
    )
    return replace(problems.describe("cifar10"), files=files)


def test_batches_become_images_of_three_planes_in_their_order_and_the_last_is_the_test_set(tmp_path: Path) -> None:
    parts = [_rows(n, seed) for seed, n in enumerate((20, 30, 10))]
    description = _folder(tmp_path, {f"b{i}": _batch(*rows) for i, rows in enumerate(parts)})
    source = cifar.read(description, tmp_path)
    flat = np.concatenate([pixels for pixels, _ in parts])
    assert source.inputs.shape == (60, 3, 32, 32) and source.inputs.dtype == np.uint8
    for image, plane, y, x in [(0, 0, 0, 0), (25, 1, 3, 31), (59, 2, 31, 7)]:  # red, green, blue; row by row
        assert source.inputs[image, plane, y, x] == flat[image, 1024 * plane + 32 * y + x]
    assert source.labels.tolist() == [NAMES[label] for _, labels in parts for label in labels]
    assert source.blocks == (50, 10)
    assert source.checksums == {spec.path: spec.sha256 for spec in description.files}


def test_absent_batches_are_named_and_no_compressed_form_is_promised(tmp_path: Path) -> None:
    _folder(tmp_path, {"data_batch_1": b""})
    with pytest.raises(ProblemUnavailable) as caught:
        problems.locate("cifar10", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"cifar10: 5 of 6 files not found under {tmp_path}/cifar-10-batches-py\n")
    assert "test_batch  31,035,526 bytes  SHA-256 f53d8d457504" in message
    assert "Say where the folder above cifar-10-batches-py/ is" in message
    assert "data_batch_1" not in message and ".gz" not in message


def test_a_batch_of_another_checksum_is_refused_before_it_is_unpickled(tmp_path: Path) -> None:
    _folder(tmp_path, {spec.path.split("/")[1]: b"not a pickle" for spec in cifar.FILES})
    with pytest.raises(ProblemUnavailable, match=r"data_batch_1 has SHA-256 [0-9a-f]{12}, expected 54636561a3ce\n"):
        problems.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("numpy._core.multiarray", "array")]
)
def test_a_batch_that_asks_for_anything_but_an_array_is_refused_and_nothing_runs(
    tmp_path: Path, module: str, name: str
) -> None:
    mark = tmp_path / "ran"
    call = _global(module, name) + _string(f"open({str(mark)!r}, 'w')".encode()) + b"\x85R"
    with pytest.raises(ProblemUnavailable, match=rf"is no pickle .*UnpicklingError: it asks for {module}\.{name}"):
        cifar.batch(Path("batch"), _pickle({b"data": call}))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOFError"),
        (b"\x80\x02garbage", "is no pickle of a CIFAR-10 batch"),
        (_batch(*_rows(3))[:-2000], "is no pickle of a CIFAR-10 batch"),
        (b"\x80\x02" + _list([]) + b".", "holds a list, not the dict"),
        (_pickle({b"data": _array(np.zeros((2, 8), np.int64), b"O8")}), "of type b'O8', not of bytes"),
        (_pickle({b"data": _array(np.zeros((2, 8), np.uint8))}), "rows of 3,072 bytes"),
        (_pickle({b"data": _array(np.zeros(3072, np.uint8))}), "rows of 3,072 bytes"),
        (_pickle({b"data": _array(_rows(2)[0])}), "no list 'labels' of 2 entries"),
        (_batch(_rows(2)[0], [1, 2, 3]), "no list 'labels' of 2 entries"),
        (_batch(_rows(2)[0], [1, 10]), "has a label 10; they are 0 to 9"),
        (_batch(_rows(2)[0], [-1, 1]), "has a label -1; they are 0 to 9"),
    ],
)
def test_a_malformed_batch_is_refused_with_its_fault(content: bytes, reason: str) -> None:
    with pytest.raises(ProblemUnavailable) as caught:
        cifar.batch(Path("some/batch"), content)
    first, remedy = str(caught.value).split("\n")
    assert first.startswith("some/batch ") and reason in first
    assert "cifar-10-python.tar.gz" in remedy


def _colour(name: str) -> tuple[int, int, int]:
    part, label, file = name.split("/")
    return (20 * NAMES.index(label) + 10, 5 * int(file[:4]) + 30, 200 if part == "train" else 60)


def _archive(root: Path, members: list[str]) -> Description:
    """An archive of flat images, each of its own colour, in another order than the problem's."""
    path = root / "cifar10-jpeg" / "cifar10-jpeg.tar.xz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:xz") as tar:
        for name in sorted(members):
            content = io.BytesIO()
            Image.new("RGB", (32, 32), _colour(name)).save(content, "JPEG", quality=75)
            header = tarfile.TarInfo(name)
            header.size = len(content.getvalue())
            tar.addfile(header, io.BytesIO(content.getvalue()))
    spec = FileSpec(str(path.relative_to(root)), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    return replace(problems.describe("cifar10-jpeg"), files=(spec,))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Description]:
    """An archive of 4 training and 2 test images a class under tmp_path, and an empty cache folder beside it."""
    monkeypatch.setenv("BITRELAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar_jpeg, "PER_CLASS", {"train": 4, "test": 2})
    yield _archive(tmp_path, cifar_jpeg.names())


def test_jpeg_images_are_decoded_into_the_order_of_their_names(small: Description, tmp_path: Path) -> None:
    source = cifar_jpeg.read(small, tmp_path)
    order = cifar_jpeg.names()
    assert source.inputs.shape == (60, 3, 32, 32) and source.blocks == (40, 20)
    assert source.labels.tolist() == [name.split("/")[1] for name in order] == NAMES * 6
    expected = np.array([_colour(name) for name in order])[:, :, None, None]
    # a flat block keeps its DC term alone, 8 x its level; quality 75 rounds it to multiples of 8 (luma) and 9 (chroma):
    # by at most 1/2 and 9/16 of a level, besides 1/2 each from the change of colour space. B = Y + 1.772 Cb is the
    # worst: 1 + 1.772 x 17/16, and 1/2 for its own rounding, is 3.4
    assert np.abs(source.inputs.astype(int) - expected).max() <= 3
    assert len({image.tobytes() for image in source.inputs}) == 60


def test_the_archive_is_decoded_once_and_every_checksum_is_told(
    small: Description, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cifar_jpeg.read(small, tmp_path)
    monkeypatch.setattr(cifar_jpeg, "decoded", None)  # calling it again fails
    second = cifar_jpeg.read(small, tmp_path)
    assert np.array_equal(first.inputs, second.inputs)
    pixels = hashlib.sha256(first.inputs.tobytes()).hexdigest()
    assert first.checksums == second.checksums == {small.files[0].path: small.files[0].sha256, "pixels": pixels}


def test_an_archive_of_another_checksum_is_refused(tmp_path: Path) -> None:
    _archive(tmp_path, ["train/cat/0000.jpg"])
    for call in (problems.load, problems.checksums):
        with pytest.raises(ProblemUnavailable, match=r"tar.xz has SHA-256 [0-9a-f]{12}, expected e07e0e30715f\n"):
            call("cifar10-jpeg", tmp_path)


def test_an_archive_without_a_member_is_refused_and_leaves_no_cache(small: Description, tmp_path: Path) -> None:
    archive = _archive(tmp_path / "other", cifar_jpeg.names()[:-2])
    with pytest.raises(ProblemUnavailable, match="has no member test/ship/0001.jpg; 2 of 60 are absent"):
        cifar_jpeg.read(archive, tmp_path / "other")
    assert not (tmp_path / "cache").exists()


def test_without_pillow_the_message_says_how_to_install_it(
    small: Description, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ProblemUnavailable, match=r"Pillow, which .* is not installed\nInstall it with .*\[data\]"):
        cifar_jpeg.read(small, tmp_path)


def test_the_lossy_copy_is_called_so() -> None:
    assert "CIFAR-10 (JPEG q75)" in problems.describe("cifar10-jpeg").title


Counting = Callable[[], np.ndarray]


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Counting, list[int]]:
    """A maker of one array, and the list it appends to; the cache folder is a new one."""
    monkeypatch.setenv("BITRELAX_CACHE", str(tmp_path / "cache"))
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        return np.arange(24, dtype=np.uint8).reshape(4, 6).T  # not contiguous

    return make, made


@pytest.mark.parametrize("damage", [lambda c: c[:-1] + b"\0", lambda c: c[:-1], lambda c: c + b"\0", lambda c: b""])
def test_a_damaged_cache_is_made_anew(counting: tuple[Counting, list[int]], damage: Callable[[bytes], bytes]) -> None:
    make, made = counting
    first, digest = cache.cached("a", (6, 4), make)
    path = cache.folder() / "a"
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        again, same = cache.cached("a", (6, 4), make)
        assert np.array_equal(again, make()) and digest == same
    assert len(made) == 4  # first, after the damage, and the two comparisons
    assert np.array_equal(first, again) and digest == hashlib.sha256(first.tobytes()).hexdigest()


def test_any_number_of_readers_at_once_get_the_whole_array(counting: tuple[Counting, list[int]]) -> None:
    make, _ = counting
    with ThreadPoolExecutor(8) as pool:
        arrays = [array for array, _ in pool.map(lambda _: cache.cached("a", (6, 4), make), range(64))]
    assert all(np.array_equal(array, make()) for array in arrays)
    assert [path.name for path in cache.folder().iterdir()] == ["a"]


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out_and_leaves_nothing(
    counting: tuple[Counting, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, _ = counting

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    with pytest.raises(ProblemUnavailable, match="cache cannot be used: No space left on device\nName one .*CACHE=DIR"):
        cache.cached("a", (6, 4), make)
    assert list(cache.folder().iterdir()) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITRELAX_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ProblemUnavailable, match="file/below cannot be used: Not a directory"):
        cache.cached("a", (6, 4), make)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BITRELAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache.folder() == Path.home() / ".cache" / "bitrelax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.folder() == Path("/xdg/bitrelax")
    monkeypatch.setenv("BITRELAX_CACHE", "/own")
    assert cache.folder() == Path("/own")


@pytest.mark.parametrize("name", [name for name in problems.names() if BUILT_IN[name].form])
def test_the_form_of_images_has_their_shape(name: str) -> None:
    form = BUILT_IN[name].form
    assert form is not None and form.shape == {"d": (1, 8, 8), "c": (3, 32, 32)}.get(name[0], (1, 28, 28))
    assert form.features == np.prod(form.shape)


@pytest.mark.parametrize(
    ("row", "shape"), [((5, 7), (1, 5, 7)), ((3, 5, 7), (3, 5, 7)), ((35,), ()), ((2, 3, 5, 7), ())]
)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_own_images_have_the_shape_of_a_row(
    tmp_path: Path, row: tuple[int, ...], shape: tuple[int, ...], kind: type
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, *row)).astype(kind)
    np.savez(tmp_path / "own.npz", x=x, y=np.arange(40) % 2)
    problem = problems.load(f"npz:{tmp_path / 'own.npz'}", None)
    assert problem.form.shape == shape
    assert problem.train.inputs.shape[1:] == row


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="BITRELAX_DATA is not set: the real archive")
def test_the_real_archive_is_the_known_one_and_its_first_members_decode() -> None:
    assert DATA
    path = Path(DATA, cifar_jpeg.FILES[0].path)
    assert path.stat().st_size == cifar_jpeg.FILES[0].size
    assert hashlib.sha256(path.read_bytes()).hexdigest() == cifar_jpeg.FILES[0].sha256
    first = cifar_jpeg.decoded(path, [f"test/airplane/{i:04}.jpg" for i in range(100)])
    # mean of the three channels as decoded by libjpeg-turbo 3.2; another decoder may differ by a level in a pixel
    assert np.abs(first.mean((0, 2, 3)) - (138.49, 145.65, 150.02)).max() < 1


@pytest.mark.data
@pytest.mark.skipif(
    not DATA or not (cache.folder() / cifar_jpeg.cache_name(*cifar_jpeg.FILES)).exists(), reason="not decoded yet"
)
def test_jpeg_normalisation_is_that_of_the_training_images_to_four_decimals() -> None:
    problem = problems.load("cifar10-jpeg", None)
    pixels = torch.cat([problem.train.inputs, problem.validation.inputs])
    counts = pixels.flatten().bincount(minlength=256).double()
    values = torch.arange(256).double()
    mean = (counts @ values / counts.sum()).item()
    deviation = (counts @ (values - mean).square() / counts.sum()).sqrt().item()
    assert (problem.form.shift, problem.form.scale) == (round(mean, 4), round(deviation, 4))
    assert problem.class_names == tuple(NAMES)
    assert problem.test.inputs.shape == (10_000, 3, 32, 32)
