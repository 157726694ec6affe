"""The fused passes in torch: each function is the twin of the kernel of its name in `core.native`, in place.

They run for float64, on CUDA and where the extension is not built; fed the same key, both paths use the same noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.counter import Key, logistic
from core.geometry import UnitRows
from core.native import Relaxation
from core.ops import sign


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
) -> None:
    """One Adam step of a latent clipped to +-bound, then weights = sign(latent). Kingma & Ba 2015."""
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    latent.addcdiv_(first, second.sqrt().mul_(root).add_(eps), value=-rate)
    if bound < math.inf:
        latent.clamp_(-bound, bound)
    weights.copy_(sign(latent))


def bernoulli_draw(natural: Tensor, weights: Tensor, factor: Tensor, *, key: Key, relaxation: Relaxation) -> None:
    """The relaxed draw of `key` into weights, and each weight's factor slope(z) / Fisher(natural)."""
    latent = logistic(natural, key).add_(natural)
    if relaxation.damping is None:
        _honest(natural, latent, weights, factor, relaxation.temperature)
    else:
        _published(natural, latent, weights, factor, relaxation, relaxation.damping)


def bernoulli_step(
    gradient: Tensor,
    prior: Tensor | None,
    natural: Tensor,
    velocity: Tensor | None,
    weights: Tensor,
    factor: Tensor,
    *,
    key: Key,
    relaxation: Relaxation,
    scale: float,
    rate: float,
    momentum: float,
    decay: float,
) -> None:
    """A step of the Bayesian learning rule with the factors of the last draw, then the draw of `key`."""
    direction = factor.mul_(gradient).mul_(scale)
    direction.add_(natural, alpha=decay)
    if prior is not None:
        direction.sub_(prior, alpha=decay)
    if velocity is not None:
        direction = velocity.mul_(momentum).add_(direction, alpha=1 - momentum)
    natural.sub_(direction, alpha=rate)
    if relaxation.bound < math.inf:
        natural.clamp_(-relaxation.bound, relaxation.bound)
    bernoulli_draw(natural, weights, factor, key=key, relaxation=relaxation)


def lowrank_draw(rows: Tensor, coefficients: Tensor, weights: Tensor) -> None:
    """weights = sign(rows[0] + sum_k coefficients[k] rows[k + 1])."""
    weights.copy_(sign(_combined(rows, coefficients)))


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
) -> None:
    """SGD with averaged momentum on rows, whose gradient is the outer product of (1, used) and `gradient`; then the
    draw of `coefficients`. One row at a time: the outer product is never formed.
    """
    radial = _combined(rows, used).mul_(gradient).mul_(-scale) if unit else None  # -<gradient of the rows, rows>
    direction = torch.empty_like(gradient)
    for k, (row, c) in enumerate(zip(rows, [1.0, *used.tolist()], strict=True)):
        torch.mul(gradient, scale * c, out=direction)
        if decay:
            direction.add_(row, alpha=decay)
        if radial is not None:
            direction.addcmul_(radial, row)
        row.sub_(direction if velocity is None else velocity[k].lerp_(direction, 1 - momentum), alpha=rate)
    if unit:
        rows.copy_(UnitRows().project(rows))
    lowrank_draw(rows, coefficients, weights)


def _combined(rows: Tensor, coefficients: Tensor) -> Tensor:
    total = rows[0].clone()
    for c, row in zip(coefficients.tolist(), rows[1:], strict=True):
        total.add_(row, alpha=c)
    return total


def _honest(natural: Tensor, latent: Tensor, weights: Tensor, factor: Tensor, temperature: float) -> None:
    """Exponents are subtracted before exp: 1 - tanh^2 by subtraction has no digits left in float32 from |x| = 9 on."""
    info = torch.finfo(natural.dtype)
    largest = math.log(info.max) - 1  # as the geometry caps 1 / Fisher
    lowest = 0.7 * math.log(info.tiny)  # 1e-26 is as good as 0 here, and its products are no denormals, which are slow
    near, far = latent.abs().mul_(2 / temperature), natural.abs().mul_(2)
    torch.sub(far, near, out=factor).clamp_(lowest, largest).exp_()
    r, e = near.neg_().clamp_min_(lowest).exp_(), far.neg_().clamp_min_(lowest).exp_()
    share = (r + 1).reciprocal_()
    torch.mul(r.neg_().add_(1), share, out=weights).copysign_(latent)
    ratio = e.add_(1).mul_(share)
    factor.mul_(ratio.mul_(ratio)).mul_(1 / temperature)


def _published(
    natural: Tensor, latent: Tensor, weights: Tensor, factor: Tensor, relaxation: Relaxation, damping: float
) -> None:
    """Both differences by subtraction in working precision, as in the released code."""
    torch.tanh(latent.div_(relaxation.temperature), out=weights)
    mean = torch.tanh(natural)
    torch.mul(weights, weights, out=factor).neg_().add_(1).add_(relaxation.floor).div_(relaxation.temperature)
    factor.div_(mean.mul_(mean).neg_().add_(1).add_(damping))
