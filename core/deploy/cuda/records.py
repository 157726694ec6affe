"""The structs that kernels take, as NumPy records: fields in the order of sums.h, moves.cu and rates.cu."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

THREADS = 256  # of a block, in every kernel


def _struct(pointers: str, numbers: str) -> np.dtype[np.void]:
    fields = [(name, np.uint64) for name in pointers.split()] + [(name, np.int32) for name in numbers.split()]
    return np.dtype(fields, align=True)


SUMS = _struct(
    "x weights base row_class column_class at flip scale bias out",
    "rows outputs groups depth pitch tap_units height width pixel group_units out_height out_width kernel_width stride "
    "dilation padding follows",
)
MOVES = _struct(
    "x y a b out",
    "count channels height width out_height out_width size_y size_x stride_y stride_x padding pitch offset groups",
)
RATES = _struct("out", "turns seed")


def record(struct: np.dtype[np.void], **fields: int) -> np.ndarray:
    """One struct with these fields, the others 0, as an array of one entry (what CuPy passes by value)."""
    made = np.zeros(1, struct)
    for name, value in fields.items():
        made[name] = value
    return made


def merged(struct: np.dtype[np.void], *parts: Mapping[str, int]) -> np.ndarray:
    """`record` of the fields of several mappings."""
    return record(struct, **{name: value for part in parts for name, value in part.items()})
