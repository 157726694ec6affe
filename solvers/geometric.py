"""SGD and Adam over a geometry: tangent direction, step, retraction. Plain torch.optim.Optimizers.

One solver is clipped SGD on a Box, the Bayesian learning rule on BernoulliFisher (Khan & Rue; Meng et al. 2020, with
its bias-corrected momentum), Riemannian descent on rows of unit length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from core.interface import Coordinate


class GeometricSGD(Optimizer):
    """p <- retract(p, -lr v / (1 - momentum^t)),  v <- momentum v + (1 - momentum) d,
    d = to_tangent(p, scale * gradient) + decay * (p - anchor).

    scale: factor of the gradient; the training-set size N where the objective is a sum over examples plus a KL.
    decay: weight of the pull towards each coordinate's anchor; 1 is the exact KL to the prior of the learning rule
    lambda <- (1 - lr) lambda - lr (N grad_mu loss - lambda0). momentum: in [0, 1), an exponential average with Adam's
    bias correction (not heavy ball: a constant gradient moves p by lr per step).
    """

    def __init__(
        self,
        coordinates: Iterable[Coordinate],
        *,
        lr: float,
        scale: float = 1.0,
        momentum: float = 0.0,
        decay: float = 0.0,
    ) -> None:
        _require(lr >= 0, "lr", ">= 0", lr)
        _require(0 <= momentum < 1, "momentum", "in [0, 1)", momentum)
        _require(scale > 0, "scale", "> 0", scale)
        _require(decay >= 0, "decay", ">= 0", decay)
        self._coordinates = _by_parameter(coordinates)
        defaults = {"lr": lr, "scale": scale, "momentum": momentum, "decay": decay}
        super().__init__([c.parameter for c in self._coordinates.values()], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, self._coordinates[id(parameter)], group)
        return loss

    def _move(self, parameter: Tensor, coordinate: Coordinate, group: dict[str, Any]) -> None:
        geometry, anchor = coordinate.geometry, coordinate.anchor
        assert parameter.grad is not None
        direction = geometry.to_tangent(parameter, parameter.grad * group["scale"])
        if group["decay"]:
            offset = parameter if anchor is None else parameter - anchor
            direction = direction + group["decay"] * offset
        if group["momentum"]:
            direction = self._averaged(parameter, direction, group["momentum"])
        parameter.copy_(geometry.retract(parameter, -group["lr"] * direction))

    def _averaged(self, parameter: Tensor, direction: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "velocity" not in state:
            state["step"], state["velocity"] = 0, torch.zeros_like(parameter)
        state["step"] += 1
        state["velocity"].mul_(momentum).add_(direction, alpha=1 - momentum)
        average: Tensor = state["velocity"] / (1 - momentum ** state["step"])
        return average


class GeometricAdam(Adam):
    """Adam on tangent directions, then projection onto each coordinate's set; torch's fused kernel where offered.

    On Box this is BinaryConnect's Adam with clipping. Kingma & Ba 2015 for the moments, by torch.optim.Adam.
    """

    def __init__(
        self,
        coordinates: Iterable[Coordinate],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        _require(lr >= 0, "lr", ">= 0", lr)
        self._coordinates = _by_parameter(coordinates)
        super().__init__([c.parameter for c in self._coordinates.values()], lr=lr, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One Adam step on every parameter that has a gradient, then the projection."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        gradients = [c.parameter.grad for c in self._coordinates.values()]
        for coordinate, gradient in zip(self._coordinates.values(), gradients, strict=True):
            if gradient is not None:
                coordinate.parameter.grad = coordinate.geometry.to_tangent(coordinate.parameter, gradient)
        super().step()
        for coordinate, gradient in zip(self._coordinates.values(), gradients, strict=True):
            p = coordinate.parameter
            p.grad = gradient  # as it was: a second step must not see a gradient already mapped to the tangent
            projected = coordinate.geometry.project(p)
            if projected is not p:
                p.copy_(projected)
        return loss


def real_solvers(parameters: Iterable[Tensor], *, lr: float = 7e-3) -> list[Optimizer]:
    """One fused Adam for the real parameters of a network (batch-norm affine, real layers), or none if there are none.

    Every binary method uses the default rate, that of the full-precision control, so that real parts are trained alike.
    """
    _require(lr >= 0, "lr", ">= 0", lr)
    chosen = list(parameters)
    return [Adam(chosen, lr=lr, fused=True)] if chosen else []


def _by_parameter(coordinates: Iterable[Coordinate]) -> dict[int, Coordinate]:
    return {id(c.parameter): c for c in coordinates}


def _require(holds: bool, name: str, bound: str, value: float) -> None:
    if not holds:
        raise ValueError(f"{name} must be {bound} (got {value})")
