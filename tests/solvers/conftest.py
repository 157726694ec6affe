"""What the solver tests share: a generator with a fixed seed, and a save through a file."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def rng() -> torch.Generator:
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(30)


@pytest.fixture
def through_file() -> Callable[[Any], Any]:
    """State as it comes back from torch.save and the safe torch.load."""

    def through_file(state: Any) -> Any:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    return through_file
