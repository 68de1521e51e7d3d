"""Some replications at once: the unit of work that is sent to a worker.

A block draws its traces, lets an engine run them (many lanes in lockstep where the policy allows it
and there are enough of them, else one path after the other) and hands back arrays. What a
replication gives depends on its seed alone, not on the block it is in or on who runs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, InvariantError, PolicyError
from llmq.model.engine import Engine
from llmq.model.metrics import RequestTimes
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies import Policy
from llmq.sim.closed import serve_closed
from llmq.sim.dispatch import EngineChoice, Path, serve, split
from llmq.sim.log import Tally
from llmq.sim.vector import LaneLog, Lanes, run_lanes, runs

__all__ = ["Block", "Task", "chosen_engine", "join", "run_block"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

# Lanes from which the lockstep beats one calendar after the other (experiments/speed_vector.py).
ENOUGH = 64


@dataclass(frozen=True, slots=True)
class Task:
    """Replications to run.

    Parameters
    ----------
    traffic : Workload or Trace
        Who arrives.
    requests : int
        Requests of a path, for a workload.
    seeds : tuple of numpy.random.SeedSequence
        One for each replication.
    engines : tuple of Engine
        The fleet, with the token budgets the policy asks for.
    policy : Policy
        How each engine schedules; its router splits the arrivals.
    choice : {"auto", "vector", "calendar", "reference"}
        Which simulator.
    tokens : bool
        Record the time of every token.
    eligible : tuple of ndarray of bool, optional
        For each class which engines may serve it.
    link : float
        KV tokens per second from one engine to another.
    check : bool
        Look at every iteration again.
    """

    traffic: Workload | Trace
    requests: int
    seeds: tuple[np.random.SeedSequence, ...]
    engines: tuple[Engine, ...]
    policy: Policy
    choice: EngineChoice
    tokens: bool
    eligible: tuple[npt.NDArray[np.bool_], ...] | None
    link: float
    check: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What some replications gave: arrays of shape (replications, n), see :class:`RequestTimes`.

    Parameters
    ----------
    arrival, prefill_end, first_token, finish : ndarray
        Seconds.
    boundary, resumed : ndarray or None
        Seconds; None where nobody reasons or a fast simulator ran.
    prompt, output, reasoning, klass, server : ndarray of int
        Tokens, class codes, engine that served each request.
    tallies : tuple of tuple of Tally
        Sums, by replication and engine.
    tokens : tuple of list of float, or None
        Token times of each request, replication after replication.
    """

    arrival: Floats
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    boundary: Floats | None
    resumed: Floats | None
    prompt: Ints
    output: Ints
    reasoning: Ints
    klass: Ints
    server: Ints
    tallies: tuple[tuple[Tally, ...], ...]
    tokens: tuple[list[float], ...] | None = None

    def times(self) -> RequestTimes:
        """Return the event times.

        Returns
        -------
        RequestTimes
            With token times where they were recorded.
        """
        token_times = token_offsets = None
        if self.tokens is not None:
            token_times = np.concatenate([np.asarray(row) for row in self.tokens])
            token_offsets = np.concatenate(([0], np.cumsum([len(row) for row in self.tokens])))
        return RequestTimes(
            arrival=self.arrival, prefill_end=self.prefill_end, first_token=self.first_token,
            finish=self.finish, output=self.output, reasoning=self.reasoning,
            boundary=self.boundary, resumed=self.resumed, token_times=token_times,
            token_offsets=token_offsets,
        )  # fmt: skip


def join(blocks: Sequence[Block]) -> Block:
    """Put blocks one after the other.

    Parameters
    ----------
    blocks : sequence of Block
        At least one.

    Returns
    -------
    Block
        All replications.
    """
    if len(blocks) == 1:
        return blocks[0]
    columns: dict[str, Any] = {}
    for field in fields(Block):
        parts = [getattr(block, field.name) for block in blocks]
        if any(part is None for part in parts):
            columns[field.name] = None
        elif isinstance(parts[0], tuple):
            columns[field.name] = tuple(item for part in parts for item in part)
        else:
            columns[field.name] = np.concatenate(parts)
    return Block(**columns)


def chosen_engine(task: Task, lanes: int) -> EngineChoice:
    """Decide between lockstep and one path after the other.

    Parameters
    ----------
    task : Task
        What is to be run.
    lanes : int
        Engines times replications of the whole simulation, not of this block.

    Returns
    -------
    {"vector", "auto", "calendar", "reference"}
        "auto" leaves the choice between the scalar simulators to them.

    Raises
    ------
    InputError
        The lockstep was asked for what it cannot do.
    """
    route = task.policy.blocks.route
    closed = isinstance(task.traffic, Workload) and task.traffic.is_closed
    able = runs(task.policy) and not (task.tokens or route.sees or route.moves or closed)
    if task.choice == "vector" and not able:
        extra = " and token times" if task.tokens else " and closed clients" if closed else ""
        raise InputError(
            f"engine 'vector' cannot run {task.policy.name!r} with router {route.name!r}{extra}: "
            "use engine='auto' or 'reference'",
            field="engine", value="vector",
        )  # fmt: skip
    if task.choice == "auto" and able and lanes >= ENOUGH:
        return "vector"
    return task.choice


def run_block(task: Task) -> Block:
    """Run the replications of a task.

    Parameters
    ----------
    task : Task
        With the choice of the simulator made (:func:`chosen_engine`).

    Returns
    -------
    Block
        Arrays.
    """
    traces: list[Trace] = []
    routing = []
    traffic = task.traffic
    if isinstance(traffic, Workload) and traffic.is_closed:
        return _closed(task, traffic)
    for seed in task.seeds:
        arrivals, other = seed.spawn(2)
        routing.append(np.random.default_rng(other))
        if isinstance(traffic, Trace):
            traces.append(traffic)
        else:
            traces.append(traffic.sample(task.requests, arrivals))
    if task.choice == "vector":
        return _lockstep(task, traces, routing)
    paths = []
    for seed, trace, rng in zip(task.seeds, traces, routing, strict=True):
        with _replication(seed):
            path = serve(
                trace, task.engines, task.policy, choice=task.choice, rng=rng, tokens=task.tokens,
                eligible=task.eligible, link=task.link, check=task.check,
            )  # fmt: skip
        paths.append(path)
    return _stacked(traces, paths)


@contextmanager
def _replication(seed: np.random.SeedSequence) -> Iterator[None]:
    """Let an error of a policy, or of ours, say in which replication."""
    try:
        yield
    except (PolicyError, InvariantError) as error:
        number = seed.spawn_key[-1]
        fields = {**error.fields, "replication": number}
        raise type(error)(f"{error} (replication {number})", **fields) from error


def _closed(task: Task, traffic: Workload) -> Block:
    pairs = []
    for seed in task.seeds:
        sizes, other = seed.spawn(2)
        with _replication(seed):
            pair = serve_closed(
                traffic, task.requests, sizes, task.engines, task.policy, choice=task.choice,
                rng=np.random.default_rng(other), tokens=task.tokens, eligible=task.eligible,
            )  # fmt: skip
        pairs.append(pair)
    return _stacked([trace for trace, _ in pairs], [path for _, path in pairs])


def _stacked(traces: Sequence[Trace], paths: Sequence[Path]) -> Block:
    logs = [path.log for path in paths]
    thinks = any(not math.isnan(t) for log in logs for t in log.boundary)
    rows = [row for log in logs for row in log.tokens or []] if logs[0].tokens is not None else None
    return Block(
        **_requests(traces),
        prefill_end=np.array([log.prefill_end for log in logs]),
        first_token=np.array([log.first_token for log in logs]),
        finish=np.array([log.finish for log in logs]),
        boundary=np.array([log.boundary for log in logs]) if thinks else None,
        resumed=np.array([log.resumed for log in logs]) if thinks else None,
        server=np.stack([path.server for path in paths]),
        tallies=tuple(path.tallies for path in paths),
        tokens=None if rows is None else tuple(rows),
    )


def _requests(traces: Sequence[Trace]) -> dict[str, Any]:
    return {name: np.stack([getattr(trace, name) for trace in traces]) for name in _COLUMNS}


def _lockstep(task: Task, traces: list[Trace], routing: list[np.random.Generator]) -> Block:
    """Run every engine of every replication as a lane; redo what only a scalar engine can."""
    size, engines = len(traces), task.engines
    table = _requests(traces)
    chosen = [
        split(trace, len(engines), task.policy, rng, task.eligible)
        for trace, rng in zip(traces, routing, strict=True)
    ]
    server = np.stack([one for one in chosen if one is not None])
    classes = traces[0].classes
    traces.clear()
    times: dict[str, Any] = {}
    tallies: list[list[Tally]] = [[Tally()] * len(engines) for _ in range(size)]
    for engine in dict.fromkeys(engines):
        places = [e for e, one in enumerate(engines) if one == engine]
        mine = [(r, np.flatnonzero(server[r] == e), e) for r in range(size) for e in places]
        lanes = _lanes(table, mine) if len(engines) > 1 else _whole(table)
        log = run_lanes(engine, task.policy, lanes)
        if len(engines) == 1:
            times = {name: getattr(log, name) for name in _EVENTS}
        for lane, (r, rows, e) in enumerate(mine):
            if log.undone[lane]:
                trace = Trace(**{name: table[name][r, rows] for name in _COLUMNS}, classes=classes)
                with _replication(task.seeds[r]):
                    path = serve(trace, (engine,), task.policy, rng=np.random.default_rng(0))
                tallies[r][e] = path.tallies[0]
                found = {name: getattr(path.log, name) for name in _EVENTS}
            else:
                tallies[r][e] = _tally(log, lane)
                if len(engines) == 1:
                    continue
                found = {name: getattr(log, name)[lane, : len(rows)] for name in _EVENTS}
            for name, column in found.items():
                times.setdefault(name, np.full(server.shape, np.nan))[r, rows] = column
    return Block(
        **table, **times, boundary=None, resumed=None, server=server,
        tallies=tuple(map(tuple, tallies)),
    )  # fmt: skip


_EVENTS = ("prefill_end", "first_token", "finish")
_COLUMNS = ("arrival", "prompt", "output", "reasoning", "klass")


def _whole(table: dict[str, Any]) -> Lanes:
    return Lanes(table["arrival"], table["prompt"], table["output"], table["reasoning"])


def _lanes(table: dict[str, Any], mine: Sequence[tuple[int, Ints, int]]) -> Lanes:
    """Rows of the requests of each lane, padded."""
    count = np.array([len(rows) for _, rows, _ in mine])
    columns = []
    for name in ("arrival", "prompt", "output", "reasoning"):
        column = np.zeros((len(mine), int(count.max())), dtype=table[name].dtype)
        for lane, (r, rows, _) in enumerate(mine):
            column[lane, : len(rows)] = table[name][r, rows]
        columns.append(column)
    arrival, prompt, output, hidden = columns
    return Lanes(arrival, prompt, output, hidden, count)


def _tally(log: LaneLog, lane: int) -> Tally:
    return Tally(
        iterations=int(log.iterations[lane]), tokens=int(log.tokens[lane]),
        kv_area=float(log.kv_area[lane]), busy=float(log.busy[lane]),
        clock=float(log.clock[lane]),
    )  # fmt: skip
