"""Numbers in text: ASCII digits, bounded before anything else looks at them.

Python's ``int`` and ``float`` also take ``1_000`` and the digits of other scripts, and the time of
a regular expression may grow with the square of a cell. Here the length is tested first.
"""

from __future__ import annotations

import re
from decimal import Decimal

from llmq._limits import INT, NUMBER

__all__ = ["parse_decimal", "parse_real", "parse_whole"]

# Pandas writes 512.0 where a column had gaps. Nanoseconds since 1970 have 19 digits.
_WHOLE = re.compile(r"\s*\+?([0-9]{1,19})(?:\.0*)?\s*")
_REAL = re.compile(r"\s*(\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?)\s*")


def parse_whole(text: str) -> int | None:
    """Read a whole number >= 0.

    Examples
    --------
    >>> parse_whole(" 512.0"), parse_whole("1_024"), parse_whole("9" * 30)
    (512, None, None)
    >>> parse_whole("9223372036854775807"), parse_whole("9223372036854775808")
    (9223372036854775807, None)
    """
    match = _WHOLE.fullmatch(text) if len(text) <= NUMBER else None
    value = None if match is None else int(match[1])
    return value if value is None or value <= INT else None


def parse_decimal(text: str) -> Decimal | None:
    """Read a number >= 0 exactly.

    Examples
    --------
    >>> parse_decimal("1.50"), parse_decimal("inf")
    (Decimal('1.50'), None)
    """
    match = _REAL.fullmatch(text) if len(text) <= NUMBER else None
    return None if match is None else Decimal(match[1])


def parse_real(text: str) -> float | None:
    """Read a finite number >= 0.

    Examples
    --------
    >>> parse_real("2.5e-3"), parse_real("1e400"), parse_real("nan")
    (0.0025, None, None)
    """
    match = _REAL.fullmatch(text) if len(text) <= NUMBER else None
    if match is None:
        return None
    number = float(match[1])
    return None if number == float("inf") else number
