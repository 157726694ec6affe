"""The peers: conic solvers through cvxpy as users write it, pymanopt's trust region, interior-point binaries."""

from __future__ import annotations

import gzip
import importlib
import math
import re
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

from solvers.bench.goals import Failed, Missing, Setting
from solvers.sdp.conic import OPTIONS, Conic, reference
from solvers.sdp.problem import Matrix, cost

SECONDS = 900  # a child that takes longer is stopped


@dataclass(frozen=True)
class Binary:
    """A peer's name on PATH, what it prints before its objective, and what its command wants after the file."""

    program: str
    objective: str
    words: tuple[str, ...] = ()

    def value(self, printed: str) -> float | None:
        """The objective it printed last, without its sign: some minimise the negative. None where it printed none."""
        found = re.findall(rf"{self.objective}[\s:=]*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)", printed)
        return abs(float(found[-1])) if found else None


BINARIES = {
    "csdp": Binary("csdp", "Primal objective value"),
    "sdpa": Binary("sdpa", "objValPrimal", ("out",)),
    "dsdp5": Binary("dsdp5", "DSDP Solution"),
    "lorads": Binary("LoRADS", "Primal Objective"),
}


def primal(C: Matrix, solver: Conic, tolerance: float) -> float:
    """min <C, X> with X a matrix variable, as a user of cvxpy writes it; returns the value. Raises Failed."""
    n = C.shape[0]
    X = cp.Variable((n, n), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [cp.diag(X) == 1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        try:
            problem.solve(solver=solver, **OPTIONS[solver](tolerance))
        except cp.error.SolverError as error:
            raise Failed(f"{solver} gave up on {n} rows at tolerance {tolerance:g}: {error}") from error
    if X.value is None:
        raise Failed(f"{solver} found no solution of {n} rows at tolerance {tolerance:g}: {problem.status}")
    return float(problem.value)


def dual(C: Matrix, solver: Conic, tolerance: float) -> float:
    """The same through max sum(y), C - Diag(y) psd, which conic solvers take directly. Raises Failed."""
    try:
        return reference(C, solver, tolerance=tolerance).value
    except RuntimeError as error:
        raise Failed(str(error)) from error


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
    """The absolute path of a peer's binary. Raises Missing where it is neither given nor on PATH."""
    given = setting.peers.get(name)
    if given is None:
        path = shutil.which(BINARIES[name].program)
        if path is None:
            raise Missing(f"{name} is not installed; --peer {name}=PATH names its binary")
    else:
        path = shutil.which(given.absolute()) or shutil.which(given)  # a word without / may also be on PATH
        if path is None:
            raise Missing(f"--peer {name}={given}: no executable there")
    return str(Path(path).absolute())  # it runs in a folder of its own


@contextmanager
def child(name: str, path: str, packed: Path) -> Iterator[Callable[[], str]]:
    """What runs a peer's binary on an SDPA file, unpacked once, and returns what it printed; it raises Failed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / packed.name.removesuffix(".gz")
        file.write_bytes(gzip.decompress(packed.read_bytes()))
        words = [path, file.name, *BINARIES[name].words]

        def run() -> str:
            try:
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
            except subprocess.TimeoutExpired as error:
                raise Failed(f"{path} {file.name} was stopped after {SECONDS} s") from error
            except OSError as error:
                raise Failed(f"{path} does not run: {error.strerror}") from error
            if done.returncode:
                said = " ".join((done.stderr or done.stdout)[-300:].split())
                raise Failed(f"{path} {file.name} failed with exit code {done.returncode}: {said}")
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
