"""Many draws of a law in one pass: the product's own readings and pull-backs, each copy with a gradient of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from core.interface import Coordinate, Reading, Rng, Tape, WeightLaw
from core.low_rank import LowRankPlusDiagonal
from studies.truth.problems import Tiny


class Stacked(WeightLaw):
    """`copies` independent draws of `law` as one: noise, latent and pull-back are the law's, mapped over a stack.

    Its coordinates are those of the law with a leading dimension of copies, so that gradients stay apart.
    """

    def __init__(self, law: WeightLaw, copies: int) -> None:
        nn.Module.__init__(self)  # not the next class's: a subclass may also be a law of another kind
        self.inner = [_Asked(law)]  # in a list: no submodule, so the network's parameters are the stack's alone
        self.copies, self.shape, self.levels, self.independent = copies, law.shape, law.levels, law.independent
        self.stack = nn.ParameterList(
            nn.Parameter(c.parameter.detach().expand(copies, *c.parameter.shape).clone()) for c in law.coordinates()
        )
        self.names = [_name(law, c.parameter) for c in law.coordinates()]

    @property
    def law(self) -> WeightLaw:
        """The law that is stacked."""
        return self.inner[0].law

    def noise(self, rng: Rng) -> Tensor | None:
        return self.each_draw(self.law.noise, rng)

    def each_draw(self, draw: Callable[[Rng], Tensor | None], rng: Rng) -> Tensor | None:
        """`draw` once a copy, stacked; None where it draws nothing."""
        if draw(torch.Generator()) is None:
            return None
        return vmap(lambda copy: draw(rng), randomness="different")(torch.empty(self.copies))

    def latent(self, noise: Tensor | None) -> Tensor:
        return self._each("latent", noise)

    def values(self, latent: Tensor) -> Tensor:
        return self.law.values(latent)

    def pull_back(self, noise: Tensor | None, gradient: Tensor) -> tuple[Tensor, ...]:
        if noise is None:
            return vmap(lambda g: self.law.pull_back(None, g))(gradient)
        return vmap(self.law.pull_back)(noise, gradient)

    def mean(self) -> Tensor:
        return self._each("mean")

    def variance(self) -> Tensor:
        return self._each("variance")

    def mode(self) -> Tensor:
        return self._each("mode")

    def coordinates(self) -> tuple[Coordinate, ...]:
        return tuple(
            Coordinate(p, c.geometry, c.anchor) for p, c in zip(self.stack, self.law.coordinates(), strict=True)
        )

    def _each(self, verb: str, *arguments: Tensor | None) -> Tensor:
        """The law's `verb`, copy by copy, differentiable in the stacked parameters."""

        def one(parameters: Sequence[Tensor], *given: Tensor | None) -> Tensor:
            value: Tensor = functional_call(self.inner[0], self._named(parameters), (verb, *given))
            return value

        axes = [None if a is None else 0 for a in arguments]
        return vmap(one, in_dims=(0, *axes))(list(self.stack), *arguments)

    def _named(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        return {f"law.{name}": p for name, p in zip(self.names, parameters, strict=True)}


class StackedConditional(Stacked, LowRankPlusDiagonal):
    """The same of a LowRankPlusDiagonal, with the factor noise and diagonal that its conditional reading asks for."""

    def __init__(self, law: LowRankPlusDiagonal, copies: int) -> None:
        super().__init__(law, copies)
        self.diagonal, self.given = law.diagonal, [law]  # in a list, as above

    def factor_noise(self, rng: Rng) -> Tensor:
        drawn = self.each_draw(self.given[0].factor_noise, rng)
        assert drawn is not None
        return drawn


def stacked(law: WeightLaw, copies: int) -> Stacked:
    """`copies` draws of `law` as one law."""
    return StackedConditional(law, copies) if isinstance(law, LowRankPlusDiagonal) else Stacked(law, copies)


def gradients(
    problem: Tiny, laws: Sequence[WeightLaw], reading: Reading, copies: int, rng: Rng
) -> list[tuple[Tensor, ...]]:
    """Per-draw gradients in each law's coordinates, (copies, *parameter), of `copies` training passes."""
    stacks = [stacked(law, copies) for law in laws]
    tape = Tape()
    losses = problem.value(problem.network(stacks), replace(reading, tape=tape), rng)
    losses.sum().backward()  # copies do not meet: the gradient of the sum is each copy's own
    tape.pull_back()
    return [tuple(_gradient(p) for p in stack.stack) for stack in stacks]


class _Asked(nn.Module):
    """A law behind one call, so that `functional_call` reaches any of its verbs."""

    def __init__(self, law: WeightLaw) -> None:
        super().__init__()
        self.law = law

    def forward(self, verb: str, *arguments: Tensor | None) -> Tensor:
        value: Tensor = getattr(self.law, verb)(*arguments)
        return value


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "a parameter that the pass never read"
    return parameter.grad


def _name(law: WeightLaw, parameter: nn.Parameter) -> str:
    return next(name for name, p in law.named_parameters() if p is parameter)
