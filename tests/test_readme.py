"""The README's promises: its example is a method, its table is that of the committed records."""

import importlib.util
import re
from pathlib import Path

import pytest

import methods
import studies
from methods.conformance import CHECKS
from studies.analysis import tables, text

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    path = tmp_path_factory.mktemp("readme") / "stochastic_ste.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("stochastic_ste", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield "stochastic-ste"
    del methods._FACTORIES["stochastic-ste"]


@pytest.mark.parametrize("law", CHECKS)
def test_the_example_keeps_every_law_of_the_kit(example, law):
    law(example)


@pytest.mark.parametrize("study", ["default", "first-light"])
def test_the_tables_are_those_of_the_committed_records(study):
    printed = text.plain(tables.summary(studies.load(ROOT / "results" / study)))
    for line in printed.splitlines():
        assert line in README.splitlines(), f"results/{study} has a line that README.md does not: {line!r}"
