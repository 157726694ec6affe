"""Laws of the fixed split: a partition, stratified in every prefix, the same on every machine and for ever."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.problems import ProblemUnavailable
from core.problems.splits import SALT, check, digest, divide, stratified_order

# 2 to 7 classes, each at least twice and in any order, as `to_classes` lets through
classes = st.integers(2, 7).flatmap(
    lambda count: st.lists(st.integers(0, count - 1), min_size=10, max_size=300).map(
        lambda extra: np.random.default_rng(0).permutation([*range(count), *range(count), *extra]).astype(np.int64)
    )
)


@given(classes)
def test_split_of_one_block_is_a_partition_with_its_stated_sizes(labels: np.ndarray) -> None:
    train, validation, test = divide(labels, (len(labels),))
    assert np.array_equal(np.sort(np.concatenate([train, validation, test])), np.arange(len(labels)))
    assert len(validation) == len(test) == len(labels) // 5


@given(classes, classes)
def test_split_of_pool_and_test_keeps_the_test_block_as_given(pool: np.ndarray, given_test: np.ndarray) -> None:
    labels = np.concatenate([pool, given_test])
    train, validation, test = divide(labels, (len(pool), len(given_test)))
    assert np.array_equal(test, np.arange(len(pool), len(labels)))
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(pool)))
    assert len(validation) == len(pool) // 10


@given(classes, classes, classes)
def test_three_blocks_are_the_three_parts(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> None:
    labels = np.concatenate([first, second, third])
    parts = divide(labels, (len(first), len(second), len(third)))
    starts = np.cumsum([0, len(first), len(second)])
    for part, start, block in zip(parts, starts, (first, second, third), strict=True):
        assert np.array_equal(np.sort(part), start + np.arange(len(block)))


@given(classes)
def test_every_prefix_is_stratified(labels: np.ndarray) -> None:
    order = stratified_order(labels)
    ordered = labels[order]
    count = labels.max() + 1
    for label in range(count):
        total = (labels == label).sum()
        share = total / len(labels)
        prefix = np.cumsum(ordered == label)
        # At threshold t a class of n has between n t - 1/2 and n t + 1/2; summed over C classes, |m - N t| <= C / 2.
        bound = 0.5 + share * count / 2 + 1e-9
        assert np.abs(prefix - share * np.arange(1, len(labels) + 1)).max() <= bound


@given(classes)
def test_every_class_reaches_the_training_split(labels: np.ndarray) -> None:
    train, _, _ = divide(labels, (len(labels),))
    assert set(labels[train]) == set(labels)


def test_order_within_a_class_is_that_of_the_hashes_of_positions() -> None:
    labels = np.zeros(50, dtype=np.int64)
    expected = sorted(range(50), key=lambda i: hashlib.sha256(f"{SALT}:{i}".encode()).digest())
    assert stratified_order(labels).tolist() == expected


def test_digest_tells_order_and_boundaries_apart() -> None:
    a, b = np.array([0, 1, 2]), np.array([3, 4])
    others = ([b, a], [np.array([1, 0, 2]), b], [np.array([0, 1]), np.array([2, 3, 4])], [np.concatenate([a, b])])
    assert digest([a, b]) not in {digest(parts) for parts in others}


def test_digest_is_of_lengths_and_little_endian_int64() -> None:
    spelled = b"".join(n.to_bytes(8, "little") for n in (2, 7, 1, 1, 3))  # length 2: 7, 1; length 1: 3
    assert digest([np.array([7, 1]), np.array([3])]) == hashlib.sha256(spelled).hexdigest()


def test_changed_split_is_refused_by_name() -> None:
    parts = divide(np.arange(20, dtype=np.int64) % 2, (20,))
    check("toy", parts, digest(parts))
    with pytest.raises(ProblemUnavailable, match="toy: the split has SHA-256 [0-9a-f]{12}, the stored one 0{12}\n"):
        check("toy", parts, "0" * 64)


@pytest.mark.parametrize("blocks", [(19,), (10, 11), (5, 5, 5, 5), ()])
def test_blocks_that_do_not_cover_the_rows_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be 1 to 3 sizes that add up to 20 rows"):
        divide(np.arange(20, dtype=np.int64) % 2, blocks)
