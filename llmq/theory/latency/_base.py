"""What every law carries, and the checks of what it is given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llmq.errors import InputError, UnstableError, shown
from llmq.result import Kind

__all__ = ["Law", "check_number", "check_share", "check_stable", "check_whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """What a law says about itself."""

    kind: Kind  # how the numbers may be used
    assumptions: tuple[str, ...] = field(repr=False)  # what they rest on
    source: str = field(repr=False)  # where the law is from


def check_number(name: str, value: float, *, zero: bool = False) -> float:
    """Return a finite positive number.

    Examples
    --------
    >>> check_number("rate", 2)
    2.0
    """
    least = ">= 0" if zero else "> 0"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (0 <= number < math.inf if zero else 0 < number < math.inf):
        raise InputError(
            f"{name} must be a finite number {least}, got {shown(value)}", field=name, value=value
        )
    return number


def check_whole(name: str, value: int, least: int = 1, most: int | None = None) -> int:
    """Return a whole number that is not too small.

    Examples
    --------
    >>> check_whole("servers", 4.0)
    4
    """
    number = math.nan
    if not isinstance(value, bool | str):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
    if not (math.isfinite(number) and number == int(number) and number >= least):
        raise InputError(
            f"{name} must be a whole number, at least {least}, got {shown(value)}",
            field=name,
            value=value,
        )
    if most is not None and number > most:
        raise InputError(f"{name} must be at most {most}, got {shown(value)}", field=name)
    return int(number)


def check_share(name: str, value: float) -> float:
    """Return a probability strictly between 0 and 1.

    Examples
    --------
    >>> check_share("q", 0.99)
    0.99
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < 1:
        raise InputError(
            f"{name} must lie strictly between 0 and 1 (0.99 for p99), got {value!r}",
            field=name,
            value=value,
        )
    return number


def check_stable(what: str, load: float, remedy: str) -> None:
    """Refuse a load at which no stationary law exists.

    Examples
    --------
    >>> check_stable("the mean wait", 0.5, "lower the rate")
    """
    if not load < 1:
        margin = 1 / load
        raise UnstableError(
            f"{what} does not exist at load {load:.4g} (margin {margin:.4g}, must exceed 1): "
            f"{remedy}",
            margin=margin,
            load=load,
        )
