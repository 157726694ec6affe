"""Riemannian L-BFGS on the factors of many problems at once, in torch on any device.

Inside, a factor is (T, k, n), columns first: V[t, :, i] is the unit vector of row i of task t, so that one product of
shape (T k, n) x (n, n) multiplies every task by the matrix they share. Rows first, (T, n, k), in and out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Columns = Float[Tensor, "T k n"]
MEMORY = 4  # pairs of the history
RESCALE_AT = (10, 25)  # iterations before which coordinates are scaled anew, as the multipliers settle
SMALLEST_STEP = 2.0**-30


@dataclass(frozen=True)
class Quadratics:
    """f_t(V) = <V, V off> - 2 linear_t . V[0] over unit columns: min <C_t, X>, C_t = [[off, -b_t], [-b_t', 0]].

    off: (n, n), symmetric, zero diagonal, shared. linear: (T, n), the b_t; None without. The homogenising row is not
    stored: a rotation of the columns (which changes no inner product) makes it the first unit vector.
    """

    off: Float[Tensor, "n n"]
    linear: Float[Tensor, "T n"] | None = None

    def field(self, V: Columns) -> Columns:
        """Half the Euclidean gradient of f at V."""
        tasks, k, n = V.shape
        field = (V.reshape(tasks * k, n) @ self.off).view(tasks, k, n)
        if self.linear is not None:
            field[:, 0] -= self.linear
        return field

    def last(self, V: Columns) -> Float[Tensor, " T"]:
        """<(C V)_n, v_n> of the homogenising row: the part of f that is linear in V, halved."""
        return -(self.linear * V[:, 0]).sum(1) if self.linear is not None else V.new_zeros(len(V))

    def take(self, tasks: Int64[Tensor, " some"]) -> Quadratics:
        """The same with these tasks only."""
        return Quadratics(self.off, None if self.linear is None else self.linear[tasks])


@dataclass
class Point:
    """A feasible V with all that one product tells: multipliers y_i = <(CV)_i, v_i>, their sum f, tangent = CV - yV.

    last: y of the homogenising row. residual: norm of the tangent over the norm of CV.
    """

    V: Columns
    multipliers: Float[Tensor, "T n"]
    last: Float[Tensor, " T"]
    value: Float[Tensor, " T"]
    tangent: Columns
    residual: Float[Tensor, " T"]

    @classmethod
    def at(cls, problems: Quadratics, V: Columns) -> Point:
        """Evaluate at V, whose columns have length 1."""
        field = problems.field(V)
        multipliers, last = (field * V).sum(1), problems.last(V)
        size = field.square().sum((1, 2))
        tangent = field.sub_(V * multipliers[:, None])
        squared = tangent.square().sum((1, 2))
        residual = (squared / torch.where(size > 0, size, 1.0)).sqrt()
        return cls(V, multipliers, last, multipliers.sum(1) + last, tangent, residual)

    def take(self, tasks: Int64[Tensor, " some"]) -> Point:
        """The same with these tasks only."""
        return Point(*(part[tasks] for part in vars(self).values()))

    def update(self, other: Point, where: Bool[Tensor, " T"]) -> None:
        """Take the tasks `where` from the other point."""
        for name, part in vars(self).items():
            new = getattr(other, name)
            setattr(self, name, new if where.all() else torch.where(where.view(-1, *[1] * (part.ndim - 1)), new, part))


class BatchedDescent:
    """L-BFGS over products of spheres, one step size and one history a task, one product an iteration for all.

    Coordinates are scaled by sqrt(|y_i|), the diagonal of the Hessian at a solution. A task whose trial point does not
    decrease f enough (Armijo) stays where it is with half the step; f never rises. Liu & Nocedal 1989, with the inner
    products of the history kept (Byrd, Nocedal & Schnabel 1994), so that an iteration reads the history twice.
    """

    def __init__(self, problems: Quadratics, V: Float[Tensor, "T n k"]) -> None:
        self.problems, self.memory, self.iterations = problems, MEMORY, 0
        columns = V.mT.to(problems.off).contiguous()
        self.point = Point.at(problems, columns / columns.square().sum(1, keepdim=True).sqrt())
        self.step = columns.new_ones(len(V))
        self.history = columns.new_zeros(len(V), 2 * MEMORY, columns[0].numel())  # steps, then changes of gradients
        self._rescale()

    def run(self, iterations: int) -> None:
        """That many trial points of every task."""
        for _ in range(iterations):
            if self.iterations in RESCALE_AT:
                self._rescale()
            self._iterate()

    def take(self, tasks: Int64[Tensor, " some"]) -> None:
        """Go on with these tasks only."""
        tasks = tasks.to(self.step.device)
        self.problems, self.point = self.problems.take(tasks), self.point.take(tasks)
        for name in ("step", "history", "root", "inner", "valid"):
            setattr(self, name, getattr(self, name)[tasks])

    @property
    def value(self) -> Float[Tensor, " T"]:
        """f of every task, as all that follows on the CPU."""
        return self.point.value.cpu()

    @property
    def residual(self) -> Float[Tensor, " T"]:
        """Norm of the tangent part of CV over that of CV."""
        return self.point.residual.cpu()

    @property
    def stalled(self) -> Bool[Tensor, " T"]:
        """Tasks whose step has vanished: rounding hides any decrease."""
        return self.step.cpu() < SMALLEST_STEP

    def rows(self, tasks: Int64[Tensor, " some"]) -> Float[Tensor, "some n k"]:
        """Columns, rows first."""
        return self.point.V[tasks.to(self.step.device)].mT.cpu()

    def multipliers(self, tasks: Int64[Tensor, " some"]) -> Float[Tensor, "some rows"]:
        """y_i = <(CV)_i, v_i>, the homogenising row last."""
        stacked = torch.cat([self.point.multipliers, self.point.last[:, None]], 1)
        return stacked[tasks.to(self.step.device)].cpu()

    def _rescale(self) -> None:
        """Scale coordinates by the multipliers of this point, and forget the history."""
        self.root = scaling(self.point.multipliers).reciprocal()[:, None]
        self.inner = self.root.new_zeros(len(self.root), 2 * self.memory, 2 * self.memory)
        self.valid = torch.zeros(len(self.root), self.memory, dtype=torch.bool, device=self.root.device)

    def _iterate(self) -> None:
        here = self.point
        direction, slope = self._direction()
        V = here.V + self.step[:, None, None] * direction
        there = Point.at(self.problems, V.div_(V.square().sum(1, keepdim=True).sqrt_()))
        # Equality to rounding is progress: near a solution the decrease is below the last digit of f.
        allowance = 1e-14 * here.value.abs()
        accepted = there.value <= here.value + 1e-4 * self.step * slope + allowance
        self._remember(there, accepted)
        here.update(there, accepted)
        self.step = torch.where(accepted, 1.0, self.step / 2)
        self.iterations += 1

    def _direction(self) -> tuple[Columns, Float[Tensor, " T"]]:
        """A tangent descent direction and the derivative of f along it."""
        here = self.point
        scaled = (self.root * here.tangent).flatten(1)
        coefficients, scale = self._two_loop((self.history @ scaled[:, :, None])[..., 0])
        step = (coefficients[:, None] @ self.history)[:, 0] + scale[:, None] * scaled
        direction = step.view_as(here.V) * -self.root
        direction -= here.V * (direction * here.V).sum(1, keepdim=True)
        slope = 2 * (direction * here.tangent).sum((1, 2))
        ascending = slope >= 0
        if ascending.any():
            plain = here.tangent * self.root.square() * -0.5
            direction = torch.where(ascending[:, None, None], plain, direction)
            slope = 2 * (direction * here.tangent).sum((1, 2))
            self.valid[ascending] = False
        return direction, slope

    def _two_loop(self, dots: Float[Tensor, "T pairs"]) -> tuple[Float[Tensor, "T pairs"], Float[Tensor, " T"]]:
        """H g as coefficients of the history and of g, from its inner products with the history alone."""
        m, inner = self.memory, self.inner
        newest_first = [(self.iterations - 1 - j) % m for j in range(m)]
        curvature = inner[:, :m, m:].diagonal(dim1=1, dim2=2)
        inverse = torch.where(self.valid, 1 / torch.where(self.valid, curvature, 1.0), 0.0)
        by_step, by_change = torch.zeros_like(inverse), torch.zeros_like(inverse)
        for i in newest_first:
            by_change[:, i] = inverse[:, i] * (dots[:, i] - (inner[:, i, m:] * by_change).sum(1))
        scale = self._initial_scale(newest_first)
        for i in reversed(newest_first):
            along = scale * (dots[:, m + i] - (inner[:, m + i, m:] * by_change).sum(1))
            along += (inner[:, :m, m + i] * by_step).sum(1)
            by_step[:, i] = by_change[:, i] - inverse[:, i] * along
        return torch.cat([by_step, -scale[:, None] * by_change], 1), scale

    def _initial_scale(self, newest_first: list[int]) -> Float[Tensor, " T"]:
        """s'y / y'y of the newest valid pair of each task; a half, a damped Jacobi step, without one."""
        scale = torch.full_like(self.step, 0.5)
        for i in reversed(newest_first):
            ratio = self.inner[:, i, self.memory + i] / self.inner[:, self.memory + i, self.memory + i]
            scale = torch.where(self.valid[:, i], ratio, scale)
        return scale

    def _remember(self, there: Point, accepted: Bool[Tensor, " T"]) -> None:
        """Write the pair of this step, and its inner products, over the oldest; a rejected step leaves no pair."""
        m, slot = self.memory, self.iterations % self.memory
        self.history[:, slot] = ((there.V - self.point.V) / self.root).flatten(1)
        self.history[:, m + slot] = ((there.tangent - self.point.tangent) * self.root).flatten(1)
        products = self.history @ self.history[:, [slot, m + slot]].transpose(1, 2)
        self.inner[:, :, [slot, m + slot]] = products
        self.inner[:, [slot, m + slot]] = products.transpose(1, 2)
        lengths = (self.inner[:, slot, slot] * self.inner[:, m + slot, m + slot]).sqrt()
        self.valid[:, slot] = accepted & (self.inner[:, slot, m + slot] > 1e-8 * lengths)


def scaling(multipliers: Float[Tensor, "T n"]) -> Float[Tensor, "T n"]:
    """sqrt(|y_i|), and at least a tenth of sqrt(mean |y|): isolated and weak rows have y = 0. 1 where all are 0."""
    size = multipliers.abs()
    mean = size.mean(1, keepdim=True)
    return torch.where(mean > 0, torch.maximum(size, 1e-2 * mean), 1.0).sqrt()
