"""The native kernels of training, checked: one function a kernel that takes tensors.

Kernels run where every tensor is float32, contiguous and on the CPU, and the extension is built; elsewhere their torch
twins do (`solvers.passes`; of a Bernoulli's moments, in `core.laws`). Noise is a function of a key and an index
(`core.counter`), the same on both paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from core import extension


def serves(*tensors: Tensor | None) -> bool:
    """Whether the kernels can take all of these (None: an array that a kernel is told not to use)."""
    return extension.module() is not None and extension.allowed() and all(t is None or _fits(t) for t in tensors)


def point_adam(
    gradient: Tensor,
    latent: Tensor,
    first: Tensor,
    second: Tensor,
    weights: Tensor,
    *,
    rate: float,
    betas: tuple[float, float],
    root: float,
    eps: float,
    bound: float,
    level: int | None = None,
) -> None:
    """One Adam step of a latent clipped to +-bound, then weights = sign(latent), all in place.

    latent -= rate m / (root sqrt(v) + eps); rate = lr / (1 - beta1^t) and root = 1 / sqrt(1 - beta2^t) in step t.
    """
    arrays = (gradient, latent, first, second, weights)
    _kernels().point_adam(
        _level(level),
        *_addresses(*arrays),
        rate=rate,
        beta1=betas[0],
        beta2=betas[1],
        root=root,
        eps=eps,
        bound=bound,
    )


def point_bop(
    gradient: Tensor,
    signs: Tensor,
    average: Tensor,
    *,
    adaptivity: float,
    threshold: float,
    level: int | None = None,
) -> None:
    """average <- lerp to the gradient; a sign flips where average * sign > threshold; in place."""
    arrays = _addresses(gradient, signs, average)
    _kernels().point_bop(_level(level), *arrays, adaptivity=adaptivity, threshold=threshold)


@dataclass(frozen=True)
class Relaxation:
    """How a Bernoulli law is drawn: w = tanh((natural + noise) / temperature), and the factor of a step's gradient.

    damping None: factor = [sech^2(z / T) / T] / sech^2(natural). Else BayesBiNN's released arithmetic, in float32:
    (1 - w^2 + floor) / T / (1 - mean^2 + damping). bound: |natural| <= bound.
    """

    temperature: float
    bound: float
    floor: float = 0.0
    damping: float | None = None


def bernoulli_draw(
    natural: Tensor,
    weights: Tensor,
    factor: Tensor,
    *,
    key: tuple[int, int],
    relaxation: Relaxation,
    level: int | None = None,
) -> None:
    """The relaxed draw of `key` into weights, and each weight's factor."""
    _kernels().bernoulli_draw(
        _level(level),
        *_addresses(natural, weights, factor),
        key=key,
        temperature=relaxation.temperature,
        bound=relaxation.bound,
        published=relaxation.damping is not None,
        floor=relaxation.floor,
        damping=relaxation.damping or 0.0,
    )


def bernoulli_step(
    gradient: Tensor,
    prior: Tensor | None,
    natural: Tensor,
    velocity: Tensor | None,
    weights: Tensor,
    factor: Tensor,
    *,
    key: tuple[int, int],
    relaxation: Relaxation,
    scale: float,
    rate: float,
    momentum: float,
    decay: float,
    level: int | None = None,
) -> None:
    """natural -= rate v, v = momentum v + (1 - momentum)(scale gradient factor + decay (natural - prior)); then the
    draw of `key`. In place; velocity None: no momentum; prior None: 0.
    """
    size, *addresses = _addresses(gradient, prior, natural, velocity, weights, factor)
    _kernels().bernoulli_step(
        _level(level),
        size,
        *addresses,
        key=key,
        temperature=relaxation.temperature,
        bound=relaxation.bound,
        published=relaxation.damping is not None,
        floor=relaxation.floor,
        damping=relaxation.damping or 0.0,
        scale=scale,
        rate=rate,
        momentum=momentum,
        decay=decay,
    )


def bernoulli_moments(natural: Tensor, mean: Tensor, variance: Tensor, *, level: int | None = None) -> None:
    """mean = tanh(natural), variance = sech^2(natural)."""
    _kernels().bernoulli_moments(_level(level), *_addresses(natural, mean, variance))


def bernoulli_pull_back(
    mean: Tensor, variance: Tensor, by_mean: Tensor, by_variance: Tensor, pulled: Tensor, *, level: int | None = None
) -> None:
    """pulled = variance (by_mean - 2 mean by_variance), the gradient by the natural parameter."""
    arrays = _addresses(mean, variance, by_mean, by_variance, pulled)
    _kernels().bernoulli_pull_back(_level(level), *arrays)


def lowrank_draw(rows: Tensor, coefficients: Tensor, weights: Tensor, *, level: int | None = None) -> None:
    """weights = sign(rows[0] + sum_k coefficients[k] rows[k + 1]); rows: (K + 1, *shape), coefficients: (K,)."""
    _check_rows(rows, coefficients, weights)
    size, written = _addresses(weights)
    _kernels().lowrank_draw(_level(level), size, len(coefficients), rows.data_ptr(), coefficients.data_ptr(), written)


def lowrank_step(
    gradient: Tensor,
    used: Tensor,
    coefficients: Tensor,
    rows: Tensor,
    velocity: Tensor | None,
    weights: Tensor,
    *,
    scale: float,
    rate: float,
    momentum: float,
    decay: float,
    unit: bool,
    level: int | None = None,
) -> None:
    """SGD with averaged momentum on rows whose gradient is the outer product of (1, used) and `gradient`, in place;
    then the draw of `coefficients`. unit: rows have length 1 over dimension 0, before and after.
    """
    _check_rows(rows, used, gradient)
    _check_rows(rows, coefficients, weights)
    size, read, written = _addresses(gradient, weights)
    moved = _addresses(rows, velocity)[1:]
    _kernels().lowrank_step(
        _level(level),
        size,
        len(used),
        read,
        used.data_ptr(),
        coefficients.data_ptr(),
        *moved,
        written,
        scale=scale,
        rate=rate,
        momentum=momentum,
        decay=decay,
        unit=unit,
    )


def _kernels() -> ModuleType:
    module = extension.module()
    if module is None:
        raise RuntimeError(f"a native kernel was called, but {extension.info().reason}; ask core.native.serves first")
    return module


@cache
def _best() -> int:
    return int(_kernels().best_level())


def _level(level: int | None) -> int:
    best = _best()
    if level is not None and not 0 <= level <= best:
        raise ValueError(f"CPU level must be in 0..{best} on this machine (got {level}); see core.extension.LEVELS")
    return best if level is None else level


def _addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    """The common number of entries, then each address (0 for None). Raises ValueError for what kernels cannot take."""
    sizes = {t.numel() for t in tensors if t is not None}
    if len(sizes) != 1:
        raise ValueError(f"a kernel's tensors must have equally many entries (got {sorted(sizes)})")
    if not all(t is None or _fits(t) for t in tensors):
        described = [(str(t.dtype), str(t.device), t.is_contiguous()) for t in tensors if t is not None]
        raise ValueError(f"a kernel takes contiguous float32 CPU tensors (got {described}); ask serves() first")
    return (*sizes, *(0 if t is None else t.data_ptr() for t in tensors))


def _check_rows(rows: Tensor, coefficients: Tensor, weights: Tensor) -> None:
    if rows.shape != (len(coefficients) + 1, *weights.shape) or not (_fits(rows) and _fits(coefficients)):
        raise ValueError(
            f"rows must be float32 on the CPU, contiguous, of shape (K + 1, *weights): got {tuple(rows.shape)} for "
            f"{len(coefficients)} coefficients and weights {tuple(weights.shape)}"
        )


def _fits(t: Tensor) -> bool:
    return t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous()
