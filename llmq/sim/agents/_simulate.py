"""``simulate_agents``: agents that call several engines, to the end of their last call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmq._input.checked import checked
from llmq._input.renamed import renamed
from llmq.errors import InputError, nearest
from llmq.model.agents import AgentTrace, AgentWorkload, check_stations
from llmq.model.engine import Engine
from llmq.policies import VLLM, Policy
from llmq.policies.contract.settings import effective
from llmq.result import Kind, provenance
from llmq.rng import RngLike, seed_sequence
from llmq.sim._parallel.workers import Workers, mapped
from llmq.sim.agents._path import AgentPath, Choice, serve_agents
from llmq.sim.agents._run import AgentRun
from llmq.sim.agents._time import peaks
from llmq.sim.results._relaxation import Relaxation, unit
from llmq.sim.results._stability import judge, slopes
from llmq.sim.results._stats import warm_up
from llmq.theory.stability.agents import agent_load

__all__ = ["AgentRun", "peaks", "simulate_agents"]

_COLUMNS = ("arrival", "klass", "prompt", "output", "reasoning", "pause")
_EVENTS = ("release", "prefill_end", "first_token", "finish")


@dataclass(frozen=True, slots=True)
class _Task:
    """One replication, for a worker."""

    traffic: AgentWorkload | AgentTrace
    agents: int
    seed: np.random.SeedSequence
    engines: Mapping[str, Engine]
    policies: Mapping[str, Policy]
    choice: Choice


@renamed(engine="simulator")
@checked
def simulate_agents(
    engines: Mapping[str, Engine],
    workload_or_trace: AgentWorkload | AgentTrace,
    policy: Policy | Mapping[str, Policy] | None = None,
    *,
    replications: int = 1,
    agents: int = 2000,
    rng: RngLike = None,
    simulator: Choice = "auto",
    warmup: int | str = "auto",
    workers: Workers = 1,
    progress: Callable[[int, int], None] | None = None,
) -> AgentRun:
    """Simulate agents through their stations, to the end of their last call.

    Parameters
    ----------
    engines : mapping of str to Engine
        The stations.
    workload_or_trace : AgentWorkload or AgentTrace
        Who arrives: a workload is drawn anew in each replication, a trace is one path.
    policy : Policy or mapping of str to Policy, optional
        How all stations, or each, schedule; ``VLLM()`` if not given. A token budget of a policy
        replaces the engine's.
    replications : int
        Independent paths.
    agents : int
        Agents of a path, for a workload.
    rng : Generator, SeedSequence, int or None
        Source of randomness; replication ``i`` gets the i-th child, whatever the workers.
    simulator : {"auto", "calendar", "window", "reference"}
        Which simulator of a station. All give one trajectory.
    warmup : int or "auto"
        Agents left out at the start, as in :func:`llmq.simulate`.
    workers : int, map-like or dask.distributed.Client
        Processes, a function like :func:`map`, or a cluster.
    progress : callable, optional
        Called with (replications done, replications).

    Returns
    -------
    AgentRun
        Event times of all calls, verdict, latencies with intervals, backlog over time.

    Raises
    ------
    InputError
        Unusable arguments.
    PolicyError
        A policy broke a rule.

    Examples
    --------
    >>> from llmq.model.agents import Agent
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.request import RequestClass
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-5))
    >>> hop = RequestClass(512, 64)
    >>> work = AgentWorkload.poisson(20.0, {"a": Agent.chain(("large", hop), ("small", hop))})
    >>> run = simulate_agents({"large": chip, "small": chip}, work, replications=4, agents=800,
    ...                       rng=7)
    >>> run.verdict.status
    'stable'
    """
    _check_arguments(replications, agents, workload_or_trace, simulator)
    traffic = workload_or_trace
    check_stations(traffic.agents, engines)
    chosen = _policies(engines, policy)
    own = {name: _as_run_by(name, one, chosen[name]) for name, one in engines.items()}
    root = seed_sequence(rng)
    tasks = [
        _Task(traffic, agents, seed, own, chosen, simulator) for seed in root.spawn(replications)
    ]
    pairs: list[tuple[AgentTrace, AgentPath]] = []
    for pair in mapped(workers, _run, tasks):
        pairs.append(pair)
        if progress is not None:
            progress(len(pairs), replications)
    return _as_run(pairs, tasks[0], warmup, root)


def _check_arguments(replications: int, agents: int, traffic: Any, simulator: str) -> None:
    if not isinstance(traffic, AgentWorkload | AgentTrace):
        raise InputError(
            f"simulate_agents needs an AgentWorkload or an AgentTrace, got {type(traffic).__name__}"
        )
    for name, value in (("replications", replications), ("agents", agents)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}", field=name, value=value)
    if isinstance(traffic, AgentTrace) and replications > 1:
        raise InputError(
            f"a trace is one path: {replications} replications of it would be copies",
            value=replications,
        )
    known = ("auto", "calendar", "window", "reference")
    if simulator not in known:
        raise InputError(
            f"unknown simulator {simulator!r}{nearest(simulator, known)}", value=simulator
        )


def _policies(
    engines: Mapping[str, Engine], policy: Policy | Mapping[str, Policy] | None
) -> dict[str, Policy]:
    if not isinstance(policy, Mapping):
        return dict.fromkeys(engines, VLLM() if policy is None else policy)
    for name in policy:
        if name not in engines:
            raise InputError(f"policy for unknown station {name!r}{nearest(name, engines)}")
    if missing := [name for name in engines if name not in policy]:
        raise InputError(f"station {missing[0]!r} has no policy; name one for each", value=missing)
    return {name: policy[name] for name in engines}


def _as_run_by(name: str, engine: Engine, policy: Policy) -> Engine:
    if engine.prefix_cache:
        raise InputError(
            f"station {name!r} finds cached blocks again, but calls of agents share no cache: "
            "leave prefix_cache out",
            field="prefix_cache",
            value=name,
        )
    return effective(engine, policy)


def _run(task: _Task) -> tuple[AgentTrace, AgentPath]:
    # As in simulate: arrivals and lengths from the first child of the replication.
    trace = task.traffic
    if isinstance(trace, AgentWorkload):
        trace = trace.sample(task.agents, task.seed.spawn(2)[0])
    return trace, serve_agents(trace, task.engines, task.policies, task.choice)


def _as_run(
    pairs: list[tuple[AgentTrace, AgentPath]],
    task: _Task,
    warmup: int | str,
    root: np.random.SeedSequence,
) -> AgentRun:
    traces, paths = zip(*pairs, strict=True)
    tables = {name: np.stack([getattr(trace, name) for trace in traces]) for name in _COLUMNS}
    tables |= {name: np.stack([getattr(path, name) for path in paths]) for name in _EVENTS}
    arrival, end = tables["arrival"], np.nanmax(tables["finish"], axis=2)
    finite = isinstance(task.traffic, AgentTrace)
    kinds, rates = task.traffic.agents, task.traffic.rates
    known = all(np.isfinite(rate) for rate in rates.values())
    load = agent_load(kinds, task.engines, rates if known else dict.fromkeys(kinds, 0.0))
    bounds = (load.load, load.load_inner) if known else (np.inf, np.inf)
    relax = _relaxation(task.traffic, tables, bounds[0])
    measured = _measured(arrival, end, warmup, relax, whole=finite)
    names = tuple(task.engines)
    return AgentRun(
        agents=kinds,
        engines=task.engines,
        **tables,
        policies={name: task.policies[name].name for name in names},
        tallies=tuple(path.tallies for path in paths),
        steps=tuple(path.steps for path in paths),
        measured=measured,
        finite=finite,
        load=load,
        # Given agents are as many as they are.
        verdict=judge(slopes(arrival, end, end, measured), bounds, None if finite else relax),
        look=relax.look if math.isfinite(relax.look) else 0.0,
        kind=Kind.SIMULATED,
        assumptions=(
            f"conventions: {', '.join({e.conventions.name for e in task.engines.values()})}",
            "calls share no cache",
            f"agents {measured[0]} to {measured[1] - 1} of each path are measured",
        ),
        source="",
        provenance=provenance(
            entropy=root.entropy,
            engines=dict(task.engines),
            policies=dict(task.policies),
            replications=len(paths),
            agents=arrival.shape[1],
        ),
    )


def _relaxation(traffic: AgentWorkload | AgentTrace, tables: Any, load: float) -> Relaxation:
    """How many agents a path needs, as for requests: the work of an agent is that of its calls."""
    arrival, finish = tables["arrival"], tables["finish"]
    tokens = np.sum(tables["prompt"] + tables["output"], axis=2)
    spread = float(tokens.var() / tokens.mean() ** 2)
    # Without the waits in queues: those are what the looks are for.
    decoding = np.nansum(finish - tables["prefill_end"] + tables["pause"], axis=2)
    stays = np.minimum(decoding, np.nanmax(finish, axis=2) - arrival)
    rate = sum(traffic.rates.values())
    stay = float(np.quantile(stays, 0.99, axis=1).mean()) * rate if math.isfinite(rate) else 0.0
    if isinstance(traffic, AgentTrace):
        # Its times are facts; only whether it overloads the stations is asked.
        return Relaxation(look=0.0, stay=stay, dispersion=1 + spread)
    spread += traffic.arrivals.dispersion
    return Relaxation(look=unit(load, spread), stay=stay, dispersion=spread)


def _measured(
    arrival: Any, end: Any, warmup: int | str, relax: Relaxation, *, whole: bool
) -> tuple[int, int]:
    """First measured agent and the one after the last, as for requests."""
    n = arrival.shape[1]
    if isinstance(warmup, str):
        if warmup != "auto":
            raise InputError(f"warmup must be a number of agents or 'auto', got {warmup!r}")
        if whole:
            return 0, n
        stays = end - arrival
        # Of a path too short for its warm-up the second half is as good as it gets.
        relaxed = relax.start(len(arrival)) if math.isfinite(relax.look) else 0
        start = max(warm_up(stays.mean(axis=0)), min(relaxed, n // 2))
        # Who arrives within a long stay of the last arrival sees the network drain.
        lasts = arrival[:, -1] - np.quantile(stays, 0.99, axis=1)
        stop = int(min(np.searchsorted(row, t) for row, t in zip(arrival, lasts, strict=True)))
        return (start, stop) if stop - start >= n // 4 else (min(start, n // 4), n)
    if not 0 <= warmup < n:
        raise InputError(
            f"warmup must leave at least one of the {n} agents, got {warmup}", value=warmup
        )
    return int(warmup), n
