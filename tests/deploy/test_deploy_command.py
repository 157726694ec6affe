"""`python -m core.deploy FILE`: what it says of a file, classes of inputs, refusals; all without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.deploy import Form, load, save
from core.deploy.__main__ import main
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Affine, Binarize
from core.deploy.packing import pack
from core.deploy.summary import layers, table
from core.deploy.sums import BinConv2d, BinLinear, F32Linear, IntConv2d, IntLinear

RNG = np.random.default_rng(0)


def signs(*shape):
    return pack(RNG.choice([-1, 1], shape))


def network():
    """(3, 8, 8) pixels -> 5 channels in one convolution, two groups in the next, linear of bits, real linear."""
    nodes = (
        Node("first", IntConv2d(signs(6, 3, 3, 3), padding=1), ("input",)),
        Node("scaled", Affine(np.ones(6, np.float32), np.zeros(6, np.float32)), ("first",)),
        Node("sign", Binarize(np.zeros(6, np.float32)), ("scaled",)),
        Node("grouped", BinConv2d(signs(4, 3, 3, 3), groups=2, stride=2), ("sign",)),
        Node("again", Affine(np.ones(4, np.float32), np.zeros(4, np.float32)), ("grouped",)),
        Node("bits", Binarize(np.zeros(4, np.float32)), ("again",)),
        Node("linear", BinLinear(signs(7, 3, 3, 4)), ("bits",)),
        Node("floats", Affine(np.ones(7, np.float32), np.zeros(7, np.float32)), ("linear",)),
        Node("last", F32Linear(RNG.normal(size=(5, 1, 1, 7)).astype(np.float32)), ("floats",)),
    )
    return Graph(Input((3, 8, 8), Value("u8", (8, 8, 3))), nodes, "last")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.bnn"
    save(Form((network(),), {"exact": False, "predictor": "mode"}), path)
    return path


def test_layers_count_true_weights_not_words():
    found = {layer.name: layer for layer in layers(network())}
    assert list(found) == ["first", "grouped", "linear", "last"]
    assert [layer.inputs for layer in found.values()] == [27, 27, 36, 7]
    assert [layer.weights for layer in found.values()] == [6 * 27, 4 * 27, 7 * 36, 5 * 7]
    assert [layer.packed for layer in found.values()] == [True, True, True, False]
    assert found["grouped"].bytes == 4 * 4 * 9  # a word of 3 channels for each tap of each output
    assert found["last"].bytes == 4 * 35


def test_command_says_what_the_file_holds(file, capsys):
    assert main([str(file)]) == 0
    said = capsys.readouterr().out
    assert f"{file.stat().st_size:,} bytes" in said
    assert "one network: 4 linear maps of 9 operations from u8 8 x 8 x 3" in said
    for name in ("first", "grouped", "linear", "last", "IntConv2d", "F32Linear"):
        assert name in said
    assert "exact: false" in said and "predictor: mode" in said


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_command_prints_a_class_a_line(file, tmp_path, capsys, backend):
    x = RNG.integers(0, 256, (11, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    assert main([str(file), "--classes", str(tmp_path / "x.npy"), "--backend", backend]) == 0
    assert [int(line) for line in capsys.readouterr().out.split()] == load(file).classes(x, backend="numpy").tolist()


def test_command_refuses_without_a_traceback(file, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8)))
    assert main([str(file), "--classes", str(tmp_path / "x.npy")]) == 2
    assert "uint8" in capsys.readouterr().err
    (tmp_path / "x.npy").write_bytes(b"no array")
    assert main([str(file), "--classes", str(tmp_path / "x.npy")]) == 2
    assert main([str(file), "--classes", str(tmp_path / "absent.npy")]) == 2
    assert "absent.npy" in capsys.readouterr().err
    assert main([str(tmp_path / "absent.bnn")]) == 2
    file.write_bytes(file.read_bytes()[:-1])
    assert main([str(file)]) == 2
    assert capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    "fault, said", [("npz", "an archive of arrays"), ("text", "no .npy array"), ("cut", "no .npy array")]
)
def test_what_is_no_array_is_refused_by_its_name(file, tmp_path, capsys, fault, said):
    path = tmp_path / "x.npy"
    if fault == "npz":
        with path.open("wb") as opened:
            np.savez(opened, x=np.zeros((2, 3, 8, 8), np.uint8))
    elif fault == "text":
        path.write_text("0 1 2\n")
    else:
        np.save(path, np.zeros((2, 3, 8, 8), np.uint8))
        path.write_bytes(path.read_bytes()[:-1])
    assert main([str(file), "--classes", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"--classes {path}: {said}") and "numpy.save" in told and "unsafe" not in told


def test_no_inputs_have_no_classes(file, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((0, 3, 8, 8), np.uint8))
    assert main([str(file), "--classes", str(tmp_path / "x.npy")]) == 0
    assert capsys.readouterr().out == ""


def test_one_linear_map_is_told_as_one(tmp_path, capsys):
    graph = Graph(
        Input((4,), Value("u8", (1, 1, 4))), (Node("only", IntLinear(signs(3, 1, 1, 4)), ("input",)),), "only"
    )
    save(Form((graph,), {}), tmp_path / "model.bnn")
    assert main([str(tmp_path / "model.bnn")]) == 0
    assert "one network: 1 linear map of 1 operation from u8 4" in capsys.readouterr().out


def test_command_runs_where_torch_cannot_be_imported(file):
    code = "import sys; sys.modules['torch'] = None; from core.deploy.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 0 and "IntConv2d" in done.stdout, done.stderr


def test_table_puts_numbers_to_the_right():
    lines = table(("name", "count"), [("a", "1"), ("long one", "1,234")])
    assert lines == ["name      count", "--------  -----", "a             1", "long one  1,234"]
