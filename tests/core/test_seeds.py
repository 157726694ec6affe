"""Seeds: named parts, no collisions, stable for ever, and generators that know only their parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.seeds import generator, seed

PARTS = st.lists(st.one_of(st.text(max_size=8), st.integers(-(10**6), 10**6)), max_size=4).map(tuple)


@given(PARTS, PARTS)
def test_seeds_are_equal_exactly_when_their_parts_are(one, other):
    # 1 == True == 1.0 in Python, but PARTS holds only str and int, so tuple equality is equality of typed parts;
    # two different tuples collide with probability 2^-63
    assert (seed(*one) == seed(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "bc"), ("ab", "c")),
        (("a", "b"), ("ab",)),
        (("a", ""), ("a",)),
        (("1",), (1,)),
        ((1, 23), (12, 3)),
        (("a", "b"), ("b", "a")),
        (("a;str:1:b",), ("a", "b")),
    ],
)
def test_parts_that_read_alike_seed_differently(one, other):
    assert seed(*one) != seed(*other)


def test_a_seed_never_changes_between_versions():
    # Written down once: records of past studies name their noise by these parts.
    assert seed("compare", "data order", "digits", 3) == 7172145868451940237


@given(PARTS)
def test_a_seed_fits_a_signed_64_bit_integer(parts):
    assert 0 <= seed(*parts) < 2**63


def test_a_generator_repeats_its_draws_and_no_others():
    first, again, other = (generator("noise", i) for i in (0, 0, 1))
    draw = torch.rand(64, generator=first)
    assert torch.equal(draw, torch.rand(64, generator=again))
    assert not torch.equal(draw, torch.rand(64, generator=other))


def test_generators_are_on_the_cpu_unless_told_and_leave_the_global_one_alone():
    before = torch.get_rng_state()
    assert generator("order").device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_generator_is_on_the_device_it_was_asked_for():
    rng = generator("noise", 0, device="cuda")
    assert rng.device.type == "cuda"
    assert rng.initial_seed() == seed("noise", 0)
