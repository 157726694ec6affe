"""Keys: everything that could change a number changes the key, nothing else does."""

import dataclasses
import json

import pytest

from studies.runner.cells import Cell, Provenance, canonical, key
from studies.runner.provenance import provenance, source_hash

CELL = Cell(
    study="compare",
    problem="digits",
    method="ste",
    seed=0,
    network={"name": "mlp", "widths": (64, 32)},
    hyperparameters={"lr": 1e-3, "clip": 1.0},
    budget={"epochs": 3},
    batch=32,
    schedule="cosine",
)
PROVENANCE = Provenance(
    method_module="methods.ste",
    method_version="1",
    method_source="aa",
    core_source="bb",
    solvers_source="cc",
    torch_version="2.13.0",
    device_type="cpu",
    compiled=False,
    data={"digits": "dd"},
)
CELL_CHANGES = {
    "study": "certify",
    "problem": "moons",
    "method": "bop",
    "seed": 1,
    "network": {"name": "mlp", "widths": (64, 33)},
    "hyperparameters": {"lr": 1.0000000000000002e-3, "clip": 1.0},
    "budget": {"steps": 3},
    "batch": 33,
    "schedule": "linear",
    "device": "cuda",
    "track_best": True,
}
PROVENANCE_CHANGES = {
    "method_module": "theirs.ste",
    "method_version": "2",
    "method_source": "ab",
    "core_source": "bc",
    "solvers_source": "cd",
    "torch_version": "2.14.0",
    "device_type": "cuda",
    "compiled": True,
    "data": {"digits": "de"},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Cell)])
def test_every_field_of_a_cell_changes_its_key(name):
    changed = dataclasses.replace(CELL, **{name: CELL_CHANGES[name]})
    assert key(changed, PROVENANCE) != key(CELL, PROVENANCE)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Provenance)])
def test_every_field_of_the_provenance_changes_the_key(name):
    changed = dataclasses.replace(PROVENANCE, **{name: PROVENANCE_CHANGES[name]})
    assert key(CELL, changed) != key(CELL, PROVENANCE)


def test_a_cell_that_went_through_json_is_the_same_cell():
    again = Cell(**json.loads(canonical(CELL.config())))
    assert key(again, PROVENANCE) == key(CELL, PROVENANCE)
    assert again.config() == CELL.config()


def test_order_of_writing_does_not_change_the_key():
    turned = dataclasses.replace(CELL, hyperparameters={"clip": 1.0, "lr": 1e-3})
    assert key(turned, PROVENANCE) == key(CELL, PROVENANCE)


def test_nan_has_no_spelling():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"lr": float("nan")})


def test_keys_of_the_real_registry_know_method_file_and_versions(cell):
    found = provenance(cell("bop"), {"inputs": "ee"})
    assert found.method_module == "methods.bop"
    assert found.device_type == "cpu"
    assert "+" not in found.torch_version
    assert found.data == {"inputs": "ee"}
    assert found.method_source != provenance(cell("ste"), {}).method_source


def test_a_plugin_is_known_by_the_version_of_its_distribution(plugin, cell):
    found = provenance(cell("choosy"), {})
    assert (found.method_module, found.method_version) == ("misbehaving", "0.3")


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "sub" / "b.py").write_text("y = 2\n")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.py").write_text("x = 2\n"),
        lambda folder: (folder / "sub" / "b.py").write_text("y = 2\n\n"),
        lambda folder: (folder / "a.py").rename(folder / "c.py"),
        lambda folder: (folder / "sub" / "c.py").touch(),
        lambda folder: (folder / "a.py").unlink(),
    ],
    ids=["edited", "edited below", "renamed", "added", "removed"],
)
def test_a_source_hash_sees_every_change_of_a_python_file(sources, change):
    before = source_hash(sources)
    change(sources)
    assert source_hash(sources) != before


def test_a_source_hash_sees_nothing_but_python_files_and_their_place(sources, tmp_path):
    before = source_hash(sources)
    (sources / "notes.txt").write_text("not code")
    (sources / "__pycache__").mkdir()
    (sources / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"\0")
    assert source_hash(sources) == before
