"""Packed networks: what they accept and answer, which backend runs, averages of ensembles, and what is imported."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from core import extension
from core.deploy import Form, PackedNetwork, backends, info, load, network, reference, save
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Affine, ArgMax, Binarize, Relu, ToF32
from core.deploy.packing import pack
from core.deploy.sums import BinConv2d, BinLinear, IntLinear

HERE = ["numpy"] + ["native"] * (extension.module() is not None)


def signs(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), shape)


def pixels_network(seed: int = 0) -> Form:
    """4 x 3 pixels to 5 logits that are whole numbers."""
    nodes = (
        Node("first", IntLinear(pack(signs(seed, 7, 1, 1, 12))), ("input",)),
        Node("real", Affine(np.full(7, 0.5, np.float32), np.full(7, 0.25, np.float32)), ("first",)),
        Node("sign", Binarize(np.zeros(7, np.float32)), ("real",)),
        Node("last", BinLinear(pack(signs(seed + 1, 5, 1, 1, 7))), ("sign",)),
        Node("logits", ToF32(), ("last",)),
    )
    return Form((Graph(Input((4, 3), Value("u8", (1, 1, 12))), nodes, "logits"),))


def scaled_network(*scales: float) -> Form:
    """Real pairs, each network multiplying them by its scale."""
    given = Input((2,), Value("f32", (1, 1, 2)))
    zeros = np.zeros(2, np.float32)
    return Form(
        tuple(
            Graph(given, (Node("scaled", Affine(np.full(2, scale, np.float32), zeros), ("input",)),), "scaled")
            for scale in scales
        )
    )


def pixels(batch: int = 6) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (batch, 4, 3)).astype(np.uint8)


# answers


@pytest.mark.parametrize("backend", [*HERE, "auto"])
def test_vectors_come_as_rows_and_images_with_channels_last(backend: str) -> None:
    packed = PackedNetwork(pixels_network())
    made = packed.run(pixels(), backend=backend)
    assert made.shape == (6, 5) and made.dtype == np.float32
    weights = pack(signs(3, 33, 1, 1, 40))
    image = Value("f32", (2, 3, 40))
    nodes = (
        Node("sign", Binarize(np.zeros(40, np.float32)), ("input",)),
        Node("conv", BinConv2d(weights), ("sign",)),
    )
    x = np.random.default_rng(0).standard_normal((4, 40, 2, 3)).astype(np.float32)
    sums = PackedNetwork(Form((Graph(Input((40, 2, 3), image), nodes, "conv"),)))
    bits = PackedNetwork(Form((Graph(Input((40, 2, 3), image), nodes[:1], "sign"),)))
    assert sums.run(x, backend=backend).shape == (4, 2, 3, 33)
    assert np.array_equal(bits.run(x, backend=backend), pack(x.transpose(0, 2, 3, 1)))


@pytest.mark.parametrize("backend", HERE)
def test_no_examples_make_no_rows(backend: str) -> None:
    packed = PackedNetwork(pixels_network())
    assert packed.run(pixels(0), backend=backend).shape == (0, 5)
    assert packed.classes(pixels(0), backend=backend).shape == (0,)
    assert packed.trace(pixels(0), backend=backend)["sign"].shape == (0, 1, 1, 1)


@pytest.mark.parametrize("backend", HERE)
def test_classes_are_the_first_of_the_largest(backend: str) -> None:
    graph = Graph(Input((4,), Value("f32", (1, 1, 4))), (Node("out", Relu(), ("input",)),), "out")
    x = np.array([[1, 3, 3, 2], [0, -1, 0, 0], [-2, -1, -3, -4], [0, 0, 0, 5]], np.float32)
    classes = PackedNetwork(Form((graph,))).classes(x, backend=backend)
    assert classes.tolist() == [1, 0, 0, 3] and classes.dtype == np.int64


@pytest.mark.parametrize("backend", HERE)
def test_classes_of_a_network_that_decides_are_its_answer(backend: str) -> None:
    nodes = (Node("logits", Relu(), ("input",)), Node("class", ArgMax(), ("logits",)))
    packed = PackedNetwork(Form((Graph(Input((3,), Value("f32", (1, 1, 3))), nodes, "class"),)))
    x = np.eye(3, dtype=np.float32)[[2, 0, 1]]
    assert packed.classes(x, backend=backend).tolist() == [2, 0, 1]
    assert packed.run(x, backend=backend).tolist() == [[2], [0], [1]]


def test_classes_need_one_number_a_class() -> None:
    image = Input((2, 2), Value("f32", (2, 2, 1)))
    packed = PackedNetwork(Form((Graph(image, (Node("out", Relu(), ("input",)),), "out"),)))
    with pytest.raises(ValueError, match=r"one number a class, and this network makes .*\(2, 2, 1\).*; use run"):
        packed.classes(np.zeros((1, 2, 2), np.float32), backend="numpy")


@pytest.mark.parametrize("backend", HERE)
def test_an_ensemble_is_the_sum_in_order_over_the_count(backend: str) -> None:
    scales = (1.0, 2.0**-24, -1.0)  # in float32 (1 + u) - 1 is 0, in any other order it is u
    x = np.array([[1.0, -3.0], [0.5, 7.0]], np.float32)
    made = PackedNetwork(scaled_network(*scales)).run(x, backend=backend)
    assert made.tobytes() == (((x + x * np.float32(scales[1])) - x) / np.float32(3)).tobytes()
    assert not made[:, 0].any()
    turned = PackedNetwork(scaled_network(scales[0], scales[2], scales[1])).run(x, backend=backend)
    assert np.array_equal(turned, x * np.float32(scales[1]) / np.float32(3))


def test_an_average_beyond_float32_is_infinite_and_no_warning() -> None:
    x = np.array([[3e38, 1.0]], np.float32)
    assert PackedNetwork(scaled_network(1.0, 1.0)).run(x).tolist() == [[np.inf, 1.0]]


@pytest.mark.parametrize("backend", HERE)
def test_trace_is_of_one_network(backend: str) -> None:
    packed = PackedNetwork(scaled_network(1.0, 5.0))
    x = np.array([[1.0, 2.0]], np.float32)
    assert packed.trace(x, backend=backend)["scaled"].ravel().tolist() == [1, 2]
    assert packed.trace(x, backend=backend, network=1)["scaled"].ravel().tolist() == [5, 10]
    with pytest.raises(ValueError, match=r"network must be 0 to 1 \(got 2\)"):
        packed.trace(x, backend=backend, network=2)


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    packed = PackedNetwork(pixels_network())
    packed.save(tmp_path / "a.bnn")
    save(packed, tmp_path / "b.bnn")
    assert (tmp_path / "a.bnn").read_bytes() == (tmp_path / "b.bnn").read_bytes()
    read = load(tmp_path / "a.bnn")
    assert read.size == (tmp_path / "a.bnn").stat().st_size
    assert read.run(pixels()).tobytes() == packed.run(pixels()).tobytes()
    kept = sum(array.nbytes for array in read.form.networks[0].arrays())
    assert repr(read) == f"PackedNetwork(1 network; uint8 (4, 3) -> f32 (1, 1, 5); {kept} bytes of arrays)"


def test_what_is_shown_of_a_network_needs_no_file(monkeypatch) -> None:
    def refused(form):
        raise AssertionError("the whole network was serialised")

    monkeypatch.setattr("core.deploy.network.form_to_bytes", refused)
    assert "2 networks" in repr(PackedNetwork(scaled_network(1.0, 5.0)))


@pytest.mark.parametrize("threads", [1.0, True, None])
def test_threads_and_backends_are_checked_also_when_executors_are_there(shapes_unchecked, threads) -> None:
    packed = PackedNetwork(pixels_network())
    packed.run(pixels(), backend="numpy", threads=1)
    with pytest.raises(ValueError, match="threads must be a whole number"):
        packed.run(pixels(), backend="numpy", threads=threads)
    with pytest.raises(ValueError, match=r"backend must be one of .* \(got \['native'\]\)"):
        packed.run(pixels(), backend=["native"])


# inputs


@pytest.fixture
def packed() -> PackedNetwork:
    return PackedNetwork(pixels_network())


@pytest.fixture
def real() -> PackedNetwork:
    return PackedNetwork(scaled_network(2.0))


def test_arrays_in_any_order_are_taken(packed: PackedNetwork) -> None:
    x = pixels()
    truth = packed.run(x)
    assert np.array_equal(packed.run(np.asfortranarray(x)), truth)
    assert np.array_equal(packed.run(np.repeat(x, 2, axis=2)[:, :, ::2]), truth)
    assert np.array_equal(packed.run(x[::-1])[::-1], truth)
    locked = x.copy()
    locked.flags.writeable = False
    assert np.array_equal(packed.run(locked), truth)
    assert np.array_equal(packed.run(x.view(type("Pixels", (np.ndarray,), {}))), truth)


def test_executors_are_given_contiguous_arrays(packed: PackedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Noted(reference.Executor):
        def run(self, x: np.ndarray) -> np.ndarray:
            seen.append(type(x) is np.ndarray and x.flags.c_contiguous and x.dtype == np.uint8)
            return super().run(x)

    monkeypatch.setattr(reference, "Executor", Noted)
    x = pixels()
    for view in (x, x[::2], x[::-1], np.asfortranarray(x), x.view(type("Pixels", (np.ndarray,), {}))):
        packed.run(view, backend="numpy")
    assert seen == [True] * 5


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (pixels()[0], r"x has shape \(4, 3\), one example without a batch; use x\[numpy.newaxis\]"),
        (pixels().reshape(6, 12), r"x must have shape \(batch, 4, 3\) \(got \(6, 12\)\)"),
        (pixels()[..., np.newaxis], r"x must have shape \(batch, 4, 3\) \(got \(6, 4, 3, 1\)\)"),
        (np.array(3, np.uint8), r"x must have shape \(batch, 4, 3\) \(got \(\)\)"),
        (pixels().astype(np.int64), r"x must be uint8 \(got int64\); its values are whole .* x.astype\(numpy.uint8\)"),
        (pixels().astype(np.float32), r"x must be uint8 \(got float32\); its values are whole numbers from 0 to 255"),
        (pixels().astype(bool), r"x must be uint8 \(got bool\); its values are whole"),
        (pixels() / 255, r"got float64\); it takes raw pixels, whole numbers from 0 to 255, .* run from 0"),
        (pixels() - np.int64(300), r"these values run from -\d+ to -\d+"),
        (np.full((1, 4, 3), np.nan), "these values run from nan to nan"),
        (pixels() + 0j, r"got complex128\); this network takes real numbers"),
        (pixels().astype(object), r"got object\); this network takes real numbers"),
    ],
)
def test_pixels_that_do_not_fit_say_what_to_do(packed: PackedNetwork, x: np.ndarray, message: str) -> None:
    for call in (packed.run, packed.classes, packed.trace):
        with pytest.raises(ValueError, match=message):
            call(x, backend="numpy")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 2)), r"x must be float32 \(got float64\); use x.astype\(numpy.float32\)"),
        (np.zeros((3, 2), np.uint8), r"x must be float32 \(got uint8\); use x.astype\(numpy.float32\)"),
        (np.zeros((3, 2), ">f4"), r"x must be float32 \(got >f4\)"),
        (np.array([[0, 1], [np.inf, np.nan]], np.float32), r"x has a nan, first at \[1, 1\]"),
    ],
)
def test_real_inputs_that_do_not_fit_say_what_to_do(real: PackedNetwork, x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        real.run(x, backend="numpy")


@pytest.mark.usefixtures("shapes_unchecked")
def test_lists_and_tensors_are_told_to_become_arrays(packed: PackedNetwork) -> None:
    with pytest.raises(ValueError, match=r"x must be a numpy array \(got list\); use numpy.asarray\(x, numpy.uint8\)"):
        packed.run(pixels().tolist())


@pytest.mark.parametrize("batch", [1, network.FEW // 2 + 1])  # either way of looking for a nan
@pytest.mark.parametrize("others", [0.0, 1.0, np.inf, -np.inf, 3e38, 1e-45])
def test_a_nan_is_found_anywhere_and_nothing_else_is(real: PackedNetwork, batch: int, others: float) -> None:
    x = np.full((batch, 2), others, np.float32)
    x[0, 0] = -others
    real.run(x, backend="numpy")
    for place in {(0, 0), (batch - 1, 1), (batch // 2, 0)}:
        wrong = x.copy()
        wrong[place] = np.nan
        with pytest.raises(ValueError, match=rf"nan, first at \[{place[0]}, {place[1]}\]"):
            real.run(wrong, backend="numpy")


def test_inputs_are_left_as_they_are(packed: PackedNetwork, real: PackedNetwork) -> None:
    for one, x in ((packed, pixels()), (real, np.ones((3, 2), np.float32))):
        before = x.copy()
        made = one.run(x)
        assert np.array_equal(x, before) and not np.shares_memory(made, x)


def test_answers_are_the_callers_own() -> None:
    packed = PackedNetwork(pixels_network())
    first = packed.run(pixels())
    kept = first.copy()
    packed.run(255 - pixels())
    assert np.array_equal(first, kept)


# backends


@pytest.mark.parametrize("backend", ["torch", "", "Native", "cuda"])
def test_an_unknown_backend_is_told_the_known_ones(packed: PackedNetwork, backend: str) -> None:
    with pytest.raises(ValueError, match=f"backend must be one of auto, native, numpy, cupy .got '{backend}'."):
        packed.run(pixels(), backend=backend)


@pytest.mark.parametrize("threads", [0, -1, 1 << 20])
def test_threads_have_bounds(packed: PackedNetwork, threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be a whole number from 1 to 1024 .got {threads}."):
        packed.run(pixels(), backend="numpy", threads=threads)


def test_executors_are_made_once_for_a_backend_and_threads(
    packed: PackedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Counted(reference.Executor):
        def __init__(self, graph: Graph) -> None:
            made.append(graph)
            super().__init__(graph)

    monkeypatch.setattr(reference, "Executor", Counted)
    for _ in range(3):
        packed.run(pixels(), backend="numpy")
        packed.classes(pixels(), backend="numpy")
        packed.trace(pixels(), backend="numpy")
    assert len(made) == 1
    packed.run(pixels(), backend="numpy", threads=2)
    assert len(made) == 2


@contextmanager
def without_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where no compiler was found at installation."""
    with monkeypatch.context() as patch:
        patch.setattr(extension, "_module", None)
        patch.setattr(extension, "_REASON", "No module named 'core._native._kernels'", raising=False)
        for cached in (extension.info, extension.warn_once):
            cached.cache_clear()
        yield
    for cached in (extension.info, extension.warn_once):
        cached.cache_clear()


def test_without_the_extension_numpy_runs_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PackedNetwork(pixels_network())
    truth = packed.run(pixels(), backend="numpy")
    with without_extension(monkeypatch), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for one in (packed, PackedNetwork(pixels_network())):
            assert one.run(pixels()).tobytes() == truth.tobytes()
        assert len(caught) == 1 and caught[0].category is RuntimeWarning
        text = str(caught[0].message)
        assert "NumPy: the native extension is not built here" in text and "install a C++17 compiler" in text


def test_without_the_extension_native_says_why_and_info_too(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PackedNetwork(pixels_network())
    with without_extension(monkeypatch):
        with pytest.raises(RuntimeError, match="backend='native': the native extension is not built .*backend='numpy'"):
            packed.run(pixels(), backend="native")
        assert info().backend == "numpy"
        assert "NumPy, the slow reference: the native extension is not built here" in str(info())


@pytest.mark.skipif(extension.module() is None, reason="the extension is not built here")
def test_with_the_extension_info_names_level_and_compiler() -> None:
    about = info()
    assert about.backend == "native" and about.level in extension.LEVELS
    assert f"CPU level {about.level}" in str(about) and about.compiler in str(about)


@pytest.mark.skipif(extension.module() is None, reason="the extension is not built here")
def test_within_twins_only_numpy_runs_and_nobody_is_warned() -> None:
    with extension.twins_only():
        assert backends.automatic() == "numpy"
    assert backends.automatic() == "native"


def test_cupy_without_a_device_says_what_is_missing(packed: PackedNetwork) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(RuntimeError, match="cupy|CuPy"):
        packed.run(pixels(), backend="cupy")


# imports

CHILD = """
import sys
import numpy
before = set(sys.modules)
import core.deploy
network = core.deploy.load(sys.argv[1])
network.run(numpy.zeros((1, 4, 3), numpy.uint8))
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_running_a_file_imports_numpy_and_nothing_else_that_is_installed(tmp_path: Path) -> None:
    save(pixels_network(), tmp_path / "a.bnn")
    paths = os.pathsep.join(filter(None, [str(Path(network.__file__).parents[2]), *sys.path]))
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, tmp_path / "a.bnn"],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        capture_output=True,
        text=True,
    )
    brought = set(child.stdout.split()) - set(sys.stdlib_module_names)
    assert brought <= {"core", "numpy", "nanobind"}, f"imports {sorted(brought)}"


def test_features_are_standardised_by_the_constants_of_the_file() -> None:
    facts = {"standardised": {"mean": [1.0, -2.0], "deviation": [2.0, 0.5]}}
    graph = Graph(Input((2,), Value("f32", (1, 1, 2))), (Node("out", Relu(), ("input",)),), "out")
    network = PackedNetwork(Form((graph,), facts))
    raw = np.array([[3.0, -1.0], [1e-3, 7.0]])
    expected = ((raw - [1.0, -2.0]) / [2.0, 0.5]).astype(np.float32)
    assert (network.standardised(raw) == expected).all() and network.standardised(raw).dtype == np.float32
    with pytest.raises(ValueError, match="takes its inputs as they are"):
        PackedNetwork(Form((graph,))).standardised(raw)
