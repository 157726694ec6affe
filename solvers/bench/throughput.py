"""S10, S11: how fast a sweep of mixing is: of dense C against the matrix product, of sparse C against plain C code."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from solvers.bench.clock import interleaved
from solvers.bench.goals import Goal, Measured, Missing, Setting, instance
from solvers.sdp.kernels import padded, sweep
from solvers.sdp.problem import cost

PLAIN = Path(__file__).with_name("mixing_reference.c")
FLAGS = ("-O3", "-march=native")
SWEEPS = 50  # a run: enough of G1's sweeps for the clock


def dense(n: int, k: int, _setting: Setting) -> Measured:
    """Throughput of an exact blocked sweep over that of one product C V: both are 2 n^2 k operations."""
    C, V = _gaussian(n, np.float64), _factor(n, k)
    V, product, y = padded(V), np.empty((n, k)), np.empty(n)
    sweep(C, V, y)
    timed = interleaved({"sweep": lambda: sweep(C, V, y), "product": lambda: np.matmul(C, V, out=product)})
    work = 2 * n * n * k
    speeds = ", ".join(f"{name} {work / run.median / 1e9:.1f} GF/s" for name, run in timed.items())
    return Measured(timed["product"].median / timed["sweep"].median, speeds)


def single(n: int, k: int, _setting: Setting) -> Measured:
    """Seconds of a dense sweep in float64 over one in float32."""
    runs = {}
    for name, dtype in (("float64", np.float64), ("float32", np.float32)):
        C, V, y = _gaussian(n, dtype), padded(_factor(n, k), dtype), np.empty(n, dtype)
        sweep(C, V, y)
        runs[name] = partial(sweep, C, V, y)
    timed = interleaved(runs)
    return Measured(
        timed["float64"].median / timed["float32"].median, ", ".join(f"{name} {run}" for name, run in timed.items())
    )


def sparse(file: str, k: int, _setting: Setting) -> Measured:
    """Seconds of a sweep in plain C over ours, on the same factor; what `-ffast-math` makes of it beside."""
    off = cost(instance(file).C, dense=False).off
    assert isinstance(off, sp.csr_array)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        plain, fast = (_compiled(Path(folder), flags) for flags in (FLAGS, (*FLAGS, "-ffast-math")))
        start = _factor(off.shape[0], k)
        ours, y = padded(start), np.empty(len(start))
        _check_same(off, plain, start, ours, y)
        runs: dict[str, Callable[[], object]] = {
            "ours": lambda: [sweep(off, ours, y) for _ in range(SWEEPS)],
            "plain": partial(_repeat, plain, off, start.copy()),
            "fast": partial(_repeat, fast, off, start.copy()),
        }
        timed = interleaved(runs)
    work = 2 * off.nnz * k * SWEEPS
    speeds = ", ".join(f"{name} {work / run.median / 1e9:.1f} GF/s" for name, run in timed.items())
    return Measured(timed["plain"].median / timed["ours"].median, f"{speeds} (fast: with -ffast-math)")


def _gaussian(n: int, dtype: type) -> np.ndarray:
    half = np.random.default_rng(0).normal(size=(n, n))
    return np.ascontiguousarray(cost(half + half.T).off, dtype=dtype)


def _factor(n: int, k: int) -> np.ndarray:
    V = np.random.default_rng(1).normal(size=(n, k))
    return np.asarray(V / np.linalg.norm(V, axis=1, keepdims=True))


def _compiled(folder: Path, flags: tuple[str, ...]) -> Callable[[sp.csr_array, np.ndarray], float]:
    """The plain sweep, compiled. Raises Missing without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler for the plain sweep")
    library = folder / f"plain{len(flags)}.so"
    words = [compiler, *flags, "-shared", "-fPIC", str(PLAIN), "-o", str(library), "-lm"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    function = ctypes.CDLL(str(library)).mixing_sweep
    function.restype = ctypes.c_double
    arrays = [np.ctypeslib.ndpointer(kind, flags="C") for kind in (np.float64, np.int32, np.int32, np.float64)]
    function.argtypes = [ctypes.c_int64, ctypes.c_int64, *arrays, np.ctypeslib.ndpointer(np.float64)]

    def run(off: sp.csr_array, V: np.ndarray) -> float:
        scratch = np.empty(V.shape[1])
        return float(function(*V.shape, off.data, off.indices, off.indptr, V, scratch))

    return run


def _repeat(run: Callable[[sp.csr_array, np.ndarray], float], off: sp.csr_array, V: np.ndarray) -> None:
    for _ in range(SWEEPS):
        run(off, V)


def _check_same(
    off: sp.csr_array,
    plain: Callable[[sp.csr_array, np.ndarray], float],
    start: np.ndarray,
    V: np.ndarray,
    y: np.ndarray,
) -> None:
    """One sweep of both ends at the same factor: they are timed for the same work."""
    theirs = start.copy()
    plain(off, theirs)
    sweep(off, V, y)
    away = np.abs(theirs - V[:, : start.shape[1]]).max()
    if away > 1e-8:  # rounding, amplified along one sweep
        raise RuntimeError(f"the plain sweep and ours end {away:.1e} apart")


def goals() -> list[Goal]:
    """S10, S11."""
    return [
        Goal("S10 blocked", "dense sweep / matrix product, n = 2000, k = 64", 0.8, "x", partial(dense, 2000, 64)),
        Goal(
            "S10 float32", "dense sweep in float64 / in float32, n = 2000, k = 64", 1.8, "x", partial(single, 2000, 64)
        ),
        Goal(
            "S11", "plain C sweep (-O3 -march=native) / ours, G1, k = 40", 1.0, "x", partial(sparse, "gset/G1.gz", 40)
        ),
    ]
