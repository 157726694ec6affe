"""The summary counts what the network really holds and multiplies, and leaves no trace."""

from __future__ import annotations

import copy
import doctest
import math

import pytest
import torch

import core.summary
from core.architectures import ARCHITECTURES, RESNET18_VISPA, VGG_VISPA, InputForm, build
from core.claims import laws
from core.interface import Reading
from core.laws import Point, initial_uniform
from core.layers import BatchNorm
from core.ops import StraightThrough
from core.readings import SignActivation, mode_weights
from core.seeds import generator
from core.statistics import Training
from core.summary import summary

CIFAR = InputForm(3072, shift=120.7, scale=64.2, maximum=255.0, integer=True, shape=(3, 32, 32))
DIGITS = InputForm(64, shift=4.9, scale=6.0, maximum=16.0, integer=True, shape=(1, 8, 8))
SIZES = {
    "mlp": {"widths": (20, 10)},
    "lenet": {"channels": (4, 6), "units": 16},
    "vgg-small": {"channels": (4, 6), "units": 12},
    "resnet18": {"channels": (4, 6)},
}


def points(shape: torch.Size, rng: torch.Generator) -> Point:
    return Point(initial_uniform(shape, rng))


def network(name: str, form: InputForm = DIGITS, **options):
    return build(name, form, 10, points, generator("summary"), **{**SIZES[name], **options})


def contracted(model, form: InputForm) -> dict:
    """By law: what its layer was given and gave for one example of real pixels, in a pass of its own."""
    found = {}

    def keep(law, contract, x, rng, tape):
        h = contract(x, law.mode().detach())
        found[law] = (x, h[0])
        return h

    x = torch.randint(0, 17, (8, *form.shape), generator=generator("pixels")).float()
    model(x, Reading(keep, SignActivation(StraightThrough()), Training()), generator("unused"))
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["relu", "hardtanh", "sign"])
@pytest.mark.parametrize("policy", ["binary", "real"])
def test_rows_hold_the_parameters_and_products_of_each_layer(name, activation, policy):
    model = network(name, activation=activation, first=policy, last=policy)
    rows = {row.name: row for row in summary(model, DIGITS).rows}
    given = contracted(model, DIGITS)
    for path, law in laws(model):
        row, (x, h) = rows[path.removesuffix(".law")], given[law]
        size, products = math.prod(law.shape), h.numel() * math.prod(law.shape[1:])
        signs = law.levels is not None and set(x.unique().tolist()) == {-1.0, 1.0}
        assert row.output == tuple(h.shape)
        assert (row.binary, row.real) == ((size, 0) if law.levels is not None else (0, size))
        assert row.bits == size * (1 if law.levels is not None else 32)
        assert (row.binary_macs, row.real_macs) == ((products, 0) if signs else (0, products))
        assert row.kind.startswith(("Input", "Binary") if law.levels is not None else ("Input", "Linear", "Conv2d"))
    for path, norm in ((p, m) for p, m in model.named_modules() if isinstance(m, BatchNorm)):
        channels = len(norm.running_mean)
        assert (rows[path].real, rows[path].bits) == (2 * channels, 64 * channels)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_signs_are_counted_as_deployed_with_dropout_off(name, dropout):
    options = {"dropout": dropout} if name != "resnet18" else {}
    total = summary(network(name, activation="sign", first="binary", **options), DIGITS)
    share = total.total("binary_macs") / (total.total("binary_macs") + total.total("real_macs"))
    assert share == {"mlp": 300 / 1580}.get(name, share) and share > 0.15


def test_products_of_a_convolution_are_taps_times_positions():
    rows = summary(network("lenet", activation="sign"), DIGITS).rows
    by_kind = [(row.kind, row.binary_macs + row.real_macs) for row in rows if row.inputs]
    # 4C3 on 8x8, 6C3 on 4x4, 6 * 2 * 2 -> 16, 16 -> 10
    assert by_kind == [
        ("InputConv2d", 4 * 9 * 64),
        ("BinaryConv2d", 6 * 4 * 9 * 16),
        ("BinaryLinear", 24 * 16),
        ("BinaryLinear", 160),
    ]


def test_totals_are_sums_and_memory_is_compared_with_32_bits():
    found = summary(network("vgg-small", **{**VGG_VISPA, "units": 12}), DIGITS)
    for column in ("binary", "real", "bits", "binary_macs", "real_macs"):
        assert found.total(column) == sum(getattr(row, column) for row in found.rows) > 0
    assert found.total("bits") == found.total("binary") + 32 * found.total("real")
    assert found.real_bits == 32 * (found.total("binary") + found.total("real"))


def test_a_summary_changes_nothing():
    model = network("resnet18", activation="sign", affine=True)
    before, text, state = copy.deepcopy(model.state_dict()), repr(model), torch.get_rng_state()
    first = summary(model, DIGITS)
    assert first == summary(model, DIGITS)
    assert repr(model) == text and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    reading = Reading(mode_weights(model), SignActivation(StraightThrough()), Training())
    assert model(torch.zeros(4, 1, 8, 8), reading, generator("x")).shape == (4, 10)


def test_a_pass_that_fails_leaves_no_hooks():
    model = network("lenet")
    with pytest.raises(ValueError, match="no images of shape"):
        summary(model, CIFAR)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("options", [{}, {**RESNET18_VISPA, "block": "bi-real"}], ids=["default", "bi-real"])
def test_tables_of_whole_networks_fit_in_100_columns(options):
    text = str(summary(build("resnet18", CIFAR, 10, points, generator("wide"), **options), CIFAR))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split()[:4] == ["layer", "kind", "in", "output"]
    assert "times as much" in lines[-1]


def test_the_table_shows_every_row_and_the_totals():
    found = summary(network("lenet", activation="sign"), DIGITS)
    lines = str(found).splitlines()
    body = lines[2 : 2 + len(found.rows)]
    assert [line.split()[0] for line in body] == [row.name.replace("layers.", "") for row in found.rows]
    assert [line.split()[1] for line in body] == [row.kind for row in found.rows]
    total = lines[-2].split()
    assert total[:3] == ["total", f"{found.total('binary'):,}", f"{found.total('real'):,}"]


def test_layers_keep_their_dtype():
    model = network("lenet").double()
    assert summary(model, DIGITS) == summary(network("lenet"), DIGITS)


def test_the_example_in_its_docstring_holds():
    result = doctest.testmod(core.summary)
    assert result.failed == 0 and result.attempted == 6
