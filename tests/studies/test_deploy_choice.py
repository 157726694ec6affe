"""Which record is deployed, on records made up for it; plain torch layers against evaluation; medians of calls."""

import itertools

import pytest
import torch

from core import architectures
from core.architectures import InputForm
from core.claims import laws
from core.laws import Point, initial_uniform
from core.ops import ClippedStraightThrough
from core.predict import logits, mode, reestimate
from core.readings import SignActivation
from studies.deploying import report, timing
from studies.deploying.choice import Asked, Unusable, choose, settings
from studies.deploying.plain import parameters, plain

FOLDER = "results"


def record(seed, validation, *, method="ste", activation="sign", lr=0.001, bits=1, test=0.5, status="finished"):
    """A record as far as a choice looks at it."""
    scores = {"validation": {"accuracy": validation, "nll": 1.0}, "test": {"accuracy": test, "nll": 1.0}}
    config = {
        "study": "compare",
        "problem": "digits",
        "method": method,
        "seed": seed,
        "network": {"name": "mlp", "widths": [64, 32], "activation": activation, "affine": False},
        "hyperparameters": {"lr": lr},
        "budget": {"epochs": 5},
        "batch": 50,
        "schedule": "cosine",
        "device": "cpu",
    }
    names = {name: config[name] for name in ("problem", "method", "seed")}
    entry = {"prediction": "mode", "weight_bits": bits, "metrics": scores}
    key = f"{method}-{activation}-{lr}-{seed}-{validation}"
    return {**names, "key": key, "config": config, "status": status, "reason": "why", "predictions": [entry]}


def chosen(records, *where, written=lambda record: 0.0, **asked):
    return choose(records, Asked(FOLDER, "digits", where=where, **asked), written).record


def test_best_is_invariant_to_test_scores():
    accuracies = (0.91, 0.93, 0.92)
    for tests in itertools.permutations((0.1, 0.5, 0.9)):
        records = [record(s, v, test=t) for s, (v, t) in enumerate(zip(accuracies, tests, strict=True))]
        assert chosen(records, method="ste", best=True)["seed"] == 1


def test_best_of_all_methods_leaves_real_weights_out():
    records = [record(0, 0.99, method="full-precision", bits=32), record(0, 0.9), record(0, 0.8, method="bop")]
    assert chosen(records, best=True)["method"] == "ste"
    assert chosen(records, best=True, method="full-precision")["method"] == "full-precision"
    with pytest.raises(Unusable, match="no network of binary weights among the 1 cell on digits"):
        chosen(records[:1], best=True)


@pytest.mark.parametrize("where", ["ste.lr=0.003", "ste.lr=3e-3", " ste.lr = 0.0030 "])
def test_where_reads_numbers_as_numbers(where):
    records = [record(0, 0.9), record(0, 0.8, lr=0.003)]
    assert chosen(records, where, method="ste")["config"]["hyperparameters"]["lr"] == 0.003


@pytest.mark.parametrize("where", ["network.widths=64,32", "network.widths=64, 32", "network.affine=False", "epochs=5"])
def test_where_reads_lists_and_truth_values_as_the_study_does(where):
    assert chosen([record(0, 0.9)], where, method="ste")["seed"] == 0


def test_several_problems_and_methods_are_listed_where_neither_is_named():
    other = {**record(0, 0.9), "problem": "mnist"}
    records = [record(0, 0.9), record(0, 0.9, method="bop"), other]
    with pytest.raises(Unusable) as refused:
        choose(records, Asked(FOLDER), lambda record: 0.0)
    head, *lines = str(refused.value).splitlines()
    assert head == "--problem and --method are needed; finished in results:"
    assert lines[:2] == ["  digits: bop, ste", "  mnist: ste"]
    with pytest.raises(Unusable, match="^--problem is needed"):
        choose(records, Asked(FOLDER, best=True), lambda record: 0.0)
    with pytest.raises(Unusable, match="^--problem is needed"):
        choose(records, Asked(FOLDER, method="ste"), lambda record: 0.0)


def test_what_alone_is_there_is_taken_and_told():
    records = [record(0, 0.9), record(0, 0.9, method="bop")]
    found = choose(records, Asked(FOLDER, method="bop"), lambda record: 0.0)
    assert found.taken == ("--problem digits",) and found.record["method"] == "bop"
    assert choose(records, Asked(FOLDER, best=True), lambda record: 0.0).taken == ("--problem digits",)
    one = choose(records[:1], Asked(FOLDER), lambda record: 0.0)
    assert one.taken == ("--problem digits", "--method ste")
    assert choose(records, Asked(FOLDER, "digits", "ste"), lambda record: 0.0).taken == ()


def test_every_setting_can_be_asked_for():
    config = record(0, 0.9)["config"]
    for name, value in settings(config).items():
        assert chosen([record(0, 0.9)], f"{name}={value}", method="ste")["seed"] == 0


def test_configurations_are_listed_by_what_tells_them_apart():
    records = [record(0, 0.9), record(1, 0.8), record(0, 0.7, activation="relu"), record(0, 0.6, lr=0.1)]
    with pytest.raises(Unusable) as refused:
        chosen(records, method="ste")
    told = str(refused.value)
    assert "3 configurations of ste" in told
    assert "network.activation=sign ste.lr=0.001  (seeds 0, 1; validation 85.00 %)" in told
    assert "network.activation=relu ste.lr=0.001  (seeds 0; validation 70.00 %)" in told
    assert "affine" not in told and "epochs" not in told


def test_of_two_runs_of_one_cell_the_later_is_taken():
    records = [record(0, 0.9), record(0, 0.8)]
    for later in records:
        assert chosen(records, method="ste", written=lambda r, later=later: float(r is later)) is later


def test_lowest_finished_seed_is_taken_and_failures_alone_are_told():
    records = [record(0, 0.9, status="failed"), record(2, 0.9), record(1, 0.9)]
    assert chosen(records, method="ste")["seed"] == 1
    with pytest.raises(Unusable, match=r"digits / ste / seed 0  failed: why"):
        chosen(records[:1], method="ste")


IMAGE = InputForm(features=3 * 16 * 16, shift=100.0, scale=60.0, maximum=255.0, integer=True, shape=(3, 16, 16))
NETWORKS = {
    "mlp": {"widths": (40, 30), "dropout": 0.3},
    "mlp affine": {"widths": (40,), "affine": True, "activation": "hardtanh", "first": "real"},
    "lenet": {"channels": (6, 9), "units": 20},
    "lenet before": {
        "channels": (6, 9),
        "units": 20,
        "pool": "before-norm",
        "affine": True,
        "channel_scale": "learned",
    },
    "vgg-small": {"channels": (5, 6), "units": 12},
    "resnet18": {"channels": (4, 6, 8, 10)},
    "resnet18 bi-real": {"channels": (4, 6, 8, 10), "block": "bi-real", "affine": True, "first": "binary"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_layers_compute_what_evaluation_does(name):
    rng = torch.Generator().manual_seed(0)
    options = {"activation": "relu", **NETWORKS[name]}
    model = architectures.build(
        name.split()[0], IMAGE, 7, lambda shape, rng: Point(initial_uniform(shape, rng)), rng, "batch", **options
    )
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("weight", "scale")):  # gains of either sign
            parameter.data.uniform_(-2.0, 2.0, generator=rng)
    x = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=rng)
    (reading,) = mode(SignActivation(ClippedStraightThrough())).readings(model, rng)
    statistics = reestimate(model, reading, x, rng)
    network = plain(model, reading.weights.weights, statistics)
    want = logits(model, reading, statistics, x, rng)
    got = network(x.float())
    # float32 sums of some hundred terms through up to 20 layers; logits are of order 1
    assert torch.allclose(got, want, atol=2e-3, rtol=2e-3), (got - want).abs().max()
    outputs = sum(law.shape[0] for _, law in laws(model))
    assert parameters(network) >= sum(law.shape.numel() for _, law in laws(model)) + outputs  # a bias each


def test_slow_calls_are_timed_once_and_quick_ones_in_every_round(monkeypatch):
    clock = iter(float(n) for n in range(10_000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))  # every call takes a second
    calls = {("a", 1): lambda: None, ("b", 1): lambda: None}
    monkeypatch.setattr(timing, "SLOW", 0.5)
    assert timing.medians(calls, rounds=3) == {("a", 1): (1.0, 1), ("b", 1): (1.0, 1)}
    monkeypatch.setattr(timing, "SLOW", 2.0)
    assert timing.medians(calls, rounds=3) == {("a", 1): (1.0, 3), ("b", 1): (1.0, 3)}


@pytest.mark.parametrize("ratio, said", [(12.34, "12.3"), (1.0, "1.0"), (0.96, "0.96"), (0.00417, "0.0042")])
def test_ratios_far_below_one_are_not_zero(ratio, said):
    rates = [timing.Rate(report.PLAIN, batch, ratio, 2) for batch in timing.BATCHES]
    rates += [timing.Rate("numpy", batch, 1.0, 2) for batch in timing.BATCHES]
    row = next(line for line in report.time_lines(rates, {}) if line.startswith("numpy"))
    assert row.split()[2] == said and row.split()[4] == said


def test_a_kind_of_work_of_one_step_is_told_once():
    rates = [timing.Rate(report.PLAIN, batch, 1.0, 2) for batch in timing.BATCHES]
    shares = {("a", "first layer"): 0.5, ("b", "linear"): 0.25, ("c", "linear"): 0.25}
    told = report.time_lines(rates, shares)
    assert sum("first layer" in line for line in told) == 1 and sum(line.startswith("all") for line in told) == 1
    many = {(f"step {n}", "linear" if n else "first layer"): 1.0 for n in range(report.MOST_STEPS + 1)}
    assert sum(line.startswith("all") for line in report.time_lines(rates, many)) == 2  # where no step is told
