"""UnitGaussian: signs of independent Gaussians whose second moment is that of a sign, m^2 + s^2 = 1.

The diagonal family of VISPA (NeurIPS 2024): means in the box [-1, 1], its deviation s = sqrt(1 - m^2) implied.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.geometry import Box
from core.interface import BINARY, Coordinate, Geometry, Rng, WeightLaw
from core.ops import sign


class UnitGaussian(WeightLaw):
    """w = sign(z), z ~ N(m, 1 - m^2) independently; P(w = +1) = Phi(m / s), s = sqrt(1 - m^2).

    spread: what a gradient through z takes of s. "held": dz/dm = 1, which is exact for the mean of a loss multilinear
    in the weights (E[f(z)] then depends on m alone); "moving": dz/dm = 1 - m eps / s, the path derivative of any
    E[f(z)], taken as 1 at s = 0. Entropy is a sum over weights, in nats. Raises ValueError for a mean outside [-1, 1].
    """

    levels = BINARY

    def __init__(
        self,
        means: Float[Tensor, "*shape"],
        *,
        spread: Literal["held", "moving"] = "held",
        geometry: Geometry | None = None,
    ) -> None:
        super().__init__()
        if spread not in ("held", "moving"):
            raise ValueError(f"UnitGaussian: spread must be held or moving (got {spread!r})")
        if not bool((means.abs() <= 1).all()):
            raise ValueError(f"UnitGaussian: means must be in [-1, 1] (largest |mean| {means.abs().max().item():g})")
        self.means = nn.Parameter(means)
        self.spread = spread
        self.geometry = Box(1.0) if geometry is None else geometry
        self.shape = means.shape

    def noise(self, rng: Rng) -> Tensor:
        return torch.randn(self.shape, generator=rng, dtype=self.means.dtype, device=self.means.device)

    def latent(self, noise: Tensor | None) -> Tensor:
        assert noise is not None, "a UnitGaussian latent needs the noise of its draw"
        return self.means + self._deviation() * noise

    def values(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def pull_back(self, noise: Tensor | None, gradient: Tensor) -> tuple[Tensor, ...]:
        if self.spread == "held":
            return (gradient,)
        assert noise is not None, "the moving spread needs the noise of the draw"
        deviation = self._deviation()
        moved = torch.where(deviation > 0, self.means * noise / deviation, 0)
        return ((gradient * (1 - moved)).detach(),)

    def mean(self) -> Tensor:
        """erf(m / (s sqrt 2)); the sign of m at |m| = 1."""
        certain, standard = self._standardised()
        return torch.where(certain, sign(self.means), torch.erf(standard / math.sqrt(2)))

    def variance(self) -> Tensor:
        """4 P(+1) P(-1), without the cancellation of 1 - mean^2."""
        certain, standard = self._standardised()
        return torch.where(certain, 0, 4 * torch.special.ndtr(standard) * torch.special.ndtr(-standard))

    def mode(self) -> Tensor:
        """sign(m); a weight with m = 0 is a fair coin of its own, whose two sides are equally likely: +1."""
        return sign(self.means)

    def coordinates(self) -> tuple[Coordinate, ...]:
        return (Coordinate(self.means, self.geometry),)

    def prob_plus(self) -> Tensor:
        """P(w = +1) = Phi(m / s); 0 or 1 at |m| = 1."""
        certain, standard = self._standardised()
        return torch.where(certain, (self.means > 0).to(standard), torch.special.ndtr(standard))

    def entropy(self) -> Tensor:
        """Of the signs: the sum over weights of -p log p - (1 - p) log(1 - p), p = P(+1); nats, scalar."""
        certain, standard = self._standardised()
        terms = torch.special.entr(torch.special.ndtr(standard)) + torch.special.entr(torch.special.ndtr(-standard))
        return torch.where(certain, 0, terms).sum()

    def pair_moment(self, i: int, j: int) -> Tensor:
        """E[w_i w_j] of one draw, weights counted in the flattened tensor: E[w_i] E[w_j], and 1 for i = j."""
        mean = self.mean().flatten()
        return torch.ones_like(mean[i]) if i == j else mean[i] * mean[j]

    def _deviation(self) -> Tensor:
        return self._spared().sqrt()

    def _spared(self) -> Tensor:
        # as a product: 1 - m^2 loses half its digits towards |m| = 1; the clamp is for means that a solver has not
        # yet projected back
        return ((1 - self.means) * (1 + self.means)).clamp_min(0)

    def _standardised(self) -> tuple[Tensor, Tensor]:
        """Where s = 0, and m / s elsewhere (m there: its gradient must stay finite to be masked)."""
        variance = self._spared()
        certain = variance == 0
        return certain, self.means * torch.rsqrt(torch.where(certain, 1, variance))
