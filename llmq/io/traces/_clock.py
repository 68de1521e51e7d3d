"""Times of a file into seconds: exact, and questioned where the unit cannot be right.

Tools write the same key in seconds, milliseconds, microseconds or nanoseconds. Each format has a
unit of its own, which is said beside the traffic; where the times speak against it (fractions of a
millisecond, thousands of requests per second, a span of years, a date in the year 50,000) the
reader asks and names the unit that would fit. A unit that the caller gives is believed.

The earliest time of an epoch clock is subtracted before anything is rounded: floats near 1.7e15
have steps of a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.cells import Cells
from llmq.errors import FormatError, InputError, nearest
from llmq.units import format_rate, format_seconds

__all__ = ["TIME_UNITS", "Clock", "check_unit", "read_clock"]

Floats: TypeAlias = npt.NDArray[np.float64]

_POWER = {"s": 0, "ms": -3, "us": -6, "ns": -9}
TIME_UNITS = tuple(_POWER)
_EPOCH = 10**9  # seconds after 1970, in 2001: later first times are counted from the first
_LATEST = 1e10  # seconds after 1970: the year 2286
_SPAN = 36_525 * 86_400.0  # seconds: a trace longer than a century is in another unit
_FAST = 1000.0  # requests per second that nobody serves from one trace in milliseconds
_SLOW = 0.01  # requests per second, with whole times only: milliseconds read as seconds
_FEWEST = 5  # times, before a rate says anything


@dataclass(frozen=True, slots=True)
class Clock:
    """Times in seconds, and how they were read."""

    seconds: Floats  # in the order of the file; shape (n,)
    notes: tuple[str, ...]  # the unit, and where the count starts


def check_unit(unit: str | None) -> None:
    """Refuse a unit that is not known.

    Examples
    --------
    >>> check_unit("msec")
    Traceback (most recent call last):
    ...
    llmq.errors.InputError: time_unit must be one of s, ms, us, ns, got 'msec'; did you mean 'ms'?
    """
    if unit is not None and unit not in TIME_UNITS:
        raise InputError(
            f"time_unit must be one of {', '.join(TIME_UNITS)}, got {unit!r}"
            f"{nearest(str(unit), TIME_UNITS)}",
            value=unit,
        )


def read_clock(
    cells: Cells, usual: str, unit: str | None = None, *, from_first: bool = False
) -> Clock:
    """Read the times of a file.

    Examples
    --------
    >>> read_clock(Cells("t.jsonl", "timestamp", ["0", "1500"], [1, 2]), "ms").seconds
    array([0. , 1.5])
    >>> read_clock(Cells("t.jsonl", "timestamp", ["0", "1.5"], [1, 2]), "ms", "s").notes
    ('times in s, as asked',)
    """
    exact = cells.decimals()
    if unit is None:
        _question(cells, exact, usual)
    read = unit or usual
    notes = [f"times in {read}" + (", as asked" if unit else "")]
    first = min(exact)
    with localcontext() as context:
        context.prec = 100  # more digits than a number of the file may have
        if from_first or first.scaleb(_POWER[read]) > _EPOCH:
            exact = [time - first for time in exact]
            notes.append(f"counted from the first, {first} {read}")
        if power := _POWER[read]:
            exact = [time.scaleb(power) for time in exact]
    return Clock(np.array([float(time) for time in exact]), tuple(notes))


def _question(cells: Cells, exact: list[Decimal], usual: str) -> None:
    times = [float(time) for time in exact]
    fractions = any(time != time.to_integral_value() for time in exact)
    whole = not any("." in value or "e" in value.lower() for value in cells.values)
    scale = 10.0 ** _POWER[usual]
    span, n = (max(times) - min(times)) * scale, len(times)
    rate = (len(set(times)) - 1) / span if span > 0 else 0.0
    reasons = []
    if min(times) * scale > _LATEST:
        reasons.append(f"as {usual} the first is after the year 2286")
    if span > _SPAN:
        reasons.append(f"as {usual} they span {format_seconds(span)}")
    if usual == "ms":
        if fractions:
            reasons.append("some have fractions, as clocks in s do")
        if n >= _FEWEST and rate > _FAST:
            reasons.append(f"as {usual} they are {format_rate(rate)}")
    elif whole and n >= 4 * _FEWEST and 0 < rate < _SLOW:
        reasons.append(f"as {usual} they are {format_rate(rate)}, and none has a fraction")
    if reasons:
        raise FormatError(
            f"the times are perhaps not in {usual}: {' and '.join(reasons)}; say the unit with "
            f"time_unit='{_fitting(times, usual)}'{_readings(times)}",
            path=cells.path,
            column=cells.name,
        )


def _fitting(times: list[float], usual: str) -> str:
    """Return the unit under which the times look like a trace."""
    span = max(times) - min(times)

    def strange(unit: str) -> tuple[float, float]:
        scale = 10.0 ** _POWER[unit]
        rate = (len(times) - 1) / (span * scale) if span > 0 else 1.0
        return float(min(times) * scale > _LATEST), abs(np.log10(max(rate, 1e-30)) - 0.5)

    return min((unit for unit in TIME_UNITS if unit != usual), key=strange)


def _readings(times: list[float]) -> str:
    span = max(times) - min(times)
    if not span > 0:
        return ""
    words = []
    for unit, power in _POWER.items():
        long = span * 10.0**power
        words.append(f"{unit}: {format_rate((len(times) - 1) / long)} for {format_seconds(long)}")
    return f" (as {'; '.join(words)})"
