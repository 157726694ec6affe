"""Binarising layer by layer: targets of the real network, inputs of the binary one, kinds of layers, facts told."""

import numpy as np
import pytest
import torch

from core import architectures
from core.architectures import InputForm, real_law
from core.claims import laws
from core.interface import Reading, UnsupportedReading
from core.laws import Point, Settled, initial_uniform
from core.layers import BatchNorm
from core.ops import ClippedStraightThrough
from core.predict import mode, predict
from core.readings import SignActivation, mode_weights
from core.seeds import generator
from core.statistics import Estimation, Statistics
from solvers.layerwise import binarise, chosen_rows, copy_real_parts, fitted
from solvers.sign_regression import Fit, Regression, RelaxedAndRounded, descended, kept

SIGNS = SignActivation(ClippedStraightThrough())
FLAT = InputForm(12, shift=100.0, scale=50.0, maximum=255.0, integer=True)
IMAGES = InputForm(64, shift=100.0, scale=50.0, maximum=255.0, integer=True, shape=(1, 8, 8))
RELAXED = RelaxedAndRounded(gap=1e-2, turns=1, hyperplanes=10, largest=100)
KINDS = {
    "mlp": ("mlp", FLAT, {"widths": (10, 8)}),
    "mlp, signs": ("mlp", FLAT, {"widths": (10, 8), "activation": "sign"}),
    "mlp, real ends and gains": ("mlp", FLAT, {"widths": (10, 8, 6), "first": "real", "last": "real", "affine": True}),
    "lenet": ("lenet", IMAGES, {"channels": (4, 6), "units": 8}),
    "lenet, learned scales": ("lenet", IMAGES, {"channels": (4, 6), "units": 8, "channel_scale": "learned"}),
    "vgg-small, padded inside": ("vgg-small", IMAGES, {"channels": (4,), "units": 8, "hidden": 1}),
}


def settled(shape, rng):
    return Settled(initial_uniform(shape, rng))


def built(kind, law):
    name, form, options = KINDS[kind]
    return architectures.build(name, form, 3, law, generator("layerwise", kind), **options).double()


def pixels(kind, count=48):
    form = KINDS[kind][1]
    shape = (count, *form.shape) if form.shape else (count, form.features)
    return torch.randint(256, shape, generator=generator("layerwise inputs")).double()


def binarised(kind, fit=descended, rows=300, seed=0):
    twin, model = built(kind, real_law), built(kind, settled)
    layers = binarise(model, twin, pixels(kind), fit, SIGNS, torch.Generator().manual_seed(seed), rows=rows)
    return twin, model, layers


def outputs(model, weights, inputs):
    """Each law's outputs, by its place, in one pass that normalises with the batch."""
    seen = []

    def reading(law, contract, x, rng, tape):
        seen.append(contract(x, weights(law)))
        return seen[-1]

    model(inputs, Reading(reading, SIGNS, Estimation(Statistics())), torch.Generator())
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_every_binary_layer_is_fitted_in_the_order_of_the_pass(kind):
    _, model, layers = binarised(kind)
    binary = {name: law for name, law in laws(model) if law.levels is not None}
    assert [layer["layer"] for layer in layers] == list(binary)
    assert [tuple(layer["weights"]) for layer in layers] == [tuple(law.shape) for law in binary.values()]
    for law in binary.values():
        assert set(law.mode().unique().tolist()) <= {-1.0, 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_signs_reproduce_the_real_network_better_than_its_own_signs(kind):
    _, _, layers = binarised(kind)
    for layer in layers:
        assert layer["floor"] <= layer["error"] <= layer["signs_error"]
        assert "bound" not in layer and layer["proven"] == 0  # descent proves nothing
    assert sum(layer["error"] for layer in layers) < sum(layer["signs_error"] for layer in layers)


@pytest.mark.parametrize("kind", ["mlp", "lenet"])
def test_errors_told_are_those_of_the_networks(kind):
    twin, model, layers = binarised(kind, fit=kept, rows=10**9)
    targets = outputs(twin, lambda law: law.mode(), pixels(kind))
    found = outputs(model, lambda law: law.mode(), pixels(kind))
    for layer, y, h in zip(layers, targets, found, strict=True):
        y, h = (t.transpose(0, 1).flatten(1) for t in (y, h))
        y, h = y - y.mean(1, keepdim=True), h - h.mean(1, keepdim=True)
        # at its best scale a neuron leaves 1 - correlation^2; own signs on inputs of their own may disagree, then power
        # is matched: |y - a h|^2 = 2 |y|^2 - 2 a y'h
        agreement, power = (y * h).sum(1), (h * h).sum(1)
        scale = torch.where(agreement > 0, agreement / power, (y.square().sum(1) / power).sqrt())
        errors = (y - scale[:, None] * h).square().sum(1) / y.square().sum(1)
        assert layer["error"] == pytest.approx(errors.mean().item(), rel=1e-9)
        assert layer["rows"] == y.shape[1]


def test_bounds_hold_and_gaps_are_what_they_are_called():
    _, _, layers = binarised("mlp", RELAXED)
    for layer in layers:
        assert layer["proven"] == layer["neurons"]
        assert 0 <= layer["bound"] <= layer["error"]
        assert layer["gap"] == pytest.approx((layer["error"] - layer["bound"]) / layer["error"])
        price = layer["error"] - layer["floor"]
        assert layer["avoidable"] == pytest.approx((layer["error"] - layer["bound"]) / price)


@pytest.mark.parametrize("unproven", [0.9, -3.0, np.nan, np.inf])
def test_a_bound_without_proof_counts_nothing(unproven):
    rng = np.random.default_rng(0)
    problem = Regression.of(rng.standard_normal((30, 4)), rng.standard_normal((30, 3)))

    def fit(part, start, seed):
        found = kept(part, start, seed)
        shares = np.array([0.25, unproven, 0.5])
        return Fit(found.signs, found.scales, found.errors, shares * part.squares, np.array([True, False, True]))

    _, facts = fitted(problem, np.ones((3, 4)), fit, 0)
    assert facts["proven"] == 2
    assert facts["bound"] == pytest.approx(0.75 / 3, rel=1e-12)  # a mean of three shares, the middle one 0


def test_signs_that_the_inputs_take_to_nothing_leave_facts_that_are_numbers():
    half = np.random.default_rng(0).choice([-1.0, 1.0], (50, 2))
    problem = Regression.of(np.hstack([half, half]), half @ np.ones((2, 2)))
    for fit in (RELAXED, descended, kept):
        _, facts = fitted(problem, np.array([[1.0, 1, -1, -1], [1, -1, -1, 1]]), fit, 0)
        assert np.isfinite([value for value in facts.values()]).all()
        assert facts["signs_error"] == pytest.approx(1, rel=1e-12)  # what explains nothing


def test_binary_network_is_found_again():
    """A real network whose weights are signs, times any scales: every layer is exact, given that the ones below are."""
    twin, model = built("mlp", real_law), built("mlp", settled)
    rng = generator("planted")
    for _, law in laws(twin):
        with torch.no_grad():
            planted = torch.where(torch.rand(law.shape, generator=rng) < 0.5, -1.0, 1.0)
            law.latents.copy_(planted * (0.1 + torch.rand(law.shape[0], 1, generator=rng)))
    layers = binarise(model, twin, pixels("mlp"), RELAXED, SIGNS, rng, rows=300)
    for (_, real), (_, law) in zip(laws(twin), laws(model), strict=True):
        assert torch.equal(law.mode(), real.mode().sign())
    # the scales of neurons differ, and batch norm's eps of 1e-4 takes of each another share of its variance of hundreds
    assert all(layer["error"] < 1e-7 for layer in layers)
    # the errors vanish to rounding, and a gap is measured against a millionth of the variance at least
    assert all(abs(layer["gap"]) < 2e-2 for layer in layers)


def test_real_parts_are_copied():
    twin, model = built("mlp, real ends and gains", real_law), built("mlp, real ends and gains", settled)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.uniform_(0.5, 1.5, generator=generator("gains"))
    copy_real_parts(twin, model)
    given = dict(twin.named_parameters())
    names = [name for name, p in model.named_parameters()]
    assert len(names) == 10  # two real layers, gain and bias of four norms
    assert all(torch.equal(p, given[name]) for name, p in model.named_parameters())


def test_learned_scales_stay_one_beside_copied_norms():
    twin, model, _ = binarised("lenet, learned scales")
    scales = [p for name, p in model.named_parameters() if name.endswith("scale")]
    assert len(scales) == 4 and all((scale == 1).all() for scale in scales)
    assert len([m for m in twin.modules() if isinstance(m, BatchNorm)]) == 4


def test_networks_of_other_shapes_are_refused_by_layer():
    other = architectures.build("mlp", FLAT, 3, real_law, generator("other"), widths=(10, 9))
    with pytest.raises(ValueError, match=r"layers\.4\.law.*\(9, 10\) there, \(8, 10\) here"):
        copy_real_parts(other, built("mlp", settled))


def test_rows_are_drawn_from_the_generator():
    first, again, other = (binarised("lenet", rows=40, seed=s) for s in (0, 0, 1))
    same = [torch.equal(a.mode(), b.mode()) for (_, a), (_, b) in zip(laws(first[1]), laws(again[1]), strict=True)]
    assert all(same) and all(layer["rows"] <= 40 for layer in first[2])
    assert first[2][0]["error"] != other[2][0]["error"]


def test_chosen_rows_are_those_of_the_whole():
    model, inputs = built("lenet", real_law), pixels("lenet", 150)  # more than one chunk of examples
    chosen = torch.tensor([0, 5, 64 * 64 - 1, 64 * 64, 150 * 64 - 1])
    seen = {}

    def reading(law, contract, x, rng, tape):
        h = contract(x, law.mode())
        if h.ndim == 4 and not seen:
            seen["rows"] = chosen_rows(contract, x, law.shape, chosen) @ law.mode().flatten(1).T
            seen["outputs"] = h.flatten(2).transpose(1, 2).flatten(0, 1)[chosen]
        return h

    with torch.no_grad():
        model(inputs, Reading(reading, SIGNS, Estimation(Statistics())), torch.Generator())
    # one sum of nine products against another order of it; the outputs are normalised after it, the rows before
    torch.testing.assert_close(seen["rows"], seen["outputs"], rtol=1e-9, atol=1e-9)


def test_a_contraction_without_rows_is_refused_by_name():
    class Odd:
        def __call__(self, x, weights):
            return x

        squares = __call__

    with pytest.raises(UnsupportedReading, match="Odd has no `rows`"):
        chosen_rows(Odd(), torch.ones(2, 2), torch.Size([1, 2]), torch.tensor([0]))


def test_dead_inputs_keep_the_signs_of_the_real_weights():
    twin, model = built("mlp", real_law), built("mlp", settled)
    inputs = pixels("mlp")
    inputs[:, 3] = 17.0
    binarise(model, twin, inputs, RELAXED, SIGNS, torch.Generator().manual_seed(0), rows=300)
    (_, real), (_, law) = next(laws(twin)), next(laws(model))
    assert torch.equal(law.mode()[:, 3], torch.where(real.mode()[:, 3] >= 0, 1.0, -1.0))


def test_only_settled_laws_are_fitted():
    """A law that a solver moves is read as it is: the pass binarises, it does not train."""
    twin, model = built("mlp", real_law), built("mlp", lambda shape, rng: Point(initial_uniform(shape, rng)))
    assert binarise(model, twin, pixels("mlp"), kept, SIGNS, torch.Generator(), rows=10) == []


@pytest.mark.parametrize("kind", ["mlp", "mlp, signs"])
def test_binarised_network_predicts_by_its_mode(kind):
    _, model, _ = binarised(kind)
    inputs = pixels(kind)
    prediction = predict(model, mode(SIGNS), inputs, (inputs,), torch.Generator())
    assert prediction.scores[0].isfinite().all()
    fixed = mode_weights(model)
    assert all(torch.equal(fixed.weights[law], law.mode()) for _, law in laws(model))
