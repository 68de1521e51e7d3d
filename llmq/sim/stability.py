"""Is there a stationary mean at all? A verdict from theory and from the path.

Theory: the offered load against the region, a bound that holds for every policy. Path: the slope
of the number of requests present over the second half of the arrivals; a policy may be unstable
inside the region. Only if both agree is a run called stable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Estimate
from llmq.sim.stats import student

__all__ = ["Verdict", "judge", "offered_load"]

# Shares of the arrivals that may pile up: below the first a path counts as level, above the
# second as growing. The room between them is "undecided".
GROWS, LEVEL = 0.01, 0.05
PIECES = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """Stable, overloaded or undecided, and why.

    Parameters
    ----------
    status : {"stable", "overloaded", "undecided"}
        The verdict.
    load : float
        Offered load over the outer bound of the region: above 1 no policy is stable. NaN where the
        region is not known (pools that differ).
    load_inner : float
        The same over the inner bound: below 1 some policy is stable.
    growth : Estimate
        Requests per second that pile up, over the second half of the arrivals.
    sentence : str
        In words.
    """

    status: str
    load: float
    load_inner: float
    growth: Estimate
    sentence: str

    def __str__(self) -> str:
        return f"{self.status}: {self.sentence}"


def offered_load(
    engines: tuple[Engine, ...], mix: Mapping[str, RequestClass], rates: Mapping[str, float]
) -> tuple[float, float]:
    """Load of a fleet of equal engines, against the outer and the inner bound.

    Parameters
    ----------
    engines : tuple of Engine
        The fleet.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second.

    Returns
    -------
    tuple of float
        Outer and inner load; NaN for engines that differ, infinite for an infinite rate.
    """
    from llmq.theory.region import stability_region

    if any(engine != engines[0] for engine in engines[1:]):
        return math.nan, math.nan
    if not all(math.isfinite(rate) for rate in rates.values()):
        return math.inf, math.inf
    region = stability_region(Fleet({"all": (engines[0], len(engines))}), mix)
    return region.load_bracket(rates)


def judge(
    arrival: npt.NDArray[np.float64],
    finish: npt.NDArray[np.float64],
    load: tuple[float, float],
) -> Verdict:
    """Decide from the load and the path.

    Parameters
    ----------
    arrival, finish : ndarray, shape (replications, n)
        Seconds.
    load : tuple of float
        Outer and inner load.

    Returns
    -------
    Verdict
        Overloaded if the load exceeds 1 or the backlog surely grows; stable if the load is below
        the inner bound (or no bound is known) and it surely does not; otherwise undecided.
    """
    growth, rate = _growth(arrival, finish)
    outer, inner = load
    share = growth.mean / rate if rate > 0 and math.isfinite(rate) else math.nan
    path = f"the backlog changes by {growth.mean:+.3g} ± {growth.half_width:.2g} req/s"
    if outer > 1:
        return Verdict("overloaded", outer, inner, growth, f"load {outer:.3g} > 1 under any policy")
    if math.isfinite(share) and growth.low > GROWS * rate:
        reason = f"{path} although the load is {outer:.3g}: this policy does not carry it"
        return Verdict("overloaded", outer, inner, growth, reason)
    level = math.isfinite(share) and growth.high < LEVEL * rate
    if level and not inner >= 1:
        return Verdict("stable", outer, inner, growth, f"load {outer:.3g} < 1 and {path}")
    reason = f"load {outer:.3g} (inner bound {inner:.3g}) and {path}; simulate more requests"
    return Verdict("undecided", outer, inner, growth, reason)


def _growth(
    arrival: npt.NDArray[np.float64], finish: npt.NDArray[np.float64]
) -> tuple[Estimate, float]:
    """Estimate the requests per second that pile up over the second half of the arrivals."""
    n = arrival.shape[1]
    start, stop = n // 2, n - 1
    span = arrival[:, stop] - arrival[:, start]
    if n < 4 * PIECES or not np.all(span > 0):
        return Estimate(math.nan, math.inf, 0, "too short", n), math.nan
    rate = float(np.mean((stop - start) / span))
    slopes = []
    for came, left in zip(arrival, np.sort(finish, axis=1), strict=True):
        marks = np.linspace(came[start], came[stop], PIECES + 1)
        present = np.searchsorted(came, marks, "right") - np.searchsorted(left, marks, "right")
        slopes.append(np.diff(present) / np.diff(marks))
    table = np.array(slopes)
    many = len(table) > 1
    parts = table.mean(axis=1) if many else table[0]
    method = "replications" if many else f"{PIECES} pieces of one path"
    return Estimate(float(table.mean()), student(parts), len(parts), method, n), rate
