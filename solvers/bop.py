"""Bop, the binary optimizer: an exponential average of gradients flips a sign when it pushes past a threshold.

Helwegen et al. 2019 (Latent weights do not exist), algorithm 1: m <- (1 - gamma) m + gamma g; flip w where
|m| > threshold and m agrees in sign with w, that is where m w > threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from core import native


class Bop(Optimizer):
    """Flips entries of parameters in {-1, +1}. lr is the adaptivity rate gamma in [0, 1], so that schedules anneal it.

    threshold: >= 0, in units of the gradient of the mean loss.
    """

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, threshold: float) -> None:
        if not 0 <= lr <= 1:
            raise ValueError(f"Bop's adaptivity rate must be in [0, 1] (got {lr})")
        if not threshold >= 0:
            raise ValueError(f"Bop's threshold must be >= 0 (got {threshold})")
        super().__init__(list(parameters), {"lr": lr, "threshold": threshold})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One flip decision for every entry that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state["average"] = torch.zeros_like(w)
                if native.serves(w, w.grad, state["average"]):
                    arrays = (w.grad, w.detach(), state["average"])
                    native.point_bop(*arrays, adaptivity=group["lr"], threshold=group["threshold"])
                    torch.autograd.graph.increment_version(w)  # native code writes unseen
                    continue
                average = state["average"].lerp_(w.grad, group["lr"])
                w.copy_(torch.where(average * w > group["threshold"], -w, w))
        return loss
