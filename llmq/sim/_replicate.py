"""Run a block of replications: draw the traces, let a simulator run them, hand back arrays.

Many lanes run in lockstep where the policy allows it and there are enough of them, else one path
after the other. What a replication gives depends on its seed alone, not on the block it is in or
on who runs it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmq.errors import InputError
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.sim._block import Block, Task, stacked
from llmq.sim._closed import serve_closed
from llmq.sim._dispatch import EngineChoice, Path, serve
from llmq.sim._lockstep import can_lockstep, enough_lanes, in_replication, lockstep

__all__ = ["chosen_engine", "run_block"]


def chosen_engine(task: Task, lanes: int) -> EngineChoice:
    """Decide between lockstep and one path after the other."""
    traffic, route = task.traffic, task.policy.blocks.route
    closed = isinstance(traffic, Workload) and traffic.is_closed
    together = can_lockstep(task) and not closed
    if task.choice == "vector" and not together:
        cached = any(engine.prefix_cache for engine in task.engines)
        extra = " and token times" if task.tokens else " and closed clients" if closed else ""
        extra += " and a prefix cache" if cached else ""
        raise InputError(
            f"simulator 'vector' cannot run {task.policy.name!r} with router {route.name!r}{extra}"
            ": use simulator='auto' or 'reference'",
            field="simulator",
            value="vector",
        )
    if task.choice == "auto" and together and lanes >= enough_lanes(task):
        return "vector"
    return task.choice


def run_block(task: Task) -> Block:
    """Run the replications of a task."""
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
        return lockstep(task, traces, routing)
    paths = []
    for seed, trace, rng in zip(task.seeds, traces, routing, strict=True):
        with in_replication(seed):
            path = serve(
                trace,
                task.engines,
                task.policy,
                choice=task.choice,
                rng=rng,
                tokens=task.tokens,
                eligible=task.eligible,
                link=task.link,
                check=task.check,
            )
        paths.append(path)
    return _stacked(traces, paths)


def _closed(task: Task, traffic: Workload) -> Block:
    pairs = []
    for seed in task.seeds:
        sizes, other = seed.spawn(2)
        with in_replication(seed):
            pair = serve_closed(
                traffic,
                task.requests,
                sizes,
                task.engines,
                task.policy,
                choice=task.choice,
                rng=np.random.default_rng(other),
                tokens=task.tokens,
                eligible=task.eligible,
            )
        pairs.append(pair)
    return _stacked([trace for trace, _ in pairs], [path for _, path in pairs])


def _stacked(traces: Sequence[Trace], paths: Sequence[Path]) -> Block:
    logs = [path.log for path in paths]
    thinks = any(trace.reasoning.any() for trace in traces)
    rows = [row for log in logs for row in log.tokens or []] if logs[0].tokens is not None else None
    return Block(
        **stacked(traces),
        prefill_end=np.array([log.prefill_end for log in logs]),
        first_token=np.array([log.first_token for log in logs]),
        finish=np.array([log.finish for log in logs]),
        boundary=np.array([log.boundary for log in logs]) if thinks else None,
        resumed=np.array([log.resumed for log in logs]) if thinks else None,
        server=np.stack([path.server for path in paths]),
        tallies=tuple(path.tallies for path in paths),
        tokens=None if rows is None else tuple(rows),
    )
