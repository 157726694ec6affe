"""What a run says while it runs: one live line on a terminal, one line per finished cell otherwise.

The time left is estimated from the cells that finished in this run: those of the same problem and method, else those
of the same problem, else all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from studies.runner.cells import Cell, canonical

FINE = ("finished", "skipped")  # statuses that are no failure


class Reporting:
    """The runner's reporter: counts, estimates, prints. A context, because a live line must be taken down again.

    cells: the ones to run. done: the cached ones. clock: seconds, monotonic.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        *,
        done: int,
        workers: int,
        console: Console,
        errors: Console,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._waiting = {_identity(cell): cell for cell in cells}
        self._began: dict[bytes, float] = {}
        self._seconds: dict[tuple[str, str], list[float]] = {}
        self.done = done
        self.total = done + len(self._waiting)
        self._labels = _labels(self._waiting)
        self._width = max(map(len, self._labels.values()), default=0)
        self._workers, self._console, self._errors, self._clock = workers, console, errors, clock
        self._live = _live_line(console, self.total, done) if console.is_terminal else None

    def __enter__(self) -> Reporting:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, cell: Cell) -> None:
        """A worker took the cell."""
        self._began[_identity(cell)] = self._clock()

    def finished(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """The cell has its record, of whatever status."""
        identity = _identity(cell)
        label = self._labels[identity]
        if (began := self._began.pop(identity, None)) is not None:
            self._seconds.setdefault((cell.problem, cell.method), []).append(self._clock() - began)
        del self._waiting[identity]
        self.done += 1
        result, left = outcome(record), _time_left(self.eta())
        line = f"{self.done:{len(str(self.total))}}/{self.total} {label:{self._width}}  {result}"
        if self._live is None:
            self._say(f"{line}  {left}")
            return
        if record["status"] not in FINE:
            self._say(line)  # a failure stays on the screen, above the live line
        self._live.update(self._live.task_ids[0], completed=self.done, latest=f"{label}  {result}", eta=left)

    def warning(self, text: str) -> None:
        """A line for the person at the screen, on standard error."""
        self._errors.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)

    def eta(self) -> float | None:
        """Seconds until the last cell is done, all workers busy; None until a cell has finished."""
        if not self._seconds:
            return None
        left = 0.0
        for identity, cell in self._waiting.items():
            spent = self._clock() - self._began[identity] if identity in self._began else 0.0
            left += max(0.0, self._expected(cell) - spent)
        return left / max(1, min(self._workers, len(self._waiting)))

    def _expected(self, cell: Cell) -> float:
        same = self._seconds.get((cell.problem, cell.method))
        if same is None:
            of_problem = [s for (problem, _), all_s in self._seconds.items() for s in all_s if problem == cell.problem]
            same = of_problem or [s for all_s in self._seconds.values() for s in all_s]
        return fmean(same)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _identity(cell: Cell) -> bytes:
    """Cells of one label may differ in settings."""
    return canonical(cell.config())


def _labels(cells: Mapping[bytes, Cell]) -> dict[bytes, str]:
    """What each is called: its label, and for cells of one label the settings in which they differ."""
    alike: dict[str, list[bytes]] = {}
    for identity, cell in cells.items():
        alike.setdefault(cell.label(), []).append(identity)
    named = {}
    for label, identities in alike.items():
        settings = [_settings(cells[identity]) for identity in identities]
        names = dict.fromkeys(name for each in settings for name in each)
        differing = [name for name in names if len({canonical(each.get(name)) for each in settings}) > 1]
        for identity, each in zip(identities, settings, strict=True):
            named[identity] = " / ".join([label, *(f"{name} {each.get(name)}" for name in differing)])
    return named


def _settings(cell: Cell) -> dict[str, Any]:
    """All of a cell's settings by name, those of its network by "network name"."""
    config = cell.config()
    network = {f"network {name}": value for name, value in config.pop("network").items()}
    return {**config.pop("hyperparameters"), **config.pop("budget"), **network, **config}


def outcome(record: Mapping[str, Any]) -> str:
    """A record in a few words: "accuracy 0.983  1.2 s" (the first rule's, on the test split), or why there is none."""
    if record["status"] != "finished":
        return f"{record['status']}: {record['reason']}"
    accuracy = record["predictions"][0]["metrics"]["test"]["accuracy"]
    return f"accuracy {'  –  ' if accuracy is None else format(accuracy, '.3f')}  {record['seconds']['total']:5.1f} s"


def _live_line(console: Console, total: int, done: int) -> Progress:
    live = Progress(
        BarColumn(bar_width=20, table_column=Column(min_width=20)),
        MofNCompleteColumn(),
        TextColumn("{task.fields[eta]}", markup=False, table_column=Column(min_width=len("ETA 9999 s"), no_wrap=True)),
        TextColumn("{task.fields[latest]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=console,
        transient=True,
        expand=True,  # so that the latest row alone gives way on a narrow terminal
    )
    live.add_task("cells", total=total, completed=done, eta=_time_left(None), latest="")
    return live


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return "ETA --"
    whole = round(seconds)
    if whole < 100:
        return f"ETA {whole} s"
    if whole < 6000:
        return f"ETA {round(whole / 60)} min"
    return f"ETA {whole / 3600:.1f} h"
