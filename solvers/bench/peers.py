"""The peers: conic solvers through cvxpy as users write it, pymanopt's trust region, interior-point binaries."""

from __future__ import annotations

import gzip
import importlib
import math
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from solvers.bench.goals import Missing, Setting
from solvers.sdp.conic import OPTIONS, Conic
from solvers.sdp.problem import Matrix, cost

BINARIES = {"csdp": "csdp", "sdpa": "sdpa", "dsdp5": "dsdp5", "lorads": "LoRADS"}
SECONDS = 900  # a child that takes longer is stopped


def primal(C: Matrix, solver: Conic, tolerance: float) -> float:
    """min <C, X> with X a matrix variable, as a user of cvxpy writes it; returns the value."""
    n = C.shape[0]
    X = cp.Variable((n, n), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [cp.diag(X) == 1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        problem.solve(solver=solver, **OPTIONS[solver](tolerance))
    return float(problem.value)


@dataclass(frozen=True)
class TrustRegion:
    """pymanopt's Riemannian trust region on unit columns, stopped at a norm of the gradient."""

    rank: int
    gradient: float

    def __str__(self) -> str:
        return f"rank {self.rank}, gradient {self.gradient:g}"

    def run(self, C: sp.csr_array, seed: int = 0) -> np.ndarray:
        """The factor (n, rank) it ends with."""
        pymanopt = _pymanopt()
        of = cost(C, dense=False)
        manifold = pymanopt.manifolds.Oblique(self.rank, of.n)
        problem = pymanopt.Problem(
            manifold,
            pymanopt.function.numpy(manifold)(lambda V: float(np.vdot(of.off @ V.T, V.T))),
            euclidean_gradient=pymanopt.function.numpy(manifold)(lambda V: 2 * (of.off @ V.T).T),
            euclidean_hessian=pymanopt.function.numpy(manifold)(lambda V, U: 2 * (of.off @ U.T).T),
        )
        start = np.random.default_rng(seed).normal(size=(self.rank, of.n))
        optimizer = pymanopt.optimizers.TrustRegions(
            min_gradient_norm=self.gradient, max_iterations=1000, max_time=SECONDS, verbosity=0
        )
        end = optimizer.run(problem, initial_point=start / np.linalg.norm(start, axis=0))
        return np.asarray(end.point).T


def trust_region(
    C: sp.csr_array, gap: float, timer: Callable[[Callable[[], Any]], tuple[float, Any]]
) -> tuple[TrustRegion, TrustRegion]:
    """At the rank that theory asks for, the loosest gradient norm that supports gap / 10; and the fastest for `gap`.

    The fastest is of two ranks and of gradient norms 1, 0.1, ... 1e-7. Support is judged by an eigenvalue of C less
    the peer's own multipliers, which is not charged to it. Raises Missing without pymanopt, or where none supports it.
    """
    n = C.shape[0]
    safe, small = math.ceil(math.sqrt(2 * n)) + 1, 2 * math.ceil(math.log2(n))
    fast: list[tuple[float, TrustRegion]] = []
    for rank, last in ((small, gap), (safe, gap / 10)):
        for power in range(8):
            setting = TrustRegion(rank, 10.0**-power)
            seconds, factor = timer(partial(setting.run, C))
            supported = _gap_of(C, factor)
            if supported <= gap:
                fast.append((seconds, setting))
            if supported <= last:
                break
        else:
            raise Missing(f"pymanopt's trust region supports a gap of {last:g} at no gradient norm down to 1e-7")
    return setting, min(fast, key=lambda pair: pair[0])[1]


def binary(name: str, setting: Setting) -> str:
    """The path of a peer's binary. Raises Missing where it is neither given nor on PATH."""
    given = setting.peers.get(name)
    if given and shutil.which(str(given)) is None:
        raise Missing(f"--peer {name}={given}: no executable there")
    path = str(given) if given else shutil.which(BINARIES[name])
    if path is None:
        raise Missing(f"{name} is not installed; --peer {name}=PATH names its binary")
    return path


@contextmanager
def child(path: str, packed: Path) -> Iterator[Callable[[], str]]:
    """What runs a binary on an SDPA file, unpacked once, and returns what it printed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        file = Path(name) / packed.name.removesuffix(".gz")
        file.write_bytes(gzip.decompress(packed.read_bytes()))
        words = [path, file.name, "out"] if Path(path).name.startswith("sdpa") else [path, file.name]

        def run() -> str:
            done = subprocess.run(words, cwd=name, capture_output=True, text=True, timeout=SECONDS)
            if done.returncode:
                raise RuntimeError(f"{path} {file.name} failed with exit code {done.returncode}: {done.stderr[-300:]}")
            return done.stdout

        yield run


def _gap_of(C: sp.csr_array, factor: np.ndarray) -> float:
    """The relative gap that a factor's own multipliers support, by a dense eigenvalue decomposition."""
    of = cost(C, dense=True)
    y = np.einsum("ik,ik->i", of.off @ factor, factor)
    lowest = np.linalg.eigvalsh(of.off - np.diag(y))[0]
    return float(-of.n * min(0.0, lowest) / max(1.0, abs(y.sum() + of.constant)))


def _pymanopt() -> Any:
    try:
        return importlib.import_module("pymanopt")
    except ImportError as error:
        raise Missing(f"pymanopt is not installed ({error})") from error
