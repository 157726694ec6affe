"""Networks read from Bernoulli laws at test time: thresholds, ternary weights, ensembles, propagation (P9, P10).

Peters & Welling 2018. Each drawn network against one built by hand from its own weights and training inputs.
"""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from core.architectures import InputForm, build
from core.claims import laws
from core.contractions import Dense
from core.interface import Predictor, Reading, Tape
from core.laws import Bernoulli, Real
from core.layers import BatchNorm
from core.moments import Moments, PropagatedSign, StochasticSign, log_positive, means
from core.ops import StraightThrough, sign
from core.predict import ensemble, logits, mode, predict, propagate, reestimate, ternary
from core.readings import SignActivation, drawn_weights, ternary_weights
from core.seeds import generator
from core.signals import Gaussian
from core.statistics import Evaluation, Moments2, Statistics, Training
from methods import make

F64 = torch.float64
SIGNS = SignActivation(StraightThrough())
FEATURES, CLASSES, WIDTHS = 13, 3, (11, 9)  # odd widths: a sum of signs is never 0
FORM = InputForm(FEATURES)


def inputs(n: int, part: str) -> torch.Tensor:
    """Features whose means are not 0, so that a drawn network's pre-activations are shifted."""
    rng = generator("blrnet predictions", part)
    return torch.randn((n, FEATURES), generator=rng, dtype=F64) + torch.linspace(-1, 1, FEATURES, dtype=F64)


TRAIN, TEST = inputs(600, "train"), inputs(50, "test")


def network(spread: float = 0.7, **options):
    """A net of signs with stochastic batch norm and natural parameters spread * N(0, 1), in float64."""

    def law(shape: torch.Size, rng: torch.Generator) -> Bernoulli:
        return Bernoulli(spread * torch.randn(shape, generator=rng))

    options = {"widths": WIDTHS, "activation": "sign", **options}
    model = build("mlp", FORM, CLASSES, law, generator("network"), "stochastic", **options).double()
    if options.get("affine"):
        with torch.no_grad():
            for i, norm in enumerate(m for m in model.modules() if isinstance(m, BatchNorm)):
                norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator("gain", i)))
                norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator("bias", i)))
    return model


def by_hand(model, weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The deterministic net of these weights on x, each layer normalised by its own statistics over TRAIN."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    seen = TRAIN
    for i, (w, norm) in enumerate(zip(weights, norms, strict=True)):
        seen, x = seen @ w.T, x @ w.T
        gain = 1.0 if norm.weight is None else norm.weight.detach()
        bias = 0.0 if norm.bias is None else norm.bias.detach()
        mean, batch, stored = seen.mean(0), seen.var(0, unbiased=False), seen.var(0)
        seen = gain * (seen - mean) / (batch + norm.eps).sqrt() + bias
        x = gain * (x - mean) / (stored + norm.eps).sqrt() + bias
        if i < len(norms) - 1:
            seen, x = (torch.where(v < 0, -1.0, 1.0).to(F64) for v in (seen, x))
    return x


def scores(model, rule: Predictor, part: int = 0) -> torch.Tensor:
    (result,) = predict(model, rule, TRAIN, (TEST,), generator("rule", part)).scores
    return result


def weights_of(model, read) -> list[torch.Tensor]:
    return [read(law).detach() for _, law in laws(model)]


# float64 sums of at most 600 numbers of size ~10, divided by deviations of ~1, through three layers
CLOSE = {"rtol": 0, "atol": 1e-11}


# ------------------------------------------------------------------------------------------------------------------- P9


def evaluated(a: torch.Tensor, *, gain: float, bias: float, mean: float, variance: float) -> tuple[list[bool], float]:
    """sign(batch norm(a)) > 0 of one channel through `Evaluation` in float32, and its eps."""
    norm = BatchNorm(1, affine=True, eps=1e-4, momentum=0.1, role="stochastic")
    norm.name = "norm"
    with torch.no_grad():
        norm.weight.fill_(gain)
        norm.bias.fill_(bias)
    entry = Moments2(1001, *(torch.tensor([v], dtype=F64) for v in (mean, 1000 * variance, 0.0)))
    phase = Evaluation(Statistics({"norm": entry}))
    out = norm(a[:, None], Reading(Moments(), SIGNS).during(phase), generator("unused"))
    return (sign(out)[:, 0] > 0).tolist(), norm.eps


ALL_SUMS = torch.arange(-301, 302, dtype=torch.float32)
CHANNELS = [
    (gain, bias, mean, variance)
    for gain in (2.5, 0.3, 1e-3, -0.3, -2.5)
    for bias in (0.0, 0.7, -1.1)
    for mean, variance in ((0.0, 100.0), (3.7, 100.0), (-41.3, 2500.0))
]


@pytest.mark.parametrize("gain, bias, mean, variance", CHANNELS)
def test_a_sign_after_batch_norm_is_one_threshold_on_the_sum(gain, bias, mean, variance):
    plus, eps = evaluated(ALL_SUMS, gain=gain, bias=bias, mean=mean, variance=variance)
    stored_gain, stored_bias = (Fraction(float(torch.tensor(v, dtype=torch.float32))) for v in (gain, bias))
    threshold = float(Fraction(mean) - stored_bias * Fraction((variance + eps) ** 0.5) / stored_gain)
    # h = a * scale + bias, each rounded to float32: it is off by 3 spacings of the larger of the two terms, so signs
    # are decided outside 4 * 2^-24 * |terms| / |scale| of the threshold; bias / scale is the threshold itself
    slack = 4 * 2**-24 * (abs(threshold) + 301)
    for a, got in zip(ALL_SUMS.tolist(), plus, strict=True):
        if abs(a - threshold) > slack:
            assert got == ((a > threshold) == (gain > 0)), (a, threshold)
    undecided = (ALL_SUMS - threshold).abs() <= slack
    assert undecided.sum() <= 1
    # monotone: over all sums the sign turns at most once, and upwards exactly where gain > 0
    turns = [(before, after) for before, after in zip(plus, plus[1:], strict=False) if before != after]
    assert turns in ([], [(gain < 0, gain > 0)])


@pytest.mark.parametrize("bias, expected", [(0.5, True), (0.0, True), (-0.5, False)])
def test_a_gain_of_zero_makes_the_sign_of_the_bias_whatever_the_sum_and_sign_of_zero_is_plus(bias, expected):
    plus, _ = evaluated(ALL_SUMS, gain=0.0, bias=bias, mean=3.7, variance=100.0)
    assert set(plus) == {expected}


def test_a_sum_on_the_threshold_is_plus():
    # a = mean exactly, no bias: a * scale - mean * scale is an exact 0 when scale and mean * scale are exact
    norm = {"gain": 1.0, "bias": 0.0, "mean": 8.0, "variance": 16.0 - 1e-4}
    plus, eps = evaluated(torch.tensor([7.0, 8.0, 9.0]), **norm)
    assert norm["variance"] + eps == 16.0
    assert plus == [False, True, True]
    flipped, _ = evaluated(torch.tensor([7.0, 8.0, 9.0]), **{**norm, "gain": -1.0})
    assert flipped == [True, True, False]


def test_a_threshold_without_the_flip_for_negative_gains_would_be_wrong():
    gain, bias, mean, variance = -0.3, 0.7, 3.7, 100.0
    plus, eps = evaluated(ALL_SUMS, gain=gain, bias=bias, mean=mean, variance=variance)
    threshold = mean - bias * (variance + eps) ** 0.5 / gain
    unflipped = [a > threshold for a in ALL_SUMS.tolist()]
    assert all(got != wrong for got, wrong in zip(plus, unflipped, strict=True))


# ------------------------------------------------------------------------------------------------------------------ P10


def law_of_means(mean: torch.Tensor) -> Bernoulli:
    law = Bernoulli(torch.zeros_like(mean))
    law.mean = lambda: mean  # exactly this, not tanh(atanh(.)) to the last digit
    return law


@pytest.mark.parametrize("threshold", [0.5, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_ternary_weight_is_zero_exactly_where_its_mean_is_below_the_threshold(threshold, dtype):
    at = torch.tensor(threshold, dtype=dtype)
    below, above = torch.nextafter(at, torch.zeros_like(at)), torch.nextafter(at, torch.ones_like(at))
    mean = torch.stack([-torch.ones_like(at), -above, -at, -below, -0 * at, below, at, above])
    law = law_of_means(mean)
    weights = ternary_weights(law, threshold).weights[law]
    assert weights.tolist() == [-1, -1, -1, 0, 0, 0, 1, 1]


def test_a_mean_of_a_half_is_a_probability_of_three_quarters():
    natural = torch.linspace(-3, 3, 4001, dtype=F64)
    law = Bernoulli(natural)
    kept = ternary_weights(law, 0.5).weights[law] != 0
    largest = torch.maximum(law.prob_plus(), 1 - law.prob_plus())
    assert torch.equal(kept, largest >= 0.75)
    assert not torch.equal(kept, largest >= 0.5)  # thresholding the probability itself would keep all


def test_the_ternary_rule_is_the_network_of_ternary_weights():
    model = network(affine=True)
    ternaries = weights_of(model, lambda law: law.mean().sign() * (law.mean().abs() >= 0.5))
    assert all(set(w.unique().tolist()) == {-1.0, 0.0, 1.0} for w in ternaries)
    torch.testing.assert_close(scores(model, ternary(SIGNS)), by_hand(model, ternaries, TEST), **CLOSE)


def test_real_layers_stay_real_in_the_ternary_network():
    model = network(last="real")
    real = [law for _, law in laws(model) if isinstance(law, Real)]
    assert len(real) == 1
    assert torch.equal(ternary_weights(model, 0.5).weights[real[0]], real[0].mean())


@pytest.mark.parametrize("affine", [False, True])
def test_the_mode_rule_is_the_network_of_the_signs_of_the_means(affine):
    model = network(affine=affine)
    signs = weights_of(model, lambda law: sign(law.natural))
    torch.testing.assert_close(scores(model, mode(SIGNS)), by_hand(model, signs, TEST), **CLOSE)


def certain(model) -> None:
    with torch.no_grad():
        for _, law in laws(model):
            law.natural.copy_(400 * sign(law.natural))  # theta = +-1 exactly


@pytest.mark.parametrize("rule", [ensemble(1, SIGNS), ensemble(2, SIGNS), ternary(SIGNS)], ids=lambda r: r.name)
def test_every_rule_of_a_law_that_is_certain_is_the_mode_bit_for_bit(rule):
    model = network(affine=True)
    certain(model)
    assert torch.equal(scores(model, rule), scores(model, mode(SIGNS)))


def clear_of_thresholds() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A certain net of one hidden layer, and inputs whose hidden sums are all more than 0.01 from their thresholds."""
    for i in range(200):
        model, train, test = network(widths=(3,)), inputs(40, f"train {i}"), inputs(10, f"test {i}")
        certain(model)
        hidden = sign(next(law for _, law in laws(model)).natural.detach())
        a = torch.cat([train, test]) @ hidden.T
        if ((a - a[:40].mean(0)) / a[:40].std(0)).abs().min() > 0.01:
            return model, train, test
    raise AssertionError("no inputs are clear of their thresholds")


@pytest.mark.parametrize("activations", [StochasticSign(), PropagatedSign()], ids=lambda a: type(a).__name__)
def test_propagation_of_a_law_that_is_certain_is_the_mode(activations):
    # Every variance is 0. The floor of 1e-6 under it blurs a threshold by 1e-3; at ten of those, 2 Phi(-10) = 2e-23 is
    # nothing in float64, so signs are those of the mode and both statistics are of the same numbers.
    model, train, test = clear_of_thresholds()
    rules = propagate(activations, means, bits=None), mode(SIGNS)
    got, expected = (predict(model, rule, train, (test,), generator("rule")).scores[0] for rule in rules)
    torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_an_ensemble_does_not_depend_on_the_order_of_its_members(combine):
    model = network()
    members = [Reading(drawn_weights(model, generator("member", i)), SIGNS) for i in range(5)]

    def of(order: list[int]) -> torch.Tensor:
        rule = Predictor("ordered", 5, 1, lambda m, rng: [members[i] for i in order], combine=combine)
        return scores(model, rule)

    # five additions in another order: 5 * 2^-53 * 10
    torch.testing.assert_close(of([0, 1, 2, 3, 4]), of([3, 1, 4, 0, 2]), rtol=0, atol=1e-14)
    assert (of([0, 0, 0, 0, 0]) - of([1, 1, 1, 1, 1])).abs().max() > 0.1  # members differ


def test_an_ensemble_is_extended_by_more_members_without_redoing_the_first():
    model = network()
    four, six = (scores(model, ensemble(k, SIGNS)) for k in (4, 6))
    rng = generator("rule", 0)
    each = []
    for reading in ensemble(6, SIGNS).readings(model, rng):
        each.append(logits(model, reading, reestimate(model, reading, TRAIN, rng), TEST, rng))
    torch.testing.assert_close(four, torch.stack(each[:4]).mean(0), **CLOSE)
    torch.testing.assert_close(six, (4 * four + each[4] + each[5]) / 6, **CLOSE)


# ---------------------------------------------------------------------------------------- re-estimation per draw


@pytest.mark.parametrize("affine", [False, True])
def test_every_drawn_network_is_normalised_by_its_own_statistics(affine):
    model = network(affine=affine)
    for i in range(4):
        reading = Reading(drawn_weights(model, generator("draw", i)), SIGNS)
        drawn = weights_of(model, reading.weights.weights.__getitem__)
        statistics = reestimate(model, reading, TRAIN, generator("unused"))
        first = TRAIN @ drawn[0].T
        name = next(iter(statistics.layers))
        torch.testing.assert_close(statistics.mean(name), first.mean(0), **CLOSE)
        torch.testing.assert_close(statistics.variance(name), first.var(0), **CLOSE)
        got = logits(model, reading, statistics, TEST, generator("unused"))
        torch.testing.assert_close(got, by_hand(model, drawn, TEST), **CLOSE)


def test_an_ensemble_keeps_one_set_of_statistics_a_member_and_no_two_alike():
    model = network()
    prediction = predict(model, ensemble(4, SIGNS), TRAIN, (TEST,), generator("rule"))
    name = next(iter(prediction.statistics[0].layers))
    first = [s.mean(name) for s in prediction.statistics]
    assert len(first) == 4
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(first) for b in first[:i])


def test_drawn_networks_are_shifted_by_what_the_propagated_variance_has_too_much():
    # Over draws, the squared distance of a unit's mean from the propagated one is sum (1 - theta^2) h^2, h the mean
    # input: the excess of the moments' variance, which only statistics of the drawn network itself remove.
    model, n = network(), 150
    stochastic = reestimate(model, Reading(Moments(), StochasticSign()), TRAIN, generator("unused"))
    name, law = next(iter(stochastic.layers)), next(law for _, law in laws(model))
    shifts = []
    for i in range(n):
        reading = Reading(drawn_weights(model, generator("draw", i)), SIGNS)
        own = reestimate(model, reading, TRAIN, generator("unused"))
        shifts.append((own.mean(name) - stochastic.mean(name)).square().mean())
    drawn, expected = torch.stack(shifts), (law.variance().detach() @ TRAIN.mean(0).square()).mean()
    assert abs(drawn.mean() - expected) < 5 * drawn.std() / n**0.5
    assert expected > 0.1 * stochastic.variance(name).mean()
    apart = [logits(model, reading, s, TEST, generator("unused")) for s in (stochastic, own)]
    assert (apart[0] - apart[1]).abs().max() > 0.2


def test_statistics_of_the_propagated_network_are_of_its_gaussians():
    model = network()
    statistics = reestimate(model, Reading(Moments(), StochasticSign()), TRAIN, generator("unused"))
    name = next(iter(statistics.layers))
    law = next(law for _, law in laws(model))
    h = Moments()(law, Dense(), TRAIN, generator("unused"), None)
    torch.testing.assert_close(statistics.mean(name), h.mean.mean(0), **CLOSE)
    torch.testing.assert_close(statistics.variance(name), h.variance.mean(0) + h.mean.var(0), **CLOSE)


# ---------------------------------------------------------------------------------------------------- propagation


def propagated_by_hand(model, x: torch.Tensor) -> Gaussian:
    """Means and variances through every layer, statistics over TRAIN; no randomness."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    signals = [Gaussian(v, torch.zeros_like(v)) for v in (TRAIN, x)]
    for i, ((_, law), norm) in enumerate(zip(laws(model), norms, strict=True)):
        theta = torch.tanh(law.natural.detach())
        linear = [
            Gaussian(
                s.mean @ theta.T,
                (s.mean.square() + s.variance) @ (1 - theta.square()).T + s.variance @ theta.square().T,
            )
            for s in signals
        ]
        m, v = linear[0].mean.mean(0), linear[0].variance.mean(0) + linear[0].mean.var(0)
        scale, shift = (v + norm.eps).rsqrt(), torch.zeros(())
        if norm.weight is not None:
            scale, shift = scale * norm.weight.detach(), norm.bias.detach()
        normal = [Gaussian((s.mean - m) * scale + shift, s.variance * scale.square()) for s in linear]
        if i == len(norms) - 1:
            return normal[1]
        p = [2 * torch.special.ndtr(s.mean / s.variance.sqrt()) - 1 for s in normal]
        signals = [Gaussian(mean, 1 - mean.square()) for mean in p]
    raise AssertionError("a network has layers")


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("read", [means, log_positive], ids=lambda f: f.__name__)
def test_the_propagate_rule_is_the_pass_of_moments_under_its_own_statistics(read, affine):
    model = network(affine=affine)
    got = scores(model, propagate(PropagatedSign(), read, bits=32))
    torch.testing.assert_close(got, read(propagated_by_hand(model, TEST)), rtol=1e-10, atol=1e-11)


def test_the_propagate_rule_of_blrnet_samples_activations_and_that_of_blrnet_propagate_draws_nothing():
    model = network()
    rules = {
        name: next(r for r in make(name).predictors if r.name == "propagate") for name in ("blrnet", "blrnet-propagate")
    }
    sampled = [scores(model, rules["blrnet"], part) for part in range(2)]
    assert not torch.equal(*sampled)
    moments = [scores(model, rules["blrnet-propagate"], part) for part in range(2)]
    assert torch.equal(*moments)
    assert all(r.weight_bits == 32 for r in rules.values())  # real weights E[w]: no binary network


@pytest.mark.parametrize("name", ["blrnet", "blrnet-propagate"])
def test_the_methods_offer_the_networks_of_the_paper_besides_propagation(name):
    rules = {rule.name: rule for rule in make(name).predictors}
    assert {"mode", "ternary", "propagate"} <= rules.keys()
    ensembles = [rule for rule in rules.values() if rule.networks > 1]
    assert ensembles and all(rule.weight_bits == 1 for rule in ensembles)
    assert rules["ternary"].weight_bits == 2 and rules["ternary"].levels == (-1.0, 0.0, 1.0)
    assert make(name).normalisation == "stochastic"


def test_training_draws_activations_and_no_weight():
    # the toy would sample weights once a batch and put a straight-through sign behind them
    model, reading = network(), make("blrnet").train(0.0)
    tape = Tape()
    outputs = [model(TEST, reading.during(Training(), tape), generator("pass", i)) for i in range(2)]
    assert tape.drawn == []
    assert not torch.equal(outputs[0].mean, outputs[1].mean)  # by the signs
    assert outputs[0].variance.min() > 0
    law = next(law for _, law in laws(model))
    first = [reading.weights(law, Dense(), TEST, generator("pass", i), None) for i in range(2)]
    assert torch.equal(first[0].mean, first[1].mean) and torch.equal(first[0].variance, first[1].variance)


def test_every_mean_gets_a_gradient_from_one_pass_though_its_mode_could_not():
    model, method = network(), make("blrnet")
    labels = torch.arange(len(TEST)) % CLASSES
    method.loss(model(TEST, method.train(0.0).during(Training(), Tape()), generator("pass")), labels).backward()
    for _, law in laws(model):
        assert law.natural.grad.isfinite().all()
        assert (law.natural.grad != 0).to(F64).mean() > 0.99


# -------------------------------------------------------------------------------------------------------- convolutions

IMAGE = InputForm(25, shape=(1, 5, 5))


def convolutional() -> torch.nn.Module:
    """3C3-MP2-2C3-MP2-4FC-3 on 5 x 5 images, padding 1, signs, stochastic batch norm."""

    def law(shape: torch.Size, rng: torch.Generator) -> Bernoulli:
        return Bernoulli(0.6 * torch.randn(shape, generator=rng))

    options = {"channels": (3, 2), "units": 4, "activation": "sign", "affine": True}
    return build("lenet", IMAGE, CLASSES, law, generator("images"), "stochastic", **options).double()


def images(n: int) -> torch.Tensor:
    return torch.randn((n, 1, 5, 5), generator=generator("images", n), dtype=F64) + 0.7


def every_filter(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All 512 filters of 3 x 3 signs and their probabilities under means theta (1, 3, 3)."""
    bank = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 9)
    return bank.view(512, 1, 3, 3), ((1 + bank * theta.flatten()) / 2).prod(1)


def test_propagated_statistics_of_a_convolution_are_those_of_all_filters_at_every_position():
    model, x = convolutional(), images(20)
    statistics = reestimate(model, Reading(Moments(), StochasticSign()), x, generator("unused"))
    name, law = next(iter(statistics.layers)), next(law for _, law in laws(model))
    for channel, theta in enumerate(law.mean().detach()):
        bank, p = every_filter(theta)
        sums = F.conv2d(x, bank, padding=1)  # (20, 512, 5, 5)
        mean = torch.einsum("bfhw,f->bhw", sums, p)
        variance = torch.einsum("bfhw,f->bhw", (sums - mean[:, None]).square(), p)
        torch.testing.assert_close(statistics.mean(name)[channel], mean.mean(), **CLOSE)
        torch.testing.assert_close(statistics.variance(name)[channel], variance.mean() + mean.var(), **CLOSE)
        scalar_taps = (x.square().mean() * 9 - F.conv2d(x.square(), theta[None].square(), padding=1)).mean()
        assert abs(scalar_taps - variance.mean()) > 0.1  # nine taps everywhere: wrong at the border


def test_a_drawn_convolutional_network_is_plain_convolutions_under_its_own_statistics():
    model, train, test = convolutional(), images(60), images(7)
    reading = Reading(drawn_weights(model, generator("draw")), SIGNS)
    weights = weights_of(model, reading.weights.weights.__getitem__)
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]

    def normal(h: torch.Tensor, by: torch.Tensor, norm: BatchNorm, *, unbiased: bool) -> torch.Tensor:
        entries = by.movedim(1, 0).flatten(1)
        per_channel = (1, -1) + (1,) * (h.ndim - 2)
        mean, variance = entries.mean(1).view(per_channel), entries.var(1, unbiased=unbiased).view(per_channel)
        return (h - mean) / (variance + norm.eps).sqrt()  # gain 1 and bias 0 at the start

    def signs(h: torch.Tensor) -> torch.Tensor:
        return torch.where(h < 0, -1.0, 1.0).to(F64)

    seen, x = train, test
    for w, norm in zip(weights[:2], norms[:2], strict=True):
        seen, x = (F.conv2d(v, w, padding=1) for v in (seen, x))
        seen, x = normal(seen, seen, norm, unbiased=False), normal(x, seen, norm, unbiased=True)
        seen, x = (signs(F.max_pool2d(v, 2)) for v in (seen, x))
    seen, x = seen.flatten(1), x.flatten(1)
    for i, (w, norm) in enumerate(zip(weights[2:], norms[2:], strict=True)):
        seen, x = seen @ w.T, x @ w.T
        seen, x = normal(seen, seen, norm, unbiased=False), normal(x, seen, norm, unbiased=True)
        if i == 0:
            seen, x = signs(seen), signs(x)
    statistics = reestimate(model, reading, train, generator("unused"))
    torch.testing.assert_close(logits(model, reading, statistics, test, generator("unused")), x, **CLOSE)


def test_a_training_pass_of_a_convolutional_network_reaches_every_mean_and_draws_no_weight():
    model, method, tape = convolutional(), make("blrnet"), Tape()
    x = images(30)
    output = model(x, method.train(0.0).during(Training(), tape), generator("pass"))
    method.loss(output, torch.arange(30) % CLASSES).backward()
    assert tape.drawn == []
    for _, law in laws(model):
        assert law.natural.grad.isfinite().all()
        assert (law.natural.grad != 0).to(F64).mean() > 0.99
