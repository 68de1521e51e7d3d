r"""Statistics of simulated runs: warm-up, intervals, quantiles.

*Replications* are independent: their means give a Student interval. A single path has none, so its
observations are cut into consecutive batches (batch means): 10 for a mean, 20 for a quantile. How
an interval is made of replications or batches is said in :mod:`llmq.sim.results._clusters`. A share
near 0 or 1 has hardly any visible variance; its interval is at least that of rare bursts.

An interval of a stationary mean needs a path that is long against the relaxation time of the
system (:mod:`llmq.sim.results._relaxation`). Where it is not, the interval is infinite: from a
short path nobody knows how far off the estimate is.

*Warm-up*: MSER-5 (White 1997) drops the start that minimises the standard error of the rest,
computed on means of five over the replications, at most half of the path. By itself it does harm: a
crowded start of a steady path is cut as well, which makes the mean too low and the interval too
narrow. So a tenth of the path is dropped whatever it shows, and what MSER-5 says beyond that only
where the start is outside what windows of the same length do later (Student, 99 %). At the other
end, requests that arrive so late that they see the system drain are dropped too.

How often the intervals hold the true mean is measured by ``experiments/coverage.py`` and
``experiments/coverage_saturation.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.result import Estimate
from llmq.sim.results._clusters import (
    NORMAL,
    anew,
    burst_share,
    quantile_of_t,
    queue_error,
    ratio_half,
    tails,
    too_few,
)

__all__ = ["Metric", "Share", "batch_means", "half_width", "mser5", "share", "student", "warm_up"]

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

BATCHES = 10
# Batches of a path for a quantile: their shares are less correlated than means.
PIECES = 20
# Share of a path that is dropped in any case.
WARM_UP = 0.1


def student(values: Floats, level: float = 0.95) -> float:
    """Half width of the Student interval of a mean.

    Examples
    --------
    >>> student(np.array([1.0, 2.0, 3.0]))
    2.484
    """
    n = len(values)
    if n < 2:
        return math.inf
    return float(quantile_of_t(n - 1, level) * np.std(values, ddof=1) / math.sqrt(n))


def batch_means(values: Floats, batches: int = BATCHES) -> Floats:
    """Mean of consecutive pieces of a path, NaN observations left out.

    Examples
    --------
    >>> batch_means(np.arange(6.0), 3)
    array([0.5, 2.5, 4.5])
    """
    kept = values[~np.isnan(values)]
    pieces = max(1, min(batches, len(kept) // 2))
    return np.array([part.mean() for part in np.array_split(kept, pieces) if len(part)])


def half_width(means: Floats, *, path: bool) -> float:
    """Half width of the 95 % interval of a mean.

    Examples
    --------
    >>> means = np.array([1.0, 2.0, 3.0, 4.0])
    >>> half_width(means, path=False), half_width(means, path=True)
    (2.054, 3.558)
    """
    return ratio_half(means, np.ones(len(means)), path=path)


def _clusters(values: Floats, batches: int) -> tuple[list[Floats], bool]:
    """Observations of each replication, or of batches of the only path; and whether the latter."""
    rows = [row[~np.isnan(row)] for row in values]
    path = len(rows) == 1
    if path:
        rows = np.array_split(rows[0], max(1, min(batches, len(rows[0]) // 2)))
    return [row for row in rows if len(row)], path


def mser5(path: Floats) -> int:
    """Observations to drop from the start of a path.

    Examples
    --------
    >>> mser5(np.concatenate((np.linspace(9, 0, 50), np.tile([0.0, 0.1], 100))))
    50
    """
    fives = path[: len(path) // 5 * 5].reshape(-1, 5).mean(axis=1)
    m = len(fives)
    if m < 4:
        return 0
    # Sums of the tails give every candidate's variance at once.
    count = np.arange(m, 0, -1)
    first = np.cumsum(fives[::-1])[::-1]
    second = np.cumsum((fives**2)[::-1])[::-1]
    spread = (second - first**2 / count) / count**2
    return 5 * int(np.argmin(spread[: m // 2 + 1]))


def warm_up(path: Floats) -> int:
    """Observations to drop from the start of a path that begins empty.

    Examples
    --------
    >>> steady = np.tile([0.0, 1.0, 3.0, 2.0], 100)
    >>> warm_up(steady), warm_up(np.concatenate((np.linspace(-20, 0, 100), steady)))
    (40, 100)
    """
    least, found = int(WARM_UP * len(path)), mser5(path)
    if found <= least:
        return least
    window = max(5, found // 4)
    k = (len(path) - found) // window
    if k < 3:
        return found
    from scipy.special import stdtrit

    later = path[len(path) - k * window :].reshape(k, window).mean(axis=1)
    spread = float(np.std(later, ddof=1)) * math.sqrt(1 + 1 / k)
    strange = abs(float(path[:window].mean() - later.mean())) > stdtrit(k - 1, 0.995) * spread
    return found if strange else least


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A latency of the measured requests: mean with interval, and quantiles.

    Examples
    --------
    >>> metric = Metric("ttft", np.array([[1.0, 2.0], [2.0, 3.0]]))
    >>> metric.mean, metric.n
    (2.0, 2)
    """

    name: str  # which latency
    values: Floats  # seconds; NaN where it does not exist; shape (replications, n)
    # entries of ``values`` after which the system looks anew; 0 where that is not known
    look: float = 0.0
    short: bool = False  # the paths are too short for an interval
    crowd: float = 0.0  # entries of ``values`` within the mean residual decode of a request

    @property
    def mean(self) -> float:
        """Mean over all measured requests, seconds."""
        kept = self.values[~np.isnan(self.values)]
        return float(kept.mean()) if len(kept) else math.nan

    @property
    def half_width(self) -> float:
        """Half width of the 95 % interval of the mean, seconds."""
        rows, path = _clusters(self.values, BATCHES)
        if self.short or not rows:
            return math.inf
        sizes = np.array([float(len(row)) for row in rows])
        half = ratio_half(np.array([row.sum() for row in rows]), sizes, path=path)
        look = self.look * float(sizes.sum()) / self.values.size
        return max(half, NORMAL * queue_error(rows, look))

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
        """Replications or batches behind the interval."""
        return len(_clusters(self.values, BATCHES)[0])

    @property
    def observations(self) -> int:
        """Requests behind the estimate."""
        return int(np.count_nonzero(~np.isnan(self.values)))

    @property
    def method(self) -> str:
        """How the interval was made."""
        method = "replications" if len(self.values) > 1 else "batch means"
        return f"{method}, too short for an interval" if self.short else method

    @property
    def estimate(self) -> Estimate:
        """The mean as a plain record."""
        return Estimate(self.mean, self.half_width, self.n, self.method, self.observations)

    def quantile(self, q: float) -> Estimate:
        """Quantile over all measured requests, with an interval."""
        if not 0 < q < 1:
            raise InputError(f"a quantile lies between 0 and 1, got {q}", value=q)
        rows, path = _clusters(self.values, PIECES)
        if not rows:
            return Estimate(math.nan, math.inf, 0, "none", 0)
        kept = np.sort(np.concatenate(rows))
        n = len(kept)
        point = float(np.quantile(kept, q))
        method = f"{self.method}, pooled quantile"
        if self.short:
            return Estimate(point, math.inf, len(rows), method, n)
        sizes = np.array([float(len(row)) for row in rows])
        beyond = np.array([float(np.count_nonzero(row > point)) for row in rows])
        part = n / self.values.size
        look = anew(rows, self.look * part, self.crowd * part)
        most, least = tails(1 - q, beyond, sizes, path=path, look=look)
        if most > 1 - 1 / n or least < 1 / n:
            return Estimate(point, math.inf, len(rows), method + too_few(1 - q, n, look), n)
        low, high = np.quantile(kept, (1 - most, 1 - least))
        half = float(max(point - low, high - point))
        return Estimate(point, half, len(rows), method, n)

    def __str__(self) -> str:
        return f"{self.name} {self.estimate} s"


@dataclass(frozen=True, slots=True)
class Share:
    """A share of requests with its interval.

    Examples
    --------
    >>> print(Share(0.99, 0.985, 0.994, n=1000))
    99.00 % [98.50, 99.40], n = 1000
    """

    value: float  # the share
    # low, high: ends of the 95 % interval
    low: float
    high: float
    n: int  # requests
    # share that meets each target by itself; (str, float)
    by_metric: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.value:.2f} % [{low:.2f}, {high:.2f}], n = {self.n}"


def share(good: Bools, counted: Bools | None = None, *, look: float = 0.0) -> Share:
    """Estimate a share.

    Examples
    --------
    >>> share(np.ones((1, 1000), dtype=bool)).low
    0.9962
    """
    values = good.astype(np.float64) if counted is None else np.where(counted, good, np.nan)
    rows, path = _clusters(values, BATCHES)
    n = sum(len(row) for row in rows)
    if n == 0:
        return Share(math.nan, 0.0, 1.0, 0)
    total, sizes = np.array([row.sum() for row in rows]), np.array([float(len(r)) for r in rows])
    value = float(total.sum()) / n
    half = ratio_half(total, sizes, path=path)
    least, most = burst_share(n - float(total.sum()), n, look * n / good.size)
    low = min(value - half, 1 - most) if math.isfinite(half) else 0.0
    high = max(value + half, 1 - least) if math.isfinite(half) else 1.0
    return Share(value, max(0.0, low), min(1.0, high), n)
