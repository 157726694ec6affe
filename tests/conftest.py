"""Shared by all tests: one torch thread, Hypothesis without clock or database, skips of gpu and data tests by name."""

import os

import jaxtyping
import pytest
import torch
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)

# derandomised: a failure is the same failure at every run; no deadline: the machine may be busy
settings.register_profile("bitrelax", derandomize=True, deadline=None, database=None)
settings.load_profile("bitrelax")


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.set_flush_denormal(False)  # training sets it, and a worker process must not keep it for other tests
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if item.get_closest_marker("data") and not os.environ.get("BITRELAX_DATA"):
        pytest.skip("BITRELAX_DATA is not set: it names the folder with the real data sets")


@pytest.fixture
def shapes_unchecked():
    """Calls as a user has them: the annotations' own shape check exists only under test and would answer first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
