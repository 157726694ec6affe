"""layerwise-sdp: conformance, what it spends, what the record says of its layers, what its settings refuse."""

import json

import pytest
import torch

import methods
from core import architectures
from core.claims import laws
from core.laws import Settled
from core.problems import describe
from methods import make
from methods.conformance import CHECKS
from methods.kit.trials import start
from studies.runner.cells import Cell
from studies.runner.measure import measure

NAME = "layerwise-sdp"


@pytest.mark.parametrize("law", CHECKS)
def test_conformance(law):
    law(NAME)


@pytest.fixture(scope="module")
def body():
    form = describe("breast-cancer")
    cell = Cell(
        study="test",
        problem=form.name,
        method=NAME,
        seed=0,
        network={"name": "mlp", **architectures.defaults("mlp"), "widths": [8]},
        hyperparameters={name: p.default for name, p in methods.signature(NAME).items()},
        budget={"epochs": 4},
        batch=form.batch,
        schedule=form.schedule,
    )
    measured, state = measure(cell, None)
    assert measured["status"] == "finished", measured["reason"]
    return measured, state


def test_record_tells_the_certified_gap_of_every_layer(body):
    layers = json.loads(json.dumps(body[0]["facts"], allow_nan=False))["layers"]
    assert [layer["weights"] for layer in layers] == [[8, 30], [2, 8]]
    for layer in layers:
        assert layer["proven"] == layer["neurons"] == layer["weights"][0]
        assert 0 <= layer["bound"] <= layer["error"] <= layer["signs_error"] <= 2  # a share of the variance
        assert 0 <= layer["gap"] <= 1 and layer["seconds"] > 0


def test_cell_spends_its_budget_in_prepare_and_keeps_the_signs(body):
    measured, state = body
    assert measured["spent"]["steps"] == measured["spent"]["passes"] > 0
    assert measured["curve"] == []
    assert [p["prediction"] for p in measured["predictions"]] == ["mode"]
    signs = [value for name, value in state["model"].items() if name.endswith("law.signs")]
    assert len(signs) == 2 and all(set(s.unique().tolist()) == {-1.0, 1.0} for s in signs)


def test_laws_are_settled_and_move_no_more():
    run = start(NAME, {})
    assert run.done == run.budget.steps and run.solvers == []
    assert all(isinstance(law, Settled) and not list(law.parameters()) for _, law in laws(run.model))


def test_ways_to_the_signs_share_the_network_they_start_from():
    first = {}
    for signs in ("sdp", "descent", "own"):
        run = start(NAME, {"signs": signs})
        first[signs] = run.prepared.facts["layers"][0]
    # the first layer's problem is one: real network, examples and rows are the same
    assert len({layer["signs_error"] for layer in first.values()}) == 1
    assert len({layer["floor"] for layer in first.values()}) == 1
    assert first["sdp"]["error"] <= first["descent"]["error"] <= first["own"]["error"]
    assert "bound" not in first["own"] and "bound" in first["sdp"]


def test_share_is_of_the_steps_that_train_the_real_network(monkeypatch):
    seen = []
    module = methods.load(NAME).__globals__
    trained = module["trained_twin"]
    monkeypatch.setitem(
        module, "trained_twin", lambda given, control, steps: seen.append(steps) or trained(given, control, 1)
    )
    run = start(NAME, {"share": 0.5, "signs": "own"})
    assert seen == [run.budget.steps // 2]


@pytest.mark.parametrize(
    "hyperparameters, said",
    [
        ({"share": 0.0}, "share must be in"),
        ({"share": 1.5}, "share must be in"),
        ({"signs": "best"}, "signs must be sdp, descent or own"),
        ({"gap": 0.0}, "gap must be > 0"),
        ({"turns": 0}, "turns must be > 0"),
        ({"examples": 1}, "examples and rows must be >= 2"),
    ],
)
def test_impossible_settings_are_refused(hyperparameters, said):
    with pytest.raises(ValueError, match=said):
        make(NAME, **hyperparameters)


def test_settled_law_takes_signs_and_keeps_its_type():
    law = Settled(torch.tensor([0.5, -0.0, -2.0])).double()
    assert law.mode().tolist() == [1.0, 1.0, -1.0] and law.variance().tolist() == [0.0, 0.0, 0.0]
    law.settle(torch.tensor([-3.0, 0.0, 1.0], dtype=torch.float32))
    assert law.mode().tolist() == [-1.0, 1.0, 1.0] and law.mode().dtype == torch.float64
    copy = Settled(torch.ones(3)).double()
    copy.load_state_dict(law.state_dict())
    assert torch.equal(copy.mode(), law.mode())
