"""Who solves in how many threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

from solvers.sdp import cholesky, solve, threads


def blas():
    """Of numpy and scipy; a conic solver that another test has loaded brings one of its own, built for one thread."""
    found = (library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas")
    return {lib["num_threads"] for lib in found if Path(lib["filepath"]).parent.name in ("numpy.libs", "scipy.libs")}


def test_a_solve_runs_in_one_thread_and_leaves_the_callers(monkeypatch):
    seen = []
    dense = cholesky._dense
    monkeypatch.setattr(cholesky, "_dense", lambda matrix: seen.append(blas()) or dense(matrix))
    with threadpoolctl.threadpool_limits(2):
        solve(np.ones((20, 20)) - 3 * np.eye(20)[::-1])
        assert blas() == {2}
    assert seen and all(threads == {1} for threads in seen)


def test_large_factorisations_use_the_callers_threads():
    with threadpoolctl.threadpool_limits(2):
        with threads.one_thread():
            with threads.threads_for(threads.LARGE):
                assert blas() == {2}
            with threads.threads_for(threads.LARGE - 1):
                assert blas() == {1}
            with threads.one_thread(), threads.threads_for(threads.LARGE):
                assert blas() == {2}  # a solve within another's
        with threads.threads_for(threads.LARGE):
            assert blas() == {2}


def test_solves_that_overlap_leave_the_callers_threads():
    entered, left = threading.Event(), threading.Event()
    seen = []

    def second():
        with threads.one_thread():
            entered.set()
            assert left.wait(10)
            seen.append(blas())  # the first is gone: still limited

    with threadpoolctl.threadpool_limits(2), ThreadPoolExecutor(1) as pool:
        with threads.one_thread():
            overlapping = pool.submit(second)
            assert entered.wait(10)
            with threads.threads_for(threads.LARGE):
                seen.append(blas())  # the other solve would get them too
        left.set()
        overlapping.result(10)
        assert seen == [{1}, {1}]
        assert blas() == {2}


def test_many_concurrent_solves_leave_the_callers_threads():
    C = np.ones((20, 20)) - 3 * np.eye(20)[::-1]
    with threadpoolctl.threadpool_limits(2):
        with ThreadPoolExecutor(4) as pool:
            values = list(pool.map(lambda seed: solve(C, seed=seed).value, range(40)))
        assert blas() == {2}
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_an_error_within_a_solve_gives_the_threads_back():
    with threadpoolctl.threadpool_limits(2):
        with pytest.raises(ValueError, match="stop"), threads.one_thread(), threads.threads_for(threads.LARGE):
            raise ValueError("stop")
        assert blas() == {2}
