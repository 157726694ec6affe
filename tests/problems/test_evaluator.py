"""The seal on the test labels: one read for all rules, logged, refused afterwards, on every device copy."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from core import problems
from core.problems import TestLabelsRead, TestSet


def _sealed(n: int = 6, classes: int = 3) -> tuple[TestSet, Tensor]:
    labels = torch.arange(n) % classes
    return TestSet(torch.zeros(n, 2), labels, torch.arange(n)), labels


def _accuracy(rule: str, scores: Tensor, labels: Tensor) -> dict[str, float]:
    return {"accuracy": (scores.argmax(1) == labels).double().mean().item()}


def test_score_measures_every_rule_against_the_labels_and_logs_the_read() -> None:
    test, labels = _sealed()
    right = torch.nn.functional.one_hot(labels).float()
    before = datetime.now(UTC)
    assert test.reads == []
    assert test.score({"mode": right, "mean": -right}, _accuracy) == {
        "mode": {"accuracy": 1.0},
        "mean": {"accuracy": 0.0},
    }
    [read] = test.reads
    assert read["rules"] == ["mode", "mean"]
    at = datetime.fromisoformat(read["at"])
    assert at.utcoffset() == timedelta(0)
    assert abs(at - before) < timedelta(minutes=1)


def test_second_read_is_refused_and_names_the_first() -> None:
    test, _ = _sealed()
    test.score({"mode": torch.zeros(6, 3)}, _accuracy)
    at = test.reads[0]["at"]
    with pytest.raises(TestLabelsRead, match=rf"read at {at.replace('+', '.')} for mode and may be read once per run"):
        test.score({"mean": torch.zeros(6, 3)}, _accuracy)
    assert len(test.reads) == 1


def test_a_copy_on_another_device_shares_the_seal() -> None:
    test, _ = _sealed()
    copy = test.to("meta")
    assert copy.inputs.is_meta
    copy.score({"mode": torch.zeros(6, 3)}, _accuracy)  # the labels come to the scores' device, here the CPU
    assert test.reads == copy.reads != []
    with pytest.raises(TestLabelsRead):
        test.score({"mode": torch.zeros(6, 3)}, _accuracy)


def test_a_measure_that_fails_has_read_the_labels() -> None:
    test, _ = _sealed()

    def fails(rule: str, scores: Tensor, labels: Tensor) -> dict[str, float]:
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        test.score({"mode": torch.zeros(6, 3)}, fails)
    with pytest.raises(TestLabelsRead):
        test.score({"mode": torch.zeros(6, 3)}, _accuracy)


@pytest.mark.parametrize(
    ("scores", "message"),
    [({}, "at least one prediction rule"), ({"mode": torch.zeros(5, 3)}, "'mode' scored 5 inputs; the test set has 6")],
)
def test_scores_that_do_not_fit_leave_the_labels_unread(scores: dict[str, Tensor], message: str) -> None:
    test, _ = _sealed()
    with pytest.raises(ValueError, match=message):
        test.score(scores, _accuracy)
    assert test.reads == []


def test_the_log_cannot_be_changed_from_outside() -> None:
    test, _ = _sealed()
    test.score({"mode": torch.zeros(6, 3)}, _accuracy)
    test.reads[0]["rules"].append("forged")
    test.reads.clear()
    assert [read["rules"] for read in test.reads] == [["mode"]]


def test_no_public_attribute_of_a_problem_holds_the_test_labels() -> None:
    problem = problems.load("digits", None)
    labels = torch.from_numpy(load_digits().target)[problem.test.indices]
    found = list(_public_tensors(problem))
    assert any(tensor is problem.test.inputs for tensor in found)  # the walk reaches the test set
    assert not any(tensor.shape == labels.shape and torch.equal(tensor.long(), labels) for tensor in found)
    assert "labels" not in repr(problem.test)


def _public_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    names = [f.name for f in fields(value)] if is_dataclass(value) else [n for n in dir(value) if n[0] != "_"]
    if is_dataclass(value) or isinstance(value, TestSet):
        for name in names:
            yield from _public_tensors(getattr(value, name))
