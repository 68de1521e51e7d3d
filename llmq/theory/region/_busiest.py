r"""The busiest window of a trace: what must be computed in it, and how many engines that takes.

A trace need not be stationary, so its mean rate says little about its peak. Let ``d_i`` be the
latest time at which request ``i`` may end and meet its targets, and ``w_i`` its price under a bound
of the region (:mod:`llmq.theory.needs._facets`): no iteration of ``t`` seconds is worth more than
``t``.

*Demand of a window.* A request that arrives at ``s`` or later and is due by ``e`` is computed
within ``[s, e]`` if it meets its targets, as all its iterations lie between its arrival and its
end. ``N`` engines have ``N (e - s)`` seconds there, so if at most ``m`` requests may miss,

.. math:: N \ge \frac{\sum_{i:\ a_i \ge s,\ d_i \le e} w_i - W_m}{e - s},

``W_m`` the price of the ``m`` dearest. This holds on the path, for every policy at the settings of
the bound, for every window; it is the processor demand criterion of real-time scheduling (Baruah,
Rosier and Howell 1990). The window with the largest quotient is the busiest: no length has to be
chosen, because a window that is short against the time a request may take counts for little.

Lengths are tried in steps of a quarter, then finer about the best; any window gives a bound. For a
length the best start is found exactly: a window is the better for beginning as early as its last
deadline allows, so it ends at the deadline of a request.

*Load of a window*: its arrivals over its length, as if they went on for ever. Above ``N`` the
priced backlog grows by the difference, all through the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.slo import SLO
from llmq.model.trace import Trace
from llmq.theory.region._bounds import request_prices

__all__ = ["Window", "busiest", "demanded", "latest", "usual"]

Floats: TypeAlias = npt.NDArray[np.float64]

STEP, FINER, MOST = 1.25, 17, 60
# A window is this much longer than asked for, so that rounding does not shut out its own requests.
SLACK = 1e-9
LONG = 10.0


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a trace."""

    # start, end: seconds after the first arrival
    start: float
    end: float
    requests: int  # requests that arrive in it
    due: float  # engines that its demand takes, whatever the policy

    def cut(self, trace: Trace) -> tuple[Trace, dict[str, float]]:
        """Return what arrives in the window, and how often."""
        came = trace.arrival - trace.arrival[0]
        part = trace.take((came >= self.start) & (came <= self.end))
        counts = np.bincount(part.klass, minlength=len(part.classes)) / (self.end - self.start)
        named = zip(part.classes, counts, strict=True)
        return part, {name: float(rate) for name, rate in named if rate > 0}

    def __str__(self) -> str:
        length = self.end - self.start
        return (
            f"{self.requests:,} requests in {_clock(length)} ({self.requests / length:.4g} req/s), "
            f"from {_clock(self.start)} to {_clock(self.end)} after the first"
        )


def _clock(seconds: float) -> str:
    """Write a time as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def usual(trace: Trace, engine: Engine) -> Floats:
    """Return how long requests may take that keep up: ten times what they take alone.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> chip = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=512)
    >>> usual(Trace([0, 1], [8, 1024], [1, 5]), chip)
    array([10., 60.])
    """
    law, size = engine.law, engine.chunk
    chunks = -(-trace.prompt // size)
    prefill = chunks * law(np.minimum(trace.prompt, size), trace.prompt, mixed=True)
    further = (trace.output - 1) * law(1, trace.prompt + trace.output)
    return np.asarray(LONG * (prefill + further), dtype=np.float64)


def latest(trace: Trace, slo: SLO) -> Floats:
    """Return how long each request may take, from its arrival to its last token.

    Examples
    --------
    >>> latest(Trace([0, 1], [8, 8], [1, 5]), SLO(ttft=1.0, tpot=0.5))
    array([1., 3.])
    """
    visible = (trace.output - trace.reasoning).astype(np.float64)
    most = np.full(len(trace), np.inf if slo.e2e is None else slo.e2e)
    if slo.ttft is not None:
        further = np.inf if slo.tpot is None else slo.tpot
        with np.errstate(invalid="ignore"):
            stay = slo.ttft + np.where(visible > 1, further * (visible - 1), 0.0)
        most = np.minimum(most, stay)
    return most


def busiest(trace: Trace, engine: Engine, stay: Floats, misses: int = 0) -> Window:
    """Find the window whose demand takes the most engines.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> chip = Engine(BatchTime.affine(base=0.0, per_token=0.001))
    >>> calm, rush = np.arange(0, 1000, 10.0), 1000 + np.arange(0, 100, 0.1)
    >>> day = Trace(np.r_[calm, rush], 99, 1)
    >>> found = busiest(day, chip, np.full(len(day), 1.0))
    >>> 1000 <= found.start < found.end <= 1101, round(found.due, 2)
    (True, 0.98)
    """
    came, due = _times(trace, stay)
    prices = _Prices(trace, engine, misses)
    weight, spared = prices.largest()
    whole = float(due.max())
    steps = min(math.ceil(math.log(whole / min(float(stay.min()), whole)) / math.log(STEP)), MOST)
    search = _Search(came, due, weight, spared)
    found = max(search.best(whole / STEP**i) for i in range(steps + 1))
    near = [min(whole, found[1] * STEP**x) for x in np.linspace(-1, 1, FINER)]
    _, length, end = max(found, *(search.best(one) for one in near))
    held = (came >= end - length) & (due <= end)
    if held.any():
        # No request of the window begins earlier or is due later: a shorter window asks for more.
        start, end = float(came[held].min()), float(due[held].max())
    else:
        start, end = 0.0, whole
    inside = int(np.count_nonzero((came >= start) & (came <= end)))
    return Window(start, end, inside, prices.due(came, due, start, end))


def demanded(trace: Trace, engine: Engine, stay: Floats, window: Window, misses: int = 0) -> float:
    """Return how many engines the demand of a window takes.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> chip = Engine(BatchTime.affine(base=0.0, per_token=0.001))
    >>> day = Trace(np.arange(0, 100, 0.1), 99, 1)
    >>> demanded(day, chip, np.full(len(day), 0.1), Window(0.0, 10.0, 100, 1.0))
    0.99
    """
    came, due = _times(trace, stay)
    return _Prices(trace, engine, misses).due(came, due, window.start, window.end)


def _times(trace: Trace, stay: Floats) -> tuple[Floats, Floats]:
    """Arrival and latest end of each request, seconds after the first arrival."""
    if not trace.span > 0:
        raise InputError("all requests come at one time: the trace has no windows")
    if not np.isfinite(stay).all():
        raise InputError("every request needs a finite time that it may take")
    came = trace.arrival - trace.arrival[0]
    return came, came + stay


class _Prices:
    """What the requests of a trace cost under each bound of an engine."""

    def __init__(self, trace: Trace, engine: Engine, misses: int) -> None:
        # A row for each bound, a column for each request.
        self.weights = request_prices(engine, trace.prompt, trace.output)
        self.spared = np.zeros(len(self.weights))
        if misses:
            last = min(misses, len(trace))
            self.spared = np.partition(self.weights, -last, axis=1)[:, -last:].sum(axis=1)

    def largest(self) -> tuple[Floats, float]:
        """Prices under the bound that is the largest in the whole trace, and what may be spared."""
        facet = int(np.argmax(self.weights.sum(axis=1)))
        return self.weights[facet], float(self.spared[facet])

    def due(self, came: Floats, due: Floats, start: float, end: float) -> float:
        """Engines that a window takes: every bound holds, so the largest does."""
        inside = (came >= start) & (due <= end)
        demands = self.weights[:, inside].sum(axis=1) - self.spared
        return max(0.0, float(demands.max() / (end - start)))


class _Search:
    """The windows of a length, all of them at once."""

    def __init__(self, came: Floats, due: Floats, weight: Floats, spared: float) -> None:
        order = np.argsort(due, kind="stable")
        self.came, self.stay, self.weight = came, due - came, weight
        self.order, self.due, self.spared = order, due[order], spared

    def best(self, length: float) -> tuple[float, float, float]:
        """Engines, length and end of the window with the largest demand."""
        length *= 1 + SLACK
        priced = np.where(self.stay <= length, self.weight, 0.0)
        # Of what is due by the end of a window, what came before its start lies outside it: whoever
        # fits and came before the start is due by the end.
        before = np.concatenate([[0.0], np.cumsum(priced)])
        early = before[np.searchsorted(self.came, self.due - length)]
        demands = np.cumsum(priced[self.order]) - early
        best = int(np.argmax(demands))
        return float(demands[best] - self.spared) / length, length, float(self.due[best])
