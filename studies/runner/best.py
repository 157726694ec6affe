"""The best epoch of a run by validation accuracy: the network's state at its end, kept until the run is over.

Published numbers are often those of the epoch that validated best. The test labels are read once, when a run is over,
so the network of that epoch has to be kept until then.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class BestEpoch:
    """The first of the epochs with the highest validation accuracy so far, and the network's state at its end.

    epoch: from 1, 0 before any was offered. accuracy: of the mode rule, as on the learning curve; nan never is best.
    """

    epoch: int = 0
    step: int = 0
    accuracy: float = -math.inf
    state: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, epoch: int, step: int, accuracy: float, model: nn.Module) -> None:
        """The epoch that just ended; kept where it is better than all before it."""
        if accuracy > self.accuracy:
            self.epoch, self.step, self.accuracy = epoch, step, accuracy
            self.state = _copy(model)

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model as it was at the best epoch, for the time of a `with`; afterwards as it is now."""
        now = _copy(model)
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(now)

    def summary(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"epoch": self.epoch, "step": self.step, "validation_accuracy": self.accuracy}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it: numbers and tensors."""
        return {"epoch": self.epoch, "step": self.step, "accuracy": self.accuracy, "state": dict(self.state)}

    @classmethod
    def from_state(cls, kept: Mapping[str, Any]) -> BestEpoch:
        """The best epoch that `state_dict` described."""
        return cls(kept["epoch"], kept["step"], kept["accuracy"], dict(kept["state"]))


@torch.no_grad()
def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
