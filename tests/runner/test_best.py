"""The best-validation epoch: kept, scored with the last one, and without any influence on it."""

import dataclasses
import io

import pytest
import torch
from torch import nn

import methods
from core import architectures, metrics, problems
from core.predict import logits
from core.statistics import Statistics
from studies.runner.best import BestEpoch
from studies.runner.checkpoint import Checkpoint
from studies.runner.measure import measure

EPOCHS = 8


@pytest.fixture
def tracked(cell):
    """A cell whose best epoch is not its last one: at a constant, large rate validation goes up and down."""
    chosen = cell("ste", epochs=EPOCHS, widths=(8,), lr=0.5)
    return dataclasses.replace(chosen, track_best=True, schedule="constant")


def _at(body, epoch):
    return [rule for rule in body["predictions"] if rule["epoch"] == epoch]


def test_tracking_the_best_epoch_changes_nothing_of_the_last(tracked, numbers):
    plain, state = measure(dataclasses.replace(tracked, track_best=False), None)
    body, kept = measure(tracked, None)
    assert _at(body, "last") == plain["predictions"] and numbers_of_curve(body) == numbers_of_curve(plain)
    assert all(torch.equal(kept["model"][name], value) for name, value in state["model"].items())
    assert "best" not in state and plain["best_epoch"] is None and _at(plain, "best") == []


def numbers_of_curve(body):
    return [{name: value for name, value in point.items() if name != "seconds"} for point in body["curve"]]


def test_the_best_epoch_is_the_first_of_the_highest_validation_accuracy(tracked):
    body, _ = measure(tracked, None)
    accuracies = [point["validation_accuracy"] for point in body["curve"]]
    first = accuracies.index(max(accuracies))
    assert first + 1 < EPOCHS, "the best epoch is the last one: this test shows nothing"
    point = body["curve"][first]
    assert body["best_epoch"] == {
        "epoch": first + 1, "step": point["step"], "validation_accuracy": max(accuracies),
    }  # fmt: skip


def test_the_best_network_is_that_of_a_run_looked_at_there(tracked):
    """Its parameters, against those at the same epoch of a run that keeps every epoch's."""
    body, state = measure(tracked, None)
    seen = {}

    class Every(BestEpoch):
        def offer(self, epoch, step, accuracy, model):
            super().offer(epoch, step, accuracy, model)
            seen[epoch] = {name: value.clone() for name, value in model.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studies.runner.training.BestEpoch", Every)
        measure(tracked, None)
    there = seen[body["best_epoch"]["epoch"]]
    assert all(torch.equal(state["best"][name], value) for name, value in there.items())
    assert any(not torch.equal(state["model"][name], value) for name, value in there.items())


def test_the_kept_best_state_predicts_what_the_record_says(tracked):
    body, state = measure(tracked, None)
    method, problem = methods.make("ste", **tracked.hyperparameters), problems.load(tracked.problem, None)
    options = {name: value for name, value in tracked.network.items() if name != "name"}
    rng = torch.Generator().manual_seed(0)
    model = architectures.build("mlp", problem.form, problem.classes, method.law, rng, **options)
    model.load_state_dict(state["best"])
    (reading,) = method.predictors[0].readings(model, rng)
    (statistics,) = state["statistics"]["mode @ best validation"]
    scores = logits(model, reading, Statistics.from_state(statistics), problem.validation.inputs, rng)
    (mode,) = _at(body, "best")
    assert metrics.accuracy(scores, problem.validation.labels) == mode["metrics"]["validation"]["accuracy"]


@pytest.mark.parametrize("method", methods.LISTED_FIRST)
def test_every_rule_is_scored_twice_in_one_read_of_the_test_labels(cell, method):
    body, _ = measure(dataclasses.replace(cell(method), track_best=True), None)
    rules = [rule["prediction"] for rule in _at(body, "last")]
    assert [rule["prediction"] for rule in _at(body, "best")] == [f"{name} @ best validation" for name in rules]
    (read,) = body["test_reads"]
    assert read["rules"] == [rule["prediction"] for rule in body["predictions"]]


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_where_the_last_epoch_is_the_best_both_say_the_same(tracked, epoch):
    chosen = dataclasses.replace(tracked, budget={"epochs": epoch}, schedule="cosine")
    body, _ = measure(chosen, None)
    if body["best_epoch"]["epoch"] == epoch:
        assert [rule["metrics"] for rule in _at(body, "best")] == [rule["metrics"] for rule in _at(body, "last")]
    assert epoch > 1 or body["best_epoch"]["epoch"] == 1


def test_a_model_is_itself_again_after_its_best_epoch_was_applied():
    model, best = nn.Linear(3, 2), BestEpoch()
    best.offer(1, 10, 0.5, model)
    kept = model.weight.detach().clone()
    nn.init.ones_(model.weight)
    best.offer(2, 20, 0.5, model)  # not better: the first stays
    with pytest.raises(RuntimeError, match="in between"), best.applied(model):
        assert torch.equal(model.weight, kept)
        raise RuntimeError("in between")
    assert (model.weight == 1).all() and best.epoch == 1


def test_a_validation_accuracy_that_is_no_number_is_never_best():
    best = BestEpoch()
    best.offer(1, 10, float("nan"), nn.Linear(1, 1))
    assert best.epoch == 0 and best.state == {}


def test_a_checkpoint_holds_the_best_epoch(tmp_path):
    model, best = nn.Linear(3, 2), BestEpoch()
    best.offer(4, 40, 0.75, model)
    packed = io.BytesIO()
    torch.save(best.state_dict(), packed)
    packed.seek(0)
    again = BestEpoch.from_state(torch.load(packed, weights_only=True))
    assert again.summary() == best.summary()
    assert all(torch.equal(again.state[name], value) for name, value in best.state.items())


def test_a_continued_cell_keeps_the_best_epoch_it_had(tracked, tmp_path, numbers, monkeypatch):
    whole, kept = measure(tracked, None)
    path, saves = tmp_path / "cell.pt", []
    original = Checkpoint.save

    def dying(self, content):
        original(self, content)
        saves.append(content["watch"]["best"]["epoch"])
        if len(saves) == EPOCHS - 2:  # one an epoch, of 12 steps
            raise KeyboardInterrupt

    def checkpoint():
        return Checkpoint(path, 1e-9, tracked.config(), {"device_type": "cpu"})

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            measure(tracked, None, checkpoint())
    assert saves[-1] > 0, "killed before any epoch was best: this test shows nothing"
    body, state = measure(tracked, None, checkpoint())
    for each in (whole, body):
        each["checksum"] = None
    assert numbers(body) == numbers(whole)
    assert all(torch.equal(state["best"][name], value) for name, value in kept["best"].items())
