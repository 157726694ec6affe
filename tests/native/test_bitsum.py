"""Bit kernels of packed networks: every CPU level of this machine against counting in NumPy, bit for bit."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from core import extension

ROOT = Path(__file__).parents[2]
kernels = extension.module()
pytestmark = pytest.mark.skipif(kernels is None, reason="the native extension is not built here")
BEST = -1 if kernels is None else kernels.best_packed_level()
LEVELS = [
    pytest.param(
        level,
        id=name,
        marks=pytest.mark.skipif(level > BEST, reason=f"this CPU has no {name} kernels of packed networks"),
    )
    for level, name in enumerate(extension.LEVELS)
]
GUARD = 0x5AA55AA5  # what stands beside a result, and must afterwards


@dataclass
class Sums:
    """Random rows and weights, what the kernel is asked of them, and the counts that it should find."""

    rows: int = 3
    outputs: int = 20
    segments: int = 1
    words: int = 5  # of a segment
    gap: int = 0  # words between segments that belong to none
    pitch: int | None = None  # None: rows do not overlap
    classes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.blocks = -(-self.outputs // 16)
        self.offsets = np.arange(self.segments, dtype=np.int64) * (self.words + self.gap)
        span = int(self.offsets[-1]) + self.words
        self.pitch = span if self.pitch is None else self.pitch
        self.input = self.words_drawn((self.rows - 1) * self.pitch + span)
        self.vectors = self.words_drawn(self.outputs, self.segments * self.words)
        self.row_class = self.rng.integers(0, self.classes, self.rows).astype(np.uint16)
        self.table = self.rng.integers(*self.near_the_middle(), (self.classes, self.blocks * 16)).astype(np.int32)
        self.table[:, self.outputs :] = -1

    def words_drawn(self, *shape: int) -> np.ndarray:
        return self.rng.integers(0, 1 << 32, shape, dtype=np.uint32)

    def near_the_middle(self) -> tuple[int, int]:
        """Thresholds where a count of random bits falls on both sides: 3 deviations about its mean."""
        bits = 32 * self.segments * self.words
        return int(bits / 2 - 1.5 * bits**0.5) - 1, int(bits / 2 + 1.5 * bits**0.5) + 2

    @property
    def weights(self) -> np.ndarray:
        padded = np.zeros((self.blocks * 16, self.vectors.shape[1]), np.uint32)
        padded[: self.outputs] = self.vectors
        return np.ascontiguousarray(padded.reshape(self.blocks, 16, -1).transpose(0, 2, 1))

    @property
    def counts(self) -> np.ndarray:
        starts = np.arange(self.rows)[:, None, None] * self.pitch + self.offsets[:, None] + np.arange(self.words)
        read = self.input[starts].reshape(self.rows, 1, -1)
        return np.bitwise_count(read ^ self.vectors).sum(axis=2, dtype=np.int32)

    def of_rows(self) -> np.ndarray:
        """The table's entries, of the channels that are there."""
        return self.table[self.row_class, : self.outputs]

    def kernel(self):
        return kernels.BitSums(
            self.input,
            self.weights,
            outputs=self.outputs,
            rows=self.rows,
            row_pitch=self.pitch,
            offsets=self.offsets,
            segment_words=self.words,
            row_class=self.row_class if self.classes > 1 else None,
        )

    def flips(self) -> np.ndarray:
        return self.rng.integers(0, 2, self.outputs).astype(bool)


def packed(bits: np.ndarray, word: type) -> np.ndarray:
    """(..., n) booleans as little-endian words, absent ones 0."""
    size = np.dtype(word).itemsize * 8
    padded = np.zeros((*bits.shape[:-1], -(-bits.shape[-1] // size) * size), bool)
    padded[..., : bits.shape[-1]] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view(np.dtype(word).newbyteorder("<")).astype(word)


def check_bits(sums: Sums, level: int) -> None:
    flips = sums.flips()
    width = -(-sums.outputs // 32)
    bits = np.full((sums.rows, width + 2), GUARD, np.uint32)
    sums.kernel().to_bits(level, sums.table, packed(flips, np.uint16), bits)
    expected = packed((sums.counts <= sums.of_rows()) != flips, np.uint32)
    np.testing.assert_array_equal(bits[:, :width], expected)
    assert (bits[:, width:] == GUARD).all()


def check_sums(sums: Sums, level: int) -> None:
    found = np.full((sums.rows, sums.outputs + 5), GUARD, np.int32)
    sums.kernel().to_sums(level, sums.table, found)
    np.testing.assert_array_equal(found[:, : sums.outputs], sums.of_rows() - 2 * sums.counts)
    assert (found[:, sums.outputs :] == GUARD).all()


def check_affine(sums: Sums, level: int) -> None:
    scale, bias = sums.rng.normal(size=(2, sums.blocks * 16)).astype(np.float32)
    found = np.full((sums.rows, sums.outputs + 5), np.float32(77), np.float32)
    sums.kernel().to_affine(level, sums.table, scale, bias, found)
    numbers = (sums.of_rows() - 2 * sums.counts).astype(np.float32)
    expected = numbers * scale[: sums.outputs] + bias[: sums.outputs]  # NumPy rounds twice, as the kernel should
    np.testing.assert_array_equal(found[:, : sums.outputs], expected)
    assert (found[:, sums.outputs :] == 77).all()


CHECKS = pytest.mark.parametrize("check", [check_bits, check_sums, check_affine])


@CHECKS
@pytest.mark.parametrize("level", LEVELS)
def test_any_number_of_words_is_counted(level, check):
    for words in range(1, 41):
        check(Sums(words=words, seed=words), level)


@CHECKS
@pytest.mark.parametrize("level", LEVELS)
def test_any_number_of_outputs_is_made(level, check):
    for outputs in range(1, 71):
        check(Sums(outputs=outputs, seed=outputs), level)


@CHECKS
@pytest.mark.parametrize("level", LEVELS)
def test_any_number_of_rows_is_read(level, check):
    for rows in range(1, 18):
        for outputs in (10, 70, 150):
            check(Sums(rows=rows, outputs=outputs, seed=rows), level)


@CHECKS
@pytest.mark.parametrize("level", LEVELS)
def test_segments_skip_what_lies_between_them_and_rows_may_overlap(level, check):
    for segments in range(1, 6):
        for words in (1, 2, 7, 12, 33):
            for gap in (0, 3):
                check(Sums(segments=segments, words=words, gap=gap, pitch=segments, seed=words), level)


@CHECKS
@pytest.mark.parametrize("level", LEVELS)
def test_each_row_uses_the_table_of_its_class(level, check):
    for outputs in (5, 16, 33, 70):
        check(Sums(rows=9, classes=4, outputs=outputs, seed=outputs), level)


@CHECKS
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("words", [31, 32, 127, 128, 129, 300, 2048])
def test_no_narrow_count_overflows_where_every_bit_differs(level, check, words):
    sums = Sums(rows=5, outputs=17, words=words)
    sums.input[:] = 0xFFFFFFFF
    sums.vectors[:] = 0
    sums.table[:, : sums.outputs] = 32 * words - (np.arange(sums.outputs) % 2)
    assert (sums.counts == 32 * words).all()
    check(sums, level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_count_equal_to_the_threshold_is_a_one(level):
    sums = Sums(rows=1, outputs=16)
    sums.table[0] = sums.counts[0] - np.arange(16) % 2
    bits = np.zeros((1, 1), np.uint32)
    sums.kernel().to_bits(level, sums.table, np.zeros(1, np.uint16), bits)
    assert bits[0, 0] == 0x5555


@pytest.mark.parametrize("level", LEVELS)
def test_pad_bits_count_nothing(level):
    sums = Sums(words=2)
    sums.input[1::2] &= 0x1FFFF  # 32 + 17 inputs
    sums.vectors[:, 1] &= 0x1FFFF
    found = np.zeros((sums.rows, sums.outputs), np.int32)
    sums.kernel().to_sums(level, np.full_like(sums.table, 49), found)
    signs = [np.unpackbits(a.view(np.uint8), axis=-1, bitorder="little")[:, :49] for a in two_dimensional(sums)]
    x, w = (2 * s.astype(np.int32) - 1 for s in signs)
    np.testing.assert_array_equal(found, x @ w.T)


def two_dimensional(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    return sums.input.reshape(sums.rows, -1), sums.vectors


@pytest.mark.parametrize("level", LEVELS)
def test_no_rows_write_nothing(level):
    sums = Sums()
    kernel = kernels.BitSums(
        sums.input[:0], sums.weights, outputs=20, rows=0, row_pitch=5, offsets=sums.offsets, segment_words=5
    )
    kernel.to_sums(level, sums.table, np.zeros((0, 20), np.int32))


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from core._native import _kernels

PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
kept = []

def at_the_end(array):
    # a copy whose last byte is the last before a page that may not be touched
    pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert protect(start + pages * PAGE, PAGE, 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, pages * PAGE - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy

rng = np.random.default_rng(1)
for level in range(_kernels.best_packed_level() + 1):
    for rows, outputs, segments, words in (1, 10, 1, 1), (1, 300, 1, 7), (5, 40, 3, 3), (7, 70, 2, 33), (4, 64, 1, 130):
        blocks = -(-outputs // 16)
        word = lambda *shape: at_the_end(rng.integers(0, 1 << 32, shape, dtype=np.uint32))
        table = at_the_end(rng.integers(-1, 99, (2, 16 * blocks)).astype(np.int32))
        real = lambda: at_the_end(rng.normal(size=16 * blocks).astype(np.float32))
        sums = _kernels.BitSums(
            word(rows * segments * words), word(blocks, segments * words, 16), outputs=outputs, rows=rows,
            row_pitch=segments * words, offsets=at_the_end(np.arange(segments) * words), segment_words=words,
            row_class=at_the_end(np.arange(rows, dtype=np.uint16) % 2),
        )
        flip = at_the_end(np.zeros(blocks, np.uint16))
        sums.to_bits(level, table, flip, word(rows, -(-outputs // 32)))
        sums.to_sums(level, table, at_the_end(np.zeros((rows, outputs), np.int32)))
        sums.to_affine(level, table, real(), real(), at_the_end(np.zeros((rows, outputs), np.float32)))
if "over" in sys.argv:
    print(ctypes.string_at(flip.ctypes.data + flip.nbytes, 1))
print("nothing beyond")
"""


def in_a_child(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", GUARDED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(sys.platform != "linux", reason="guard pages are set with mprotect of Linux")
def test_nothing_is_read_or_written_beyond_the_arrays():
    done = in_a_child()
    assert done.stdout.strip() == "nothing beyond", done.stderr
    assert in_a_child("over").returncode < 0, "the guard pages do not guard"


def refused(match: str, **changed) -> None:
    sums = Sums(rows=3, outputs=20, words=5)
    asked = {"outputs": 20, "rows": 3, "row_pitch": 5, "offsets": sums.offsets, "segment_words": 5} | changed
    with pytest.raises(ValueError, match=match):
        kernels.BitSums(sums.input, sums.weights, **asked)


@pytest.mark.parametrize(
    ("match", "changed"),
    [
        ("outputs does not fit", {"outputs": 33}),
        ("outputs does not fit", {"outputs": 0}),
        ("outputs does not fit", {"outputs": 1 << 62}),
        ("rows, row_pitch", {"rows": -1}),
        ("rows, row_pitch", {"segment_words": 0}),
        ("segments \\* segment_words", {"segment_words": 4}),
        ("rows leave the input", {"row_pitch": 8}),
        ("rows leave the input", {"row_pitch": 1 << 62}),
        ("a segment leaves", {"offsets": np.array([1], np.int64)}),
        ("a segment leaves", {"offsets": np.array([-1], np.int64)}),
        ("row_class has a number a row", {"row_class": np.zeros(2, np.uint16)}),
    ],
)
def test_arrays_that_do_not_fit_are_refused(match, changed):
    refused(match, **changed)


def test_what_was_checked_cannot_be_changed_later():
    offsets, row_class = np.zeros(1, np.int64), np.zeros(2, np.uint16)
    one = np.ones((1, 1, 16), np.uint32)
    sums = kernels.BitSums(
        np.zeros(2, np.uint32),
        one,
        outputs=16,
        rows=2,
        row_pitch=1,
        offsets=offsets,
        segment_words=1,
        row_class=row_class,
    )
    offsets[:], row_class[:] = 1 << 40, 60000
    made = np.zeros((2, 16), np.int32)
    sums.to_sums(0, np.full((1, 16), 32, np.int32), made)
    assert (made == 30).all()


def test_results_and_tables_that_do_not_fit_are_refused():
    sums = Sums(rows=3, outputs=20, classes=3)
    sums.row_class[:] = 2
    kernel, flip = sums.kernel(), np.zeros(2, np.uint16)
    bits = np.zeros((3, 1), np.uint32)
    kernel.to_bits(0, sums.table, flip, bits)
    for table, flips, result in [
        (sums.table[:2], flip, bits),
        (sums.table[:, :16].copy(), flip, bits),
        (sums.table, flip[:1], bits),
        (sums.table, flip, bits[:2]),
        (sums.table, flip, np.zeros((3, 0), np.uint32)),
    ]:
        with pytest.raises(ValueError, match="bitsum"):
            kernel.to_bits(0, table, flips, result)
    with pytest.raises(ValueError, match="CPU level"):
        kernel.to_bits(BEST + 1, sums.table, flip, bits)


@pytest.mark.parametrize("level", LEVELS)
def test_limits_of_a_level_are_those_of_its_instructions(level):
    clock, operations = kernels.packed_limits(level)
    assert np.isfinite(clock) and clock > 0
    # No core of today starts more than 8 vectors of 512 bits a cycle, two operations a bit.
    assert 0 <= operations <= 8 * 2 * 512
    assert level == 0 or operations > 0
