r"""Means from cycles: where the system empties, the path starts anew.

A request that arrives at an empty system begins a *cycle*. If the arrivals are a renewal process
and nothing else remembers the past, cycles are independent and alike, also in a fleet, and nothing
has to be thrown away as warm-up. With ``Y`` the sum of a latency over the requests of a cycle and
``N`` their number, the stationary mean is a ratio, and the interval is that of Crane and Iglehart
(1975):

.. math:: r = \frac{E[Y]}{E[N]}, \qquad
          \hat r \pm t \, \frac{s(Y - \hat r N)}{\bar N \sqrt{C}}, \quad C \text{ cycles}.

At high load most of ``Y`` is in few cycles, and ``Y - r N`` is so skewed that ``t`` is too
small; it is corrected as in :mod:`llmq.sim.results._clusters`.

Which cycles count must not depend on how they end. Counting those that *end* in time favours short
ones, a bias that more replications do not cure. So the cycles that *begin* among the first 90 % of
the arrivals count, to their end (their number is a stopping time: Wald's identity); the rest of the
path is there to let the last of them end.

Not covered: arrivals in phases (MMPP), routers and policies that remember something of the past
while the system is empty. A rank correlation of successive cycles of more than four standard errors
is refused; a weaker one passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.result import Estimate
from llmq.sim.results._clusters import wider
from llmq.sim.results._stats import student

__all__ = ["Cycles", "cycles", "ratio"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

BEGIN = 0.9
LEAST = 30
# Share of the paths whose last cycle may be cut off: what is lost with them biases the ratio.
CUT = 0.05
CORRELATED = 4.0
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Cycles:
    """Where each path starts anew."""

    of: Ints  # cycle of each request, counted through all paths; shape (replications, n)
    path: Ints  # path of each cycle; shape (cycles,)
    counted: npt.NDArray[np.bool_]  # whether it began in time and ended; shape (cycles,)
    cut: int  # paths whose last cycle that began in time did not end


def cycles(arrival: Floats, finish: Floats) -> Cycles:
    """Find the requests that arrive at an empty system.

    Examples
    --------
    >>> import numpy as np
    >>> found = cycles(np.array([[0.0, 1.0, 5.0, 9.0]]), np.array([[2.0, 3.0, 6.0, 9.5]]))
    >>> found.of.tolist(), found.counted.tolist(), found.cut
    ([[0, 0, 1, 2]], [True, True, False], 0)
    """
    size, n = arrival.shape
    first = np.ones((size, n), dtype=bool)
    first[:, 1:] = np.maximum.accumulate(finish, axis=1)[:, :-1] <= arrival[:, 1:]
    path, place = np.nonzero(first)
    in_time = place < max(1, int(BEGIN * n))
    ends = np.isin(np.arange(size), path[~in_time])
    # Of a path without a later start, the last cycle is still going on.
    last = np.searchsorted(path, np.arange(size), side="right") - 1
    counted = in_time
    counted[last[~ends]] = False
    of = np.cumsum(first.ravel()).reshape(size, n) - 1
    return Cycles(of, path, counted, int(size - ends.sum()))


def ratio(found: Cycles, total: Floats, count: Floats, *, least: int = LEAST) -> Estimate:
    """Estimate a mean from cycles.

    Examples
    --------
    >>> import numpy as np
    >>> came = np.arange(0.0, 100.0)[None]
    >>> stay = np.tile([1.5, 0.25], 50)[None]
    >>> ratio(cycles(came, came + stay), stay, np.ones((1, 100)))
    Estimate(mean=0.875, half_width=0.0, n=45, method='regenerative cycles', observations=90)
    """
    size, n = found.of.shape
    if found.cut > CUT * size:
        raise InputError(
            f"in {found.cut} of {size} paths the system never empties after request "
            f"{int(BEGIN * n)} of {n}: the last cycle is cut off, which biases the estimate. "
            "Simulate longer paths (requests=), or use run.metric(), which needs no empty system",
            cut=found.cut,
        )
    keep, of = found.counted, found.of.ravel()
    y: Floats = np.bincount(of, total.ravel(), len(keep)).astype(np.float64)
    m: Floats = np.bincount(of, count.ravel(), len(keep)).astype(np.float64)
    number = int(keep.sum())
    if number < least:
        raise InputError(
            f"only {number} regenerative cycles in {size} x {n} requests, an interval needs "
            f"{least}: the system seldom empties. Simulate more requests, or use run.metric(), "
            "which needs no empty system",
            cycles=number,
        )
    _independent(y, m, found)
    if not m[keep].sum() > 0:
        raise InputError("no request of the cycles has this metric", cycles=number)
    mean = float(y[keep].sum() / m[keep].sum())
    off = y[keep] - mean * m[keep]
    half = student(off) * wider(off) / float(m[keep].mean())
    return Estimate(mean, half, number, "regenerative cycles", int(m[keep].sum()))


def _independent(total: Floats, count: Floats, found: Cycles) -> None:
    """Refuse cycles that go with the one before them."""
    keep = found.counted[:-1] & found.counted[1:] & (found.path[:-1] == found.path[1:])
    pairs = int(keep.sum())
    if pairs < LEAST:
        return
    for values in (total, count):
        here, there = _ranks(values[:-1][keep]), _ranks(values[1:][keep])
        if min(np.ptp(here), np.ptp(there)) == 0:
            continue
        correlation = float(np.corrcoef(here, there)[0, 1])
        if abs(correlation) * pairs**0.5 > CORRELATED:
            raise InputError(
                f"successive cycles are correlated (rank correlation {correlation:.2g} over "
                f"{pairs} pairs): something lives on while the system is empty, such as a phase "
                "of the arrivals or a router's memory. Use run.metric()",
                correlation=correlation,
            )


def _ranks(values: Floats) -> Floats:
    """Ranks, ties sharing theirs."""
    # Equal stays differ in their last digits, by more the later they are: not a rank to go by.
    step = ROUNDING * float(np.abs(values).max(initial=0.0)) or 1.0
    _, place, often = np.unique(np.rint(values / step), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(often) - often / 2)[place], dtype=np.float64)
