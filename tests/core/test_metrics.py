"""Metrics against independently written loops, edges of the bins included, and the fitted temperature against scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from core.laws import Bernoulli, Point, Real
from core.metrics import (
    accuracy,
    brier,
    decided_share,
    ece_equal_mass,
    ece_equal_width,
    fit_temperature,
    flip_rate,
    modes,
    nll,
    scores_at,
    summary,
)


def example(n: int, classes: int, seed: int, spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that are informative but not separable, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    scores = spread * rng.standard_normal((n, classes))
    scores[np.arange(n), labels] += spread
    return torch.from_numpy(scores), torch.from_numpy(labels)


EXAMPLES = pytest.mark.parametrize("n, classes, seed", [(1, 2, 0), (40, 2, 1), (150, 10, 2), (223, 3, 3)])


# --- the same formulas, one example at a time, by the standard library --------------------------------------------


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(score - top) for score in row]
    return [weight / math.fsum(weights) for weight in weights]


def plain_nll(scores, labels) -> float:
    losses = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        top = max(row)
        losses.append(top + math.log(math.fsum(math.exp(score - top) for score in row)) - row[label])
    return math.fsum(losses) / len(losses)


def plain_brier(scores, labels) -> float:
    total = 0.0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        total += math.fsum((p - (c == label)) ** 2 for c, p in enumerate(softmax(row)))
    return total / len(labels)


def outcomes(scores, labels) -> list[tuple[float, float]]:
    """(confidence, 1 if right else 0) per example."""
    pairs = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        pairs.append((max(softmax(row)), float(row.index(max(row)) == label)))
    return pairs


def plain_gap(groups: list[list[tuple[float, float]]]) -> float:
    """sum over groups of share * |mean right - mean confidence|; empty groups count nothing."""
    total = sum(len(group) for group in groups)
    return math.fsum(abs(math.fsum(right - p for p, right in group)) for group in groups) / total


def plain_ece(scores, labels, bins: int) -> float:
    groups: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for p, right in outcomes(scores, labels):
        index = next(b for b in range(bins) if p <= (b + 1) / bins)  # (b / bins, (b + 1) / bins]
        groups[index].append((p, right))
    return plain_gap(groups)


# Sums of at most 223 numbers below 40 in float64: relative error below 223 * 1.1e-16.
CLOSE = {"rel": 1e-12, "abs": 1e-13}


@EXAMPLES
def test_metrics_agree_with_formulas_written_as_loops(n, classes, seed):
    scores, labels = example(n, classes, seed)
    right = [right for _, right in outcomes(scores, labels)]
    assert accuracy(scores, labels) == pytest.approx(sum(right) / n, **CLOSE)
    assert nll(scores, labels) == pytest.approx(plain_nll(scores, labels), **CLOSE)
    assert brier(scores, labels) == pytest.approx(plain_brier(scores, labels), **CLOSE)
    for bins in (1, 4, 15):
        expected = plain_ece(scores, labels, bins)
        assert ece_equal_width(scores, labels, bins=bins) == pytest.approx(expected, **CLOSE)
    assert ece_equal_width(scores, labels) == pytest.approx(plain_ece(scores, labels, 15), **CLOSE)


@EXAMPLES
def test_summary_names_every_metric_of_a_record(n, classes, seed):
    scores, labels = example(n, classes, seed)
    assert summary(scores, labels) == {
        "accuracy": accuracy(scores, labels),
        "nll": nll(scores, labels),
        "brier": brier(scores, labels),
        "ece": ece_equal_width(scores, labels),
        "ece_mass": ece_equal_mass(scores, labels),
    }


def test_metrics_of_float32_scores_are_computed_in_float64():
    scores, labels = example(100, 5, seed=4)
    scores = scores.float()
    assert summary(scores, labels) == summary(scores.double(), labels)


def test_shifting_the_scores_of_an_example_changes_no_metric():
    scores, labels = example(100, 5, seed=5)
    shift = torch.linspace(-300, 300, 100, dtype=torch.float64)[:, None]
    moved = summary(scores + shift, labels)
    # Adding 300 costs the scores 300 eps = 7e-14; every metric is 1-Lipschitz in them to a factor of 4.
    assert moved == pytest.approx(summary(scores, labels), rel=0, abs=3e-13)


def test_nll_of_huge_scores_is_their_difference():
    assert nll(torch.tensor([[1e4, -1e4]]), torch.tensor([1])) == 2e4
    assert nll(torch.tensor([[1e4, -1e4]]), torch.tensor([0])) == 0.0


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_brier_runs_from_zero_over_the_uniform_value_to_two(classes):
    sure = torch.full((1, classes), -1000.0)
    sure[0, 0] = 1000.0
    assert brier(sure, torch.tensor([0])) == 0.0
    assert brier(sure, torch.tensor([1])) == 2.0
    assert brier(torch.zeros(1, classes), torch.tensor([1])) == pytest.approx(1 - 1 / classes, rel=1e-15)


# --- calibration error: edges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes, bins", [(2, 2), (2, 4), (4, 4), (3, 15), (5, 15)])
def test_a_confidence_on_a_bins_upper_edge_belongs_to_that_bin(classes, bins):
    # `classes` equal scores: confidence exactly 1 / classes = an edge k / bins. Two such examples (right: the first
    # class wins ties) and one just above the edge (wrong): put in one bin, right and wrong would cancel.
    above = torch.zeros(1, classes, dtype=torch.float64)
    above[0, 0] = 0.04
    scores = torch.cat([torch.zeros(2, classes, dtype=torch.float64), above])
    labels = torch.tensor([0, 0, 1])
    edge, p = 1 / classes, softmax(above[0].tolist())[0]
    assert edge < p < edge + 1 / bins
    expected = (2 * (1 - edge) + p) / 3
    assert ece_equal_width(scores, labels, bins=bins) == pytest.approx(expected, **CLOSE)


def test_certain_predictions_fall_into_the_last_bin():
    scores = torch.tensor([[2000.0, 0.0], [2000.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])
    p = softmax([0.0, 3.0])[1]  # 0.9526 > 14/15: the same bin as confidence 1
    assert ece_equal_width(scores, labels) == pytest.approx(abs(2 - (2 + p)) / 3, **CLOSE)
    assert ece_equal_width(scores[:1], labels[:1]) == 0.0


@pytest.mark.parametrize("n, bins", [(30, 15), (150, 15), (60, 4), (12, 12), (7, 1)])
def test_equal_mass_groups_are_consecutive_runs_of_the_sorted_confidences(n, bins):
    scores, labels = example(n, 4, seed=n)
    pairs = sorted(outcomes(scores, labels))
    size = n // bins
    groups = [pairs[i : i + size] for i in range(0, n, size)]
    assert ece_equal_mass(scores, labels, bins=bins) == pytest.approx(plain_gap(groups), **CLOSE)


@pytest.mark.parametrize("n", [16, 17, 29])
def test_equal_mass_with_a_remainder_is_that_of_some_split_into_sizes_one_apart(n):
    scores, labels = example(n, 3, seed=n)
    pairs = sorted(outcomes(scores, labels))
    splits = []
    for larger in itertools.combinations(range(15), n - 15):  # n in 16..29: groups of one and of two
        sizes = [2 if group in larger else 1 for group in range(15)]
        ends = list(itertools.accumulate(sizes))
        splits.append(plain_gap([pairs[end - size : end] for size, end in zip(sizes, ends, strict=True)]))
    assert any(ece_equal_mass(scores, labels) == pytest.approx(split, **CLOSE) for split in splits)
    assert max(splits) - min(splits) > 1e-3  # the splits differ, so the line above can fail


def test_equal_mass_of_fewer_examples_than_bins_is_the_mean_gap():
    scores, labels = example(9, 3, seed=8)
    expected = math.fsum(abs(right - p) for p, right in outcomes(scores, labels)) / 9
    assert ece_equal_mass(scores, labels) == pytest.approx(expected, **CLOSE)


@EXAMPLES
def test_with_one_bin_both_calibration_errors_are_the_gap_of_the_means(n, classes, seed):
    scores, labels = example(n, classes, seed)
    pairs = outcomes(scores, labels)
    expected = abs(math.fsum(right - p for p, right in pairs)) / n
    assert ece_equal_width(scores, labels, bins=1) == pytest.approx(expected, **CLOSE)
    assert ece_equal_mass(scores, labels, bins=1) == pytest.approx(expected, **CLOSE)


# --- temperature --------------------------------------------------------------------------------------------------


def scipys_temperature(scores, labels) -> float:
    def loss(log_temperature: float) -> float:
        return plain_nll(scores / math.exp(log_temperature), labels)

    result = optimize.minimize_scalar(loss, bounds=(-7, 7), method="bounded", options={"xatol": 1e-10})
    return math.exp(result.x)


FITS = pytest.mark.parametrize("n, classes, seed, spread", [(60, 2, 1, 1.0), (200, 10, 2, 3.0), (90, 4, 3, 0.2)])


@FITS
def test_fitted_temperature_is_scipys_minimum_of_the_nll(n, classes, seed, spread):
    scores, labels = example(n, classes, seed, spread)
    # A minimum of a float64 function is found to sqrt(eps) = 1.5e-8 times a curvature factor: 1e-6 for scipy's side.
    assert fit_temperature(scores, labels) == pytest.approx(scipys_temperature(scores, labels), rel=1e-6)


@FITS
def test_the_nll_is_stationary_at_the_fitted_temperature(n, classes, seed, spread):
    scores, labels = example(n, classes, seed, spread)
    temperature = fit_temperature(scores, labels)
    rate = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(scores * rate, labels)
    (slope,) = torch.autograd.grad(loss, rate, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, rate)
    newton = slope / curvature / rate  # how far, relatively, the minimum still is
    assert abs(newton.item()) < 1e-6


@pytest.mark.parametrize("factor", [0.01, 0.5, 3.0, 40.0])
@FITS
def test_fitted_temperature_scales_with_the_scores(n, classes, seed, spread, factor):
    scores, labels = example(n, classes, seed, spread)
    assert fit_temperature(factor * scores, labels) == pytest.approx(factor * fit_temperature(scores, labels), rel=1e-6)


def test_temperature_is_one_where_labels_are_drawn_from_the_softmax_itself():
    # Scores log(1), log(3): predicted 1/4, 3/4. Labels in exactly these proportions make T = 1 the minimum.
    scores = torch.log(torch.tensor([[1.0, 3.0]], dtype=torch.float64)).expand(8, 2)
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1])
    assert fit_temperature(scores, labels) == pytest.approx(1.0, rel=1e-6)


def test_separable_data_get_the_lowest_temperature_and_misleading_scores_the_highest():
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(scores, torch.tensor([0, 1])) == pytest.approx(math.exp(-7), rel=1e-6)
    assert fit_temperature(scores, torch.tensor([1, 0])) == pytest.approx(math.exp(7), rel=1e-6)


def test_scores_at_a_temperature_are_divided_by_it_in_float64():
    scores = torch.tensor([[1.0, 3.0]])
    result = scores_at(scores, 0.3)
    assert result.dtype == torch.float64
    np.testing.assert_array_equal(result.numpy(), np.array([[1.0 / 0.3, 3.0 / 0.3]]))


# --- metrics of laws ----------------------------------------------------------------------------------------------


def test_decided_share_counts_binary_weights_whose_mean_exceeds_099():
    edge = math.atanh(0.99)
    naturals = torch.tensor([0.0, edge - 1e-6, edge + 1e-6, -edge - 1e-6, -1.0, 50.0], dtype=torch.float64)
    model = nn.ModuleList([Bernoulli(naturals), Real(torch.full((100,), 5.0)), Point(torch.tensor([0.0, -0.3]))])
    assert decided_share(model) == pytest.approx((3 + 2) / 8, rel=1e-12)  # a point law's mean is its sign: decided


def test_flip_rate_counts_changed_modes_of_binary_laws_against_a_copy():
    bernoulli, point = Bernoulli(torch.tensor([1.0, -1.0, 2.0])), Point(torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5]))
    model = nn.ModuleList([bernoulli, point, Real(torch.ones(10))])
    before = modes(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[0] *= -1
        point.coordinates()[0].parameter[1] = 0.2  # moved, not flipped
    assert flip_rate(before, modes(model)) == pytest.approx(2 / 8, rel=1e-12)
    assert flip_rate(before, before) == 0.0


def test_a_net_without_binary_weights_has_no_shares():
    model = nn.ModuleList([Real(torch.ones(3)), nn.Linear(2, 2)])
    assert math.isnan(decided_share(model))
    assert math.isnan(flip_rate(modes(model), modes(model)))
