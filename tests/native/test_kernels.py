"""Native kernels: their torch twins and float64 fed the same noise, every CPU level, refusals, noise, the lock."""

import math
import threading
import time

import pytest
import torch

from core import extension, native
from core.counter import logistic, random_bits
from core.native import Relaxation
from core.ops import sign
from solvers import passes

N = 4099  # prime: no vector width divides it
SPREADS = (3.0, 8.0, 12.0, 60.0)
KEY, NEXT = (0x12345678, 0x9ABCDEF0), (0xFFFFFFFF, 1)
BUILT = extension.info().path == "native"
built = pytest.mark.skipif(not BUILT, reason="the native extension is not built here")


def uniform(spread: float, seed: int = 0) -> torch.Tensor:
    """Natural parameters in +-spread, the exact 0 and both ends among them."""
    x = (torch.rand(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1) * spread
    x[0], x[1], x[2] = 0.0, spread, -spread
    return x.float()


def gradients(seed: int = 1) -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed)) * 1e-3


def drawn(module, natural: torch.Tensor, relaxation: Relaxation, key=KEY, **level) -> tuple[torch.Tensor, torch.Tensor]:
    weights, factor = torch.empty_like(natural), torch.empty_like(natural)
    module.bernoulli_draw(natural, weights, factor, key=key, relaxation=relaxation, **level)
    return weights, factor


def stepped(module, natural: torch.Tensor, relaxation: Relaxation, momentum: float, prior, **level):
    """One draw and one step: (natural, velocity, weights, factor) after it."""
    natural = natural.clone()
    weights, factor = drawn(module, natural, relaxation, **level)
    velocity = torch.zeros_like(natural) if momentum else None
    module.bernoulli_step(
        gradients().to(natural.dtype),
        None if prior is None else prior.to(natural.dtype),
        natural,
        velocity,
        weights,
        factor,
        key=NEXT,
        relaxation=relaxation,
        scale=100.0,
        rate=1e-3,
        momentum=momentum,
        decay=1.0,
        **level,
    )
    return natural, velocity, weights, factor


PATHS = [pytest.param(native, marks=built, id="native"), pytest.param(passes, id="torch")]


@pytest.mark.parametrize("module", PATHS)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.2, 0.1, 0.3, 3.0])
def test_relaxed_draw_agrees_with_float64(module, spread, temperature):
    natural = uniform(spread)
    relaxation = Relaxation(temperature, 30.0 if spread <= 12 else math.inf)
    weights, factor = drawn(module, natural, relaxation)
    exact, exact_factor = drawn(passes, natural.double(), relaxation)
    # The relative error of exp(-2|z|) is that of z, absolute: a few roundings of |natural| + |noise| <= spread + 11.4;
    # the weight's slope in z is at most 1 / temperature.
    error = 4 * torch.finfo(torch.float32).eps * (spread + 11.4)
    assert (weights.double() - exact).abs().max() <= error / temperature + 3e-7
    relative = 3 * error * max(1.0, 1 / temperature) + 1e-6
    # Below 1e-12 a factor times any gradient is lost beside the decay; there kernels flush.
    large = (exact_factor > 1e-12) & (exact_factor < 1e37)
    assert large.sum() >= 50
    assert ((factor.double() / exact_factor)[large] - 1).abs().max() <= relative
    assert factor[exact_factor <= 1e-12].abs().le(1e-11).all()
    assert factor.isfinite().all()


@built
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("anchored", [False, True])
def test_native_and_torch_steps_agree_to_1e_6(spread, momentum, anchored):
    """At temperature 1, where a step's factor is bounded by a few units and no error is amplified."""
    relaxation = Relaxation(1.0, min(spread, 30.0) if spread <= 12 else math.inf)
    prior = uniform(1.0, seed=7) if anchored else None
    ours = stepped(native, uniform(spread), relaxation, momentum, prior)
    twin = stepped(passes, uniform(spread), relaxation, momentum, prior)
    exact = stepped(passes, uniform(spread).double(), relaxation, momentum, prior)
    for reference in (twin[0], exact[0]):
        # One rounding of a parameter of this size besides the 1e-6 of the step
        assert (ours[0].double() - reference.double()).abs().max() <= 1e-6 + spread * 2**-23
    assert (ours[2].double() - exact[2].double()).abs().max() <= 4 * 2**-23 * (spread + 11.4) + 1e-6


@built
@pytest.mark.parametrize("spread", SPREADS)
def test_published_rule_agrees_between_paths_where_its_subtractions_keep_digits(spread):
    """Its two differences are in float32 by intent: two correct paths may differ by that grid, 2^-23 over the rest."""
    relaxation = Relaxation(1e-10, math.inf, 1e-10, 1e-10)
    natural = uniform(spread)
    weights, factor = drawn(native, natural, relaxation)
    twin_weights, twin = drawn(passes, natural, relaxation)
    assert torch.equal(weights, twin_weights)  # signs: at this temperature tanh is exact
    rest = 1 - torch.tanh(natural.double()) ** 2 + 1e-10
    saturated = natural.abs() > 9.7  # both paths round the mean to 1 there
    assert torch.equal(factor[saturated], twin[saturated])
    grid = 4 * 2**-23 / rest[~saturated]
    assert ((factor.double() / twin.double() - 1).abs()[~saturated] <= grid / (1 - grid).clamp_min(1e-3) + 1e-5).all()


@built
@pytest.mark.parametrize("level", range(len(extension.LEVELS)))
def test_every_cpu_level_agrees_and_levels_with_fused_multiply_add_agree_bit_for_bit(level):
    best = extension.LEVELS.index(extension.info().level)
    if level > best:
        pytest.skip(f"this CPU has no {extension.LEVELS[level]}")
    for temperature in (0.1, 0.3):
        for momentum, prior in ((0.9, uniform(1.0, seed=7)), (0.0, None)):
            relaxation = Relaxation(temperature, 6.0)
            ours = stepped(native, uniform(6.0), relaxation, momentum, prior, level=level)
            theirs = stepped(native, uniform(6.0), relaxation, momentum, prior, level=best)
            for a, b in zip(ours, theirs, strict=True):
                if a is None:
                    continue
                if level:
                    assert torch.equal(a, b)
                else:
                    assert torch.allclose(a, b, rtol=2e-4, atol=2e-4)


@built
def test_portable_level_agrees_with_float64_too():
    weights, factor = drawn(native, uniform(8.0), Relaxation(1.0, 8.0), level=0)
    exact, exact_factor = drawn(passes, uniform(8.0).double(), Relaxation(1.0, 8.0))
    assert (weights.double() - exact).abs().max() <= 4 * 2**-23 * (8 + 11.4) + 1e-6
    assert (factor.double() / exact_factor - 1).abs().max() <= 12 * 2**-23 * (8 + 11.4)


@pytest.mark.parametrize("module", PATHS)
def test_point_step_is_torch_adam_clip_and_sign(module):
    latent = torch.nn.Parameter(uniform(1.0))
    adam = torch.optim.Adam([latent], lr=0.05)
    ours, first, second, weights = latent.detach().clone(), *(torch.zeros(N) for _ in range(3))
    for step in range(1, 6):
        gradient = gradients(seed=step)
        latent.grad = gradient.clone()
        adam.step()
        with torch.no_grad():
            latent.clamp_(-0.9, 0.9)
        module.point_adam(
            *(gradient, ours, first, second, weights),
            rate=0.05 / (1 - 0.9**step),
            betas=(0.9, 0.999),
            root=(1 - 0.999**step) ** -0.5,
            eps=1e-8,
            bound=0.9,
        )
        # 0.05 a step at most, in a few roundings of relative size 2^-24 each
        assert (ours - latent).abs().max() <= step * 1e-6
        assert torch.equal(weights, sign(ours))
    assert ours.abs().max() == torch.tensor(0.9)  # some were clipped


@built
def test_bop_flips_where_the_average_pushes_past_the_threshold():
    signs, average, gradient = sign(uniform(1.0)), gradients(3), gradients(4)
    expected = torch.lerp(average, gradient, 0.25)
    flipped = torch.where(expected * signs > 1e-4, -signs, signs)
    assert 0.1 < (flipped != signs).float().mean() < 0.9
    native.point_bop(gradient, signs, average, adaptivity=0.25, threshold=1e-4)
    assert torch.equal(signs, flipped)
    assert (average - expected).abs().max() <= 2**-30


@pytest.mark.parametrize("module", PATHS)
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 6])  # 4 at most in registers, more in blocks
def test_low_rank_step_is_the_outer_products_in_float64(module, unit, momentum, rank):
    rng = torch.Generator().manual_seed(5)
    rows = torch.randn(rank + 1, N, generator=rng)
    rows /= rows.norm(dim=0)
    used, coefficients = torch.randn(rank, generator=rng), torch.randn(rank, generator=rng)
    ours, velocity, weights = rows.clone(), torch.full_like(rows, 0.01), torch.empty(N)
    module.lowrank_step(
        *(gradients(), used, coefficients, ours, velocity if momentum else None, weights),
        **{"scale": 10.0, "rate": 0.5, "momentum": momentum, "decay": 0.1, "unit": unit},
    )
    p = rows.double()
    loadings = torch.cat([torch.ones(1), used]).double()
    direction = 10 * torch.outer(loadings, gradients().double())
    if unit:
        direction = direction - p * (p * direction).sum(0)
    direction = direction + 0.1 * p
    if momentum:
        direction = 0.9 * 0.01 + 0.1 * direction
    moved = p - 0.5 * direction
    moved = moved / moved.norm(dim=0) if unit else moved
    assert (ours.double() - moved).abs().max() <= 1e-6
    z = torch.cat([torch.ones(1), coefficients]).double() @ ours.double()
    clear = z.abs() > 1e-5  # elsewhere the sign is that of a rounding error
    assert torch.equal(weights[clear].double(), sign(z[clear]))
    if unit:
        assert (ours.double().norm(dim=0) - 1).abs().max() <= 1e-6


@built
@pytest.mark.parametrize("level", range(len(extension.LEVELS)))
@pytest.mark.parametrize("unit", [False, True])
def test_low_rank_steps_in_registers_and_in_blocks_give_the_same_bits(level, unit):
    """A fifth column of zeros that meets no noise changes nothing, but takes the pass by blocks."""
    if level > extension.LEVELS.index(extension.info().level):
        pytest.skip(f"this CPU has no {extension.LEVELS[level]}")
    rng = torch.Generator().manual_seed(6)
    rows = torch.randn(5, N, generator=rng)
    rows /= rows.norm(dim=0)
    used, coefficients = torch.randn(4, generator=rng), torch.randn(4, generator=rng)
    found = []
    for columns in (0, 1):
        wide, more = torch.cat([rows, torch.zeros(columns, N)]), torch.zeros(columns)
        velocity, weights = torch.zeros_like(wide), torch.empty(N)
        native.lowrank_step(
            *(gradients(), torch.cat([used, more]), torch.cat([coefficients, more]), wide, velocity, weights),
            **{"scale": 10.0, "rate": 0.5, "momentum": 0.9, "decay": 0.1, "unit": unit, "level": level},
        )
        found.append((wide[:5], velocity[:5], weights))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@built
@pytest.mark.parametrize("level", range(len(extension.LEVELS)))
@pytest.mark.parametrize("spread", SPREADS)
def test_bernoulli_moments_and_their_pull_back_are_those_of_float64(level, spread):
    if level > extension.LEVELS.index(extension.info().level):
        pytest.skip(f"this CPU has no {extension.LEVELS[level]}")
    natural, mean, variance, pulled = uniform(spread), *(torch.empty(N) for _ in range(3))
    native.bernoulli_moments(natural, mean, variance, level=level)
    wide = natural.double()
    exact = 1 / torch.cosh(wide).square()
    # exp to 2 units in the last place, of an argument whose rounding it multiplies by 2 |lambda|; then 4 roundings
    bound = 2**-24 * (4 * wide.abs() + 12)
    assert ((mean.double() - torch.tanh(wide)).abs() <= bound).all()
    assert ((variance.double() - exact).abs() <= bound * exact + 1e-36).all()  # 1e-36: what counts as 0
    by_mean, by_variance = gradients(1), gradients(2)
    native.bernoulli_pull_back(mean, variance, by_mean, by_variance, pulled, level=level)
    m, v, a, b = (t.double() for t in (mean, variance, by_mean, by_variance))
    # 3 roundings of each term
    assert ((pulled.double() - v * (a - 2 * m * b)).abs() <= 2**-22 * v * (a.abs() + 2 * b.abs()) + 1e-36).all()


@built
def test_certain_weights_have_variance_0_by_kernel():
    natural = torch.tensor([-math.inf, -60.0, 0.0, 60.0, math.inf])
    mean, variance = torch.empty(5), torch.empty(5)
    native.bernoulli_moments(natural, mean, variance)
    assert mean.tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0] and variance.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_noise_is_logistic_with_independent_signs():
    noise = logistic(torch.empty(1_000_000, dtype=torch.float64), KEY)
    # u = sigmoid(2 delta) is uniform; the largest gap of n uniforms to their ranks is below 1.95 / sqrt(n) at 0.1 %
    u = torch.sigmoid(2 * noise).sort().values
    ranks = torch.arange(1, len(u) + 1, dtype=torch.float64) / len(u)
    assert (u - ranks).abs().max() <= 1.95e-3
    assert noise.abs().max() <= 0.5 * math.log(2.0**33)
    size, side = noise.abs() - noise.abs().mean(), sign(noise)
    assert (size / size.std() * side).mean().abs() <= 5e-3  # 5 standard errors


def test_noise_of_neighbouring_entries_and_keys_is_uncorrelated():
    n = 200_000
    # the last shifts the counter of the first by one entry; its second word must undo that
    keys = [(0, 0), (1, 0), (0, 1), (0x9E3779B9, 2)]
    draws = [logistic(torch.empty(n, dtype=torch.float64), key) for key in keys]
    draws = [(d - d.mean()) / d.std() for d in draws]
    for i, a in enumerate(draws):
        for lag in (1, 2, 16, 512):
            assert (a[lag:] * a[:-lag]).mean().abs() <= 5 / math.sqrt(n)
        for b in draws[:i]:
            for lag in (0, 1):
                assert (a[lag:] * b[: n - lag]).mean().abs() <= 5 / math.sqrt(n)
                assert (a[: n - lag] * b[lag:]).mean().abs() <= 5 / math.sqrt(n)


def test_every_random_bit_is_fair():
    bits = random_bits(1 << 18, KEY)
    for position in range(32):
        share = ((bits >> position) & 1).double().mean()
        assert abs(share - 0.5) <= 5 * 0.5 / 512  # 5 standard errors of 2^18 fair coins


@built
def test_kernels_refuse_what_they_cannot_take():
    good = torch.zeros(8)
    relaxation = Relaxation(1.0, 6.0)
    with pytest.raises(ValueError, match=r"equally many entries \(got \[4, 8\]\)"):
        native.bernoulli_draw(good, good[:4], good, key=KEY, relaxation=relaxation)
    with pytest.raises(ValueError, match="contiguous float32 CPU tensors"):
        native.bernoulli_draw(good.double(), good, good, key=KEY, relaxation=relaxation)
    with pytest.raises(ValueError, match="contiguous float32 CPU tensors"):
        native.bernoulli_draw(torch.zeros(16)[::2], good, good, key=KEY, relaxation=relaxation)
    with pytest.raises(ValueError, match=r"CPU level must be in 0\.\.\d on this machine \(got 7\)"):
        native.bernoulli_draw(good, good, good, key=KEY, relaxation=relaxation, level=7)
    with pytest.raises(ValueError, match=r"shape \(K \+ 1, \*weights\): got \(3, 8\) for 4 coefficients"):
        native.lowrank_draw(torch.zeros(3, 8), torch.zeros(4), good)


@built
def test_kernels_release_the_interpreter_lock():
    natural = torch.zeros(3_000_000)
    weights, factor = torch.empty_like(natural), torch.empty_like(natural)
    ticks, stop = [], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    watcher = threading.Thread(target=tick)
    watcher.start()
    time.sleep(0.01)
    began = time.perf_counter()
    native.bernoulli_draw(natural, weights, factor, key=KEY, relaxation=Relaxation(0.3, 6.0), level=0)
    ended = time.perf_counter()
    stop.set()
    watcher.join()
    assert [t for t in ticks if began < t < ended], "no other thread ran during a kernel of tens of milliseconds"


def test_info_says_which_path_runs_and_how_it_was_built():
    info = extension.info()
    if BUILT:
        assert info.level in extension.LEVELS and "-ffp-contract=off" in info.flags and info.compiler
        assert str(info).startswith(f"native kernels at CPU level {info.level}")
    else:
        assert "not built here" in info.reason and str(info).startswith("twins in torch and NumPy: ")
