"""Fixed stratified splits that no random number generator can change: examples are ordered by a hash of their position.

Within a class, examples are ranked by SHA-256 of their position in the source. Ordering all examples by the quantile
of that rank and cutting at the sizes gives every part each class in its share, whatever the library versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64
from numpy import ndarray

from core.problems.interface import ProblemUnavailable

SALT = "bitrelax split 1"  # another split of the same data would be "bitrelax split 2"
Indices = Int64[ndarray, " _"]


def divide(labels: Indices, blocks: Sequence[int]) -> tuple[Indices, Indices, Indices]:
    """Positions of the training, validation and test examples of a source whose rows come in `blocks`.

    labels (N,) are classes. One block: 60 % / 20 % / 20 %. Two (pool, test): the pool's 90 % / 10 %, the test block
    as given. Three: as given. Validation and test sizes are rounded down. Every part but a given test block is in
    shuffled, stratified order. Raises ValueError where the blocks do not add up to N.
    """
    if sum(blocks) != len(labels) or not 1 <= len(blocks) <= 3:
        raise ValueError(f"blocks {tuple(blocks)} must be 1 to 3 sizes that add up to {len(labels)} rows")
    if len(blocks) == 1:
        share = len(labels) // 5
        order = stratified_order(labels)
        train, validation, test = np.split(order, [len(order) - 2 * share, len(order) - share])
        return train, validation, test
    if len(blocks) == 2:
        share = blocks[0] // 10
        order = stratified_order(labels[: blocks[0]])
        train, validation = np.split(order, [len(order) - share])
        return train, validation, np.arange(blocks[0], len(labels))
    first, second, _ = np.split(labels, np.cumsum(blocks)[:2])
    validation = len(first) + stratified_order(second)
    return stratified_order(first), validation, np.arange(len(first) + len(second), len(labels))


def stratified_order(labels: Indices) -> Indices:
    """A fixed shuffle of 0..N-1 by (rank within the class + 1/2) / size of the class, ties by hash.

    In a prefix of m of N examples, a class of n has n m / N of them, to within 1/2 + (n / N)(C / 2).
    """
    hashes = _position_hashes(len(labels))
    by_class = np.lexsort((hashes, labels))
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, sizes)
    quantile = np.empty(len(labels))
    quantile[by_class] = (rank + 0.5) / np.repeat(sizes, sizes)
    return np.lexsort((hashes, quantile)).astype(np.int64)


def digest(parts: Sequence[Indices]) -> str:
    """SHA-256 hex digest of index arrays, their lengths included: what a stored split is checked against."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
    return total.hexdigest()


def check(name: str, parts: Sequence[Indices], expected: str) -> None:
    """Raises ProblemUnavailable where a built-in problem's split is not the stored one."""
    found = digest(parts)
    if found != expected:
        raise ProblemUnavailable(
            f"{name}: the split has SHA-256 {found[:12]}, the stored one {expected[:12]}\n"
            "Its labels differ from those the split was made for, so results would not compare with earlier ones. "
            "Install the versions in constraints.txt, or restore the data."
        )


def _position_hashes(count: int) -> UInt64[ndarray, " _"]:
    heads = (hashlib.sha256(f"{SALT}:{i}".encode()).digest()[:8] for i in range(count))
    return np.frombuffer(b"".join(heads), dtype=">u8").astype(np.uint64)
