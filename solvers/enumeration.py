"""Exact answers by enumeration: every one of the 2^n sign vectors, n <= 20, from a table of their losses.

A table is a (2^n,) tensor whose entry k is the loss of `signs(n)[k]`; everything else is a pure function of it:
optimum, posterior, expectations and their gradients under independent signs, divergences, and the conditionals that
gradients through a sign need. Float64; O(n 2^n) at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LARGEST = 20  # weights: a table of 2^20 float64 losses is 8 MiB, its signs 160 MiB


def signs(n: int, *, first: int = 0, last: int | None = None) -> Float[Tensor, "rows n"]:
    """Rows first..last-1 (default: all 2^n) of every sign vector of length n, in counting order.

    Row k spells k in binary, weight 0 the most significant digit, digit 0 is -1: so `table.reshape([2] * n)` has one
    axis a weight. Raises ValueError for n outside 1..20.
    """
    _check_size(n)
    rows = torch.arange(first, 2**n if last is None else last)
    digits = (rows[:, None] >> torch.arange(n - 1, -1, -1)) & 1
    return (2 * digits - 1).double()


def index(weights: Float[Tensor, "*rows n"]) -> Int64[Tensor, "*rows"]:
    """The row of each sign vector in `signs(n)`: its table entry. Entries >= 0 count as +1."""
    places = 2 ** torch.arange(weights.shape[-1] - 1, -1, -1)
    return ((weights >= 0).long() * places).sum(-1)


def tabulate(
    losses: Callable[[Float[Tensor, "chunk n"]], Float[Tensor, " chunk"]], n: int, *, chunk: int = 4096
) -> Float[Tensor, " table"]:
    """The loss of every sign vector, `chunk` of them a call, so that memory stays that of one chunk."""
    _check_size(n)
    starts = range(0, 2**n, chunk)
    return torch.cat([losses(signs(n, first=s, last=min(s + chunk, 2**n))) for s in starts])


def optimum(table: Float[Tensor, " table"]) -> tuple[float, Float[Tensor, "ties n"]]:
    """The smallest loss and every sign vector that has it (to 1e-12 of the table's range)."""
    least, greatest = table.min(), table.max()
    ties = torch.nonzero(table <= least + 1e-12 * (greatest - least)).squeeze(1)
    return float(least), signs(size(table))[ties]


def log_posterior(
    table: Float[Tensor, " table"], *, examples: int, temperature: float = 1.0
) -> Float[Tensor, " table"]:
    """log p(w | data), p proportional to exp(-N * mean loss / temperature) under a uniform prior; nats.

    table: mean losses over N = `examples`. temperature 1 is Bayes' rule where the loss is a negative log likelihood;
    0.0 < temperature < inf. Raises ValueError.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be finite and > 0 (got {temperature})")
    return (-examples / temperature * table).log_softmax(0)


def expectation(values: Float[Tensor, " table"], log_law: Float[Tensor, " table"]) -> Float[Tensor, ""]:
    """sum_w q(w) f(w) for a law given by its log probabilities; entries of probability 0 count 0."""
    return torch.dot(log_law.exp(), values)


def marginal_means(log_law: Float[Tensor, " table"]) -> Float[Tensor, " n"]:
    """E[w_i] of every weight under any law over sign vectors."""
    return log_law.exp() @ signs(size(log_law))


def log_product(natural: Float[Tensor, " n"]) -> Float[Tensor, " table"]:
    """log q(w) of independent signs with natural parameters lambda: sum_i log sigmoid(2 lambda_i w_i); nats."""
    pairs = torch.stack([torch.nn.functional.logsigmoid(-2 * natural), torch.nn.functional.logsigmoid(2 * natural)], 1)
    total = torch.zeros(1, dtype=natural.dtype)
    for pair in pairs:
        total = (total[:, None] + pair[None]).flatten()
    return total


def multilinear(table: Float[Tensor, " table"], mean: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """E[f(w)] of independent signs with these means: the multilinear extension of the table, differentiable in `mean`.

    Exact also at |mean_i| = 1, where it is the table, and outside [-1, 1], where it is the polynomial itself.
    """
    values = table
    for i in range(len(mean)):  # weight 0 is the outermost axis of what is left
        below, above = values.reshape(2, -1)
        values = 0.5 * ((1 - mean[i]) * below + (1 + mean[i]) * above)
    return values.squeeze()


def mean_gradient(table: Float[Tensor, " table"], mean: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """d/d mean_i E[f(w)] = E[D_i f], D_i f = (f(w_i = +1) - f(w_i = -1)) / 2; at signs, half the gain of each flip."""
    point = mean.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(multilinear(table, point), point)
    return gradient


def discrete_derivative(table: Float[Tensor, " table"], i: int) -> Float[Tensor, " table"]:
    """D_i f at every sign vector, as a table over all of them (it does not depend on w_i)."""
    n = size(table)
    if not 0 <= i < n:
        raise ValueError(f"weight {i} of {n}: must be in 0..{n - 1}")
    below, above = table.reshape(2**i, 2, -1).unbind(1)
    return (0.5 * (above - below)).unsqueeze(1).expand(-1, 2, -1).reshape(-1)


def kl(log_law: Float[Tensor, " table"], log_target: Float[Tensor, " table"]) -> Float[Tensor, ""]:
    """KL(q || p) = sum_w q(w) (log q(w) - log p(w)) >= 0, nats; 0 log 0 = 0; inf where p lacks what q has."""
    possible = log_law > -math.inf
    return torch.where(possible, log_law.exp() * (log_law - log_target), 0.0).sum()


def kl_of_draws(
    drawn: Int64[Tensor, " draws"], log_target: Float[Tensor, " table"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """KL(q || p) of a law known by its draws (rows of `signs`), from their histogram, and its standard error; nats.

    The plug-in estimate less (states seen - 1) / (2 draws), the entropy that a histogram misses on average (Miller
    1955). The error is that of the mean of log q(w) / p(w): a law with more states than draws is beyond it.
    """
    counts = torch.bincount(drawn, minlength=len(log_target)).double()
    seen, total = counts > 0, len(drawn)
    share = counts[seen] / total
    ratio = share.log() - log_target[seen]
    estimate = torch.dot(share, ratio)
    missed = (int(seen.sum()) - 1) / (2 * total)
    spread = torch.dot(share, (ratio - estimate) ** 2)
    return estimate - missed, (spread / total).sqrt()


def hamming(weights: Float[Tensor, " n"], others: Float[Tensor, "ties n"]) -> int:
    """The smallest number of signs in which `weights` differs from one of `others`."""
    return int((weights[None] != others).sum(1).min())


def size(table: Float[Tensor, " table"]) -> int:
    """n of a table of 2^n entries. Raises ValueError where its length is no power of two."""
    n = len(table).bit_length() - 1
    if len(table) != 2**n:
        raise ValueError(f"a table has 2^n entries, one a sign vector (got {len(table)})")
    return n


def _check_size(n: int) -> None:
    if not 1 <= n <= LARGEST:
        raise ValueError(f"n must be in 1..{LARGEST} to enumerate all 2^n sign vectors (got {n})")
