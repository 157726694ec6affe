"""What a packed network must not need: torch, unpacked weights, a float for an integer, silence about a slow path."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from core import extension
from core.deploy import Form, PackedNetwork, load, native
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import (
    Affine,
    Binarize,
    BinConv2d,
    BinLinear,
    IntConv2d,
    IntLinear,
    MaxPoolBits,
    Threshold,
)
from core.deploy.packing import pack

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = """
import json, sys
for name in ("torch", "pandas", "scipy", "jaxtyping", "beartype"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np
from core.deploy import info, load
network = load(sys.argv[1])
x = np.load(sys.argv[2])
answers = {backend: network.run(x, backend=backend).view(np.uint32).tolist() for backend in sys.argv[3:]}
print(json.dumps({"answers": answers, "classes": network.classes(x).tolist(), "info": str(info())}))
"""


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 2, shape) * 2 - 1


def whole_network() -> PackedNetwork:
    """Raw pixels to logits: first and last layer are in it."""
    rng = np.random.default_rng(0)
    affine = Affine(*rng.standard_normal((2, 10)).astype(np.float32))
    nodes = (
        Node("first", IntConv2d(pack(signs(rng, 33, 3, 3, 3)), padding=1), ("input",)),
        Node("a", Threshold(rng.integers(-400, 400, 33).astype(np.int32), pack(signs(rng, 33))), ("first",)),
        Node("pool", MaxPoolBits(2, 2, smallest=pack(signs(rng, 33))), ("a",)),
        Node("second", BinConv2d(pack(signs(rng, 70, 3, 3, 33)), padding=1), ("pool",)),
        Node("b", Threshold(rng.integers(-20, 20, 70).astype(np.int32), pack(signs(rng, 70))), ("second",)),
        Node("last", BinLinear(pack(signs(rng, 10, 4, 3, 70))), ("b",)),
        Node("logits", affine, ("last",)),
    )
    return PackedNetwork(Form((Graph(Input((3, 8, 6), Value("u8", (8, 6, 3))), nodes, "logits"),)))


def child(code: str, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code, *arguments]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True, check=check
    )


def test_a_process_without_torch_answers_the_same_to_the_bit(tmp_path: Path) -> None:
    network = whole_network()
    network.save(tmp_path / "net.bnn")
    x = np.random.default_rng(1).integers(0, 256, (7, 3, 8, 6), np.uint8)
    np.save(tmp_path / "x.npy", x)
    backends = ["numpy", "auto"]
    told = json.loads(child(WITHOUT_TORCH, str(tmp_path / "net.bnn"), str(tmp_path / "x.npy"), *backends).stdout)
    expected = network.run(x, backend="numpy")
    assert all(answer == expected.view(np.uint32).tolist() for answer in told["answers"].values())
    assert told["classes"] == expected.argmax(1).tolist()


@pytest.mark.skipif(extension.module() is None, reason="the native extension is not built")
def test_a_level_forced_from_outside_runs_is_told_and_answers_the_same(tmp_path: Path) -> None:
    network = whole_network()
    network.save(tmp_path / "net.bnn")
    x = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 6), np.uint8)
    np.save(tmp_path / "x.npy", x)
    expected = network.run(x, backend="numpy").view(np.uint32).tolist()
    for level in native.levels():
        paths = str(tmp_path / "net.bnn"), str(tmp_path / "x.npy")
        told = json.loads(child(WITHOUT_TORCH, *paths, "native", BITRELAX_CPU_LEVEL=level).stdout)
        assert told["answers"]["native"] == expected and level in told["info"], level
    wrong = child(WITHOUT_TORCH, *paths, "native", check=False, BITRELAX_CPU_LEVEL="sse9")
    assert wrong.returncode != 0 and "sse9" in wrong.stderr and "portable" in wrong.stderr


def test_without_the_extension_the_slow_path_is_told_once_and_right(tmp_path: Path) -> None:
    network = whole_network()
    network.save(tmp_path / "net.bnn")
    code = f"""
import sys, warnings
sys.modules["core._native._kernels"] = None
import numpy as np
from core.deploy import info, load
network = load({str(tmp_path / "net.bnn")!r})
x = np.zeros((2, 3, 8, 6), np.uint8)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    answers = [network.run(x).tolist() for _ in range(3)]
assert len(caught) == 1 and issubclass(caught[0].category, RuntimeWarning), caught
try:
    network.run(x, backend="native")
except RuntimeError as error:
    assert "compiler" in str(error), error
else:
    raise AssertionError("the native backend ran without the extension")
assert "NumPy" in str(info()) or "numpy" in str(info()), info()
print(answers[0])
"""
    expected = network.run(np.zeros((2, 3, 8, 6), np.uint8), backend="numpy").tolist()
    assert child(code).stdout.strip() == str(expected)


def test_numpy_sums_bits_without_unpacking_weights() -> None:
    """4096 x 32768 weights: a byte for each would be 128 MiB, packed they are 16."""
    n_out, n_in = 4096, 32768
    words = np.random.default_rng(0).integers(0, 2**32, (n_out, 1, 1, n_in // 32), np.uint32)
    nodes = (
        Node("bits", Binarize(np.full(n_in, 127.5, np.float32)), ("input",)),
        Node("s", BinLinear(words), ("bits",)),
    )
    network = PackedNetwork(Form((Graph(Input((n_in,), Value("u8", (1, 1, n_in))), nodes, "s"),)))
    x = np.random.default_rng(1).integers(0, 256, (1, n_in), np.uint8)
    network.run(x, backend="numpy")
    tracemalloc.start()
    network.run(x, backend="numpy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n_out * n_in * 0.75, f"{peak} bytes for {n_out * n_in} weights"


def test_integers_that_float32_cannot_hold_are_exact(backends) -> None:
    """Sums of 200000 bright pixels: odd numbers beyond 2^24."""
    n = 200_000
    weights = np.ones((3, 1, 1, n))
    weights[1, 0, 0, ::2] = -1
    graph = Graph(Input((n,), Value("u8", (1, 1, n))), (Node("s", IntLinear(pack(weights)), ("input",)),), "s")
    x = np.random.default_rng(0).integers(200, 256, (2, n), np.uint8)
    expected = x.astype(np.int64) @ weights[:, 0, 0].T.astype(np.int64)
    assert (expected != expected.astype(np.float32)).any()
    for backend, executor_of in backends.items():
        assert np.array_equal(executor_of(graph).run(x)[:, 0, 0], expected), backend


def test_a_loaded_network_is_the_saved_one_on_every_backend(backends, tmp_path: Path) -> None:
    network = whole_network()
    network.save(tmp_path / "net.bnn")
    graph = load(tmp_path / "net.bnn").form.networks[0]
    x = np.random.default_rng(1).integers(0, 256, (9, 3, 8, 6), np.uint8)
    expected = network.run(x, backend="numpy")
    for backend, executor_of in backends.items():
        assert np.array_equal(executor_of(graph).run(x)[:, 0, 0], expected), backend


@pytest.mark.skipif(extension.module() is None, reason="the native extension is not built")
def test_threads_change_no_bit() -> None:
    rng = np.random.default_rng(0)
    graph = whole_network().form.networks[0]
    x = rng.integers(0, 256, (301, 3, 8, 6), np.uint8)
    expected = native.Executor(graph).run(x)
    for threads in (2, 3, 8):
        assert np.array_equal(native.Executor(graph, threads=threads).run(x), expected), threads
