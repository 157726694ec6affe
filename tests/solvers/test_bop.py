"""Bop against its definition: m <- (1 - gamma) m + gamma g, then w flips exactly where m w > threshold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.ops import sign
from solvers.bop import Bop


def signs(count: int, rng) -> torch.Tensor:
    return torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0).double()


def flipped(w: np.ndarray, m: np.ndarray, threshold: float) -> np.ndarray:
    """Helwegen et al. 2019, one weight at a time."""
    return np.array([-a if b * a > threshold else a for a, b in zip(w, m, strict=True)])


@pytest.mark.parametrize("threshold", [0.0, 1e-6, 0.05])
@pytest.mark.parametrize("gamma", [1.0, 0.3, 1e-3])
def test_several_steps_flip_exactly_the_weights_that_the_definition_flips(gamma, threshold, rng):
    start = signs(200, rng)
    p = nn.Parameter(start.clone())
    solver = Bop([p], lr=gamma, threshold=threshold)
    w, m = start.numpy().copy(), np.zeros(200)
    for gradient in torch.randn(15, 200, generator=rng, dtype=torch.float64):
        p.grad = gradient.clone()
        solver.step()
        m = (1 - gamma) * m + gamma * gradient.numpy()
        w = flipped(w, m, threshold)
        assert np.array_equal(p.detach().numpy(), w)  # random m: no tie, so rounding cannot decide
    if threshold < gamma:  # then 15 averages of normals pass it
        assert not np.array_equal(w, start.numpy())


def test_a_push_of_exactly_the_threshold_does_not_flip():
    p = nn.Parameter(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    solver = Bop([p], lr=1.0, threshold=0.25)  # gamma = 1: m = g exactly
    above = float(np.nextafter(np.float32(0.25), np.float32(1)))
    p.grad = torch.tensor([0.25, -0.25, above, -above, -0.25, 0.25])
    solver.step()
    assert p.tolist() == [1.0, -1.0, -1.0, 1.0, 1.0, -1.0]


def test_a_zero_average_flips_nothing_at_threshold_zero():
    p = nn.Parameter(torch.tensor([1.0, -1.0]))
    solver = Bop([p], lr=1.0, threshold=0.0)
    p.grad = torch.zeros(2)
    solver.step()
    assert p.tolist() == [1.0, -1.0]
    p.grad = torch.tensor([1e-30, 1e-30])
    solver.step()
    assert p.tolist() == [-1.0, -1.0]  # descent: a positive gradient turns +1 down and leaves -1


def test_a_flip_keeps_the_average():
    p = nn.Parameter(torch.tensor([1.0]).double())
    solver = Bop([p], lr=0.5, threshold=0.1)
    path = []
    for gradient in (1.0, 0.0, -0.2, -1.0, 0.0):
        p.grad = torch.tensor([gradient]).double()
        solver.step()
        path.append(p.item())
    # m = .5, .25, .025, -.4875, -.24375: flips down at once, back up when m w = .4875, not before; then m w < 0.
    assert path == [-1.0, -1.0, -1.0, 1.0, 1.0]


def test_the_adaptivity_rate_is_annealed_through_the_scheduler(rng):
    start, gradients = signs(100, rng), torch.randn(8, 100, generator=rng, dtype=torch.float64)
    p = nn.Parameter(start.clone())
    solver = Bop([p], lr=0.8, threshold=0.2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(solver, gamma=0.5)
    w, m, rate = start.numpy().copy(), np.zeros(100), 0.8
    for gradient in gradients:
        p.grad = gradient.clone()
        solver.step()
        scheduler.step()
        m, rate = (1 - rate) * m + rate * gradient.numpy(), rate / 2
        w = flipped(w, m, 0.2)
        assert np.array_equal(p.detach().numpy(), w)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_weights_stay_signs_and_a_flip_always_descends(seed, gamma, threshold):
    rng = torch.Generator().manual_seed(seed)
    start, gradient = signs(40, rng), torch.randn(40, generator=rng, dtype=torch.float64)
    p = nn.Parameter(start.clone())
    solver = Bop([p], lr=gamma, threshold=threshold)
    p.grad = gradient
    solver.step()
    change = p.detach() - start
    assert set(p.tolist()) <= {-1.0, 1.0}
    assert (change * gradient <= 0).all()


def test_scaling_gradients_and_threshold_by_a_power_of_two_changes_no_flip(rng):
    start, gradients = signs(100, rng), torch.randn(6, 100, generator=rng, dtype=torch.float64)
    paths = []
    for factor in (1.0, 2.0**-20):
        p = nn.Parameter(start.clone())
        solver = Bop([p], lr=0.25, threshold=0.125 * factor)
        for gradient in gradients:
            p.grad = factor * gradient
            solver.step()
        paths.append(p.detach())
    assert torch.equal(*paths)
    assert not torch.equal(paths[0], start)


def test_at_threshold_zero_bop_is_the_sign_of_an_average_of_negative_gradients(rng):
    start, gamma = signs(100, rng), 0.2
    p = nn.Parameter(start.clone())
    solver, latent = Bop([p], lr=gamma, threshold=0.0), torch.zeros(100, dtype=torch.float64)
    for gradient in torch.randn(10, 100, generator=rng, dtype=torch.float64):
        p.grad = gradient.clone()
        solver.step()
        latent = (1 - gamma) * latent - gamma * gradient
        assert torch.equal(p.detach(), sign(latent))


def test_a_parameter_without_a_gradient_is_left_alone(rng):
    p = nn.Parameter(signs(5, rng))
    before = p.detach().clone()
    Bop([p], lr=1.0, threshold=0.0).step()
    assert torch.equal(p.detach(), before)


def test_a_closure_is_run_with_gradients_on_and_its_loss_returned():
    p = nn.Parameter(torch.tensor([1.0, -1.0]))
    solver = Bop([p], lr=1.0, threshold=0.5)

    def closure() -> float:
        solver.zero_grad()
        loss = (3 * p).sum() + 4
        loss.backward()
        return loss.item()

    assert solver.step(closure) == 4.0
    assert p.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    "name, value, named", [("lr", -0.1, "adaptivity"), ("lr", 1.5, "adaptivity"), ("threshold", -1e-3, "threshold")]
)
def test_impossible_hyperparameters_are_refused_by_name_and_value(name, value, named):
    with pytest.raises(
        ValueError, match=rf"{named}.*{value}"
    ):  # lr holds the adaptivity rate, so that schedules see it
        Bop([nn.Parameter(torch.ones(2))], **{"lr": 0.1, "threshold": 0.0, name: value})
