"""The compiled module.

Kernels of training take a CPU level and addresses of contiguous float32 arrays (core/native.py); those of the solvers
take checked arrays (solvers/sdp).
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy
from numpy.typing import NDArray

COMPILER: str
FLAGS: str

def best_level() -> int: ...
def point_adam(
    level: int,
    size: int,
    gradient: int,
    latent: int,
    first: int,
    second: int,
    weights: int,
    *,
    rate: float,
    beta1: float,
    beta2: float,
    root: float,
    eps: float,
    bound: float,
) -> None: ...
def point_bop(
    level: int, size: int, gradient: int, signs: int, average: int, *, adaptivity: float, threshold: float
) -> None: ...
def bernoulli_draw(
    level: int,
    size: int,
    natural: int,
    weights: int,
    factor: int,
    *,
    key: tuple[int, int],
    temperature: float,
    bound: float,
    published: bool,
    floor: float,
    damping: float,
) -> None: ...
def bernoulli_step(
    level: int,
    size: int,
    gradient: int,
    prior: int,
    natural: int,
    velocity: int,
    weights: int,
    factor: int,
    *,
    key: tuple[int, int],
    temperature: float,
    bound: float,
    published: bool,
    floor: float,
    damping: float,
    scale: float,
    rate: float,
    momentum: float,
    decay: float,
) -> None: ...
def bernoulli_moments(level: int, size: int, natural: int, mean: int, variance: int) -> None: ...
def bernoulli_pull_back(
    level: int, size: int, mean: int, variance: int, by_mean: int, by_variance: int, pulled: int
) -> None: ...
def lowrank_draw(level: int, size: int, rank: int, rows: int, coefficients: int, weights: int) -> None: ...
def lowrank_step(
    level: int,
    size: int,
    rank: int,
    gradient: int,
    used: int,
    coefficients: int,
    rows: int,
    velocity: int,
    weights: int,
    *,
    scale: float,
    rate: float,
    momentum: float,
    decay: float,
    unit: bool,
) -> None: ...
def combination(
    order: Sequence[int],
    sz: NDArray[numpy.float64],
    zz: NDArray[numpy.float64],
    products: NDArray[numpy.float64],
    by_pairs: NDArray[numpy.float64],
) -> float: ...
def sweep_dense(
    level: int, off: NDArray[numpy.float64], factor: NDArray[numpy.float64], multipliers: NDArray[numpy.float64]
) -> float: ...
def sweep_sparse(
    level: int,
    data: NDArray[numpy.float64],
    indices: NDArray[numpy.int32],
    indptr: NDArray[numpy.int32],
    factor: NDArray[numpy.float64],
    multipliers: NDArray[numpy.float64],
) -> float: ...
def sweep_dense_single(
    level: int, off: NDArray[numpy.float32], factor: NDArray[numpy.float32], multipliers: NDArray[numpy.float32]
) -> float: ...
def sweep_sparse_single(
    level: int,
    data: NDArray[numpy.float32],
    indices: NDArray[numpy.int32],
    indptr: NDArray[numpy.int32],
    factor: NDArray[numpy.float32],
    multipliers: NDArray[numpy.float32],
) -> float: ...
def gradient_dense(
    level: int,
    off: NDArray[numpy.float64],
    factor: NDArray[numpy.float64],
    root: NDArray[numpy.float64],
    before: NDArray[numpy.float64],
    gradient: NDArray[numpy.float64],
    multipliers: NDArray[numpy.float64],
    pairs: NDArray[numpy.uint16],
    scale: float,
    tried: int,
    products: NDArray[numpy.float64],
) -> tuple[float, float, float, float]: ...
def gradient_sparse(
    level: int,
    data: NDArray[numpy.float64],
    indices: NDArray[numpy.int32],
    indptr: NDArray[numpy.int32],
    factor: NDArray[numpy.float64],
    root: NDArray[numpy.float64],
    before: NDArray[numpy.float64],
    gradient: NDArray[numpy.float64],
    multipliers: NDArray[numpy.float64],
    pairs: NDArray[numpy.uint16],
    scale: float,
    tried: int,
    products: NDArray[numpy.float64],
) -> tuple[float, float, float, float]: ...
def step(
    level: int,
    factor: NDArray[numpy.float64],
    root: NDArray[numpy.float64],
    gradient: NDArray[numpy.float64],
    by_pairs: NDArray[numpy.float64],
    by_gradient: float,
    length: float,
    moved: NDArray[numpy.float64],
    pairs: NDArray[numpy.uint16],
    tried: int,
) -> float: ...
@overload
def sign_descent(
    level: int, rows: NDArray[numpy.float64], signs: NDArray[numpy.int8], gains: NDArray[numpy.float64], least: float
) -> None: ...
@overload
def sign_descent(
    level: int,
    starts: NDArray[numpy.int32],
    columns: NDArray[numpy.int32],
    values: NDArray[numpy.float64],
    signs: NDArray[numpy.int8],
    gains: NDArray[numpy.float64],
    least: float,
) -> None: ...
@overload
def sign_tabu(
    level: int,
    rows: NDArray[numpy.float64],
    signs: NDArray[numpy.int8],
    gains: NDArray[numpy.float64],
    flips: int,
    seed: int,
    tenure: int,
    spread: int,
) -> None: ...
@overload
def sign_tabu(
    level: int,
    starts: NDArray[numpy.int32],
    columns: NDArray[numpy.int32],
    values: NDArray[numpy.float64],
    signs: NDArray[numpy.int8],
    gains: NDArray[numpy.float64],
    flips: int,
    seed: int,
    tenure: int,
    spread: int,
) -> None: ...
def sign_tabu_buckets(
    level: int,
    starts: NDArray[numpy.int32],
    columns: NDArray[numpy.int32],
    values: NDArray[numpy.int32],
    signs: NDArray[numpy.int8],
    gains: NDArray[numpy.int32],
    flips: int,
    seed: int,
    tenure: int,
    spread: int,
    range: int,
) -> None: ...
def sign_enumerate(level: int, rows: NDArray[numpy.float64], signs: NDArray[numpy.int8]) -> None: ...
def plan_elimination(
    start: NDArray[numpy.int32], neighbours: NDArray[numpy.int32], share: float, work: float
) -> tuple[int, NDArray[numpy.int32], NDArray[numpy.int64], NDArray[numpy.int32]]: ...
def eliminate(
    level: int,
    start: NDArray[numpy.int32],
    neighbours: NDArray[numpy.int32],
    values: NDArray[numpy.float64],
    diagonal: NDArray[numpy.float64],
    eliminated: int,
    order: NDArray[numpy.int32],
    column: NDArray[numpy.int64],
    rows: NDArray[numpy.int32],
    core: NDArray[numpy.float64],
) -> bool: ...

class BatchState:
    def __init__(
        self,
        off: NDArray[numpy.float64],
        linear: NDArray[numpy.float64],
        V: NDArray[numpy.float64],
        tangent: NDArray[numpy.float64],
        multipliers: NDArray[numpy.float64],
        inverse: NDArray[numpy.float64],
        history: NDArray[numpy.float64],
        inner: NDArray[numpy.float64],
        valid: NDArray[numpy.uint8],
        step: NDArray[numpy.float64],
        value: NDArray[numpy.float64],
        residual: NDArray[numpy.float64],
    ) -> None: ...

def batch_evaluate(level: int, state: BatchState, tasks: NDArray[numpy.int64]) -> None: ...
def batch_descend(
    level: int, state: BatchState, tasks: NDArray[numpy.int64], *, first: int, iterations: int
) -> None: ...

class BitSums:
    def __init__(
        self,
        input: NDArray[numpy.uint32],
        weights: NDArray[numpy.uint32],
        *,
        outputs: int,
        rows: int,
        row_pitch: int,
        offsets: NDArray[numpy.int64],
        segment_words: int,
        row_class: NDArray[numpy.uint16] | None = None,
    ) -> None: ...
    def to_bits(
        self, level: int, most: NDArray[numpy.int32], flip: NDArray[numpy.uint16], bits: NDArray[numpy.uint32]
    ) -> None: ...
    def to_sums(self, level: int, base: NDArray[numpy.int32], sums: NDArray[numpy.int32]) -> None: ...
    def to_affine(
        self,
        level: int,
        base: NDArray[numpy.int32],
        scale: NDArray[numpy.float32],
        bias: NDArray[numpy.float32],
        out: NDArray[numpy.float32],
    ) -> None: ...

def best_packed_level() -> int: ...
def packed_limits(level: int) -> tuple[float, float]: ...

class PackedProgram:
    """A packed network as steps over buffers (`core.deploy.lowering` builds it); see packed_engine.h."""

    def __init__(self, level: int, threads: int) -> None: ...
    def buffer(
        self, kind: int, height: int, width: int, channels: int, border: int, place: int, planar: bool
    ) -> int: ...
    def bit_sums(
        self,
        source: int,
        target: int,
        weights: NDArray[numpy.uint32],
        kernel: list[int],
        row_class: NDArray[numpy.uint16],
        column_class: NDArray[numpy.uint16],
        after: int,
        table: NDArray[numpy.int32] | None,
        flip: NDArray[numpy.uint16] | None,
        scale: NDArray[numpy.float32] | None,
        bias: NDArray[numpy.float32] | None,
    ) -> None: ...
    def pixel_sums(
        self,
        source: int,
        target: int,
        weights: NDArray[numpy.uint64],
        kernel: list[int],
        after: int,
        table: NDArray[numpy.int32] | None,
        flip: NDArray[numpy.uint16] | None,
        scale: NDArray[numpy.float32] | None,
        bias: NDArray[numpy.float32] | None,
    ) -> None: ...
    def sign_sums(
        self,
        source: int,
        target: int,
        weights: NDArray[numpy.uint16],
        kernel: list[int],
        after: int,
        table: NDArray[numpy.int32] | None,
        flip: NDArray[numpy.uint16] | None,
        scale: NDArray[numpy.float32] | None,
        bias: NDArray[numpy.float32] | None,
    ) -> None: ...
    def real_sums(
        self,
        source: int,
        target: int,
        weights: NDArray[numpy.float32],
        kernel: list[int],
        after: int,
        table: NDArray[numpy.int32] | None,
        flip: NDArray[numpy.uint16] | None,
        scale: NDArray[numpy.float32] | None,
        bias: NDArray[numpy.float32] | None,
    ) -> None: ...
    def binarize_u8(
        self, source: int, target: int, at: NDArray[numpy.uint8], possible: NDArray[numpy.uint32]
    ) -> None: ...
    def binarize_f32(self, source: int, target: int, at: NDArray[numpy.float32]) -> None: ...
    def threshold(self, source: int, target: int, at: NDArray[numpy.int32], flip: NDArray[numpy.uint32]) -> None: ...
    def affine(self, source: int, target: int, scale: NDArray[numpy.float32], bias: NDArray[numpy.float32]) -> None: ...
    def floats(self, source: int, target: int) -> None: ...
    def relu(self, source: int, target: int) -> None: ...
    def hard_tanh(self, source: int, target: int) -> None: ...
    def add(self, first: int, second: int, target: int) -> None: ...
    def pool(
        self,
        source: int,
        target: int,
        size: int,
        stride: int,
        padding: int,
        smallest: NDArray[numpy.uint32] | None,
    ) -> None: ...
    def mean_pool(self, source: int, target: int, height: int, width: int) -> None: ...
    def arg_max(self, source: int, target: int) -> None: ...
    def copy(self, source: int, target: int) -> None: ...
    def concat(self, sources: list[int], target: int) -> None: ...
    def regroup(self, source: int, target: int, groups: int) -> None: ...
    def finish(self, chunk: int) -> None: ...
    @property
    def chunk(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...
    def run(self, x: NDArray[Any], output: NDArray[Any]) -> None: ...
    def run_all(self, x: NDArray[Any], outputs: list[NDArray[Any]]) -> None: ...
    def seconds(self, x: NDArray[Any], outputs: list[NDArray[Any]]) -> list[float]: ...
