"""How a graph comes out: names, permutations, bases, tasks, inputs, facts."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.architectures import InputForm, build
from core.deploy.export import export, kept_in_float
from core.deploy.operations import Add, Affine, BinLinear, F32BinLinear, F32Linear, IntLinear, Threshold, ToF32
from core.deploy.packing import unpack
from core.interface import Reading, Rng
from core.laws import Bernoulli, Point, initial_uniform
from core.layers import Activation, BatchNorm, BinaryLinear, Chain, InputLinear, Network
from core.ops import StraightThrough
from core.predict import ensemble, logits, reestimate, ternary
from core.readings import SignActivation, mode_weights
from core.spatial import AveragePool, BinaryConv2d, ChannelScale, Flatten, InputConv2d, MaxPool, Residual
from core.statistics import Statistics
from core.tasks import enter_task, keep_tasks

SIGNS = SignActivation(StraightThrough())
FORM = InputForm(64, shift=7.3, scale=5.1, maximum=255.0, integer=True, shape=(1, 8, 8))


def test_nodes_carry_the_names_of_layers() -> None:
    packed = export(mlp(), inputs=pixels(50))
    kinds = [(node.name, type(node.operation)) for node in packed.form.networks[0].nodes]
    assert kinds == [
        ("layers.0", IntLinear),
        ("layers.2", Threshold),
        ("layers.4", BinLinear),
        ("layers.6", Threshold),
        ("layers.8", BinLinear),
        ("layers.9", Affine),
    ]


def test_ternary_weights_are_two_bases_of_a_half(case, check_identical) -> None:
    net = mlp(law=bernoulli)
    rule = ternary(SIGNS, threshold=0.4)
    packed = export(net, rule, inputs=pixels(50))
    operations = {node.name: node.operation for node in packed.form.networks[0].nodes}
    assert isinstance(operations["layers.4.bases"], Add)
    made = case(net, pixels(50), rule)
    weights = made.readings[0].weights.weights[net.layers[4].law].numpy()
    assert 0.2 < (weights == 0).mean() < 0.6
    bases = [unpack(operations[f"layers.4.base{i}"].weights, 16)[:, 0, 0].astype(int) for i in (0, 1)]
    np.testing.assert_array_equal((bases[0] + bases[1]) / 2, weights)
    check_identical(made, packed, pixels(40, seed=2))


def test_ternary_convolutions_and_real_activations(case, check_identical, check_close) -> None:
    for activation, check in (("sign", check_identical), ("relu", check_close)):
        net = build("lenet", FORM, 3, bernoulli, Rng().manual_seed(0), channels=(5, 6), units=9, activation=activation)
        rule = ternary(SIGNS, threshold=0.4)
        check(case(net, pixels(50), rule), export(net, rule, inputs=pixels(50)), pixels(40, seed=2))


def test_ensembles_are_graphs_in_the_order_of_the_draws(case, check_identical) -> None:
    net, rule = mlp(law=bernoulli), ensemble(3, SIGNS)
    packed = export(net, rule, inputs=pixels(50), rng=Rng().manual_seed(4))
    check_identical(case(net, pixels(50), rule, seed=4), packed, pixels(40, seed=2))


def test_batch_norm_of_each_task_exports_the_current_one(case, check_identical) -> None:
    net = build("mlp", FORM, 3, point_law, Rng().manual_seed(0), "per-task", widths=(16,), activation="sign")
    keep_tasks(net, 2)
    runs = []
    for task in (0, 1):
        enter_task(net, task)
        inputs = pixels(50, seed=task) // (1 + task)
        packed = export(net, inputs=inputs)
        check_identical(case(net, inputs), packed, pixels(40, seed=2))
        runs.append(packed.run(pixels(40, seed=2).numpy(), backend="numpy"))
    assert not np.array_equal(*runs)


def test_real_features(case, check_close) -> None:
    form = InputForm(30, maximum=9.0)
    inputs, unseen = (torch.randn(80, 30, generator=Rng().manual_seed(s)) for s in (0, 1))
    net = build("mlp", form, 3, point_law, Rng().manual_seed(0), widths=(40, 20), activation="sign")
    packed = export(net, inputs=inputs)
    assert packed.form.facts["inexact_because"] == ["inputs are real"]
    assert isinstance(packed.form.networks[0].nodes[0].operation, F32BinLinear)
    check_close(case(net, inputs), packed, unseen, strays=0.05)


def test_what_stays_real_is_counted_and_named() -> None:
    packed = export(mlp(first="real"), inputs=pixels(50))
    facts = packed.form.facts
    assert facts["inexact_because"] == ["layers.0 keeps real weights"] and not facts["exact"]
    assert facts["weights"] == {"binary": 16 * 16 + 16 * 3, "real": 64 * 16}
    assert kept_in_float(facts) == "77.1 % of weights kept in float"
    kinds = [type(node.operation) for node in packed.form.networks[0].nodes[:2]]
    assert kinds == [ToF32, F32Linear]


def test_given_facts_are_kept_and_cannot_contradict() -> None:
    facts = export(mlp(), inputs=pixels(50), facts={"cell": {"seed": 3}, "exact": False}).form.facts
    assert facts["cell"] == {"seed": 3} and facts["exact"] is True
    assert facts["predictor"] == "mode" and "float32" in facts["truth"]


def test_training_without_denormals_changes_nothing_and_stays_so() -> None:
    net, inputs = mlp(), pixels(50)
    plain = export(net, inputs=inputs)
    torch.set_flush_denormal(True)
    try:
        flushed = export(net, inputs=inputs)
        assert (torch.tensor(1e-40) * 1).item() == 0
    finally:
        torch.set_flush_denormal(False)
    assert flushed.size == plain.size
    np.testing.assert_array_equal(*(p.run(inputs.numpy(), backend="numpy") for p in (plain, flushed)))


def test_first_layers_without_normalisation_take_pixels_and_features(case, check_identical) -> None:
    net = chained(BinaryLinear(point(9, 40)), norm(9), Activation("sign"), BinaryLinear(point(3, 9)))
    inputs = pixels(50).flatten(1)[:, :40]
    check_identical(case(net, inputs), export(net, inputs=inputs), inputs)


def test_images_of_any_kind_of_layer_in_any_order(case, check_identical) -> None:
    """Strides, groups, pooled bits, scales before, after and at the end."""
    net = chained(
        InputConv2d(point(8, 1, 3, 3), shape=(1, 8, 8), padding=1, shift=7.3, scale=5.1, maximum=255.0, dropout=0.1),
        scaled(8),
        MaxPool(2),
        norm(8),
        scaled(8),
        Activation("sign"),
        BinaryConv2d(point(12, 2, 3, 3), padding=2, groups=4),
        norm(12),
        Activation("sign"),
        MaxPool(2),
        BinaryConv2d(point(6, 12, 2, 2), stride=2),
        Flatten(),
        Activation("sign"),
        BinaryLinear(point(5, 6)),
        scaled(5),  # a sum of 0 by a negative scale is -0.0, to the bit
    )
    inputs = pixels(50)
    check_identical(case(net, inputs), export(net, inputs=inputs), pixels(40, seed=2))


def test_both_branches_of_a_fork_read_what_waits_once(case, check_identical) -> None:
    fork = Residual(Chain(Activation("sign"), BinaryLinear(point(16, 16)), norm(16)), Chain())
    net, inputs = forked(fork), pixels(50)
    check_identical(case(net, inputs), export(net, inputs=inputs), pixels(40, seed=2))


def test_both_branches_of_a_fork_may_take_real_numbers(case, check_close) -> None:
    net, inputs = forked(Residual(Chain(BinaryLinear(point(16, 16)), norm(16)), Chain())), pixels(50)
    packed = export(net, inputs=inputs)
    assert packed.form.facts["inexact_because"] == ["layers.2.branch.layers.0 sums real values"]
    check_close(case(net, inputs), packed, pixels(40, seed=2), strays=0.05)


def forked(fork: Residual) -> Network:
    return chained(
        InputLinear(point(16, 64), shift=7.3, scale=5.1, maximum=255.0, dropout=0.0),
        norm(16),
        fork,
        Activation("sign"),
        BinaryLinear(point(3, 16)),
    )


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (1, 8)])
def test_averages_by_a_power_of_two_stay_exact(size: tuple[int, int], case, check_identical) -> None:
    positions = (8 // size[0]) * (8 // size[1])
    net = chained(
        InputConv2d(point(4, 1, 3, 3), shape=(1, 8, 8), padding=1, shift=7.3, scale=5.1, maximum=255.0, dropout=0.0),
        norm(4),
        Activation("sign"),
        AveragePool(size),
        Flatten(),
        BinaryLinear(point(3, 4 * positions)),
        norm(3),
    )
    check_identical(case(net, pixels(50)), export(net, inputs=pixels(50)), pixels(40, seed=2))


@pytest.mark.parametrize(("size", "kernel"), [((3, 3), 1), ((1, 5), 1), ((4, 4), 2)])
def test_averages_by_other_counts_are_told(size: tuple[int, int], kernel: int, case, check_close) -> None:
    side = 8 - kernel + 1  # the last: windows of 4 on a side of 7 leave one of 3
    positions = -(-side // size[0]) * -(-side // size[1])
    net = chained(
        InputConv2d(point(4, 1, kernel, kernel), shape=(1, 8, 8), shift=7.3, scale=5.1, maximum=255.0, dropout=0.0),
        norm(4),
        Activation("sign"),
        AveragePool(size),
        Flatten(),
        BinaryLinear(point(3, 4 * positions)),
        norm(3),
    )
    packed = export(net, inputs=pixels(50))
    assert packed.form.facts["inexact_because"] == ["layers.5 sums real values"]
    check_close(case(net, pixels(50)), packed, pixels(40, seed=2))


@pytest.mark.parametrize(("fan_in", "exact"), [(30_000, True), (40_000, False)])
def test_real_sums_of_whole_numbers_are_exact_up_to_2_to_the_24(fan_in: int, exact: bool) -> None:
    # pixels added to themselves reach 510: 30 000 of them stay below 2^24, 40 000 may pass it
    net = chained(Residual(Chain(), Chain()), BinaryLinear(point(1, fan_in)))
    inputs = torch.zeros(2, fan_in, dtype=torch.uint8)
    facts = export(net, inputs=inputs, statistics=[Statistics()]).form.facts
    assert facts["inexact_because"] == ([] if exact else ["layers.1 sums real values"])


@pytest.mark.parametrize(("side", "exact"), [(180, True), (182, False)])
def test_averages_are_exact_while_their_sums_are_below_2_to_the_24(side: int, exact: bool) -> None:
    net = chained(
        Residual(Chain(), Chain()), AveragePool((side, side)), Activation("sign"), BinaryConv2d(point(1, 1, 1, 1))
    )
    inputs = torch.zeros(2, 1, side, side, dtype=torch.uint8)
    facts = export(net, inputs=inputs, statistics=[Statistics()]).form.facts  # 510 x 181.4^2 is 2^24
    assert facts["inexact_because"] == ([] if exact else ["layers.1 averages real values"])


def test_one_layer_may_stand_in_two_places(case, check_identical) -> None:
    layer = BinaryLinear(point(16, 16))
    twice = Residual(Chain(Activation("sign"), layer, norm(16)), Chain())
    net, inputs = forked(Residual(Chain(twice), Chain(twice))), pixels(50)
    check_identical(case(net, inputs), export(net, inputs=inputs), pixels(40, seed=2))


def test_statistics_are_re_estimated_where_none_are_given() -> None:
    net, inputs = mlp(), pixels(300)
    reading = Reading(mode_weights(net), SIGNS)
    found: Statistics = reestimate(net, reading, inputs, Rng())
    unseen = pixels(40, seed=2)
    expected = logits(net, reading, found, unseen, Rng()).numpy()
    for packed in (export(net, inputs=inputs), export(net, inputs=inputs[:1], statistics=[found])):
        np.testing.assert_array_equal(packed.run(unseen.numpy(), backend="numpy"), expected)


def mlp(law=None, **options) -> Network:
    law = law or point_law
    return build("mlp", FORM, 3, law, Rng().manual_seed(0), widths=(16, 16), activation="sign", **options)


def point_law(shape: torch.Size, rng: Rng) -> Point:
    return Point(initial_uniform(shape, rng))


def bernoulli(shape: torch.Size, rng: Rng) -> Bernoulli:
    return Bernoulli.of_means(0.9 * initial_uniform(shape, rng))


def point(*shape: int) -> Point:
    return point_law(torch.Size(shape), Rng().manual_seed(sum(shape)))


def norm(channels: int) -> BatchNorm:
    layer = BatchNorm(channels, affine=True, eps=1e-4, momentum=0.1)
    rng = Rng().manual_seed(channels)
    with torch.no_grad():
        layer.weight.normal_(generator=rng)[::3] = 0.0
        layer.bias.normal_(generator=rng)
    return layer


def scaled(channels: int) -> ChannelScale:
    layer = ChannelScale(channels)
    with torch.no_grad():
        layer.scale.normal_(generator=Rng().manual_seed(channels))
    return layer


def chained(*layers: nn.Module) -> Network:
    return Network(*layers, activation="sign")


def pixels(n: int, *, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (n, 8, 8), generator=Rng().manual_seed(seed), dtype=torch.uint8)
