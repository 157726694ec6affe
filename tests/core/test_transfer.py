"""Transfer initialisation: means from a full-precision twin, real parts copied, misfits refused by layer name."""

import dataclasses

import pytest
import torch

import methods
from core import architectures
from core.architectures import InputForm, real_law
from core.claims import laws
from core.fit import Run
from core.interface import Budget, Preparation
from core.laws import Bernoulli, Point, initial_uniform
from core.seeds import generator
from core.transfer import TransferError, transfer, transferred

FORM = InputForm(12)


def network(law=real_law, **options):
    return architectures.build("mlp", FORM, 3, law, generator("transfer"), **{"widths": (8, 6), **options})


def bernoulli(shape, rng):
    return Bernoulli(initial_uniform(shape, rng))


def test_means_are_the_weights_over_their_deviation_clipped():
    source, model = network(), network(bernoulli)
    transfer(source, model)
    for (_, given), (_, law) in zip(laws(source), laws(model), strict=True):
        expected = (given.mean() / given.mean().std()).clamp(-0.9, 0.9)
        torch.testing.assert_close(law.mean(), expected, rtol=0, atol=1e-6)  # atanh and tanh in float32
        assert expected.abs().max() == 0.9  # uniform weights reach 1.7 deviations


def test_the_likeliest_network_after_transfer_has_the_signs_of_the_full_precision_one():
    source, model = network(), network(bernoulli)
    transfer(source, model)
    for (_, given), (_, law) in zip(laws(source), laws(model), strict=True):
        assert torch.equal(law.mode(), torch.where(given.mean() >= 0, 1.0, -1.0))


def test_real_layers_and_affine_batch_norm_are_copied():
    options = {"affine": True, "last": "real"}
    source, model = network(**options), network(bernoulli, **options)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.uniform_(0.5, 1.5, generator=generator("values"))
    transfer(source, model)
    given = dict(source.named_parameters())
    real = [(name, p) for name, p in model.named_parameters() if not name.endswith("natural")]
    assert len(real) == 7  # gain and bias of three batch norms, the last layer
    assert all(torch.equal(p, given[name]) for name, p in real)


@pytest.mark.parametrize("largest", [0.0, 1.0, -0.5, 2.0])
def test_a_certain_mean_is_refused(largest):
    with pytest.raises(ValueError, match=rf"largest must be in \(0, 1\).*got {largest}"):
        transfer(network(), network(bernoulli), largest=largest)


def test_a_network_of_another_shape_is_refused_by_layer_and_nothing_is_changed():
    model = network(bernoulli)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(TransferError, match=r"layer 'layers.4.law': .* has weights \(7, 8\), this one \(6, 8\)"):
        transfer(network(widths=(8, 7)), model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_missing_layer_is_named():
    with pytest.raises(TransferError, match=r"has no layer 'layers.8.law'; it has layers.0.law, layers.4.law"):
        transfer(network(widths=(8,)), network(bernoulli, widths=(8, 3)))


def test_other_real_parts_are_named():
    with pytest.raises(TransferError, match=r"parameter 'layers.1.weight' of shape \(8,\): .* has none"):
        transfer(network(), network(bernoulli, affine=True))


def test_a_law_without_a_mean_to_set_is_named_with_the_alternative():
    made = []

    def mixed(shape, rng):  # the last layer is the one that does not fit
        made.append((bernoulli if len(made) < 2 else lambda shape, rng: Point(initial_uniform(shape, rng)))(shape, rng))
        return made[-1]

    model = network(mixed)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(TransferError, match="'layers.8.law': the mean of a Point law is not set here; use Bernoulli"):
        transfer(network(), model)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_weights_that_are_all_equal_have_no_scale_and_are_refused():
    source = network()
    with torch.no_grad():
        source.layers[0].law.latents.fill_(0.25)
    with pytest.raises(TransferError, match="'layers.0.law': the weights to transfer are all equal, 0.25"):
        transfer(source, network(bernoulli))


def preparation(activation="sign", steps=40):
    inputs = torch.randn(64, 12, generator=generator("inputs"))
    train = type("Split", (), {"inputs": inputs, "labels": (inputs[:, 0] > 0).long()})
    built: list[dict] = []

    def twin(law, **changed):
        built.append(changed)
        return network(law, **{"activation": activation, **changed})

    model = network(bernoulli, activation=activation)
    given = Preparation(
        model=model,
        problem=type("Problem", (), {"train": train}),
        budget=Budget(64, 16, steps),
        schedule="cosine",
        rng=generator("noise"),
        order=generator("order"),
        twin=twin,
    )
    return given, built


def test_the_twin_takes_its_share_of_the_budget_and_leaves_trained_means():
    given, built = preparation()
    before = [law.mean().clone() for _, law in laws(given.model)]
    prepared = transferred(given, methods.make("full-precision"), 0.3)
    assert prepared.steps == 12 and built == [{"activation": "hardtanh"}]
    assert all((law.mean() - old).abs().max() > 0.1 for (_, law), old in zip(laws(given.model), before, strict=True))


def test_a_real_network_keeps_its_activation_in_the_twin():
    given, built = preparation(activation="relu")
    transferred(given, methods.make("full-precision"), 0.5)
    assert built == [{}]


def test_a_twin_that_diverges_is_an_error_that_says_so():
    given, _ = preparation()
    control = methods.make("full-precision")
    with pytest.raises(RuntimeError, match="full-precision network to transfer from has diverged: loss not finite"):
        transferred(given, dataclasses.replace(control, loss=lambda output, labels: output.sum() * torch.nan), 0.5)


def test_the_cell_runs_what_the_twin_left_of_its_steps():
    given, _ = preparation()
    method = methods.make("blrnet", transfer=0.25)
    model = architectures.build("mlp", FORM, 3, method.law, generator("model"), "stochastic", widths=(8, 6))
    given = dataclasses.replace(given, model=model, twin=lambda law, **changed: network(law, **changed))
    prepared = method.prepare(given)
    train = given.problem.train
    run = Run(
        model,
        method,
        train.inputs,
        train.labels,
        given.budget,
        schedule="cosine",
        order=given.order,
        noise=given.rng,
        prepared=prepared,
    )
    assert run.done == 10
