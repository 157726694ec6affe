"""Readings: what one pass does with a law's weights, where backward ends, and which draws are exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.contractions import Dense
from core.interface import Reading, Tape, UnsupportedReading
from core.laws import Bernoulli, Point, Real
from core.layers import BinaryLinear
from core.ops import ClippedStraightThrough, Identity, RelaxedSign, StraightThrough, sign
from core.readings import Draw, Fixed, MeanWeights, SignActivation, drawn_weights, mode_weights
from core.seeds import generator

SIGNS = SignActivation(StraightThrough())


def normal(*shape: int, part: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=generator("readings", part, *shape), dtype=torch.float64)


def bernoulli(*shape: int) -> Bernoulli:
    return Bernoulli(normal(*shape, part="natural"))


class Two(nn.Module):
    """Two laws of different kinds, as a network holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.coins = bernoulli(30, 20)
        self.points = Point(normal(7, 5, part="latent"))


# ---------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("surrogate", [StraightThrough(), ClippedStraightThrough(0.5), RelaxedSign(0.3)])
def test_draw_contracts_the_surrogate_of_the_latent_that_the_passed_generator_gives(surrogate):
    law, x = bernoulli(4, 6), normal(3, 6)
    noise = law.noise(generator("draw"))
    expected = F.linear(x, surrogate(law.natural.detach() + noise))
    assert torch.equal(Draw(surrogate)(law, Dense(), x, generator("draw"), None), expected)


def test_a_pass_repeats_bitwise_from_the_same_generator_and_differs_from_another():
    model, x = BinaryLinear(bernoulli(40, 30)), normal(3, 30)
    reading = Reading(Draw(StraightThrough()), SIGNS)
    first, again, other = (model(x, reading, generator("pass", i)) for i in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_consecutive_passes_draw_anew():
    model, x, rng = BinaryLinear(bernoulli(40, 30)), normal(3, 30), generator("pass")
    reading = Reading(Draw(StraightThrough()), SIGNS)
    assert not torch.equal(model(x, reading, rng), model(x, reading, rng))


def test_backward_ends_at_the_drawn_leaf_and_pull_back_is_the_chain_rule_through_the_slope():
    # loss = sum(c * (x W^T)) has dloss/dW = c^T x exactly, so d loss / d lambda = (c^T x) * slope(lambda + noise).
    law, x, c, surrogate = bernoulli(4, 6), normal(3, 6), normal(3, 4, part="c"), RelaxedSign(0.7)
    tape = Tape()
    (Draw(surrogate)(law, Dense(), x, generator("tape"), tape) * c).sum().backward()
    assert law.natural.grad is None
    (drawn,) = tape.drawn
    assert drawn.law is law and drawn.weights.is_leaf
    tape.pull_back()
    latent = law.natural.detach() + law.noise(generator("tape"))
    expected = (c.T @ x) / (0.7 * torch.cosh(latent / 0.7) ** 2)
    torch.testing.assert_close(law.natural.grad, expected, rtol=1e-12, atol=1e-12)  # two roundings per factor


def test_a_relaxed_draw_pulls_back_the_true_derivative_of_its_pass():
    # autograd through tanh((lambda + delta) / temperature), written out here, against the tape
    law, x, temperature = bernoulli(4, 6), normal(3, 6), 0.4
    tape = Tape()
    Draw(RelaxedSign(temperature))(law, Dense(), x, generator("twin"), tape).square().sum().backward()
    tape.pull_back()
    natural = law.natural.detach().clone().requires_grad_()
    weights = torch.tanh((natural + law.noise(generator("twin"))) / temperature)
    (x @ weights.T).square().sum().backward()
    # 1 - tanh^2 by subtraction (autograd) loses up to |latent / temperature| ~ 10 nats: 1e-16 e^{20} relative
    torch.testing.assert_close(law.natural.grad, natural.grad, rtol=1e-7, atol=1e-12)


def test_draws_accumulate_into_the_gradient_as_backward_does():
    law, x, tape = bernoulli(4, 6), normal(3, 6), Tape()
    reading, rng = Draw(RelaxedSign(0.5)), generator("accumulate")
    singles = []
    for _ in range(2):
        single = Tape()
        reading(law, Dense(), x, rng, single).sum().backward()
        single.pull_back()
        singles.append(law.natural.grad)
        law.natural.grad = None
    rng = generator("accumulate")
    (reading(law, Dense(), x, rng, tape) + reading(law, Dense(), x, rng, tape)).sum().backward()
    tape.pull_back()
    assert len(tape.drawn) == 2
    torch.testing.assert_close(law.natural.grad, singles[0] + singles[1], rtol=1e-14, atol=0)


def test_draw_without_a_tape_leaves_no_graph_behind():
    law, x = bernoulli(4, 6), normal(3, 6).requires_grad_()
    out = Draw(StraightThrough())(law, Dense(), x, generator("eval"), None)
    out.sum().backward()
    assert law.natural.grad is None and x.grad is not None  # the signal still carries gradients


@pytest.mark.parametrize("surrogate", [StraightThrough(), RelaxedSign(0.1)])
def test_a_real_law_is_read_as_it_is_whatever_the_surrogate(surrogate):
    law, x, tape = Real(normal(4, 6, part="real")), normal(3, 6), Tape()
    out = Draw(surrogate)(law, Dense(), x, generator("real"), tape)
    assert torch.equal(out, F.linear(x, law.latents))
    out.sum().backward()
    tape.pull_back()
    assert torch.equal(law.latents.grad, x.sum(0).expand(4, 6))


def test_a_network_of_real_weights_reads_latents_and_slopes_of_one():
    law, x, tape = Real(normal(4, 6, part="real")), normal(3, 6), Tape()
    Draw(Identity())(law, Dense(), x, generator("real"), tape).square().sum().backward()
    tape.pull_back()
    latents = law.latents.detach().clone().requires_grad_()
    F.linear(x, latents).square().sum().backward()
    assert torch.equal(law.latents.grad, latents.grad)


# ------------------------------------------------------------------------------------------ mean, mode, fixed


def test_mean_weights_contract_the_mean_and_draw_nothing():
    law, x, rng = bernoulli(4, 6), normal(3, 6), generator("mean")
    before = rng.get_state()
    out = MeanWeights()(law, Dense(), x, rng, None)
    assert torch.equal(out, F.linear(x, torch.tanh(law.natural.detach())))
    assert torch.equal(rng.get_state(), before) and not out.requires_grad


@pytest.mark.parametrize("reading", [MeanWeights(), Fixed({})])
def test_prediction_readings_refuse_a_tape_and_name_what_trains(reading):
    with pytest.raises(UnsupportedReading, match=r"no pull-back; train with Draw\(surrogate\)"):
        reading(bernoulli(4, 6), Dense(), normal(3, 6), generator("x"), Tape())


def test_mode_weights_are_every_laws_mode_and_stay_when_the_law_moves():
    model = Two()
    fixed = mode_weights(model)
    expected = {law: law.mode().detach().clone() for law in (model.coins, model.points)}
    with torch.no_grad():
        model.coins.natural.neg_()
        model.points.latents.neg_()
    assert set(fixed.weights) == {model.coins, model.points}
    for law, weights in fixed.weights.items():
        assert torch.equal(weights, expected[law])
        assert torch.equal(weights, -law.mode())  # no zeros here: negated parameters, negated signs


def test_fixed_weights_of_a_real_law_stay_when_the_law_moves():
    law = Real(normal(4, 6, part="real"))
    before = law.latents.detach().clone()
    fixed, drawn = mode_weights(law), drawn_weights(law, generator("x"))
    with torch.no_grad():
        law.latents.add_(1.0)
    assert torch.equal(fixed.weights[law], before) and torch.equal(drawn.weights[law], before)


def test_drawn_weights_are_in_the_level_set_exactly_whatever_the_training_relaxation():
    model = Two()
    for law, weights in drawn_weights(model, generator("levels")).weights.items():
        assert weights.shape == law.shape
        assert set(weights.unique().tolist()) <= set(law.levels)


def test_drawn_weights_are_signs_of_the_latent_at_the_generators_noise():
    model = Two()
    drawn = drawn_weights(model, generator("exact")).weights
    noise = model.coins.noise(generator("exact"))
    assert torch.equal(drawn[model.coins], sign(model.coins.natural.detach() + noise))
    assert torch.equal(drawn[model.points], sign(model.points.latents.detach()))


def test_mean_of_drawn_weights_is_the_mean_of_the_law():
    # n independent signs of mean m average to m with sd <= 1/sqrt(n); 600 weights, so 5 sd is one miss in 3000 suites
    law, rng, n = bernoulli(30, 20), generator("monte carlo"), 2000
    total = sum(drawn_weights(law, rng).weights[law] for _ in range(n))
    assert ((total / n - law.mean().detach()).abs() <= 5 / n**0.5).all()


def test_one_fixed_draw_is_one_network_in_every_pass():
    model, x = BinaryLinear(bernoulli(40, 30)), normal(3, 30)
    reading, rng = Reading(drawn_weights(model, generator("member")), SIGNS), generator("other")
    assert torch.equal(model(x, reading, rng), model(x, reading, rng))


def test_fixed_weights_of_another_network_are_refused_with_a_message():
    fixed = mode_weights(BinaryLinear(bernoulli(4, 6)))
    with pytest.raises(UnsupportedReading, match=r"fixed weights.*no weights for.*\(4, 6\).*mode_weights\(model\)"):
        fixed(bernoulli(4, 6), Dense(), normal(3, 6), generator("x"), None)


# ------------------------------------------------------------------------------------------------ activations


@pytest.mark.parametrize("window", [0.5, 2.0])
def test_sign_activation_is_an_exact_sign_with_slope_one_inside_the_window(window):
    h = torch.tensor([-3.0, -2.0, -1.0, -0.5, -0.0, 0.0, 0.3, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    h.requires_grad_()
    out = SignActivation(ClippedStraightThrough(window))(h, generator("x"))
    assert torch.equal(out, torch.tensor([-1.0] * 4 + [1.0] * 7, dtype=torch.float64))
    out.sum().backward()
    assert torch.equal(h.grad, (h.abs() <= window).double())


def test_sign_activation_draws_nothing():
    rng = generator("x")
    before = rng.get_state()
    SIGNS(normal(3, 6), rng)
    assert torch.equal(rng.get_state(), before)


def test_a_reading_in_another_phase_keeps_its_weights_and_activations():
    class SomePhase:
        training = False
        masks = None

        def normalise(self, name, h, norm):
            return h

    reading, tape, phase = Reading(Draw(StraightThrough()), SIGNS), Tape(), SomePhase()
    during = reading.during(phase, tape)
    assert (during.weights, during.activations) == (reading.weights, reading.activations)
    assert during.phase is phase and during.tape is tape
    assert reading.phase is None and reading.tape is None
