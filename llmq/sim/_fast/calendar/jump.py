"""How far decodes that advance together may jump, and how a calendar says that they do not."""

from __future__ import annotations

from math import sqrt

from llmq.errors import LlmqError

__all__ = ["NotTogetherError", "leap"]


class NotTogetherError(LlmqError, RuntimeError):
    """The decodes do not advance together here: only the reference engine can go on."""


def leap(first: float, slope: float, clock: float, limit: float) -> tuple[int, float]:
    """Count the decode-only iterations up to where the clock reaches ``limit``.

    Examples
    --------
    >>> leap(1.0, 0.5, clock=0.0, limit=5.0)
    (3, 6.0)
    """
    gap, b = limit - clock, first - slope
    steps = int(2 * gap / (b + sqrt(b * b + 4 * slope * gap))) or 1
    span = steps * (first + slope * (steps - 1))
    # The root is rounded down and rounded: step to where the clock itself crosses.
    while clock + span < limit:
        steps += 1
        span = steps * (first + slope * (steps - 1))
    return steps, span
