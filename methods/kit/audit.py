"""What the conformance kit audits of weights and laws: widths, networks, facts. Raises NonConformant with a hint."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.interface import Predictor, WeightLaw
from methods.kit.trials import Network


@runtime_checkable
class PairMoments(Protocol):
    """A law that knows E[w_i w_j] of one draw, i and j counted in the flattened weight."""

    def pair_moment(self, i: int, j: int) -> Any: ...


class NonConformant(AssertionError):
    """A method breaks a law of the kit; the message says which, how, and what to look at."""


def require(holds: bool, reason: str, hint: str) -> None:
    """Raise NonConformant with the reason and the hint unless it holds."""
    if not holds:
        raise NonConformant(f"{reason}. Hint: {hint}")


def check_width(rule: Predictor, law: WeightLaw, used: list[Tensor]) -> None:
    """Rules of 1 bit use the law's own levels; others of b < 32 bits at most 2^b values a law (ternary: 2 bits)."""
    if rule.weight_bits >= 32:
        return  # real weights may happen to take few values
    found = sorted({value for weights in used for value in weights.flatten().tolist()})
    allowed = rule.levels or (law.levels if rule.weight_bits == 1 else None)
    of_law = allowed is None or set(found) <= set(allowed)
    require(
        of_law and len(found) <= 2**rule.weight_bits,
        f"rule {rule.name!r} declares {rule.weight_bits} bits and uses {len(found)} values: {found[:4]}...",
        "declare weight_bits=32, or read law.mode() or law.values(...)",
    )


def check_one_network(rule: Predictor, network: Network) -> None:
    """One contraction a read, the same weights at every read; real rules may propagate moments and are let be."""
    if rule.weight_bits >= 32:
        return
    first: dict[WeightLaw, Tensor] = {}
    for law, used in network:
        once = len(used) == 1 and torch.equal(used[0], first.setdefault(law, used[0]))
        hint = "fix the weights of each network first: drawn_weights(model, rng)"
        require(once, f"rule {rule.name!r} changes or averages weights within one network", hint)


def check_law(name: str, law: WeightLaw, draws: Tensor) -> None:
    """Shapes, levels and the mean of `law`, called `name`, against `draws` (K, *shape) from it, in float64."""
    mean, mode = law.mean(), law.mode()
    shapes = {tuple(t.shape) for t in (mean, mode, draws[0])}
    require(shapes == {tuple(law.shape)}, f"{name}: shape {tuple(law.shape)}, got {shapes}", "return all of `shape`")
    spread = draws.std(0)
    if law.levels is not None:
        levels = draws.new_tensor(law.levels)
        hint = f"weights are levels, {law.levels}, and their mean lies between"
        require(bool(torch.isin(draws, levels).all()), f"{name}: a draw is not a level", hint)
        require(bool(torch.isin(mode, levels).all()), f"{name}: mode() is not a level", hint)
        require(bool((mean >= levels.min()).all() & (mean <= levels.max()).all()), f"{name}: mean() is outside", hint)
        spread = levels.abs().max()  # bounds the sd of one draw: the sample's is 0 where all draws agreed by chance
    # 5 sd of a mean of n draws: passed by chance but once in 1.7 million entries; 1e-9 is for rounding in float64
    off = ((draws.mean(0) - mean).abs() - 5 * spread / math.sqrt(len(draws))).max().item()
    hint = "mean() is E[values(latent(noise))]"
    require(off <= 1e-9, f"{name}: mean() is off the mean of {len(draws)} draws by 5 sd + {off:.3g}", hint)


def check_spread(name: str, law: WeightLaw, draws: Tensor) -> None:
    """variance() and pair moments of `law`, called `name`, against `draws` (K, *shape), in float64.

    Pairs are neighbours in the flattened weight. Bounds are 5 sd of a mean of K numbers of the size of the weights.
    """
    flat, count = draws.flatten(1), len(draws)
    largest = 1.0 if law.levels is None else max(map(abs, law.levels))
    bound = 5 * largest**2 / math.sqrt(count) + 1e-9  # |w_i w_j| <= largest^2; 1e-9 for rounding
    own = flat.mean(0)  # what mean() says is another check's business
    spread = ((flat - own) ** 2).mean(0)
    hint = "variance() is Var[values(latent(noise))] of each weight"
    if law.levels is None:
        bound *= max(1.0, flat.abs().max().item() ** 2)
    off = (spread - law.variance().flatten()).abs().max().item()
    require(off <= bound, f"{name}: variance() is off that of {count} draws by {off:.3g}, more than {bound:.3g}", hint)
    pairs = (flat[:, :-1] * flat[:, 1:]).mean(0)
    if law.independent:
        expected = own[:-1] * own[1:]
        hint = "weights of one draw depend on each other: set independent = False"
    elif isinstance(law, PairMoments):
        expected = torch.stack([torch.as_tensor(law.pair_moment(i, i + 1)) for i in range(flat.shape[1] - 1)]).to(pairs)
        hint = "pair_moment(i, j) is E[w_i w_j] of one draw"
    else:
        return
    off = (pairs - expected).abs().max().item() if len(pairs) else 0.0
    require(
        off <= bound, f"{name}: E[w_i w_i+1] is off that of {count} draws by {off:.3g}, more than {bound:.3g}", hint
    )
