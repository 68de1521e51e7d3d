"""Is there a stationary mean at all? A verdict from theory and from the path.

Theory: the offered load against the region, a bound that holds for every policy. Path: the slope
of the number of requests present over the second half of the arrivals; a policy may be unstable
inside the region. Only if both agree is a run called stable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Estimate
from llmq.sim.stats import student

__all__ = ["Slopes", "Verdict", "judge", "offered_load", "slopes"]

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
        Offered load over the outer bound of the region: above 1 no policy is stable.
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
    engines: tuple[Engine, ...],
    mix: Mapping[str, RequestClass],
    rates: Mapping[str, float],
    eligible: Sequence[npt.NDArray[np.bool_]] | None = None,
) -> tuple[float, float]:
    """Load of a fleet, against the outer and the inner bound.

    Parameters
    ----------
    engines : tuple of Engine
        The fleet.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second.
    eligible : sequence of ndarray of bool, shape (n_classes,) of (n_engines,), optional
        Which engines may serve a class; all of them if not given.

    Returns
    -------
    tuple of float
        Outer and inner load; infinite for an infinite rate, and the second also where no schedule
        is known.
    """
    from llmq.theory.region import stability_region

    if not all(math.isfinite(rate) for rate in rates.values()):
        return math.inf, math.inf
    allowed = np.ones((len(mix), len(engines)), bool) if eligible is None else np.stack(eligible)
    pools: list[tuple[Engine, list[bool], int]] = []
    for engine, column in zip(engines, allowed.T.tolist(), strict=True):
        same = next((i for i, p in enumerate(pools) if p[:2] == (engine, column)), None)
        if same is None:
            pools.append((engine, column, 1))
        else:
            pools[same] = (engine, column, pools[same][2] + 1)
    names = {
        name: tuple(f"pool {i}" for i, (_, may, _) in enumerate(pools) if may[j])
        for j, name in enumerate(mix)
    }
    fleet = Fleet({f"pool {i}": (one, n) for i, (one, _, n) in enumerate(pools)}, eligible=names)
    return stability_region(fleet, mix).load_bracket(rates)


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """How the number of requests present changes over the second half of the arrivals.

    Parameters
    ----------
    table : ndarray, shape (replications, pieces)
        Requests per second that pile up, in pieces of equal length; NaN where a path is too short.
    rate : ndarray, shape (replications,)
        Arrivals per second of the same stretch.
    requests : int
        Requests of a path.
    """

    table: npt.NDArray[np.float64]
    rate: npt.NDArray[np.float64]
    requests: int


def slopes(arrival: npt.NDArray[np.float64], finish: npt.NDArray[np.float64]) -> Slopes:
    """Measure how the number of requests present changes.

    Parameters
    ----------
    arrival, finish : ndarray, shape (replications, n)
        Seconds.

    Returns
    -------
    Slopes
        Of each path.

    Examples
    --------
    >>> came = np.arange(40.0)[None]
    >>> float(slopes(came, 2 * came).table.mean())
    0.526
    """
    size, n = arrival.shape
    start, stop = n // 2, n - 1
    table = np.full((size, PIECES), np.nan)
    span = arrival[:, stop] - arrival[:, start]
    rate = np.divide(stop - start, span, out=np.full(size, np.nan), where=span > 0)
    if n >= 4 * PIECES:
        left = np.sort(finish, axis=1)
        for r in np.flatnonzero(span > 0):
            marks = np.linspace(arrival[r, start], arrival[r, stop], PIECES + 1)
            came = np.searchsorted(arrival[r], marks, "right")
            present = came - np.searchsorted(left[r], marks, "right")
            table[r] = np.diff(present) / np.diff(marks)
    return Slopes(table, rate, n)


def judge(path: Slopes, load: tuple[float, float]) -> Verdict:
    """Decide from the load and the path.

    Parameters
    ----------
    path : Slopes
        How the number of requests present changes.
    load : tuple of float
        Outer and inner load.

    Returns
    -------
    Verdict
        Overloaded if the load exceeds 1 or the backlog surely grows; stable if the load is below
        the inner bound (or no bound is known) and it surely does not; otherwise undecided.
    """
    growth, rate = _growth(path)
    outer, inner = load
    share = growth.mean / rate if rate > 0 and math.isfinite(rate) else math.nan
    words = f"the backlog changes by {growth.mean:+.3g} ± {growth.half_width:.2g} req/s"
    if outer > 1:
        return Verdict("overloaded", outer, inner, growth, f"load {outer:.3g} > 1 under any policy")
    if math.isfinite(share) and growth.low > GROWS * rate:
        reason = f"{words} although the load is {outer:.3g}: this policy does not carry it"
        return Verdict("overloaded", outer, inner, growth, reason)
    level = math.isfinite(share) and growth.high < LEVEL * rate
    if level and not inner >= 1:
        return Verdict("stable", outer, inner, growth, f"load {outer:.3g} < 1 and {words}")
    reason = f"load {outer:.3g} (inner bound {inner:.3g}) and {words}; simulate more requests"
    return Verdict("undecided", outer, inner, growth, reason)


def _growth(path: Slopes) -> tuple[Estimate, float]:
    """Estimate the requests per second that pile up, and the arrivals per second."""
    table, n = path.table, path.requests
    if np.isnan(table).any():
        return Estimate(math.nan, math.inf, 0, "too short", n), math.nan
    many = len(table) > 1
    parts = table.mean(axis=1) if many else table[0]
    method = "replications" if many else f"{PIECES} pieces of one path"
    growth = Estimate(float(table.mean()), student(parts), len(parts), method, n)
    return growth, float(np.mean(path.rate))
