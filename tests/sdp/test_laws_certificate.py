"""`prove` never states what is not so: 10 000 adversarial trials against exact rational arithmetic, none excused.

A trial hands over a matrix, multipliers y of its off-diagonal part and a shift s. The claim of a success is
sum(y) - sum(s) + trace C <= optimum, on the ground that off - Diag(y) + Diag(s) is psd; both are decided in rationals.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp.certificate import prove
from solvers.sdp.problem import Cost, cost

MATRICES, TRIALS = 200, 50


class Known(NamedTuple):
    """A matrix with what is known about it: multipliers of the SDP's optimum, its exact upper end, the +-1 optimum."""

    C: np.ndarray
    off: np.ndarray  # C without its diagonal, to which multipliers belong
    cost: Cost
    multipliers: np.ndarray
    upper: Fraction
    optimum: Fraction
    least: float  # smallest eigenvalue of off - Diag(multipliers), as float64 computes it
    size: float  # spectral norm of off; 1 where it is 0


@pytest.fixture(scope="module")
def known(families, oracle) -> list[Known]:
    """200 matrices with 3 <= n <= 14, all families, dense and CSR in turn, three scales."""
    kinds = sorted(families)
    found = []
    for index in range(MATRICES):
        rng = np.random.default_rng([4, index])
        C = families[kinds[index % len(kinds)]](int(rng.integers(3, 15)), rng)
        C = np.ldexp(C, (0, 0, 0, -40, 40)[index % 5])
        off = C - np.diag(np.diag(C))
        y = oracle.multipliers(off)
        size = float(np.linalg.norm(off, 2)) or 1.0
        given = cost(sp.csr_array(C) if index % 2 else C, dense=index % 2 == 0)
        known = oracle.interval(C)[1], oracle.optimum(C)[0]
        found.append(Known(C, off, given, y, *known, _least(off - np.diag(y)), size))
    return found


def _attempt(given: Cost, y, s):
    """The proof, or None; refusing the input as invalid is no false certificate."""
    try:
        return prove(given, y, s)
    except ValueError:
        return None


def _perturbations(case: Known, rng: np.random.Generator):
    """50 pairs (kind, multipliers, shift); most claims are false, by much or by a hair."""
    n, y, size = len(case.C), case.multipliers, case.size
    hair = 1e-9 * size
    touching = y + case.least  # off - Diag(touching) is singular psd, up to rounding
    for scale in (1e-9, 1e-3, 1.0, 1e3):
        yield "random", size * scale * rng.standard_normal(n), 0.0
        yield "near", y + size * scale * rng.standard_normal(n), 0.0
    for factor in (1 + 1e-9, 1 - 1e-9, 1 + 1e-6, 2.0, 0.0, -1.0):
        yield "scaled", factor * y, 0.0
    for _ in range(4):
        yield "swapped", rng.permutation(y), 0.0
    for wrong in (np.nan, np.inf, -np.inf):
        at = rng.integers(n)
        yield "not finite", np.where(np.arange(n) == at, wrong, y), 0.0
        yield "not finite", y, np.where(np.arange(n) == at, wrong, size)
    yield "not finite", y, float("nan")
    yield "not finite", y, float("inf")
    # 1e-9 above the enumerated +-1 optimum: sum(y) - sum(s) + trace C = optimum + 1e-9 |optimum|, spread in five ways
    excess = float(case.optimum) + max(1e-9 * abs(float(case.optimum)), hair) - float(np.sum(y)) - case.cost.constant
    spread = rng.standard_normal(n)
    alone = np.where(np.arange(n) == rng.integers(n), excess, 0.0)
    yield "above optimum", y + excess / n, 0.0
    yield "above optimum", y + alone, 0.0
    yield "above optimum", y + excess / n + size * (spread - spread.mean()), 0.0
    yield "above optimum", y + excess / n + size, size
    yield "above optimum", y + alone + size * np.abs(spread), size * np.abs(spread)
    # indefinite by 1e-9 and by less, as a multiplier too large and as a shift too small
    for by in (1e-9, 1e-13, 1e-15, 1e-16):
        yield "indefinite", touching + by * size, 0.0
    for by in (1e-9, 1e-12):
        far = y + size * (1 + rng.random(n))
        yield "shift too small", far, max(0.0, -_least(case.off - np.diag(far)) - by * size)
        yield "shift too small", far, np.full(n, max(0.0, -_least(case.off - np.diag(far)) - by * size))
        one = y + size * (np.arange(n) == rng.integers(n))
        need = one - y
        yield "shift too small", one + case.least, np.maximum(0.0, need - by * size * (need > 0))
    yield "negative shift", y, -hair
    yield "negative shift", y + hair, np.where(np.arange(n) == 0, -size, size)
    yield "other matrix", -np.abs(case.off).sum(0) / 2, 0.0
    # what is true: strictly feasible by 1e-6, by 1e-8; feasible by a shift
    for by in (1e-6, 1e-8):
        yield "true", touching - by * size, 0.0
        yield "true", touching, by * size
        yield "true", touching, np.full(n, by * size)


def _least(S) -> float:
    return float(np.linalg.eigvalsh(S)[0])


def test_no_certificate_is_false_in_ten_thousand_trials(known, oracle):
    trials, proven, missed = 0, 0, []
    for index, case in enumerate(known):
        rng = np.random.default_rng([44, index])
        for kind, y, s in _perturbations(case, rng):
            trials += 1
            where = f"matrix {index} (n = {len(case.C)}), trial {kind}: y = {y.tolist()}, s = {np.asarray(s).tolist()}"
            proof = _attempt(case.cost, np.array(y), s)
            if proof is None:
                missed += [where] if kind == "true" else []
                continue
            proven += 1
            assert np.isfinite(y).all() and np.isfinite(s).all(), f"proof from numbers that are not finite: {where}"
            assert kind != "above optimum", f"bound {proof.bound} is above the optimum {float(case.optimum)}: {where}"
            claim = Fraction(proof.bound)
            assert claim <= case.upper, f"bound {proof.bound} is above the SDP's optimum {float(case.upper)}: {where}"
            # the proof is of y - s as float64 rounds it, which it hands back
            assert np.array_equal(proof.multipliers, y - s), f"proof of other multipliers: {where}"
            total = oracle.total(proof.multipliers) + oracle.total(np.diag(case.C))
            assert claim <= total, f"bound rounded up: {where}"
            assert oracle.psd(case.off, less=proof.multipliers), f"proven, but not psd: {where}"
    assert trials == MATRICES * TRIALS
    # A prover that refuses everything is never wrong: each strictly feasible trial has to be proven.
    assert not missed, f"{len(missed)} true claims were not proven; first: {missed[0]}"
    assert proven >= 6 * MATRICES


@pytest.mark.parametrize(("n", "attacks"), [(6, 60), (14, 60), (40, 12)])
def test_what_is_proven_last_on_the_way_to_infeasibility_is_psd(families, oracle, n, attacks):
    """Bisection to the edge of what is accepted, where rounding decides: the margin has to outweigh it."""
    for index in range(attacks):
        rng = np.random.default_rng([5, n, index])
        off = families[("gaussian", "signs", "least-squares")[index % 3]](n, rng)
        np.fill_diagonal(off, 0.0)
        given, start = cost(off, dense=index % 2 == 0), -1.1 * np.abs(off).sum(1)
        direction = np.abs(off).sum(1) * (0.1 + rng.random(n))
        proven, refused = 0.0, 2.0
        assert prove(given, start, 0.0) is not None and prove(given, start + refused * direction, 0.0) is None
        while np.spacing(refused) < refused - proven:
            middle = (proven + refused) / 2
            proven, refused = (
                (proven, middle) if prove(given, start + middle * direction, 0.0) is None else (middle, refused)
            )
        edge = prove(given, start + proven * direction, 0.0)
        assert oracle.psd(off, less=edge.multipliers), f"matrix {index} of {n} rows: accepted, but not psd"
        # and the margin is no more than rounding: a proof fails at most (n + 20)^2 units in the last place too early
        early = start + proven * direction + (n + 20) ** 2 * 2.0**-52 * np.abs(start) * 4
        assert not oracle.psd(off, less=early)


def test_bound_of_a_proof_loses_only_a_rounding(known, oracle):
    for case in known:
        y = case.multipliers + case.least - 1e-6 * case.size
        proof = prove(case.cost, y, 0.0)
        assert proof is not None
        exact = oracle.total(y) + oracle.total(np.diag(case.C))
        # correctly rounded sums and a few ulps outwards: 2^-48 of what was added is 32 of them
        assert 0 <= exact - Fraction(proof.bound) <= Fraction(2.0**-48) * oracle.total(np.abs([*y, *np.diag(case.C)]))


@pytest.mark.parametrize("rank", [1, 2])
def test_multipliers_of_a_local_minimum_of_low_rank_prove_nothing(families, oracle, rank):
    """Where the rank is too low, descent ends at a stationary point above the optimum; its y must not certify it."""
    stuck = 0
    for index in range(40):
        rng = np.random.default_rng([6, index])
        C = families["signs" if index % 2 else "graph"](12, rng)
        V = _stationary(C, rank, rng)
        value, y = float(((C @ V) * V).sum()), ((C @ V) * V).sum(1)
        _, upper = oracle.interval(C)
        if Fraction(value) <= upper + Fraction(1e-3) * abs(upper):
            continue
        stuck += 1
        for gap in (0.0, 1e-9, 1e-6, 1e-4):
            assert prove(cost(C), y, gap * abs(value) / len(C)) is None
    assert stuck >= 6, "the law is about stationary points above the optimum, and met too few"


def _stationary(C, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Coordinate descent over unit rows until nothing moves."""
    V = rng.standard_normal((len(C), rank))
    V /= np.linalg.norm(V, axis=1, keepdims=True)
    for _ in range(200):
        for i in range(len(C)):
            g = C[i] @ V
            length = np.linalg.norm(g)
            V[i] = -g / length if length else V[i]
    return V


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("n", [200, 900])
def test_large_matrices_indefinite_by_1e_9_are_refused(n, dense):
    """Toroidal grids with weights +-1: the structure that a sparse factor serves; eigenvalues are right to 1e-12."""
    C = _torus(n, np.random.default_rng(n))
    given = cost(C, dense=dense)
    y = -2.0 * np.ones(n) + 0.1 * np.random.default_rng(1).random(n)
    S = C.toarray() - np.diag(y)
    eigenvalues = np.linalg.eigvalsh(S)
    edge = y + float(eigenvalues[0])
    size = float(np.abs(eigenvalues).max())
    # eigvalsh is backward stable: n u |S| < 1e-12 |S| for n = 900
    assert prove(given, edge + 1e-9 * size, 0.0) is None
    assert prove(given, edge + 1e-11 * size, 0.0) is None
    proof = prove(given, edge - 1e-7 * size, 0.0)
    assert proof is not None and proof.bound <= float(edge.sum()) - 0.99e-7 * size * n
    assert prove(given, edge, 1e-7 * size) is not None


def _torus(n, rng) -> sp.csr_array:
    width = 10
    at = np.arange(n)
    right = (at // width) * width + (at + 1) % width
    below = (at + width) % n
    rows, columns = np.concatenate([at, at]), np.concatenate([right, below])
    half = sp.coo_array((rng.integers(0, 2, 2 * n) * 2.0 - 1.0, (rows, columns)), shape=(n, n)).tocsr()
    return sp.csr_array(half + half.T)


def test_permuted_matrix_gets_the_same_verdict(known):
    for index, case in enumerate(known[::5]):
        order = np.random.default_rng(index).permutation(len(case.C))
        turned = cost(case.C[np.ix_(order, order)])
        for by in (1e-6, -1e-6):
            y = case.multipliers + case.least - by * case.size
            assert (prove(case.cost, y, 0.0) is None) == (prove(turned, y[order], 0.0) is None) == (by < 0)


def test_multipliers_of_another_length_are_refused(known):
    case = known[0]
    with pytest.raises(ValueError, match=str(len(case.C))):
        prove(case.cost, case.multipliers[:-1], 0.0)


def test_zero_matrix_is_proven_only_at_or_below_zero():
    nothing = cost(np.zeros((4, 4)))
    proof = prove(nothing, np.full(4, -1e-12), 0.0)
    assert proof is not None and proof.bound <= -4e-12 * (1 - 1e-15)
    assert prove(nothing, np.full(4, 1e-12), 0.0) is None
    assert prove(nothing, np.array([1e-300, -1.0, -1.0, -1.0]), 0.0) is None
