"""The token part of a batch-time law: four curves and the check of a measured one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.units import format_seconds

__all__ = ["Coefficients", "as_table", "check_table", "token_curve"]

Floats: TypeAlias = npt.NDArray[np.float64]


class Coefficients(Protocol):
    """The numbers of a law; :class:`llmq.model.time.batchtime.BatchTime` says what each is."""

    @property
    def form(self) -> str:
        """Name of the form."""

    @property
    def base(self) -> float:
        """Seconds of an iteration."""

    @property
    def per_token(self) -> float:
        """Seconds of a token."""

    @property
    def tile(self) -> int:
        """Tokens of a tile."""

    @property
    def per_tile(self) -> float:
        """Seconds of a started tile."""

    @property
    def floor(self) -> float:
        """Seconds below which no iteration is."""

    @property
    def floor_per_token(self) -> float:
        """Seconds of a token on the floor."""

    @property
    def per_kv(self) -> float:
        """Seconds of a KV token read, decodes only."""

    @property
    def per_kv_mixed(self) -> float:
        """The same, with prompts."""

    @property
    def per_work(self) -> float:
        """Seconds of a unit of attention work."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Grid of a table."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Times of a table."""


def token_curve(law: Coefficients, n: Floats) -> Floats:
    """Evaluate the token part of a law."""
    if law.form == "table":
        x, y = np.asarray(law.tokens, float), np.asarray(law.seconds)
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
        time = np.interp(n, x, y) + slope * np.maximum(0.0, n - x[-1])
    elif law.form == "tiled":
        tiles = np.ceil(n / law.tile)
        time = float(law.base) + float(law.per_tile) * tiles + float(law.per_token) * n
    else:
        rounded = n if law.tile == 1 else np.ceil(n / law.tile) * law.tile
        time = float(law.base) + float(law.per_token) * rounded
        if law.form == "roofline":
            time = np.maximum(time, float(law.floor) + float(law.floor_per_token) * n)
    return np.where(n > 0, time, 0.0)


def check_table(tokens: Sequence[int], seconds: Sequence[float]) -> None:
    """Refuse a grid that is no law of time."""
    if len(tokens) < 2 or len(tokens) != len(seconds):
        raise InputError(
            f"batch time table: needs at least 2 points, one time for each token count; "
            f"got {len(tokens)} token counts and {len(seconds)} times"
        )
    for i, (left, right) in enumerate(itertools.pairwise(tokens)):
        if left < 1 or right <= left:
            raise InputError(f"batch time table: tokens must ascend from 1, got {left}, {right}")
        if not 0 < seconds[i] <= seconds[i + 1] < math.inf:
            raise InputError(
                f"batch time table: time must be positive and must not decrease, got "
                f"{format_seconds(seconds[i])} at {left} tokens and "
                f"{format_seconds(seconds[i + 1])} at {right}; smooth the profile first"
            )


def as_table(law: Coefficients) -> str:
    """Say how to write a hinge whose compute branch is below 0 at no tokens."""
    flat, base, slope = law.floor, law.base, law.per_token
    meet = (flat - base) / slope if slope > 0 else math.inf
    if law.form != "roofline" or not 0 < meet < math.inf:
        return ""
    # The branches meet at the knee; rounding must not move it by a token.
    knee = max(1, math.ceil(round(meet, 6)))
    after = base + slope * 2 * knee
    return (
        f"; a curve that is flat up to {knee} tokens and then rises is BatchTime.table(tokens="
        f"[1, {knee}, {2 * knee}], seconds=[{flat:.10g}, {flat:.10g}, {after:.10g}])"
    )
