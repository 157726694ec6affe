"""Random networks of the project's own layers: what torch evaluates on the CPU, packed networks compute to the bit.

Statistics are made for trouble: sums that a batch norm sends to exactly 0, gains negative, 0, -0.0 and denormal,
thresholds out of reach. Compared are the integers and the bits at every linear map, and the logits.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from core.architectures import InputForm, build
from core.claims import laws
from core.deploy.export import export
from core.deploy.sums import BinConv2d, BinLinear, IntConv2d, IntLinear
from core.interface import Rng
from core.laws import Bernoulli, Point, Real, initial_uniform
from core.layers import Activation, BatchNorm, BinaryLinear, Chain, InputLinear, Network
from core.ops import StraightThrough
from core.predict import logits, mode
from core.readings import SignActivation
from core.spatial import BinaryConv2d, ChannelScale, Flatten, InputConv2d, MaxPool, Residual
from core.statistics import Moments2, Statistics

SIGNS = SignActivation(StraightThrough())
EXACT = {BinConv2d, BinLinear, IntConv2d, IntLinear}
WIDTHS = (1, 2, 5, 16, 31, 32, 33, 48, 63, 65, 96)
GAINS = torch.tensor([-1.0, 0.0, -0.0, 1e-41, -1e-41, 1e18, -0.37, 2.0])


def point(shape: torch.Size, rng: Rng) -> Point:
    return Point(initial_uniform(shape, rng))


def bernoulli(shape: torch.Size, rng: Rng) -> Bernoulli:
    return Bernoulli(initial_uniform(shape, rng))


@dataclass
class Seen:
    """What torch computes at every binary linear map: inputs and sums, channels last."""

    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    sums: dict[str, np.ndarray] = field(default_factory=dict)


def spoil(network: Network, inputs: torch.Tensor, rng: np.random.Generator, *, dyadic: bool = False) -> Statistics:
    """Gains, biases and statistics with ties and degenerate channels, set in the order of one evaluation pass.

    dyadic: scales are powers of two and means occur, so that real numbers stay short and float32 rounds nothing.
    """
    statistics = Statistics()

    def before(norm: BatchNorm, args) -> None:
        h = args[0]
        flat = h.movedim(1, -1).reshape(-1, h.shape[1]).double()
        occurs = flat[rng.integers(0, len(flat), h.shape[1]), torch.arange(h.shape[1])]
        mean, variance = flat.mean(0), flat.var(0, correction=0) + 0.01
        ties = torch.from_numpy(rng.random(h.shape[1]) < (1.0 if dyadic else 0.5))
        # scale = 1 / sqrt(variance + eps) is then a power of two: h * scale + bias is exactly 0 at h = mean
        least, most = (1, 3) if dyadic else (-3, 4)
        powers = 4.0 ** torch.from_numpy(rng.integers(least, most, h.shape[1])).double() - norm.eps
        mean, variance = torch.where(ties, occurs, mean), torch.where(ties, powers, variance)
        far = torch.from_numpy(rng.random(h.shape[1]) < (0.0 if dyadic else 0.1))
        mean = torch.where(far, torch.from_numpy(rng.choice([-1e6, 1e6], h.shape[1])), mean)
        statistics.layers[norm.name] = Moments2(2, mean, variance, torch.zeros_like(mean))
        if norm.weight is not None:
            (dyadic_gains if dyadic else spoil_gains)(norm, ties, rng)

    hooks = [m.register_forward_pre_hook(before) for m in network.modules() if isinstance(m, BatchNorm)]
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, ChannelScale):
                known = [-2.0, 0.5, 1.0] if dyadic else [-2.0, -0.3, -0.0, 0.0, 0.7, 1.0, 1.0]
                scale = rng.choice(known, len(module.scale))
                module.scale.copy_(torch.from_numpy(scale))
        logits(network, reading_of(network), statistics, inputs, Rng())
    for hook in hooks:
        hook.remove()
    return statistics


@torch.no_grad()
def spoil_gains(norm: BatchNorm, ties: torch.Tensor, rng: np.random.Generator) -> None:
    channels = len(ties)
    gain = torch.from_numpy(rng.standard_normal(channels)).float()
    rare = torch.from_numpy(rng.random(channels) < 0.4)
    gain = torch.where(rare, GAINS[torch.from_numpy(rng.integers(0, len(GAINS), channels))], gain)
    bias = torch.from_numpy(rng.standard_normal(channels)).float()
    zero = torch.tensor([0.0, -0.0])[torch.from_numpy(rng.integers(0, 2, channels))]
    norm.weight.copy_(gain)
    norm.bias.copy_(torch.where(ties, zero, bias))


@torch.no_grad()
def dyadic_gains(norm: BatchNorm, ties: torch.Tensor, rng: np.random.Generator) -> None:
    norm.weight.copy_(torch.from_numpy(rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0, 1.0], len(ties))))
    norm.bias.copy_(torch.from_numpy(rng.integers(-4, 5, len(ties)) / 2))


def reading_of(network: Network):
    """The mode's reading."""
    return next(iter(mode(SIGNS).readings(network, Rng())))


def watched(network: Network, statistics: Statistics, x: torch.Tensor) -> tuple[Seen, np.ndarray]:
    """The logits of torch, and what it computes on the way."""
    seen = Seen()

    def note(name: str):
        def hook(module, args, output) -> None:
            seen.inputs[name] = args[0].numpy()
            seen.sums[name] = first_sums(module, args[0]) if is_first(module) else last(output)

        return hook

    kinds = (BinaryLinear, BinaryConv2d, InputLinear, InputConv2d)
    hooks = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if isinstance(m, kinds)]
    answer = logits(network, reading_of(network), statistics, x, Rng()).numpy()
    for hook in hooks:
        hook.remove()
    return seen, answer


def is_first(module) -> bool:
    return isinstance(module, (InputLinear, InputConv2d))


def first_sums(module, x: torch.Tensor) -> np.ndarray:
    """Whole sums of raw values, in float64; the layer itself returns them normalised."""
    weights, x = module.law.mode().double(), module.arranged(x).double()
    if isinstance(module, InputLinear):
        return last(F.linear(x, weights))
    contract = module.contract
    return last(F.conv2d(x, weights, stride=contract.stride, padding=contract.padding))


def last(h: torch.Tensor) -> np.ndarray:
    """Channels last, as four dimensions."""
    return np.moveaxis(h.numpy(), 1, -1) if h.ndim == 4 else h.numpy()[:, None, None, :]


def check_exact(network: Network, statistics: Statistics, x: np.ndarray, twin, backends, *, whole: bool = True) -> None:
    """Zero differing sums, bits and logits in every backend. whole: every sum is of signs or of pixels."""
    seen, answer = watched(network, statistics, torch.from_numpy(x))
    packed = export(network, "mode", inputs=torch.from_numpy(x), statistics=[statistics])
    (graph,) = packed.form.networks
    sums = {type(node.operation) for node in graph.nodes if node.name in seen.sums}
    assert not whole or (sums <= EXACT and packed.form.facts["exact"]), f"{sums}, {packed.form.facts}"
    for backend, executor_of in backends.items():
        executor = executor_of(graph)
        trace = executor.trace(x)
        check_sums(seen, graph, trace, twin, backend)
        same_bits(executor.run(x)[:, 0, 0], answer, f"{backend}: logits")
    same_bits(packed.run(x), answer, "run")
    assert np.array_equal(packed.classes(x), answer.argmax(1)), "classes"


def check_sums(seen: Seen, graph, trace: dict[str, np.ndarray], twin, where: str) -> None:
    """At every sum node, the numbers of the layer of its name, and the bits that it was given."""
    nodes = {node.name: node for node in graph.nodes if node.name in seen.sums}
    assert set(nodes) == set(seen.sums), f"{where}: sums {sorted(nodes)}, linear maps {sorted(seen.sums)}"
    for name, node in nodes.items():
        assert np.array_equal(trace[name], seen.sums[name]), f"{where}: sums of {name}"
        source = graph.values[node.inputs[0]]
        if source.kind == "bits":
            bits, given = trace[node.inputs[0]], seen.inputs[name]
            if given.ndim == 2:  # flattened channels first
                given = given.reshape(len(given), source.channels, *source.shape[:2])
            expected = twin.pack(np.moveaxis(given, 1, -1))
            assert np.array_equal(bits, expected), f"{where}: bits into {name}"


def same_bits(got: np.ndarray, expected: np.ndarray, where: str) -> None:
    assert got.dtype == expected.dtype == np.float32 and got.shape == expected.shape, where
    wrong = got.view(np.uint32) != expected.view(np.uint32)
    assert not wrong.any(), f"{where}: {wrong.sum()} of {wrong.size} differ; {got[wrong][:3]} {expected[wrong][:3]}"


# ---------------------------------------------------------------------- architectures


def grow_architecture(pick) -> tuple[Network, InputForm]:
    """mlp, lenet or vgg-small of odd widths, all binary, signs between layers."""
    name = pick(("mlp", "lenet", "lenet", "vgg-small"))
    shape = (pick((1, 2, 3)), pick((8, 9, 11)), pick((8, 9, 10)))
    shift, scale = pick(((0.0, 1.0), (128.0, 127.5), (33.3, 64.0)))
    form = InputForm(int(np.prod(shape)), shift, scale, 255.0, True, shape)
    options = {"activation": "sign", "affine": pick((True, True, False))}
    if name == "mlp":
        options["widths"] = tuple(pick(WIDTHS) for _ in range(pick((1, 2, 3))))
    else:
        few = (3, 8, 17, 32, 33)
        options |= {"channels": tuple(pick(few) for _ in range(pick((1, 2)))), "units": pick(WIDTHS)}
        padded = (1, 2) if name == "vgg-small" or len(options["channels"]) > 1 else (0, 1, 2)
        options |= {"padding": pick(padded), "pool": pick(("after-norm", "before-norm"))}
        options["channel_scale"] = pick(("none", "learned"))
        if name == "vgg-small":
            options["hidden"] = pick((0, 1, 2))
    rng = Rng().manual_seed(pick(range(2**32)))
    return build(name, form, pick((2, 7, 10)), pick((point, bernoulli)), rng, **options), form


def pixels(form: InputForm, n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.integers(0, 256, (n, *form.shape), np.uint8)
    x[rng.random(x.shape) < 0.2] = 255
    return x


def check_random(pick, twin, backends) -> None:
    network, form = grow_architecture(pick)
    rng = np.random.default_rng(pick(range(2**32)))
    x = pixels(form, pick((1, 2, 5, 17)), rng)
    check_exact(network, spoil(network, torch.from_numpy(x), rng), x, twin, backends)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_networks_by_name_are_exact(twin, backends, data: st.DataObject) -> None:
    check_random(lambda known: data.draw(st.sampled_from(known)), twin, backends)


@pytest.mark.parametrize("seed", range(6))
def test_so_are_networks_drawn_evenly(seed: int, twin, backends) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        check_random(rng.choice, twin, backends)


# ---------------------------------------------------------------------- layers in other orders


def grow_layers(pick) -> tuple[Network, InputForm]:
    """Strides, groups, pools of any size on either side of the norm, no norm at all, scales, residual signs."""
    rng = Rng().manual_seed(pick(range(2**32)))
    shape = (pick((1, 3, 4)), pick((9, 12, 13)), pick((10, 12, 15)))
    form = InputForm(int(np.prod(shape)), 100.0, 60.0, 255.0, True, shape)
    n_in = pick((6, 12, 36))
    law = point(torch.Size((n_in, shape[0], pick((1, 3)), pick((2, 3)))), rng)
    options = {"shift": 100.0, "scale": 60.0, "maximum": 255.0, "dropout": 0.0}
    halvings = Halvings(pick)
    first = InputConv2d(law, shape=shape, stride=halvings.factor(), padding=pick((0, 1, 2)), **options)
    layers = [first, *after_sum(halvings, n_in)]
    for _ in range(pick((1, 2))):
        groups, n_out = pick((1, 2, 3, 6)), pick((6, 12, 24, 66))
        law = point(torch.Size((n_out, n_in // groups, pick((1, 2, 3)), pick((1, 3)))), rng)
        stride, padding = halvings.factor(), pick((1, 1, 2))
        convolution = BinaryConv2d(law, stride=stride, padding=padding, groups=groups, signs=True)
        layers += [convolution, *after_sum(halvings, n_out)]
        n_in = n_out
    if pick((True, False)):
        law = point(torch.Size((n_in, n_in, 3, 3)), rng)
        branch = Chain(BinaryConv2d(law, padding=1, signs=True), norm(n_in))
        layers += [Residual(branch, Chain()), Activation("sign")]
    return Network(*layers, Flatten(), activation="sign"), form


@dataclass
class Halvings:
    """Two in all, by stride or by pooling: images of 9 are not used up."""

    pick: Callable
    left: int = 2

    def factor(self) -> int:
        """1 or 2."""
        factor = self.pick((1, 2)) if self.left else 1
        self.left -= factor - 1
        return factor


def norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, affine=True, eps=1e-5, momentum=0.1)


ORDERS = ("norm", "norm", "pool norm", "norm pool", "pool", "scale norm pool", "scale pool norm", "scale", "none")


def after_sum(halvings: Halvings, channels: int) -> list[nn.Module]:
    order = halvings.pick(ORDERS).split()
    made = {"norm": lambda: norm(channels), "scale": lambda: ChannelScale(channels)}
    made["pool"] = lambda: MaxPool(halvings.factor())
    return [*(made[part]() for part in order if part != "none"), Activation("sign")]


def with_head(network: Network, x: np.ndarray, rng: Rng) -> Network:
    """The network, and a linear layer with batch norm on what it makes of `x`."""
    statistics = spoil(network, torch.from_numpy(x), np.random.default_rng(0))
    features = logits(network, reading_of(network), statistics, torch.from_numpy(x), rng).shape[1]
    head = [BinaryLinear(point(torch.Size((5, features)), rng), signs=True), norm(5)]
    return Network(*network.layers, *head, activation="sign")


@pytest.mark.parametrize("seed", range(6))
def test_layers_in_any_order_are_exact(seed: int, twin, backends) -> None:
    pick = random.Random(100 + seed).choice
    for _ in range(10):
        network, form = grow_layers(pick)
        rng = np.random.default_rng(pick(range(2**32)))
        x = pixels(form, pick((1, 3, 8)), rng)
        network = with_head(network, x, Rng().manual_seed(seed))
        check_exact(network, spoil(network, torch.from_numpy(x), rng), x, twin, backends)


# ---------------------------------------------------------------------- residual and real networks


def dyadic_law(shape: torch.Size, rng: Rng) -> Real:
    """Real weights that are multiples of 1/2 up to 1."""
    return Real(torch.randint(-2, 3, shape, generator=rng) / 2)


def check_dyadic(network: Network, x: np.ndarray, rng: np.random.Generator, twin, backends, *, whole: bool) -> None:
    """`check_exact` of a network whose float32 evaluation rounds nothing, so that every order of sums is right."""
    statistics = spoil(network, torch.from_numpy(x), rng, dyadic=True)
    wide = copy.deepcopy(network).double()
    exact = logits(wide, reading_of(wide), statistics, torch.from_numpy(x), Rng())
    answer = logits(network, reading_of(network), statistics, torch.from_numpy(x), Rng())
    assert torch.equal(exact, answer.double()), "the test's own numbers are too long"
    check_exact(network, statistics, x, twin, backends, whole=whole)


@pytest.mark.parametrize("block", ["basic", "bi-real"])
@pytest.mark.parametrize("seed", range(4))
def test_residual_networks_are_exact_where_nothing_rounds(block: str, seed: int, twin, backends) -> None:
    pick = random.Random(seed).choice
    for _ in range(2):
        form = InputForm(192, 4.0, 8.0, 15.0, True, (3, 8, 8))
        options = {"channels": pick(((5, 9), (8, 33), (3,), (4, 6, 8))), "block": block, "first": "binary"}
        options |= {"downsample": pick(("binary", "real")), "last": pick(("binary", "real"))}
        if block == "bi-real":  # its stream grows by some bits a stage
            options |= {"channels": pick(((5, 9), (8, 33), (3,))), "last": "binary"}
        options |= {"affine": True, "activation": "sign", "channel_scale": pick(("none", "learned"))}
        network = build("resnet18", form, 4, point, Rng().manual_seed(pick(range(1000))), **options)
        shorten(network, Rng().manual_seed(seed))
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 16, (3, 3, 8, 8), np.uint8)
        check_dyadic(network, x, rng, twin, backends, whole=False)


def shorten(network: Network, rng: Rng) -> None:
    """Real weights become dyadic."""
    for _, law in laws(network):
        if law.levels is None:
            law.latents.data = dyadic_law(law.shape, rng).latents.data


@pytest.mark.parametrize("activation", ["relu", "hardtanh", "sign"])
@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_real_activations_and_layers_are_exact_where_nothing_rounds(name: str, activation: str, twin, backends) -> None:
    pick = random.Random(f"{name} {activation}").choice
    for _ in range(6):
        shape = (pick((1, 3)), 6, 5)
        form = InputForm(int(np.prod(shape)), 4.0, 8.0, 15.0, True, shape)
        options = {"first": pick(("binary", "real")), "last": pick(("binary", "real"))}
        options |= {"activation": activation, "affine": True, "dropout": pick((0.0, 0.5))}
        if name == "mlp":
            options["widths"] = pick(((17, 33), (40, 5), (64, 1)))
        else:
            options |= {
                "channels": (pick((3, 33)),),
                "units": pick((7, 32)),
                "pool": pick(("after-norm", "before-norm")),
            }
            options |= {"padding": pick((0, 1, 2)), "channel_scale": pick(("none", "learned"))}
        network = build(name, form, 4, point, Rng().manual_seed(pick(range(1000))), **options)
        shorten(network, Rng().manual_seed(1))
        rng = np.random.default_rng(pick(range(1000)))
        x = rng.integers(0, 16, (5, *shape), np.uint8)
        check_dyadic(network, x, rng, twin, backends, whole=False)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_real_features_are_exact_where_nothing_rounds(name: str, twin, backends) -> None:
    pick = random.Random(name).choice
    for _ in range(6):
        form = InputForm(30, 0.5, 2.0, 8.0, False, (1, 6, 5))
        options = {"widths": (33, 20)} if name == "mlp" else {"channels": (9,), "units": 33, "padding": pick((0, 1, 2))}
        options |= {"activation": pick(("sign", "hardtanh")), "affine": True, "first": pick(("binary", "real"))}
        network = build(name, form, 4, point, Rng().manual_seed(pick(range(1000))), **options)
        shorten(network, Rng().manual_seed(1))
        rng = np.random.default_rng(pick(range(1000)))
        shape = pick(((30,), (1, 6, 5), (6, 5))) if name == "mlp" else pick(((1, 6, 5), (6, 5)))
        x = (rng.integers(-32, 33, (4, *shape)) / 4).astype(np.float32)
        check_dyadic(network, x, rng, twin, backends, whole=False)
