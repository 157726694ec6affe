"""Least squares over signs for the neurons of a layer: moments against data, bounds and roundings by enumeration."""

import itertools

import numpy as np
import pytest

from solvers.sign_regression import Regression, RelaxedAndRounded, descended, kept, total

ROWS, INPUTS, NEURONS = 40, 9, 6
RELAXED = RelaxedAndRounded(gap=1e-3, turns=2, hyperplanes=50, largest=100)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, INPUTS)) @ rng.standard_normal((INPUTS, INPUTS)) + 3
    return X, X @ rng.standard_normal((INPUTS, NEURONS)) + rng.standard_normal((ROWS, NEURONS)) - 2


@pytest.fixture
def problem(data):
    return Regression.of(*data)


@pytest.fixture
def start():
    return np.random.default_rng(1).choice([-1.0, 1.0], (NEURONS, INPUTS))


def every_error(problem: Regression, scales: np.ndarray) -> np.ndarray:
    """(2^INPUTS, NEURONS): the error of each sign vector for each neuron, at the neuron's scale."""
    table = np.array(list(itertools.product([-1.0, 1.0], repeat=INPUTS)))
    return np.stack([problem.errors(np.tile(signs, (NEURONS, 1)), scales) for signs in table])


def test_errors_are_the_residuals_of_the_centred_data(data, problem, start):
    X, Y = (values - values.mean(0) for values in data)
    scales = np.linspace(0.5, 2, NEURONS)
    residuals = ((Y - X @ start.T * scales) ** 2).sum(0)
    np.testing.assert_allclose(problem.errors(start, scales), residuals, rtol=1e-12)  # sums of 40 terms


def test_offsets_of_inputs_and_outputs_change_nothing(data, start):
    X, Y = data
    moved = Regression.of(X + 10, Y - 5)
    scales = np.ones(NEURONS)
    # centring cancels: the digits of 10 against deviations of about 3
    np.testing.assert_allclose(moved.errors(start, scales), Regression.of(X, Y).errors(start, scales), rtol=1e-12)


def test_best_scale_is_stationary_or_matches_the_power_of_a_neuron_that_disagrees(problem, start):
    scales = problem.scales(start)
    agrees = np.einsum("ti,ti->t", problem.cross, start) > 0
    assert agrees.any() and not agrees.all() and (scales > 0).all()
    for factor in (0.99, 1.01):
        worse = problem.errors(start, factor * scales) > problem.errors(start, scales)
        assert worse[agrees].all()
    power = np.einsum("ti,ij,tj->t", start, problem.gram, start)
    np.testing.assert_allclose((scales**2 * power)[~agrees], problem.squares[~agrees], rtol=1e-12)


@pytest.fixture
def doubled():
    """Inputs twice over, integers so that they cancel to the last bit, and signs that let them, or all but one."""
    rng = np.random.default_rng(2)
    half = rng.choice([-1.0, 1.0], (50, 2))
    cancelling = np.array([[1.0, 1, -1, -1], [1, -1, -1, 1], [1, 1, 1, -1]])
    return Regression.of(np.hstack([half, half]), half @ rng.standard_normal((2, 3))), cancelling


@pytest.mark.parametrize("fit", [RELAXED, descended, kept], ids=["relaxed", "descended", "kept"])
def test_signs_that_the_inputs_take_to_nothing_are_fitted_with_finite_numbers(doubled, fit):
    problem, cancelling = doubled
    found = fit(problem, cancelling, 0)
    for numbers in (found.scales, found.errors, found.bounds):
        assert np.isfinite(numbers).all()
    assert (found.scales > 0).all() and (found.bounds <= found.errors * (1 + 1e-12)).all()
    if fit is kept:
        np.testing.assert_allclose(found.errors[:2], problem.squares[:2], rtol=1e-12)  # nothing is explained
    if fit is RELAXED:
        assert found.proven.all()


def test_scale_of_signs_taken_to_nothing_matches_the_mean_power_of_all_signs(doubled):
    problem, cancelling = doubled
    every = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    power = np.einsum("ti,ij,tj->t", every, problem.gram, every).mean()
    # 2^4 signs of sums of 16 integers
    np.testing.assert_allclose(problem.scales(cancelling)[:2], np.sqrt(problem.squares[:2] / power), rtol=1e-12)


def test_scales_without_an_input_that_varies_are_refused():
    problem = Regression.of(np.ones((4, 2)), np.arange(8.0).reshape(4, 2))
    with pytest.raises(ValueError, match="every input is constant"):
        problem.scales(np.ones((2, 2)))


def test_floor_is_least_squares(data, problem):
    X, Y = (values - values.mean(0) for values in data)
    residuals = ((Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]) ** 2).sum(0)
    np.testing.assert_allclose(problem.floor(), residuals, rtol=1e-9)  # condition of the Gram matrix, below 1e6


def test_floor_ignores_directions_that_the_inputs_never_take(data):
    X, Y = data
    twice = np.hstack([X, X[:, :2]])
    np.testing.assert_allclose(Regression.of(twice, Y).floor(), Regression.of(X, Y).floor(), rtol=1e-9)


def test_proven_bounds_are_below_and_near_the_best_signs(problem, start):
    fit = RELAXED(problem, start, 0)
    best = every_error(problem, fit.scales).min(0)
    assert fit.proven.all()
    assert (fit.bounds <= best).all()
    # the relaxation is that near here; a bound of another scale or unit would be far off
    assert (fit.bounds > 0.5 * best).all()


def test_rounded_signs_of_small_neurons_are_the_best(problem, start):
    fit = RELAXED(problem, start, 0)
    # 50 hyperplanes and descent over 2^9 signs
    np.testing.assert_allclose(fit.errors, every_error(problem, fit.scales).min(0), rtol=1e-12)


def test_signs_are_never_worse_than_those_to_start_from(problem):
    best = RELAXED(problem, np.ones((NEURONS, INPUTS)), 0)
    careless = RelaxedAndRounded(gap=0.5, turns=1, hyperplanes=1, largest=100)(problem, best.signs, 0)
    at_start = problem.errors(best.signs, problem.scales(best.signs))
    assert (careless.errors <= at_start * (1 + 1e-12)).all()


def test_a_turn_more_lowers_the_errors_at_their_scales(problem, start):
    once, thrice = (RelaxedAndRounded(1e-3, turns, 50, 100)(problem, start, 0) for turns in (1, 3))
    assert thrice.errors.sum() < once.errors.sum()


def test_no_flip_improves_what_descended(problem, start):
    fit = descended(problem, start, 0)
    assert not fit.proven.any()
    assert (fit.errors < problem.errors(start, fit.scales)).all()
    for i in range(INPUTS):
        flipped = fit.signs.copy()
        flipped[:, i] *= -1
        # the scale of the descent is that of its start, at which its signs are a local optimum
        before = problem.errors(fit.signs, problem.scales(start))
        assert (problem.errors(flipped, problem.scales(start)) >= before * (1 - 1e-12)).all()


def test_kept_signs_are_those_given(problem, start):
    fit = kept(problem, start, 0)
    assert np.array_equal(fit.signs, start) and not fit.proven.any()
    np.testing.assert_allclose(fit.errors, problem.errors(start, problem.scales(start)), rtol=0)


def test_neurons_beyond_the_largest_are_descended(problem, start):
    small = RelaxedAndRounded(gap=1e-3, turns=2, hyperplanes=50, largest=INPUTS - 1)
    assert np.array_equal(small(problem, start, 0).signs, descended(problem, start, 0).signs)


def test_a_seed_repeats_the_fit(problem, start):
    first, again = (RELAXED(problem, start, 3) for _ in range(2))
    assert np.array_equal(first.signs, again.signs) and np.array_equal(first.bounds, again.bounds)


def test_constant_inputs_and_outputs_are_told(data):
    X, Y = data
    X[:, 2], Y[:, 1] = 4.0, -1.0
    problem = Regression.of(X, Y)
    assert np.flatnonzero(~problem.varied_inputs()).tolist() == [2]
    assert np.flatnonzero(~problem.varied_outputs()).tolist() == [1]
    part = problem.restricted(problem.varied_outputs(), problem.varied_inputs())
    assert part.gram.shape == (INPUTS - 1, INPUTS - 1) and part.cross.shape == (NEURONS - 1, INPUTS - 1)


def test_total_of_bounds_is_below_their_sum_and_near_it():
    values = np.array([1e16, 1.0, -1e16, 1e-3])
    assert total(values) < 1.001
    assert total(np.full(1000, 0.1)) == pytest.approx(100, rel=1e-14) and total(np.full(1000, 0.1)) < 100


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="at least two rows"):
        Regression.of(np.ones((1, 3)), np.ones((1, 2)))


@pytest.mark.parametrize("name", ["gap", "turns", "hyperplanes", "largest"])
def test_what_is_not_positive_is_refused_by_name(name):
    good = {"gap": 1e-3, "turns": 1, "hyperplanes": 1, "largest": 1}
    with pytest.raises(ValueError, match=rf"{name} must be > 0 \(got 0"):
        RelaxedAndRounded(**{**good, name: type(good[name])(0)})
