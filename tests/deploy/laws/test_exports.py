"""What export promises beyond random networks: thresholds on the functions themselves, ensembles, refusals by name."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from core.architectures import InputForm, build
from core.deploy import PackedNetwork
from core.deploy.export import ExportError, export
from core.deploy.operations import Threshold
from core.interface import Rng
from core.laws import Bernoulli, Point, Real, Settled, initial_uniform
from core.layers import Activation, BatchNorm, BinaryLinear, InputLinear, Network
from core.moments import StochasticSign
from core.ops import StraightThrough
from core.predict import ensemble, logits, mean, mode, plain_logits, predict, propagate, reestimate, ternary
from core.readings import SignActivation
from core.spatial import ChannelScale
from core.statistics import Evaluation, Moments2, Statistics

SIGNS = SignActivation(StraightThrough())


def rng(seed: int = 0) -> Rng:
    return Rng().manual_seed(seed)


def random_signs(*shape: int, seed: int = 0) -> Settled:
    return Settled(2 * torch.randint(0, 2, shape, generator=rng(seed)).float() - 1)


def norm(channels: int, *, eps: float = 1e-5) -> BatchNorm:
    return BatchNorm(channels, affine=True, eps=eps, momentum=0.1)


def first(n_out: int, features: int, *, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> InputLinear:
    law = random_signs(n_out, features, seed=seed)
    return InputLinear(law, shift=shift, scale=scale, maximum=255.0, dropout=0.0)


def of(mean: torch.Tensor, variance: torch.Tensor) -> Moments2:
    return Moments2(2, mean.double(), variance.double(), torch.zeros_like(mean).double())


def plain(channels: int) -> Moments2:
    return of(torch.zeros(channels), torch.ones(channels))


def threshold_after(packed: PackedNetwork, name: str) -> Threshold:
    """The threshold on the sums of layer `name`."""
    (found,) = (n.operation for n in packed.form.networks[0].nodes if n.inputs == (name,))
    assert isinstance(found, Threshold)
    return found


def bits_of(threshold: Threshold, sums: torch.Tensor, twin) -> torch.Tensor:
    """(S, C): what it says of every sum on every channel."""
    flip = torch.from_numpy(twin.unpack(threshold.flip, len(threshold.at)) > 0)
    return (sums[:, None] >= torch.from_numpy(threshold.at.astype(np.int64))) != flip


# ---------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("fan_in", [784, 2048, 4608])
def test_thresholds_are_right_on_every_sum_where_the_closed_form_is_wrong(fan_in: int, twin) -> None:
    """2000 channels: mean - bias * sqrt(variance + eps) / gain in float32 misplaces some sum in over 0.5 % of them.

    Where it does, the mean is itself a sum and there is no bias: in a fifth of the channels here.
    """
    channels, g = 2000, rng(fan_in)
    network = Network(
        *(first(fan_in, 1), norm(fan_in), Activation("sign")),
        *(BinaryLinear(random_signs(channels, fan_in), signs=True), norm(channels), Activation("sign")),
        *(BinaryLinear(random_signs(2, channels), signs=True), norm(2)),
        activation="sign",
    )
    batch_norm = network.layers[4]
    with torch.no_grad():
        batch_norm.weight.copy_(torch.randn(channels, generator=g))
        batch_norm.bias.copy_(torch.randn(channels, generator=g))
        batch_norm.weight[:50], batch_norm.weight[50:100] = 0.0, -0.0
    mean_ = torch.randn(channels, generator=g) * fan_in**0.5
    with torch.no_grad():
        mean_[100:500] = 2 * torch.round(mean_[100:500] / 2) + fan_in % 2
        batch_norm.bias[100:500] = 0.0
    variance = fan_in * (0.5 + torch.rand(channels, generator=g))
    statistics = Statistics({"layers.1": plain(fan_in), "layers.4": of(mean_, variance), "layers.7": plain(2)})
    packed = export(network, inputs=torch.zeros(1, 1, dtype=torch.uint8), statistics=[statistics])
    sums = torch.arange(-fan_in, fan_in + 1, 2)
    with torch.no_grad():
        truth = (
            Evaluation(statistics).normalise("layers.4", sums[:, None].float().expand(-1, channels), batch_norm) >= 0
        )
    got = bits_of(threshold_after(packed, "layers.3"), sums, twin)
    assert int((got != truth).any(0).sum()) == 0
    gain, bias = batch_norm.weight.detach()[100:], batch_norm.bias.detach()[100:]
    closed = mean_[100:] - bias * torch.sqrt(variance[100:] + 1e-5) / gain
    guess = torch.where(gain > 0, sums[:, None] >= closed, sums[:, None] <= closed)
    assert (guess != truth[:, 100:]).any(0).float().mean() > 0.005, "these channels would not tell the two apart"


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (33.3, 77.7), (-500.0, 0.01), (128.0, 127.5)])
def test_thresholds_on_pixels_pass_through_every_rounding(shift: float, scale: float, twin) -> None:
    """Normalisation, channel scale and batch norm are six roundings: brute force over every sum of 12 pixels."""
    channels, features, g = 500, 12, rng(1)
    pixels = first(channels, features, shift=shift, scale=scale)
    layers = [pixels, ChannelScale(channels), norm(channels), Activation("sign")]
    network = Network(*layers, BinaryLinear(random_signs(2, channels), signs=True), norm(2), activation="sign")
    with torch.no_grad():
        layers[1].scale.copy_(torch.randn(channels, generator=g))
        layers[1].scale[:20], layers[1].scale[20:40] = 0.0, -0.0
        layers[2].weight.copy_(torch.randn(channels, generator=g))
        layers[2].bias.copy_(torch.randn(channels, generator=g))
    sums = torch.arange(-255 * features, 255 * features + 1)
    weight_sums = pixels.law.signs.sum(1)
    with torch.no_grad():
        offset = -pixels.shift * pixels.inverse_scale * weight_sums
        h = torch.add(torch.mul(sums[:, None].float(), pixels.inverse_scale), offset) * layers[1].scale
        statistics = Statistics({"layers.2": of(h.mean(0), h.var(0) / 9), "layers.5": plain(2)})
        truth = Evaluation(statistics).normalise("layers.2", h, layers[2]) >= 0
    packed = export(network, inputs=torch.zeros(1, features, dtype=torch.uint8), statistics=[statistics])
    got = bits_of(threshold_after(packed, "layers.0"), sums, twin)
    most = 255 * (pixels.law.signs > 0).sum(1)
    reach = (sums[:, None] <= most) & (sums[:, None] >= most - 255 * features)  # of some image under these weights
    assert int(((got != truth) & reach).any(0).sum()) == 0


def test_training_without_denormals_does_not_move_a_threshold() -> None:
    """Gains of 1e-41 flush to zero there; the truth keeps them, and the process keeps its setting."""
    network = Network(
        first(64, 9),
        norm(64),
        Activation("sign"),
        BinaryLinear(random_signs(2, 64), signs=True),
        norm(2),
        activation="sign",
    )
    with torch.no_grad():
        network.layers[1].weight.copy_(torch.tensor([1e-41, -1e-41]).repeat(32))
    statistics = Statistics({"layers.1": of(torch.arange(64.0), torch.ones(64)), "layers.4": plain(2)})
    x = torch.randint(0, 256, (20, 9), generator=rng(), dtype=torch.uint8)
    expected = export(network, inputs=x, statistics=[statistics])
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        packed = export(network, inputs=x, statistics=[statistics])
        assert float(torch.tensor(1e-41) * 1) == 0.0, "export left the process's setting changed"
    finally:
        torch.set_flush_denormal(False)
    ours, theirs = (threshold_after(p, "layers.0") for p in (packed, expected))
    assert np.array_equal(ours.at, theirs.at) and np.array_equal(ours.flip, theirs.flip)
    reading = next(iter(mode(SIGNS).readings(network, rng())))
    assert np.array_equal(packed.run(x.numpy()), logits(network, reading, statistics, x, rng()).numpy())


# ---------------------------------------------------------------------- rules of prediction


def small(kind=Bernoulli, *, activation: str = "sign", **options) -> tuple[Network, torch.Tensor]:
    """A network of 20 pixels with inputs for it."""
    form = InputForm(20, 8.0, 8.0, 16.0, True, (1, 4, 5))
    x = torch.randint(0, 17, (60, 1, 4, 5), generator=rng(3), dtype=torch.uint8)
    options = {"widths": (33, 40), "affine": True} | options
    return build("mlp", form, 5, lambda s, r: kind(initial_uniform(s, r)), rng(4), activation=activation, **options), x


@pytest.mark.parametrize(
    "rule", [mode(SIGNS), ensemble(1, SIGNS), ensemble(3, SIGNS), ensemble(7, SIGNS), ternary(SIGNS, threshold=0.3)]
)
def test_rules_export_what_they_predict_with_statistics_re_estimated(rule) -> None:
    network, x = small()
    expected = predict(network, rule, x, (x,), rng(9)).scores[0].numpy()
    packed = export(network, rule, inputs=x, rng=rng(9))
    assert len(packed.form.networks) == rule.networks
    for backend in ("numpy", "auto"):
        got = packed.run(x.numpy(), backend=backend)
        assert np.array_equal(got, expected), backend
        assert np.array_equal(packed.classes(x.numpy(), backend=backend), expected.argmax(1)), backend


def test_the_statistics_of_each_network_are_its_own() -> None:
    network, x = small()
    rule, found = ensemble(3, SIGNS), predict(network, ensemble(3, SIGNS), x, (x,), rng(9))
    packed = export(network, rule, inputs=x[:1], statistics=list(found.statistics), rng=rng(9))
    assert np.array_equal(packed.run(x.numpy()), found.scores[0].numpy())
    other = export(network, rule, inputs=x[:1], statistics=list(found.statistics[::-1]), rng=rng(9))
    assert not np.array_equal(other.run(x.numpy()), found.scores[0].numpy())


def test_latents_of_zero_and_negative_zero_are_weights_of_plus_one() -> None:
    network, x = small(Point)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Point):
                module.latents.view(-1)[::3] = 0.0
                module.latents.view(-1)[1::3] = -0.0
    expected = predict(network, mode(SIGNS), x, (x,), rng()).scores[0].numpy()
    assert np.array_equal(export(network, inputs=x).run(x.numpy()), expected)


def test_dropout_is_off_in_what_is_exported() -> None:
    network, x = small(dropout=0.7)
    expected = predict(network, mode(SIGNS), x, (x,), rng()).scores[0].numpy()
    assert np.array_equal(export(network, inputs=x).run(x.numpy()), expected)


def test_a_sign_of_a_sign_is_itself() -> None:
    network, x = small(widths=(33,))
    layers = list(network.layers)
    twice = Network(*layers[:3], Activation("sign"), *layers[3:], activation="sign")
    expected = predict(twice, mode(SIGNS), x, (x,), rng()).scores[0].numpy()
    assert np.array_equal(export(twice, inputs=x).run(x.numpy()), expected)


def test_export_leaves_the_network_as_it_was() -> None:
    network, x = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export(network, ensemble(2, SIGNS), inputs=x, rng=rng())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_facts_say_what_is_exact_and_what_is_kept_real() -> None:
    network, x = small()
    facts = export(network, inputs=x, facts={"cell": "abc"}).form.facts
    assert facts["exact"] is True and facts["inexact_because"] == [] and facts["cell"] == "abc"
    assert facts["weights"] == {"binary": 20 * 33 + 33 * 40 + 40 * 5, "real": 0} and facts["predictor"] == "mode"
    network, x = small(last="real")
    facts = export(network, inputs=x).form.facts
    assert facts["exact"] is False and facts["weights"] == {"binary": 20 * 33 + 33 * 40, "real": 40 * 5}
    assert any("layers.6" in reason for reason in facts["inexact_because"]) or facts["inexact_because"]
    assert export(*small(activation="relu")[:1], inputs=x).form.facts["exact"] is False
    assert export(small()[0], inputs=x.float()).form.facts["exact"] is False


# ---------------------------------------------------------------------- refusals


class Halves(Settled):
    """Claims binary levels and has none."""

    def mode(self) -> torch.Tensor:
        return self.signs / 2


class InputScale(nn.Module):
    """XNOR-Net's K: a factor that depends on the input."""

    def forward(self, x, reading, rng):
        return x * x.abs().mean(1, keepdim=True)


def refused(network: Network, x: torch.Tensor, *words: str, **options) -> None:
    with pytest.raises(ExportError) as caught:
        export(network, inputs=x, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"


def test_weights_that_are_no_signs_are_refused_by_name() -> None:
    network, x = small()
    network.layers[4].law = Halves(torch.ones(40, 33))
    refused(network, x, r"layers\.4", "0.5")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_real_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    network, x = small(last="real")
    statistics = reestimate(network, next(iter(mode(SIGNS).readings(network, rng()))), x, rng())
    with torch.no_grad():
        network.layers[8].law.latents[2, 3] = bad
    refused(network, x, r"layers\.8", statistics=[statistics])


def test_nan_latents_are_refused_or_minus_one_never_silently_plus_one() -> None:
    """sign(nan) is -1 in training; what is exported is that, or nothing."""
    network, x = small(Point)
    with torch.no_grad():
        network.layers[4].law.latents[1, 1] = float("nan")
    expected = predict(network, mode(SIGNS), x, (x,), rng()).scores[0].numpy()
    try:
        got = export(network, inputs=x).run(x.numpy())
    except ExportError as error:
        assert "layers.4" in str(error)
    else:
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["mean", "squares"])
def test_statistics_that_are_not_finite_are_refused_by_name(bad: float, where: str) -> None:
    network, x = small()
    statistics = reestimate(network, next(iter(mode(SIGNS).readings(network, rng()))), x, rng())
    getattr(statistics.layers["layers.5"], where)[7] = bad
    if (where, bad) == ("squares", float("inf")):  # a scale of 0: a constant channel, and finite
        reading = next(iter(mode(SIGNS).readings(network, rng())))
        expected = logits(network, reading, statistics, x, rng()).numpy()
        assert np.array_equal(export(network, inputs=x, statistics=[statistics]).run(x.numpy()), expected)
    else:
        refused(network, x, r"layers\.5", statistics=[statistics])


def test_missing_statistics_are_refused_by_name() -> None:
    network, x = small()
    statistics = reestimate(network, next(iter(mode(SIGNS).readings(network, rng()))), x, rng())
    del statistics.layers["layers.5"]
    refused(network, x, r"layers\.5", "statistics", statistics=[statistics])
    refused(network, x, "statistics", statistics=[], predictor="mode")


@pytest.mark.parametrize("gain", [float("nan"), float("inf"), 3e38])
def test_gains_that_leave_float32_are_refused_or_exact(gain: float) -> None:
    """3e38 times a sum overflows to an infinity, which still has a sign; nan has none."""
    network, x = small()
    reading = next(iter(mode(SIGNS).readings(network, rng())))
    statistics = reestimate(network, reading, x, rng())
    with torch.no_grad():
        network.layers[5].weight[3] = gain
    expected = logits(network, reading, statistics, x, rng()).numpy()
    try:
        got = export(network, inputs=x, statistics=[statistics]).run(x.numpy())
    except ExportError as error:
        assert "layers.5" in str(error) or "layers.4" in str(error)
    else:
        assert gain == 3e38 and np.array_equal(got, expected)


def test_a_scale_that_depends_on_the_input_is_refused_by_name_and_type() -> None:
    network, x = small()
    layers = list(network.layers)
    refused(Network(*layers[:5], InputScale(), *layers[5:], activation="sign"), x, r"layers\.5", "InputScale")


def test_rules_without_binary_weights_or_logits_are_refused_with_a_way_out(shapes_unchecked) -> None:
    network, x = small()
    refused(network, x, "mean", "mode", predictor=mean(SIGNS))
    refused(network, x, "probabilities", predictor=ensemble(2, SIGNS, combine="probabilities"))
    stochastic, x = small()
    refused(stochastic, x, "propagate", predictor=propagate(StochasticSign(), plain_logits, bits=None))
    refused(network, x, "best", predictor="best")
    real, _ = small(Real)
    refused(real, x, "binary")


def test_inputs_of_another_kind_are_refused() -> None:
    network, x = small()
    for wrong in (x.double(), x.long(), x.bool()):
        refused(network, wrong, "uint8", "float32")
    with pytest.raises(ExportError):
        export(network, inputs=x[:, :, :3], statistics=[Statistics()])


def test_what_is_no_network_is_refused() -> None:
    _, x = small()
    with pytest.raises(ExportError, match="Linear"):
        export(nn.Linear(20, 5), inputs=x)
