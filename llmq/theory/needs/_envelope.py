r"""The lower convex envelope of the token part of a batch-time law.

``N`` iterations that hold ``B`` tokens in total, each between 1 and the budget, take at least

.. math:: N f^{conv}(B / N) = \max_i (c_i N + a_i B)

of token time, where :math:`f^{conv}(n) = \max_i (c_i + a_i n)` is the largest convex function below
the curve on ``n = 1, ..., budget``: Jensen's inequality, for any curve and any mix of batch sizes.
The bound is reached by alternating between two neighbouring vertices of the envelope.

Every curve of the library has few vertices: an affine law one piece; tiles at most three (up to one
tile, the ends of full tiles, a budget that cuts a tile); a roofline two, or three where the kink
falls between two integers; a table at most its grid points. So the vertices are found among a short
list of candidates, first in floats, then exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.units import as_fraction

__all__ = ["Envelope", "corners", "envelope"]

Ints: TypeAlias = npt.NDArray[np.int64]
# Float noise of a curve is below 1e-14 of its value; candidates this close are judged exactly.
_SLACK = 1e-10


@dataclass(frozen=True, slots=True)
class Envelope:
    """Vertices of the lower convex envelope of a token curve.

    Examples
    --------
    >>> law = BatchTime.tiled(base=2, per_tile=10, tile=64)
    >>> envelope(law, 100).tokens
    (1, 64, 100)
    """

    tokens: tuple[int, ...]  # batch sizes, ascending from 1 to the budget
    seconds: tuple[Fraction, ...]  # time of each; the slopes between them increase strictly

    @property
    def pieces(self) -> tuple[tuple[Fraction, Fraction], ...]:
        """Intercept (seconds) and slope (seconds per token) of each piece, slopes ascending."""
        if len(self.tokens) == 1:
            return ((self.seconds[0], Fraction(0)),)
        lines = []
        for i in range(len(self.tokens) - 1):
            slope = (self.seconds[i + 1] - self.seconds[i]) / (self.tokens[i + 1] - self.tokens[i])
            lines.append((self.seconds[i] - slope * self.tokens[i], slope))
        return tuple(lines)

    @property
    def best(self) -> tuple[int, Fraction]:
        """Batch size with the least time per token (the smallest such), and its time."""
        best = min(range(len(self.tokens)), key=lambda i: (self.seconds[i] / self.tokens[i], i))
        return self.tokens[best], self.seconds[best]

    def __call__(self, tokens: float | Fraction) -> Fraction:
        """Value of the envelope."""
        n = as_fraction(tokens)
        return max(c + a * n for c, a in self.pieces)


def envelope(law: BatchTime, token_budget: int) -> Envelope:
    """Return the lower convex envelope of the token curve on ``1, ..., token_budget``."""
    points = corners(law, token_budget)
    if len(points) > 4:
        points = _near_hull(points, law.curve(points))
    return _scan((int(n), _exact(law, int(n))) for n in points)


def corners(law: BatchTime, token_budget: int) -> Ints:
    """Return batch sizes among which are all vertices of the envelope."""
    if token_budget < 1:
        raise InputError(f"token_budget must be at least 1 token, got {token_budget}")
    if law.form == "table":
        inner = np.asarray(law.tokens)
    elif law.form == "tiled":
        # Tile ends lie on one line: its first and last point are enough.
        inner = np.asarray([law.tile, token_budget // law.tile * law.tile])
    elif law.form == "roofline" or law.tile > 1:
        inner = _roofline_corners(law, token_budget)
    else:
        inner = np.asarray([], dtype=np.int64)
    inner = inner[(inner > 1) & (inner < token_budget)]
    return np.unique(np.concatenate((inner, [1, token_budget]))).astype(np.int64)


def _roofline_corners(law: BatchTime, budget: int) -> Ints:
    """Return ends of tiles and the integers around each crossing of the two branches."""
    # Tile ends on the same branch lie on one line, so only the ends of such runs are kept;
    # inside a tile the compute branch is flat and crosses the memory branch at most once.
    slope = law.floor_per_token
    if law.tile == 1:
        steep = law.per_token - slope
        crossings = np.asarray([(law.floor - law.base) / steep if steep else 1.0])
        ends = np.asarray([], dtype=np.int64)
    else:
        ends = np.arange(law.tile, budget + law.tile, law.tile)
        compute = law.base + law.per_token * ends
        crossings = (compute - law.floor) / slope if slope else np.asarray([])
        crossings = crossings[np.abs(crossings - ends[: len(crossings)]) <= law.tile + 1]
        runs = np.flatnonzero(np.diff(compute > law.floor + slope * ends))
        last = budget // law.tile - 1
        keep = np.concatenate(([0, last], *(runs + shift for shift in (-1, 0, 1, 2))))
        ends = ends[np.clip(keep, 0, len(ends) - 1)]
    near = np.clip(np.floor(crossings), 0, budget).astype(np.int64)
    # One more on both sides: the quotient may round across an integer.
    return np.concatenate((ends, ends + 1, *(near + shift for shift in (-1, 0, 1, 2))))


def _near_hull(points: Ints, seconds: npt.NDArray[np.float64]) -> Ints:
    """Drop candidates that are clearly above the envelope, in floats."""
    stack: list[tuple[float, float]] = []
    for point in zip(points.tolist(), seconds.tolist(), strict=True):
        while len(stack) > 1 and _turn(stack[-2], stack[-1], point) <= 0:
            stack.pop()
        stack.append(point)
    x, y = zip(*stack, strict=True)
    close: Ints = points[seconds <= np.interp(points, x, y) * (1 + _SLACK)]
    return close


def _scan(points: Iterable[tuple[int, Fraction]]) -> Envelope:
    """Graham's scan: keep strict vertices only."""
    stack: list[tuple[int, Fraction]] = []
    for point in points:
        while len(stack) > 1 and _turn(stack[-2], stack[-1], point) <= 0:
            stack.pop()
        stack.append(point)
    return Envelope(tuple(n for n, _ in stack), tuple(t for _, t in stack))


def _turn(a: tuple[Any, Any], b: tuple[Any, Any], c: tuple[Any, Any]) -> Any:
    """Positive where ``a, b, c`` turn left (floats or Fractions)."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _exact(law: BatchTime, n: int) -> Fraction:
    if law.form != "table":
        return law.exact().curve(n)
    x, t = law.tokens, law.seconds
    if n <= x[0]:
        return as_fraction(t[0])
    i = min(int(np.searchsorted(x, n)), len(x) - 1)
    low, high = as_fraction(t[i - 1]), as_fraction(t[i])
    return low + (high - low) * Fraction(n - x[i - 1], x[i] - x[i - 1])
