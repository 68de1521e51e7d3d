r"""Does a batch beyond the knee pay? The sign of ``c - a b0``.

A law ``t(b) = c + a max(0, b - b0)`` is memory-bound up to the knee ``b0`` and compute-bound
beyond. The token rate ``b / t(b)`` still grows beyond the knee only if ``c > a b0``; if
``c < a b0`` the best batch is exactly ``b0`` and a fuller one loses capacity; at the ideal roofline
knee both sides are equal. With a sloping memory branch ``c`` is the time at the knee, and
``c - a b0`` is the intercept of the compute branch. Laws of llmq keep that intercept at 0 or above,
so it is estimated here without the bound, with a 95 % interval from the residuals
(heteroscedasticity-robust covariance, White 1980, of relative least squares with the branches held
fixed). With tiles the statement is about full tiles. The interval covers the scatter of the
rows, not a wrong choice of form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.forms import attention_columns, roofline_branches
from llmq.calibrate.profile import Profile
from llmq.model.time.batchtime import BatchTime
from llmq.units import format_seconds

__all__ = ["Knee", "find_knee"]

Floats: TypeAlias = npt.NDArray[np.float64]

_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Knee:
    """Estimate of ``c - a b0``, seconds.

    Examples
    --------
    >>> Knee(0.002, 0.001, 0.003, 200.0).sign
    'positive'
    """

    value: float  # time at the knee less slope times knee
    # low, high: 95 % interval
    low: float
    high: float
    # where the knee is; None if all rows lie on one branch (then ``value`` is the intercept)
    tokens: float | None

    @property
    def sign(self) -> str:
        """``positive``, ``negative`` or ``undecided`` (the interval holds 0)."""
        if self.low > 0:
            return "positive"
        return "negative" if self.high < 0 else "undecided"

    def __str__(self) -> str:
        ends = f"{format_seconds(self.low)} to {format_seconds(self.high)}"
        where = "no knee in the data" if self.tokens is None else f"knee {self.tokens:.0f} tokens"
        means = {
            "positive": "larger batches serve more tokens per second",
            "negative": "batches beyond the knee lose capacity",
            "undecided": "whether batches beyond the knee pay is undecided",
        }[self.sign]
        return f"c - a b0 = {format_seconds(self.value)} ({ends}), {where}: {means}"


def find_knee(profile: Profile, law: BatchTime) -> Knee:
    """Estimate the knee of a profile.

    Examples
    --------
    >>> n = np.arange(1, 600)
    >>> law = BatchTime.roofline(floor=6.0, base=1.0, per_token=0.125)
    >>> knee = find_knee(Profile(tokens=n, seconds=law(n)), law)
    >>> knee.value, knee.tokens
    (1.000, 40.00)
    """
    n = profile.tokens.astype(np.float64)
    tiled = np.ceil(n / law.tile) * law.tile
    one = np.ones_like(n)
    columns = np.column_stack([one, n, one, tiled, attention_columns(profile)])
    matrix = columns / profile.seconds[:, None]
    memory = law.floor + law.floor_per_token * n >= law.base + law.per_token * tiled
    if memory.all() or not memory.any():
        x = _least_squares(matrix[:, 2:], one)
        deviation = _deviation(matrix[:, 2:], matrix[:, 2:] @ x - 1.0, 0)
        return _interval(float(x[0]), deviation, None)
    x, _ = roofline_branches(matrix, memory, _least_squares)
    memory = matrix[:, 0:2] @ x[0:2] >= matrix[:, 2:4] @ x[2:4]
    rows = matrix.copy()
    rows[~memory, 0:2] = 0.0
    rows[memory, 2:4] = 0.0
    steeper = x[3] - x[1]
    knee = float((x[0] - x[2]) / steeper) if steeper > 0 and memory.any() else None
    return _interval(float(x[2]), _deviation(rows, rows @ x - 1.0, 2), knee)


def _interval(value: float, deviation: float, knee: float | None) -> Knee:
    half = _NORMAL_95 * deviation
    return Knee(value, value - half, value + half, knee)


def _scaled(matrix: Floats) -> tuple[Floats, Floats]:
    scale = np.linalg.norm(matrix, axis=0)
    scale = np.where(scale == 0.0, 1.0, scale)
    return matrix / scale, scale


def _least_squares(matrix: Floats, target: Floats) -> Floats:
    rows, scale = _scaled(matrix)
    return np.asarray(np.linalg.lstsq(rows, target, rcond=None)[0] / scale)


def _deviation(matrix: Floats, residual: Floats, which: int) -> float:
    rows, scale = _scaled(matrix)
    bread = np.linalg.pinv(rows.T @ rows)
    meat = (rows * residual[:, None] ** 2).T @ rows
    return float(np.sqrt(max(0.0, (bread @ meat @ bread)[which, which])) / scale[which])
