"""One cell: what its record says is true of the state it keeps, of the run it describes, and of nothing else."""

import json

import pytest
import torch

import methods
from core import architectures, metrics, problems, seeds
from core.claims import laws
from core.fit import Run, fit
from core.interface import Budget
from core.predict import logits, predict
from core.statistics import Statistics
from studies.runner.audit import AuditError, one_bit_inputs
from studies.runner.measure import measure


def _rebuilt(cell, state):
    """The cell's network and method, with the parameters of `state`."""
    method, problem = methods.make(cell.method, **cell.hyperparameters), problems.load(cell.problem, None)
    options = {name: value for name, value in cell.network.items() if name != "name"}
    rng = torch.Generator().manual_seed(0)
    model = architectures.build("mlp", problem.form, problem.classes, method.law, rng, **options)
    model.load_state_dict(state["model"])
    return model, method, problem


def test_a_finished_cell_has_every_field_and_no_nan(cell):
    body, _ = measure(cell("bayesbinn", epochs=3), None)
    json.dumps(body, allow_nan=False)
    assert (body["status"], body["reason"]) == ("finished", None)
    declared = {"weight_bits": 1, "activation_bits": 32, "teacher": False, "normalisation": "batch", "draws": 1}
    network = {"activation": "relu", "activation_bits": 32, "binary": 512, "real": 0, "one_bit_inputs": []}
    assert body["declared"] == {**declared, "network": network}
    n = body["spent"]["n_train"]
    assert body["spent"] == {"steps": 3 * (n // 32), "passes": 3 * (n // 32), "batch": 32, "n_train": n}
    assert [p["prediction"] for p in body["predictions"]] == ["mode", "mean", "ensemble(10)"]
    assert [(p["networks"], p["weight_bits"]) for p in body["predictions"]] == [(1, 1), (1, 32), (10, 1)]
    assert body["weights"]["binary"] == 30 * 16 + 16 * 2
    assert [point["epoch"] for point in body["curve"]] == [1, 2, 3]
    assert body["test_reads"][0]["rules"] == ["mode", "mean", "ensemble(10)"] and len(body["test_reads"]) == 1
    assert 0 < body["seconds"]["train"] < body["seconds"]["total"]
    assert body["machine"]["threads"] == 1 and body["peak_memory_mb"] > 10


def test_a_budget_in_steps_is_that_many_steps(cell):
    chosen = cell()
    body, _ = measure(type(chosen)(**{**chosen.config(), "budget": {"steps": 7}}), None)
    assert body["spent"]["steps"] == 7


@pytest.mark.parametrize("method", methods.LISTED_FIRST)
def test_the_same_cell_twice_gives_the_same_numbers(cell, numbers, method):
    (first, state), (second, again) = measure(cell(method), None), measure(cell(method), None)
    for body in (first, second):
        body["checksum"] = None
    assert numbers(first) == numbers(second)
    assert all(torch.equal(state["model"][name], value) for name, value in again["model"].items())


def test_another_seed_gives_other_numbers(cell):
    (first, _), (second, _) = measure(cell(seed=0), None), measure(cell(seed=1), None)
    assert [point["train_loss"] for point in first["curve"]] != [point["train_loss"] for point in second["curve"]]


@pytest.mark.parametrize("method", methods.LISTED_FIRST)
def test_the_kept_state_predicts_what_the_record_says(cell, method):
    body, state = measure(cell(method), None)
    model, made, problem = _rebuilt(cell(method), state)
    (reading,) = made.predictors[0].readings(model, torch.Generator())
    (kept,) = state["statistics"]["mode"]
    mode = body["predictions"][0]

    def scored(name, scores, labels):
        tempered = metrics.scores_at(scores, mode["temperature"])
        return {**metrics.summary(tempered, labels), "nll_untempered": metrics.nll(scores, labels)}

    scores = logits(model, reading, Statistics.from_state(kept), problem.test.inputs, torch.Generator())
    assert problem.test.score({"mode": scores}, scored)["mode"] == mode["metrics"]["test"]


def test_the_output_temperature_is_the_one_fitted_on_validation_scores(cell):
    body, state = measure(cell("ste"), None)
    model, made, problem = _rebuilt(cell("ste"), state)
    (reading,) = made.predictors[0].readings(model, torch.Generator())
    (kept,) = state["statistics"]["mode"]
    sets = (problem.validation.inputs, problem.test.inputs)
    scores = [logits(model, reading, Statistics.from_state(kept), x, torch.Generator()) for x in sets]
    recorded = body["predictions"][0]["temperature"]
    assert recorded == metrics.fit_temperature(scores[0], problem.validation.labels)
    on_test = problem.test.score({"mode": scores[1]}, lambda rule, s, y: {"temperature": metrics.fit_temperature(s, y)})
    assert recorded != on_test["mode"]["temperature"]


def test_every_network_of_a_rule_keeps_its_statistics(cell):
    _, state = measure(cell("bayesbinn"), None)
    assert {rule: len(kept) for rule, kept in state["statistics"].items()} == {"mode": 1, "mean": 1, "ensemble(10)": 10}


@pytest.mark.parametrize("flush", [True, False])
def test_the_process_keeps_its_own_threads_and_denormals(cell, flush):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_flush_denormal(flush)
    try:
        measure(cell(epochs=1), None)
        assert torch.get_num_threads() == 2
        assert ((torch.tensor(1e-40) * 1).item() == 0) is flush
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def test_watching_changes_no_training(cell):
    chosen = cell("bayesbinn")
    _, state = measure(chosen, None)
    method, problem = methods.make("bayesbinn"), problems.load(chosen.problem, None)
    options = {name: value for name, value in chosen.network.items() if name != "name"}

    def rng(purpose):
        return seeds.generator("test", purpose, chosen.problem, 0)

    init = rng("initialisation")
    model = architectures.build("mlp", problem.form, problem.classes, method.law, init, **options)
    n = len(problem.train)
    run = Run(
        model,
        method,
        problem.train.inputs,
        problem.train.labels,
        Budget(n, 32, 2 * (n // 32)),
        schedule="cosine",
        order=rng("data order"),
        noise=rng("noise"),
    )
    fit(run)
    assert all(torch.equal(state["model"][name], value) for name, value in model.state_dict().items())


def test_methods_of_one_seed_start_from_the_same_signs(cell):
    """With steps of length (almost) zero, the modes at the end are those at the start."""
    still = {"ste": {"lr": 1e-12}, "bop": {"adaptivity": 0.0}, "bayesbinn": {"lr": 1e-12}}
    modes = []
    for name, hyperparameters in still.items():
        _, state = measure(cell(name, **hyperparameters), None)
        model, *_ = _rebuilt(cell(name), state)
        modes.append([law.mode() for _, law in laws(model)])
    for other in modes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(modes[0], other, strict=True))


def test_a_real_last_layer_is_no_breach_of_one_bit(cell):
    chosen = cell()
    config = {**chosen.config(), "network": {**chosen.network, "last": "real"}}
    body, _ = measure(type(chosen)(**config), None)
    assert (body["status"], body["weights"]["real"]) == ("finished", 16 * 2)


def test_binary_activations_are_declared_and_audited(cell):
    chosen = cell("ste")
    body, _ = measure(type(chosen)(**{**chosen.config(), "network": {**chosen.network, "activation": "sign"}}), None)
    assert (body["status"], body["declared"]["activation_bits"]) == ("finished", 1)
    assert body["predictions"][0]["activation_bits"] == 1


def test_layers_behind_signs_declare_one_bit_inputs_and_hooks_hold_them_to_it(cell):
    chosen = cell("ste", epochs=1)
    options = {**chosen.network, "widths": [8, 8], "activation": "sign"}
    body, _ = measure(type(chosen)(**{**chosen.config(), "network": options}), None)
    assert body["declared"]["network"]["one_bit_inputs"] == ["layers.4", "layers.8"]


def test_a_one_bit_input_that_is_not_one_fails_the_audit_with_rule_and_layer():
    method = methods.make("ste")
    form = architectures.InputForm(6)
    net = architectures.build("mlp", form, 2, method.law, torch.Generator(), widths=(4,), activation="sign")
    net.layers[2].function = "hardtanh"  # a network whose declared W1A1 is violated
    with pytest.raises(AuditError, match=r"rule 'mode', layer 'layers.4': the network declares 1-bit inputs"):
        with one_bit_inputs(net, method.predictors[0]):
            predict(net, method.predictors[0], torch.randn(20, 6), (torch.randn(5, 6),), torch.Generator())
    assert not any(module._forward_pre_hooks for module in net.modules())


def residual(cell, method, **options):
    chosen = cell(method, problem="digits", epochs=1)
    network = {"name": "resnet18", "channels": [4, 8], "activation": "sign", **options}
    config = {**chosen.config(), "network": {**architectures.defaults("resnet18"), **network}}
    return measure(type(chosen)(**config), None)[0]


def test_propagation_through_a_residual_network_is_refused_with_the_two_ways_on(cell):
    body = residual(cell, "blrnet-propagate")
    assert body["status"] == "failed"
    assert "network.assume_independent=true" in body["reason"] and "sample with blrnet" in body["reason"]


def test_an_assumed_independence_has_its_error_against_monte_carlo_on_record(cell):
    body = residual(cell, "blrnet-propagate", assume_independent=True)
    assert body["status"] == "finished"
    error = body["propagation_error"]
    assert (error["draws"], error["examples"]) == (128, 256)
    # beyond chance: branches of one signal, and positions that share weights; yet of the order of the truth
    assert 1.3 * error["noise"] < error["mean"] < 1 and 0.05 < error["variance"] < 20


def test_sampling_through_a_residual_network_assumes_nothing_and_records_no_error(cell):
    body = residual(cell, "blrnet")
    assert body["status"] == "finished" and "propagation_error" not in body


def test_real_weights_under_a_one_bit_rule_fail_the_audit(plugin, cell):
    body, state = measure(cell("boasting"), None)
    assert body["status"] == "failed"
    assert body["reason"] == "AuditError: rule 'mode' declares 1-bit weights, but its Real law is real; declare 32"
    assert body["predictions"] == [] and body["test_reads"] == [] and state == {}


def test_an_exception_is_one_line_and_a_traceback(plugin, cell):
    body, state = measure(cell("raising"), None)
    assert (body["status"], body["reason"]) == ("failed", "RuntimeError: out of luck")
    assert "in prepare" in body["traceback"] and state == {}
    assert body["declared"]["weight_bits"] == 1


def test_a_loss_that_is_nan_ends_the_cell_as_diverged_with_its_curve_so_far(plugin, cell):
    body, state = measure(cell("diverging", epochs=4), None)
    n = body["spent"]["n_train"]
    first_bad = 2 * (n // 32) + 1
    assert (body["status"], state) == ("diverged", {})
    assert body["reason"] == f"loss not finite at step {first_bad}; last finite loss 0.25"
    assert [point["epoch"] for point in body["curve"]] == [1, 2]
    assert body["predictions"] == [] and body["test_reads"] == []


def test_a_learning_rate_beyond_reason_is_a_row_and_not_a_number(cell):
    body, _ = measure(cell("full-precision", lr=1e38), None)
    assert body["status"] == "diverged"
    assert body["predictions"] == []
    json.dumps(body, allow_nan=False)


def test_a_problem_that_does_not_fit_is_skipped_with_the_reason(plugin, cell):
    body, _ = measure(cell("choosy"), None)
    assert (body["status"], body["reason"]) == ("skipped", "needs 1000 classes, not 2")


def test_missing_data_make_a_cell_unavailable(cell, tmp_path):
    body, _ = measure(cell(problem="mnist"), tmp_path)
    assert body["status"] == "unavailable"
    assert "mnist" in body["reason"] and "\n" not in body["reason"]


def test_a_real_network_has_no_share_of_decided_weights(cell):
    body, _ = measure(cell("full-precision"), None)
    assert body["weights"] == {"decided": None, "binary": 0, "real": 30 * 16 + 16 * 2}
    assert all(point["flip_rate"] is None for point in body["curve"])
