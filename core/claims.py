"""Whose parameter is it: a model's laws, what a method's own solver moves, and that all are claimed exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from core.interface import Coordinate, WeightLaw


class ClaimError(ValueError):
    """A parameter is claimed by no solver or by several; the message names it."""


def laws(model: nn.Module) -> Iterator[tuple[str, WeightLaw]]:
    """Every weight law of a model by name, in construction order."""
    for name, module in model.named_modules():
        if isinstance(module, WeightLaw):
            yield name, module


def binary_laws(model: nn.Module) -> list[WeightLaw]:
    """Every law with a level set, in construction order: what a solver that draws ahead claims."""
    return [law for _, law in laws(model) if law.levels is not None]


def binary_coordinates(model: nn.Module) -> list[Coordinate]:
    """The coordinates of every binary law: what a method's own solver claims."""
    return [c for _, law in laws(model) if law.levels is not None for c in law.coordinates()]


def real_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All parameters of no binary law (real layers, batch-norm affine): claimed by an ordinary optimizer."""
    binary = {id(p) for _, law in laws(model) if law.levels is not None for p in law.parameters()}
    return [p for p in model.parameters() if id(p) not in binary]


def check_claims(
    model: nn.Module, solvers: Sequence[Optimizer], modules: Mapping[str, nn.Module] | None = None
) -> None:
    """Every parameter of `model` and of `modules` is claimed by exactly one solver. Raises ClaimError naming the first
    that is not. A parameter of `modules` that needs no gradient (a teacher's) may be nobody's.
    """
    claims: dict[int, list[str]] = {}
    for i, solver in enumerate(solvers):
        for group in solver.param_groups:
            for parameter in group["params"]:
                claims.setdefault(id(parameter), []).append(f"{type(solver).__name__} (solver {i})")
    named = list(model.named_parameters())
    for prefix, module in (modules or {}).items():
        named += [(f"{prefix}.{name}", p) for name, p in module.named_parameters() if p.requires_grad]
    for name, parameter in named:
        owners = claims.get(id(parameter), [])
        if not owners:
            raise ClaimError(f"parameter {name!r} is claimed by no solver; add it to one of the method's solvers")
        if len(owners) > 1:
            raise ClaimError(f"parameter {name!r} is claimed {len(owners)} times, by {' and '.join(owners)}")
