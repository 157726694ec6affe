import io
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy import ndarray
from rich.console import Console

import methods
from core.interface import Gaussian
from core.low_rank import LowRank
from core.seeds import generator
from solvers import enumeration
from studies import certify
from studies.certifying import bounds, figure, heuristics, layers, link, report, study, training
from studies.certifying.answers import Answer
from studies.certifying.neurons import Layer

TRAINABLE = training.trainable()[0]
ONCE = study.Size(neurons=2, seconds=0.0, restarts=0)


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    """Separable and small neurons are learnt in fewer steps than real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STEPS", 40)
        yield


def layer(n: int = 9, neurons: int = 3, examples: int = 40, *, noise: float = 0.3, seed: int = 0) -> Layer:
    """Correlated inputs, targets of a real teacher and noise."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(examples, n)) @ (np.eye(n) + 0.5 * rng.normal(size=(n, n)))
    weights = rng.normal(size=(neurons, n))
    targets = inputs @ weights.T + noise * rng.normal(size=(examples, neurons))
    return Layer("toy", "layer", "made up", inputs, targets, weights)


def separable(n: int = 8, neurons: int = 3) -> tuple[Layer, ndarray]:
    """Orthogonal inputs: the best sign of each weight is its own, whatever the others are."""
    rng = np.random.default_rng(1)
    inputs = np.linalg.qr(rng.normal(size=(32, n)))[0]
    weights = np.where(rng.random((neurons, n)) < 0.5, -1, 1) * (0.5 + rng.random((neurons, n)))
    return Layer("toy", "separable", "made up", inputs, inputs @ weights.T, weights), np.sign(weights)


def every_value(of: Layer) -> ndarray:
    """(2^n, T): the values of all signs."""
    signs = enumeration.signs(of.n).numpy()
    return of.values(np.repeat(signs[:, None], of.neurons, 1))


@pytest.fixture(scope="module")
def small() -> tuple[Layer, bounds.Bounds]:
    made = layer()
    return made, bounds.bounds(made, gap=1e-5)


# neurons


def test_values_are_squared_residuals_of_the_scaled_signs() -> None:
    made = layer()
    signs = np.where(made.weights >= 0, 1.0, -1.0)
    residuals = made.targets - (made.inputs @ signs.T) * np.abs(made.weights).mean(1)
    assert made.values(signs) == pytest.approx((residuals**2).sum(0), rel=1e-11)


def test_reduced_inputs_have_the_same_values_at_real_weights() -> None:
    made = layer()
    r, kept, rest = made.reduced()
    real = np.random.default_rng(3).normal(size=(made.neurons, made.n))
    expected = ((made.targets - made.inputs @ real.T) ** 2).sum(0)
    assert ((kept - r @ real.T) ** 2).sum(0) + rest == pytest.approx(expected, rel=1e-11)


def test_floors_are_what_least_squares_leaves_and_no_signs_reach_them() -> None:
    made = layer()
    real = made.least_squares()
    assert made.floors() == pytest.approx(((made.targets - made.inputs @ real.T) ** 2).sum(0), rel=1e-11)
    assert (every_value(made).min(0) > made.floors()).all()


def test_neuron_without_weights_is_refused_by_name() -> None:
    made = layer()
    weights = made.weights.copy()
    weights[1] = 0
    with pytest.raises(ValueError, match="toy, layer: neuron 1 has no weights"):
        replace(made, weights=weights)


@pytest.fixture(scope="module")
def breast_cancer() -> dict[str, Layer]:
    return {made.setting: made for made in layers.layers("breast-cancer", None, neurons=16)}


def test_layers_of_a_trained_network_are_reconstructed_exactly_by_their_real_weights(breast_cancer: dict) -> None:
    for setting in ("first layer", "last layer"):
        made = breast_cancer[setting]
        left = ((made.targets - made.inputs @ made.weights.T) ** 2).sum(0)
        assert (left <= 1e-9 * made.norms).all()  # the network is float32: 343 squares of relative errors near 1e-6


def test_inputs_and_targets_are_centred_and_labels_are_against_the_rest(breast_cancer: dict) -> None:
    for made in breast_cancer.values():
        assert abs(made.inputs.mean(0)).max() < 1e-12 and abs(made.targets.mean(0)).max() < 1e-12
    labels = breast_cancer["labels"]
    assert np.ptp(labels.targets) == pytest.approx(2.0) and len(np.unique(labels.targets.round(9))) == 2
    assert labels.inputs.std(0) == pytest.approx(np.ones(30))


# bounds


def test_bounds_are_proven_and_ordered_from_floor_over_box_and_relaxation_to_the_optimum(small: tuple) -> None:
    made, found = small
    optimum = every_value(made).min(0)
    assert found.proven.all()
    assert (found.bound <= optimum).all()
    slack = 1e-6 * made.norms  # of the box's solver, and of the relaxation's gap
    assert (made.floors() <= found.box + slack).all()
    assert (found.box <= found.relaxed + slack).all()
    assert (found.relaxed <= optimum + slack).all()
    assert (found.relaxed - found.bound <= 1e-5 * np.maximum(made.scale**2, found.relaxed)).all()


def test_bounds_step_down_four_units_from_what_is_rounded_to_the_neurons_units(small: tuple, monkeypatch) -> None:
    made, found = small
    told = np.array([1.0, 3.0, -1.0])[: made.neurons]
    solved = SimpleNamespace(bound=told, value=told, proven=np.ones(3, bool), factor=found.factor)
    monkeypatch.setattr(bounds, "solve_batch", lambda *arguments, **options: solved)
    stepped = bounds.bounds(made, gap=1e-5).bound
    for scale, bound, below in zip(made.scale, told, stepped, strict=True):
        exact = Fraction(float(scale)) ** 2 * Fraction(float(bound))  # scale^2 and the product are rounded: 2 units
        unit = Fraction(float(np.spacing(abs(below))))
        assert 2 * unit <= exact - Fraction(float(below)) <= 6 * unit


def test_seconds_of_rounding_count_those_of_its_relaxation(small: tuple) -> None:
    made, found = small
    answers = {a.entry: a for a in heuristics.answers(made, replace(found, seconds=1000.0))}
    for entry, answer in answers.items():
        assert (answer.seconds >= 1000.0) == (entry in heuristics.ROUNDED)


# rules


def test_exact_rule_finds_the_least_of_all_signs_and_no_rule_is_below_it(small: tuple) -> None:
    made, found = small
    optimum = every_value(made).min(0)
    answers = {answer.entry: answer for answer in heuristics.answers(made, found)}
    assert answers[heuristics.EXACT].values == pytest.approx(optimum, rel=1e-12)
    assert all((answer.values >= optimum * (1 - 1e-12)).all() for answer in answers.values())
    assert list(answers)[2:5] == list(heuristics.ROUNDED)


def test_signs_after_descent_are_improved_by_no_flip() -> None:
    made = layer(n=12)
    signs = heuristics.one_opt(made, np.ones((made.neurons, made.n)))
    for i in range(made.n):
        flipped = signs.copy()
        flipped[:, i] *= -1
        assert (made.values(flipped) >= made.values(signs) - 1e-9 * made.norms).all()


def test_no_exact_row_beyond_the_largest_enumerable_neuron() -> None:
    made = layer(n=heuristics.LARGEST_EXACT + 1, neurons=1)
    entries = [answer.entry for answer in heuristics.answers(made, bounds.bounds(made, gap=1e-2))]
    assert heuristics.EXACT not in entries


# methods


def test_every_binary_method_that_steps_is_trained_and_the_others_are_named_with_a_reason() -> None:
    able, refused = training.trainable()
    assert {*able, *(entry.method for entry in refused)} == set(methods.names())
    assert {"ste", "bop", "bayesbinn", "gaussian-vi", "lowrank-sdp", "blrnet"} <= set(able)
    reasons = {entry.method: entry.reason for entry in refused}
    assert reasons["full-precision"] == "trains weights of 32 bits"
    assert "preparation" in reasons["layerwise-sdp"]


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_method_finds_the_signs_of_separable_neurons(name: str) -> None:
    made, signs = separable()
    answer = training.train(name, made, seconds=0.0, noise=made.values(signs), restarts=0)
    assert answer.values == pytest.approx(made.values(signs), rel=1e-9)
    assert (answer.last >= answer.values * (1 - 1e-9)).all()


def test_training_repeats_for_a_seed_and_differs_for_another(small: tuple) -> None:
    made, found = small
    first, again, other = (
        training.train("lowrank-sdp", made, seconds=0.0, noise=found.relaxed, seed=seed, restarts=1)
        for seed in (0, 0, 1)
    )
    assert (first.last == again.last).all() and (first.values == again.values).all() and first.note == again.note
    assert (first.last != other.last).any()


def test_restarts_never_worsen_the_best_of_run(small: tuple) -> None:
    made, found = small
    few, more = (training.train("bop", made, seconds=0.0, noise=found.relaxed, restarts=k) for k in (0, 3))
    assert (more.values <= few.values).all()


def test_rows_times_the_loss_are_nats_of_gaussian_noise_but_for_a_constant() -> None:
    made = layer()
    noise = made.floors()
    inputs, targets, loss = training.squared_loss(made, noise)
    weights = [torch.from_numpy(np.random.default_rng(s).choice([-1.0, 1.0], (made.neurons, made.n))) for s in (0, 1)]
    told = [len(inputs) * float(loss(inputs @ w.float().T, targets)) for w in weights]
    variances = noise / len(made.inputs)
    nats = [float((made.values(w.numpy()) / (2 * variances)).sum()) for w in weights]
    assert told[0] - told[1] == pytest.approx(nats[0] - nats[1], rel=1e-5)  # the loss is float32


def test_loss_of_propagated_moments_is_its_mean_over_the_signs() -> None:
    made = layer(n=6)
    inputs, targets, loss = training.squared_loss(made, made.floors())
    mean = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (made.neurons, made.n))).float()
    output = Gaussian(inputs @ mean.T, (inputs**2) @ (1 - mean**2).T)
    signs = enumeration.signs(made.n)
    expected = 0.0
    for t in range(made.neurons):
        chances = (0.5 * (1 + signs * mean[t].double())).prod(1)
        squares = ((inputs.double() @ signs.T - targets[:, t, None].double()) ** 2).sum(0)
        expected += float(made.scale[t] ** 2 / (2 * made.floors()[t]) * torch.dot(chances, squares))
    expected *= len(made.inputs) / len(inputs)
    assert float(loss(output, targets)) == pytest.approx(expected, rel=1e-5)  # float32


def test_tuning_goes_on_while_the_best_rate_is_at_an_end() -> None:
    def run(decade: int):
        value = np.full((1, 1), float((decade + 4) ** 2))
        return training._Trained(np.ones((1, 1)), value[0], value)

    assert sorted(training._tuned(run)) == [-5, -4, -3, -2, -1, 0, 1]


def test_tuning_ends_where_a_method_refuses_a_rate() -> None:
    def run(decade: int):
        if decade < -2:
            return None
        value = np.full((1, 1), float(decade))
        return training._Trained(np.ones((1, 1)), value[0], value)

    assert sorted(training._tuned(run)) == [-2, -1, 0, 1]


def trained(best: float, last: float) -> training._Trained:
    return training._Trained(np.ones((1, 9)), np.array([best]), np.array([[last]]))


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """A method whose best looks are best at a tenth of its rate and whose final weights at the rate; runs take 1 s."""
    ran: list[tuple[float, int]] = []
    clock = [0.0]

    def run(
        name: str, made: Layer, factor: float, noise: ndarray, seed: int, again: int, steps: int
    ) -> training._Trained:
        ran.append((factor, again))
        clock[0] += 1
        return {0.1: trained(1, 9), 1.0: trained(2, 3)}.get(factor, trained(5, 7))

    monkeypatch.setattr(training, "_run", run)
    monkeypatch.setattr(training.time, "process_time", lambda: clock[0])
    return ran


def test_rate_is_chosen_by_the_best_of_run_and_final_weights_have_their_own(rates: list) -> None:
    made = layer(neurons=1)
    answer = training.train("ste", made, seconds=0.0, noise=made.floors(), restarts=2)
    assert [run for run in rates if run[1]] == [(0.1, 1), (0.1, 2)]
    assert answer.factor == 0.1 and answer.note.startswith("x0.1,")
    assert answer.last.tolist() == [3.0]  # at the rate itself; 9 at a tenth


def test_restarts_have_all_the_seconds_after_tuning(rates: list) -> None:
    made = layer(neurons=1)
    answer = training.train("ste", made, seconds=3.0, noise=made.floors())
    tuning = [run for run in rates if not run[1]]
    assert len(tuning) == 4  # three decades, and one beyond the best, which is the lowest
    assert len(rates) - len(tuning) == 3 and answer.seconds == len(rates)


# the link


def low_rank_law(made: Layer, rank: int = 3) -> LowRank:
    shape = torch.Size((made.neurons, made.n))
    law = methods.make("lowrank-sdp", rank=rank).law(shape, generator("test")).double()
    assert isinstance(law, LowRank)
    return law


def test_cubature_has_mean_zero_and_unit_covariance() -> None:
    points = link.points(5)
    assert torch.equal(points.mean(0), torch.zeros(5).double())
    assert torch.allclose(points.T @ points / len(points), torch.eye(5).double())


def test_relaxed_value_is_the_mean_of_values_over_the_cubature(small: tuple) -> None:
    made, _ = small
    law = low_rank_law(made)
    each = [made.values(law.latent(noise).detach().numpy()) for noise in link.points(law.rank)]
    assert link.relaxed(made, law) == pytest.approx(np.mean(each, 0), rel=1e-10)


def test_no_unit_rows_are_below_the_certified_bound(small: tuple) -> None:
    made, found = small
    assert (link.relaxed(made, low_rank_law(made)) >= found.bound).all()


def test_low_rank_training_reaches_the_certified_value_and_signs_stay_above(small: tuple) -> None:
    made, found = small
    points = list(link.curves(made, found, 1.0, steps=200))
    ends = {name: [p for p in points if p.run == name][-1] for name in (link.EXACT, link.DRAWN, link.STE)}
    assert link.reached([ends[link.EXACT]])
    assert 0 <= ends[link.EXACT].relaxed < ends[link.DRAWN].relaxed
    assert ends[link.STE].best >= every_value(made).min(0).sum() / found.bound.sum() - 1 - 1e-9
    assert math.isnan(ends[link.STE].relaxed)
    rank = math.ceil(math.sqrt(2 * (made.n + 1)))
    assert [ends[name].passes for name in link.RUNS] == [2 * rank, 1, 1]


def test_ste_of_the_link_has_the_tuned_rate(small: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = link.at_rate
    monkeypatch.setattr(link, "at_rate", lambda name, factor: asked.append((name, factor)) or real(name, factor))
    made, found = small
    list(link.curves(made, found, 0.01, steps=2))
    assert asked == [("ste", 0.01)]
    heard = []
    monkeypatch.setattr(link, "curves", lambda layer, bracket, factor, **rest: heard.append(factor) or [])
    answer = Answer("ste", made.values(np.ones((made.neurons, made.n))), 0.0, factor=0.001)
    monkeypatch.setattr(training, "train", lambda name, **rest: answer)
    for names in (("ste",), ()):
        study.certified(made, replace(ONCE, names=names))
    assert heard == [0.001, 0.001]


# rows


@pytest.fixture(scope="module")
def certified() -> study.Certified:
    return study.certified(layer(neurons=2), replace(ONCE, names=("ste", "lowrank-sdp"), link_steps=200))


def test_gap_splits_into_method_and_relaxation_error_at_the_optimum(certified: study.Certified) -> None:
    for row in certified.rows:
        assert row.gap == pytest.approx(row.method_error + row.relaxation_error, abs=1e-12)
        assert row.gap == pytest.approx((row.value - row.bound) / row.value)
        assert row.share == pytest.approx((row.value - row.bound) / (row.value - row.floor))
        assert row.gap <= row.share
        assert row.bound <= row.optimum <= row.best <= row.value


def test_nothing_is_doubted_of_a_sound_study(certified: study.Certified) -> None:
    assert certified.doubts() == []


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda row: {"proven": False}, "the bound is not proven"),
        (lambda row: {"bound": row.value + 0.01 * row.norm}, "below the bound"),
        (lambda row: {"optimum": row.value + 0.01 * row.norm}, "below the optimum"),
        (lambda row: {"last": row.bound - 0.01 * row.norm}, "below the bound"),
    ],
    ids=["unproven", "bound too high", "optimum too high", "final weights below the bound"],
)
def test_what_cannot_be_is_doubted(certified: study.Certified, change, said: str) -> None:
    row = certified.rows[0]
    wrong = replace(certified, rows=[replace(row, **change(row)), *certified.rows[1:]])
    assert any(said in doubt and f"neuron {row.neuron}" in doubt for doubt in wrong.doubts())


def test_a_link_that_ends_above_the_certified_value_is_doubted(certified: study.Certified) -> None:
    points = [replace(p, worst=0.01) if p.run == link.EXACT else p for p in certified.points]
    (doubt,) = replace(certified, points=points).doubts()
    assert doubt == "toy, layer: lowrank-sdp, all draws ends 0.01 above the certified value"


def test_best_of_an_answer_counts_its_polished_signs() -> None:
    answer = Answer("x", np.array([2.0, 1.0]), 0.0, polished=np.array([1.5, 3.0]))
    assert answer.reached().tolist() == [1.5, 1.0]


# what is shown


def shown(found: list[study.Certified]) -> str:
    console = Console(width=report.WIDTH, record=True, file=io.StringIO(), markup=False)
    report.show(found, [training.Refused("some-method", "some reason")], console)
    return console.export_text()


def test_scope_stands_under_every_table(certified: study.Certified) -> None:
    text = " ".join(shown([certified, certified]).split())
    assert text.count(report.SCOPE) == 3  # two layers and the link
    assert "not run: some-method (some reason)" in text


def test_table_sums_over_the_layer(certified: study.Certified) -> None:
    line = report.summary(certified).set_index("entry").loc["ste"]
    of = [row for row in certified.rows if row.entry == "ste"]
    total, bound, best = (sum(getattr(row, key) for row in of) for key in ("value", "bound", "best"))
    assert line["gap"] == pytest.approx(1 - bound / total)
    assert line["above"] == pytest.approx(total / best - 1)
    assert line["gap"] == pytest.approx(line["method"] + line["relaxation"])
    assert line["worst"] == max(row.gap for row in of)


def test_figure_shows_every_layer_twice_and_every_entry(certified: study.Certified) -> None:
    made = figure.bars([certified, certified])
    assert len(made.axes) == 4
    entries = [label.get_text() for label in made.axes[1].get_yticklabels()]
    assert entries == list(dict.fromkeys(row.entry for row in certified.rows))


# the command


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    folder = tmp_path_factory.mktemp("certify")
    words = ["--quick", "--problems", "breast-cancer", "--methods", "ste", "--workers", "1"]
    return certify.main([*words, "--out", str(folder), "--json", str(folder / "list.json")]), folder


def test_quick_study_proves_every_bound_and_writes_rows_tables_and_figures(quick: tuple[int, Path]) -> None:
    code, folder = quick
    assert code == 0
    found = json.loads((folder / "rows.json").read_text())
    assert found == json.loads((folder / "list.json").read_text())
    assert {row["layer"] for row in found} == {"labels", "first layer", "last layer"}
    assert all(row["proven"] and row["bound"] <= row["value"] for row in found)
    assert {row["entry"] for row in found} >= {"ste", "exact", *heuristics.ROUNDED}
    assert {point["run"] for point in json.loads((folder / "link.json").read_text())} == {*link.RUNS}
    for name in ("overview.png", "certify.png", "link.png"):
        assert (folder / name).stat().st_size > 20_000
    assert json.loads((folder / "manifest.json").read_text())["command"].startswith("python -m studies.certify --quick")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--problems", "moons"], "--problems: 'moons' is not among digits, breast-cancer, mnist"),
        (["--methods", "full-precision"], "--methods: 'full-precision' is not among"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(words: list[str], said: str, capsys) -> None:
    assert certify.main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--gap", "0"], ["--seconds", "inf"], ["--neurons", "0"]])
def test_impossible_options_are_refused(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        certify.main(words)
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--quick"], ["digits", "breast-cancer"]),
        (["--quick", "--problems", "mnist"], ["mnist"]),
        ([], ["digits", "breast-cancer", "mnist"]),
    ],
)
def test_a_quick_check_leaves_mnist_out_unless_it_is_named(words, expected, certified, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(layers, "at_hand", lambda folder: list(layers.WIDTHS))
    monkeypatch.setattr(study, "study", lambda problems, *rest, **options: asked.extend(problems) or iter([certified]))
    monkeypatch.setattr(figure, "draw", lambda found, folder: [])
    assert certify.main([*words, "--out", str(tmp_path)]) == 0
    assert asked == expected


def test_missing_data_are_told(tmp_path: Path, capsys) -> None:
    assert certify.main(["--problems", "mnist", "--data-dir", str(tmp_path)]) == 2
    assert "mnist" in capsys.readouterr().err


def test_what_does_not_hold_fails_the_command(certified: study.Certified, monkeypatch, capsys) -> None:
    wrong = replace(certified, rows=[replace(row, proven=False) for row in certified.rows])
    monkeypatch.setattr(study, "study", lambda *arguments, **options: iter([wrong]))
    assert certify.main(["--quick"]) == 1
    assert "FAILS: toy, layer, neuron 0: the bound is not proven" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_told_with_the_way_out(
    tmp_path: Path, certified, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(study, "study", lambda *arguments, **options: iter([certified]))
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert certify.main(["--quick", "--out", str(blocked)]) == 4
    assert str(blocked) in capsys.readouterr().err
