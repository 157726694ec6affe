"""Threads of BLAS within a solve: one, except where a factorisation is large.

Most matrices of a solve are small: more threads would spend their time waiting for each other, many times that where
other processes keep the cores busy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from threadpoolctl import ThreadpoolController

LARGE = 3000  # rows from which a factorisation uses the caller's threads
_CALLERS: ContextVar[int | None] = ContextVar("threads of BLAS before one_thread", default=None)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it BLAS and OpenMP, so torch too, run in one thread; what the caller had set comes back afterwards."""
    callers = max((lib["num_threads"] for lib in _controller().info() if lib["user_api"] == "blas"), default=1)
    token = _CALLERS.set(_CALLERS.get() or callers)
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        _CALLERS.reset(token)


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Within it, within `one_thread`: the caller's threads again, where a matrix has enough rows for them."""
    callers = _CALLERS.get()
    if rows < LARGE or callers is None:
        yield
        return
    with _controller().limit(limits=callers, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    """Of the libraries that numpy and scipy have loaded by the first solve."""
    return ThreadpoolController()
