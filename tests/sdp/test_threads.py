"""Who solves in how many threads."""

import numpy as np
import threadpoolctl

from solvers.sdp import cholesky, solve, threads


def blas():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


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
