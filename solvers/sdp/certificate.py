"""Proofs in floating point: lower bounds of min <C, X>, diag X = 1, X psd, from multipliers and a factorisation.

For any real t with off - Diag(t) psd, off being C without its diagonal, <C, X> >= sum(t) + trace(C) on the feasible
set, since X_ii = 1. That off - Diag(t) is psd is proven by a factorisation that runs to completion on a slightly
smaller matrix. Rump 2006 (Verification of positive definiteness, BIT 46); backward error of Cholesky in any order of
evaluation, with or without fused multiply-adds:
Demmel 1989, Higham 2002 (Accuracy and Stability of Numerical Algorithms, section 10.1).

C counts as exact; numbers below 2.3e-308 count as 0 in a process that flushes denormals. Only this module, and
`batching.bounds` by the same theorem, says "proven".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from solvers.sdp.cholesky import Factoriser
from solvers.sdp.problem import Cost, Matrix, cost

UNIT = 2.0**-53  # unit roundoff of float64
# Entries of a factor come from at most n products, one square root or division (by reciprocal: two roundings) and the
# conversion of the diagonal; eight more roundings than n leave room for how a BLAS orders them.
EXTRA = 8
UNDERFLOW = 2.0**-1000  # far above n times what products lose to underflow, far below any margin that matters


@dataclass(frozen=True, eq=False)
class Proof:
    """opt >= bound, because off - Diag(multipliers) is psd, by a factorisation or by rows that dominate.

    off: C without its diagonal.

    bound: at most the exact sum of the multipliers and of the diagonal of C.
    """

    bound: float
    multipliers: Float[np.ndarray, " n"]


def prove(
    of: Cost | Matrix,
    multipliers: Float[np.ndarray, " n"],
    shift: float | Float[np.ndarray, " n"] = 0.0,
    *,
    factoriser: Factoriser | None = None,
) -> Proof | None:
    """A proof with t = multipliers - shift, rounded; None where there is none: that says nothing about the bound.

    multipliers: y of C without its diagonal, in units of C; the diagonal is added to the bound, not to y.
    of: C, or what `cost` made of it. shift: a number, or one a row; any sign. factoriser: of the same C, to share its
    plan between attempts.
    """
    of = of if isinstance(of, Cost) else cost(of)
    t = np.asarray(multipliers - shift, dtype=np.float64)
    if t.shape != (of.n,):
        raise ValueError(f"there must be one multiplier a row of C: shape ({of.n},) (got {t.shape})")
    if not np.isfinite(t).all():
        return None
    tested = _with_margin(-t, _isolated(of))
    if factoriser is not None and factoriser.off is not of.off:
        raise ValueError("factoriser is of another C; a proof would say nothing of this one")
    if tested is None or not (factoriser or Factoriser(of)).succeeds(tested):
        return None
    bound = below(np.concatenate([t, of.diagonal]))
    return None if math.isnan(bound) else Proof(bound, t)


def dominated(of: Cost) -> Proof:
    """The proof without a factorisation: t_i = -sum_j |c_ij|, rounded downwards; rows dominated by a diagonal are
    psd."""
    sums = np.asarray(np.abs(of.off).sum(axis=1))  # n additions: an error of at most gamma_n relative
    t = -np.nextafter(sums * (1 + 2 * of.n * UNIT), np.inf) * (sums > 0)
    return Proof(below(np.concatenate([t, of.diagonal])), t)


def rounding_margin(multipliers: Float[np.ndarray, " n"]) -> float:
    """What rounding costs a proof: about the gap it leaves where off - Diag(multipliers) is psd and singular."""
    root = np.sqrt(np.maximum(-multipliers, 0.0))
    return float(gamma(len(multipliers)) * root.sum() ** 2)


def below(terms: Float[np.ndarray, " m"]) -> float:
    """The largest float that is not above the exact sum of the terms; nan where that is beyond float64."""
    try:
        total = math.fsum(terms)  # correctly rounded
        rest = math.fsum([*terms, -total])  # and so is this: its sign is right
    except OverflowError:
        return math.nan
    return total if rest >= 0 else math.nextafter(total, -math.inf)


def _with_margin(diagonal: np.ndarray, isolated: np.ndarray) -> np.ndarray | None:
    """b <= diagonal such that: a factorisation of off + Diag(b) completes => off + Diag(diagonal) is psd.

    The computed factor is exact for off + Diag(b) + E with |E_ij| <= g r_i r_j, r = sqrt(b), g = gamma / (1 - gamma).
    So x'Ex <= g (sum_i r_i |x_i|)^2 <= g (sum_i r_i) (sum_i r_i x_i^2): the margin of row i is g r_i sum(r). An
    isolated row is a block of its own: psd where its entry is not negative, and it takes no part in rounding.
    """
    if (diagonal[isolated] < 0).any() or (diagonal[~isolated] <= 0).any():
        return None
    root = np.where(isolated, 0.0, np.sqrt(np.where(isolated, 0.0, diagonal)))
    margin = gamma(len(diagonal)) * root.sum() * root * (1 + 16 * len(diagonal) * UNIT) + UNDERFLOW
    tested: np.ndarray = np.where(isolated, 1.0, np.nextafter(diagonal - margin, -math.inf))
    return tested


def gamma(n: int) -> float:
    """gamma / (1 - gamma) of a factorisation of n rows: the relative error of its entries (Higham 2002, section
    3.1)."""
    product = (n + EXTRA) * UNIT
    once = product / (1 - product)
    return once / (1 - once)


def _isolated(of: Cost) -> np.ndarray:
    """Rows without any non-zero entry."""
    if isinstance(of.off, np.ndarray):
        return np.asarray(~of.off.any(axis=1))
    return np.asarray(np.diff(of.off.indptr) == 0)
