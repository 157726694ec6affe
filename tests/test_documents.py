"""The documents' promises: the README's example is a method; its tables and that of the defaults are of the records."""

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest

import methods
import studies
from methods.conformance import CHECKS
from studies import tune
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


def test_the_table_is_that_of_the_committed_records():
    assert text.plain(tables.summary(studies.load(ROOT / "results" / "first-light"))) in README


def test_the_command_and_commit_beside_the_table_are_those_of_the_manifest():
    manifest = json.loads((ROOT / "results" / "first-light" / "manifest.json").read_text())
    assert f"`{manifest['command']}` at commit `{manifest['source']['commit'][:10]}`" in README


def test_the_trial_table_is_that_of_the_committed_trials():
    table = tune.markdown(tune.scores(pd.read_csv(ROOT / "results" / "tune" / "trials.csv")))
    assert table in (ROOT / "docs" / "defaults.md").read_text()


@pytest.mark.parametrize("name", list(tune.SPACES))
def test_the_defaults_are_the_best_trial_of_each_method(name):
    table = tune.scores(pd.read_csv(ROOT / "results" / "tune" / "trials.csv"))
    best = table[table["method"] == name].iloc[0]
    defaults = {key: methods.signature(name)[key].default for key in tune.SPACES[name]}
    assert best["trial"] == tune.spell(defaults)


def test_every_method_has_equally_many_trials_each_with_every_problem_and_seed():
    table = pd.read_csv(ROOT / "results" / "tune" / "trials.csv")
    assert set(table.groupby("method")["trial"].nunique()) == {16}
    assert set(table.groupby(["method", "trial"]).size()) == {2 * len(tune.PROBLEMS)}
    assert (table["status"] == "finished").all()
