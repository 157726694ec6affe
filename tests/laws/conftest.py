"""What the law tests share: generators with fixed seeds, and laws whose noise is chosen instead of drawn."""

from collections.abc import Callable

import pytest
import torch

from core.interface import WeightLaw


@pytest.fixture
def rng() -> torch.Generator:
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(20)


@pytest.fixture
def feed() -> Callable[[WeightLaw, torch.Tensor], WeightLaw]:
    """feed(law, noise): the law, whose every draw from now on uses this noise."""

    def feed(law: WeightLaw, noise: torch.Tensor) -> WeightLaw:
        law.noise = lambda rng: noise
        return law

    return feed
