"""What runs under a sanitizer, in a process of its own: networks, files that were changed, programs that were changed.

python sanitized.py MODULE WHAT COUNT: MODULE is the native code built with the sanitizer, WHAT is graphs, files,
programs or threads. Prints what it saw; a fault ends the process.
"""

import hashlib
import importlib.util
import math
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

import core._native


def use(path: str) -> ModuleType:
    """Makes the module at `path` the project's extension."""
    spec = importlib.util.spec_from_file_location("core._native._kernels", path)
    sys.modules[spec.name] = core._native._kernels = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KERNELS = use(sys.argv[1])
sys.path.insert(0, str(Path(__file__).parent))

from random_graphs import bits, inputs_of, random_graph, reals  # noqa: E402

from core import extension  # noqa: E402
from core.deploy.file import FileError, form_from_bytes, form_to_bytes  # noqa: E402
from core.deploy.form import Form, FormError, Graph, Input, Node, Value  # noqa: E402
from core.deploy.lowering import lower  # noqa: E402
from core.deploy.native import DTYPES, Executor, levels  # noqa: E402
from core.deploy.operations import Affine, Binarize, MaxPoolBits, Threshold, ToF32  # noqa: E402
from core.deploy.sums import BinConv2d, BinLinear, F32BinConv2d, F32Linear, IntConv2d  # noqa: E402

assert extension.module() is KERNELS
LARGEST_RUN = 1 << 16  # numbers of a value of a changed network that is also run
EDGES = (-(2**63), -1, 0, 1, 2, 3, 7, 31, 32, 33, 64, 255, 4096, 4097, 1 << 20, 1 << 28, 1 << 31, 2**63 - 1)


def graphs(count: int) -> dict[str, int]:
    """Random networks at every level, batches around the chunks, fused and not."""
    for seed in range(count):
        graph = random_graph(seed, channels=100 if seed % 2 else 40)
        x = inputs_of(graph, (0, 1, 2, 5, 257)[seed % 5], seed)
        for level in levels():
            executor = Executor(graph, level=level, threads=1 + seed % 2)
            assert np.array_equal(executor.run(x), executor.trace(x)[graph.output], equal_nan=True), seed
    return {"networks": count}


def threads(count: int) -> dict[str, int]:
    """Networks on four threads, each run three times; then one called by three Python threads at once."""
    for seed in range(count):
        graph = random_graph(10_000 + seed, largest=24, channels=160)
        executor, one = Executor(graph, threads=4), Executor(graph)
        x = inputs_of(graph, 8, seed)
        for _ in range(3):
            assert np.array_equal(executor.run(x), one.run(x), equal_nan=True), seed
    graph, x = every_kind_of_work(), np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)
    executor, expected, made = Executor(graph, threads=4), Executor(graph).run(x), []
    callers = [threading.Thread(target=lambda: made.extend(executor.run(x) for _ in range(3))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(made) == 9 and all(np.array_equal(expected, each) for each in made)
    return {"networks": count + 1}


def every_kind_of_work() -> Graph:
    """Pixels, bits, pooling, real sums, each with more work than a step needs to be shared."""
    rng = np.random.default_rng(1)
    nodes = (
        Node("first", IntConv2d(bits(rng, 64, 3, 3, 3), padding=1), ("input",)),
        Node("sign", Threshold(np.zeros(64, np.int32), bits(rng, 64)), ("first",)),
        Node("conv", BinConv2d(bits(rng, 128, 3, 3, 64), padding=1), ("sign",)),
        Node("scaled", Affine(reals(rng, 128), reals(rng, 128)), ("conv",)),
        Node("signs", Binarize(reals(rng, 128)), ("scaled",)),
        Node("pool", MaxPoolBits(2, 2, smallest=bits(rng, 128)), ("signs",)),
        Node("reals", ToF32(), ("pool",)),
        Node("signed", F32BinConv2d(bits(rng, 32, 3, 3, 128)), ("reals",)),
        Node("dense", F32Linear(reals(rng, 300, 14, 14, 32)), ("signed",)),
        Node("dense.sign", Binarize(reals(rng, 300)), ("dense",)),
        Node("last", BinLinear(bits(rng, 700, 1, 1, 300)), ("dense.sign",)),
    )
    return Graph(Input((3, 32, 32), Value("u8", (32, 32, 3))), nodes, "last")


def files(count: int) -> dict[str, int]:
    """Files cut, spliced and changed, the digest repaired in half of them: an error or a network that runs."""
    rng, seen = np.random.default_rng(count), {"files": 0, "refused": 0, "read": 0, "run": 0}
    good = [form_to_bytes(Form((random_graph(seed, channels=40),))) for seed in range(40)]
    for k in range(count):
        first, other = (good[int(i)] for i in rng.integers(0, len(good), 2))
        data = changed(rng, first, other)
        seen["files"] += 1
        try:
            form = form_from_bytes(repaired(data) if k % 2 else data)
        except FileError:
            seen["refused"] += 1
            continue
        seen["read"] += 1
        seen["run"] += sum(ran(graph, k) for graph in form.networks)
    return seen


def ran(graph: Graph, seed: int) -> bool:
    """Whether a network is small enough to be run, and was."""
    if max(math.prod(value.shape) for value in graph.values.values()) > LARGEST_RUN:
        return False
    try:
        executor = Executor(graph, level=levels()[seed % len(levels())])
    except (FormError, ValueError):
        return False
    executor.run(inputs_of(graph, 1 + seed % 3, seed))
    return True


def repaired(data: bytes) -> bytes:
    """The same bytes with a digest and a size that hold, where there is room for them."""
    if len(data) < 56:
        return data
    body = struct.pack("<Q", len(data)) + data[56:]
    return data[:16] + hashlib.sha256(body).digest() + body


def changed(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Some bytes changed, cut or taken from another file; a digit of the JSON becomes another one most often."""
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        way, place = int(rng.integers(8)), int(rng.integers(len(made) or 1))
        if way >= 4:
            digits = [i for i in range(128, len(made)) if 48 <= made[i] < 58]
            if digits:
                made[digits[int(rng.integers(len(digits)))]] = 48 + int(rng.integers(10))
        elif way == 0:
            del made[place:]
        elif way == 1:
            made[place : place + 8] = other[place : place + 8]
        elif made:
            made[place] = int(rng.integers(256)) if way == 2 else made[place] ^ (1 << int(rng.integers(8)))
    return bytes(made)


class Recorder:
    """Stands for a program: keeps the calls that build it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple]] = []
        self.buffers = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            self.calls.append((name, arguments))
            self.buffers += name == "buffer"
            return self.buffers - 1

        return call


def programs(count: int) -> dict[str, int]:
    """The calls that build a program, some with other numbers and arrays: an error or a program that runs."""
    rng, seen = np.random.default_rng(count), {"programs": 0, "refused": 0, "run": 0}
    recorded = []
    for seed in range(60):
        recorder = Recorder()
        kernels = SimpleNamespace(PackedProgram=lambda level, threads, recorder=recorder: recorder)
        lower(random_graph(seed, channels=40), kernels, level=0, threads=1, fuse=seed % 3 > 0)
        recorded.append(recorder.calls)
    for k in range(count):
        calls = list(recorded[int(rng.integers(len(recorded)))])
        if k % 2:
            calls = other_kernel(rng, calls)
        for _ in range(int(rng.integers(0 if k % 2 else 1, 3))):
            place = int(rng.integers(len(calls)))
            calls[place] = (calls[place][0], other_arguments(rng, calls[place][1]))
        if rng.random() < 0.1:
            del calls[int(rng.integers(len(calls)))]
        seen["programs"] += 1
        seen["run" if built_and_run(rng, calls, k) else "refused"] += 1
    return seen


def other_kernel(rng: np.random.Generator, calls: list[tuple[str, tuple]]) -> list[tuple[str, tuple]]:
    """The calls up to one sum, with another geometry of its kernel to which its target and its classes are fitted."""
    sums = [i for i, (name, _) in enumerate(calls) if name.endswith("sums")]
    if not sums:
        return calls
    place = sums[int(rng.integers(len(sums)))]
    name, arguments = calls[place]
    source, target, weights, kernel, *rest = arguments
    buffers = [i for i, (called, _) in enumerate(calls) if called == "buffer"]
    kernel = [*kernel[:2], *(int(n) for n in (rng.integers(1, 4), rng.integers(1, 4), rng.integers(0, 4))), *kernel[5:]]
    sides = [
        max(1, (length + 2 * kernel[4] - kernel[3] * (size - 1) - 1) // kernel[2] + 1)
        for length, size in zip(calls[buffers[source]][1][1:3], kernel[:2], strict=True)
    ]
    if name == "bit_sums":
        rest[:2] = [np.resize(classes, side) for classes, side in zip(rest[:2], sides, strict=True)]
    made = [call for call in calls[: place + 1] if call[0] != "finish"]
    made[place] = (name, (source, target, weights, kernel, *rest))
    kind, _, _, channels, *_ = calls[buffers[target]][1]
    made[buffers[target]] = ("buffer", (kind, *sides, channels, 0, 1, False))
    return [*made, ("finish", (0,))]


def other_arguments(rng: np.random.Generator, arguments: tuple) -> tuple:
    """One argument changed: a number, a number of a list, the length or the content of an array, or its dtype."""
    if not arguments:
        return arguments
    made, place = list(arguments), int(rng.integers(len(arguments)))
    made[place] = other(rng, made[place])
    return tuple(made)


def other(rng: np.random.Generator, given: object) -> object:
    if isinstance(given, list):
        place = int(rng.integers(len(given)))
        return [*given[:place], other(rng, given[place]), *given[place + 1 :]]
    if isinstance(given, np.ndarray) and given.size:
        way = int(rng.integers(5))
        short, raw = given[: int(rng.integers(given.size))], rng.integers(0, 256, given.nbytes, np.uint8)
        return (short, np.concatenate([given, given]), raw.view(given.dtype), given.astype(np.float64), None)[way]
    return int(rng.choice(EDGES)) if rng.random() < 0.5 else int(rng.integers(-1, 40))


def built_and_run(rng: np.random.Generator, calls: list[tuple[str, tuple]], seed: int) -> bool:
    """Whether a program could be built of these calls; then it is run, where it is small."""
    names = list(DTYPES)
    try:
        program = KERNELS.PackedProgram(seed % len(levels()), 1)
        for name, arguments in calls:
            getattr(program, name)(*arguments)
        shapes = [(names[a[0]], a[1:4], a[5]) for name, a in calls if name == "buffer"]
        if program.arena_bytes > 1 << 24 or any(math.prod(shape) > LARGEST_RUN for _, shape, _ in shapes):
            return False
        given = [array(rng, kind, shape) for kind, shape, place in shapes if place == 0]
        program.run_all(given[0], [array(rng, kind, shape) for kind, shape, place in shapes if place == 1])
    except (TypeError, ValueError, IndexError, OverflowError):
        return False
    return True


def array(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    height, width, channels = shape
    items = -(-channels // 32) if kind == "bits" else channels
    return rng.integers(0, 100, (2, height, width, items)).astype(DTYPES[kind])


if __name__ == "__main__":
    saw = {"graphs": graphs, "files": files, "programs": programs, "threads": threads}[sys.argv[2]](int(sys.argv[3]))
    print(*(f"{count} {what}" for what, count in saw.items()), sep=", ")
