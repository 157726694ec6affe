"""Files that are wrong in every way: each is refused with one clear message, and nothing large is ever allocated."""

import copy
import hashlib
import json
import os
import re
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.deploy import FileError, Form, PackedNetwork, file, load, plain, save
from core.deploy.file import form_from_bytes, form_to_bytes
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Add, Affine, MaxPoolBits, Threshold
from core.deploy.packing import pack
from core.deploy.sums import BinConv2d, BinLinear, F32Linear, IntConv2d

pytestmark = pytest.mark.usefixtures("shapes_unchecked")  # wrong types are what these tests are about

HEADER = 128
Change = Callable[[dict[str, Any]], object]


@cache
def small_form() -> Form:
    """Two networks of every kind of parameter: packed and real arrays, whole numbers, a word."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return pack(rng.choice([-1, 1], shape))

    def graph() -> Graph:
        nodes = (
            Node("first", IntConv2d(weights(5, 3, 3, 3), padding=1), ("input",)),
            Node("sign", Threshold(rng.integers(-9, 9, 5).astype(np.int32), weights(5)), ("first",)),
            Node("conv", BinConv2d(weights(33, 2, 2, 5), stride=2, pad="plus"), ("sign",)),
            Node("sum", Add(), ("conv", "conv")),
            Node("signs", Threshold(rng.integers(-9, 9, 33).astype(np.int32), weights(33)), ("sum",)),
            Node("pool", MaxPoolBits(2, 1, smallest=weights(33)), ("signs",)),
            Node("last", BinLinear(weights(4, 2, 2, 33)), ("pool",)),
            Node("scaled", Affine(rng.random(4, np.float32), rng.random(4, np.float32)), ("last",)),
            Node("logits", F32Linear(rng.random((3, 1, 1, 4), np.float32)), ("scaled",)),
        )
        return Graph(Input((3, 6, 6), Value("u8", (6, 6, 3))), nodes, "logits")

    return Form((graph(), graph()), {"exact": False, "note": {"of": ["test", 1]}})


@cache
def good() -> bytes:
    return form_to_bytes(small_form())


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """JSON data and arrays of a good file."""
    _, at, length, blobs, _ = struct.unpack_from("<5Q", data, 48)
    return json.loads(data[at : at + length]), data[blobs:]


def assembled(text: bytes, arrays: bytes, **numbers: int) -> bytes:
    """A file with this JSON and these arrays, and a digest that holds; `numbers` replace fields of its header."""
    start = -(-(HEADER + len(text)) // 64) * 64
    right = {"size": start + len(arrays), "json": HEADER, "json_bytes": len(text), "blobs": start}
    fields = {**right, "blob_bytes": len(arrays), **numbers}
    body = struct.pack("<5Q40s", *fields.values(), bytes(40)) + text + bytes(start - HEADER - len(text)) + arrays
    return good()[:16] + hashlib.sha256(body).digest() + body


def repaired(data: bytes) -> bytes:
    """The same bytes with a digest that holds, where there is room for one."""
    return data[:16] + hashlib.sha256(data[48:]).digest() + data[48:] if len(data) >= 48 else data


def changed(change: Change) -> bytes:
    """A file whose JSON was changed, and whose header fits it."""
    content, blobs = parts(good())
    change(content)
    return assembled(json.dumps(content).encode("utf-8", "surrogatepass"), blobs)


def refused(data: bytes, message: str = ".") -> str:
    with pytest.raises(FileError, match=message) as caught:
        form_from_bytes(data)
    reason = str(caught.value)
    assert "\n" not in reason and 10 < len(reason) < 700
    return reason


def at(path: str, value: object) -> Change:
    """Sets what is at a path of names and places, as "networks.0.nodes.3.name"."""

    def change(content: dict[str, Any]) -> None:
        *before, last = (int(step) if step.isdigit() else step for step in path.split("."))
        for step in before:
            content = content[step]
        content[last] = value

    return change


def without(path: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        *before, last = path.split(".")
        for step in before:
            content = content[int(step) if step.isdigit() else step]
        del content[last]

    return change


def test_what_these_tests_change_is_read_unchanged() -> None:
    _, blobs = parts(good())
    assert assembled(good()[HEADER : HEADER + length()], blobs) == good()
    assert form_to_bytes(form_from_bytes(changed(lambda content: None))) == good()


def length() -> int:
    return int(struct.unpack_from("<Q", good(), 64)[0])


# the bytes


@pytest.mark.parametrize("bytes_left", [0, 1, 7, 8, 12, 47, 48, 127])
def test_a_piece_of_a_header_is_refused(bytes_left: int) -> None:
    refused(good()[:bytes_left], "truncated|is no packed network")


def test_every_truncated_file_is_refused() -> None:
    data = good()
    for end in range(HEADER, len(data)):
        assert "is truncated: it should have" in refused(data[:end])


def test_bytes_at_the_end_are_refused() -> None:
    refused(good() + b"\0", "bytes at its end that do not belong to it")


@pytest.mark.parametrize("start", [b"\x7fELF", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"\x89BNN\n\x1a\n\n"])
def test_another_kind_of_file_is_named_by_its_start(start: bytes) -> None:
    assert repr(start)[2:-1] in refused(start + good()[len(start) :], "is no packed network")


def test_a_newer_version_says_what_to_install() -> None:
    data = bytearray(good())
    data[8] = 2
    refused(repaired(bytes(data)), "is of version 2; this release reads up to 1: install a newer bitrelax")


@pytest.mark.parametrize(("place", "value"), [(8, 0), (12, 64), (12, 129)])
def test_other_versions_and_headers_are_refused(place: int, value: int) -> None:
    data = bytearray(good())
    data[place : place + 4] = struct.pack("<I", value)
    refused(repaired(bytes(data)), "has version")


def test_every_changed_byte_is_noticed() -> None:
    for place in range(len(good())):
        data = bytearray(good())
        data[place] ^= 1 << (place % 8)
        refused(bytes(data))
    refused(bytes(data), "SHA-256 does not match")


@pytest.mark.parametrize("name", ["json", "json_bytes", "blobs", "blob_bytes"])
@pytest.mark.parametrize("value", [0, 1, 63, 129, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_offsets_and_lengths_out_of_range_are_refused(name: str, value: int) -> None:
    content, blobs = parts(good())
    data = assembled(good()[HEADER : HEADER + length()], blobs, **{name: value})
    refused(data, "offsets that do not fit its lengths")


@pytest.mark.parametrize("lengths", [{"blobs": 64}, {"json_bytes": 1 << 40}])
def test_a_header_that_cannot_be_is_refused_before_anything_is_hashed(monkeypatch, lengths: dict[str, int]) -> None:
    content, blobs = parts(good())
    data = assembled(good()[HEADER : HEADER + length()], blobs, **lengths)

    def hashed(data):
        raise AssertionError("a file that may have any size was hashed")

    monkeypatch.setattr("core.deploy.file.hashlib.sha256", hashed)
    refused(data, "offsets that do not fit its lengths")


@pytest.mark.parametrize("value", [0, 127, 1 << 40, (1 << 64) - 1])
def test_a_size_that_is_not_the_files_is_refused(value: int) -> None:
    _, blobs = parts(good())
    refused(assembled(good()[HEADER : HEADER + length()], blobs, size=value), "should have")


def test_arrays_are_all_there_is_after_the_json() -> None:
    _, blobs = parts(good())
    text = good()[HEADER : HEADER + length()]
    refused(assembled(text, blobs + bytes(4)), f"the arrays end at {len(blobs)}, but {len(blobs) + 4} bytes are kept")
    refused(assembled(text, blobs[:-4]), f"ends at {len(blobs)}, beyond the {len(blobs) - 4} bytes of the arrays")


def test_gaps_hold_zeros() -> None:
    spaces = [88, 127]  # the end of the header
    spaces += [HEADER + length()]
    content, blobs = parts(good())
    first = content["arrays"][0]
    start = len(good()) - len(blobs)
    assert length() % 64 and 4 * np.prod(first["shape"]) % 64, "there is no gap to fill"
    spaces += [start + 4 * int(np.prod(first["shape"]))]
    for place in spaces:
        data = bytearray(good())
        data[place] = 1
        refused(repaired(bytes(data)), "must hold zeros")


# the JSON

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff{}", "cannot be read: 'utf-8'"),
        (b"\xef\xbb\xbf{}", "cannot be read"),
        ("{}".encode("utf-16"), "cannot be read"),
        (b"[]", "the JSON must be an object with arrays, facts, networks"),
        (b"null", "must be an object"),
        (b"NaN", "has NaN, which is no number"),
        (b"-Infinity", "has -Infinity, which is no number"),
        (b"1e999", "has inf; numbers are finite"),
        (b"1" * 5000, "a whole number of 5000 digits"),
        (b"1" * 20, "a whole number beyond 64 bits"),
        (b"-" + b"9" * 19, "a whole number beyond 64 bits"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "cannot be read: 'utf-8'"),
        (b'{"facts": {}, "facts": {}}', "field 'facts' twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "field 'b' twice"),
        (b"[" * 40 + b"]" * 40, "nested deeper than 32"),
        (DEEP, "nested deeper than 32"),
        (b'{"a":' * 100_000, "nested deeper than 32"),
        (b"[" + b"1," * (1 << 20) + b"1]", "commas, colons and brackets; at most 1048576"),
        (b'"' + b" " * (1 << 24) + b'"', "the JSON has 16777218 bytes; at most 16777216"),
        (b'"\x00"', "cannot be read"),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else None,
)
def test_what_is_no_plain_json_is_refused(text: bytes, message: str) -> None:
    refused(assembled(text, b""), message)


FIRST = "networks.0.nodes.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("more", 1), "the JSON: field 'more' is unknown"),
        (without("facts"), "the JSON: field 'facts' is missing"),
        (at("facts", []), "facts must be an object"),
        (at("networks", {}), "networks must be a list"),
        (at("networks", []), "array 0 is used by no operation"),
        (at("networks.0", 3), "network 0 must be an object with input, nodes, output"),
        (at("networks.1.output", "none"), "network 1: the output 'none' is made by no node"),
        (at("networks.1.output", None), "network 1: output must be a string"),
        (at("networks.1.output", "scaled"), "need one input and outputs of one kind and shape"),
        (at("networks.0.input.kind", "i8"), "a value is one of bits, i32, u8, f32"),
        (at("networks.0.input.kind", "bits"), "an input is u8 or f32"),
        (at("networks.0.input.shape", [6, 6]), "a shape is .height, width, channels."),
        (at("networks.0.input.shape", [6, 6, 3.0]), "shape must be a list of whole numbers"),
        (at("networks.0.input.shape", [6, 6, True]), "shape must be a list of whole numbers"),
        (at("networks.0.input.shape", [1 << 20, 1 << 20, 3]), "more than 67108864 numbers"),
        (at("networks.0.input.shape", [1 << 62, 1, 1]), "each 1 to 1048576"),
        (at("networks.0.input.raw_shape", [3, 6, 7]), "do not have the numbers"),
        (at("networks.0.input.raw_shape", [0]), "a raw shape has 1 to 8 sides"),
        (at("networks.0.nodes", []), "a graph has 1 to 16384 nodes"),
        (at(f"{FIRST}.name", ""), "every node needs a name of its own"),
        (at(f"{FIRST}.name", "input"), "every node needs a name of its own"),
        (at(f"{FIRST}.name", 7), "node 0: name must be a string"),
        (at(f"{FIRST}.inputs", ["logits"]), "node 'first' takes 'logits', which no earlier node makes"),
        (at(f"{FIRST}.inputs", ["first"]), "node 'first' takes 'first', which no earlier node makes"),
        (at(f"{FIRST}.inputs", []), "needs one value of kind u8"),
        (at(f"{FIRST}.inputs", ["input", "input"]), "needs one value of kind u8"),
        (at(f"{FIRST}.inputs", [["input"]]), "inputs must be names"),
        (at(f"{FIRST}.inputs", "input"), "inputs must be a list"),
        (at(f"{FIRST}.operation", "Conv3d"), "node 0 'first': operation 'Conv3d' is unknown; this release has"),
        (at(f"{FIRST}.operation", "Convolution"), "operation 'Convolution' is unknown"),
        (at(f"{FIRST}.operation", "__class__"), "operation '__class__' is unknown"),
        (at(f"{FIRST}.operation", "Add"), "Add: field 'dilation' is unknown"),
        (at(f"{FIRST}.parameters", []), "IntConv2d must be an object with weights, stride"),
        (at(f"{FIRST}.parameters.takes", "bits"), "IntConv2d: field 'takes' is unknown"),
        (without(f"{FIRST}.parameters.groups"), "IntConv2d: field 'groups' is missing"),
        (at(f"{FIRST}.parameters.stride", 0), "stride must be a whole number from 1"),
        (at(f"{FIRST}.parameters.stride", -1), "stride must be a whole number from 1"),
        (at(f"{FIRST}.parameters.stride", 1.0), "stride must be a whole number"),
        (at(f"{FIRST}.parameters.stride", True), "stride must be a whole number"),
        (at(f"{FIRST}.parameters.stride", 1 << 62), "stride must be a whole number from 1"),
        (at(f"{FIRST}.parameters.dilation", 4), "does not fit 6 . 2 x 1"),
        (at(f"{FIRST}.parameters.padding", 1 << 13), "padding must be a whole number from 0 to 4096"),
        (at(f"{FIRST}.parameters.groups", 2), "groups=2 must divide"),
        (at(f"{FIRST}.parameters.weights", 99), "weights is array 99, but the file has"),
        (at(f"{FIRST}.parameters.weights", -1), "weights is array -1, but the file has"),
        (at(f"{FIRST}.parameters.weights", "0"), "weights must be a whole number"),
        (at(f"{FIRST}.parameters.weights", 1), "have 4 dimensions"),
        (at("networks.0.nodes.2.parameters.pad", "same"), "pad must be one of zero, minus, plus"),
        (at("networks.0.nodes.2.parameters.pad", ["zero"]), "pad must be a string"),
        (at("networks.0.nodes.5.parameters.size", 9), "a window of 9 does not fit"),
        (at("networks.0.nodes.7.parameters.scale", 1), r"scale must be float32 of shape \(4,\)"),
        (at("arrays", {}), "arrays must be a list"),
        (at("arrays.0", None), "array 0 must be an object with dtype, offset, shape"),
        (at("arrays.0.dtype", "float64"), "array 0: dtype must be one of uint32, int32, float32"),
        (at("arrays.0.dtype", "object"), "array 0: dtype must be one of"),
        (at("arrays.0.shape", []), "array 0: a shape has 1 to 4 sides"),
        (at("arrays.0.shape", [5, 3, 3, 0]), "array 0: a shape has 1 to 4 sides, each at least 1"),
        (at("arrays.0.shape", [5, 3, 3, -1]), "array 0: a shape has 1 to 4 sides, each at least 1"),
        (at("arrays.0.shape", [1] * 5), "array 0: a shape has 1 to 4 sides"),
        (at("arrays.0.shape", [1 << 62, 1 << 62]), "array 0: ends at [0-9]*, beyond the [0-9]* bytes"),
        (at("arrays.0.shape", [1 << 32, 1 << 30]), "array 0: ends at"),
        (at("arrays.1.offset", 3), "array 1: offset 3 is no multiple of 64"),
        (at("arrays.1.offset", -64), "array 1: offset -64 lies before the end of the array before"),
        (at("arrays.1.offset", 0), "array 1: offset 0 lies before the end of the array before"),
        (at("arrays.1.offset", 1 << 40), "array 1: offset must be [0-9]*, right after the array before"),
        (lambda content: content["arrays"].pop(), "the arrays end at|but the file has"),
        (
            lambda content: content["arrays"].append({"dtype": "int32", "offset": 1 << 12, "shape": [1]}),
            "array [0-9]*: offset must be",
        ),
        (at("networks.1.nodes.0.parameters.weights", 0), "array [0-9]* is used by no operation"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value)[:50] if isinstance(value, str) else "",
)
def test_fields_are_checked_one_by_one(change: Change, message: str) -> None:
    assert refused(changed(change), message).endswith("export it again")


def leaves(data: Any, path: str = "") -> Iterator[str]:
    """The path of every field and item of JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, item in items:
        yield f"{path}{key}"
        yield from leaves(item, f"{path}{key}.")


STRANGE = [None, True, -1, 0, 7, 1 << 31, 1 << 62, 0.5, "", "input", [], [[]], {}, {"a": 1}]


def test_every_field_of_a_file_may_be_missing_or_anything_else() -> None:
    content, blobs = parts(good())
    paths = [path for path in leaves(content) if not path.startswith(("facts.", "networks.1."))]
    sound = 0
    for path in paths:
        for value in STRANGE:
            changed_content = copy.deepcopy(content)
            at(path, value)(changed_content)
            sound += sound_or_refused(assembled(json.dumps(changed_content).encode(), blobs))
        if not path.rpartition(".")[2].isdigit():
            refused(changed(without(path)))
    assert len(paths) > 100 and 0 < sound < len(paths)  # other strides, and other names that nothing takes, are sound


def sound_or_refused(data: bytes) -> bool:
    """Whether a file is read; then it runs, where its values are few. Any other exception than FileError fails."""
    try:
        form = form_from_bytes(data)
    except FileError:
        return False
    if all(np.prod(value.shape) < 1 << 14 for graph in form.networks for value in graph.values.values()):
        network = PackedNetwork(form)
        given = form.networks[0].input
        dtype = np.uint8 if given.value.kind == "u8" else np.float32
        network.run(np.ones((2, *given.raw_shape), dtype), backend="numpy")
    return True


@pytest.mark.parametrize(
    ("array", "place", "message"),
    [
        (0, -1, "weights: the bits beyond channel 3 must be 0"),
        (2, -1, "flip: the bits beyond channel 5 must be 0"),
    ],
)
def test_pad_bits_that_are_set_are_refused(array: int, place: int, message: str) -> None:
    content, blobs = parts(good())
    entry = content["arrays"][array]
    data = bytearray(blobs)
    data[entry["offset"] + 4 * int(np.prod(entry["shape"])) + place] = 0x80
    refused(assembled(json.dumps(content).encode(), bytes(data)), message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_real_parameters_that_are_not_finite_are_refused(value: float) -> None:
    content, blobs = parts(good())
    entry = next(entry for entry in content["arrays"] if entry["dtype"] == "float32")
    data = bytearray(blobs)
    data[entry["offset"] + 4 : entry["offset"] + 8] = struct.pack("<f", value)
    refused(assembled(json.dumps(content).encode(), bytes(data)), f"scale must be finite .got {value} at 1")


def test_sums_that_could_leave_int32_are_refused() -> None:
    words, numbers = 1 << 12, 1 << 17
    content = {
        "arrays": [{"dtype": "uint32", "offset": 0, "shape": [1, 64, 1, words]}],
        "facts": {},
        "networks": [
            {
                "input": {"kind": "u8", "raw_shape": [numbers, 64, 1], "shape": [64, 1, numbers]},
                "nodes": [{"inputs": ["input"], "name": "fc", "operation": "IntLinear", "parameters": {"weights": 0}}],
                "output": "fc",
            }
        ],
    }
    data = assembled(json.dumps(content).encode(), bytes(4 * 64 * words))
    refused(data, "node 'fc' .IntLinear.: 8388608 inputs a sum are beyond 4194304")


# whatever the bytes


def mutated(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """A few bytes set, bits flipped, a piece cut out, doubled, moved, or taken from another file."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        way = int(rng.integers(6))
        first, last = sorted(int(n) for n in rng.integers(0, len(changed) + 1, 2))
        short = first + min(last - first, 40)
        if way == 0:
            del changed[first:]
        elif way == 1:
            del changed[first:short]
        elif way == 2:
            changed[first:first] = changed[first:short]
        elif way == 3:
            changed[first:short] = other[first:short]
        elif first < len(changed):
            changed[first] = int(rng.integers(256)) if way == 4 else changed[first] ^ (1 << int(rng.integers(8)))
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_refused_or_sound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    other = good()
    first = form_to_bytes(Form((small_form().networks[0],)))
    content, blobs = parts(first)
    text = first[HEADER:][: struct.unpack_from("<Q", first, 64)[0]]
    sound = 0
    for k in range(5000):
        if k % 4 == 0:
            data = mutated(rng, first, other)
        elif k % 4 == 1:
            data = repaired(mutated(rng, first, other))
        elif k % 4 == 2:  # digest and header hold: the change is in the JSON
            data = assembled(mutated(rng, text, other[HEADER:]), blobs)
        else:  # or in the arrays
            data = assembled(text, mutated(rng, blobs, text))
        sound += sound_or_refused(data)
    assert sound < 5000 / 4


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * (1 << 16) + b"[]]",
        b"[" + b"{}," * (1 << 16) + b"{}]",
        b'{"' + b"x" * (1 << 20) + b'":[' + b"[]," * (1 << 16) + b"[]]}",
        b'{"arrays":[' + b'{"dtype":"int32","offset":0,"shape":[1048576,1048576]},' * 1000 + b"0]}",
        DEEP,
    ],
    ids=["lists", "objects", "a-long-name", "absurd-arrays", "deep"],
)
def test_what_reading_allocates_is_bounded_by_the_file(text: bytes) -> None:
    data = assembled(text, b"")
    tracemalloc.start()
    refused(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(data) + (1 << 20)  # a list of nothing is 56 bytes and its place 8, for 3 bytes of JSON


def test_absurd_shapes_allocate_nothing() -> None:
    data = changed(at("arrays.0.shape", [1 << 20, 1 << 20, 1 << 20, 1 << 20]))
    tracemalloc.start()
    refused(data)
    assert tracemalloc.get_traced_memory()[1] < 50 * len(data)
    tracemalloc.stop()


# paths


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "half.bnn"
    path.write_bytes(good()[:300])
    with pytest.raises(FileError, match=f"^{re.escape(str(path))}: is truncated"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match="is no packed network"):
        load(str(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.bnn")
    with pytest.raises(FileError, match="is no regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="is no regular file"):
        load(tmp_path / "pipe")


def test_saving_to_where_nothing_can_be_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(small_form(), tmp_path / "none" / "a.bnn")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        save(small_form(), tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_limits_of_files_hold_for_the_largest_graphs() -> None:
    """A graph of 2^14 nodes can be written and read: no limit of the JSON is below the form's own."""
    nodes = [Node("0", Add(), ("input", "input"))]
    nodes += [Node(str(k), Add(), (str(k - 1), str(k - 1))) for k in range(1, 1 << 14)]
    form = Form((Graph(Input((1,), Value("f32", (1, 1, 1))), tuple(nodes), "5"),))
    data = form_to_bytes(form)
    assert form_to_bytes(form_from_bytes(data)) == data
    assert len(data) < plain.LONGEST_JSON and file.HEADER.size == HEADER
