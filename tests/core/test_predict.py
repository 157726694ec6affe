"""Prediction rules: what each averages, whose statistics it uses, and that nothing but training inputs sets them."""

from __future__ import annotations

import math

import pytest
import torch

import core.predict
from core.architectures import InputForm, build
from core.claims import laws
from core.interface import Predictor, Reading
from core.laws import Bernoulli, Point
from core.layers import BatchNorm
from core.ops import StraightThrough, sign
from core.predict import as_float, ensemble, logits, mean, mode, predict, reestimate
from core.readings import Fixed, MeanWeights, SignActivation, drawn_weights, mode_weights
from core.seeds import generator
from core.statistics import Evaluation, Statistics

SIGNS = SignActivation(StraightThrough())
FEATURES, CLASSES = 20, 4
PIXELS = InputForm(FEATURES, shift=100.0, scale=70.0, maximum=255.0, integer=True)


def pixels(n: int, part: str = "train") -> torch.Tensor:
    rng = generator("predict", part, n)
    return torch.randint(0, 256, (n, FEATURES), generator=rng, dtype=torch.uint8)


TRAIN, TEST = pixels(300), pixels(120, "test")


def network(natural: float = 0.5, form: InputForm = PIXELS, **options):
    """A small mlp of coins with natural parameters natural * N(0, 1)."""

    def law(shape: torch.Size, rng: torch.Generator) -> Bernoulli:
        return Bernoulli(natural * torch.randn(shape, generator=rng))

    return build("mlp", form, CLASSES, law, generator("network"), **{"widths": (16, 12), **options})


def certain(**options):
    """The same with |lambda| >= 30: P(either sign) > 1 - 1e-26, so every draw is the mode."""

    def law(shape: torch.Size, rng: torch.Generator) -> Bernoulli:
        return Bernoulli(30 * sign(torch.randn(shape, generator=rng)))

    return build("mlp", PIXELS, CLASSES, law, generator("network"), widths=(16, 12), **options)


def scores(model, rule: Predictor, inputs: torch.Tensor = TEST, part: int = 0) -> torch.Tensor:
    (result,) = predict(model, rule, TRAIN, (inputs,), generator("rule", part)).scores
    return result


def members(model, rule: Predictor, inputs: torch.Tensor = TEST, part: int = 0) -> list[torch.Tensor]:
    """Logits of each network that `rule` averages, one at a time, with its own statistics."""
    rng = generator("rule", part)
    readings = list(rule.readings(model, rng))
    return [logits(model, r, reestimate(model, r, TRAIN, rng), inputs, rng) for r in readings]


# --------------------------------------------------------------------------------------------------- semantics


@pytest.mark.parametrize("activation", ["relu", "sign"])
def test_the_mode_rule_is_the_network_of_every_laws_mode(activation):
    model = network(activation=activation)
    (expected,) = members(model, Predictor("by hand", 1, 1, lambda m, rng: [Reading(mode_weights(m), SIGNS)]))
    assert torch.equal(scores(model, mode(SIGNS)), expected)


def test_the_mean_rule_is_the_network_of_real_weights_tanh_lambda():
    model = network()
    real = Fixed({law: torch.tanh(law.natural.detach()) for _, law in laws(model)})
    (expected,) = members(model, Predictor("by hand", 1, 32, lambda m, rng: [Reading(real, SIGNS)]))
    assert torch.equal(scores(model, mean(SIGNS)), expected)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_an_ensemble_of_a_law_that_is_certain_is_the_mode_bitwise(k):
    # (x + ... + x) / k = x in floating point for these k: 2 x and 4 x are exact, and fl(3 x) + x rounds to 4 x
    model = certain()
    assert torch.equal(scores(model, ensemble(k, SIGNS)), scores(model, mode(SIGNS)))


@pytest.mark.parametrize("k", [3, 10])
@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_an_ensemble_of_a_law_that_is_certain_is_the_mode_to_rounding_for_any_k(k, combine):
    # at most ten additions and a division of numbers below 8: 11 * 8 k / k * 2^-24 < 1e-5
    model = certain()
    expected = scores(model, mode(SIGNS))
    expected = expected if combine == "logits" else expected.log_softmax(1)
    got = scores(model, ensemble(k, SIGNS, combine=combine))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_an_ensemble_of_point_laws_is_the_mode_bitwise():
    def law(shape, rng):
        return Point(torch.randn(shape, generator=rng))

    model = build("mlp", PIXELS, CLASSES, law, generator("points"), widths=(16,))
    assert torch.equal(scores(model, ensemble(2, SIGNS)), scores(model, mode(SIGNS)))


def test_mean_of_a_law_that_is_certain_is_the_mode():
    # tanh(30) rounds to 1 in float32: the same weights
    model = certain()
    assert torch.equal(scores(model, mean(SIGNS)), scores(model, mode(SIGNS)))


def test_an_ensemble_averages_the_logits_of_its_members():
    model, rule = network(), ensemble(5, SIGNS)
    each = members(model, rule)
    assert not torch.equal(each[0], each[1])
    # five float32 additions of logits of size ~3: 5 * 3 * 2^-24 < 1e-6
    torch.testing.assert_close(scores(model, rule), torch.stack(each).mean(0), rtol=0, atol=2e-6)


def test_a_probability_ensemble_averages_the_class_probabilities_of_its_members():
    model, rule = network().double(), ensemble(5, SIGNS, combine="probabilities")
    expected = torch.stack([m.exp() / m.exp().sum(1, keepdim=True) for m in members(model, rule)]).mean(0).log()
    got = scores(model, rule)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.exp().sum(1), torch.ones(len(TEST), dtype=torch.float64), rtol=0, atol=1e-13)
    by_logits = scores(model, ensemble(5, SIGNS)).log_softmax(1)
    assert (got - by_logits).abs().max() > 1e-3  # two different rules


def test_log_probabilities_stay_finite_where_every_member_excludes_a_class():
    # Gain 400 on the logits: members' probabilities underflow float32 (e^-104), their logarithms do not.
    model = network(affine=True)
    with torch.no_grad():
        model.layers[-1].weight.fill_(400.0)
    rule = ensemble(3, SIGNS, combine="probabilities")
    each = torch.stack([m.double().log_softmax(1) for m in members(model, rule)])
    expected = each.logsumexp(0) - math.log(3)
    assert expected.min() < -104
    # float32 logits of size up to ~1500 carry 1e-4 each
    torch.testing.assert_close(scores(model, rule).double(), expected, rtol=1e-6, atol=1e-3)


def test_ensemble_logit_variance_falls_as_one_over_k():
    # Members are independent and alike, so the variance of an average of k is exactly 1 / k of one member's.
    model, inputs, repeats, k = network(natural=0.2, widths=(8,)), TEST[:20], 120, 4
    single, several = (
        torch.stack([scores(model, ensemble(n, SIGNS), inputs, part).flatten() for part in range(repeats)])
        for n in (1, k)
    )
    ratio = (single.var(0).sum() / several.var(0).sum()).item()
    # The summed variance of R repeats with covariance C has relative variance 2 tr(C^2) / tr(C)^2 / R (Gaussian; the
    # logits are bounded, so lighter-tailed); the ratio of two has twice that. C is estimated from the singles.
    covariance = torch.cov(single.T.double())
    relative = (2 * covariance.square().sum() / covariance.trace() ** 2 * 2 / repeats).sqrt().item()
    assert 5 * relative < 0.45  # tight enough to exclude no averaging (1) and 1 / sqrt(k) (2)
    assert abs(ratio / k - 1) < 5 * relative


# ------------------------------------------------------------------------------------- declared = what was done


class Passes:
    """Counts a model's forward passes in evaluation and the networks (statistics) they belong to."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.evaluations: list[int] = []
        self._statistics: list[Statistics] = []  # kept alive, so that ids stay distinct
        model.register_forward_pre_hook(self._count)

    def _count(self, module, args) -> None:
        phase = args[1].phase
        if isinstance(phase, Evaluation):
            self._statistics.append(phase.statistics)
            self.evaluations.append(id(phase.statistics))


@pytest.mark.parametrize(
    "rule",
    [mode(SIGNS), mean(SIGNS), ensemble(1, SIGNS), ensemble(7, SIGNS), ensemble(3, SIGNS, combine="probabilities")],
    ids=lambda rule: rule.name,
)
def test_the_networks_counted_by_a_hook_are_those_declared(rule):
    model = network()
    passes = Passes(model)
    prediction = predict(model, rule, TRAIN, (TEST,), generator("rule"))
    assert len(passes.evaluations) == rule.networks
    assert len(set(passes.evaluations)) == rule.networks == len(prediction.statistics)


@pytest.mark.parametrize("declared", [1, 3])
def test_a_rule_that_averages_other_than_it_declares_is_refused(declared):
    lying = Predictor("lying", declared, 1, lambda m, rng: [Reading(mode_weights(m), SIGNS)] * 2)
    with pytest.raises(ValueError, match=rf"rule 'lying' declares {declared} networks but averaged 2"):
        scores(network(), lying)


def test_a_rule_without_networks_is_refused():
    with pytest.raises(ValueError, match=r"rule 'empty' declares 1 networks but averaged 0"):
        scores(network(), Predictor("empty", 1, 1, lambda m, rng: []))


@pytest.mark.parametrize("k", [0, -2])
def test_an_ensemble_of_nothing_is_refused(k):
    with pytest.raises(ValueError, match=rf"ensemble\(k\) needs k >= 1 \(got {k}\)"):
        ensemble(k, SIGNS)


def test_rules_say_their_names_networks_and_bits():
    rules = [mode(SIGNS), mode(SIGNS, weight_bits=32), mean(SIGNS), ensemble(4, SIGNS)]
    assert [(r.name, r.networks, r.weight_bits, r.combine) for r in rules] == [
        ("mode", 1, 1, "logits"),
        ("mode", 1, 32, "logits"),
        ("mean", 1, 32, "logits"),  # real weights: never ranked with binary ones
        ("ensemble(4)", 4, 1, "logits"),
    ]
    assert ensemble(4, SIGNS, combine="probabilities").name == "ensemble(4, probabilities)"


@pytest.mark.parametrize("rule", [mode(SIGNS), ensemble(3, SIGNS)], ids=lambda rule: rule.name)
def test_a_rule_that_declares_one_bit_contracts_signs_only(rule):
    model, seen = network(), []
    for reading in rule.readings(model, generator("rule")):
        for law in reading.weights.weights.values():
            seen.append(set(law.unique().tolist()))
    assert rule.weight_bits == 1
    assert len(seen) == 3 * rule.networks and all(levels == {-1.0, 1.0} for levels in seen)


def test_the_mean_rule_contracts_real_weights_and_says_so():
    model = network()
    assert any(len(law.mean().unique()) > 2 for _, law in laws(model))
    (reading,) = mean(SIGNS).readings(model, generator("rule"))
    assert isinstance(reading.weights, MeanWeights) and mean(SIGNS).weight_bits == 32


# -------------------------------------------------------------------------------------------------- statistics


def same(one: Statistics, other: Statistics) -> bool:
    a, b = one.state(), other.state()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_rule_that_averages_something_unknown_is_refused(shapes_unchecked):
    with pytest.raises(ValueError, match=r"rule 'mine': combine must be logits or probabilities \(got 'probs'\)"):
        Predictor("mine", 1, 1, lambda model, rng: [], "probs")


def test_each_network_of_an_ensemble_has_its_own_statistics():
    prediction = predict(network(), ensemble(3, SIGNS), TRAIN, (TEST,), generator("rule"))
    first, second, third = prediction.statistics
    assert not same(first, second) and not same(second, third) and not same(first, third)


def test_statistics_are_those_of_the_networks_own_preactivations():
    model = network()
    reading = Reading(mode_weights(model), SIGNS)
    first_law = next(law for _, law in laws(model))
    h = ((TRAIN.double() - 100) / 70) @ first_law.mode().double().T
    statistics = reestimate(model, reading, TRAIN, generator("rule"))
    # float32 pre-activations of size ~10: 1e-6 each
    torch.testing.assert_close(statistics.mean("layers.1"), h.mean(0).detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(statistics.variance("layers.1"), h.var(0).detach(), rtol=1e-5, atol=0)
    assert list(statistics.layers) == [n for n, m in model.named_modules() if isinstance(m, BatchNorm)]


def test_statistics_come_from_training_inputs_only():
    model, rule = network(form=InputForm(FEATURES)), ensemble(2, SIGNS)
    train, clean = TRAIN.float(), TEST.float()
    poisoned = torch.full_like(clean, float("nan"))
    plain = predict(model, rule, train, (clean,), generator("rule"))
    beside = predict(model, rule, train, (poisoned, clean, 1e6 * clean), generator("rule"))
    assert torch.equal(beside.scores[1], plain.scores[0])
    assert all(same(a, b) for a, b in zip(beside.statistics, plain.statistics, strict=True))
    other = predict(model, rule, 2 * train + 1, (clean,), generator("rule"))
    assert not same(other.statistics[0], plain.statistics[0])


@pytest.mark.parametrize("rule", [mode(SIGNS), mean(SIGNS), ensemble(2, SIGNS)], ids=lambda rule: rule.name)
def test_prediction_leaves_the_model_untouched(rule):
    model = network(dropout=0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, rule, TRAIN, (TEST,), generator("rule"))
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("given", "asked"), [(37, 100), (300, 300), (300, 250), (1001, 1001), (2500, 2200)])
def test_reestimation_counts_every_example_it_uses_once(given, asked):
    statistics = reestimate_mode(network(), pixels(given), asked)
    assert {m.count for m in statistics.layers.values()} == {min(given, asked)}


def test_reestimation_uses_the_first_examples():
    model, inputs = network(), pixels(50)
    of_all, of_first = (reestimate_mode(model, x, 20) for x in (inputs, inputs[:20]))
    assert same(of_all, of_first) and not same(of_all, reestimate_mode(model, inputs[-20:], 20))


def reestimate_mode(model, inputs: torch.Tensor, examples: int) -> Statistics:
    return reestimate(model, Reading(mode_weights(model), SIGNS), inputs, generator("x"), examples=examples)


def test_reestimation_recovers_the_accuracy_that_stale_statistics_lose():
    # Labels are what the mode network says with statistics from 20000 other inputs. lambda ~ 0.3 makes the mean
    # network's pre-activations about a quarter of the mode network's, so its statistics are badly off for signs.
    model = network(natural=0.3)
    reading = Reading(mode_weights(model), SIGNS)
    rng = generator("rule")
    labels = logits(model, reading, reestimate_mode(model, pixels(20_000, "many"), 20_000), TEST, rng).argmax(1)
    stale = reestimate(model, Reading(MeanWeights(), SIGNS), TRAIN, rng)
    lost = (logits(model, reading, stale, TEST, rng).argmax(1) == labels).double().mean().item()
    kept = (scores(model, mode(SIGNS)).argmax(1) == labels).double().mean().item()
    assert lost < 0.7 and kept > 0.9, (lost, kept)


# ------------------------------------------------------------------------------------------------ reproducibility


@pytest.mark.parametrize("rule", [mode(SIGNS), mean(SIGNS), ensemble(3, SIGNS)], ids=lambda rule: rule.name)
def test_the_same_generator_state_gives_the_same_prediction_bitwise(rule):
    model, rng = network(activation="sign"), generator("rule")
    state = rng.get_state()
    first = predict(model, rule, TRAIN, (TEST,), rng)
    again = predict(model, rule, TRAIN, (TEST,), rng.set_state(state))
    assert torch.equal(first.scores[0], again.scores[0])
    assert all(same(a, b) for a, b in zip(first.statistics, again.statistics, strict=True))


def test_another_generator_draws_another_ensemble_but_the_same_mode():
    model = network()
    assert not torch.equal(scores(model, ensemble(3, SIGNS), part=0), scores(model, ensemble(3, SIGNS), part=1))
    assert torch.equal(scores(model, mode(SIGNS), part=0), scores(model, mode(SIGNS), part=1))


def test_prediction_takes_no_noise_from_the_global_generator():
    before = torch.get_rng_state()
    scores(network(), ensemble(3, SIGNS))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_plays_no_part_in_prediction():
    plain, dropped = network(), network(dropout=0.5)
    for rule in (mode(SIGNS), ensemble(2, SIGNS)):
        assert torch.equal(scores(plain, rule), scores(dropped, rule))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_logits_of_signs_on_signs_do_not_depend_on_the_batches_to_the_last_bit(size, monkeypatch):
    # W1A1 on whole-number inputs: every sum is of whole numbers, and the rest is per entry
    model = network(activation="sign", widths=(65, 33))
    reading = Reading(mode_weights(model), SIGNS)
    statistics = reestimate_mode(model, TRAIN, 300)
    whole = logits(model, reading, statistics, TEST, generator("x"))
    monkeypatch.setattr(core.predict, "EVALUATION_BATCH", size)
    assert torch.equal(logits(model, reading, statistics, TEST, generator("x")), whole)
    order = torch.randperm(len(TEST), generator=generator("order"))
    assert torch.equal(logits(model, reading, statistics, TEST[order], generator("x")), whole[order])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_logits_of_real_activations_depend_on_the_batches_by_rounding_only(size, monkeypatch):
    # Sums of 65 and 33 activations below ~5 round by at most 65 * 5 * 65 * 2^-24 ~ 1e-3 in the worst case, before a
    # norm that divides by the sd (about sqrt(33)); rounding errors are random, and stay ten times below that.
    model = network(activation="relu", widths=(65, 33))
    reading = Reading(mode_weights(model), SIGNS)
    statistics = reestimate_mode(model, TRAIN, 300)
    whole = logits(model, reading, statistics, TEST, generator("x"))
    monkeypatch.setattr(core.predict, "EVALUATION_BATCH", size)
    torch.testing.assert_close(logits(model, reading, statistics, TEST, generator("x")), whole, rtol=0, atol=1e-4)


def test_raw_inputs_come_in_the_models_dtype_and_their_own_shape():
    images = pixels(6).reshape(6, 4, 5)
    for dtype in (torch.float32, torch.float64):
        batch = as_float(images, network().to(dtype))
        assert batch.dtype == dtype and torch.equal(batch, images.to(dtype))


def test_images_and_rows_predict_alike():
    model = network()
    images = predict(model, mode(SIGNS), TRAIN.reshape(-1, 4, 5), (TEST.reshape(-1, 4, 5),), generator("rule"))
    assert torch.equal(images.scores[0], scores(model, mode(SIGNS)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_w1a1_logits_on_cuda_are_those_of_the_cpu_given_the_same_statistics():
    model = network(activation="sign")
    statistics = reestimate_mode(model, TRAIN, 300)
    here = logits(model, Reading(mode_weights(model), SIGNS), statistics, TEST, generator("x"))
    model.cuda()
    there_statistics = Statistics.from_state({key: value.cuda() for key, value in statistics.state().items()})
    reading = Reading(mode_weights(model), SIGNS)
    there = logits(model, reading, there_statistics, TEST.cuda(), generator("x", device="cuda"))
    assert torch.equal(there.cpu(), here)


def test_ensemble_members_are_drawn_one_after_another_from_one_generator():
    model, rng = network(), generator("rule")
    by_hand = [drawn_weights(model, rng).weights for _ in range(3)]
    rule = [r.weights.weights for r in ensemble(3, SIGNS).readings(model, generator("rule"))]
    for one, other in zip(by_hand, rule, strict=True):
        assert all(torch.equal(one[law], other[law]) for law in one)
