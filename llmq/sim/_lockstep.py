"""Many replications in lockstep: which simulator can, and what is run again by a scalar one.

:mod:`llmq.sim._core.engine` runs any policy, with a lane for each engine of each replication. Three
others are faster where they can run: :mod:`llmq.sim._fast.vector.engine` where decodes advance
together, :mod:`llmq.sim._fast.slots.engine` for SLAI, and :mod:`llmq.sim._fast.ranked.engine` for
PASCAL, round robin and FCFS with swap, whose fleets move requests. Lanes that they leave undone (an
eviction, a rare case) are run from the start by the core, the calendar or the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np

from llmq.errors import InvariantError, PolicyError
from llmq.model.engine import Engine
from llmq.model.trace import Trace
from llmq.policies import Policy
from llmq.policies.contract.blocks import runs_together
from llmq.policies.contract.view import Ints
from llmq.sim._block import COLUMNS, Block, Task, stacked
from llmq.sim._core.engine import CoreLog, run_core
from llmq.sim._dispatch import Path, serve, split
from llmq.sim._fast.ranked.engine import RankedLog, run_ranked, runs_ranked
from llmq.sim._fast.slots.engine import run_slots, runs_slots
from llmq.sim._fast.vector.engine import LaneLog, Lanes, run_lanes, runs
from llmq.sim.results._log import Tally

__all__ = ["can_lockstep", "enough_lanes", "in_replication", "lockstep"]

EVENTS = ("prefill_end", "first_token", "finish")
PHASES = ("boundary", "resumed")
# Lanes from which the lockstep beats one calendar after the other, or the reference where it moves
# requests between engines. The core is faster than the reference with a single lane.
ENOUGH, FEW = 64, 4


def can_lockstep(task: Task) -> bool:
    """Whether a lockstep simulator can run a task."""
    if task.tokens or task.check or any(engine.prefix_cache for engine in task.engines):
        return False
    policy, route = task.policy, task.policy.blocks.route
    if runs_ranked(task.engines, policy):
        return task.eligible is None
    # A router may see nothing and still want to be asked at each arrival.
    ahead = not route.sees and not route.moves
    ahead = ahead and route.split(1, len(task.engines), np.random.default_rng(0)) is not None
    return ahead and (runs(policy) or not all(_by_calendar(one, policy) for one in task.engines))


def _by_calendar(engine: Engine, policy: Policy) -> bool:
    """Whether one path at a time is faster than the core: all decodes advance together."""
    together = policy.blocks.together
    # One queue with a limit of memory is more than the calendar knows.
    tight = together is not None and together.queue and engine.kv_tokens is not None
    return runs_together(policy.blocks) and not tight


def enough_lanes(task: Task) -> int:
    """Say from how many lanes on the lockstep pays."""
    if runs(task.policy):
        return ENOUGH
    return FEW if runs_ranked(task.engines, task.policy) else 1


@contextmanager
def in_replication(source: np.random.SeedSequence) -> Iterator[None]:
    """Let an error of a policy, or of ours, say in which replication."""
    try:
        yield
    except (PolicyError, InvariantError) as error:
        number = source.spawn_key[-1]
        fields = {**error.fields, "replication": number}
        raise type(error)(f"{error} (replication {number})", **fields) from error


def lockstep(task: Task, traces: list[Trace], routing: list[np.random.Generator]) -> Block:
    """Run many replications at once."""
    table, classes = stacked(traces), traces[0].classes
    if runs_ranked(task.engines, task.policy):
        traces.clear()
        return _ranked(task, table, classes, routing)
    chosen = [
        split(trace, len(task.engines), task.policy, rng, task.eligible)
        for trace, rng in zip(traces, routing, strict=True)
    ]
    traces.clear()
    server = np.stack([one for one in chosen if one is not None])
    return _lanes(task, table, classes, server)


def _lanes(task: Task, table: dict[str, Any], classes: tuple[str, ...], server: Ints) -> Block:
    """Run every engine of every replication as a lane."""
    size, engines = len(server), task.engines
    times: dict[str, Any] = {}
    tallies: list[list[Tally]] = [[Tally()] * len(engines) for _ in range(size)]
    for engine in dict.fromkeys(engines):
        places = [e for e, one in enumerate(engines) if one == engine]
        mine = [(r, np.flatnonzero(server[r] == e), e) for r in range(size) for e in places]
        log = _run(task.policy, engine, table if len(engines) == 1 else _cut(table, mine), classes)
        events = PHASES + EVENTS if isinstance(log, CoreLog) else EVENTS
        if len(engines) == 1:
            times = {name: getattr(log, name) for name in events}
        for lane, (r, rows, e) in enumerate(mine):
            if log.undone[lane]:
                path = _again(task, (engine,), table, classes, r, rows)
                tallies[r][e] = path.tallies[0]
                found = {name: getattr(path.log, name) for name in events}
            else:
                tallies[r][e] = _tally(log, lane)
                if len(engines) == 1:
                    continue
                found = {name: getattr(log, name)[lane, : len(rows)] for name in events}
            for name, column in found.items():
                times.setdefault(name, np.full(server.shape, np.nan))[r, rows] = column
    if not table["reasoning"].any() or any(name not in times for name in PHASES):
        times |= dict.fromkeys(PHASES)
    return Block(
        **table,
        **times,
        server=server,
        tallies=tuple(map(tuple, tallies)),
    )


def _run(
    policy: Policy, engine: Engine, table: dict[str, Any], classes: tuple[str, ...]
) -> LaneLog | CoreLog:
    """Run lanes with the fastest simulator that can."""
    lanes = Lanes(
        table["arrival"], table["prompt"], table["output"], table["reasoning"], table.get("count")
    )
    if runs(policy):
        return run_lanes(engine, policy, lanes)
    if not runs_slots(engine, policy):
        return run_core(engine, policy, lanes, table["klass"], classes)
    log = run_slots(engine, policy, lanes, table["klass"], classes)
    # Somebody is evicted in what it leaves.
    some = np.flatnonzero(log.undone)
    if not some.size:
        return log
    columns: dict[str, Any] = {one.name: getattr(lanes, one.name) for one in fields(lanes)}
    columns = {name: None if x is None else x[some] for name, x in columns.items()}
    rest = Lanes(**columns)
    more = run_core(engine, policy, rest, table["klass"][some], classes)
    return _merged(log, more, some)


def _merged(log: LaneLog, more: CoreLog, some: Ints) -> CoreLog:
    """Put the lanes that the core has run into the log of all."""
    columns: dict[str, Any] = {}
    for one in fields(CoreLog):
        theirs = getattr(more, one.name)
        empty = np.zeros((len(log.undone), *theirs.shape[1:]), theirs.dtype)
        column = getattr(log, one.name, empty + (np.nan if theirs.ndim > 1 else 0))
        column[some] = theirs
        columns[one.name] = column
    return CoreLog(**columns)


def _cut(table: dict[str, Any], mine: Sequence[tuple[int, Ints, int]]) -> dict[str, Any]:
    """Rows of the requests of each lane, padded."""
    found: dict[str, Any] = {"count": np.array([len(rows) for _, rows, _ in mine])}
    for name in COLUMNS:
        column = np.zeros((len(mine), int(found["count"].max())), dtype=table[name].dtype)
        for lane, (r, rows, _) in enumerate(mine):
            column[lane, : len(rows)] = table[name][r, rows]
        found[name] = column
    return found


def _again(
    task: Task,
    engines: tuple[Engine, ...],
    table: dict[str, Any],
    classes: tuple[str, ...],
    r: int,
    rows: Ints | slice,
    rng: np.random.Generator | None = None,
) -> Path:
    """Run some requests of a replication with a scalar simulator."""
    trace = Trace(**{name: table[name][r, rows] for name in COLUMNS}, classes=classes)
    with in_replication(task.seeds[r]):
        return serve(
            trace, engines, task.policy, rng=rng or np.random.default_rng(0), link=task.link
        )


def _tally(log: LaneLog | CoreLog, lane: int) -> Tally:
    tally = Tally(
        iterations=int(log.iterations[lane]),
        tokens=int(log.tokens[lane]),
        kv_area=float(log.kv_area[lane]),
        busy=float(log.busy[lane]),
        clock=float(log.clock[lane]),
    )
    if isinstance(log, CoreLog):
        tally.evictions, tally.recomputed = int(log.evictions[lane]), int(log.recomputed[lane])
        tally.swapped = int(log.swapped[lane])
    return tally


def _ranked(
    task: Task,
    table: dict[str, Any],
    classes: tuple[str, ...],
    routing: Sequence[np.random.Generator],
) -> Block:
    """Run whole fleets at once."""
    log = run_ranked(
        task.engines,
        task.policy,
        table["arrival"],
        table["prompt"],
        table["output"],
        table["reasoning"],
        task.link,
    )
    times = {name: getattr(log, name) for name in (*EVENTS, *PHASES)}
    tallies, server, qoe = [], log.server, log.qoe
    for r, undone in enumerate(log.undone):
        if not undone:
            tallies.append(_ranked_tallies(log, r))
            continue
        path = _again(task, task.engines, table, classes, r, slice(None), routing[r])
        for name, column in times.items():
            column[r] = getattr(path.log, name)
        server[r], qoe[r] = path.server, np.nan
        tallies.append(path.tallies)
    thinks = bool(np.isfinite(times["boundary"]).any())
    if not thinks:
        times |= dict.fromkeys(PHASES)
    return Block(
        **table,
        **times,
        server=server,
        tallies=tuple(tallies),
        qoe=None if log.undone.any() else qoe,
    )


def _ranked_tallies(log: RankedLog, r: int) -> tuple[Tally, ...]:
    whole = ("iterations", "tokens", "evictions", "swapped", "moved")
    return tuple(
        Tally(
            **{name: int(getattr(log, name)[r, e]) for name in whole},
            kv_area=float(log.kv_area[r, e]),
            busy=float(log.busy[r, e]),
            clock=float(log.clock[r, e]),
        )
        for e in range(log.busy.shape[1])
    )
