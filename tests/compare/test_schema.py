"""Signatures as schemas: what is written is what is read, and what cannot be read says why."""

import inspect
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.runner.request import Setting
from studies.runner.schema import choose, keys, read

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def _schema():
    def factory(*, lr: float = 1, widths: tuple[int, ...] = (2, 2), nesterov: bool = False, start: "str" = "zero"):
        raise NotImplementedError

    return keys(inspect.signature(factory, eval_str=True).parameters)


@given(st.integers())
def test_written_integer_is_read_back(number):
    assert read(str(number), int, typed=True) == number
    assert read(number, int, typed=False) == number


@given(NUMBERS)
def test_written_number_is_read_back_exactly(number):
    # repr of a float is its shortest decimal that reads as itself, so the equality is exact
    assert read(repr(number), float, typed=True) == number
    assert read(number, float, typed=False) == number


@given(st.integers(-(2**53), 2**53))
def test_whole_number_is_a_float_where_a_number_is_asked_for(number):
    for value in (read(str(number), float, typed=True), read(number, float, typed=False)):
        assert isinstance(value, float) and value == number


@given(st.lists(st.integers(), min_size=1))
def test_written_list_is_read_back_as_a_tuple(numbers):
    text = ",".join(map(str, numbers))
    assert read(text, tuple[int, ...], typed=True) == tuple(numbers)
    assert read(numbers, tuple[int, ...], typed=False) == tuple(numbers)


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_true_is_read_in_any_case(text):
    assert read(text, bool, typed=True) is True


def test_none_and_unions_are_read():
    assert read("none", int | None, typed=True) is None
    assert read("3", int | None, typed=True) == 3
    assert read("0.5", int | float, typed=True) == 0.5
    with pytest.raises(ValueError, match="must be a whole number"):
        read("x", int | None, typed=True)


@pytest.mark.parametrize(
    ("value", "annotation", "typed", "message"),
    [
        ("x", float, True, "must be a number"),
        ("", float, True, "must be a number"),
        ("nan", float, True, "must be finite"),
        ("inf", float, True, "must be finite"),
        ("1e999", float, True, "must be finite"),
        (float("nan"), float, False, "must be finite"),
        (10**400, float, False, "must be a number"),
        (True, float, False, "must be a number"),
        ("0.1", float, False, "must be a number"),
        ("1e3", int, True, "must be a whole number"),
        (1.0, int, False, "must be a whole number"),
        (True, int, False, "must be a whole number"),
        ("yes", bool, True, "must be true or false"),
        (1, bool, False, "must be true or false"),
        (3, str, False, "must be text"),
        ({"a": 1}, float, False, "must be a number"),
        ([0.1, 0.2], float, False, "must be a number, not a list: a run has one value"),
        ("0.1,0.2", float, True, "must be a number, not a list: a run has one value"),
        (512, tuple[int, ...], False, "must be a list such as"),
        ("", tuple[int, ...], True, "must be a list such as 512,512"),
        ("3,x", tuple[int, ...], True, "is a list; each member must be a whole number"),
        ("c", Literal["a", "b"], True, "must be one of a, b"),
        ("c", dict, True, "which a config cannot give"),
    ],
)
def test_unreadable_value_says_what_is_asked_for(value, annotation, typed, message):
    with pytest.raises(ValueError, match=message):
        read(value, annotation, typed=typed)


def test_defaults_are_the_signature_and_the_last_setting_wins():
    errors = []
    settings = [Setting("m", "lr", 0.5, "m.toml", typed=False), Setting("m", "lr", "0.25", "--set", typed=True)]
    chosen = choose(_schema(), settings, "method m", errors)
    assert errors == []
    assert chosen.values == {"lr": 0.25, "widths": (2, 2), "nesterov": False, "start": "zero"}
    assert chosen.given == {"lr": settings[1]}


def test_default_written_as_integer_is_the_number_it_is_annotated_as():
    assert type(choose(_schema(), [], "method m", []).values["lr"]) is float


def test_unknown_key_has_its_origin_the_nearest_key_and_the_allowed_ones():
    errors = []
    choose(_schema(), [Setting("m", "nestrov", "true", "--set", typed=True)], "method m", errors)
    assert errors == [
        "m.nestrov: unknown key (from --set). Did you mean 'nesterov'? Keys of method m: lr, widths, nesterov, start"
    ]
