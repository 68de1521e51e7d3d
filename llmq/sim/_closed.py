r"""Closed clients: requests that follow answers, through one engine or a fleet.

The loop goes from event to event in the order of time. At one instant: iterations end, the users
who were answered begin their pauses, those whose pause is over send (in the order in which the
pauses began), then iterations start; so an answer without think time makes a request that takes
part in the very next iteration. The i-th request
sent has the i-th lengths, whatever the policy, and the k-th answer is followed by the k-th pause:
two policies meet the same requests in the same order.

The calendar is asked for one iteration at a time, because every completion makes an arrival; that
still costs no work per resident request. A closed loop is never overloaded: the number present is
at most the number of users. Its verdict is therefore "stable", and its load is the measured
throughput over the capacity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.arrivals import Poisson
from llmq.model.closed import Closed
from llmq.model.engine import Engine
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies.contract.blocks import Policy, runs_together
from llmq.sim._dispatch import EngineChoice, Path, split
from llmq.sim._dispatcher import Dispatcher
from llmq.sim._fast.calendar.engine import CalendarEngine
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.prefix import reference_engine
from llmq.sim.results._log import Ends, Job, Log
from llmq.sim.results._relaxation import Relaxation
from llmq.sim.results._stability import Slopes, Verdict, judge

__all__ = ["follow", "lengths_of", "serve_closed", "throughput", "verdict_closed"]

# What happens first at one instant.
END, ANSWER, SEND, START = range(4)

Server = CalendarEngine | ReferenceEngine
Maker: TypeAlias = Callable[[Job, Log], Server]
Eligible = tuple[npt.NDArray[np.bool_], ...] | None


def lengths_of(work: Workload, requests: int, source: np.random.SeedSequence) -> Trace:
    """Draw classes and token counts in the order of sending; the times mean nothing."""
    return replace(work, arrivals=Poisson(1.0)).sample(requests, source)


def serve_closed(
    work: Workload,
    requests: int,
    source: np.random.SeedSequence,
    engines: tuple[Engine, ...],
    policy: Policy,
    *,
    choice: EngineChoice = "auto",
    rng: np.random.Generator,
    tokens: bool = False,
    eligible: Eligible = None,
) -> tuple[Trace, Path]:
    """Serve closed clients until a number of requests is answered."""
    clients = cast(Closed, work.arrivals)
    drawn = lengths_of(work, requests, source)
    pauses = clients.pauses(requests, np.random.default_rng(source.spawn(1)[0]))
    return follow(
        drawn,
        clients.users,
        engines,
        policy,
        pauses=pauses,
        choice=choice,
        rng=rng,
        tokens=tokens,
        eligible=eligible,
    )


def follow(
    lengths: Trace,
    users: int,
    engines: tuple[Engine, ...],
    policy: Policy,
    *,
    pauses: npt.ArrayLike = 0.0,
    choice: EngineChoice = "auto",
    rng: np.random.Generator | None = None,
    tokens: bool = False,
    eligible: Eligible = None,
) -> tuple[Trace, Path]:
    """Let users send given requests, in their order, each after the answer to its last one.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies import Sarathi
    >>> four = Trace([0.0] * 4, [8] * 4, [2] * 4)
    >>> chip = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> follow(four, 1, (chip,), Sarathi())[0].arrival
    array([0., 2., 4., 6.])
    """
    draws = np.random.default_rng(0) if rng is None else rng
    route = policy.blocks.route
    if route.moves:
        raise InputError(
            f"router {route.name!r} moves requests between engines, which closed clients do not "
            "support: use another router, or arrivals at a rate"
        )
    cached = any(engine.prefix_cache for engine in engines)
    together = runs_together(policy.blocks) and not tokens and route.sees <= {"work"} and not cached
    if choice == "vector" or (choice == "calendar" and not together):
        raise InputError(
            f"simulator {choice!r} cannot run closed clients of policy {policy.name!r}: "
            "use simulator='auto' or 'reference'",
            field="simulator",
            value=choice,
        )
    server = split(lengths, len(engines), policy, draws, eligible)
    state = draws.bit_generator.state
    rest = np.broadcast_to(np.asarray(pauses, dtype=np.float64), (len(lengths),)).tolist()
    simulators: list[Maker] = [CalendarEngine] if together and choice != "reference" else []
    for simulator in [*simulators, reference_engine]:
        draws.bit_generator.state = state
        loop = _Loop(lengths, users, engines, policy, rest, simulator, tokens)
        try:
            return loop.run(server, draws, eligible)
        except NotTogetherError:
            if choice == "calendar":
                raise
    raise AssertionError  # the reference simulator runs every policy


class _Loop:
    """Users, engines, and what happens next."""

    def __init__(
        self,
        lengths: Trace,
        users: int,
        engines: tuple[Engine, ...],
        policy: Policy,
        pauses: list[float],
        simulator: Maker,
        tokens: bool,
    ) -> None:
        n = len(lengths)
        self.lengths, self.policy, self.pauses = lengths, policy, pauses
        self.log = Log.empty(n, tokens=tokens)
        self.answers = self.log.finish = Ends(n)
        self.arrival = [math.inf] * n
        columns = (x.tolist() for x in (lengths.prompt, lengths.output, lengths.reasoning))
        shared = *columns, lengths.klass.tolist(), lengths.classes, lengths.prefix
        self.servers: list[Server] = [
            simulator(Job(engine, policy, self.arrival, *shared), self.log) for engine in engines
        ]
        self.present = [0] * len(engines)
        self.start = [0.0] * len(engines)
        self.place: list[int] = []
        # What is still to come: answers (when, request) and users about to send (when, pause).
        self.coming: list[tuple[float, int]] = []
        self.waiting: list[tuple[float, int]] = []
        self.begun = 0
        for _ in range(min(users, n)):
            self._pause(0.0)

    def _pause(self, since: float) -> None:
        if self.begun < len(self.pauses):
            heappush(self.waiting, (since + self.pauses[self.begun], self.begun))
            self.begun += 1

    def run(
        self,
        server: npt.NDArray[np.int64] | None,
        rng: np.random.Generator,
        eligible: Eligible,
    ) -> tuple[Trace, Path]:
        """Go on until every request is answered."""
        dispatcher = None
        if server is None:
            dispatcher = Dispatcher(
                self.servers, self.policy.blocks.route, self.lengths, eligible, rng
            )
        while True:
            time, kind, e = min(self._due(e) for e in range(len(self.servers)))
            if self.coming and (self.coming[0][0], ANSWER) < (time, kind):
                time, kind = self.coming[0][0], ANSWER
            if self.waiting and (self.waiting[0][0], SEND) < (time, kind):
                kind = SEND
            if kind == SEND:
                self._send(dispatcher, server)
            elif kind == ANSWER:
                self._pause(heappop(self.coming)[0])
            elif time < math.inf:
                self._step(kind, e)
            else:
                break
        for one in self.servers:
            if isinstance(one, ReferenceEngine):
                one.check_end()
        old = self.lengths
        trace = Trace(
            self.arrival,
            old.prompt,
            old.output,
            old.reasoning,
            old.klass,
            old.classes,
            old.source,
            old.notes,
            old.prefix,
        )
        tallies = tuple(one.tally for one in self.servers)
        return trace, Path(self.log, tallies, np.array(self.place, dtype=np.int64))

    def _due(self, e: int) -> tuple[float, int, int]:
        """When an engine goes on, and whether an iteration ends or starts."""
        one = self.servers[e]
        if isinstance(one, ReferenceEngine):
            return one.due(), END if one.running else START, e
        return (self.start[e] if self.present[e] else math.inf), START, e

    def _send(self, dispatcher: Dispatcher | None, server: npt.NDArray[np.int64] | None) -> None:
        now, _ = heappop(self.waiting)
        i = len(self.place)
        self.arrival[i] = now
        if dispatcher is not None:
            e = dispatcher.dispatch(i, now)
        else:
            assert server is not None
            e = int(server[i])
            self.servers[e].queue.append(i)
        self.place.append(e)
        if not self.present[e]:
            self.start[e] = max(self.start[e], now)
        self.present[e] += 1

    def _step(self, kind: int, e: int) -> None:
        """End or start an iteration (reference), or run a whole one (calendar)."""
        one = self.servers[e]
        if isinstance(one, CalendarEngine):
            one.advance(math.nextafter(self.start[e], math.inf))
            self.start[e] = one.tally.clock
        elif kind == END:
            one.complete()
        else:
            one.begin()
        for i in self.answers.new:
            self.present[e] -= 1
            heappush(self.coming, (self.answers[i], i))
        self.answers.new.clear()


def throughput(
    arrival: npt.NDArray[np.float64],
    klass: npt.NDArray[np.int64],
    classes: Sequence[str],
    measured: tuple[int, int],
) -> dict[str, float]:
    """Measure the requests per second of each class that closed clients sent."""
    first, stop = measured
    last = min(stop, arrival.shape[1] - 1)
    span = arrival[:, last] - arrival[:, first]
    sent = klass[:, first:last]
    rates = {}
    for code, name in enumerate(classes):
        count = np.sum(sent == code, axis=1)
        rates[name] = float(np.mean(np.divide(count, span, out=0.0 * span, where=span > 0)))
    return rates


def verdict_closed(
    clients: Closed, path: Slopes, load: tuple[float, float], relax: Relaxation
) -> Verdict:
    """Judge closed clients: never overloaded, but undecided where the start is all there is."""
    found = f"their throughput, an outcome, is {load[0]:.3g} of the capacity"
    if load[0] == 0:  # no user was answered and sent again within the measured requests
        load, found = (0.0, math.inf), "too few requests to measure their throughput"
    reason = (
        f"{clients.users} users wait for their answers, so at most {clients.users} requests are "
        f"present; {found}"
    )
    needed = relax.length(len(path.table))
    if path.requests >= needed:
        return replace(judge(path, load), status="stable", sentence=reason, needed=0)
    reason += (
        f". All users send at the start, and {path.requests} requests are "
        f"{path.requests / clients.users:.2g} of each: too few, {needed} may decide"
    )
    return replace(judge(path, load), status="undecided", sentence=reason, needed=needed)
