"""Weight laws: Point, Settled, Bernoulli, and the identity law Real of the full-precision control.

Bernoulli in the minimal exponential family with statistic w in {-1, +1}: Meng, Bachmann & Khan 2020, sections 2-3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core import native
from core.geometry import EUCLIDEAN, BernoulliFisher
from core.interface import BINARY, Coordinate, Geometry, Rng, WeightLaw
from core.ops import log_sech2, logistic_noise, sign


class Point(WeightLaw):
    """A point mass: w = sign(latent). STE keeps a real latent here, Bop the sign itself."""

    levels: tuple[float, ...] | None = BINARY

    def __init__(self, latent: Float[Tensor, "*shape"], *, geometry: Geometry = EUCLIDEAN) -> None:
        super().__init__()
        self.latents = nn.Parameter(latent)
        self.geometry = geometry
        self.shape = latent.shape

    def noise(self, rng: Rng) -> None:
        return None

    def latent(self, noise: Tensor | None) -> Tensor:
        return self.latents

    def values(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def pull_back(self, noise: Tensor | None, gradient: Tensor) -> tuple[Tensor, ...]:
        return (gradient,)

    def mean(self) -> Tensor:
        return sign(self.latents)

    def mode(self) -> Tensor:
        return sign(self.latents)

    def coordinates(self) -> tuple[Coordinate, ...]:
        return (Coordinate(self.latents, self.geometry),)


class Real(Point):
    """The identity law: w = latent, a real weight. Never binary, so never exported or called 1-bit."""

    levels = None

    def values(self, latent: Tensor) -> Tensor:
        return latent

    def mean(self) -> Tensor:
        return self.latents

    def mode(self) -> Tensor:
        return self.latents


class Settled(WeightLaw):
    """A point mass on signs held in a buffer: set once (`settle`), moved by no solver."""

    levels = BINARY
    signs: Tensor

    def __init__(self, signs: Float[Tensor, "*shape"]) -> None:
        super().__init__()
        self.register_buffer("signs", sign(signs))
        self.shape = signs.shape

    def settle(self, weights: Float[Tensor, "*shape"]) -> None:
        """Take the signs of these weights from now on."""
        self.signs = sign(weights).to(self.signs)

    def noise(self, rng: Rng) -> None:
        return None

    def latent(self, noise: Tensor | None) -> Tensor:
        return self.signs

    def values(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def pull_back(self, noise: Tensor | None, gradient: Tensor) -> tuple[Tensor, ...]:
        return ()

    def mean(self) -> Tensor:
        return self.signs

    def mode(self) -> Tensor:
        return self.signs

    def coordinates(self) -> tuple[Coordinate, ...]:
        return ()


class Bernoulli(WeightLaw):
    """Independent signs with P(w = +1) = sigmoid(2 lambda): natural parameter lambda, mean tanh(lambda).

    A draw is sign(lambda + delta), delta ~ Logistic(0, 1/2). `prior` is the natural parameter lambda0 of the prior
    that solvers with decay return to (0, a fair coin, by default). KL and entropy are sums over weights, in nats.
    """

    levels = BINARY
    prior: Tensor

    def __init__(
        self,
        natural: Float[Tensor, "*shape"],
        *,
        prior: Float[Tensor, "*shape"] | None = None,
        geometry: Geometry | None = None,
    ) -> None:
        super().__init__()
        if prior is not None and prior.shape != natural.shape:
            raise ValueError(f"Bernoulli: prior has shape {tuple(prior.shape)}, natural {tuple(natural.shape)}")
        self.natural = nn.Parameter(natural)
        self.register_buffer("prior", torch.zeros_like(natural) if prior is None else prior)
        self.geometry = BernoulliFisher() if geometry is None else geometry
        self.shape = natural.shape

    @classmethod
    def of_means(cls, means: Float[Tensor, "*shape"], *, geometry: Geometry | None = None) -> Bernoulli:
        """The law with these means, each in (-1, 1): natural parameter atanh(mean), prior a fair coin.

        Raises ValueError for a mean outside: certainty has no natural parameter.
        """
        largest = means.abs().max().item()
        if not largest < 1:
            raise ValueError(
                f"means must be in (-1, 1), else there is no natural parameter (largest |mean| {largest:g})"
            )
        return cls(torch.atanh(means), geometry=geometry)

    def noise(self, rng: Rng) -> Tensor:
        return logistic_noise(self.natural, rng)

    def latent(self, noise: Tensor | None) -> Tensor:
        assert noise is not None, "a Bernoulli latent needs the noise of its draw"
        return self.natural + noise

    def values(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def pull_back(self, noise: Tensor | None, gradient: Tensor) -> tuple[Tensor, ...]:
        return (gradient,)  # dz / d lambda = 1

    def mean(self) -> Tensor:
        return torch.tanh(self.natural)

    def mode(self) -> Tensor:
        return sign(self.natural)

    def coordinates(self) -> tuple[Coordinate, ...]:
        return (Coordinate(self.natural, self.geometry, self.prior),)

    def prob_plus(self) -> Tensor:
        """P(w = +1) = sigmoid(2 lambda)."""
        return torch.sigmoid(2 * self.natural)

    def variance(self) -> Tensor:
        """1 - tanh^2(lambda), without the cancellation of 1 - mean^2."""
        return self.fisher()

    def moments(self) -> tuple[Tensor, Tensor]:
        """(tanh(lambda), sech^2(lambda)) with one exponential; backward needs no other."""
        mean, variance = _BernoulliMoments.apply(self.natural)  # type: ignore[no-untyped-call]
        return mean, variance

    def fisher(self) -> Tensor:
        """Diagonal of the Fisher information in lambda: 1 - tanh^2(lambda)."""
        return torch.exp(log_sech2(self.natural))

    def kl(self) -> Tensor:
        """KL(q || prior) = sum mu (lambda - lambda0) - log cosh lambda + log cosh lambda0; >= 0, nats, scalar.

        Formed as sum_w q(w) log q(w) / p(w): the line above cancels in float32 from |lambda| = 1e6 on.
        """
        terms = [
            torch.sigmoid(s * self.natural) * (F.logsigmoid(s * self.natural) - F.logsigmoid(s * self.prior))
            for s in (2.0, -2.0)
        ]
        return (terms[0] + terms[1]).sum()

    def entropy(self) -> Tensor:
        """Sum over weights of log(2 cosh lambda) - lambda tanh(lambda) = -sum_w q(w) log q(w); nats, scalar."""
        terms = [torch.sigmoid(s * self.natural) * F.logsigmoid(s * self.natural) for s in (2.0, -2.0)]
        return -(terms[0] + terms[1]).sum()


class _BernoulliMoments(torch.autograd.Function):
    """lambda -> (tanh, sech^2): with t = exp(-2|lambda|) they are +-(1 - t) / (1 + t) and 4 t / (1 + t)^2."""

    @staticmethod
    def forward(ctx: Any, natural: Tensor) -> tuple[Tensor, Tensor]:
        if native.serves(natural):
            mean, variance = torch.empty_like(natural), torch.empty_like(natural)
            native.bernoulli_moments(natural, mean, variance)
        else:
            t = natural.abs().mul_(-2).exp_()
            inverse = (t + 1).reciprocal_()
            mean = (1 - t).mul_(inverse).copysign_(natural)
            variance = t.mul_(4).mul_(inverse).mul_(inverse)
        ctx.save_for_backward(mean, variance)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        mean, variance = ctx.saved_tensors
        by_mean, by_variance = (gradient.contiguous() for gradient in gradients)
        if native.serves(mean, variance, by_mean, by_variance):
            pulled = torch.empty_like(mean)
            native.bernoulli_pull_back(mean, variance, by_mean, by_variance, pulled)
            return pulled
        return torch.addcmul(by_mean, mean, by_variance, value=-2).mul_(variance)


def initial_uniform(shape: torch.Size, rng: Rng) -> Tensor:
    """U(-1, 1) float32 on the generator's device: every method starts from this, so initial signs are paired."""
    return 2 * torch.rand(shape, generator=rng, device=rng.device) - 1
