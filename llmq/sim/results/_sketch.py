"""Means and quantiles of many observations in bounded memory.

Observations fall in bins whose edges grow by one per cent, so that a quantile is known to half a
per cent whatever the range; means are exact. One row for each replication: intervals come from
them by the same rules as in :class:`llmq.sim.results._stats.Metric`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.result import Estimate
from llmq.sim.results._clusters import ratio_half, tails, too_few

__all__ = ["Sketch", "sketch"]

Floats: TypeAlias = npt.NDArray[np.float64]

LEAST, GROWTH, BINS = 1e-6, 1.01, 2778  # from a microsecond to 11 days


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A latency by replication: how many observations in each bin, and their sum.

    Examples
    --------
    >>> found = sketch("ttft", np.array([[1.0, 2.0], [2.0, 3.0]]))
    >>> found.mean, found.n, round(found.quantile(0.9).mean, 1)
    (2.0, 2, 3.0)
    """

    name: str  # which latency
    # observations; the first bin holds all below a microsecond; shape (replications, bins)
    counts: npt.NDArray[np.int64]
    sums: Floats  # sum of the observations, seconds; shape (replications,)
    look: float = 0.0  # observations after which the system looks anew; 0 where that is not known
    short: bool = False  # the paths are too short for an interval

    @property
    def _sizes(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=1))

    @property
    def mean(self) -> float:
        """Mean over all observations, seconds."""
        return float(self.sums.sum() / self.observations) if self.observations else math.nan

    @property
    def half_width(self) -> float:
        """Half width of the 95 % interval of the mean, seconds."""
        some = self._sizes > 0
        if self.short or not some.any():
            return math.inf
        return ratio_half(self.sums[some], self._sizes[some].astype(np.float64), path=False)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def n(self) -> int:
        """Replications behind the interval."""
        return int(np.count_nonzero(self._sizes))

    @property
    def observations(self) -> int:
        """Requests behind the estimate."""
        return int(self._sizes.sum())

    @property
    def estimate(self) -> Estimate:
        """The mean as a plain record."""
        return Estimate(self.mean, self.half_width, self.n, "replications", self.observations)

    def quantile(self, q: float) -> Estimate:
        """Quantile over all observations, to half a per cent, with an interval."""
        if not 0 < q < 1:
            raise InputError(f"a quantile lies between 0 and 1, got {q}", value=q)
        n = self.observations
        if not n:
            return Estimate(math.nan, math.inf, 0, "none", 0)
        counts = self.counts[self._sizes > 0]
        pooled, sizes = counts.sum(axis=0), counts.sum(axis=1).astype(np.float64)
        point, place = _quantile(pooled, q)
        method = "replications, pooled quantile, bins of 1 %"
        if self.short:
            return Estimate(point, math.inf, len(counts), method, n)
        beyond = counts[:, place + 1 :].sum(axis=1)
        most, least = tails(1 - q, beyond.astype(np.float64), sizes, path=False, look=self.look)
        if most > 1 - 1 / n or least < 1 / n:
            method += too_few(1 - q, n, self.look)
            return Estimate(point, math.inf, len(counts), method, n)
        low, high = (_quantile(pooled, 1 - tail)[0] for tail in (most, least))
        # An end is known no better than to half a bin.
        half = max(point - low, high - point) + (GROWTH**0.5 - 1) * point
        return Estimate(point, half, len(counts), method, n)

    def joined(self, other: Sketch) -> Sketch:
        """Append the replications of another sketch."""
        counts = np.concatenate((self.counts, other.counts))
        return Sketch(self.name, counts, np.concatenate((self.sums, other.sums)))


def sketch(name: str, values: Floats) -> Sketch:
    """Sketch observations."""
    kept = ~np.isnan(values)
    # Bin k holds the values from LEAST * GROWTH**(k - 1) on.
    place = np.log(np.maximum(np.where(kept, values, 1.0), LEAST) / LEAST) / math.log(GROWTH)
    bins = np.clip(place.astype(np.int64) + 1, 0, BINS - 1)
    bins[values < LEAST] = 0
    flat = (bins + BINS * np.arange(len(values))[:, None])[kept]
    counts = np.bincount(flat, minlength=BINS * len(values)).reshape(len(values), BINS)
    return Sketch(name, counts, np.where(kept, values, 0.0).sum(axis=1))


def _quantile(counts: npt.NDArray[np.int64], q: float) -> tuple[float, int]:
    """Quantile, the geometric middle of its bin, and the bin."""
    total = np.cumsum(counts)
    place = int((total >= max(math.ceil(q * total[-1]), 1)).argmax())
    return (0.0 if place == 0 else LEAST * GROWTH ** (place - 0.5)), place
