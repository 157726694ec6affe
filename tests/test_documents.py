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
from solvers.bench import document
from solvers.bench.goals import Row
from studies import tune
from studies.analysis import tables, text
from studies.certifying import report
from studies.deploying import overview
from studies.deploying.bench import goals as deploying

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
    assert text.plain(tables.summary(studies.load(ROOT / "results" / "default"))) in README


def test_the_command_and_commit_beside_the_table_are_those_of_the_manifest():
    manifest = json.loads((ROOT / "results" / "default" / "manifest.json").read_text())
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


FAMILIES = (ROOT / "docs" / "families.md").read_text()
BIAS = "relative bias of the gradient of E f(w)"
NEURONS = ("neuron-folded", "neuron-squared", "neuron-logistic", "network-hardtanh", "network-sign")


@pytest.mark.parametrize("study", ["default", "binary-activations"])
def test_the_tables_of_the_families_are_those_of_the_committed_records(study):
    assert text.plain(tables.summary(studies.load(ROOT / "results" / study))) in FAMILIES
    manifest = json.loads((ROOT / "results" / study / "manifest.json").read_text())
    assert f"`{manifest['command']}` at commit `{manifest['source']['commit'][:10]}`" in FAMILIES


def test_the_biases_of_the_families_are_those_of_the_oracle():
    rows = pd.DataFrame(json.loads((ROOT / "results" / "oracle" / "rows.json").read_text()))
    rows = rows[rows["quantity"].isin([BIAS, f"{BIAS} in the mean"])]  # of a point law there is the latter
    rows = rows.drop_duplicates(["method", "estimator", "problem"])
    rows = rows.pivot(index=["method", "estimator"], columns="problem", values="value")
    printed = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|((?: [\d.]+ \|){5})$", FAMILIES, flags=re.M)
    assert len(printed) == 9
    for method, estimator, values in printed:
        expected = rows.loc[(method, estimator), list(NEURONS)]
        assert values == "".join(f" {value:.2f} |" for value in expected), method


def test_what_the_families_say_of_propagation_is_in_the_parity_records():
    rows = studies.load(ROOT / "results" / "parity" / "short")
    test = (rows["split"] == "test") & (rows["metric"] == "accuracy") & (rows["epoch"] == "last")
    mlp = rows[test & rows["setup"].str.contains('"name":"mlp"')]
    for method, lost in (("blrnet-propagate", "7.5"), ("blrnet", "0.4")):
        values = mlp[mlp["method"] == method].set_index("prediction")["value"]
        assert f"{100 * (values['propagate'] - values['mode']):.1f}" == lost
        assert lost in FAMILIES


def test_the_table_of_the_certified_solver_is_that_of_the_committed_bench():
    rows = [Row(**row) for row in json.loads((ROOT / "results" / "sdp" / "bench.json").read_text())]
    assert document.markdown(rows) in (ROOT / "docs" / "performance.md").read_text()


def test_the_table_of_layerwise_networks_is_that_of_the_committed_study():
    written = (ROOT / "results" / "layerwise" / "layerwise.md").read_text()
    networks = written.partition("Layers, mean over seeds")[0]
    rows = [line for line in networks.splitlines() if line.startswith("| ")]
    families = (ROOT / "docs" / "families.md").read_text()
    assert len(rows) > 4 and all(row in families for row in rows)


def test_the_certified_gaps_of_the_document_are_those_of_the_committed_study():
    written = report.markdown(pd.read_csv(ROOT / "results" / "certify" / "table.csv"))
    assert written in (ROOT / "docs" / "certificates.md").read_text()


def test_the_goals_of_packed_networks_are_those_of_the_committed_bench():
    bench = json.loads((ROOT / "results" / "deploy" / "bench.json").read_text())
    rows = [deploying.Row(**row) for row in bench["goals"]]
    assert document.markdown(rows) in (ROOT / "docs" / "performance.md").read_text()
    assert not bench["manifest"]["source"]["dirty"]


def test_the_deployed_networks_of_the_readme_are_those_on_record():
    folder = ROOT / "results" / "deploy" / "exports"
    assert overview.markdown(folder) in README
    assert all(not json.loads(path.read_text())["facts"]["source"]["dirty"] for path in folder.glob("*.json"))
