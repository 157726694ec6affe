"""Moment propagation: means and variances through linear maps, signs of Gaussians, losses of Gaussian outputs.

Peters & Welling 2018 (arXiv 1809.03368), BLRNet, renamed PBNet; LR-net, Shayer, Levi & Fetaya 2018 (arXiv 1710.07739).
Everything here but the sampled sign is an honest function of the laws' parameters, differentiated by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.claims import laws
from core.interface import Contract, Gaussian, Rng, Signal, Tape, UnsupportedReading, WeightLaw
from core.ops import (
    REAL_FUNCTIONS,
    ClippedStraightThrough,
    ExactSign,
    RelaxedSign,
    logistic_noise,
    sign,
    surrogate_value,
)
from core.readings import SignActivation

VARIANCE_FLOOR = 1e-6  # under a division by the deviation, 0 when every weight is certain; batch norm makes totals 1


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every pre-activation, given independent weights; no weight is drawn.

    Fixed inputs x: mean = sum E[w] x, variance = sum Var[w] x^2. Independent random inputs of mean m and variance v:
    mean = sum E[w] m, variance = sum Var[w] (m^2 + v) + E[w]^2 v. Exact in both moments; that the sum is normal is
    the approximation. Covariances between positions of a convolution and between examples are dropped.
    """

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Signal:
        if not law.independent:
            raise UnsupportedReading(
                f"Moments needs independent weights, and those of one {type(law).__name__} draw depend on each other; "
                "read it with Draw(StraightThrough()), or use a Bernoulli or UnitGaussian law"
            )
        if law.levels is None and isinstance(x, Tensor):
            return contract(x, law.mean())
        mean, variance = law.moments()
        if isinstance(x, Tensor):
            return _gaussian(contract(x, mean), contract.squares(x, variance))
        spread = contract(x.variance, mean * mean)
        if law.levels is not None:
            spread = spread + contract(x.mean * x.mean + x.variance, variance)
        return _gaussian(contract(x.mean, mean), spread)


@dataclass(frozen=True)
class StochasticSign:
    """A sample of the sign of a Gaussian, P(+1) = Phi(mean / deviation) at every temperature; straight through.

    Forward sign(l), backward the slope of tanh(l / temperature), l = (logit q + Logistic) / 2: the hard binary
    concrete of Peters & Welling 2018. Real activations and forks take a sample of the pre-activation (LR-net). A
    tensor (a real layer's output) gets the plain sign with slope 1 where |h| <= slope_window.
    """

    temperature: float = 1.0
    slope_window: float = 1.0

    def __post_init__(self) -> None:
        RelaxedSign(self.temperature)  # refuses temperature <= 0
        ClippedStraightThrough(self.slope_window)

    def __call__(self, h: Signal, rng: Rng) -> Tensor:
        if isinstance(h, Tensor):
            return SignActivation(ClippedStraightThrough(self.slope_window))(h, rng)
        if self.temperature == 1:
            sampled: Tensor = _SampledSign.apply(standardised(h), _uniform(h, rng))  # type: ignore[no-untyped-call]
            return sampled
        latent = sign_natural(h)
        return surrogate_value(latent + logistic_noise(latent, rng), ExactSign(RelaxedSign(self.temperature)))

    def real(self, h: Gaussian, function: str, rng: Rng) -> Tensor:
        return REAL_FUNCTIONS[function](h.sample(rng))

    def pool(self, h: Gaussian, window: tuple[int, int], function: str, rng: Rng) -> Signal:
        # a real activation gets the largest of one sample; another sample of the chosen entry would not be the largest
        return sampled_maximum(h, window, rng) if function == "sign" else F.max_pool2d(h.sample(rng), window)

    def fork(self, h: Gaussian, rng: Rng, *, assume_independent: bool) -> Tensor:
        return h.sample(rng)


class _SampledSign(torch.autograd.Function):
    """+1 where u >= Phi(-z), else -1; backward the slope of tanh((logit Phi(z) + logit u) / 2), the case temperature 1.

    That slope is 2 u (1 - u) phi(z) / (Phi(z) u + Phi(-z) (1 - u))^2: no logarithm and no division by Phi(z) Phi(-z).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, u: Tensor) -> Tensor:
        minus = torch.special.ndtr(-z)
        ctx.save_for_backward(z, u, minus)
        return sign(u - minus)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        z, u, minus = ctx.saved_tensors
        mixture = u + minus * (1 - 2 * u)  # Phi(z) u + Phi(-z) (1 - u)
        return gradients[0] * (2 * u * (1 - u) * _density(z) / (mixture * mixture)), None


@dataclass(frozen=True)
class PropagatedSign:
    """The moments of the sign of a Gaussian: mean 2 Phi(mean / deviation) - 1, variance 1 - mean^2. Draws nothing."""

    def __call__(self, h: Signal, rng: Rng) -> Signal:
        if isinstance(h, Tensor):
            return SignActivation(ClippedStraightThrough())(h, rng)
        z = standardised(h)
        return Gaussian(torch.erf(z / math.sqrt(2)), 4 * torch.special.ndtr(z) * torch.special.ndtr(-z))

    def real(self, h: Gaussian, function: str, rng: Rng) -> Gaussian:
        return MOMENTS_OF[function](h)

    def pool(self, h: Gaussian, window: tuple[int, int], function: str, rng: Rng) -> Gaussian:
        return sampled_maximum(h, window, rng)

    def fork(self, h: Gaussian, rng: Rng, *, assume_independent: bool) -> Gaussian:
        if not assume_independent:
            raise UnsupportedReading(
                "moments of a residual sum need independent branches, and both come from one signal; "
                "set network.assume_independent=true to ignore it (the error is then on record), or sample with blrnet"
            )
        return h


def standardised(h: Gaussian) -> Tensor:
    """mean / deviation, the argument of Phi; finite where the variance is 0."""
    return h.mean * torch.rsqrt(h.variance.clamp_min(VARIANCE_FLOOR))


def sign_natural(h: Gaussian) -> Tensor:
    """(1/2) log(q / (1 - q)), q = P(h > 0) = Phi(mean / deviation): the natural parameter of the sign; no overflow."""
    z = standardised(h)
    natural: Tensor = 0.5 * (torch.special.log_ndtr(z) - torch.special.log_ndtr(-z))
    return natural


def rectified(h: Gaussian) -> Gaussian:
    """Mean and variance of max(h, 0): m P + s d and mean^2 (1 - P) + (r^2 + s^2) P + (r - mean) s d.

    P = Phi(m / s), d = phi(m / s), r = m - mean. The variance is formed about the mean: second moment less mean^2
    loses every digit in float32 where m is many s.
    """
    deviation = h.deviation()
    z = _over(h.mean, deviation)
    positive, density = torch.special.ndtr(z), _density(z)
    mean = h.mean * positive + deviation * density
    rest = h.mean - mean
    inside = (rest * rest + h.variance) * positive + (rest - mean) * deviation * density
    return Gaussian(mean, (mean * mean * torch.special.ndtr(-z) + inside).clamp_min(0))


def hard_tanh(h: Gaussian) -> Gaussian:
    """Mean and variance of clamp(h, -1, 1): a truncated normal between two atoms, the variance about the mean."""
    deviation = h.deviation()
    a, b = _over(-1 - h.mean, deviation), _over(1 - h.mean, deviation)
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    inside, rise = 1 - below - above, _density(a) - _density(b)
    mean = above - below + h.mean * inside + deviation * rise
    rest = h.mean - mean
    atoms = below * (1 + mean).square() + above * (1 - mean).square()
    edges = a * _density(a) - b * _density(b)
    between = (rest * rest + h.variance) * inside + 2 * rest * deviation * rise + h.variance * edges
    return Gaussian(mean, (atoms + between).clamp_min(0))


def sampled_maximum(h: Gaussian, window: tuple[int, int], rng: Rng) -> Gaussian:
    """Stochastic max pooling of (B, C, H, W): where one sample is largest in its window, the mean and variance there.

    P(entry) = P(it is the largest), exactly; both moments are of that entry; no gradient reaches the choice. Rows and
    columns that fill no window are left out.
    """
    with torch.no_grad():
        _, index = F.max_pool2d(h.sample(rng), window, return_indices=True)
    return h.map(lambda moment: moment.flatten(2).gather(2, index.flatten(2)).view(index.shape))


MOMENTS_OF: Mapping[str, Callable[[Gaussian], Gaussian]] = {"relu": rectified, "hardtanh": hard_tanh}


def means(output: Signal) -> Tensor:
    """Logits of a Gaussian output that ignore its variance (the CE variant)."""
    return output.mean if isinstance(output, Gaussian) else output


def log_positive(output: Signal) -> Tensor:
    """log P(output_c > 0) per class, the BCE variant's score: log Phi(mean / deviation), log sigmoid of a tensor."""
    return torch.special.log_ndtr(standardised(output)) if isinstance(output, Gaussian) else F.logsigmoid(output)


def ce_of_means(output: Signal, labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy of the means, nats."""
    return F.cross_entropy(means(output), labels)


def bce_of_signs(output: Signal, labels: Tensor) -> Tensor:
    """Sum over classes of the binary cross-entropy of p_c = P(output_c > 0), mean over examples, nats."""
    target = F.one_hot(labels, output.shape[1]).to(means(output).dtype)
    negated = Gaussian(-output.mean, output.variance) if isinstance(output, Gaussian) else -output
    likelihood = target * log_positive(output) + (1 - target) * log_positive(negated)
    return -likelihood.sum(1).mean()


def output_loss(output: str) -> Callable[[Signal, Tensor], Tensor]:
    """The loss of an output variant: bce (`bce_of_signs`) or ce (`ce_of_means`)."""
    return _variant(output)[0]


def output_scores(output: str) -> Callable[[Signal], Tensor]:
    """The logits that the same variant reads from the network's output."""
    return _variant(output)[1]


def undecided(model: nn.Module) -> Tensor:
    """Sum of p (1 - p) over all binary weights: what LR-net's regulariser weighs to lower the law's entropy."""
    return torch.stack([law.variance().sum() / 4 for _, law in laws(model) if law.levels is not None]).sum()


def _variant(output: str) -> tuple[Callable[[Signal, Tensor], Tensor], Callable[[Signal], Tensor]]:
    variants = {"bce": (bce_of_signs, log_positive), "ce": (ce_of_means, means)}
    if output not in variants:
        raise ValueError(f"output must be one of {', '.join(variants)} (got {output!r})")
    return variants[output]


def _gaussian(mean: Tensor, variance: Tensor) -> Gaussian:
    # a sum of terms >= 0 is >= 0 in floating point too, but a convolution's algorithm may add and subtract
    return Gaussian(mean, (variance.clamp_min(0) if variance.ndim > 2 else variance).expand_as(mean))


def _over(value: Tensor, deviation: Tensor) -> Tensor:
    # 1e-12 keeps the quotient and its slope finite in float32 at deviation 0, where it only ever meets 0 * phi
    return value / deviation.clamp_min(1e-12)


def _uniform(h: Gaussian, rng: Rng) -> Tensor:
    """Uniforms in (0, 1) shaped as h: a 0, once in 2^24 float32 draws, is moved to half the grid's first step."""
    u = torch.rand(h.shape, generator=rng, dtype=h.mean.dtype, device=h.mean.device)
    return u.clamp_min(torch.finfo(u.dtype).eps / 4)


def _density(z: Tensor) -> Tensor:
    return (-0.5 * z * z).exp() / math.sqrt(2 * math.pi)
