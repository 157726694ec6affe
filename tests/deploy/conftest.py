"""Random packed networks for every file of this folder: no test imports another."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).with_name("random_graphs.py")


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """`random_graph` and `inputs_of`."""
    spec = importlib.util.spec_from_file_location("random_graphs", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
