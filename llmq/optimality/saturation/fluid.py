r"""Fluid paths under priorities, exactly: a path that comes back larger, in the same direction.

Stations serve classes of work in a fixed order of priority. In the fluid model queues are real
numbers: class ``k`` gains from outside at rate ``a_k`` and from the class before it at that one's
output. A station gives its time to its classes in order: a class with a queue takes all that is
left; one without takes what flows in times ``m_k``, and the rest goes on. The path is piecewise
linear with rational breakpoints.

*Claim*: if the path from queues ``q`` reaches ``gamma q`` with ``gamma > 1``, the path never
empties: it repeats with everything ``gamma`` times as large, in periods ``gamma`` times as long;
the backlog grows linearly in time, below load 1 of each station. *Proof*: the rates depend only on
which queues are empty, so from ``gamma q`` the path is that from ``q``, stretched. The check is a
replay in fractions. It is *a* path: that it is the only one is not shown, which Dai (1996) asks for
before the stochastic network diverges as well, as for [G1].

Beyond two stations this finds what virtual stations cannot exclude; finding nothing is no proof of
stability (:func:`llmq.theory.stability.lyapunov.two_station` proves it).

Not covered: random routing, processor sharing, paths that depend on a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from llmq.errors import InputError
from llmq.result import Kind
from llmq.theory.region._certificate_record import Certificate, ratio, seal

__all__ = ["FluidCycle", "Stations", "certify_fluid", "fluid_cycle"]

_ZERO, _ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True, slots=True)
class Stations:
    """Classes of work at stations, each station with an order of priority.

    Parameters
    ----------
    station : tuple of int
        Station of each class.
    work : tuple of fractions.Fraction
        Time that a job of each class takes.
    after : tuple of int or None
        Class that a job goes on as; None leaves.
    arrivals : tuple of fractions.Fraction
        Jobs per unit of time from outside.
    order : tuple of int
        All classes, the first served first at its station.

    Raises
    ------
    InputError
        Lengths that differ, work that is not positive, an order that is not one of all classes, or
        a class that is reached again.

    Examples
    --------
    >>> trap = Stations((0, 1, 1, 0), (1, 2, 1, 2), (1, None, 3, None), (1, 0, 1, 0), (1, 3, 0, 2))
    >>> trap.scaled(Fraction(9, 10)).loads
    (Fraction(9, 10), Fraction(9, 10))
    """

    station: tuple[int, ...]
    work: tuple[Fraction, ...]
    after: tuple[int | None, ...]
    arrivals: tuple[Fraction, ...]
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        n = len(self.station)
        sizes = {len(x) for x in (self.work, self.after, self.arrivals, self.order)}
        if sizes != {n} or sorted(self.order) != list(range(n)):
            raise InputError("stations need one entry for each class, and an order of all classes")
        if not all(m > 0 for m in self.work) or not all(a >= 0 for a in self.arrivals):
            raise InputError("stations need positive work and arrivals that are not negative")
        object.__setattr__(self, "work", tuple(map(Fraction, self.work)))
        object.__setattr__(self, "arrivals", tuple(map(Fraction, self.arrivals)))
        for k in range(n):
            met, at = set(), k
            while (then := self.after[at]) is not None:
                met.add(at)
                at = then
                if at in met or not 0 <= at < n:
                    raise InputError(f"class {k} comes back, or goes on as a class that is not")

    @property
    def flow(self) -> tuple[Fraction, ...]:
        """Jobs of each class per unit of time, in the long run."""
        flow = list(self.arrivals)
        for first in range(len(flow)):
            at, new = self.after[first], self.arrivals[first]
            while at is not None:
                flow[at] += new
                at = self.after[at]
        return tuple(flow)

    @property
    def loads(self) -> tuple[Fraction, ...]:
        """Share of its time that each station must work."""
        flow = self.flow
        return tuple(
            sum((flow[k] * self.work[k] for k in self.at(s)), _ZERO)
            for s in range(max(self.station) + 1)
        )

    def at(self, station: int) -> tuple[int, ...]:
        """Return the classes of a station.

        Parameters
        ----------
        station : int
            Which.

        Returns
        -------
        tuple of int
            By priority.
        """
        return tuple(k for k in self.order if self.station[k] == station)

    def scaled(self, load: Fraction) -> Stations:
        """Return the stations with arrivals at a load.

        Parameters
        ----------
        load : fractions.Fraction
            Of the busiest station.

        Returns
        -------
        Stations
            All arrivals in proportion.
        """
        factor = Fraction(load) / max(self.loads)
        arrivals = tuple(a * factor for a in self.arrivals)
        return Stations(self.station, self.work, self.after, arrivals, self.order)


@dataclass(frozen=True, slots=True)
class FluidCycle:
    """A fluid path that comes back larger.

    Parameters
    ----------
    start : tuple of fractions.Fraction
        Queues at the beginning, jobs.
    times : tuple of fractions.Fraction
        Length of each straight piece, until the queues are ``growth`` times as long.
    growth : fractions.Fraction
        Above 1.
    kind, assumptions, source
        As in every result.
    """

    start: tuple[Fraction, ...]
    times: tuple[Fraction, ...]
    growth: Fraction
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def exact_slope(self) -> Fraction:
        """Growth of the total queue per unit of time, in the mean over a period."""
        return sum(self.start, _ZERO) * (self.growth - 1) / sum(self.times, _ZERO)


def _rates(net: Stations, empty: Sequence[bool]) -> list[Fraction] | None:
    """Jobs of each class that end per unit of time; None if the flows do not settle."""
    n = len(empty)
    out = [_ZERO] * n
    for _ in range(2 * n + 2):  # flows settle along the routes, at most so many steps long
        before = list(out)
        inflow = list(net.arrivals)
        for k, then in enumerate(net.after):
            if then is not None:
                inflow[then] += out[k]
        for s in range(max(net.station) + 1):
            left = _ONE
            for k in net.at(s):
                share = left if not empty[k] else min(left, inflow[k] * net.work[k])
                out[k], left = share / net.work[k], left - share
        if out == before:
            return out
    return None


def fluid_cycle(net: Stations, *, pieces: int = 60) -> FluidCycle | None:
    """Follow fluid paths from one queue alone until one comes back larger.

    Parameters
    ----------
    net : Stations
        The stations, with arrivals.
    pieces : int
        Straight pieces of a path after which to give up.

    Returns
    -------
    FluidCycle or None
        The first found; None if all paths that were followed empty, shrink or do not repeat.

    Examples
    --------
    >>> hops = Fraction(64, 768), Fraction(544, 768)
    >>> trap = Stations((0, 1, 1, 0), hops * 2, (1, None, 3, None), (1, 0, 1, 0), (1, 3, 0, 2))
    >>> fluid_cycle(trap.scaled(Fraction(9, 10))).growth  # a half-cycle has 153/37
    Fraction(23409, 1369)
    """
    n = len(net.station)
    for first in range(n):
        found = _path(net, [_ONE if k == first else _ZERO for k in range(n)], pieces)
        if found is not None:
            return found
    return None


def certify_fluid(net: Stations, found: FluidCycle) -> Certificate:
    """Certify that fluid queues grow for ever.

    Parameters
    ----------
    net : Stations
        The stations, with arrivals.
    found : FluidCycle
        A path of theirs that comes back larger.

    Returns
    -------
    Certificate
        Claim ``fluid_cycle``; ``proofs/check.py`` replays the path without this package.

    Examples
    --------
    >>> routes, exit_first = (1, None, 3, None), (1, 3, 0, 2)
    >>> stations = Stations((0, 1, 1, 0), (2, 3) * 2, routes, (1, 0, 1, 0), exit_first)
    >>> net = stations.scaled(Fraction(9, 10))
    >>> certify_fluid(net, fluid_cycle(net)).body["fluid"]["growth"]
    '729/529'
    """
    names = [f"class {k + 1}" for k in range(len(net.station))]
    classes = {
        names[k]: {
            "station": f"station {net.station[k] + 1}",
            "service": ratio(net.work[k]),
            "next": None if (then := net.after[k]) is None else names[then],
            "arrivals": ratio(net.arrivals[k]),
        }
        for k in range(len(names))
    }
    return seal(
        "fluid_cycle",
        {"classes": classes, "order": [names[k] for k in net.order]},
        fluid={
            "start": {name: ratio(q) for name, q in zip(names, found.start, strict=True)},
            "times": [ratio(t) for t in found.times],
            "growth": ratio(found.growth),
        },
    )


def _path(net: Stations, queues: list[Fraction], pieces: int) -> FluidCycle | None:
    seen = [(list(queues), 0)]
    times: list[Fraction] = []
    for _ in range(pieces):
        moved = _piece(net, queues)
        if moved is None:
            return None
        queues, length = moved
        times.append(length)
        for start, at in seen:
            if (growth := _multiple(start, queues)) is None:
                continue
            if growth <= 1:
                return None
            return FluidCycle(
                tuple(start),
                tuple(times[at:]),
                growth,
                kind=Kind.EXACT,
                assumptions=("fluid model, full iterations of one length", "priorities preempt"),
                source="fluid cycle [FC]",
            )
        seen.append((list(queues), len(times)))
    return None


def _piece(net: Stations, queues: list[Fraction]) -> tuple[list[Fraction], Fraction] | None:
    """Go on to where the next queue empties; None if none will or all are empty."""
    if not any(queues):
        return None
    out = _rates(net, [q == 0 for q in queues])
    if out is None:
        return None
    drift = [a - o for a, o in zip(net.arrivals, out, strict=True)]
    for k, then in enumerate(net.after):
        if then is not None:
            drift[then] += out[k]
    ends = [-q / d for q, d in zip(queues, drift, strict=True) if q > 0 and d < 0]
    if not ends:
        return None
    length = min(ends)
    return [q + d * length for q, d in zip(queues, drift, strict=True)], length


def _multiple(start: list[Fraction], end: list[Fraction]) -> Fraction | None:
    """By what factor the queues are longer, if by the same for all."""
    factor = sum(end, _ZERO) / sum(start, _ZERO)
    alike = factor > 0 and all(factor * a == b for a, b in zip(start, end, strict=True))
    return factor if alike else None
