"""Is there a stationary mean at all, and has the path seen it? A verdict from theory and path.

Theory: the offered load against the region, a bound that holds for every policy; and the relaxation
time at that load (:mod:`llmq.sim.results._relaxation`). Path: the slope of the number of requests
present over the second half of the arrivals, since a policy may be unstable inside the region; and
how much the path says of itself. A run is called

* *overloaded* if the load exceeds 1, or if the backlog grows faster than that of a queue at load 1
  would and the path is long against the time that a request decodes;
* *stable* if the load is below the inner bound (or no bound is known), the backlog does not grow,
  the paths are as long as the relaxation time asks for, and their own batch means agree with that:
  at least half as many independent looks, and waits that no longer rise;
* *undecided* otherwise. ``needed`` says how long the paths must be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Estimate
from llmq.sim.results._relaxation import ENDLESS, LOOKS, Relaxation
from llmq.sim.results._stats import student

__all__ = ["Slopes", "Verdict", "batch", "judge", "offered_load", "slopes"]

Floats = npt.NDArray[np.float64]

# Shares of the arrivals that may pile up: below the first a path counts as level, above the
# second as growing. The room between them is "undecided".
GROWS, LEVEL = 0.01, 0.05
# Requests by which a level backlog may differ between two moments.
WHOLE = 2
PIECES = 5
# Pieces of the measured part of a path whose waits are compared.
WAITS = 32
# Standard errors by which the second half of the waits may exceed the first, from so many paths.
RISES, LEAST = 4.0, 8
# Waits that vary by less than this, relative to their mean, vary by rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Verdict:
    """Stable, overloaded or undecided, and why."""

    status: str  # the verdict
    load: float  # offered load over the outer bound of the region: above 1 no policy is stable
    load_inner: float  # the same over the inner bound: below 1 some policy is stable
    # requests per second that pile up, over the second half of the arrivals; 0 with an
    # infinite interval where a path is too short to see
    growth: Estimate
    sentence: str  # in words
    # requests of a path that would decide, where the paths are too short; 0 where they are
    # not
    needed: int = 0
    # CPU-seconds that this would take at the pace of the run; 0 where that is not known. It
    # differs from run to run, so it is in no sentence and no comparison
    seconds: float = field(default=0.0, compare=False)

    @property
    def short(self) -> bool:
        """Whether the paths are too short for an interval of a stationary value."""
        return self.needed > 0

    def __str__(self) -> str:
        cost = f" (about {self.seconds:.1g} CPU-seconds)" if self.seconds > 0 else ""
        return f"{self.status}: {self.sentence}{cost}"


def offered_load(
    engines: tuple[Engine, ...],
    mix: Mapping[str, RequestClass],
    rates: Mapping[str, float],
    eligible: Sequence[npt.NDArray[np.bool_]] | None = None,
) -> tuple[float, float]:
    """Load of a fleet, against the outer and the inner bound."""
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
    # Hits are the business of the caller, who knows the names of a trace and passes what is left.
    hits = 0 if any(engine.prefix_cache for engine in engines) else None
    return stability_region(fleet, mix, hits=hits).load_bracket(rates)


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """What paths say of themselves."""

    # requests per second that pile up over the second half of the arrivals, in pieces of
    # equal length; NaN where a path is too short; shape (replications, pieces)
    table: Floats
    rate: Floats  # arrivals per second of the same stretch; shape (replications,)
    requests: int  # requests of a path
    # mean time to first token in consecutive pieces of the measured part; no pieces where
    # that is too short; shape (replications, pieces)
    waits: Floats
    # variance of the time to first token over the measured part; shape (replications,)
    spread: Floats
    measured: int  # requests of the measured part

    def joined(self, other: Slopes) -> Slopes:
        """Append other paths of the same simulation."""
        return Slopes(
            np.concatenate((self.table, other.table)),
            np.concatenate((self.rate, other.rate)),
            self.requests,
            np.concatenate((self.waits, other.waits)),
            np.concatenate((self.spread, other.spread)),
            self.measured,
        )


def slopes(
    arrival: Floats,
    finish: Floats,
    first: Floats | None = None,
    measured: tuple[int, int] | None = None,
) -> Slopes:
    """Measure how the number of requests present changes, and how waits vary.

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
    begin, end = (0, n) if measured is None else measured
    pieces = WAITS if first is not None and end - begin >= 2 * WAITS else 0
    waits, spread = np.empty((size, pieces)), np.zeros(size)
    if first is not None and pieces:
        stays = (first - arrival)[:, begin:end]
        spread = stays.var(axis=1)
        marks = np.linspace(0, end - begin, pieces + 1).astype(int)
        waits = np.add.reduceat(stays, marks[:-1], axis=1) / np.diff(marks)
    return Slopes(table, rate, n, waits, spread, end - begin)


def batch(load: tuple[float, float]) -> Verdict:
    """Judge requests that all come at one time."""
    growth = Estimate(0.0, math.inf, 0, "one batch")
    words = "all requests come at one time: a batch has no steady state, its times are facts of it"
    return Verdict("undecided", *load, growth, words)


def judge(path: Slopes, load: tuple[float, float], relax: Relaxation | None = None) -> Verdict:
    """Decide from the load and the path."""
    growth, rate = _growth(path)
    outer, inner = load
    paths, n = len(path.table), path.requests
    seen = math.isfinite(growth.half_width) and rate > 0
    words = (
        f"the backlog changes by {growth.mean:+.3g} ± {growth.half_width:.2g} req/s"
        if seen
        else "the paths are too short to see whether the backlog grows"
    )
    if outer > 1:
        words = f"load {outer:.3g} > 1 under any policy at these settings"
        return Verdict("overloaded", outer, inner, growth, words)
    # At load 1 a backlog grows too, for a while: only more than that says that it always will. And
    # requests are whole: equal paths, none of which varies, may gain one and miss one to come.
    most = GROWS + (relax.critical(n) / (n / 2) if relax else 0.0) + WHOLE / (n / 2)
    settled = relax is None or n >= relax.stays * relax.stay
    if seen and settled and growth.low > most * rate:
        reason = f"{words} although the load is {outer:.3g}: this policy does not carry it"
        return Verdict("overloaded", outer, inner, growth, reason)
    needed = _needed(path, relax)
    level = seen and growth.high < LEVEL * rate
    if level and not needed and not inner >= 1:
        return Verdict("stable", outer, inner, growth, f"load {outer:.3g} < 1 and {words}")
    if not level:
        needed = max(needed, 4 * n)
    reason = f"load {outer:.3g} (inner bound {inner:.3g}) and {words}"
    if needed >= ENDLESS:
        reason += "; no path decides so close to saturation"
    elif needed:
        reason += f"; {paths} x {n} requests are too few, {paths} x {needed} may decide"
    else:
        reason += ": whether this policy carries it is not known"
    return Verdict("undecided", outer, inner, growth, reason, needed)


def _needed(path: Slopes, relax: Relaxation | None) -> int:
    """Count the requests of a path that would do, or 0 where these do."""
    if relax is None:
        return 0
    paths, n = len(path.table), path.requests
    least = relax.length(paths)
    if n < least:
        return least
    return 2 * n if _looks(path) < LOOKS / 2 or _rises(path) else 0


def _looks(path: Slopes) -> float:
    """Count the independent looks that the batch means of the waits speak for."""
    paths, pieces = path.waits.shape
    if not pieces:
        return math.inf
    whole = float(path.spread.mean() + np.var(path.waits.mean(axis=1)))
    # At least 32 means in all, each as long as that allows.
    parts = min(pieces, -(-WAITS // paths))
    means = path.waits[:, : pieces // parts * parts].reshape(paths, parts, -1).mean(axis=2)
    if whole <= (ROUNDING * float(means.mean())) ** 2:
        return math.inf
    error = float(np.var(means, ddof=1)) / means.size
    return whole / error if error > 0 else math.inf


def _rises(path: Slopes) -> bool:
    """Whether waits still grow from the first to the second half of the measured part."""
    paths, pieces = path.waits.shape
    if paths < LEAST or not pieces:
        return False
    half = pieces // 2
    gap = path.waits[:, half:].mean(axis=1) - path.waits[:, :half].mean(axis=1)
    least = RISES * float(np.std(gap, ddof=1)) / math.sqrt(paths)
    # One per cent is lost in the interval, and may be rounding.
    return float(gap.mean()) > max(least, GROWS * float(path.waits.mean()))


def _growth(path: Slopes) -> tuple[Estimate, float]:
    """Estimate the requests per second that pile up, and the arrivals per second."""
    table, n = path.table, path.requests
    if np.isnan(table).any():
        return Estimate(0.0, math.inf, 0, "too short", n), 0.0
    many = len(table) > 1
    parts = table.mean(axis=1) if many else table[0]
    method = "replications" if many else f"{PIECES} pieces of one path"
    growth = Estimate(float(table.mean()), student(parts), len(parts), method, n)
    return growth, float(np.mean(path.rate))
