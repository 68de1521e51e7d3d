r"""Intervals of pooled means and quantiles whose observations come in clusters.

A *cluster* is a replication, or a batch of the only path. With :math:`Y_i` the sum and :math:`N_i`
the number of observations of cluster ``i`` of ``k``, the pooled mean is a ratio and its error that
of :math:`D_i = Y_i - \hat r N_i`:

.. math:: \hat r = \frac{\sum Y_i}{\sum N_i}, \qquad
          s^2 = \frac{k}{k - 1} \frac{\sum D_i^2}{(\sum N_i)^2} \cdot \frac{1 + r}{1 - r},

where ``r`` allows for the correlation of successive batches of one path, as in Skart (Tafazzoli and
Wilson 2011): :math:`r = \max(0, r_1 + 1/k)` with :math:`r_1` the sample correlation, whose bias is
``-1/k``. Means of a queue are skewed, and then Student's ``t`` is too small. With
:math:`\beta = \text{skewness} / (6 \sqrt k)` it becomes the larger of ``|G(t)|`` and ``|G(-t)|``,
:math:`G(z) = ((1 + 6 \beta (z - \beta))^{1/3} - 1) / (2 \beta)` (Willink 2005, also in Skart).

The interval of a *quantile* turns the share of the observations beyond it around (Woodruff 1952):
if the share ``p`` beyond the true quantile is known up to an error, so is the quantile. The error
of a small share is skewed, so its interval is taken on the scale of :math:`\log(p / (1 - p))`.

*What a queue must show.* A run that has seen few long waits underrates how much its means vary.
Theory says what the variance is at least. In heavy traffic the work of a queue is a Brownian motion
with reflection; with one *look* of :math:`\ell` requests (:mod:`llmq.sim.results._relaxation`) the
mean of ``n`` waits of variance :math:`\sigma^2`, and the share of them beyond a level that a share
``p`` exceeds, have the variances (Poisson's equation of the diffusion, solved)

.. math:: \frac{2 \ell \sigma^2}{n}, \qquad
          \frac{2 \ell p (1 - p)}{n} \Bigl(1 - \frac{p \log (1 / p)}{1 - p}\Bigr) .

M/D/1 and M/G/1 at loads of 0.5 to 0.95 agree: 1.7 to 2.4 for the first 2, within a fifth for the
second. The error of a mean is not taken below the first, with the covariance of neighbours for
:math:`\sigma^2`, since the lengths of requests vary without any queue. Requests beyond a high level
come in bursts, and a run may have seen few of them. Bursts are taken to be exponential and of one
and a half looks on average; those of the diffusion are half a look and vary more, those of slots
that fill up are of this kind. The first variance is doubled, since a policy that carries less than
the bound of its engine relaxes more slowly than the load says. A rare share has the interval of the
compound Poisson law of such bursts, which knows what it means to have seen none, and a quantile
that of the levels whose share this law allows: it has no upper end where fewer than 3.7 bursts are
expected beyond it.

*What neighbours share.* Requests that decode together see the same batch, however light the load.
In an endless row of servers a request has in common with the others what it has with the
:math:`c = \lambda E S^2 / (2 E S)` that arrive within the mean residual decode. Few of them lie
beyond a high level, so the share beyond it does not show how much it varies; their ranks do. A look
is not taken below half the variance of their mean over windows of :math:`4 c` requests, relative to
that of independent ones. Without it PASCAL's 99 % point at half load was held in 89 to 92 %.

``experiments/coverage_saturation.py`` measures how often all these
intervals hold the truth: ``docs/coverage.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "anew",
    "burst_share",
    "burstiness",
    "company",
    "quantile_of_t",
    "queue_error",
    "ratio_error",
    "ratio_half",
    "tails",
    "too_few",
    "wider",
    "wilson",
]

Floats: TypeAlias = npt.NDArray[np.float64]

# A correlation of batch means beyond this says that the path is too short for any interval.
MOST = 0.9
# Below this the correction for skewness is lost in rounding.
TINY = 1e-6
NORMAL = 1.959963984540054
# Windows over which ranks are added up, relative to the requests of a residual decode.
WINDOW = 4
# Looks of a burst, and between two independent means: a policy that carries less than the bound of
# its engine relaxes more slowly than the load says, PASCAL by as much.
BURST, SLOWER = 1.5, 2.0
# Each side of an interval of 95 %.
TAIL = 0.025
# From so many bursts on the law of their sum is normal.
MANY = 400.0


def quantile_of_t(degrees: int, level: float = 0.95) -> float:
    """Two-sided quantile of Student's law.

    Examples
    --------
    >>> quantile_of_t(9)
    2.262
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def wider(values: Floats, level: float = 0.95) -> float:
    """By how much Student's interval grows where values are skewed.

    Examples
    --------
    >>> wider(np.array([1.0, 2.0, 3.0])), wider(np.array([0.0, 0.0, 0.0, 0.0, 4.0]))
    (1.0, 3.187)
    """
    gap, n = values - values.mean(), len(values)
    spread = float(np.mean(gap**2))
    beta = float(np.mean(gap**3)) / spread**1.5 / (6 * n**0.5) if spread > 0 else 0.0
    if abs(beta) < TINY:
        return 1.0
    t = quantile_of_t(n - 1, level)
    ends = [abs(np.cbrt(1 + 6 * beta * (z - beta)) - 1) / (2 * abs(beta)) for z in (t, -t)]
    return max(1.0, float(max(ends)) / t)


def ratio_error(total: Floats, count: Floats, *, path: bool) -> float:
    """Estimate the standard error of a ratio of sums over clusters.

    Examples
    --------
    >>> ratio_error(np.array([1.0, 2.0, 3.0]), np.ones(3), path=False)
    0.577
    """
    k = len(total)
    if k < 2:
        return math.inf
    off = total - total.sum() / count.sum() * count
    power = float(off @ off)
    error = math.sqrt(power * k / (k - 1)) / float(count.sum())
    if not path or k < 3 or not power > 0:
        return error
    r = min(MOST, max(0.0, float(off[1:] @ off[:-1]) / power + 1 / k))
    return error * math.sqrt((1 + r) / (1 - r))


def ratio_half(total: Floats, count: Floats, *, path: bool) -> float:
    """Half width of the 95 % interval of a ratio of sums over clusters.

    Examples
    --------
    >>> ratio_half(np.array([1.0, 2.0, 3.0]), np.ones(3), path=False)
    2.484
    """
    error = ratio_error(total, count, path=path)
    if not 0 < error < math.inf:
        return error
    off = total - total.sum() / count.sum() * count
    return error * quantile_of_t(len(total) - 1) * wider(off)


def burstiness(share: float, look: float) -> float:
    """Variance of a share of waits beyond a level, relative to that of independent ones.

    Examples
    --------
    >>> burstiness(0.5, 10.0), burstiness(0.01, 10.0), burstiness(0.0, 10.0)
    (6.137, 19.07, 20.0)
    """
    if not 0 < share < 1:
        return 2 * look if share <= 0 else 0.0
    return 2 * look * (1 + share * math.log(share) / (1 - share))


def company(rows: Sequence[Floats], crowd: float) -> float:
    """Variance of a mean rank of requests that decode together, relative to independent ones.

    Examples
    --------
    >>> calm, waves = np.tile([1.0, -1.0], 50), np.repeat([1.0, -1.0, 1.0, -1.0], 25)
    >>> company([calm], 5.0), company([waves], 5.0), company([waves], 0.0)
    (0.0, 10.0, 0.0)
    """
    kept = np.sort(np.concatenate(rows)) if crowd > 0 and rows else np.empty(0)
    if not len(kept):
        return 0.0
    window, total, windows = max(1, round(WINDOW * crowd)), 0.0, 0
    ranks = [(kept.searchsorted(row) + kept.searchsorted(row, "right")) / 2 for row in rows]
    middle = len(kept) / 2
    for row in ranks:
        k = len(row) // window
        sums = (row[: k * window] - middle).reshape(k, window).sum(axis=1)
        total, windows = total + float(sums @ sums), windows + k
    one = sum(float((row - middle) @ (row - middle)) for row in ranks) / len(kept)
    return total / windows / window / one if windows and one > 0 else 0.0


def anew(rows: Sequence[Floats], look: float, crowd: float) -> float:
    """Count the observations after which a latency looks anew.

    Examples
    --------
    >>> waves = np.repeat([1.0, -1.0, 1.0, -1.0], 25)
    >>> anew([waves], 3.0, 5.0), anew([waves], 8.0, 5.0)
    (5.0, 8.0)
    """
    return max(look, company(rows, crowd) / 2)


def queue_error(rows: Sequence[Floats], look: float) -> float:
    """Return the least standard error of a mean of waits in a queue.

    Examples
    --------
    >>> calm, waves = np.tile([1.0, -1.0], 50), np.repeat([1.0, -1.0], 50)
    >>> queue_error([calm], 2.0), queue_error([waves], 2.0)
    (0.0, 0.279)
    """
    n = sum(len(row) for row in rows)
    if not look > 0 or not n:
        return 0.0
    mean = sum(float(row.sum()) for row in rows) / n
    common = sum(float((row[1:] - mean) @ (row[:-1] - mean)) for row in rows) / n
    return math.sqrt(2 * SLOWER * look * max(0.0, common) / n)


def wilson(share: float, seen: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Examples
    --------
    >>> wilson(0.0, 381.0)
    (0.0, 0.00998)
    """
    z2 = NORMAL**2
    centre = (share + z2 / (2 * seen)) / (1 + z2 / seen)
    half = math.sqrt(z2 * (share * (1 - share) / seen + z2 / (4 * seen**2))) / (1 + z2 / seen)
    return max(0.0, centre - half), min(1.0, centre + half)


def _burst(share: float, look: float) -> tuple[float, float]:
    """Variance relative to independent cases, and the mean of bursts that give it."""
    spread = max(1.0, burstiness(share, BURST * look))
    return spread, spread * (1 - share) / 2


def _below(cases: float, mean: float, burst: float, *, strict: bool = False) -> float:
    """Probability of at most so many cases, of which ``mean`` are expected; of fewer, if strict."""
    from scipy.special import gammainc, gammaln

    bursts = mean / burst
    count = np.arange(1, math.ceil(bursts + 9 * math.sqrt(bursts) + 20) + 1)
    law = np.exp(count * math.log(bursts) - bursts - gammaln(count + 1))
    inside = float(law @ gammainc(count, cases / burst))
    return inside + (math.exp(-bursts) if cases > 0 or not strict else 0.0)


def burst_share(hits: float, n: int, look: float) -> tuple[float, float]:
    """Return the 95 % interval of a rare share whose cases come in bursts.

    Examples
    --------
    >>> [burst_share(hits, 10_000, 100.0)[1] for hits in (0.0, 50.0, 200.0)]
    [0.0553, 0.0698, 0.101]
    >>> burst_share(0.0, 10_000, 0.0) == wilson(0.0, 10_000)
    True
    """
    share = hits / n
    spread, burst = _burst(share, look)
    if burst <= 1 or hits / burst > MANY or share > 0.5:
        return wilson(share, n / spread if share > 0 else n)

    def end(low: float, high: float, goal: float, *, strict: bool) -> float:
        """Mean at which the probability falls through the goal."""
        for _ in range(50):
            middle = math.sqrt(low * high)
            less = _below(hits, middle, burst, strict=strict) > goal
            low, high = (middle, high) if less else (low, middle)
        return high

    largest = end(max(hits, burst) / 10, 20 * (hits + burst), TAIL, strict=False)
    smallest = end(1e-6 * hits, 2 * hits, 1 - TAIL, strict=True) if hits > 0 else 0.0
    return min(smallest / n, share), min(1.0, max(largest / n, share))


def _rare(share: float, n: float, look: float) -> tuple[float, float]:
    """Largest and smallest share of ``n`` that is seen, in 95 %, where it is ``share``."""
    spread, burst = _burst(share, look)
    if burst <= 1 or n * share / burst > MANY or share > 0.5:
        return _odds(share, NORMAL * math.sqrt(spread * share * (1 - share) / n))
    mean = n * share

    def end(low: float, high: float, goal: float) -> float:
        """Cases at which the probability rises through the goal."""
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if _below(middle, mean, burst) < goal else (low, middle)
        return high

    most = end(mean, 20 * (mean + burst), 1 - TAIL)
    # Where none at all is likely this ends at 0.
    return min(1.0, most / n), end(0.0, mean, TAIL) / n


def too_few(share: float, n: int, look: float) -> str:
    """Say how many observations the interval of a quantile takes.

    Examples
    --------
    >>> too_few(0.01, 2000, 20.0), too_few(0.01, 100_000, 20.0)
    ('; an interval takes about 10000 requests', '')
    """
    burst = max(1.0, _burst(share, look)[1])
    needed = math.ceil(-math.log(TAIL) * burst / share)
    return f"; an interval takes about {float(f'{needed:.2g}'):.0f} requests" if needed > n else ""


def _odds(share: float, half: float) -> tuple[float, float]:
    """Interval of a share on the scale of log(p / (1 - p)): largest and smallest."""
    odds, step = share / (1 - share), half / (share * (1 - share))
    if step > 700:  # exp would overflow
        return 1.0, 0.0
    ends = (odds * math.exp(step), odds * math.exp(-step))
    return ends[0] / (1 + ends[0]), ends[1] / (1 + ends[1])


def tails(
    share: float, beyond: Floats, count: Floats, *, path: bool, look: float = 0.0
) -> tuple[float, float]:
    """Interval of the share of observations beyond a quantile.

    Examples
    --------
    >>> tails(0.1, np.array([9.0, 10.0, 11.0]), np.full(3, 100.0), path=False)
    (0.139, 0.071)
    """
    k = len(beyond)
    if k < 3:
        return 1.0, 0.0
    half = quantile_of_t(k - 1) * ratio_error(beyond, count, path=path)
    seen, known = _odds(share, half), _rare(share, float(count.sum()), look)
    return max(seen[0], known[0]), min(seen[1], known[1])
