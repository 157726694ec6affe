"""The evaluator in front of the test labels: they are read once, for all prediction rules together, and logged.

Choosing a rule, an epoch or a hyperparameter by test labels needs a second look; a `TestSet` refuses one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

Measure = Callable[[str, Tensor, Tensor], dict[str, float]]  # (rule, scores (N, C), labels (N,)) -> metrics


class TestLabelsRead(RuntimeError):
    """The test labels of this problem object were read before; the message says when and by which rules."""

    __test__ = False  # the name is not a test case's


@dataclass(eq=False)
class _Seal:
    """The labels and the log of their reads, shared by a test set and its copies on other devices."""

    labels: Tensor = field(repr=False)
    reads: list[dict[str, Any]] = field(default_factory=list)


class TestSet:
    """Test inputs in the open, test labels behind `score`. `indices`: positions in the problem's source order."""

    __test__ = False

    def __init__(
        self, inputs: Shaped[Tensor, " N *shape"], labels: Int64[Tensor, " N"], indices: Int64[Tensor, " N"]
    ) -> None:
        self.inputs = inputs
        self.indices = indices
        self._seal = _Seal(labels)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def reads(self) -> list[dict[str, Any]]:
        """A copy of the log: [{"at": ISO time (UTC), "rules": [names]}], empty until `score` was called."""
        return [{**read, "rules": list(read["rules"])} for read in self._seal.reads]

    def score(self, scores: Mapping[str, Tensor], measure: Measure) -> dict[str, dict[str, float]]:
        """measure(rule, scores, labels) for every rule at once; the only reader of the labels, allowed once.

        scores: (N, C) a rule, one row a test input. The labels are on the scores' device. The read is logged before
        `measure` runs, so that one which fails halfway has still been a read. Raises TestLabelsRead on a second call,
        ValueError (labels unread) when there are no scores or their length is not the test set's.
        """
        self._check(scores)
        self._seal.reads.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), "rules": list(scores)})
        return {rule: measure(rule, values, self._seal.labels.to(values.device)) for rule, values in scores.items()}

    def to(self, device: torch.device | str) -> TestSet:
        """The same test set with its inputs on `device`: one seal, so a read of either is a read of both."""
        moved = TestSet(self.inputs.to(device), self._seal.labels, self.indices.to(device))
        moved._seal = self._seal
        return moved

    def _check(self, scores: Mapping[str, Tensor]) -> None:
        if self._seal.reads:
            first = self._seal.reads[0]
            raise TestLabelsRead(
                f"test labels were read at {first['at']} for {', '.join(first['rules'])} and may be read once per run; "
                "pass all rules to one call of score, and choose between them on the validation split"
            )
        if not scores:
            raise ValueError("score needs the scores of at least one prediction rule; the test labels stay unread")
        for rule, values in scores.items():
            if len(values) != len(self):
                raise ValueError(f"rule {rule!r} scored {len(values)} inputs; the test set has {len(self)}")
