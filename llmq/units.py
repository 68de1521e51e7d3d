"""Units at the border: inside llmq everything is seconds, tokens and requests per second.

Only this module and ``llmq.io`` know milliseconds and microseconds.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from numbers import Rational

from llmq._limits import NUMBER, RATE
from llmq.errors import InputError, shown

__all__ = [
    "MICROSECOND",
    "MILLISECOND",
    "as_fraction",
    "format_count",
    "format_rate",
    "format_seconds",
    "parse_duration",
    "parse_rate",
]

MILLISECOND = 1e-3
MICROSECOND = 1e-6

_DURATION = {
    "us": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
}
_RATE = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-z/]*)\s*")


def parse_duration(text: str) -> float:
    """Read a duration with its unit.

    Parameters
    ----------
    text : str
        A positive number followed by ``us``, ``ms``, ``s``, ``min`` or ``h``.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    InputError
        Without a unit (``500`` might be seconds or milliseconds), or not a positive number.

    Examples
    --------
    >>> parse_duration("500ms"), parse_duration("2 s"), parse_duration("25us")
    (0.5, 2.0, 2.5e-05)
    """
    match = _matched(text, "duration")
    if not match or match[2] not in _DURATION:
        hint = " has no unit" if match and not match[2] else " is not a duration"
        raise InputError(
            f"duration {shown(text)}{hint}: write a number and one of us, ms, s, min, h, "
            "e.g. 500ms",
            value=text,
        )
    # Rational, so that 25us is the float nearest to 25e-6; never of an exponent beyond floats.
    number = float(match[1])
    value = float(Fraction(match[1]) * _DURATION[match[2]]) if 0 < number < math.inf else 0.0
    if not 0 < value < math.inf:
        raise InputError(f"duration {shown(text)} must be positive and finite", value=text)
    return value


def _matched(text: str, what: str) -> re.Match[str] | None:
    # The time of the expression grows with the square of the text, so that is bounded first.
    if len(text) > NUMBER + 8:
        raise InputError(
            f"{what} {shown(text)} has {len(text):,} characters, at most {NUMBER} digits are read: "
            "write it shorter",
            value=text,
        )
    return _NUMBER.fullmatch(text)


def parse_rate(text: str) -> float:
    """Read a request rate; a bare number is requests per second.

    Parameters
    ----------
    text : str
        A positive number, optionally followed by ``/s``, ``/min`` or ``/h``.

    Returns
    -------
    float
        Requests per second.

    Raises
    ------
    InputError
        Not a positive number, or an unknown unit.

    Examples
    --------
    >>> parse_rate("50"), parse_rate("90/min")
    (50.0, 1.5)
    """
    if text.strip().lower() in ("inf", "infinity"):
        raise InputError(
            f"rate {shown(text)}: all requests at once are a trace with equal times, or a batch of "
            "users (Workload.closed); a rate is finite, e.g. 50/s",
            value=text,
        )
    match = _matched(text, "rate")
    unit = match[2] or "/s" if match else ""
    if not match or unit not in _RATE or not 0 < float(match[1]) < math.inf:
        raise InputError(
            f"rate {shown(text)} is not a positive number of requests: write e.g. 50, 50/s or "
            "90/min",
            value=text,
        )
    rate = float(match[1]) * _RATE[unit]
    if rate > RATE:
        raise InputError(
            f"rate {shown(text)} is beyond {RATE:,.0f} requests per second, the most that is "
            "planned or simulated: is it in another unit?",
            value=text,
        )
    return rate


def format_seconds(seconds: float, digits: int = 3) -> str:
    """Write a time with the unit that keeps it readable.

    Parameters
    ----------
    seconds : float
        A time in seconds.
    digits : int
        Significant digits.

    Returns
    -------
    str
        E.g. ``"12.3 ms"``.

    Examples
    --------
    >>> format_seconds(0.01234), format_seconds(2.5), format_seconds(7200)
    ('12.3 ms', '2.5 s', '2 h')
    >>> format_seconds(0.00094321, 2)
    '943 us'
    """
    if not math.isfinite(seconds):
        return "undefined" if math.isnan(seconds) else "unbounded"
    size = abs(float(f"{seconds:.{digits}g}"))  # as it will be read: 0.9999 is 1 s, not 1000 ms
    if size == 0:
        return "0 s"
    for unit, scale in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if size >= scale * (2 if scale > 1 else 1):
            return f"{_plain(seconds / scale, digits)} {unit}"
    return f"{_plain(seconds / MICROSECOND, digits)} us"


def _plain(value: float, digits: int) -> str:
    # Never a positive exponent: 943 us, not 9.4e+02 us.
    whole = len(str(round(abs(value)))) if math.isfinite(value) else 0
    return f"{value:.{max(digits, whole)}g}"


def format_rate(per_second: float, digits: int = 4) -> str:
    """Write a request rate.

    Parameters
    ----------
    per_second : float
        Requests per second.
    digits : int
        Significant digits.

    Returns
    -------
    str
        E.g. ``"5.53 req/s"``.

    Examples
    --------
    >>> format_rate(5.5297)
    '5.53 req/s'
    """
    return f"{_plain(per_second, digits)} req/s"


def format_count(count: float) -> str:
    """Write a count with thousands separators.

    Parameters
    ----------
    count : float
        A number of things.

    Returns
    -------
    str
        E.g. ``"19,366"``.

    Examples
    --------
    >>> format_count(19366)
    '19,366'
    """
    return f"{count:,.0f}"


def as_fraction(value: float | Rational) -> Fraction:
    """Return the rational number a person meant by a decimal.

    Parameters
    ----------
    value : float or rational
        ``0.025`` means 1/40, not the nearest binary number.

    Returns
    -------
    fractions.Fraction
        The exact value.

    Raises
    ------
    InputError
        If the value is not finite.

    Examples
    --------
    >>> as_fraction(0.025)
    Fraction(1, 40)
    """
    if isinstance(value, Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    if not math.isfinite(value):
        raise InputError(f"only a finite number is a fraction, got {value}", value=value)
    return Fraction(repr(float(value)))
