"""Low-rank laws with GeometricSGD over UnitRows solve the semidefinite relaxation of max cut (V7, V8).

The gradient is the smooth estimator's, through Draw, tape and solver; K fed draws sqrt(K) e_k make its expectation
exact for a quadratic. Optima are by enumeration; the relaxation's value is known in closed form for odd cycles and
complete graphs, and bounded from above for any graph by a dual certificate, so no outside solver is trusted.
"""

import functools
import itertools
import math

import pytest
import torch

from core.contractions import Dense
from core.interface import Tape
from core.low_rank import SymmetricLowRank, goemans_williamson, sign_fixed_mean
from core.ops import Identity
from core.readings import Draw
from solvers.geometric import GeometricSGD

GOEMANS_WILLIAMSON = 0.87856  # min over angles of (2 / pi) t / (1 - cos t), from below


def cycle(n: int) -> torch.Tensor:
    shifted = torch.eye(n, dtype=torch.float64).roll(1, 0)
    return shifted + shifted.T


def complete(n: int) -> torch.Tensor:
    return 1 - torch.eye(n, dtype=torch.float64)


def random_graph(n: int, seed: int) -> torch.Tensor:
    """Nonnegative weights, half the edges missing."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.rand(n, n, generator=rng, dtype=torch.float64)
    weights = (weights * (torch.rand(n, n, generator=rng) < 0.5)).triu(1)
    return weights + weights.T


def cut(graph: torch.Tensor, second: torch.Tensor) -> float:
    """sum over edges of w_ij (1 - X_ij) / 2."""
    return ((graph * (1 - second)).sum() / 4).item()


def largest_cut(graph: torch.Tensor) -> float:
    """By enumeration of all 2^(n - 1) cuts."""
    n = len(graph)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n - 1)), dtype=torch.float64)
    signs = torch.cat([torch.ones(len(signs), 1, dtype=torch.float64), signs], 1)
    return (graph.sum() / 4 - torch.einsum("si,ij,sj->s", signs, graph, signs).min() / 4).item()


def solved(objective: torch.Tensor, *, rank: int, seed: int, lr: float, steps: int = 250) -> torch.Tensor:
    """Unit rows (K, n) after descent on E z'Az / 2 = <A, V V'> / 2."""
    n = len(objective)
    start = torch.randn(rank, 1, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    law = SymmetricLowRank(start / start.norm(dim=0))
    (coordinate,) = law.coordinates()
    solver = GeometricSGD(law.coordinates(), lr=lr, momentum=0.8)
    eye, reading, rng = torch.eye(n, dtype=torch.float64), Draw(Identity()), torch.Generator()
    nodes = math.sqrt(rank) * torch.eye(rank, dtype=torch.float64)  # their mean of r r' is the identity
    for _ in range(steps):
        tape = Tape()
        draws = []
        for node in nodes:
            law.noise = lambda rng, node=node: node
            draws.append(reading(law, Dense(), eye, rng, tape)[:, 0])
        z = torch.stack(draws)
        (0.5 * torch.einsum("ki,ij,kj->", z, objective, z) / rank).backward()
        solver.zero_grad()
        tape.pull_back()
        solver.step()
    return coordinate.parameter.detach()[:, 0]


@functools.cache
def solved_cut(name: str) -> torch.Tensor:
    """Rank with K (K + 1) / 2 > n, where critical points of second order are optimal for almost every graph."""
    graph, _ = GRAPHS[name]
    rank = math.ceil((math.sqrt(8 * len(graph) + 1) - 1) / 2) + 1
    return solved(graph, rank=rank, seed=0, lr=4.0 / graph.sum(1).max().item())


def certified_bound(graph: torch.Tensor, v: torch.Tensor) -> float:
    """An upper bound of the relaxation by weak duality: y_i = v_i . (A V)_i, shifted until diag(y) - A fits."""
    y = -(v * (v @ graph)).sum(0)
    slack = torch.linalg.eigvalsh(graph + torch.diag(y)).min().item()
    # <A, X> >= -sum y + n min(0, slack) for every feasible X
    lower = -y.sum().item() + len(graph) * min(slack, 0.0)
    return (graph.sum().item() - lower) / 4


GRAPHS = {
    "5-cycle": (cycle(5), 5 / 2 * (1 + math.cos(math.pi / 5))),
    "7-cycle": (cycle(7), 7 / 2 * (1 + math.cos(math.pi / 7))),
    "triangle": (complete(3), 9 / 4),
    "complete on 6": (complete(6), 9.0),
    "complete on 7": (complete(7), 49 / 4),
    "random 1": (random_graph(10, 1), None),
    "random 2": (random_graph(10, 2), None),
    "random 3": (random_graph(10, 3), None),
}
KNOWN = pytest.mark.parametrize("name", [name for name, (_, value) in GRAPHS.items() if value])
RANDOM = pytest.mark.parametrize("name", [name for name, (_, value) in GRAPHS.items() if not value])


# --- the relaxation's value (V7) ----------------------------------------------------------------------------------


@KNOWN
def test_low_rank_descent_reaches_the_relaxations_closed_form(name):
    """Odd cycles: n / 2 (1 + cos(pi / n)); complete graphs: n^2 / 4."""
    graph, value = GRAPHS[name]
    v = solved_cut(name)
    assert cut(graph, v.T @ v) == pytest.approx(value, abs=1e-4)
    assert value >= largest_cut(graph) - 1e-12


@RANDOM
def test_low_rank_descent_matches_its_dual_certificate_on_random_graphs(name):
    """The bound holds for every feasible X, so an equal value is the optimum, whoever computes it."""
    graph, _ = GRAPHS[name]
    v = solved_cut(name)
    value, bound = cut(graph, v.T @ v), certified_bound(graph, v)
    assert value == pytest.approx(bound, abs=1e-4)
    assert value <= bound + 1e-12
    assert bound >= largest_cut(graph) - 1e-12


def test_a_rank_too_small_does_not_beat_the_relaxation_and_rank_one_is_a_cut():
    """K = 1: rows are signs and the step is frozen; a larger K only adds feasible points."""
    graph, _ = GRAPHS["random 1"]
    bound = certified_bound(graph, solved_cut("random 1"))
    values = []
    for rank in (1, 2, 3):
        v = solved(graph, rank=rank, seed=4, lr=4.0 / graph.sum(1).max().item())
        values.append(cut(graph, v.T @ v))
    assert max(values) <= bound + 1e-12
    assert values[0] <= largest_cut(graph) + 1e-12
    assert values[0] < values[1] <= values[2] + 1e-4


# --- rounding (V7) ------------------------------------------------------------------------------------------------


@KNOWN
def test_the_mean_rounded_cut_is_at_least_the_guaranteed_share_of_the_relaxation(name):
    """Exactly, from the law's second moment: no sampling error."""
    graph, value = GRAPHS[name]
    v = solved_cut(name)
    expected = cut(graph, SymmetricLowRank(v).second_moment().detach())
    assert GOEMANS_WILLIAMSON * value <= expected <= largest_cut(graph) + 1e-9
    angles = torch.arccos((v.T @ v).clamp(-1, 1))
    # arccos near 0 and pi turns an ulp into 2e-8; a graph's weights sum to 42 at most
    assert expected == pytest.approx(((graph * angles).sum() / math.pi / 2).item(), abs=1e-6)


@RANDOM
def test_both_samplers_round_to_the_expected_cut_and_the_best_of_a_hundred_is_the_optimum_on_most_seeds(name):
    graph, _ = GRAPHS[name]
    v = solved_cut(name)
    optimum, expected = largest_cut(graph), cut(graph, SymmetricLowRank(v).second_moment().detach())
    rows = torch.cat([torch.zeros_like(v[:1]), v])  # a zero mean column: a cut does not see the common sign
    for sampler in (sign_fixed_mean, goemans_williamson):
        drawn = sampler(rows, 20_000, torch.Generator().manual_seed(7))
        cuts = (graph.sum() - torch.einsum("si,ij,sj->s", drawn, graph, drawn)) / 4
        assert abs(cuts.mean().item() - expected) <= 5 * cuts.std().item() / len(cuts) ** 0.5
        assert cuts.max().item() <= optimum + 1e-9
        best = cuts.reshape(200, 100).max(1).values
        assert (best >= optimum - 1e-9).double().mean() > 0.5


# --- maximisation of a positive semidefinite form (V8) ------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_rounding_keeps_two_over_pi_of_a_positive_semidefinite_maximum(seed):
    """Nesterov 1998: E w'Aw = <A, (2 / pi) asin X> >= (2 / pi) <A, X>."""
    factor = torch.randn(10, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a = factor @ factor.T
    v = solved(-a, rank=5, seed=seed, lr=4.0 / a.abs().sum(1).max().item())
    relaxed = (a * (v.T @ v)).sum().item()
    rounded = (a * SymmetricLowRank(v).second_moment().detach()).sum().item()
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=10)), dtype=torch.float64)
    best = torch.einsum("si,ij,sj->s", signs, a, signs).max().item()
    assert relaxed >= best - 1e-6 * best  # it is a relaxation, and solved
    assert 2 / math.pi * relaxed <= rounded + 1e-9 * relaxed
    assert rounded <= best + 1e-9 * best
