"""What the native engine keeps of a form's arrays: each laid out once, however many nodes use it, within a bound.

A file stores equal arrays once and a node in a hundred bytes, so memory must not follow the number of nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from core.deploy.form import FormError, Graph

LARGEST_GROWTH = 32  # lanes fill up to 16 (one output a group), and tables of borders come beside small kernels
LARGEST_BASE = 1 << 28  # bytes besides: tables of geometries that share their weights


class Constants:
    """The arrays that programs of some graphs copy, counted in bytes: LARGEST_GROWTH times their own + LARGEST_BASE."""

    def __init__(self, graphs: Iterable[Graph]) -> None:
        used = [array for graph in graphs for array in graph.arrays()]
        self._uses = Counter(map(id, used))
        self._own = {id(array): array.nbytes for array in used}  # the graphs keep them alive, so ids stay theirs
        self._most = LARGEST_GROWTH * sum(self._own.values()) + LARGEST_BASE
        self._taken = 0
        self._laid: dict[tuple[object, ...], tuple[np.ndarray, ...]] = {}
        self._counted = set(self._own)

    def laid(
        self, array: np.ndarray, lay: Callable[..., np.ndarray | tuple[np.ndarray, ...]], *arguments: object
    ) -> tuple[np.ndarray, ...]:
        """lay(array, *arguments), made once for an array that several nodes use."""
        key = (id(array), lay, *arguments)
        if key in self._laid:
            return self._laid[key]
        made = lay(array, *arguments)
        arrays = made if isinstance(made, tuple) else (made,)
        if self._uses[id(array)] > 1:
            self.take(sum(each.nbytes for each in arrays))
            self._laid[key] = arrays
            self._counted.update(map(id, arrays))
        return arrays

    def count(self, arguments: Iterable[object]) -> None:
        """Takes the bytes of those arguments that are arrays, but of shared ones and of the form's own."""
        arrays = (each for each in arguments if isinstance(each, np.ndarray) and id(each) not in self._counted)
        self.take(sum(array.nbytes for array in arrays))

    def take(self, count: int) -> None:
        """Counts so many bytes. Raises FormError beyond the bound."""
        self._taken += count
        if self._taken > self._most:
            raise FormError(
                f"the native backend would lay out {self._taken} bytes of weights and tables for "
                f"{sum(self._own.values())} bytes of arrays; its bound is {LARGEST_GROWTH} times those and "
                f"{LARGEST_BASE} ({self._most}); use backend='numpy'"
            )
