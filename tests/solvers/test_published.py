"""The `bayesbinn-published` entry: one step from the same state and noise against the released code's formula in numpy.

scale = (1 - w^2 + eps) / T / (1 - mu^2 + eps); lambda <- (1 - alpha) lambda - alpha (N scale g - lambda0).
"""

import numpy as np
import pytest
import torch

from core.claims import laws
from core.interface import Budget, Reading, Tape
from core.layers import BinaryLinear, Chain
from core.ops import half_logit
from core.readings import Draw
from methods.bayesbinn_published import bayesbinn_published

BUDGET = Budget(n_train=54_000, batch=8, steps=10)
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

# Naturals from undecided to deep saturation; at these 1 - mu^2 >= 0.07 or is formed from tanh = 1 in float32, so that a
# last-bit difference between two libraries' tanh (6e-8 of 1) stays below 1e-6 of the quotient.
NATURALS = np.array([[10.0, -10.0, 12.5, -9.5, 0.0], [1.0, -0.5, 2e3, -1e6, 1e-12], [-10.0, 10.0, 0.25, -2.0, 10.0]])


def network(dtype):
    """One binary layer of the method's own law, with chosen naturals, and the method's solvers."""
    method = bayesbinn_published(lr=1e-4)
    model = Chain(BinaryLinear(method.law(torch.Size(NATURALS.shape), torch.Generator().manual_seed(0)))).to(dtype)
    ((_, law),) = laws(model)
    with torch.no_grad():
        law.coordinates()[0].parameter.copy_(torch.from_numpy(NATURALS))
    return method, model, law


def whole_numbers(rng, *shape: int) -> torch.Tensor:
    """Small integers: contractions with saturated weights are then exact, whatever their order."""
    return torch.randint(-3, 4, shape, generator=rng).double()


def tanh(x: np.ndarray) -> np.ndarray:
    """Rounded once to x's precision: numpy's own float32 tanh is an ulp short of 1 at 9.5, and 1 - mu^2 shows it."""
    return np.tanh(x.astype(np.float64)).astype(x.dtype)


def step(natural, noise, x, target, *, lr, n, temperature, stabiliser) -> np.ndarray:
    """One step in the precision of `natural`, for the mean over the batch of |x w^T - target|^2 / 2; prior 0."""
    kind = natural.dtype.type
    w = tanh((natural + noise) / kind(temperature))
    gradient = (x @ w.T - target).T @ x / kind(len(x))
    mean = tanh(natural)
    scale = (1 - w**2 + kind(stabiliser)) / kind(temperature) / (1 - mean**2 + kind(stabiliser))
    return (1 - kind(lr)) * natural - kind(lr) * (kind(n) * scale * gradient)


def take_step(method, model, law, x, target, rng, noise=None) -> tuple[np.ndarray, np.ndarray]:
    """The parameter after one step, and the noise of its draw. noise: given, it is drawn by Draw, not ahead."""
    solvers = method.solvers(model, BUDGET)
    tape, train = Tape(), method.train(0.0)
    weights = train.weights
    if noise is not None:
        law.noise, weights = (lambda rng: noise), Draw(train.weights.surrogate)
    y = model(x, Reading(weights, train.activations, tape=tape), rng)
    ((y - target).square().sum(1).mean() / 2).backward()
    drawn_with = tape.drawn[0].noise.numpy().copy()
    tape.pull_back()
    for solver in solvers:
        solver.step()
    return law.coordinates()[0].parameter.detach().numpy(), drawn_with


@PRECISIONS
@pytest.mark.parametrize("seed", range(3))
def test_one_step_is_the_released_codes_formula_fed_the_same_noise(seed, dtype, rng):
    method, model, law = network(dtype)
    rng.manual_seed(seed)
    x, target = whole_numbers(rng, 8, 5).to(dtype), whole_numbers(rng, 8, 3).to(dtype)
    ours, noise = take_step(method, model, law, x, target, rng)
    expected = step(
        NATURALS.astype(noise.dtype),
        noise,
        x.numpy(),
        target.numpy(),
        lr=1e-4,
        n=54_000,
        temperature=1e-10,
        stabiliser=1e-10,
    )
    assert np.abs(expected - NATURALS).max() > 1e5  # |lambda| of order 1e6 and more after one step, as specified
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_the_extreme_uniforms_step_finitely(rng):
    method, model, law = network(torch.float32)
    u = torch.full(NATURALS.shape, 0.0)
    u[1], u[2] = 2.0**-24, 1 - 2.0**-24
    x, target = whole_numbers(rng, 8, 5).float(), whole_numbers(rng, 8, 3).float()
    stepped, _ = take_step(method, model, law, x, target, rng, half_logit(u))
    assert np.isfinite(stepped).all()


def test_the_law_starts_at_plus_and_minus_ten_with_the_signs_of_the_shared_start(rng):
    law = bayesbinn_published().law(torch.Size([40, 50]), rng)
    natural = law.coordinates()[0].parameter.detach()
    assert natural.abs().unique().tolist() == [10.0]
    assert abs((natural > 0).double().mean().item() - 0.5) < 5 * 0.5 / 2000**0.5
    assert torch.equal(law.prior, torch.zeros(40, 50))


@PRECISIONS
def test_without_gradient_the_step_is_the_decay_to_the_prior_alone(dtype, rng):
    method, model, law = network(dtype)
    noise = torch.zeros(NATURALS.shape, dtype=dtype)
    x, target = torch.zeros(8, 5, dtype=dtype), torch.zeros(8, 3, dtype=dtype)
    stepped, _ = take_step(method, model, law, x, target, rng, noise)
    np.testing.assert_allclose(stepped, (1 - 1e-4) * NATURALS, rtol=4 * torch.finfo(dtype).eps)
