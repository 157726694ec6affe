"""blrnet and blrnet-propagate: what they read, what they refuse, and the options that change a number."""

import pytest
import torch

import methods
from core.fit import fit
from core.interface import Gaussian
from core.laws import Bernoulli
from core.moments import Moments, PropagatedSign, StochasticSign, bce_of_signs, ce_of_means, undecided
from core.statistics import Training
from methods.kit.trials import start

NAMES = ("blrnet", "blrnet-propagate")


@pytest.mark.parametrize("name", NAMES)
def test_training_propagates_moments_and_ends_in_gaussian_logits(name):
    run = start(name, {"transfer": 0.0} if name == "blrnet" else {}, activation="sign")
    reading = run.method.train(0.0)
    assert isinstance(reading.weights, Moments)
    assert isinstance(reading.activations, StochasticSign if name == "blrnet" else PropagatedSign)
    output = run.model(run.inputs.float(), reading.during(Training()), run.noise)
    assert isinstance(output, Gaussian) and output.shape == (len(run.inputs), 3)
    assert run.method.normalisation == "stochastic"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("output", "loss"), [("bce", bce_of_signs), ("ce", ce_of_means)])
def test_both_outputs_are_losses_of_gaussians_and_train(name, output, loss):
    run = start(name, {"output": output})
    assert run.method.loss is loss
    epochs = []
    fit(run, watch=epochs.append)
    assert epochs[-1].train_loss < 0.9 * epochs[0].train_loss


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"output": "mse"}, "output must be one of bce, ce"),
        ({"bound": 0.0}, "bound must be > 0"),
        ({"init": 1.5}, r"means must be in \(-1, 1\)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_bound(name, wrong, says):
    with pytest.raises(ValueError, match=says):
        method = methods.make(name, **wrong)
        method.law(torch.Size((200, 200)), torch.Generator().manual_seed(0))


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature must be finite and > 0"):
        methods.make("blrnet", temperature=0.0)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_to_train_is_refused(share):
    with pytest.raises(ValueError, match=r"transfer must be in \[0, 1\)"):
        methods.make("blrnet", transfer=share)


def test_the_regulariser_is_the_sum_of_p_times_one_minus_p():
    law = Bernoulli(torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64))
    p = law.prob_plus()
    torch.testing.assert_close(undecided(torch.nn.ModuleList([law])), (p * (1 - p)).sum())


def test_certainty_lowers_the_entropy_that_training_ends_with():
    entropies = []
    for weight in (0.0, 10.0):
        run = start("blrnet", {"certainty": weight, "transfer": 0.0})
        fit(run)
        entropies.append(sum(m.entropy().item() for m in run.model.modules() if isinstance(m, Bernoulli)))
    assert entropies[1] < 0.95 * entropies[0]


def test_posteriors_of_bayesbinn_and_blrnet_are_interchangeable():
    ours, theirs = start("blrnet", {}).model, start("bayesbinn", {}).model
    state = {name: value for name, value in theirs.state_dict().items() if "law" in name}
    ours.load_state_dict(state, strict=False)
    for (_, a), (_, b) in zip(ours.named_modules(), theirs.named_modules(), strict=True):
        if isinstance(a, Bernoulli):
            assert torch.equal(a.prob_plus(), b.prob_plus())
