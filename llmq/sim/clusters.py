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
Observations beyond a high quantile come in bursts, and a run that has seen few bursts underrates
their spread. Theory says what the spread is at least: a queue in heavy traffic looks anew every
:math:`\ell` requests (:mod:`llmq.sim.relaxation`), its bursts beyond a high level are excursions
of a Brownian motion, and the share of ``n`` observations beyond it has a variance of about
:math:`2 \ell p (1 - p) / n`. Twice that is taken, because the number of bursts is itself uncertain.
``experiments/coverage.py`` measures how often these intervals hold the truth.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["quantile_of_t", "ratio_error", "ratio_half", "tails", "wider"]

Floats: TypeAlias = npt.NDArray[np.float64]

# A correlation of batch means beyond this says that the path is too short for any interval.
MOST = 0.9
# Below this the correction for skewness is lost in rounding.
TINY = 1e-6
NORMAL = 1.959963984540054
# Excess variance of a share beyond a level: at most the first, for shares below SHARE / BURST.
BURST, SHARE = 4.0, 0.1


def quantile_of_t(degrees: int, level: float = 0.95) -> float:
    """Two-sided quantile of Student's law.

    Parameters
    ----------
    degrees : int
        Degrees of freedom.
    level : float
        Confidence.

    Returns
    -------
    float
        Standard errors.

    Examples
    --------
    >>> quantile_of_t(9)
    2.262
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def wider(values: Floats, level: float = 0.95) -> float:
    """By how much Student's interval grows where values are skewed.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Independent observations.
    level : float
        Confidence.

    Returns
    -------
    float
        Factor of ``t`` for the wider side, at least 1.

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

    Parameters
    ----------
    total, count : ndarray, shape (k,)
        Sum and number of the observations of each cluster.
    path : bool
        They are consecutive batches of one path: allow for the correlation of successive ones.

    Returns
    -------
    float
        Infinite for fewer than two clusters.

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

    Parameters
    ----------
    total, count : ndarray, shape (k,)
        Sum and number of the observations of each cluster.
    path : bool
        They are consecutive batches of one path.

    Returns
    -------
    float
        The wider side where clusters are skewed; infinite for fewer than two.

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


def tails(
    share: float, beyond: Floats, count: Floats, *, path: bool, look: float = 0.0
) -> tuple[float, float]:
    """Interval of the share of observations beyond a quantile.

    Parameters
    ----------
    share : float
        What lies beyond it, between 0 and 1.
    beyond, count : ndarray, shape (k,)
        Observations beyond the estimated quantile, and all observations, of each cluster.
    path : bool
        They are consecutive batches of one path.
    look : float
        Observations after which the queue looks anew; 0 where that is not known.

    Returns
    -------
    tuple of float
        Largest and smallest share: the quantiles there are the ends of the interval. (1, 0) for
        fewer than three clusters.

    Examples
    --------
    >>> tails(0.1, np.array([9.0, 10.0, 11.0]), np.full(3, 100.0), path=False)
    (0.139, 0.071)
    """
    k = len(beyond)
    if k < 3:
        return 1.0, 0.0
    small = min(share, 1 - share)
    excess = look * min(BURST, SHARE / small)
    # The shares of clusters are known up to one observation.
    least = max(1.0, excess) * share * (1 - share) / float(count.sum())
    half = max(
        quantile_of_t(k - 1) * ratio_error(beyond, count, path=path), NORMAL * math.sqrt(least)
    )
    odds, step = share / (1 - share), half / (share * (1 - share))
    if step > 700:  # exp would overflow
        return 1.0, 0.0
    ends = (odds * math.exp(step), odds * math.exp(-step))
    return ends[0] / (1 + ends[0]), ends[1] / (1 + ends[1])
