"""Enumeration against brute force over dictionaries of sign vectors, and the identities that tie its answers."""

import itertools
import math

import pytest
import torch

from solvers import enumeration

N = 5


@pytest.fixture
def table(rng: torch.Generator) -> torch.Tensor:
    return torch.randn(2**N, generator=rng, dtype=torch.float64)


@pytest.fixture
def mean(rng: torch.Generator) -> torch.Tensor:
    return 1.8 * torch.rand(N, generator=rng, dtype=torch.float64) - 0.9


def brute_product(mean: torch.Tensor) -> list[float]:
    """q(w) of every sign vector in lexicographic order, factor by factor."""
    vectors = itertools.product((-1, 1), repeat=len(mean))
    return [math.prod((1 + w * m) / 2 for w, m in zip(v, mean.tolist(), strict=True)) for v in vectors]


def test_signs_are_all_vectors_in_lexicographic_order() -> None:
    expected = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=N)), dtype=torch.float64)
    assert torch.equal(enumeration.signs(N), expected)
    assert torch.equal(enumeration.signs(N, first=7, last=19), expected[7:19])


def test_index_inverts_signs() -> None:
    assert torch.equal(enumeration.index(enumeration.signs(N)), torch.arange(2**N))


def test_tabulate_asks_every_vector_once_whatever_the_chunk(rng: torch.Generator) -> None:
    direction = torch.randn(N, generator=rng, dtype=torch.float64)
    whole = enumeration.signs(N) @ direction
    for chunk in (1, 7, 32, 1000):
        assert torch.allclose(enumeration.tabulate(lambda w: w @ direction, N, chunk=chunk), whole, atol=1e-14)


def test_optimum_lists_every_tie() -> None:
    table = (enumeration.signs(4).sum(1).abs() - 2).abs()  # least where three agree: 8 of 16 vectors
    least, ties = enumeration.optimum(table)
    assert least == 0.0 and len(ties) == 8
    assert bool((ties.sum(1).abs() == 2).all())


def test_posterior_is_normalised_and_its_ratios_are_boltzmann(table: torch.Tensor) -> None:
    log_p = enumeration.log_posterior(table, examples=60, temperature=2.5)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(log_p - log_p[0], -60 / 2.5 * (table - table[0]), atol=1e-10)


def test_product_law_is_the_product_of_its_factors(mean: torch.Tensor) -> None:
    log_q = enumeration.log_product(torch.atanh(mean))
    assert torch.allclose(log_q.exp(), torch.tensor(brute_product(mean), dtype=torch.float64), atol=1e-15)
    assert torch.allclose(enumeration.marginal_means(log_q), mean, atol=1e-14)


def test_multilinear_extension_is_the_expectation_and_the_table_at_its_corners(
    table: torch.Tensor, mean: torch.Tensor
) -> None:
    by_hand = sum(q * float(f) for q, f in zip(brute_product(mean), table, strict=True))
    assert float(enumeration.multilinear(table, mean)) == pytest.approx(by_hand, abs=1e-13)
    corners = torch.stack([enumeration.multilinear(table, w) for w in enumeration.signs(N)])
    assert torch.equal(corners, table)


def test_gradient_in_the_mean_is_the_expected_discrete_derivative(table: torch.Tensor, mean: torch.Tensor) -> None:
    log_q = enumeration.log_product(torch.atanh(mean))
    differences = [enumeration.expectation(enumeration.discrete_derivative(table, i), log_q) for i in range(N)]
    assert torch.allclose(enumeration.mean_gradient(table, mean), torch.stack(differences), atol=1e-13)


def test_discrete_derivative_is_half_the_gain_of_a_flip(table: torch.Tensor) -> None:
    for i in range(N):
        found = enumeration.discrete_derivative(table, i)
        for k, w in enumerate(enumeration.signs(N)):
            up, down = w.clone(), w.clone()
            up[i], down[i] = 1.0, -1.0
            gain = table[enumeration.index(up)] - table[enumeration.index(down)]
            assert float(found[k]) == pytest.approx(float(gain) / 2, abs=1e-15)


def test_fisher_preconditioned_natural_gradient_is_the_mean_gradient(table: torch.Tensor, mean: torch.Tensor) -> None:
    natural = torch.atanh(mean).requires_grad_()
    (gradient,) = torch.autograd.grad(enumeration.multilinear(table, torch.tanh(natural)), natural)
    assert torch.allclose(gradient / (1 - mean**2), enumeration.mean_gradient(table, mean), atol=1e-12)


def test_fixed_point_of_the_learning_rule_is_stationary_for_loss_plus_kl(rng: torch.Generator) -> None:
    table = 0.3 * torch.randn(2**N, generator=rng, dtype=torch.float64)
    natural = torch.zeros(N, dtype=torch.float64)
    for _ in range(400):  # the rate times the curvature is below 1: the residual falls by 0.7 a step at least
        natural = 0.5 * natural - 0.5 * enumeration.mean_gradient(table, torch.tanh(natural))
    natural.requires_grad_()
    target = torch.full((2**N,), -N * math.log(2), dtype=torch.float64)
    log_q = enumeration.log_product(natural)
    objective = enumeration.expectation(table, log_q) + enumeration.kl(log_q, target)
    (gradient,) = torch.autograd.grad(objective, natural)
    assert float(gradient.abs().max()) < 1e-12


def test_kl_is_zero_only_at_the_target_and_finite_for_a_point(table: torch.Tensor, mean: torch.Tensor) -> None:
    target = enumeration.log_posterior(table, examples=3)
    assert float(enumeration.kl(target, target)) == 0
    assert float(enumeration.kl(enumeration.log_product(torch.atanh(mean)), target)) > 0
    point = enumeration.signs(N)[11]
    log_point = enumeration.log_product(torch.atanh(point))
    assert float(enumeration.kl(log_point, target)) == pytest.approx(-float(target[11]), abs=1e-12)


def test_divergence_of_draws_approaches_the_enumerated_one_within_its_error(
    table: torch.Tensor, mean: torch.Tensor, rng: torch.Generator
) -> None:
    target = enumeration.log_posterior(table, examples=1)
    log_q = enumeration.log_product(torch.atanh(mean))
    exact = float(enumeration.kl(log_q, target))
    for draws in (2_000, 50_000):
        drawn = torch.multinomial(log_q.exp(), draws, replacement=True, generator=rng)
        estimate, error = enumeration.kl_of_draws(drawn, target)
        # 4.5 errors, and the third-order term of the histogram's bias, below (states / draws)^2
        assert abs(float(estimate) - exact) < 4.5 * float(error) + (2**N / draws) ** 2


def test_histogram_correction_removes_the_plug_in_bias(rng: torch.Generator) -> None:
    flat = torch.full((2**N,), -N * math.log(2), dtype=torch.float64)  # KL 0: the plug-in estimate is bias alone
    draws, repeats = 500, 400
    found = [
        float(enumeration.kl_of_draws(torch.randint(2**N, (draws,), generator=rng), flat)[0]) for _ in range(repeats)
    ]
    average = torch.tensor(found).mean()
    # plug-in mean is 31 / 1000; 2 draws KL is nearly chi^2 of 31 degrees: deviation sqrt(62) / 1000 = 0.0079 a repeat
    assert abs(float(average)) < 5 * 0.0079 / math.sqrt(repeats)


def test_hamming_counts_to_the_nearest_tie() -> None:
    ties = torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])
    assert enumeration.hamming(torch.tensor([1.0, -1, -1, -1]), ties) == 1


@pytest.mark.parametrize("n", [0, 21])
def test_sizes_that_cannot_be_enumerated_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.20 .*got {n}"):
        enumeration.signs(n)


def test_bad_tables_temperatures_and_weights_are_refused(table: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="2\\^n entries.*got 12"):
        enumeration.size(table[:12])
    for temperature in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            enumeration.log_posterior(table, examples=3, temperature=temperature)
    with pytest.raises(ValueError, match=r"weight 5 of 5"):
        enumeration.discrete_derivative(table, 5)
