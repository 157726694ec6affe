"""Kernels of descent: exact minimisation of rows, gradients, quasi-Newton steps; native and NumPy alike."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from core import extension
from solvers.sdp import kernels
from solvers.sdp.problem import Cost, cost

WIDTHS = [1, 8, 9, 16, 24, 33, 40, 48, 56, 64, 65, 100, 136]  # every compiled width, and beyond them
SHAPES = [(1, 3), (2, 8), (63, 7), (64, 8), (65, 17), (200, 24)]  # around a block of 64 rows
native = pytest.mark.skipif(extension.module() is None, reason="the native extension is not built")


@pytest.fixture(params=["native", "twins"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test on each of the two paths."""
    if request.param == "native":
        if extension.module() is None:
            pytest.skip("the native extension is not built")
        yield "native"
    else:
        with extension.twins_only():
            yield "twins"


def sparse(n: int, seed: int = 0) -> Cost:
    """A symmetric matrix with about 6 entries a row and, from 5 rows on, an isolated one."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < 6 / n), 1)
    if n >= 5:
        upper[3], upper[:, 3] = 0, 0
    return cost(upper + upper.T, dense=False)


def dense(n: int, seed: int = 0) -> Cost:
    half = np.random.default_rng(seed).normal(size=(n, n))
    return cost(half + half.T, dense=True)


KINDS = {"sparse": sparse, "dense": dense}


def factor(n: int, k: int, seed: int = 1) -> np.ndarray:
    V = np.random.default_rng(seed).normal(size=(n, k))
    return V / np.linalg.norm(V, axis=1, keepdims=True)


def value(of: Cost, V: np.ndarray) -> float:
    return float(np.vdot(V, of.off @ V))


def history(n: int, width: int, seed: int = 2) -> np.ndarray:
    return kernels.narrowed(np.random.default_rng(seed).normal(size=(n, 2, kernels.SLOTS, width)))


def test_padded_columns_are_zero_and_rows_begin_at_lines_of_cache() -> None:
    V = factor(7, 9)
    for dtype, width in ((np.float64, 16), (np.float32, 16)):
        wide = kernels.padded(V, dtype)
        assert wide.shape == (7, width) and wide.dtype == dtype
        assert np.array_equal(wide[:, :9], V.astype(dtype)) and not wide[:, 9:].any()
        assert wide.ctypes.data % 64 == 0 and wide.strides[0] % 64 == 0


def test_halves_of_floats_round_to_nearest_and_ties_to_even() -> None:
    exact = np.array([0.0, -0.0, 1.0, -1.5, 2.0**-120, 3.0 * 2.0**100])
    assert np.array_equal(kernels.widened(kernels.narrowed(exact)), exact.astype(np.float32))
    # 8 significant bits: the spacing at 1 is 2^-7, a tie lies half-way.
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8])
    assert np.array_equal(kernels.widened(kernels.narrowed(ties)), [1, 1 + 2.0**-6])
    x = np.random.default_rng(0).normal(size=1000)
    assert np.abs(kernels.widened(kernels.narrowed(x)) / x - 1).max() <= 2.0**-8 * (1 + 1e-6)  # the float32 rounding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_sweep_minimises_each_row_given_those_before(path: str, kind: str, n: int, k: int) -> None:
    of, V, y = KINDS[kind](n), kernels.padded(factor(n, k)), np.zeros(n)
    expected, before = V.copy(), value(of, V)
    full = of.off.toarray() if of.sparse else of.off
    lengths = np.zeros(n)
    for i in range(n):  # the definition, row by row
        g = full[i] @ expected
        lengths[i] = np.linalg.norm(g)
        expected[i] = -g / lengths[i] if lengths[i] else expected[i]
    decrease = kernels.sweep(of.off, V, y)
    size = np.abs(full).sum()
    # Rounding grows along a sweep by what rows pass to each other; measured below 1e-13 on these.
    np.testing.assert_allclose(V, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(y, -lengths, rtol=0, atol=1e-11 * max(1, lengths.max()))
    assert decrease == pytest.approx(before - value(of, V), abs=1e-13 * max(size, 1))
    assert not V[:, k:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_isolated_rows_stay_as_they_are(path: str, kind: str) -> None:
    of = cost(np.pad(dense(4).off, ((0, 2), (0, 2))), dense=kind == "dense")
    V, y = kernels.padded(factor(6, 3)), np.ones(6)
    kept = V[4:].copy()
    kernels.sweep(of.off, V, y)
    assert np.array_equal(V[4:], kept) and np.array_equal(y[4:], [0, 0])


@pytest.fixture(params=range(len(extension.LEVELS)), ids=extension.LEVELS)
def level(request: pytest.FixtureRequest) -> int:
    """Each level that this CPU has."""
    if extension.module() is None or request.param > extension.module().best_level():
        pytest.skip("not built, or not on this CPU")
    return request.param


def arrays(of: Cost, dtype: type = np.float64) -> tuple[np.ndarray, ...]:
    off = of.off.astype(dtype)
    return (off.data, off.indices, off.indptr) if of.sparse else (off,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", WIDTHS)
def test_every_cpu_level_sweeps_as_the_twin(level: int, kind: str, k: int) -> None:
    of, compiled = KINDS[kind](70), extension.module()
    expected, z = kernels.padded(factor(70, k)), np.zeros(70)
    with extension.twins_only():
        kernels.sweep(of.off, expected, z)
    V, y = kernels.padded(factor(70, k)), np.zeros(70)
    getattr(compiled, f"sweep_{kind}")(level, *arrays(of), V, y)
    np.testing.assert_allclose(V, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(y, z, rtol=1e-12)
    W, y = kernels.padded(factor(70, k), np.float32), np.zeros(70, np.float32)
    getattr(compiled, f"sweep_{kind}_single")(level, *arrays(of, np.float32), W, y)
    np.testing.assert_allclose(W[:, :k], expected[:, :k], rtol=0, atol=2e-5)  # one sweep of rounding at 6e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", WIDTHS)
def test_every_cpu_level_differentiates_and_steps_as_the_twins(level: int, kind: str, k: int) -> None:
    n, of, compiled = 70, KINDS[kind](70), extension.module()

    def gradient(*rest: object) -> tuple[float, ...]:
        return getattr(compiled, f"gradient_{kind}")(level, *arrays(of), *rest)

    ours = differentiated(gradient, lambda *rest: compiled.step(level, *rest), n, k)
    with extension.twins_only():
        theirs = differentiated(lambda *rest: kernels.gradient(of.off, *rest), kernels.step, n, k)
    # Gradient and multipliers in float64; products, moved factor and sums through float32; pairs and slope in 8 bits.
    for mine, twin, tolerance in zip(ours, theirs, (1e-12, 1e-12, 1e-5, 1e-5, 1e-5, 2.0**-7, 1e-2), strict=True):
        np.testing.assert_allclose(mine, twin, rtol=0, atol=tolerance * np.abs(twin).max())


def differentiated(gradient: Callable, step: Callable, n: int, k: int) -> list[np.ndarray]:
    """All that a gradient and the step after it write and return."""
    V, rng = kernels.padded(factor(n, k)), np.random.default_rng(5)
    root, by_pairs, pairs = rng.uniform(0.5, 2, n), rng.normal(size=2 * kernels.SLOTS), history(n, V.shape[1])
    by_pairs[[2, kernels.SLOTS + 2]] = 0
    into, moved, y, products = np.zeros_like(V), np.zeros_like(V), np.zeros(n), np.zeros(2 * kernels.SLOTS)
    sums = gradient(V, root, V, into, y, pairs, 2.0, 2, products)
    slope = step(V, root, into, by_pairs, -0.7, 0.3, moved, pairs, 2)
    return [into, y, products, moved, np.array(sums), kernels.widened(pairs), np.array(slope)]


@pytest.mark.parametrize("kind", KINDS)
def test_sweep_in_float32_follows_the_one_in_float64(path: str, kind: str) -> None:
    of, V, y = KINDS[kind](150), kernels.padded(factor(150, 20)), np.zeros(150)
    W, z = kernels.padded(factor(150, 20), np.float32), np.zeros(150, np.float32)
    single = of.off.astype(np.float32)
    for _ in range(3):
        long, short = kernels.sweep(of.off, V, y), kernels.sweep(single, W, z)
    # 3 sweeps of rounding at 6e-8, passed on from row to row.
    np.testing.assert_allclose(W[:, :20], V[:, :20], rtol=0, atol=2e-4)
    np.testing.assert_allclose(z, y, rtol=1e-4)
    assert short == pytest.approx(long, rel=1e-3)


def gradient_at(of: Cost, V: np.ndarray, pairs: np.ndarray, before: np.ndarray, root: np.ndarray) -> tuple:
    into, y, products = np.empty_like(V), np.empty(len(V)), np.empty(2 * kernels.SLOTS)
    sums = kernels.gradient(of.off, V, root, before, into, y, pairs, 3.0, 2, products)
    return into, y, products, sums


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", WIDTHS)
def test_gradient_is_that_of_the_definition_with_all_products(path: str, kind: str, k: int) -> None:
    n = 70
    of, V, rng = KINDS[kind](n), kernels.padded(factor(n, k)), np.random.default_rng(3)
    root, before, pairs = rng.uniform(0.5, 2, n), rng.normal(size=V.shape), history(n, V.shape[1])
    untouched = pairs.copy()
    into, y, products, sums = gradient_at(of, V, pairs, before, root)
    product = of.off @ V
    multipliers = (product * V).sum(1)
    tangent = product - multipliers[:, None] * V
    scaled = tangent / (3.0 * root)[:, None]
    np.testing.assert_allclose(y, multipliers, rtol=0, atol=1e-12 * np.abs(product).max())
    np.testing.assert_allclose(into, scaled, rtol=0, atol=1e-12 * np.abs(scaled).max())
    change = kernels.widened(pairs[:, 1, 2]).astype(np.float64)
    # An entry is rounded to 8 bits.
    np.testing.assert_allclose(change, scaled - before, rtol=2.0**-8 * 1.01)
    untouched[:, 1, 2] = pairs[:, 1, 2]
    assert np.array_equal(untouched, pairs)
    stored = kernels.widened(pairs).astype(np.float64)
    expected = np.einsum("iask,ik->as", stored, scaled).ravel()
    # Sums of n k products in float32.
    np.testing.assert_allclose(products, expected, rtol=0, atol=1e-6 * np.linalg.norm(stored) * np.linalg.norm(scaled))
    assert sums.multipliers == pytest.approx(multipliers.sum(), abs=1e-12 * np.abs(multipliers).sum())
    assert sums.gradient == pytest.approx(np.vdot(tangent, tangent), rel=1e-12)
    assert sums.product == pytest.approx(np.vdot(product, product), rel=1e-12)
    # A block of 64 rows is summed in float32, lane by lane.
    assert sums.change == pytest.approx(np.vdot(change, change), rel=kernels.BLOCK * V.shape[1] / 8 * 2.0**-24)


@pytest.mark.parametrize("k", WIDTHS)
def test_step_is_the_tangent_combination_and_keeps_rows_at_length_one(path: str, k: int) -> None:
    n, rng = 70, np.random.default_rng(4)
    V = kernels.padded(factor(n, k))
    root, gradient, pairs = rng.uniform(0.5, 2, n), rng.normal(size=V.shape), history(n, V.shape[1])
    by_pairs = rng.normal(size=2 * kernels.SLOTS)
    by_pairs[[1, kernels.SLOTS + 1]] = 0
    pairs[:, :, 1] = 0x7FC0  # not a number: the slot tried may hold anything
    used = np.arange(kernels.SLOTS) != 1
    stored = kernels.widened(pairs[:, :, used]).astype(np.float64)
    combined = np.einsum("iask,as->ik", stored, by_pairs.reshape(2, -1)[:, used]) - 0.7 * gradient
    tangent = combined - (combined * V).sum(1, keepdims=True) * V
    moved = np.empty_like(V)
    slope = kernels.step(V, root, gradient, by_pairs, -0.7, 0.3, moved, pairs, 1)
    expected = V + 0.3 * tangent / root[:, None]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-5)  # combined in float32
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=4e-16 * V.shape[1])
    kept = kernels.widened(pairs[:, 0, 1]).astype(np.float64)
    # Rounded to 8 bits what was combined in float32.
    np.testing.assert_allclose(kept, 0.3 * tangent, rtol=2.0**-8 * 1.01, atol=1e-5)
    assert slope == pytest.approx(np.vdot(kept, gradient), abs=1e-6 * np.linalg.norm(kept) * np.linalg.norm(gradient))


def test_combination_is_the_two_loop_recursion(path: str) -> None:
    rng, order, slots = np.random.default_rng(6), [4, 5, 0, 2], kernels.SLOTS
    curvature = rng.normal(size=(30, 30))
    curvature = curvature @ curvature.T + np.eye(30)
    steps = rng.normal(size=(slots, 30))
    changes, g = steps @ curvature, rng.normal(size=30)
    by_pairs = np.full(2 * slots, np.nan)
    both = np.concatenate([steps, changes])
    by_gradient = kernels.combination(order, steps @ changes.T, changes @ changes.T, both @ g, by_pairs)
    q, alphas = g.copy(), {}  # Nocedal 1980
    for j in reversed(order):
        alphas[j] = steps[j] @ q / (steps[j] @ changes[j])
        q -= alphas[j] * changes[j]
    q *= steps[2] @ changes[2] / (changes[2] @ changes[2])
    for j in order:
        q += (alphas[j] - changes[j] @ q / (steps[j] @ changes[j])) * steps[j]
    np.testing.assert_allclose(by_gradient * g + by_pairs @ both, -q, rtol=0, atol=1e-10 * np.abs(q).max())
    assert not by_pairs[[1, 3, slots + 1, slots + 3]].any()


@native
def test_native_kernels_refuse_arrays_that_do_not_fit() -> None:
    off, V, y, root = dense(10).off, kernels.padded(factor(10, 3)), np.zeros(10), np.ones(10)
    pairs, products, compiled = history(10, 8), np.zeros(2 * kernels.SLOTS), extension.module()
    with pytest.raises(ValueError, match="equally many rows"):
        compiled.sweep_dense(0, off, V[:9], y)
    with pytest.raises(ValueError, match="square"):
        compiled.sweep_dense(0, off[:9], V, y)
    with pytest.raises(ValueError, match="padded"):
        compiled.sweep_dense(0, off, np.ascontiguousarray(V[:, :7]), y)
    with pytest.raises(TypeError):
        compiled.sweep_dense(0, off, V[:, ::2], y)
    with pytest.raises(ValueError, match="SLOTS"):
        compiled.gradient_dense(0, off, V, root, V, V.copy(), y, pairs[:, :, :5].copy(), 1.0, 0, products)
    with pytest.raises(ValueError, match="SLOTS"):
        compiled.gradient_dense(0, off, V, root, V, V.copy(), y, pairs, 1.0, kernels.SLOTS, products)
    with pytest.raises(ValueError, match="equally many rows"):
        compiled.step(0, V, root[:9], V, products, -1.0, 1.0, V.copy(), pairs, 0)
    with pytest.raises(ValueError, match="level"):
        compiled.sweep_dense(compiled.best_level() + 1, off, V, y)
    with pytest.raises(ValueError, match="level"):
        compiled.sweep_dense(-1, off, V, y)
    assert compiled.SLOTS == kernels.SLOTS
