"""What the packed form cannot hold is refused by the layer's name, with the reason and the way out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from core.architectures import InputForm, build, real_law
from core.deploy.export import ExportError, export
from core.interface import Predictor, Reading, Rng
from core.laws import Bernoulli, Point, initial_uniform
from core.layers import Activation, BatchNorm, BinaryLinear, Chain, InputLinear, Network
from core.low_rank import SymmetricLowRank
from core.moments import StochasticSign
from core.ops import StraightThrough
from core.predict import ensemble, logits, mean, mode, propagate, reestimate
from core.readings import Draw, Fixed, SignActivation, mode_weights
from core.spatial import AveragePool, BinaryConv2d, ChannelScale, Flatten, InputConv2d, MaxPool
from core.statistics import Statistics

SIGNS = SignActivation(StraightThrough())
FORM = InputForm(64, shift=7.0, scale=5.0, maximum=255.0, integer=True, shape=(1, 8, 8))
PIXELS = torch.randint(0, 256, (50, 8, 8), generator=Rng().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (mean(SIGNS), r"rule 'mean' predicts with real weights E\[w\].* export 'mode'"),
        (propagate(StochasticSign(), lambda s: s, bits=None), "rule 'propagate' reads weights by Moments.*'mode'"),
        (
            Predictor("anew", 1, 1, lambda model, rng: [Reading(Draw(StraightThrough()), SIGNS)]),
            "rule 'anew' reads weights by Draw, which fixes no network",
        ),
        (
            ensemble(3, SIGNS, combine="probabilities"),
            r"rule 'ensemble\(3, probabilities\)' averages probabilities.*combine='logits'",
        ),
        (
            Predictor("two", 2, 1, lambda model, rng: [Reading(mode_weights(model), SIGNS)]),
            "rule 'two' declares 2 networks but made 1",
        ),
        (Predictor("none", 1, 1, lambda model, rng: []), "rule 'none' declares 1 networks but made 0"),
        (
            replace(mode(SIGNS), scores=lambda output: -output),
            "rule 'mode' makes scores of its own from the output; export a rule of plain logits",
        ),
        (
            Predictor("four", 1, 2, lambda model, rng: [Reading(mode_weights(model), SIGNS)], levels=(-3.0, -1.0, 1.0)),
            r"layers\.0: weights of levels .* have no packed form",
        ),
    ],
)
def test_rules_without_one_network_of_signs(rule: Predictor, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(network(), rule, inputs=PIXELS)


def test_activations_drawn_anew_are_refused_by_layer() -> None:
    with pytest.raises(ExportError, match=r"layers\.2: StochasticSign draws activations anew in each pass"):
        export(network(), mode(StochasticSign()), inputs=PIXELS)


def test_another_word_than_mode(shapes_unchecked) -> None:
    with pytest.raises(ExportError, match="predictor must be 'mode' or a core.interface.Predictor .got 'median'"):
        export(network(), "median", inputs=PIXELS)


def test_networks_without_binary_weights() -> None:
    with pytest.raises(ExportError, match="no layer has binary weights, so there is nothing to pack"):
        export(network(law=real_law), inputs=PIXELS)


def test_laws_without_a_mode() -> None:
    law = lambda shape, rng: SymmetricLowRank(torch.randn((3, *shape), generator=rng))  # noqa: E731
    with pytest.raises(ExportError, match="rule 'mode': .*"):
        export(network(law=law), inputs=PIXELS)


def test_weights_of_other_levels() -> None:
    net = network()
    fixed = mode_weights(net)
    fixed.weights[net.layers[4].law][3, 5] = 0.5
    rule = Predictor("halves", 1, 1, lambda model, rng: [Reading(fixed, SIGNS)])
    place = 3 * 16 + 5
    with pytest.raises(ExportError, match=rf"layers\.4: weights must be -1, \+1 \(got 0\.5 at {place}\)"):
        export(net, rule, inputs=PIXELS)


def test_weights_of_another_network() -> None:
    rule = Predictor("other", 1, 1, lambda model, rng: [Reading(Fixed({}), SIGNS)])
    with pytest.raises(ExportError, match=r"layers\.0: the reading has no weights for it"):
        export(network(), rule, inputs=PIXELS, statistics=[Statistics()])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_are_not_finite(value: float) -> None:
    net = network()
    net.layers[4].law.parameter = nn.Parameter(torch.tensor([value]))
    with pytest.raises(ExportError, match=rf"layers\.4: the law's parameter must be finite .got {value:g} at 0"):
        export(net, inputs=PIXELS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_real_weights_that_are_not_finite(value: float) -> None:
    net = network(last="real")
    with torch.no_grad():
        next(net.layers[-2].law.parameters())[0, 1] = value
    with pytest.raises(ExportError, match=r"layers\.8: the law's .* must be finite"):
        export(net, inputs=PIXELS, statistics=[statistics(network())])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gains_that_are_not_finite(value: float) -> None:
    net = network(affine=True)
    found = statistics(net)
    with torch.no_grad():
        net.layers[1].weight[2] = value
    with pytest.raises(ExportError, match=rf"layers\.1: scale must be finite \(got {value:g} at 2\)"):
        export(net, inputs=PIXELS, statistics=[found])


def test_statistics_that_are_not_finite() -> None:
    net = network()
    found = statistics(net)
    found.layers["layers.1"].squares[3] = math.nan
    with pytest.raises(ExportError, match=r"layers\.1: scale must be finite \(got nan at 3\)"):
        export(net, inputs=PIXELS, statistics=[found])


def test_missing_statistics() -> None:
    net = network()
    found = statistics(net)
    del found.layers["layers.5"]
    with pytest.raises(ExportError, match=r"layers\.5: no statistics for batch norm 'layers\.5'; re-estimate"):
        export(net, inputs=PIXELS, statistics=[found])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_statistics_for_another_number_of_networks(count: int) -> None:
    net = network(law=bernoulli)
    with pytest.raises(ExportError, match=rf"statistics.*{count}|{count} statistics"):
        export(net, ensemble(2, SIGNS), inputs=PIXELS, statistics=[statistics(net)] * count)


def test_channels_that_do_not_fit() -> None:
    net = chained(InputLinear(point(5, 64), **RAW), BatchNorm(4, affine=False, eps=1e-4, momentum=0.1))
    four = Statistics()
    four.record("layers.1", torch.randn(9, 4, generator=Rng().manual_seed(0)))
    with pytest.raises(ExportError, match=r"layers\.1: it has 4 channels, and what reaches it 5"):
        export(net, inputs=PIXELS, statistics=[four])


class Swish(nn.Module):
    def forward(self, x, reading, rng):
        return x * torch.sigmoid(x)


def test_layers_without_a_packed_form_by_name_and_type() -> None:
    with pytest.raises(ExportError, match=r"layers\.1\.layers\.0: there is no packed form for a Swish; there is for"):
        export(chained(InputLinear(point(5, 64), **RAW), Chain(Swish())), inputs=PIXELS)


class Doubled(BinaryLinear):
    def forward(self, x, reading, rng):
        return 2 * super().forward(x, reading, rng)


def test_layers_derived_from_known_ones_are_not_taken_for_them() -> None:
    with pytest.raises(ExportError, match=r"layers\.1: there is no packed form for a Doubled"):
        export(chained(InputLinear(point(5, 64), **RAW), Doubled(point(3, 5))), inputs=PIXELS)


def test_linear_maps_beyond_what_an_int32_sums() -> None:
    shape = (1, 2049, 2048)
    net = chained(
        InputConv2d(point(1, 1, 1, 1), shape=shape, **RAW),
        Activation("sign"),
        Flatten(),
        BinaryLinear(point(1, 2049 * 2048)),
    )
    with pytest.raises(ExportError, match=r"layers\.3: 4196352 inputs a sum are beyond 4194304"):
        export(net, inputs=torch.zeros(1, *shape, dtype=torch.uint8), statistics=[Statistics()])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [BinaryLinear(point(3, 18))], r"layers\.1: images \(6, 6, 2\) reach a linear layer; put a Flatten"),
        (lambda: [Flatten(), BinaryLinear(point(3, 71))], r"layers\.2: its 71 weights an output do not fit"),
        (lambda: [Flatten(), MaxPool(2)], r"layers\.2: it follows a Flatten of images"),
        (lambda: [Flatten(), BinaryConv2d(point(3, 2, 3, 3))], r"layers\.2: a convolution after a Flatten"),
        (lambda: [Flatten()], "the network ends in a Flatten of images"),
        (lambda: [BinaryConv2d(point(3, 5, 3, 3))], r"layers\.1: .*weights"),
        (lambda: [MaxPool(7), Activation("sign")], r"layers\.2.*: a window of 7 does not fit 6 x 6"),
        (lambda: [BinaryConv2d(point(3, 2, 7, 7))], r"layers\.1: a kernel of 7 .* does not fit 6"),
    ],
)
def test_layers_that_do_not_fit_what_reaches_them(layers, message: str) -> None:
    net = chained(InputConv2d(point(2, 1, 3, 3), shape=(1, 8, 8), **RAW), *layers())
    with pytest.raises(ExportError, match=message):
        export(net, inputs=PIXELS, statistics=[Statistics()])


@pytest.mark.parametrize(
    "layer",
    [
        MaxPool(2),
        AveragePool((8, 8)),
        BatchNorm(1, affine=False, eps=1e-4, momentum=0.1),
        ChannelScale(1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_images_before_a_linear_first_layer(layer: nn.Module) -> None:
    net = chained(Chain(Activation("relu"), layer), Flatten(), BinaryLinear(point(3, 16)))
    with pytest.raises(
        ExportError, match=rf"layers\.0\.layers\.1: a {type(layer).__name__} of images before the first"
    ):
        export(net, inputs=PIXELS[:, None], statistics=[Statistics()])


def test_flat_features_may_be_normalised_before_the_first_layer() -> None:
    norm = BatchNorm(64, affine=False, eps=1e-4, momentum=0.1)
    for inputs, layers in (PIXELS.flatten(1), [norm]), (PIXELS, [Flatten(), norm]):
        net = chained(*layers, BinaryLinear(point(3, 64)))
        reading = Reading(mode_weights(net), SIGNS)
        found = reestimate(net, reading, inputs.float(), Rng())
        packed = export(net, inputs=inputs.float(), statistics=[found])
        want = logits(net, reading, found, inputs.float(), Rng()).numpy()
        # float32 sums of 64 terms of order 1, in another order
        assert np.allclose(packed.run(inputs.float().numpy(), backend="numpy"), want, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float16])
def test_inputs_of_another_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(ExportError, match=f"inputs must be uint8 pixels or float32 features .got {dtype}"):
        export(network(), inputs=PIXELS.to(dtype))


def test_no_inputs_at_all() -> None:
    with pytest.raises(ExportError, match=r"inputs of shape \(0, 8, 8\) hold no example"):
        export(network(), inputs=PIXELS[:0])


def test_inputs_that_are_no_images() -> None:
    net = build("lenet", FORM, 3, lambda s, r: point(*s), Rng(), channels=(4,), units=8)
    with pytest.raises(ExportError, match=r"inputs of shape \(64,\) are no images"):
        export(net, inputs=PIXELS.flatten(1))
    with pytest.raises(ExportError, match=r"layers\.0: it takes images of shape \(1, 8, 8\), and inputs are \(4, 16\)"):
        export(net, inputs=PIXELS.reshape(-1, 4, 16))


def test_networks_in_another_dtype_and_other_modules() -> None:
    with pytest.raises(ExportError, match=r"layers\.0\..* is torch\.float64; .*export model\.float\(\)"):
        export(network().double(), inputs=PIXELS)
    with pytest.raises(ExportError, match=r"a core\.layers\.Network is exported \(got a Linear\)"):
        export(nn.Linear(3, 3), inputs=PIXELS)


def test_bad_input_is_an_ordinary_value_error() -> None:
    assert issubclass(ExportError, ValueError)
    assert np.isfinite(export(network(), inputs=PIXELS).run(PIXELS.numpy(), backend="numpy")).all()


RAW = {"shift": 0.0, "scale": 1.0, "maximum": 0.0, "dropout": 0.0}


def point(*shape: int) -> Point:
    return Point(initial_uniform(torch.Size(shape), Rng().manual_seed(5)))


def bernoulli(shape: torch.Size, rng: Rng) -> Bernoulli:
    return Bernoulli.of_means(0.9 * initial_uniform(shape, rng))


def chained(*layers: nn.Module) -> Network:
    return Network(*layers, activation="sign")


def network(law=lambda shape, rng: Point(initial_uniform(shape, rng)), **options) -> Network:
    return build("mlp", FORM, 3, law, Rng().manual_seed(0), widths=(16, 16), activation="sign", **options)


def statistics(net: Network) -> Statistics:
    return reestimate(net, Reading(mode_weights(net), SIGNS), PIXELS, Rng())
