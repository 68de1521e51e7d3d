"""One path through a fleet: who serves which request, and the engines that serve them.

A router without state splits the trace beforehand and every engine runs by itself. One that looks
at the engines is asked at each arrival, when every engine has started all iterations that start
before it; the tokens of an iteration in progress still count as work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.trace import Trace
from llmq.policies.contract.blocks import Policy, runs_together
from llmq.policies.contract.checks import split_of
from llmq.sim._dispatcher import Dispatcher, Server, migrate
from llmq.sim._fast.calendar.engine import CalendarEngine
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._fast.pressure import PressureEngine, fits
from llmq.sim._reference.audit import Audit
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.prefix import reference_engine
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["EngineChoice", "Path", "serve", "split"]

EngineChoice = Literal["auto", "vector", "calendar", "reference"]
Maker: TypeAlias = Callable[[Job, Log], Server]


@dataclass(frozen=True, slots=True)
class Path:
    """What happened on one path."""

    log: Log  # event times by request
    tallies: tuple[Tally, ...]  # sums by engine
    server: npt.NDArray[np.int64]  # engine that served each request; shape (n,)


def serve(
    trace: Trace,
    engines: tuple[Engine, ...],
    policy: Policy,
    *,
    choice: EngineChoice = "auto",
    rng: np.random.Generator,
    tokens: bool = False,
    eligible: tuple[npt.NDArray[np.bool_], ...] | None = None,
    link: float = math.inf,
    check: bool = False,
) -> Path:
    """Serve a trace to the last token."""
    route = policy.blocks.route
    # Of what the engines hold, the calendar can only tell the outstanding tokens.
    cached = any(engine.prefix_cache for engine in engines)
    together = runs_together(policy.blocks) and not tokens and route.sees <= {"work"} and not cached
    if choice == "calendar" and not together:
        reason = "records no token times" if tokens else f"cannot run policy {policy.name!r}"
        reason = "knows no prefix cache" if cached else reason
        raise InputError(f"simulator 'calendar' {reason}: use simulator='reference' or 'auto'")
    server = split(trace, len(engines), policy, rng, eligible)
    if choice != "reference" and together:
        try:
            make: Maker = CalendarEngine
            return _run(trace, engines, policy, make, server, tokens, eligible, rng, link)
        except NotTogetherError:
            if choice == "calendar":
                raise
    heavy = server is not None and not check and not cached and fits(policy, engines, trace)
    if choice == "auto" and heavy:
        return _run(trace, engines, policy, PressureEngine, server, tokens, eligible, rng, link)
    make = _audited if check else reference_engine
    return _run(trace, engines, policy, make, server, tokens, eligible, rng, link)


def split(
    trace: Trace,
    engines: int,
    policy: Policy,
    rng: np.random.Generator,
    eligible: tuple[npt.NDArray[np.bool_], ...] | None,
) -> npt.NDArray[np.int64] | None:
    """Choose the engine of every request beforehand, where the router needs no state."""
    route = policy.blocks.route
    if eligible is None:
        return split_of(route, len(trace), engines, rng)
    server = np.zeros(len(trace), dtype=np.int64)
    # Classes that may use the same engines are dealt out together.
    for mask in {tuple(row.tolist()) for row in eligible}:
        mine = np.isin(trace.klass, [c for c, row in enumerate(eligible) if tuple(row) == mask])
        places = np.flatnonzero(mask)
        chosen = split_of(route, int(mine.sum()), len(places), rng)
        if chosen is None:
            return None
        server[mine] = places[chosen]
    return server


def _run(
    trace: Trace,
    engines: tuple[Engine, ...],
    policy: Policy,
    simulator: Maker,
    server: npt.NDArray[np.int64] | None,
    tokens: bool,
    eligible: tuple[npt.NDArray[np.bool_], ...] | None,
    rng: np.random.Generator,
    link: float,
) -> Path:
    log = Log.empty(len(trace), tokens=tokens)
    arrival, klass = trace.arrival.tolist(), trace.klass.tolist()
    lengths = trace.prompt.tolist(), trace.output.tolist(), trace.reasoning.tolist()
    servers: list[Server] = [
        simulator(Job(engine, policy, arrival, *lengths, klass, trace.classes, trace.prefix), log)
        for engine in engines
    ]
    if server is not None:
        for place, one in enumerate(servers):
            one.queue.extend(np.flatnonzero(server == place).tolist())
    else:
        dispatcher = Dispatcher(servers, policy.blocks.route, trace, eligible, rng)
        server = migrate(dispatcher, link) if policy.blocks.route.moves else _ask(dispatcher)
    for one in servers:
        one.advance(math.inf)
    return Path(log, tuple(one.tally for one in servers), server)


def _audited(job: Job, log: Log) -> ReferenceEngine:
    return reference_engine(job, log, Audit(job.policy))


def _ask(dispatcher: Dispatcher) -> npt.NDArray[np.int64]:
    """Route request by request, looking at the engines."""
    chosen = []
    for i, time in enumerate(dispatcher.arrival):
        for place in dispatcher.places(i):
            dispatcher.servers[place].advance(time)
        chosen.append(dispatcher.dispatch(i, time))
    return np.array(chosen, dtype=np.int64)
