"""Networks of real features: the file holds what standardises raw ones. What a network must claim is not the file's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from core import problems
from core.deploy import Form, PackedNetwork, load
from core.deploy.__main__ import main as run_file
from studies import compare, deploy
from studies.deploying import parity

pytestmark = pytest.mark.slow


def study(out: Path, problem: str, *options: str) -> Path:
    words = ["--problems", problem, "--methods", "ste", "--seeds", "1", "--epochs", "2", "--workers", "1"]
    assert compare.main([*words, "--set", "network.widths=16", *options, "--out", str(out)]) == 0
    return out


def test_raw_features_through_the_file_give_the_records_accuracy(tmp_path: Path, capsys) -> None:
    folder, file = study(tmp_path / "study", "breast-cancer"), tmp_path / "m.bnn"
    assert deploy.main(["--from", str(folder), "--to", str(file), "--rounds", "0"]) == 0
    assert "inputs are standardised features" in capsys.readouterr().out
    network, test = load(file), problems.load("breast-cancer", None).test
    source = load_breast_cancer()
    raw, labels = source.data[test.indices.numpy()], source.target[test.indices.numpy()]
    x = network.standardised(raw)
    assert (x == test.inputs.numpy()).all()
    accuracy = (network.classes(x) == labels).mean()
    assert accuracy == pytest.approx(network.form.facts["test_accuracy"])
    np.save(tmp_path / "raw.npy", raw)
    assert run_file([str(file), "--classes", str(tmp_path / "raw.npy"), "--raw"]) == 0
    assert capsys.readouterr().out.split() == [str(c) for c in network.classes(x)]


def test_a_file_cannot_choose_the_weaker_claim(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = study(tmp_path / "study", "digits", "--set", "network.activation=sign")

    def modest(network: PackedNetwork) -> PackedNetwork:
        facts = {**network.form.facts, "exact": False, "inexact_because": ["it says so"]}
        return PackedNetwork(dataclasses.replace(network.form, facts=facts))

    from studies.deploying import session

    monkeypatch.setattr(session, "load", lambda path: modest(load(path)))
    words = ["--from", str(folder), "--to", str(tmp_path / "m.bnn"), "--rounds", "0"]
    assert deploy.main(words) == parity.ParityFailed.code
    assert "make an exact network, but the file claims" in capsys.readouterr().err
    assert not (tmp_path / "m.bnn").exists()


def test_what_a_file_says_cannot_steer_a_terminal(tmp_path: Path, capsys) -> None:
    folder, file = study(tmp_path / "study", "digits"), tmp_path / "m.bnn"
    assert deploy.main(["--from", str(folder), "--to", str(file), "--rounds", "0"]) == 0
    form = load(file).form
    PackedNetwork(Form(form.networks, {**form.facts, "note": "\x1b[2J\nforged: yes"})).save(file)
    capsys.readouterr()
    assert run_file([str(file)]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told and "\nforged" not in told and "\\u001b[2J\\nforged" in told
