"""Every solver, saved mid-run to a file and loaded into a fresh one over equal parameters, continues bit for bit."""

import pytest
import torch
from torch import nn

from core.geometry import BernoulliFisher, Box, DampedBernoulliFisher
from core.interface import Coordinate
from solvers.bop import Bop
from solvers.geometric import GeometricAdam, GeometricSGD, real_solvers

SHAPES = [(4, 3), (5,)]


def coordinates(parameters, geometry):
    return [Coordinate(p, geometry, torch.full_like(p, 0.1)) for p in parameters]


SOLVERS = {
    "sgd": lambda ps: GeometricSGD(coordinates(ps, Box()), lr=0.1),
    "sgd-momentum": lambda ps: GeometricSGD(
        coordinates(ps, BernoulliFisher(6.0)), lr=0.1, scale=3.0, momentum=0.9, decay=1.0
    ),
    "sgd-damped": lambda ps: GeometricSGD(
        coordinates(ps, DampedBernoulliFisher(1e-3)), lr=0.1, momentum=0.5, decay=0.5
    ),
    "adam": lambda ps: GeometricAdam(coordinates(ps, Box()), lr=0.05),
    "adam-fisher": lambda ps: GeometricAdam(coordinates(ps, BernoulliFisher(6.0)), lr=0.05),
    "bop": lambda ps: Bop(ps, lr=0.3, threshold=0.05),
    "real": lambda ps: real_solvers(ps, lr=0.05)[0],
}
EVERY_SOLVER = pytest.mark.parametrize("name", SOLVERS)


def parameters(dtype, rng) -> list[nn.Parameter]:
    """Signs: a point of every set, and the only one of Bop's."""
    return [nn.Parameter(torch.where(torch.rand(*s, generator=rng) < 0.5, -1.0, 1.0).to(dtype)) for s in SHAPES]


def advance(solver, scheduler, params, gradients) -> None:
    for gradient in gradients:
        for p, g in zip(params, gradient, strict=True):
            p.grad = g.clone()
        solver.step()
        scheduler.step()


def run(name: str, params):
    solver = SOLVERS[name](params)
    return solver, torch.optim.lr_scheduler.CosineAnnealingLR(solver, T_max=20)


@EVERY_SOLVER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_run_continued_from_a_file_equals_the_undisturbed_run(name, dtype, rng, through_file):
    params = parameters(dtype, rng)
    start = [p.detach().clone() for p in params]
    gradients = [[torch.randn(*s, generator=rng, dtype=dtype) for s in SHAPES] for _ in range(12)]
    solver, scheduler = run(name, params)
    advance(solver, scheduler, params, gradients[:7])
    saved = through_file(
        {"solver": solver.state_dict(), "scheduler": scheduler.state_dict(), "params": [p.detach() for p in params]}
    )
    advance(solver, scheduler, params, gradients[7:])

    fresh = [nn.Parameter(p.clone()) for p in saved["params"]]
    other, other_scheduler = run(name, fresh)
    other.load_state_dict(saved["solver"])
    other_scheduler.load_state_dict(saved["scheduler"])
    advance(other, other_scheduler, fresh, gradients[7:])

    for p, q, first in zip(params, fresh, start, strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, first)


@EVERY_SOLVER
def test_the_state_matters_where_there_is_one(name, rng, through_file):
    """The round trip above is no empty promise: without loading, a solver with memory continues otherwise."""
    params = parameters(torch.float64, rng)
    gradients = [[torch.randn(*s, generator=rng, dtype=torch.float64) for s in SHAPES] for _ in range(12)]
    solver, scheduler = run(name, params)
    advance(solver, scheduler, params, gradients[:7])
    fresh = [nn.Parameter(p.detach().clone()) for p in params]
    forgetful, _ = run(name, fresh)
    for group, kept in zip(forgetful.param_groups, solver.param_groups, strict=True):
        group["lr"] = kept["lr"]
    still = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: 1.0)
    other_still = torch.optim.lr_scheduler.LambdaLR(forgetful, lambda step: 1.0)
    advance(solver, still, params, gradients[7:])
    advance(forgetful, other_still, fresh, gradients[7:])
    same = all(torch.equal(p, q) for p, q in zip(params, fresh, strict=True))
    assert same == (name == "sgd")  # without momentum there is nothing to forget


@EVERY_SOLVER
def test_state_dict_after_loading_is_the_state_dict_that_was_loaded(name, rng, through_file):
    params = parameters(torch.float64, rng)
    gradients = [[torch.randn(*s, generator=rng, dtype=torch.float64) for s in SHAPES] for _ in range(3)]
    solver, scheduler = run(name, params)
    advance(solver, scheduler, params, gradients)
    saved = through_file(solver.state_dict())
    other, _ = run(name, [nn.Parameter(p.detach().clone()) for p in params])
    other.load_state_dict(saved)
    again = through_file(other.state_dict())
    assert again["param_groups"] == saved["param_groups"]
    torch.testing.assert_close(again["state"], saved["state"], rtol=0, atol=0)
