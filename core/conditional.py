"""ConditionalMean: the reading of LowRankPlusDiagonal that draws the shared noise and averages over the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.interface import Contract, Drawn, Rng, Signal, Tape, UnsupportedReading, WeightLaw
from core.low_rank import LowRankPlusDiagonal
from core.ops import ErfSign, Identity
from core.readings import Draw, plain


@dataclass(frozen=True)
class ConditionalMean:
    """Contracts with E[w | eps] = erf((mu + Z eps) / (sqrt 2 d)), eps the K normals that all weights share.

    Given eps the weights are independent, so the gradient of this pass is unbiased for a loss multilinear in the
    weights; for others it is that of a mean-field relaxation given eps. The weights of the pass are real; a real law is
    read as it is. Raises UnsupportedReading for laws that no shared noise makes independent.
    """

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        if law.levels is None:
            return Draw(Identity())(law, contract, x, rng, tape)
        if not isinstance(law, LowRankPlusDiagonal):
            raise UnsupportedReading(
                "ConditionalMean reads LowRankPlusDiagonal laws, whose weights are independent given the shared noise, "
                f"and this is a {type(law).__name__}; read it with Draw(StraightThrough())"
            )
        x = plain(x, "ConditionalMean")
        surrogate = ErfSign(law.diagonal)
        with torch.no_grad():
            noise = law.factor_noise(rng)
            latent = law.latent(noise)
            weights = surrogate(latent)
        if tape is not None:
            weights = weights.detach().requires_grad_()
            tape.drawn.append(Drawn(law, noise, latent, weights, surrogate))
        return contract(x, weights)
