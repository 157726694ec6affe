"""GeometricSGD and GeometricAdam beside independent updates: BayesBiNN with momentum, torch's Adam and a clamp."""

import numpy as np
import pytest
import torch
from torch import nn

from core.contractions import Dense
from core.geometry import BernoulliFisher, Box, DampedBernoulliFisher, Euclidean
from core.interface import Coordinate, Tape
from core.laws import Bernoulli, Point
from core.ops import StraightThrough
from core.readings import Draw
from solvers.geometric import GeometricAdam, GeometricSGD, real_solvers

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def parameter(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone())


# --- GeometricSGD against the learning rule with momentum, in numpy -----------------------------------------------


def learning_rule(natural, prior, gradients, rates, scale, momentum, decay) -> list[np.ndarray]:
    """v <- beta v + (1 - beta)(N g / sech^2 + kappa (lambda - lambda0)); lambda <- lambda - alpha v / (1 - beta^t)."""
    v, path = np.zeros_like(natural), []
    for t, (g, alpha) in enumerate(zip(gradients, rates, strict=True), start=1):
        direction = scale * g * np.cosh(natural) ** 2 + decay * (natural - prior)
        v = momentum * v + (1 - momentum) * direction
        natural = natural - alpha * v / (1 - momentum**t)
        path.append(natural)
    return path


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("decay", [0.0, 1.0, 0.3])
def test_sgd_on_naturals_is_the_published_update_with_bias_corrected_momentum(momentum, decay, rng):
    steps, scale = 20, 8.0
    natural, prior = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64)
    gradients = 0.1 * torch.randn(steps, 3, 4, generator=rng, dtype=torch.float64)
    rates = [0.01 * 0.9**t for t in range(steps)]  # annealed through the group, as a scheduler does
    law = Bernoulli(natural.clone(), prior=prior, geometry=BernoulliFisher())
    solver = GeometricSGD(law.coordinates(), lr=1.0, scale=scale, momentum=momentum, decay=decay)
    expected = learning_rule(natural.numpy(), prior.numpy(), gradients.numpy(), rates, scale, momentum, decay)
    for gradient, rate, target in zip(gradients, rates, expected, strict=True):
        solver.param_groups[0]["lr"] = rate
        law.coordinates()[0].parameter.grad = gradient.clone()
        solver.step()
        ours = law.coordinates()[0].parameter.detach().numpy()
        np.testing.assert_allclose(ours, target, rtol=1e-11, atol=1e-12)  # 20 steps, a dozen roundings each


@pytest.mark.parametrize("bound", [0.5, 6.0])
def test_sgd_on_a_bounded_set_is_the_step_and_a_clamp(bound, rng):
    start = 0.4 * torch.randn(30, generator=rng, dtype=torch.float64)
    start, gradients = start.clamp(-bound, bound), torch.randn(10, 30, generator=rng, dtype=torch.float64)
    p, q = parameter(start), start.clone()
    solver = GeometricSGD([Coordinate(p, Box(bound))], lr=0.2)
    for gradient in gradients:
        p.grad = gradient.clone()
        solver.step()
        q = (q - 0.2 * gradient).clamp(-bound, bound)
        torch.testing.assert_close(p.detach(), q, rtol=1e-14, atol=1e-15)
    assert (q.abs() == bound).any() == (bound == 0.5)  # the small box binds, the large one does not


def test_sgd_on_euclidean_space_is_torchs_sgd(rng):
    start, gradients = torch.randn(9, generator=rng), torch.randn(5, 9, generator=rng)
    ours, theirs = parameter(start), parameter(start)
    solver, twin = GeometricSGD([Coordinate(ours, Euclidean())], lr=0.1), torch.optim.SGD([theirs], lr=0.1)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        solver.step()
        twin.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_a_constant_direction_moves_a_parameter_by_the_rate_at_every_step(momentum):
    p = parameter(torch.zeros(3, dtype=torch.float64))
    solver = GeometricSGD([Coordinate(p, Euclidean())], lr=0.25, momentum=momentum)
    gradient = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    for t in range(1, 8):
        p.grad = gradient.clone()
        solver.step()
        torch.testing.assert_close(p.detach(), -0.25 * t * gradient, rtol=1e-12, atol=0)  # 1 - 0.99^t cancels: 1e2 eps


def test_decay_without_an_anchor_is_towards_the_origin():
    p = parameter(torch.tensor([2.0, -4.0], dtype=torch.float64))
    solver = GeometricSGD([Coordinate(p, Euclidean())], lr=0.5, decay=0.5)
    p.grad = torch.zeros_like(p)
    solver.step()
    assert p.tolist() == [1.5, -3.0]


def test_scale_multiplies_the_gradient_and_not_the_decay():
    p = parameter(torch.tensor([1.0], dtype=torch.float64))
    anchor = torch.tensor([0.5], dtype=torch.float64)
    solver = GeometricSGD([Coordinate(p, Euclidean(), anchor)], lr=0.125, scale=8.0, decay=2.0)
    p.grad = torch.ones_like(p)
    solver.step()
    assert p.item() == 1.0 - 0.125 * (8.0 + 2.0 * 0.5)


# --- GeometricAdam against torch.optim.Adam -----------------------------------------------------------------------


@pytest.mark.parametrize("bound", [0.05, 1.0, 100.0])
@DTYPES
def test_adam_on_a_box_is_torchs_adam_on_latents_then_a_clamp(bound, dtype, rng):
    start = (0.04 * torch.randn(6, 7, generator=rng, dtype=dtype)).clamp(-bound, bound)
    ours, theirs = parameter(start), parameter(start)
    solver = GeometricAdam([Coordinate(ours, Box(bound))], lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    twin = torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6, foreach=False)
    for gradient in torch.randn(25, 6, 7, generator=rng, dtype=dtype):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        solver.step()
        twin.step()
        with torch.no_grad():
            theirs.clamp_(-bound, bound)
        # The fused kernel may order its operations otherwise: an ulp of a value below 1/4 (lr times 25 steps) a step.
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=0, atol=25 * eps / 8)
    assert (ours.abs() == bound).any().item() == (bound == 0.05)


def test_adam_on_naturals_is_torchs_adam_on_natural_gradients(rng):
    start = torch.randn(20, generator=rng, dtype=torch.float64)
    ours, theirs = parameter(start), parameter(start)
    solver = GeometricAdam([Coordinate(ours, BernoulliFisher(2.0))], lr=0.1)
    twin = torch.optim.Adam([theirs], lr=0.1)
    with torch.no_grad():
        ours.clamp_(-2, 2)
        theirs.clamp_(-2, 2)
    for gradient in torch.randn(25, 20, generator=rng, dtype=torch.float64):
        ours.grad = gradient.clone()
        theirs.grad = gradient * torch.cosh(theirs.detach()) ** 2
        solver.step()
        twin.step()
        with torch.no_grad():
            theirs.clamp_(-2, 2)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@DTYPES
def test_the_whole_straight_through_step_is_adam_at_the_signs_then_a_clip(dtype, rng):
    """Draw(StraightThrough) -> Tape -> GeometricAdam on Box, against a latent-weight step written out."""
    latent = torch.rand(3, 5, generator=rng, dtype=dtype) * 0.4 - 0.2
    latent[0, 0], latent[1, 1] = 0.0, 1.0  # sign(0) = +1; a latent on the boundary
    law, twin_latent = Point(latent.clone(), geometry=Box()), parameter(latent)
    solver = GeometricAdam(law.coordinates(), lr=0.05)
    twin = torch.optim.Adam([twin_latent], lr=0.05)
    for _ in range(12):
        x, target = torch.randn(8, 5, generator=rng, dtype=dtype), torch.randn(8, 3, generator=rng, dtype=dtype)
        tape = Tape()
        solver.zero_grad()
        (Draw(StraightThrough())(law, Dense(), x, rng, tape) - target).square().mean().backward()
        tape.pull_back()
        solver.step()

        signs = np.where(twin_latent.detach().numpy() >= 0, 1.0, -1.0)
        error = x.double().numpy() @ signs.T - target.double().numpy()
        twin_latent.grad = torch.from_numpy(2 / error.size * error.T @ x.double().numpy()).to(dtype)
        twin.step()
        with torch.no_grad():
            twin_latent.clamp_(-1, 1)
        # Adam normalises the gradient's scale, so its rounding (8 products: 1e-6 in float32) enters as lr * 1e-6.
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
        torch.testing.assert_close(law.coordinates()[0].parameter, twin_latent, **tolerance)
    assert (torch.sign(twin_latent) != torch.sign(latent)).any()  # signs flipped on the way


def test_real_parameters_are_trained_by_torchs_adam_and_no_solver_is_made_for_none(rng):
    start, gradients = torch.randn(4, generator=rng, dtype=torch.float64), torch.randn(6, 4, generator=rng).double()
    ours, theirs = parameter(start), parameter(start)
    (solver,), twin = real_solvers([ours], lr=0.02), torch.optim.Adam([theirs], lr=0.02)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        solver.step()
        twin.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    assert real_solvers([], lr=0.02) == []


# --- what every solver keeps --------------------------------------------------------------------------------------

BUILDERS = {
    "sgd": lambda coordinates: GeometricSGD(coordinates, lr=0.1, momentum=0.9, decay=0.1),
    "adam": lambda coordinates: GeometricAdam(coordinates, lr=0.1),
}
EVERY_SOLVER = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


@EVERY_SOLVER
def test_a_parameter_without_a_gradient_stays_and_its_count_of_steps_too(build, rng):
    start = torch.rand(2, 5, generator=rng, dtype=torch.float64)
    moved, late = parameter(start[0]), parameter(start[1])
    solver = build([Coordinate(moved, Box()), Coordinate(late, Box())])
    fresh = parameter(start[1])
    for _ in range(3):
        moved.grad = torch.ones_like(moved)
        solver.step()
    assert torch.equal(late.detach(), start[1])
    alone = build([Coordinate(fresh, Box())])
    late.grad, fresh.grad, moved.grad = torch.ones_like(late), torch.ones_like(fresh), None
    solver.step()
    alone.step()
    assert torch.equal(late, fresh)  # its first step, bias correction included


@EVERY_SOLVER
def test_a_step_leaves_the_gradient_and_the_anchor_as_they_were(build, rng):
    """As torch's own optimizers do: a second step, a log or an accumulation must not see a transformed gradient."""
    p, anchor = parameter(torch.rand(5, generator=rng, dtype=torch.float64)), torch.full((5,), 0.3, dtype=torch.float64)
    gradient = torch.randn(5, generator=rng, dtype=torch.float64)
    solver = build([Coordinate(p, BernoulliFisher(6.0), anchor)])
    p.grad = gradient.clone()
    solver.step()
    assert torch.equal(p.grad, gradient)
    assert torch.equal(anchor, torch.full((5,), 0.3, dtype=torch.float64))


@EVERY_SOLVER
def test_a_closure_is_run_with_gradients_on_and_its_loss_returned(build):
    p = parameter(torch.tensor([0.5], dtype=torch.float64))
    solver = build([Coordinate(p, Box())])

    def closure() -> float:
        solver.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss.item()

    assert solver.step(closure) == 0.25
    assert p.item() < 0.5


@EVERY_SOLVER
def test_points_stay_in_their_sets(build, rng):
    p, q = (parameter(torch.zeros(50, dtype=torch.float64)) for _ in range(2))
    solver = build([Coordinate(p, Box(0.3)), Coordinate(q, BernoulliFisher(1.5))])
    for _ in range(30):
        p.grad, q.grad = torch.randn(2, 50, generator=rng, dtype=torch.float64)
        solver.step()
        assert p.abs().max() <= 0.3
        assert q.abs().max() <= 1.5


@EVERY_SOLVER
def test_torchs_schedulers_anneal_the_rate(build):
    p = parameter(torch.tensor([0.9], dtype=torch.float64))
    solver = build([Coordinate(p, Box())])
    scheduler = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: 1.0 if step == 0 else 0.0)
    p.grad = torch.ones_like(p)
    solver.step()
    scheduler.step()
    once = p.item()
    solver.step()
    assert once < 0.9 and p.item() == once


def test_adam_takes_tangent_gradients_of_what_its_closure_found():
    plain, closed = (parameter(torch.tensor([2.0, -1.0], dtype=torch.float64)) for _ in range(2))
    gradient = torch.tensor([0.3, 0.1], dtype=torch.float64)
    solvers = [GeometricAdam([Coordinate(p, BernoulliFisher(6.0))], lr=0.1, eps=1.0) for p in (plain, closed)]
    for _ in range(3):
        plain.grad = gradient.clone()
        solvers[0].step()

        def closure() -> float:
            closed.grad = gradient.clone()
            return 0.5

        closed.grad = torch.full_like(gradient, 7.0)  # of an earlier pass; the closure replaces it
        assert solvers[1].step(closure) == 0.5
        assert torch.equal(plain, closed) and torch.equal(closed.grad, gradient)


@pytest.mark.parametrize("name, value", [("lr", -0.1), ("momentum", 1.0), ("momentum", -0.1), ("decay", -1.0)])
def test_sgd_refuses_impossible_hyperparameters_by_name_and_value(name, value):
    p = parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        GeometricSGD([Coordinate(p, DampedBernoulliFisher(0.1))], **{"lr": 0.1, name: value})


def test_adam_refuses_a_negative_rate():
    with pytest.raises(ValueError, match=r"(lr|learning rate).*-0.1"):
        GeometricAdam([Coordinate(parameter(torch.zeros(2)), Box())], lr=-0.1)
