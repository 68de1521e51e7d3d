"""Units at the border: what is read, what is refused, what is written."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmq.errors import InputError
from llmq.units import (
    MICROSECOND,
    MILLISECOND,
    as_fraction,
    format_count,
    format_rate,
    format_seconds,
    parse_duration,
    parse_rate,
)


def test_constants():
    assert (MILLISECOND, MICROSECOND) == (0.001, 0.000001)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("500 ms", 0.5),
        (" 2 s ", 2.0),
        ("25us", 25e-6),
        (".5s", 0.5),
        ("1.5min", 90.0),
        ("2h", 7200.0),
        ("1e-3s", 0.001),
        ("1E+2ms", 0.1),
        ("0.1ms", 1e-4),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("500", "has no unit: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("1e3", "has no unit: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("5 sec", "is not a duration: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("5MS", "is not a duration: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("-5ms", "is not a duration: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("ms", "is not a duration: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("", "is not a duration: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("nan s", "is not a duration: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("5/s", "is not a duration: write a number and one of us, ms, s, min, h, e.g. 500ms"),
        ("0ms", "must be positive and finite"),
        ("1e400s", "must be positive and finite"),
        ("1e999999999h", "must be positive and finite"),
        ("1e-400s", "must be positive and finite"),
    ],
)
def test_bad_durations(text, why):
    with pytest.raises(InputError) as caught:
        parse_duration(text)
    assert str(caught.value) == f"duration {text!r} {why}"
    assert caught.value.value == text


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50", 50.0),
        ("50/s", 50.0),
        (" 90 /min ", 1.5),
        ("3600/h", 1.0),
        (".5", 0.5),
        ("1e2", 100.0),
    ],
)
def test_rates(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "5/day", "5 s", "1e400", "nan", "/s"])
def test_bad_rates(text):
    with pytest.raises(InputError) as caught:
        parse_rate(text)
    assert str(caught.value) == (
        f"rate {text!r} is not a positive number of requests: write e.g. 50, 50/s or 90/min"
    )


def test_a_rate_without_end_is_a_batch():
    with pytest.raises(InputError, match="all requests at once are a trace with equal times"):
        parse_rate("inf")


@pytest.mark.parametrize("parse", [parse_rate, parse_duration])
@pytest.mark.parametrize("end", ["", "!", "ms", ".5"])
def test_c_digits_without_end_are_refused_before_they_are_read(parse, end):
    begin = time.perf_counter()
    with pytest.raises(InputError, match="characters, at most 64 digits are read") as caught:
        parse("1" * 200_000 + end)
    assert time.perf_counter() - begin < 0.5
    assert len(str(caught.value)) < 250


def test_c_rates_beyond_all_use_are_refused():
    with pytest.raises(InputError, match="beyond 1,000,000,000 requests per second"):
        parse_rate("1e15")


@given(st.integers(1, 10**9), st.sampled_from(["us", "ms", "s"]))
def test_a_duration_is_the_float_nearest_to_what_was_written(number, unit):
    scale = {"us": 6, "ms": 3, "s": 0}[unit]
    assert parse_duration(f"{number}{unit}") == float(Fraction(number, 10**scale))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01234, "12.3 ms"),
        (2.5, "2.5 s"),
        (0.0, "0 s"),
        (-0.5, "-500 ms"),
        (0.0005, "500 us"),
        (0.9999, "1 s"),  # never 1000 ms, never 1e+03 ms
        (0.0009999, "1 ms"),
        (0.998, "998 ms"),
        (1.0, "1 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (3600.0, "60 min"),
        (7200.0, "2 h"),
        (7.2e6, "2000 h"),
        (3.6e9, "1000000 h"),
        (math.inf, "unbounded"),
        (-math.inf, "unbounded"),
        (math.nan, "undefined"),
    ],
)
def test_times_for_people(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "digits", "text"),
    [(0.1234, 2, "123 ms"), (0.1236, 2, "124 ms"), (0.00094321, 2, "943 us"), (1.26, 2, "1.3 s")],
)
def test_whole_digits_are_never_rounded_away(seconds, digits, text):
    assert format_seconds(seconds, digits) == text


@given(st.floats(1e-6, 1e9), st.integers(1, 6))
@example(0.9999, 3)
@example(0.99951, 2)
def test_written_times_read_back(seconds, digits):
    text = format_seconds(seconds, digits)
    assert "e" not in text.split()[0]
    assert parse_duration(text) == pytest.approx(seconds, rel=0.51 * 10 ** (1 - digits))


def test_rates_and_counts_for_people():
    assert format_rate(5.5297) == "5.53 req/s"
    assert format_rate(12345.6) == "12346 req/s"
    assert format_rate(math.inf) == "inf req/s"
    assert format_count(19366) == "19,366"
    assert format_count(1234567.4) == "1,234,567"


def test_a_decimal_is_the_fraction_that_was_meant():
    assert as_fraction(0.025) == Fraction(1, 40)
    assert as_fraction(4.12e-8) == Fraction(412, 10**10)
    assert as_fraction(3) == as_fraction(np.int64(3)) == as_fraction(np.float64(3)) == 3
    assert as_fraction(Fraction(2, 7)) == Fraction(2, 7)
    assert type(as_fraction(np.int64(3)).numerator) is int


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_fraction_is_infinite(value):
    with pytest.raises(InputError, match=r"^only a finite number is a fraction, got "):
        as_fraction(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_fraction_of_a_float_is_within_half_a_last_digit(value):
    assert float(as_fraction(value)) == value
