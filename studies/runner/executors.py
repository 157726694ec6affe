"""Two ways to run a function over tasks: one after the other, or in worker processes that may die.

Workers are forked from one preloaded server, one process per slot and one task at a time, over a pipe. Not a
`ProcessPoolExecutor`: there the death of one worker breaks the whole pool, every task in flight is lost with it, and
how the process died is not told. Here a death costs one task, known by name, with its exit status.

A task whose worker died waits until nothing else runs and then runs alone (a neighbour's memory cannot kill it
twice); after three deaths it is given up. Workers end by themselves when their parent does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

STRIKES = 3  # deaths after which a task is given up
PRELOADED = ("studies.runner.measure", "torch._dynamo")  # the second: a second's import at the first optimizer
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Died:
    """In place of a result: the task killed its worker `STRIKES` times; how the last one died."""

    how: str

    def __str__(self) -> str:
        return f"worker died ({self.how}) {STRIKES} times"


def serial(
    function: Callable[[T], R], tasks: Sequence[T], *, started: Callable[[T], None] = lambda task: None
) -> Generator[tuple[T, R], None, None]:
    """(task, function(task)) in order, in this process. started: called as each task begins."""
    for task in tasks:
        started(task)
        yield task, function(task)


def processes(
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    workers: int,
    started: Callable[[T], None] = lambda task: None,
) -> Generator[tuple[T, R | Died], None, None]:
    """(task, function(task) or Died) as they end, in up to `workers` processes.

    function must be importable by name; tasks and results travel pickled. An exception that `function` raises is
    raised here, with the worker's traceback as a note, and ends the run. Close the iterator to stop the workers.
    started: called whenever a task is handed out, again after a death.
    """
    if workers < 1:
        raise ValueError(f"workers must be >= 1 (got {workers})")
    start_server()
    waiting, struck, strikes = deque(range(len(tasks))), deque[int](), Counter[int]()
    slots: list[_Slot[T, R]] = [_Slot(function) for _ in range(min(workers, len(tasks)))]
    try:
        while busy := _hand_out(slots, tasks, waiting, struck, started):
            for slot in _ended(busy):
                task, outcome = slot.take()
                if isinstance(outcome, Died):
                    strikes[task] += 1
                    if strikes[task] < STRIKES:
                        struck.append(task)
                        continue
                yield tasks[task], outcome
    finally:
        for slot in slots:
            slot.stop()


def start_server() -> None:
    """Start the fork server, which imports torch and the project in the background; a second call does nothing.

    Call it early: it loads while the parent does something else. It and its workers get one thread for every
    numerical library, and ignore Ctrl-C, which is the parent's to handle.
    """
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    with _environment(dict.fromkeys(THREAD_VARIABLES, "1")), _interrupts_ignored():
        forkserver.ensure_running()


class _Slot(Generic[T, R]):
    """One worker process and the task it has; a new process takes the place of one that died."""

    def __init__(self, function: Callable[[T], R]) -> None:
        self.function = function
        self.task: int | None = None
        self._start()

    def give(self, number: int, task: T) -> None:
        try:
            self.pipe.send(task)
        except OSError:  # it died idle: no task is to blame
            self.stop()
            self._start()
            self.pipe.send(task)
        self.task = number

    def take(self) -> tuple[int, R | Died]:
        """The task's number and its result, or how its worker died. Raises what the task raised."""
        assert self.task is not None
        number, self.task = self.task, None
        try:
            result, error = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            how = Died(_exit_status(self.process.exitcode))
            self.pipe.close()
            self._start()
            return number, how
        if error is not None:
            raise error
        return number, result

    def stop(self) -> None:
        """End the process at once: what it had written is complete, what it had in hand is lost."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.function), daemon=True)
        self.process.start()
        theirs.close()  # else its end would stay open here, and its death would go unnoticed


def _hand_out(
    slots: Sequence[_Slot[T, R]],
    tasks: Sequence[T],
    waiting: deque[int],
    struck: deque[int],
    started: Callable[[T], None],
) -> list[_Slot[T, R]]:
    """Give free slots their next task; the slots now at work. Struck tasks run last, one at a time."""
    for slot in slots:
        if slot.task is None:
            alone = not waiting and all(other.task is None for other in slots)
            source = waiting if waiting else struck if alone else None
            if source:
                number = source.popleft()
                started(tasks[number])
                slot.give(number, tasks[number])
    return [slot for slot in slots if slot.task is not None]


def _ended(busy: Sequence[_Slot[T, R]]) -> list[_Slot[T, R]]:
    """Wait until a busy slot has a result or a dead process."""
    ready = connection.wait([end for slot in busy for end in (slot.pipe, slot.process.sentinel)])
    return [slot for slot in busy if slot.pipe in ready or slot.process.sentinel in ready]


def _work(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """A worker's life: a task in, (result, None) or (None, exception) out, until the parent hangs up or dies."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(task), None))
        except Exception as error:
            error.add_note(traceback.format_exc())
            pipe.send((None, error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _exit_status(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    # a process inherits "ignore" through exec; only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
