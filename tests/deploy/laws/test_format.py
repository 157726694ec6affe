"""The file, read and written by hand from its description alone: struct, json and hashlib, no line of the loader."""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from core.deploy import Form, PackedNetwork, load, save
from core.deploy.file import form_from_bytes, form_to_bytes
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Affine, Binarize, BinConv2d, BinLinear, IntLinear, MaxPoolBits, Threshold
from core.deploy.packing import pack

ROOT = Path(__file__).parents[3]


def tiny() -> Form:
    """Three pixels -> two sums -> two bits -> one sum, one affine; every number below was worked out on paper."""
    value = Value("u8", (1, 1, 3))
    nodes = (
        Node("a", IntLinear(np.array([0b101, 0b010], np.uint32).reshape(2, 1, 1, 1)), ("input",)),
        Node("b", Threshold(np.array([-2, 258], np.int32), np.array([0b10], np.uint32)), ("a",)),
        Node("c", BinLinear(np.array([[[[0b01]]]], np.uint32)), ("b",)),
        Node("d", Affine(np.array([-0.5], np.float32), np.array([3.25], np.float32)), ("c",)),
    )
    return Form((Graph(Input((3,), value), nodes, "d"),), {"method": "ste"})


BLOBS = (
    bytes.fromhex("05000000 02000000"),  # weights of a
    bytes.fromhex("feffffff 02010000"),  # at of b: -2, 258
    bytes.fromhex("02000000"),  # flip of b
    bytes.fromhex("01000000"),  # weights of c
    bytes.fromhex("000000bf"),  # scale of d: -0.5
    bytes.fromhex("00005040"),  # bias of d: 3.25
)
SHAPES = (("uint32", [2, 1, 1, 1]), ("int32", [2]), ("uint32", [1]), ("uint32", [1, 1, 1, 1]), *[("float32", [1])] * 2)


def by_hand() -> bytes:
    """The file of `tiny`, from the description of the format."""
    arrays, body = [], b""
    for blob, (dtype, shape) in zip(BLOBS, SHAPES, strict=True):
        body += bytes(-len(body) % 64)
        arrays.append({"dtype": dtype, "offset": len(body), "shape": shape})
        body += blob

    def node(name: str, operation: str, source: str, **parameters: int) -> dict:
        return {"inputs": [source], "name": name, "operation": operation, "parameters": parameters}

    nodes = [
        node("a", "IntLinear", "input", weights=0),
        node("b", "Threshold", "a", at=1, flip=2),
        node("c", "BinLinear", "b", weights=3),
        node("d", "Affine", "c", scale=4, bias=5),
    ]
    given = {"kind": "u8", "raw_shape": [3], "shape": [1, 1, 3]}
    data = {"arrays": arrays, "facts": {"method": "ste"}}
    data["networks"] = [{"input": given, "nodes": nodes, "output": "d"}]
    text = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    start = (128 + len(text) + 63) // 64 * 64
    numbers = struct.pack("<5Q", start + len(body), 128, len(text), start, len(body))
    hashed = numbers + bytes(40) + text + bytes(start - 128 - len(text)) + body
    return b"\x89BNN\r\n\x1a\n" + struct.pack("<II", 1, 128) + hashlib.sha256(hashed).digest() + hashed


def test_the_file_of_a_small_network_is_the_one_written_by_hand() -> None:
    assert form_to_bytes(tiny()) == by_hand()


def test_a_file_written_by_hand_answers_as_worked_out_on_paper(tmp_path: Path) -> None:
    """a = (x0 - x1 + x2, -x0 + x1 - x2); b = (a0 >= -2, a1 < 258); c = b0 - b1; d = 3.25 - c / 2."""
    path = tmp_path / "hand.bnn"
    path.write_bytes(by_hand())
    network = load(path)
    x = np.array([[0, 0, 0], [0, 3, 0], [0, 2, 0], [255, 0, 4], [0, 255, 0]], np.uint8)
    for backend in ("numpy", "auto"):
        # b: (+, +), (-, +), (+, +), (+, +), (-, +); c: 0, -2, 0, 0, -2
        assert network.run(x, backend=backend).tolist() == [[3.25], [4.25], [3.25], [3.25], [4.25]]
    assert network.form.facts == {"method": "ste"} and network.size == len(by_hand())


@pytest.mark.parametrize("at", [8, 12, 20, 48, 60, 72, 80, 100, 127, 128, 200, -1])
def test_any_flipped_bit_of_the_file_is_found(at: int) -> None:
    for bit in range(8):
        data = bytearray(by_hand())
        data[at] ^= 1 << bit
        with pytest.raises(ValueError):
            form_from_bytes(bytes(data))


def test_every_shorter_or_longer_file_is_refused() -> None:
    whole = by_hand()
    for size in range(len(whole)):
        with pytest.raises(ValueError):
            form_from_bytes(whole[:size])
    with pytest.raises(ValueError):
        form_from_bytes(whole + b"\0")


def image(rng: np.random.Generator, channels: int = 37) -> Form:
    """A convolutional network with an array of each kind and every option away from its default."""

    def bits(*shape: int) -> np.ndarray:
        return pack(rng.integers(0, 2, shape) * 2 - 1)

    thresholds = np.r_[-(2**31), 2**31 - 1, rng.integers(-9, 9, channels - 2)].astype(np.int32)
    reals = np.r_[-0.0, 2.0**-149, 3.4e38, rng.standard_normal(2)].astype(np.float32)
    nodes = (
        Node("first", Binarize(np.full(4, 127.5, np.float32)), ("input",)),
        Node("sums", BinConv2d(bits(channels * 2, 3, 2, 2), 2, 3, 4, 2, pad="plus"), ("first",)),
        Node("more", Threshold(np.tile(thresholds, 2), bits(channels * 2)), ("sums",)),
        Node("pool", MaxPoolBits(3, 2, 1, smallest=bits(channels * 2)), ("more",)),
        Node("last", BinLinear(bits(5, 3, 4, channels * 2)), ("pool",)),
        Node("out", Affine(reals, reals[::-1].copy()), ("last",)),
    )
    graph = Graph(Input((4, 9, 8), Value("u8", (9, 8, 4))), nodes, "out")
    assert graph.values["pool"].shape == (3, 4, channels * 2)
    return Form((graph, graph), {"deep": {"list": [1, 2.5, None, True, "é"]}})


def same(a: Form, b: Form) -> bool:
    def plain(form: Form) -> list:
        return [
            (graph.input, graph.output, node.name, node.inputs, type(node.operation), name, bits(value))
            for graph in form.networks
            for node in graph.nodes
            for name, value in vars(node.operation).items()
        ]

    def bits(value: object) -> object:
        return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    return plain(a) == plain(b) and dict(a.facts) == dict(b.facts)


def test_every_bit_and_option_survives_the_round_trip(tmp_path: Path) -> None:
    form = image(np.random.default_rng(0))
    assert same(form_from_bytes(form_to_bytes(form)), form)
    save(form, tmp_path / "a.bnn")
    again = load(tmp_path / "a.bnn")
    again.save(tmp_path / "b.bnn")
    assert same(again.form, form) and (tmp_path / "a.bnn").read_bytes() == (tmp_path / "b.bnn").read_bytes()


def test_words_of_the_other_byte_order_make_the_same_file() -> None:
    """As a machine with the most significant byte first would hold them."""
    form = tiny()
    swapped = {}
    for node in form.networks[0].nodes:
        for name, array in vars(node.operation).items():
            swapped[node.name, name] = array.astype(array.dtype.newbyteorder(">"))
    for node in form.networks[0].nodes:
        for name in vars(node.operation):
            object.__setattr__(node.operation, name, swapped[node.name, name])
    assert form_to_bytes(form) == by_hand()


def test_loading_copies_no_weights(tmp_path: Path) -> None:
    """32 MiB of weights are mapped: what Python and NumPy allocate is a hundredth."""
    n = 1 << 14
    words = np.random.default_rng(0).integers(0, 2**32, (n, 1, 1, n // 32), np.uint32)
    graph = Graph(
        Input((n,), Value("u8", (1, 1, n))),
        (Node("bits", Binarize(np.full(n, 0.5, np.float32)), ("input",)), Node("sums", BinLinear(words), ("bits",))),
        "sums",
    )
    save(Form((graph,)), tmp_path / "large.bnn")
    load(tmp_path / "large.bnn")
    tracemalloc.start()
    network = load(tmp_path / "large.bnn")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < words.nbytes / 100, f"{peak} bytes allocated for a file of {words.nbytes}"
    assert np.array_equal(network.form.networks[0].nodes[1].operation.weights, words)


WRITER = """
import sys
import numpy as np
from core.deploy import Form, save
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import IntLinear
def form(fill):
    words = np.full((1 << 12, 1, 1, 1 << 9), fill, np.uint32)
    given = Input((1 << 14,), Value("u8", (1, 1, 1 << 14)))
    return Form((Graph(given, (Node("a", IntLinear(words), ("input",)),), "a"),))
forms = form(0), form(0xFFFFFFFF)
save(forms[0], sys.argv[1])
print("ready", flush=True)
while True:
    for each in forms:
        save(each, sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that kills at once")
def test_readers_meet_a_whole_file_while_it_is_written_and_after_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "net.bnn"
    seen = set()
    for delay in (0.0, 0.3, 0.7):
        command = [sys.executable, "-c", WRITER, str(path)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            until = time.monotonic() + delay
            while time.monotonic() < until:
                load(path)
            writer.kill()
        words = load(path).form.networks[0].nodes[0].operation.weights
        assert words.min() == words.max()
        seen.add(int(words.max()))
    assert seen <= {0, 0xFFFFFFFF}


def test_a_network_of_this_size_takes_its_bits_and_a_little() -> None:
    """784-2048-2048-10: a 25th of float32 weights, and at most 5 bytes a channel over the bits."""
    rng, widths = np.random.default_rng(0), (784, 2048, 2048, 10)
    nodes, source = [], "input"
    for i, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False)):
        kind = IntLinear if i == 0 else BinLinear
        nodes.append(Node(f"sum{i}", kind(pack(rng.integers(0, 2, (n_out, 1, 1, n_in)) * 2 - 1)), (source,)))
        if n_out > 10:
            at, flip = rng.integers(-99, 99, n_out).astype(np.int32), pack(rng.integers(0, 2, n_out) * 2 - 1)
            nodes.append(Node(f"bits{i}", Threshold(at, flip), (nodes[-1].name,)))
        source = nodes[-1].name
    network = PackedNetwork(Form((Graph(Input((784,), Value("u8", (1, 1, 784))), tuple(nodes), source),)))
    weights = sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    assert network.size < weights / 8 + 5 * sum(widths[1:]) + 4096 and network.size < 4 * weights / 25
