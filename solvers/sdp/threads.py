"""Threads of BLAS within a solve: one, except where a factorisation is large.

Most matrices of a solve are small: more threads would spend their time waiting for each other, many times that where
other processes keep the cores busy. BLAS has one number for the whole process: the first of several solves at once
limits it and the last gives it back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

LARGE = 3000  # rows from which a factorisation uses the caller's threads


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it BLAS and OpenMP, so torch too, run in one thread; afterwards in as many as before."""
    if _HERE.solving:  # a solve within another's
        yield
        return
    _HERE.solving = True
    _BLAS.enter()
    try:
        with _controller("openmp").limit(limits=1):  # a number of this thread of Python alone
            yield
    finally:
        _BLAS.leave()
        _HERE.solving = False


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Within it, within `one_thread`: the caller's threads again, where a matrix has enough rows for them and no other
    thread of Python solves."""
    widened = rows >= LARGE and _HERE.solving and _BLAS.widen()
    try:
        yield
    finally:
        if widened:
            _BLAS.narrow()


class _Blas:
    """The threads of each BLAS loaded, limited while any thread of Python solves."""

    def __init__(self) -> None:
        self.lock, self.solving = threading.Lock(), 0
        self.callers: list[int] = []  # before the first solve

    def enter(self) -> None:
        with self.lock:
            if not self.solving:
                self.callers = [library.num_threads for library in _controller("blas").lib_controllers]
                _set_blas([1] * len(self.callers))
            self.solving += 1

    def leave(self) -> None:
        with self.lock:
            self.solving -= 1
            if not self.solving:
                _set_blas(self.callers)

    def widen(self) -> bool:
        """Whether the threads of before are back: not where another solve would get them too."""
        with self.lock:
            if self.solving == 1:
                _set_blas(self.callers)
            return self.solving == 1

    def narrow(self) -> None:
        with self.lock:
            _set_blas([1] * len(self.callers))


def _set_blas(numbers: list[int]) -> None:
    for library, number in zip(_controller("blas").lib_controllers, numbers, strict=True):
        # threadpoolctl 3.8 obeys one thread of Python until it lets go; the last to solve need not be the first
        release = getattr(library, "clear_controlling_thread", lambda force: None)
        release(force=True)
        library.set_num_threads(number)
        release(force=True)


class _Here(threading.local):
    """solving: whether this thread of Python is within `one_thread`."""

    solving = False


@cache
def _controller(user_api: str) -> ThreadpoolController:
    """Of the libraries that numpy, scipy and torch have loaded by the first solve."""
    return ThreadpoolController().select(user_api=user_api)


_BLAS, _HERE = _Blas(), _Here()
