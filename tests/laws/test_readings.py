"""Draw and Tape against a hand-written backward pass; what the prediction-only readings refuse."""

import numpy as np
import pytest
import torch
from torch import nn

from core.contractions import Dense
from core.geometry import EUCLIDEAN
from core.interface import Reading, Tape, UnsupportedReading
from core.laws import Bernoulli, Point, Real
from core.layers import BinaryLinear, Chain
from core.ops import ClippedStraightThrough, FlooredRelaxedSign, Identity, RelaxedSign, StraightThrough
from core.readings import Draw, Fixed, MeanWeights, SignActivation, drawn_weights, mode_weights

LAWS = [Point, Bernoulli]
SURROGATES = [StraightThrough(), ClippedStraightThrough(0.7), RelaxedSign(0.5), FlooredRelaxedSign(0.5, 0.1)]
EVERY_PAIR = pytest.mark.parametrize("law_of, surrogate", [(law, s) for law in LAWS for s in SURROGATES], ids=repr)
SIGN = SignActivation(StraightThrough())


class Toy(nn.Module):
    """x (B, 5) -> tanh(x W1^T) W2^T: two laws and a smooth activation, so that nothing but the draw is estimated."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = BinaryLinear(first), BinaryLinear(second)

    def forward(self, x, reading, rng):
        return self.second(torch.tanh(self.first(x, reading, rng)), reading, rng)


def toy(law_of, rng):
    start = [1.5 * (2 * torch.rand(*shape, generator=rng, dtype=torch.float64) - 1) for shape in [(4, 5), (3, 4)]]
    return Toy(*[law_of(natural) for natural in start])


def latents(model: Toy, rng) -> list[np.ndarray]:
    """The latents of one pass that would draw from this generator state, layer by layer in the order of the pass."""
    return [layer.law.latent(layer.law.noise(rng)).detach().numpy() for layer in (model.first, model.second)]


def by_hand(latent: list[np.ndarray], surrogate, x: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """Gradients of mean over the batch of |y - target|^2 / 2 in both latents: chain rule, then times the slope."""
    z1, z2 = (torch.from_numpy(z) for z in latent)
    w1, w2 = surrogate(z1).numpy(), surrogate(z2).numpy()
    hidden = np.tanh(x @ w1.T)
    error = (hidden @ w2.T - target) / len(x)
    in_w2 = error.T @ hidden
    in_w1 = ((error @ w2) * (1 - hidden**2)).T @ x
    return [in_w1 * surrogate.slope(z1).numpy(), in_w2 * surrogate.slope(z2).numpy()]


def batch(rng):
    return (torch.randn(6, width, generator=rng, dtype=torch.float64) for width in (5, 3))


def loss_of(model, reading, x, target, rng):
    return (model(x, reading, rng) - target).square().sum(1).mean() / 2


def gradients(model: Toy) -> list[torch.Tensor]:
    return [layer.law.coordinates()[0].parameter.grad for layer in (model.first, model.second)]


@EVERY_PAIR
def test_the_tape_gives_the_gradient_at_the_drawn_weights_times_the_slope(law_of, surrogate, rng):
    model, (x, target) = toy(law_of, rng), batch(rng)
    state = rng.get_state()
    expected = by_hand(latents(model, rng), surrogate, x.numpy(), target.numpy())
    rng.set_state(state)

    tape = Tape()
    loss_of(model, Reading(Draw(surrogate), SIGN, tape=tape), x, target, rng).backward()
    assert gradients(model) == [None, None]  # backward ends at the drawn leaves
    tape.pull_back()
    for ours, theirs in zip(gradients(model), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-14)  # sums of at most 6 x 4 products


@EVERY_PAIR
def test_a_law_drawn_in_two_passes_accumulates_both_gradients(law_of, surrogate, rng):
    model, (x, target) = toy(law_of, rng), batch(rng)
    state = rng.get_state()
    passes = [by_hand(latents(model, rng), surrogate, x.numpy(), target.numpy()) for _ in range(2)]
    rng.set_state(state)

    tape = Tape()
    reading = Reading(Draw(surrogate), SIGN, tape=tape)
    (loss_of(model, reading, x, target, rng) + loss_of(model, reading, x, target, rng)).backward()
    tape.pull_back()
    for ours, first, second in zip(gradients(model), *passes, strict=True):
        np.testing.assert_allclose(ours.numpy(), first + second, rtol=1e-12, atol=1e-14)
    assert len(tape.drawn) == 4


def test_pull_back_adds_to_gradients_that_are_already_there(rng):
    model, (x, target) = toy(Point, rng), batch(rng)
    for _ in range(2):
        tape = Tape()
        loss_of(model, Reading(Draw(StraightThrough()), SIGN, tape=tape), x, target, rng).backward()
        tape.pull_back()
    once = by_hand(latents(model, rng), StraightThrough(), x.numpy(), target.numpy())
    for ours, theirs in zip(gradients(model), once, strict=True):
        np.testing.assert_allclose(ours.numpy(), 2 * theirs, rtol=1e-12, atol=1e-14)


def test_a_draw_that_does_not_reach_the_loss_leaves_no_gradient(rng):
    model, tape = toy(Bernoulli, rng), Tape()
    x, _ = batch(rng)
    reading = Reading(Draw(RelaxedSign(0.5)), SIGN, tape=tape)
    model.first(x, reading, rng)
    model.second(torch.ones(1, 4, dtype=torch.float64), reading, rng).sum().backward()
    tape.pull_back()
    assert gradients(model)[0] is None
    assert gradients(model)[1].abs().sum() > 0


def test_the_gradient_reaches_the_input_through_the_drawn_weights(rng):
    law = Point(torch.tensor([[0.3, -2.0, 0.0]], dtype=torch.float64))
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    Draw(StraightThrough())(law, Dense(), x, rng, Tape()).sum().backward()
    assert x.grad.tolist() == [[1.0, -1.0, 1.0]]


@EVERY_PAIR
def test_every_pass_draws_anew_and_evaluation_draws_the_same_without_a_tape(law_of, surrogate, rng):
    model, (x, _) = toy(law_of, rng), batch(rng)
    state = rng.get_state()
    taped = [model(x, Reading(Draw(surrogate), SIGN, tape=Tape()), rng) for _ in range(2)]
    rng.set_state(state)
    free = [model(x, Reading(Draw(surrogate), SIGN), rng) for _ in range(2)]
    for one, other in zip(taped, free, strict=True):
        assert torch.equal(one, other)
    drawn_twice_alike = torch.equal(free[0], free[1])
    assert drawn_twice_alike == (law_of is Point)  # 32 relaxed or sampled weights agree with probability 2^-32 at most


@pytest.mark.parametrize("surrogate", SURROGATES, ids=repr)
def test_a_real_law_is_read_as_it_is_whatever_the_surrogate(surrogate, rng):
    weights = torch.tensor([[0.3, -2.0, 0.0]], dtype=torch.float64)
    law, tape = Real(weights.clone()), Tape()
    x = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64)
    y = Draw(surrogate)(law, Dense(), x, rng, tape)
    assert torch.equal(y, x @ weights.T)
    y.sum().backward()
    tape.pull_back()
    assert torch.equal(law.coordinates()[0].parameter.grad, x)


def test_the_full_precision_reading_is_ordinary_backpropagation(rng):
    model, (x, target) = toy(Real, rng), batch(rng)
    tape = Tape()
    loss_of(model, Reading(Draw(Identity()), SIGN, tape=tape), x, target, rng).backward()
    tape.pull_back()
    first, second = (layer.law.coordinates()[0].parameter for layer in (model.first, model.second))
    w1, w2 = first.detach().clone().requires_grad_(), second.detach().clone().requires_grad_()
    ((torch.tanh(x @ w1.T) @ w2.T - target).square().sum(1).mean() / 2).backward()
    torch.testing.assert_close(gradients(model), [w1.grad, w2.grad], rtol=1e-12, atol=1e-14)


def test_mean_weights_contract_with_the_mean(rng):
    law = Bernoulli(torch.tensor([[0.3, -2.0, 0.0]], dtype=torch.float64))
    x = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    before = rng.get_state()
    y = MeanWeights()(law, Dense(), x, rng, None)
    np.testing.assert_allclose(y.detach().numpy(), x.numpy() @ np.tanh([[0.3], [-2.0], [0.0]]), rtol=1e-12)
    assert torch.equal(rng.get_state(), before)


def test_fixed_weights_are_contracted_as_given_in_every_pass(rng):
    law = Bernoulli(torch.zeros(1, 3))
    weights = torch.tensor([[1.0, -1.0, 1.0]])
    x, fixed = torch.tensor([[1.0, 2.0, 5.0]]), Fixed({law: weights})
    for _ in range(2):
        assert fixed(law, Dense(), x, rng, None).tolist() == [[4.0]]


@pytest.mark.parametrize("reading", [MeanWeights(), Fixed({})], ids=["MeanWeights", "Fixed"])
def test_prediction_readings_refuse_to_train_and_name_the_reading_that_does(reading, rng):
    law = Bernoulli(torch.zeros(1, 3))
    if isinstance(reading, Fixed):
        reading = Fixed({law: torch.ones(1, 3)})
    with pytest.raises(UnsupportedReading, match=rf"{type(reading).__name__}.*Draw"):
        reading(law, Dense(), torch.ones(1, 3), rng, Tape())


def net(*laws) -> Chain:
    return Chain(*[BinaryLinear(law) for law in laws])


def test_mode_weights_are_every_laws_mode():
    first = Bernoulli(torch.tensor([[0.3, -2.0, 0.0]]))
    second, third = Point(torch.tensor([[-0.1]])), Real(torch.tensor([[0.7]]))
    fixed = mode_weights(net(first, second, third))
    assert fixed.weights[first].tolist() == [[1.0, -1.0, 1.0]]
    assert fixed.weights[second].tolist() == [[-1.0]]
    assert torch.equal(fixed.weights[third], torch.tensor([[0.7]]))


def test_drawn_weights_are_signs_whose_mean_is_the_laws(rng):
    naturals = torch.tensor([[-1.0, 0.0, 0.4, 2.0]]).repeat(20_000, 1)
    law = Bernoulli(naturals)
    weights = drawn_weights(net(law), rng).weights[law]
    assert set(weights.unique().tolist()) == {-1.0, 1.0}
    assert ((weights.mean(0) - torch.tanh(naturals[0])).abs() <= 5 / 20_000**0.5).all()
    assert not weights.requires_grad


def test_fixed_weights_outlive_a_change_of_the_law(rng):
    laws = [Bernoulli(torch.ones(1, 3)), Point(torch.ones(1, 3)), Real(torch.ones(1, 3))]
    model = net(*laws)
    for fixed in (mode_weights(model), drawn_weights(model, rng)):
        before = [fixed.weights[law].clone() for law in laws]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1)
        assert all(torch.equal(fixed.weights[law], was) for law, was in zip(laws, before, strict=True))


def test_laws_default_to_a_geometry_and_keep_the_one_given():
    assert Point(torch.ones(2)).coordinates()[0].geometry == EUCLIDEAN
    assert Real(torch.ones(2)).coordinates()[0].geometry == EUCLIDEAN
