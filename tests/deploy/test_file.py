"""The file of a packed network: what is written is read, one form has one file, written whole or not at all."""

import errno
import hashlib
import itertools
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.deploy import FileError, Form, PackedNetwork, file, load, save
from core.deploy.file import form_from_bytes, form_to_bytes
from core.deploy.form import Graph, Input, Node, Operation, Value, words
from core.deploy.operations import (
    OPERATIONS,
    Add,
    Affine,
    ArgMax,
    AveragePool,
    Binarize,
    Concat,
    Flatten,
    HardTanh,
    MaxPool,
    MaxPoolBits,
    Relu,
    Threshold,
    ToF32,
)
from core.deploy.packing import pack_bits
from core.deploy.sums import (
    BinConv2d,
    BinLinear,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    IntConv2d,
    IntLinear,
)

Make = Callable[[np.random.Generator, Value], Operation]


def bits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return pack_bits(rng.integers(0, 2, shape).astype(bool))


def reals(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def linear(kind: type, weights: Callable[..., np.ndarray]) -> Make:
    return lambda rng, value: kind(weights(rng, int(rng.integers(1, 9)), *value.shape))


def convolution(kind: type, weights: Callable[..., np.ndarray]) -> Make:
    def make(rng: np.random.Generator, value: Value) -> Operation:
        *side, channels = value.shape
        groups = int(rng.choice([g for g in (1, 2, 3) if channels % g == 0]))
        kernel = [int(rng.integers(1, n + 1)) for n in side]
        steps = {"stride": int(rng.integers(1, 3)), "padding": int(rng.integers(0, 2)), "groups": groups}
        more = {"pad": str(rng.choice(["zero", "minus", "plus"]))} if kind is BinConv2d else {}
        return kind(weights(rng, groups * int(rng.integers(1, 4)), *kernel, channels // groups), **steps, **more)

    return make


def pooling(kind: type, **more: Callable[[np.random.Generator, Value], np.ndarray]) -> Make:
    def make(rng: np.random.Generator, value: Value) -> Operation:
        size = int(rng.integers(1, min(value.shape[:2]) + 1))
        made = {name: maker(rng, value) for name, maker in more.items()}
        return kind(size, int(rng.integers(1, 3)), int(rng.integers(0, size // 2 + 1)), **made)

    return make


MAKERS: dict[str, list[Make]] = {
    "bits": [
        linear(BinLinear, bits),
        convolution(BinConv2d, bits),
        pooling(MaxPoolBits, smallest=lambda rng, value: bits(rng, value.channels)),
        lambda rng, value: ToF32(),
        lambda rng, value: Flatten(),
    ],
    "u8": [
        linear(IntLinear, bits),
        convolution(IntConv2d, bits),
        lambda rng, value: Binarize(reals(rng, value.channels)),
        lambda rng, value: ToF32(),
        lambda rng, value: Concat(),
    ],
    "i32": [
        lambda rng, value: Threshold(rng.integers(-99, 99, value.channels).astype(np.int32), bits(rng, value.channels)),
        lambda rng, value: Affine(reals(rng, value.channels), reals(rng, value.channels)),
        pooling(MaxPool),
        lambda rng, value: Add(),
        lambda rng, value: ToF32(),
    ],
    "f32": [
        linear(F32BinLinear, bits),
        linear(F32Linear, reals),
        convolution(F32BinConv2d, bits),
        convolution(F32Conv2d, reals),
        pooling(MaxPool),
        lambda rng, value: AveragePool(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        lambda rng, value: Binarize(reals(rng, value.channels)),
        lambda rng, value: Affine(reals(rng, value.channels), reals(rng, value.channels)),
        lambda rng, value: Relu(),
        lambda rng, value: HardTanh(),
        lambda rng, value: Add(),
        lambda rng, value: Concat(),
        lambda rng, value: Flatten(),
    ],
}


def random_graph(seed: int, n_nodes: int) -> Graph:
    """A chain, with branches now and then, of operations that fit; its last node makes float32."""
    rng = np.random.default_rng(seed)
    side = [int(n) for n in rng.integers(2, 6, 2)]
    channels = int(rng.integers(1, 70))
    value = Value(str(rng.choice(["u8", "f32"])), (*side, channels))
    given, nodes, name = Input((channels, *side), value), [], "input"
    for k in range(n_nodes):
        makers = MAKERS[value.kind]
        operation = makers[int(rng.integers(len(makers)))](rng, value)
        inputs = (name, name) if isinstance(operation, (Add, Concat)) else (name,)
        nodes.append(Node(f"{type(operation).__name__} {k} é", operation, inputs))
        value, name = operation.output((value,) * len(inputs)), nodes[-1].name
    end = Relu() if value.kind == "f32" else ToF32()
    return Graph(given, (*nodes, Node("end", end, (name,))), "end")


def random_form(seed: int) -> Form:
    rng = np.random.default_rng(seed)
    graph = random_graph(seed, int(rng.integers(1, 9)))
    facts = {"exact": True, "none": None, "numbers": [1, -2.5, 1e-300, 2**53 + 1], "été": {"": [[], {}]}}
    return Form((graph,) * int(rng.integers(1, 4)), facts)


def assert_same(one: Form, other: Form) -> None:
    assert one.facts == other.facts and len(one.networks) == len(other.networks)
    for first, second in zip(one.networks, other.networks, strict=True):
        assert first.input == second.input and first.output == second.output
        for a, b in zip(first.nodes, second.nodes, strict=True):
            assert (a.name, a.inputs, type(a.operation)) == (b.name, b.inputs, type(b.operation))
            for field in fields(a.operation):
                left, right = getattr(a.operation, field.name), getattr(b.operation, field.name)
                if isinstance(left, np.ndarray):
                    assert left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
                else:
                    assert type(left) is type(right) and left == right


@pytest.fixture
def form() -> Form:
    return random_form(3)


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=200)
def test_what_is_written_is_read(seed: int) -> None:
    form = random_form(seed)
    assert_same(form, form_from_bytes(form_to_bytes(form)))


def test_random_forms_have_every_operation_but_the_last() -> None:
    seen = {type(node.operation) for seed in range(400) for node in random_form(seed).networks[0].nodes}
    assert seen == set(OPERATIONS.values()) - {ArgMax}


def test_files_are_read_as_they_are_written(form: Form, tmp_path: Path) -> None:
    save(form, tmp_path / "a.bnn")
    network = load(tmp_path / "a.bnn")
    assert_same(form, network.form)
    network.save(str(tmp_path / "b.bnn"))
    data = (tmp_path / "a.bnn").read_bytes()
    assert (tmp_path / "b.bnn").read_bytes() == data == form_to_bytes(form)
    assert network.size == PackedNetwork(form).size == len(data)


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=50)
def test_one_form_has_one_file(seed: int) -> None:
    data = form_to_bytes(random_form(seed))
    assert form_to_bytes(random_form(seed)) == data
    assert form_to_bytes(form_from_bytes(data)) == data


def test_the_order_of_facts_and_the_layout_of_arrays_change_no_byte() -> None:
    weights = reals(np.random.default_rng(0), 4, 1, 1, 6)
    given = Input((6,), Value("f32", (1, 1, 6)))

    def form(weights: np.ndarray, facts: dict) -> Form:
        return Form((Graph(given, (Node("fc", F32Linear(weights), ("input",)),), "fc"),), facts)

    turned = np.asfortranarray(weights)
    assert form_to_bytes(form(weights, {"a": 1, "b": 2})) == form_to_bytes(form(turned, {"b": 2, "a": 1}))


def test_hashing_of_strings_changes_no_byte(tmp_path: Path) -> None:
    program = (
        "import sys, hashlib; from core.deploy.file import form_to_bytes, load_form;"
        "print(hashlib.sha256(form_to_bytes(load_form(sys.argv[1]))).hexdigest())"
    )
    save(random_form(5), tmp_path / "a.bnn")
    seen = {
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / "a.bnn"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {hashlib.sha256((tmp_path / "a.bnn").read_bytes()).hexdigest()}


def test_the_layout_is_as_documented(form: Form) -> None:
    data = form_to_bytes(form)
    whole = [int.from_bytes(data[at : at + 8], "little") for at in range(48, 88, 8)]
    size, at, length, blobs, blob_bytes = whole
    assert data[:8] == b"\x89BNN\r\n\x1a\n"
    assert int.from_bytes(data[8:12], "little") == 1 and int.from_bytes(data[12:16], "little") == at == 128
    assert data[16:48] == hashlib.sha256(data[48:]).digest()
    assert size == len(data) == blobs + blob_bytes and blobs == -(-(at + length) // 64) * 64
    text = data[at : at + length]
    content = json.loads(text)
    assert text == json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    end = 0
    for entry in content["arrays"]:
        assert entry["offset"] == -(-end // 64) * 64
        end = entry["offset"] + 4 * int(np.prod(entry["shape"]))
    assert end == blob_bytes
    node = content["networks"][0]["nodes"][0]
    assert OPERATIONS[node["operation"]] is type(form.networks[0].nodes[0].operation)


def test_words_are_little_endian_in_the_file() -> None:
    at = np.array([1.0], np.float32)
    graph = Graph(Input((1,), Value("f32", (1, 1, 1))), (Node("sign", Binarize(at), ("input",)),), "sign")
    assert form_to_bytes(Form((graph,)))[-4:] == bytes([0, 0, 128, 63])


def test_equal_arrays_are_stored_once() -> None:
    graph = random_graph(7, 8)
    one, many = (len(form_to_bytes(Form((graph,) * k))) for k in (1, 50))
    copied = [Node(n.name, n.operation, n.inputs) for n in graph.nodes]
    assert many - one < 49 * 2000  # the JSON of each network, and no array
    assert len(form_to_bytes(Form((graph, Graph(graph.input, tuple(copied), graph.output))))) < one + 2000


def test_arrays_of_equal_bytes_and_different_types_stay_apart() -> None:
    zeros = np.zeros(3, np.float32)
    nodes = (
        Node("scaled", Affine(zeros, zeros), ("input",)),
        Node("sums", F32Linear(zeros.reshape(1, 1, 1, 3)), ("scaled",)),
    )
    form = Form((Graph(Input((3,), Value("f32", (1, 1, 3))), nodes, "sums"),))
    assert_same(form, form_from_bytes(form_to_bytes(form)))


def test_size_is_the_bits_and_a_little() -> None:
    weights = bits(np.random.default_rng(0), 1000, 1, 1, 1000)
    graph = Graph(Input((1000,), Value("u8", (1, 1, 1000))), (Node("fc", IntLinear(weights), ("input",)),), "fc")
    assert len(form_to_bytes(Form((graph,)))) <= 1000 * words(1000) * 4 + 1024


# mapping and writing


def test_loaded_arrays_are_read_only_views_of_the_mapped_file(tmp_path: Path) -> None:
    form = random_form(7)
    save(form, tmp_path / "a.bnn")
    arrays = [
        getattr(node.operation, field.name)
        for node in load(tmp_path / "a.bnn").form.networks[0].nodes
        for field in fields(node.operation)
        if isinstance(getattr(node.operation, field.name), np.ndarray)
    ]
    assert arrays
    for array in arrays:
        base = array
        while isinstance(base, np.ndarray):
            assert not base.flags.writeable
            base = base.base
        assert isinstance(base.obj, mmap.mmap)
        assert array.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_a_network_in_use_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bnn"
    first, second = random_form(11), random_form(12)
    save(first, path)
    network = load(path)
    save(second, path)
    assert_same(network.form, first)
    assert_same(load(path).form, second)
    path.unlink()
    assert_same(network.form, first)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_is_written_whole_or_not_at_all(
    step: str, form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bnn"
    save(form, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(file.os, step, full)
    with pytest.raises(OSError, match="no space left"):
        save(random_form(12), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.bnn"]


def test_a_form_that_no_file_can_hold_leaves_the_old_file(form: Form, tmp_path: Path) -> None:
    path = tmp_path / "a.bnn"
    save(form, path)
    before = path.read_bytes()
    with pytest.raises(FileError, match="facts"):
        save(Form(form.networks, {"accuracy": float("nan")}), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.bnn"]


def test_files_have_the_rights_of_any_new_file(form: Form, tmp_path: Path) -> None:
    save(form, tmp_path / "a.bnn")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.bnn").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"loss": float("inf")}, "facts.loss has inf; numbers are finite"),
        ({"shape": (1, 2)}, "facts.shape has a tuple and must be plain JSON data"),
        ({"a": [{"accuracy": np.float32(0.5)}]}, "facts.a.accuracy has a float32"),
        ({1: "one"}, "facts has the name 1; names are strings"),
        ({"n": 1 << 63}, "facts.n has a whole number beyond 64 bits"),
        ({"text": "\ud800"}, "facts.text has half of a surrogate pair"),
        ({"long": "x" * (1 << 24)}, "the JSON has 1677[0-9]* bytes; at most 16777216 are read"),
        ({"many": "," * (1 << 20)}, "commas, colons and brackets; at most 1048576"),
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_facts_that_would_not_read_back_are_refused_by_name(form: Form, facts: dict, message: str) -> None:
    with pytest.raises(FileError, match=message):
        form_to_bytes(Form(form.networks, facts))


def test_facts_too_deep_are_refused(form: Form) -> None:
    deep: list = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(FileError, match="facts.deep is nested deeper than 32"):
        form_to_bytes(Form(form.networks, {"deep": deep}))


def test_foreign_operations_are_refused_by_name(form: Form) -> None:
    class Relu6(Relu):
        pass

    graph = Graph(Input((1,), Value("f32", (1, 1, 1))), (Node("a", Relu6(), ("input",)),), "a")
    with pytest.raises(FileError, match="Relu6 is no operation of a packed network"):
        form_to_bytes(Form((graph,)))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_saving_to_a_link_replaces_what_it_names(form: Form, tmp_path: Path) -> None:
    target, link = tmp_path / "target.bnn", tmp_path / "link.bnn"
    target.write_bytes(b"old")
    link.symlink_to(target)
    save(form, link)
    assert link.is_symlink() and target.read_bytes() == form_to_bytes(form)


def test_the_longest_name_of_a_file_can_be_saved(form: Form, tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".bnn")
    save(form, path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_small_file_cannot_keep_its_reader_busy() -> None:
    """The same array in every node is stored once, checked at each use: saving and loading refuse beyond a bound."""
    weights = np.zeros((256, 1, 1, 256), np.float32)
    names = ["input", *(f"n{i}" for i in range(600))]
    nodes = tuple(Node(b, F32Linear(weights), (a,)) for a, b in itertools.pairwise(names))
    few = Form((Graph(Input((256,), Value("f32", (1, 1, 256))), nodes[:90], "n89"),))
    many = Form((Graph(Input((256,), Value("f32", (1, 1, 256))), nodes, "n599"),))
    form_from_bytes(form_to_bytes(few))
    with pytest.raises(FileError, match="used over and over"):
        form_to_bytes(many)


def test_a_file_whose_uses_are_beyond_the_bound_is_refused(monkeypatch) -> None:
    weights = np.zeros((256, 1, 1, 256), np.float32)
    names = ["input", *(f"n{i}" for i in range(600))]
    nodes = tuple(Node(b, F32Linear(weights), (a,)) for a, b in itertools.pairwise(names))
    form = Form((Graph(Input((256,), Value("f32", (1, 1, 256))), nodes, "n599"),))
    with monkeypatch.context() as patched:
        patched.setattr(file, "check_uses", lambda used, held, where: None)
        data = form_to_bytes(form)
    with pytest.raises(FileError, match=r"node \d+ 'n\d+'.*used over and over"):
        form_from_bytes(data)
