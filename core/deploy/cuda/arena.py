"""Where values lie in one block of memory: places are given to others once they are read for the last time."""

from __future__ import annotations

from collections.abc import Mapping

ALIGNMENT = 256  # bytes: what a device's own allocations keep


def arranged(
    sizes: Mapping[str, int],
    first_uses: Mapping[str, int],
    last_uses: Mapping[str, int],
    *,
    keep: bool,
    output: str,
) -> tuple[dict[str, int], int]:
    """The offset of each place and the bytes of all, first fit in the order of first use.

    The output stays to the end, and with `keep` every place does.
    """
    end = max(last_uses.values(), default=0) + 1
    taken: list[tuple[int, int, int]] = []  # (offset, beyond, last use) of places still needed
    offsets: dict[str, int] = {}
    for place in sorted(sizes, key=lambda place: first_uses.get(place, -1)):
        now = first_uses.get(place, -1)
        taken = sorted(held for held in taken if held[2] >= now)
        size = -(-max(1, sizes[place]) // ALIGNMENT) * ALIGNMENT
        offsets[place] = _first_gap(taken, size)
        last = end if keep or place == output else last_uses.get(place, end)
        taken.append((offsets[place], offsets[place] + size, last))
    return offsets, max(offsets[place] + -(-max(1, sizes[place]) // ALIGNMENT) * ALIGNMENT for place in sizes)


def _first_gap(taken: list[tuple[int, int, int]], size: int) -> int:
    offset = 0
    for start, beyond, _ in taken:
        if start - offset >= size:
            break
        offset = max(offset, beyond)
    return offset
