"""From a cell to a proven file: the whole command on small cells, what it refuses, and that its proof can fail."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import methods
from core import architectures, problems
from core.deploy import PackedNetwork, info, load, native
from core.deploy.export import export
from core.deploy.operations import Affine, Threshold
from core.deploy.packing import pack
from core.deploy.sums import F32BinLinear, IntLinear
from core.problems import TestSet
from studies import deploy
from studies.deploying import backends, parity, session
from studies.deploying.bench import command
from studies.deploying.cell import restore
from studies.deploying.choice import Asked, choose
from studies.runner.cells import Cell
from studies.runner.config import Plan
from studies.runner.records import Store, checksum
from studies.runner.session import carry_out

DIGITS = problems.load("digits", None).test.inputs.numpy()
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["pandas"] = None  # an import of either fails
import numpy as np
from core.deploy import PackedNetwork, info, load, native
network = load(sys.argv[1])
x = np.load(sys.argv[2])
np.savez(sys.argv[3], logits=network.run(x), classes=network.classes(x))
"""


def cell(method, seed, network="mlp", epochs=2, track_best=False, **changed):
    """A small cell on digits; `changed` are options of its network."""
    small = {"mlp": {"widths": (33, 20)}, "lenet": {"channels": (6, 9), "units": 33}}[network]
    options = {**architectures.defaults(network), **small, **changed}
    hyperparameters = {name: p.default for name, p in methods.signature(method).items()}
    named = {"name": network, **options}
    training = {"budget": {"epochs": epochs}, "batch": 50, "schedule": "cosine", "track_best": track_best}
    return Cell("compare", "digits", method, seed, named, hyperparameters, **training)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of finished cells: ste with signs (two seeds) and with relu, others, one with its best epoch kept."""
    out = tmp_path_factory.mktemp("cells")
    cells = (
        cell("ste", 3, activation="sign"),
        cell("ste", 1, activation="sign"),
        cell("ste", 1, activation="relu"),
        cell("gaussian-vi", 0, activation="sign"),
        cell("full-precision", 0, activation="relu"),
        cell("bop", 0, "lenet", activation="sign"),
        cell("bop", 0, epochs=4, track_best=True, activation="sign"),
    )
    carry_out(Plan(cells, out, None, "serial", 1), reuse_stale=False, keep_states=True, require_all=True)
    return out


@pytest.fixture
def folder(trained, tmp_path):
    """The same folder, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "cells"))


def words(folder, to, *more, method="ste", sign=True, rounds="0"):
    activation = ["--where", f"network.activation={'sign' if sign else 'relu'}"]
    chosen = ["--method", method, *activation] if method else activation
    return ["--from", str(folder), *chosen, "--problem", "digits", "--to", str(to), "--rounds", rounds, *more]


def restored(folder, **asked):
    """The trained network in torch."""
    store = Store(folder)
    choice = choose(store.read_all(), Asked(folder, "digits", **asked), lambda record: 0.0)
    return restore(store, choice, None)


def torch_scores(folder, **asked):
    """Its logits on the test inputs."""
    found = restored(folder, **asked)
    return found.scores(found.built.problem.test.inputs).numpy()


def without_torch(file, tmp_path):
    """Logits and classes of the test inputs, by a process in which torch cannot be imported."""
    np.save(tmp_path / "x.npy", DIGITS)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(file), str(tmp_path / "x.npy"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=120)
    return np.load(tmp_path / "out.npz")


def record_of(folder, **fields):
    """The first record with these fields, and its path."""
    for record in Store(folder).read_all():
        config = record["config"]
        if all(record.get(name, config["network"].get(name)) == value for name, value in fields.items()):
            return record, folder / "records" / f"{record['key']}.json"
    raise LookupError(fields)


def rewrite(path, record):
    """A record with other fields, its checksum put right."""
    path.write_text(json.dumps({**record, "checksum": checksum(record)}))


@pytest.mark.parametrize(
    "method, prediction, networks",
    [
        ("ste", "mode", 1),
        ("gaussian-vi", "mode", 1),
        ("gaussian-vi", "ensemble(10)", 10),
        ("gaussian-vi", "ternary", 1),
    ],
)
def test_exact_network_without_torch_gives_the_bits_of_torch(trained, tmp_path, capsys, method, prediction, networks):
    file = tmp_path / "model.bnn"
    assert deploy.main([*words(trained, file, "--prediction", prediction, method=method), "--debug"]) == 0
    said = capsys.readouterr().out
    assert "exact: " in said and f" sums of {3 * networks} layers" in said and "identical" in said
    assert f"all {len(DIGITS)} test inputs" in said
    found = without_torch(file, tmp_path)
    want = torch_scores(trained, method=method, prediction=prediction, where=("network.activation=sign",))
    assert np.array_equal(found["logits"].view(np.uint32), want.view(np.uint32))
    assert np.array_equal(found["classes"], want.argmax(1))
    assert len(load(file).form.networks) == networks


def test_real_activations_without_torch_give_the_predictions_of_torch(trained, tmp_path, capsys):
    file = tmp_path / "model.bnn"
    assert deploy.main([*words(trained, file, sign=False), "--debug"]) == 0
    said = capsys.readouterr().out
    assert "equal predictions, not equal bits: activations are real" in said and "logits within" in said
    pixels = f"{33 * len(DIGITS):,}"  # the first layer sums integers, whatever comes after
    assert f"; {pixels} of {pixels} integer sums of 1 layer identical" in said
    want = torch_scores(trained, method="ste", where=("network.activation=relu",))
    assert np.array_equal(without_torch(file, tmp_path)["classes"], want.argmax(1))


def test_convolutions_are_proven_layer_by_layer(trained, tmp_path, capsys):
    file = tmp_path / "model.bnn"
    assert deploy.main([*words(trained, file, "--where", "network.name=lenet", method="bop"), "--debug"]) == 0
    sums = len(DIGITS) * (6 * 8 * 8 + 9 * 4 * 4 + 33 + 10)
    signs = len(DIGITS) * (6 * 4 * 4 + 9 * 2 * 2 + 33)  # after pooling
    assert f"{sums:,} sums of 4 layers, {signs:,} signs and" in capsys.readouterr().out


def test_best_epoch_is_deployed_where_it_was_kept(trained, tmp_path):
    where = ("network.name=mlp",)
    for name in ("mode", "mode @ best validation"):
        file = tmp_path / "model.bnn"
        more = ["--where", "network.name=mlp", "--prediction", name]
        assert deploy.main([*words(trained, file, *more, method="bop"), "--debug"]) == 0
        want = torch_scores(trained, method="bop", where=where, prediction=name)
        assert np.array_equal(load(file).run(DIGITS, backend="numpy").view(np.uint32), want.view(np.uint32))
        assert load(file).form.facts["prediction"] == name


def test_file_says_where_it_comes_from_and_the_data_what_was_measured(trained, tmp_path, capsys):
    file, data = tmp_path / "model.bnn", tmp_path / "deployed.json"
    assert deploy.main([*words(trained, file, "--json", str(data), "--debug", rounds="2")]) == 0
    record, _ = record_of(trained, method="ste", seed=1, activation="sign")
    facts, written = load(file).form.facts, json.loads(data.read_text())
    assert facts["cell"]["key"] == record["key"] and facts["exact"] is True
    assert facts["classes"] == [str(n) for n in range(10)]
    assert facts["test_accuracy"] == record["predictions"][0]["metrics"]["test"]["accuracy"]
    assert written["file"] == {
        "name": "model.bnn",
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    assert all(proof["examples"] == len(DIGITS) and proof["sums"] == len(DIGITS) * 63 for proof in written["parity"])
    weights = 64 * 33 + 33 * 20 + 20 * 10
    assert written["size"]["binary"] == weights and written["size"]["real"] == 0
    assert written["size"]["float32"] == 4 * (weights + 63)  # and a bias each, batch norm folded
    command = written["manifest"]["command"]
    assert command.startswith("python -m studies.deploy --from") and str(tmp_path) not in data.read_text()
    assert "--to model.bnn" in command
    names = [proof["backend"] for proof in written["parity"]]
    native_ones = [f"native ({level})" for level in native.levels()] if info().backend == "native" else []
    assert sorted(names) == sorted([*native_ones, "numpy"])
    steps = {step["step"] for step in written["steps"]}
    assert steps <= set(load(file).trace(DIGITS[:1], backend="numpy")) and (bool(steps) == bool(native_ones))
    assert {rate["name"] for rate in written["rates"]} > set(names) and names == written["backends"]
    assert all(rate["images_per_second"] > 0 for rate in written["rates"])
    said = capsys.readouterr().out
    assert "images/s, batch 256" in said and "no test label was read" in said


def test_slow_backend_is_held_to_the_inputs_it_gets_through(trained, tmp_path, monkeypatch):
    file = tmp_path / "model.bnn"
    assert deploy.main([*words(trained, file), "--debug"]) == 0
    found, network = restored(trained, method="ste", where=("network.activation=sign",)), load(file)
    first = backends.at_hand(network)[0]
    monkeypatch.setattr(parity, "LONGEST", 0.0)
    monkeypatch.setattr(parity, "LARGEST_BATCH", 100)
    hands = [first, replace(first, name="slow")]
    quick, slow = parity.prove(found, network, hands, found.built.problem.test.inputs)
    assert (quick.examples, slow.examples) == (len(DIGITS), 100)
    assert quick.sums == len(DIGITS) * 63 and slow.sums == 100 * 63
    assert str(slow).startswith("slow: 6,300 sums of 3 layers") and f"the first 100 of {len(DIGITS)}" in str(slow)


def test_test_labels_stay_sealed(trained, tmp_path, monkeypatch):
    def read(self, scores, measure):
        raise AssertionError("the test labels were asked for")

    monkeypatch.setattr(TestSet, "score", read)
    assert deploy.main([*words(trained, tmp_path / "model.bnn"), "--debug"]) == 0


def test_best_is_the_best_on_validation_and_never_of_real_weights(trained, tmp_path, capsys):
    finished = [r for r in Store(trained).read_all() if r["predictions"][0]["weight_bits"] == 1]
    best = max(finished, key=lambda r: r["predictions"][0]["metrics"]["validation"]["accuracy"])
    file = tmp_path / "model.bnn"
    command = ["--from", str(trained), "--problem", "digits", "--best", "--to", str(file), "--rounds", "0"]
    assert deploy.main([*command, "--debug"]) == 0
    chosen = load(file).form.facts["cell"]
    assert chosen["key"] == best["key"]
    assert f"the best on validation of {len(finished)} cells" in capsys.readouterr().out


def test_lowest_seed_is_taken_unless_one_is_named(trained, tmp_path):
    for more, seed in ([], 1), (["--seed", "3"], 3):
        file = tmp_path / f"{seed}.bnn"
        assert deploy.main([*words(trained, file, *more), "--debug"]) == 0
        assert load(file).form.facts["cell"]["seed"] == seed


def test_limit_of_test_inputs_is_said(trained, tmp_path, capsys):
    assert deploy.main([*words(trained, tmp_path / "model.bnn", "--test-limit", "17"), "--debug"]) == 0
    said = capsys.readouterr().out
    assert f"the first 17 of {len(DIGITS)} test inputs alone" in said and "no test label" not in said


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda o: replace(o, at=o.at + np.eye(1, len(o.at), 4, dtype=np.int32)[0] * 2), "layer 'layers.2'"),
        (lambda o: replace(o, flip=o.flip ^ pack(np.where(np.arange(33) == 4, 1, -1))), "layer 'layers.2'"),
    ],
    ids=["threshold", "flip"],
)
def test_changed_threshold_is_caught_and_no_file_is_left(trained, tmp_path, monkeypatch, capsys, change, named):
    monkeypatch.setattr(session, "export", damaging(Threshold, change))
    file = tmp_path / "model.bnn"
    assert deploy.main(words(trained, file)) == 1
    told = capsys.readouterr().err
    assert "parity failed" in told and named in told and "test input" in told and "in torch" in told
    assert list(tmp_path.iterdir()) == []


def test_logits_off_by_a_last_bit_are_caught_and_an_older_file_stays(trained, tmp_path, monkeypatch, capsys):
    def nudged(affine):
        return replace(affine, bias=np.nextafter(affine.bias, np.float32(np.inf)))

    monkeypatch.setattr(session, "export", damaging(Affine, nudged))
    file = tmp_path / "model.bnn"
    file.write_bytes(b"older")
    assert deploy.main(words(trained, file)) == 1
    assert "logits" in capsys.readouterr().err
    assert file.read_bytes() == b"older" and list(tmp_path.iterdir()) == [file]


def test_other_predictions_of_real_activations_are_caught(trained, tmp_path, monkeypatch, capsys):
    def swapped(affine):
        return replace(affine, bias=affine.bias[::-1] + np.float32(3))

    monkeypatch.setattr(session, "export", damaging(Affine, swapped, last=True))
    assert deploy.main(words(trained, tmp_path / "model.bnn", sign=False)) == 1
    told = capsys.readouterr().err
    assert "prediction" in told and "two largest logits" in told
    assert list(tmp_path.iterdir()) == []


def one_bit(layer):
    """Its weight of input 20 the other sign: the corner pixels of digits are always 0."""
    return replace(
        layer,
        weights=layer.weights ^ (np.eye(1, layer.weights.size, dtype=np.uint32) << 20).reshape(layer.weights.shape),
    )


@pytest.mark.parametrize(
    "kind, change, named",
    [
        (F32BinLinear, one_bit, "layer 'layers.4'"),
        (IntLinear, one_bit, "layer 'layers.0'"),
        (Affine, lambda o: replace(o, scale=o.scale * np.float32(1.005)), "layer 'layers.4'"),
    ],
    ids=["one weight", "one first weight", "scale"],
)
def test_what_rounding_does_not_explain_is_caught(trained, tmp_path, monkeypatch, capsys, kind, change, named):
    monkeypatch.setattr(session, "export", damaging(kind, change))
    assert deploy.main(words(trained, tmp_path / "model.bnn", sign=False)) == 1
    assert named in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_rounding_may_turn_signs_of_some_examples_but_no_channel_in_most():
    want = np.random.default_rng(0).choice([-1.0, 1.0], (64, 2, 2, 5)).astype(np.float32)
    some, channel, nothing = want.copy(), want.copy(), want.copy()
    some[:20] *= -1
    channel[:, 0, 0, 3] *= -1
    nothing[0, 0, 0, 0] = np.nan
    assert parity._beyond(some, want, False) is None
    assert np.array_equal(parity._beyond(channel, want, False), channel != want)
    assert np.array_equal(parity._beyond(some, want, True), some != want)
    assert parity._beyond(want * np.float32(1 + 1e-5), want, True) is None
    assert parity._beyond(nothing, want, True).sum() == 1


def damaging(kind, change, last=False):
    """`export` whose first (or last) operation of `kind` is changed."""

    def damaged(*given, **named):
        network = export(*given, **named)
        graph = network.form.networks[0]
        places = [i for i, node in enumerate(graph.nodes) if isinstance(node.operation, kind)]
        place = places[-1 if last else 0]
        nodes = list(graph.nodes)
        nodes[place] = replace(nodes[place], operation=change(nodes[place].operation))
        form = replace(network.form, networks=(replace(graph, nodes=tuple(nodes)),))
        return type(network)(form)

    return damaged


@pytest.mark.parametrize(
    "more, code, fragments",
    [
        (["--method", "stee"], 2, ["--method stee: no such method on digits", "Did you mean 'ste'?"]),
        (["--method", "ste", "--problem", "digit"], 2, ["--problem digit", "Did you mean 'digits'?"]),
        (["--method", "ste"], 2, ["2 configurations of ste", "network.activation=relu", "--where", "--best"]),
        (["--method", "ste", "--where", "network.activation=tanh"], 2, ["relu or sign there"]),
        (["--method", "ste", "--where", "network.activatoin=sign"], 2, ["Did you mean 'network.activation'?"]),
        (["--method", "ste", "--where", "sign"], 2, ["write SETTING=VALUE"]),
        (["--method", "ste", "--seed", "7"], 2, ["--seed 7", "1, 3"]),
        (["--method", "ste", "--best", "--prediction", "ternary"], 2, ["--prediction ternary", "They have: mode"]),
        (["--method", "full-precision"], 2, ["cannot be exported"]),
        (["--method", "gaussian-vi", "--prediction", "mean"], 2, ["cannot be exported"]),
        (["--method", "bop"], 2, ["network.name=lenet", "network.name=mlp", "track_best=true"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_is_not_there_is_refused_with_what_is(trained, tmp_path, capsys, more, code, fragments):
    command = ["--from", str(trained), "--problem", "digits", "--to", str(tmp_path / "model.bnn"), *more]
    assert deploy.main(command) == code
    told = capsys.readouterr().err
    assert all(fragment in told for fragment in fragments), told
    assert list(tmp_path.iterdir()) == []


def test_folder_without_records_is_told_apart_from_a_study(tmp_path, capsys):
    assert deploy.main(words(tmp_path / "nothing", tmp_path / "model.bnn")) == 2
    assert "no records in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, fragment",
    [
        (["--problem", "digits", "--best"], "--to is needed"),
        (["--seed", "-1"], "whole number"),
        (["--to", "a.bnn", "--device", "cuda", "--quick"], "--quick, --device cuda: of --bench alone"),
        (["--bench", "--to", "a.bnn", "--method", "ste"], "--to, --method: not with --bench, which exports nothing"),
        (["--test-limit", "0"], "or none"),
        (["--metod", "ste"], "Did you mean --method?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_words_end_with_usage(more, fragment, capsys):
    with pytest.raises(SystemExit) as ended:
        deploy.main(more)
    assert ended.value.code == 2
    assert fragment in capsys.readouterr().err


def test_problem_and_method_of_the_only_cell_may_be_left_out(folder, tmp_path, capsys):
    kept, _ = record_of(folder, method="gaussian-vi")
    for record in Store(folder).read_all():
        path = folder / "records" / f"{record['key']}.json"
        if record["method"] == "ste":
            rewrite(path, {**record, "status": "failed", "predictions": []})  # is not there to be deployed
        elif record["key"] != kept["key"]:
            path.unlink()
    file = tmp_path / "model.bnn"
    assert deploy.main(["--from", str(folder), "--to", str(file), "--rounds", "0", "--debug"]) == 0
    assert "the only one there: --problem digits, --method gaussian-vi\n" in capsys.readouterr().out
    assert load(file).form.facts["cell"]["key"] == kept["key"]


def test_all_that_is_missing_is_told_at_once_with_the_choices(trained, tmp_path, capsys):
    lines = "needed; finished in {}:\n  digits: bop, full-precision, gaussian-vi, ste\nor --best"
    assert deploy.main(["--from", str(trained), "--to", str(tmp_path / "model.bnn")]) == 2
    assert "--method is " + lines.format(trained) in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        deploy.main(["--from", str(trained)])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "--to is needed" in told and "--method is " + lines.format(trained) in told


def test_unknown_cpu_level_is_bad_input(trained, tmp_path, monkeypatch, capsys):
    if info().backend != "native":
        pytest.skip("the native extension is not built here")
    monkeypatch.setenv("BITRELAX_CPU_LEVEL", "sse")
    assert deploy.main(words(trained, tmp_path / "model.bnn")) == 2
    told = capsys.readouterr().err
    assert "sse" in told and "defect" not in told


def test_failed_cell_is_refused_with_its_reason(folder, tmp_path, capsys):
    record, path = record_of(folder, method="gaussian-vi")
    rewrite(path, {**record, "status": "diverged", "reason": "loss is nan at step 7", "predictions": []})
    assert deploy.main(words(folder, tmp_path / "model.bnn", method="gaussian-vi")) == 2
    assert "seed 0  diverged: loss is nan at step 7" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["no state", "gone", "damaged"])
def test_state_that_cannot_be_read_is_a_storage_error(folder, tmp_path, capsys, fault):
    record, path = record_of(folder, method="gaussian-vi")
    state = folder / record["states"]["file"]
    if fault == "no state":
        rewrite(path, {**record, "states": None})
    elif fault == "gone":
        state.unlink()
    else:
        packed = bytearray(state.read_bytes())
        packed[len(packed) // 2] ^= 1
        state.write_bytes(packed)
    assert deploy.main(words(folder, tmp_path / "model.bnn", method="gaussian-vi")) == 4
    told = capsys.readouterr().err
    fragment = {"no state": "without --no-states", "gone": "cannot read", "damaged": "is damaged"}[fault]
    assert fragment in told and "defect" not in told


def test_state_of_another_architecture_is_refused(folder, tmp_path, capsys):
    record, path = record_of(folder, method="gaussian-vi")
    wider = {**record["config"], "network": {**record["config"]["network"], "widths": [40, 20]}}
    rewrite(path, {**record, "config": wider})
    assert deploy.main(words(folder, tmp_path / "model.bnn", method="gaussian-vi")) == 2
    told = capsys.readouterr().err
    assert "does not fit the network" in told and "Run its cell again (digits / gaussian-vi / seed 0)" in told


def test_network_that_is_not_the_recorded_one_is_refused(folder, tmp_path, capsys):
    record, path = record_of(folder, method="ste", seed=1, activation="sign")
    other, _ = record_of(folder, method="ste", seed=3)
    rewrite(path, {**record, "states": other["states"]})
    assert deploy.main(words(folder, tmp_path / "model.bnn")) == 2
    told = capsys.readouterr().err
    assert "is not the recorded one" in told and "validation nll" in told
    assert not (tmp_path / "model.bnn").exists()


def test_damaged_record_is_set_aside_and_told(folder, tmp_path, capsys):
    _, path = record_of(folder, method="bop")
    path.write_text(path.read_text()[:-40])
    assert deploy.main([*words(folder, tmp_path / "model.bnn"), "--debug"]) == 0
    assert "1 damaged record set aside" in capsys.readouterr().out


def test_other_data_are_refused(folder, tmp_path, capsys):
    record, path = record_of(folder, method="gaussian-vi")
    data = dict.fromkeys(record["provenance"]["data"], "0" * 64)
    rewrite(path, {**record, "provenance": {**record["provenance"], "data": data}})
    assert deploy.main(words(folder, tmp_path / "model.bnn", method="gaussian-vi")) == 2
    assert "the data are not those of the record" in capsys.readouterr().err


def test_older_sources_are_told_where_the_network_is_the_same(folder, tmp_path, capsys):
    record, path = record_of(folder, method="gaussian-vi")
    rewrite(path, {**record, "provenance": {**record["provenance"], "core_source": "0" * 64}})
    assert deploy.main([*words(folder, tmp_path / "model.bnn", method="gaussian-vi"), "--debug"]) == 0
    assert "sources changed since the record (core/ changed)" in capsys.readouterr().out


def test_place_that_cannot_be_written_is_a_storage_error(trained, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for to, fragment in (tmp_path / "none" / "m.bnn", "make it first"), (tmp_path / "folder", "is a folder"):
        assert deploy.main(words(trained, to)) == 4
        assert fragment in capsys.readouterr().err
        assert deploy.main(words(trained, tmp_path / "model.bnn", "--json", str(to))) == 4
        assert f"--json {to}" in capsys.readouterr().err
    assert not (tmp_path / "model.bnn").exists()


def test_place_that_refuses_is_a_storage_error(trained, tmp_path, monkeypatch, capsys):
    def full(network, path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it: of no file

    with monkeypatch.context() as patched:
        patched.setattr(PackedNetwork, "save", full)
        assert deploy.main(words(trained, tmp_path / "model.bnn")) == 4
    assert capsys.readouterr().err == f"cannot write {tmp_path / 'model.bnn'}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []
    write = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda p, *a, **k: full(0, p) if p.name == "d.json" else write(p, *a, **k))
    assert deploy.main(words(trained, tmp_path / "model.bnn", "--json", str(tmp_path / "d.json"))) == 4
    assert f"cannot write {tmp_path / 'd.json'}: No space" in capsys.readouterr().err


def test_data_do_not_replace_the_network(trained, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    to, same = tmp_path / "model.bnn", tmp_path / "x" / ".." / "model.bnn"
    assert deploy.main(words(trained, to, "--json", str(same))) == 4
    assert "is the file of --to" in capsys.readouterr().err and not to.exists()


def test_interrupt_leaves_no_file(trained, tmp_path, monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "prove", interrupted)
    assert deploy.main(words(trained, tmp_path / "model.bnn")) == 130
    assert capsys.readouterr().err == "interrupted\n" and list(tmp_path.iterdir()) == []


def test_bench_is_given_its_options(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(command, "run", lambda *given: asked.append(given) or 3)
    out, data = tmp_path / "out", tmp_path / "goals.json"
    options = ["--out", str(out), "--json", str(data), "--device", "cuda", "--quick", "--peer-python", "python3"]
    assert deploy.main(["--bench", *options]) == 3
    assert deploy.main(["--bench"]) == 3
    assert deploy.main(["--bench", "--quick"]) == 3
    assert asked[0] == (out, data, "cuda", True, "python3")
    assert asked[1:] == [  # a quick run leaves the record alone
        (Path("results/deploy"), None, "cpu", False, None),
        (Path("results/deploy-quick"), None, "cpu", True, None),
    ]


def test_help_is_instant():
    code = "import sys, studies.deploy; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60).returncode == 0


def test_file_is_told_and_run_without_torch(trained, tmp_path):
    file = tmp_path / "model.bnn"
    assert deploy.main([*words(trained, file), "--debug"]) == 0
    np.save(tmp_path / "x.npy", DIGITS[:9])
    blocked = (
        f"import sys; sys.modules['torch'] = None; from core.deploy.__main__ import main; sys.exit(main({[str(file)]}"
    )

    def run(*more):
        command = [sys.executable, "-c", f"{blocked} + {list(more)!r}))"]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)

    told = run()
    assert told.returncode == 0, told.stderr
    assert "BinLinear" in told.stdout and f"{file.stat().st_size:,} bytes" in told.stdout
    found = run("--classes", str(tmp_path / "x.npy"))
    want = torch_scores(trained, method="ste", where=("network.activation=sign",))[:9].argmax(1)
    assert found.stdout.split() == [str(c) for c in want]
    np.save(tmp_path / "x.npy", DIGITS[:9].astype(np.float64))
    refused = run("--classes", str(tmp_path / "x.npy"))
    assert refused.returncode == 2 and "uint8" in refused.stderr and "Traceback" not in refused.stderr
    file.write_bytes(file.read_bytes()[:-1])
    refused = run()
    assert refused.returncode == 2 and refused.stderr and "Traceback" not in refused.stderr
