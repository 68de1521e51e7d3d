"""Rates by class: checked, and as a vector in the order of the classes.

A rate is a float or a Fraction; exact answers read a float such as 0.1 as 1/10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from llmq._input.checking import number
from llmq.errors import InputError, nearest, shown

__all__ = ["Rate", "Rates", "rate_vector"]

Rate: TypeAlias = float | Fraction
Rates: TypeAlias = Mapping[str, Rate]


def rate_vector(rates: Rates, classes: Sequence[str], *, partial: bool = False) -> list[float]:
    """Return the rates in the order of the classes.

    Examples
    --------
    >>> rate_vector({"code": 2, "chat": 0}, ("chat", "code"))
    [0.0, 2.0]
    >>> rate_vector({"code": 2}, ("chat", "code"))
    Traceback (most recent call last):
    llmq.errors.InputError: the rate of class 'chat' is missing: give it, 0 if it has no requests
    """
    if not isinstance(rates, Mapping):
        raise InputError(
            f"rates must map classes to requests per second, e.g. {{{classes[0]!r}: 1.0}}, "
            f"got {type(rates).__name__}",
            value=rates,
        )
    for name, value in rates.items():
        if not isinstance(name, str) or name not in classes:
            raise InputError(
                f"rate for unknown class {shown(name)}{nearest(str(name), classes)}", value=name
            )
        if not _is_rate(value):
            raise InputError(
                f"rate of class {name!r} must be a finite number >= 0 (requests per second), "
                f"got {shown(value)}",
                value=value,
            )
    missing = [] if partial else [name for name in classes if name not in rates]
    if missing:
        raise InputError(
            f"the rate of class {shown(missing[0])} is missing: give it, 0 if it has no requests",
            value=missing[0],
        )
    return [float(rates.get(name, 0)) for name in classes]


def _is_rate(value: object) -> bool:
    try:
        return math.isfinite(number("rate", value)) and value >= 0  # type: ignore[operator]
    except InputError:
        return False
