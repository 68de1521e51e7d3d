"""The dispatcher, which asks the router, and fleets in which requests move between engines.

A router that looks at the engines is asked at each arrival, when every engine has ended all
iterations that end by then and started those that start before; the tokens of an iteration in
progress still count as work.

Where requests move, the engines go on together in the order of time. At one instant: iterations
end, requests whose reasoning is over are sent on (in the order of their arrival), then arrivals are
placed, then iterations start. A transfer takes its KV tokens over the link; it waits until both
ends are free, and the request runs nowhere meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from llmq.errors import PolicyError
from llmq.model.trace import Trace
from llmq.policies.contract.checks import BrokenRuleError, move_of, pick_of
from llmq.policies.contract.routers import Router, Signals
from llmq.policies.contract.view import View
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.rows import Row
from llmq.sim.results._log import Tally

__all__ = ["Dispatcher", "Server", "migrate"]

NOTHING = np.zeros(0)


class Server(Protocol):
    """One engine, as the dispatcher uses it."""

    queue: list[int]
    tally: Tally

    def work(self, now: float) -> float:
        """Outstanding tokens."""

    def advance(self, until: float) -> None:
        """Go on."""


@dataclass
class Dispatcher:
    """The engines of a fleet and the router before them."""

    servers: Sequence[Server]  # the engines
    route: Router  # who chooses
    trace: Trace  # the requests
    eligible: tuple[npt.NDArray[np.bool_], ...] | None  # for each class which engines may serve it
    rng: np.random.Generator  # source of randomness
    arrival: list[float] = field(init=False)
    klass: list[int] = field(init=False)
    draws: list[float] = field(init=False)
    allowed: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.arrival, self.klass = self.trace.arrival.tolist(), self.trace.klass.tolist()
        self.draws = self.rng.random(len(self.arrival)).tolist()
        everywhere = list(range(len(self.servers)))
        self.allowed = [everywhere for _ in self.trace.classes]
        if self.eligible is not None:
            self.allowed = [np.flatnonzero(row).tolist() for row in self.eligible]

    def places(self, i: int) -> list[int]:
        """Return the engines that may serve a request."""
        return self.allowed[self.klass[i]]

    def dispatch(self, i: int, now: float) -> int:
        """Send an arrival to an engine."""
        places = self.places(i)
        with _told(i, now):
            pick = places[pick_of(self.route, self.signals(i, now), len(places))]
        self.servers[pick].queue.append(i)
        return pick

    def signals(self, i: int, now: float) -> Signals:
        """Collect what the router looks at."""
        sees, ours = self.route.sees, [self.servers[p] for p in self.places(i)]
        whole = cast("list[ReferenceEngine]", ours)
        requests = work = kv = NOTHING
        counts: dict[str, npt.NDArray[np.float64]] = {}
        views: tuple[View, ...] = ()
        if "work" in sees:
            work = np.array([s.work(now) for s in ours])
        if "requests" in sees:
            requests = np.array([float(len(s.present())) for s in whole])
        if "kv" in sees:
            kv = np.array([float(sum(r.footprint() for r in s.present())) for s in whole])
        if "counts" in sees:
            codes = [[self.klass[r.index] for r in s.present()] for s in whole]
            for code, name in enumerate(self.trace.classes):
                counts[name] = np.array([float(row.count(code)) for row in codes])
        if "views" in sees:
            views = tuple(s.view(now) for s in whole)
        name = self.trace.classes[self.klass[i]] if "klass" in sees else ""
        return Signals(name, self.draws[i], requests, work, kv, counts, views)


@contextmanager
def _told(i: int, now: float) -> Iterator[None]:
    """Let a refusal of a router say for which request it was asked, and when."""
    try:
        yield
    except BrokenRuleError as error:
        raise PolicyError(
            f"{error}, asked for request {i} at t = {now:.6g} s", rule=str(error), time=now
        ) from error


def migrate(dispatcher: Dispatcher, link: float) -> npt.NDArray[np.int64]:
    """Run a fleet in which requests move on when their reasoning ends."""
    servers = cast("Sequence[ReferenceEngine]", dispatcher.servers)
    chosen: list[int] = []
    # When the sending and the receiving side of each engine's link is free again.
    busy = np.zeros((2, len(servers)))
    n = len(dispatcher.arrival)
    while True:
        now = min(server.due() for server in servers)
        if len(chosen) < n:
            now = min(now, dispatcher.arrival[len(chosen)])
        if math.isinf(now):
            for server in servers:
                server.check_end()
            return np.array(chosen, dtype=np.int64)
        for server in servers:
            if server.running and server.clock <= now:
                server.complete()
        crossed = [(row.index, place, row) for place, s in enumerate(servers) for row in s.crossed]
        for server in servers:
            server.crossed = []
        for _, place, row in sorted(crossed, key=lambda item: item[0]):
            _move_on(dispatcher, servers, place, row, now, busy, link)
        while len(chosen) < n and dispatcher.arrival[len(chosen)] <= now:
            chosen.append(dispatcher.dispatch(len(chosen), now))
        for server in servers:
            if not server.running and server.due() <= now:
                server.begin()


def _move_on(
    dispatcher: Dispatcher,
    servers: Sequence[ReferenceEngine],
    place: int,
    row: Row,
    now: float,
    busy: npt.NDArray[np.float64],
    link: float,
) -> None:
    """Ask the router where a request goes on, and send it there."""
    here = servers[place]
    if row not in here.rows:
        return
    places = dispatcher.places(row.index)
    seat = here.present().index(row)
    with _told(row.index, now):
        signals = dispatcher.signals(row.index, now)
        target = places[move_of(dispatcher.route, signals, places.index(place), seat, len(places))]
    if target == place:
        return
    here.part(row)
    ready = max(now, busy[0, place], busy[1, target]) + row.host / link
    busy[0, place] = busy[1, target] = ready
    servers[target].receive(row, now, float(ready))
