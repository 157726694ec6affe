"""The descent of `batching.descent`, natively on the CPU: a task at a time, whose state stays in the cache."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core import extension
from solvers.sdp.batching.descent import MEMORY, RESCALE_AT, SMALLEST_STEP, Quadratics, scaling

LANES = 8  # columns a factor is padded to: one register of 512 bits


class NativeDescent:
    """`BatchedDescent` with the same iterates up to rounding. level: of the CPU, as in `core.extension`."""

    def __init__(self, problems: Quadratics, V: Float[Tensor, "T n k"], *, level: int | None = None) -> None:
        (tasks, n, self.rank), new = V.shape, problems.off.new_zeros
        width = -(-self.rank // LANES) * LANES
        self.V, self.tangent = new(tasks, n, width), new(tasks, n, width)
        self.V[:, :, : self.rank] = V / V.square().sum(2, keepdim=True).sqrt()
        self.y, self.inverse = new(tasks, n + 1), new(tasks, n)
        self.history, self.inner = new(tasks, 2 * MEMORY, n, width), new(tasks, 2 * MEMORY, 2 * MEMORY)
        self.valid = new(tasks, MEMORY, dtype=torch.uint8)
        self._step, self._value, self._residual = new(tasks) + 1, new(tasks), new(tasks)
        module = extension.module()
        assert module is not None, "ask core.extension.allowed() first"
        self.kernels, self.level = module, module.best_level() if level is None else level
        linear = new(tasks, n) if problems.linear is None else problems.linear
        data = (problems.off, linear, self.V, self.tangent, self.y, self.inverse, self.history, self.inner, self.valid)
        self.state = module.BatchState(*(a.numpy() for a in (*data, self._step, self._value, self._residual)))
        self.tasks, self.iterations = torch.arange(tasks), 0
        module.batch_evaluate(self.level, self.state, self.tasks.numpy())
        self._rescale()

    def run(self, iterations: int) -> None:
        """That many trial points of every task."""
        end = self.iterations + iterations
        while self.iterations < end:
            if self.iterations in RESCALE_AT:
                self._rescale()
            stop = min([end, *(at for at in RESCALE_AT if at > self.iterations)])
            count = stop - self.iterations
            self.kernels.batch_descend(
                self.level, self.state, self.tasks.numpy(), first=self.iterations, iterations=count
            )
            self.iterations = stop

    def take(self, tasks: Int64[Tensor, " some"]) -> None:
        """Go on with these tasks only."""
        self.tasks = self.tasks[tasks]

    @property
    def value(self) -> Float[Tensor, " T"]:
        """f of every task."""
        return self._value[self.tasks]

    @property
    def residual(self) -> Float[Tensor, " T"]:
        """Norm of the tangent part of CV over that of CV."""
        return self._residual[self.tasks]

    @property
    def stalled(self) -> Bool[Tensor, " T"]:
        """Tasks whose step has vanished: rounding hides any decrease."""
        return self._step[self.tasks] < SMALLEST_STEP

    def rows(self, tasks: Int64[Tensor, " some"]) -> Float[Tensor, "some n k"]:
        """Factors, rows first."""
        return self.V[self.tasks[tasks], :, : self.rank]

    def multipliers(self, tasks: Int64[Tensor, " some"]) -> Float[Tensor, "some rows"]:
        """y_i = <(CV)_i, v_i>, the homogenising row last."""
        return self.y[self.tasks[tasks]]

    def _rescale(self) -> None:
        self.inverse[self.tasks] = scaling(self.y[self.tasks, :-1]).reciprocal()
        self.valid[self.tasks] = 0
