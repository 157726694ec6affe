"""Low-rank laws: signs of z = mu + Z eps, K normals a draw shared by all weights of a layer, so weights are correlated.

The law of VISPA (NeurIPS 2024) and of Burer & Monteiro's factorisation of the MaxCut semidefinite program, whose unit
rows v_i = (mu_i, Z_i) make E[z_i^2] = 1. Pairs of signs by Sheppard's and Plackett's formulas.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.geometry import EUCLIDEAN, UnitRows
from core.interface import BINARY, Coordinate, Geometry, NoMode, Rng, WeightLaw
from core.ops import ErfSign, sign
from core.orthant import angle_between, sign_product
from core.seeds import generator

UNIT = UnitRows()


class LowRank(WeightLaw):
    """w = sign(z), z = mu + sum_k eps_k Z_k: the weights of one draw share its K normals.

    rows: (K + 1, *shape), the mean column mu and then the K columns of Z; rank = K >= 1. chart: what `rows` are.
    "identity": mu and Z themselves, kept at unit length by the geometry (default UnitRows; any other leaves them);
    "sphere": any positive multiple of them, row by row: the law divides by the length, and the pull-back is orthogonal
    to the row (default geometry Euclidean). No entropy: a Gaussian of rank K has no density.
    Raises ValueError for rank < 1.
    """

    levels = BINARY
    independent = False
    centres = 1  # leading rows that meet a constant 1 instead of a normal

    def __init__(
        self,
        rows: Float[Tensor, "columns ..."],
        *,
        geometry: Geometry | None = None,
        chart: Literal["identity", "sphere"] = "identity",
    ) -> None:
        super().__init__()
        if chart not in ("identity", "sphere"):
            raise ValueError(f"{type(self).__name__}: chart must be identity or sphere (got {chart!r})")
        self.rows = nn.Parameter(rows)
        self.chart = chart
        default: Geometry = UNIT if chart == "identity" else EUCLIDEAN
        self.geometry = default if geometry is None else geometry
        self.shape = rows.shape[1:]
        if self.rank < 1:
            raise ValueError(
                f"{type(self).__name__}: rank={self.rank}, but the correlated part needs at least one column "
                "(use gaussian-vi for none)"
            )

    @property
    def rank(self) -> int:
        """K, the columns of Z; the mean column is not counted."""
        return len(self.rows) - self.centres

    def columns(self) -> Tensor:
        """(mu, Z_1 .. Z_K), as the draws use them; for the symmetric law, Z alone."""
        return self.rows if self.chart == "identity" else UNIT.project(self.rows)

    def factor_noise(self, rng: Rng) -> Tensor:
        """The K standard normals that all weights share."""
        return torch.randn(self.rank, generator=rng, dtype=self.rows.dtype, device=self.rows.device)

    def noise(self, rng: Rng) -> Tensor:
        return self.factor_noise(rng)

    def latent(self, noise: Tensor | None) -> Tensor:
        latent: Tensor = torch.tensordot(self._loadings(noise), self.columns(), 1)
        return latent

    def values(self, latent: Tensor) -> Tensor:
        return sign(latent)

    def pull_back(self, noise: Tensor | None, gradient: Tensor) -> tuple[Tensor, ...]:
        """d/d mu = g, d/d Z_k = eps_k g; in the sphere chart the tangential part of that over the row's length."""
        pulled = self._loadings(noise).reshape(-1, *[1] * gradient.ndim) * gradient
        if self.chart == "sphere":
            lengths = torch.linalg.vector_norm(self.rows.detach(), dim=0)
            pulled = UNIT.to_tangent(self.columns().detach(), pulled) / torch.where(lengths > 0, lengths, 1)
        return (pulled,)

    def mean(self) -> Tensor:
        """erf(a / sqrt 2), a = mu / sigma, sigma = |Z|; the sign of mu where sigma = 0."""
        certain, standard = self._standardised()
        return torch.where(certain, sign(standard), torch.erf(standard / math.sqrt(2)))

    def variance(self) -> Tensor:
        """4 P(+1) P(-1), without the cancellation of 1 - mean^2."""
        certain, standard = self._standardised()
        return torch.where(certain, 0, 4 * torch.special.ndtr(standard) * torch.special.ndtr(-standard))

    def mode(self) -> Tensor:
        """sign(mu): each weight's likelier sign, and the draw at eps = 0 (not the likeliest vector of all).

        Raises NoMode where mu is 0 throughout: then w and -w are equally likely.
        """
        centre = self._centre()
        if not bool(centre.any()):
            raise NoMode(
                f"{type(self).__name__}: the mean column is 0, so w and -w are equally likely and there is no mode; "
                "predict with ensemble(k), or train with a mean column"
            )
        return sign(centre)

    def coordinates(self) -> tuple[Coordinate, ...]:
        return (Coordinate(self.rows, self.geometry),)

    def pair_moment(self, i: int, j: int) -> Tensor:
        """E[w_i w_j] of one draw, weights counted in the flattened tensor; float64, to 1e-13.

        4 Phi2(a_i, a_j; rho) - 2 Phi(a_i) - 2 Phi(a_j) + 1, rho = Z_i.Z_j / (sigma_i sigma_j); (2/pi) asin rho at
        mu = 0.
        """
        return self._pair_moments(torch.tensor([i]), torch.tensor([j]))[0]

    def second_moment(self) -> Tensor:
        """E[w w^T] of one draw, (n, n) over the flattened weights; float64, for small n."""
        n = math.prod(self.shape)
        i, j = torch.triu_indices(n, n, offset=1)
        moments = torch.eye(n, dtype=torch.float64, device=self.rows.device)
        moments[i, j] = moments[j, i] = self._pair_moments(i, j)
        return moments

    def _pair_moments(self, i: Tensor, j: Tensor) -> Tensor:
        certain, standard = (t.detach().flatten() for t in self._standardised())
        mean = self.mean().detach().flatten().double()
        fixed = certain[i] | certain[j]
        x, y = self._directions(i, j)
        # a weight without noise has no direction: its pairs are products, and any direction serves in the other branch
        x, y = torch.where(fixed, 1.0, x), torch.where(fixed, 1.0, y)
        a, b = standard[i].double(), standard[j].double()
        moments = torch.where(fixed, mean[i] * mean[j], sign_product(a, b, angle_between(x, y)))
        return torch.where((i == j).to(moments.device), 1.0, moments)

    def _directions(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """What weights i and j load on independent normals, (R, pairs) each, float64: their angle is that of z."""
        factors = self._factors().detach().flatten(1).double()
        return factors[:, i], factors[:, j]

    def _centre(self) -> Tensor:
        return self.columns()[0]

    def _factors(self) -> Tensor:
        factors: Tensor = self.columns()[self.centres :]
        return factors

    def _deviation(self) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(self._factors(), dim=0)
        return length

    def _standardised(self) -> tuple[Tensor, Tensor]:
        """Where sigma = 0, and mu / sigma elsewhere (mu there)."""
        deviation = self._deviation()
        certain = deviation == 0
        return certain, self._centre() / torch.where(certain, 1, deviation)

    def _loadings(self, noise: Tensor | None) -> Tensor:
        assert noise is not None, f"a {type(self).__name__} latent needs the noise of its draw"
        return torch.cat([noise.new_ones(self.centres), noise[: self.rank]])


class SymmetricLowRank(LowRank):
    """LowRank without a mean column: rows (K, *shape), z = sum_k eps_k Z_k, so w and -w are equally likely.

    E[w_i w_j] = (2/pi) asin(v_i . v_j) for unit rows: Goemans & Williamson's rounding. It has no mode to export.
    """

    centres = 0

    def mode(self) -> Tensor:
        raise NoMode(
            "SymmetricLowRank: w and -w are equally likely, so there is no mode; predict with ensemble(k), or use "
            "lowrank-sdp with law=homogenised"
        )

    def _centre(self) -> Tensor:
        return torch.zeros_like(self.rows[0])


class LowRankPlusDiagonal(LowRank):
    """z = mu + Z eps + d eta, eta independent normals, d = `diagonal` > 0 constant: given eps, independent signs.

    Mean-field at Z = 0 with P(+1) = Phi(mu / d); LowRank as d -> 0. noise: K factor normals, then one a weight; of the
    K factor normals alone, `latent` is mu + Z eps, whose sign has mean `conditional_mean`.
    """

    def __init__(
        self,
        rows: Float[Tensor, "columns ..."],
        *,
        diagonal: float,
        geometry: Geometry | None = None,
        chart: Literal["identity", "sphere"] = "identity",
    ) -> None:
        super().__init__(rows, geometry=geometry, chart=chart)
        if not (diagonal > 0 and math.isfinite(diagonal)):
            raise ValueError(
                f"LowRankPlusDiagonal: diagonal must be finite and > 0 (got {diagonal}); LowRank has no diagonal part"
            )
        self.diagonal = diagonal

    def noise(self, rng: Rng) -> Tensor:
        own = torch.randn(math.prod(self.shape), generator=rng, dtype=self.rows.dtype, device=self.rows.device)
        return torch.cat([self.factor_noise(rng), own])

    def latent(self, noise: Tensor | None) -> Tensor:
        shared = super().latent(noise)
        assert noise is not None
        own = noise[self.rank :]
        return shared + self.diagonal * own.reshape(self.shape) if len(own) else shared

    def latent_entropy(self) -> Tensor:
        """Differential entropy of z ~ N(mu, Z Z' + d^2 I), nats: (n log(2 pi e d^2) + log det(I_K + Z' Z / d^2)) / 2.

        Of the Gaussian, not of its signs, whose entropy is a sum over 2^n orthants; the law without d has none.
        """
        factors = self._factors().flatten(1) / self.diagonal
        gram = torch.eye(len(factors), dtype=factors.dtype, device=factors.device) + factors @ factors.T
        constant = math.log(2 * math.pi * math.e * self.diagonal**2)
        entropy: Tensor = 0.5 * (factors.shape[1] * constant + torch.linalg.slogdet(gram).logabsdet)
        return entropy

    def conditional_mean(self, factor_noise: Float[Tensor, " R"]) -> Tensor:
        """E[w | eps] = erf((mu + Z eps) / (sqrt 2 d)), given which the weights are independent."""
        return ErfSign(self.diagonal)(self.latent(factor_noise))

    def _directions(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        shared_i, shared_j = super()._directions(i, j)
        own, none = torch.full_like(shared_i[:1], self.diagonal), torch.zeros_like(shared_i[:1])
        return torch.cat([shared_i, own, none]), torch.cat([shared_j, none, own])

    def _deviation(self) -> Tensor:
        return torch.sqrt((self._factors() ** 2).sum(0) + self.diagonal**2)


def sign_fixed_mean(rows: Float[Tensor, "columns ..."], draws: int, rng: Rng) -> Float[Tensor, "draws ..."]:
    """sign(mu + Z r), r ~ N(0, I_K): the draws of LowRank; E[w_i] = erf(mu_i / (|Z_i| sqrt 2))."""
    normals = torch.randn(draws, len(rows) - 1, generator=rng, dtype=rows.dtype, device=rows.device)
    return sign(rows[0] + torch.tensordot(normals, rows[1:], 1))


def goemans_williamson(rows: Float[Tensor, "columns ..."], draws: int, rng: Rng) -> Float[Tensor, "draws ..."]:
    """sign(V r) sign(r_0), r ~ N(0, I_(K+1)): the homogenising vector e_0 is drawn too (Goemans & Williamson 1995).

    For unit rows E[w_i] = (2/pi) asin mu_i and E[w_i w_j] = (2/pi) asin(v_i . v_j): another law than `sign_fixed_mean`.
    """
    normals = torch.randn(draws, len(rows), generator=rng, dtype=rows.dtype, device=rows.device)
    turned = sign(normals[:, 0]).reshape(-1, *[1] * (rows.ndim - 1))
    return sign(torch.tensordot(normals, rows, 1)) * turned


def initial_columns(shape: torch.Size, rank: int, rng: Rng) -> Tensor:
    """(rank, *shape) float32 standard normals on the generator's device, from a generator of their own.

    It is seeded by the state of `rng`, which stays where it is: the next layer then starts from the same signs as under
    every other method.
    """
    own = generator("initial columns", rng.get_state().numpy().tobytes().hex(), device=rng.device)
    return torch.randn(rank, *shape, generator=own, device=rng.device)
