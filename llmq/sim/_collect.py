"""From blocks of replications to a result: all requests, or sums and sketches.

An interrupt (Ctrl-C) is passed on: a part of the replications is not a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from llmq.errors import InputError
from llmq.model.closed import Closed
from llmq.model.engine import Engine
from llmq.model.metrics import RequestTimes, e2e
from llmq.model.reuse import unshared
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies.contract.settings import priced
from llmq.result import Kind, provenance
from llmq.sim._block import Block, Task, join
from llmq.sim._closed import throughput, verdict_closed
from llmq.sim._parallel.workers import Workers, mapped
from llmq.sim._reference.prefix import said_of_prefixes
from llmq.sim._replicate import chosen_engine, run_block
from llmq.sim.results._peak import by_window
from llmq.sim.results._relaxation import Relaxation, dispersion_of_work, rounds, unit
from llmq.sim.results._stability import Slopes, Verdict, batch, judge, offered_load, slopes
from llmq.sim.results._stats import warm_up
from llmq.sim.results.run import Run
from llmq.sim.results.summary import Part, Summary, put_together, reduce

__all__ = ["as_run", "finished", "summarise", "tasks_of"]

# Requests of a block: what is in memory at a time beside the result.
BLOCK = 2**22
# Replications on which a summary decides what is measured.
PILOT = 32

_T = TypeVar("_T", Block, Part)


def tasks_of(whole: Task, workers: Workers) -> list[Task]:
    """Cut a simulation into blocks, with the choice of the simulator made."""
    n = len(whole.seeds)
    choice = chosen_engine(whole, n * len(whole.engines))
    many = -(-n // workers) if isinstance(workers, int) and workers > 0 else n
    length = len(whole.traffic) if isinstance(whole.traffic, Trace) else whole.requests
    size = 1 if choice != "vector" else max(1, min(many, BLOCK // length))
    return [
        replace(whole, choice=choice, seeds=whole.seeds[i : i + size]) for i in range(0, n, size)
    ]


def finished(
    function: Callable[[Task], _T],
    tasks: Sequence[Task],
    workers: Workers,
    progress: Callable[[int, int], None] | None,
    n: int,
    done: int = 0,
) -> list[_T]:
    """Run tasks."""
    results: list[_T] = []
    for task, result in zip(tasks, mapped(workers, function, tasks), strict=True):
        results.append(result)
        done += len(task.seeds)
        if progress is not None:
            progress(done, n)
    return results


def as_run(
    blocks: Sequence[Block], task: Task, warmup: int | str, root: np.random.SeedSequence
) -> Run:
    """Put blocks together."""
    done, engines, traffic = join(blocks), task.engines, task.traffic
    times = done.times()
    finite = isinstance(traffic, Trace)
    relax, load = _relaxation(task, times)
    measured = _measured(times, warmup, relax, whole=finite)
    path = slopes(times.arrival, times.finish, times.first_token, measured)
    return Run(
        requests=times,
        prompt=done.prompt,
        klass=done.klass,
        classes=_classes(task),
        server=done.server,
        tallies=done.tallies,
        engines=engines,
        policy=str(task.policy),
        measured=measured,
        finite=finite,
        verdict=_verdict(task, path, done, measured, relax, load),
        look=0.0 if finite or not math.isfinite(relax.look) else relax.look,
        **_words(task, measured, len(done.arrival), root),
    )


def _priced(task: Task) -> tuple[Engine, ...]:
    """Engines as bounds count them; equal ones stay one object."""
    known = {id(one): priced(one, task.policy) for one in task.engines}
    return tuple(known[id(one)] for one in task.engines)


def _classes(task: Task) -> tuple[str, ...]:
    traffic = task.traffic
    return traffic.classes if isinstance(traffic, Trace) else tuple(traffic.mix)


def _relaxation(task: Task, times: RequestTimes) -> tuple[Relaxation, tuple[float, float]]:
    """How long paths must be, and the load; that of closed clients is not known yet."""
    traffic = task.traffic
    if isinstance(traffic, Workload) and isinstance(traffic.arrivals, Closed):
        return rounds(traffic.arrivals.users), (0.0, math.inf)
    load = _load(task)
    mix = traffic.mix() if isinstance(traffic, Trace) else traffic.mix
    work = dispersion_of_work(mix, traffic.rates)
    stays = np.quantile(times.finish - times.prefill_end, 0.99, axis=1)
    # The mean of the paths: one of them alone may have hardly any long answer.
    stay = float(stays.mean()) * traffic.rate if math.isfinite(traffic.rate) else 0.0
    if isinstance(traffic, Trace):
        # Its times are facts; only whether it overloads the fleet is asked.
        return Relaxation(look=0.0, stay=stay, dispersion=1 + work), load
    spread = traffic.arrivals.dispersion + work
    apart = task.policy.blocks.route.name in ("round-robin", "random")
    return Relaxation(
        look=unit(load[0], spread),
        queues=len(task.engines) if apart else 1,
        stay=stay,
        dispersion=spread,
    ), load


def _load(task: Task) -> tuple[float, float]:
    """Offered load against the outer and the inner bound."""
    traffic = task.traffic
    mix = traffic.mix() if isinstance(traffic, Trace) else traffic.mix
    allowed, names = task.eligible, _classes(task)
    if allowed is not None:
        allowed = tuple(allowed[names.index(name)] for name in mix)
    # Classes that do not occur in a trace have no lengths.
    rates = {name: traffic.rates[name] for name in mix}
    load = offered_load(_priced(task), mix, rates, allowed)
    sizes = [engine.kv_block for engine in task.engines if engine.prefix_cache]
    if isinstance(traffic, Trace) and traffic.prefix and sizes:
        # Less than what an endless cache of all engines leaves is never to be done.
        least = unshared(traffic, kv_block=math.gcd(*sizes)).mix()
        load = offered_load(_priced(task), least, rates, allowed)[0], load[1]
    return load


def _verdict(
    task: Task,
    path: Slopes,
    seen: Block,
    measured: tuple[int, int],
    relax: Relaxation,
    load: tuple[float, float],
) -> Verdict:
    """Judge the path; closed clients offer what they were seen to send."""
    traffic = task.traffic
    if isinstance(traffic, Workload) and isinstance(traffic.arrivals, Closed):
        rates = throughput(seen.arrival, seen.klass, _classes(task), measured)
        load = offered_load(_priced(task), traffic.mix, rates, task.eligible)
        return verdict_closed(traffic.arrivals, path, load, relax)
    if not math.isfinite(traffic.rate):
        return batch(load)
    verdict = judge(path, load, relax)
    if isinstance(traffic, Trace):
        return by_window(verdict, traffic, _priced(task), task.eligible)
    return verdict


def _words(
    task: Task, measured: tuple[int, int], done: int, root: np.random.SeedSequence
) -> dict[str, Any]:
    """Say what every result says of itself."""
    engines, traffic = task.engines, task.traffic
    unlike = {id(engine): engine for engine in engines}.values()
    notes = traffic.notes if isinstance(traffic, Trace) else ()
    clients = None if isinstance(traffic, Trace) else traffic.arrivals
    if isinstance(clients, Closed) and clients.think > 0 and clients.cv == 0:
        notes = ("users think for the same fixed time and stay in step: think_cv=1 spreads them",)
    return {
        "kind": Kind.SIMULATED,
        "assumptions": (
            f"conventions: {engines[0].conventions.name}",
            f"router: {task.policy.blocks.route.name}",
            f"requests {measured[0]} to {measured[1] - 1} of each path are measured",
            *dict.fromkeys(said for engine in unlike for said in engine.assumptions),
            *said_of_prefixes(engines, traffic),
            *notes,
        ),
        "source": engines[0].source,
        "provenance": provenance(
            entropy=root.entropy,
            engine=engines[0],
            engines=len(engines),
            policy=task.policy,
            replications=done,
            requests=len(traffic) if isinstance(traffic, Trace) else task.requests,
        ),
    }


def summarise(
    task: Task,
    warmup: int | str,
    root: np.random.SeedSequence,
    workers: Workers,
    progress: Callable[[int, int], None] | None,
) -> Summary:
    """Run and forget, block by block."""
    n = len(task.seeds)
    # The same pilot for any number of workers, or the window would depend on it.
    choice = chosen_engine(task, n * len(task.engines))
    pilot = run_block(replace(task, choice=choice, seeds=task.seeds[:PILOT]))
    finite = isinstance(task.traffic, Trace)
    relax, load = _relaxation(task, pilot.times())
    measured = _measured(pilot.times(), warmup, relax, whole=finite, paths=n)
    forget = partial(_part, measured=measured, classes=_classes(task))
    parts = [_reduced(pilot, measured, _classes(task))]
    rest = replace(task, choice=choice, seeds=task.seeds[PILOT:])
    if rest.seeds:
        parts += finished(forget, tasks_of(rest, workers), workers, progress, n, PILOT)
    whole = put_together(parts)
    done = len(whole.slopes.rate)
    return Summary(
        sketches=whole.sketches,
        replications=done,
        requests=whole.requests,
        iterations=whole.iterations,
        evictions=whole.evictions,
        engines=task.engines,
        policy=str(task.policy),
        measured=measured,
        verdict=_verdict(task, whole.slopes, pilot, measured, relax, load),
        look=0.0 if finite or not math.isfinite(relax.look) else relax.look,
        **_words(task, measured, done, root),
    )


def _part(task: Task, measured: tuple[int, int], classes: tuple[str, ...]) -> Part:
    return _reduced(run_block(task), measured, classes)


def _reduced(block: Block, measured: tuple[int, int], classes: tuple[str, ...]) -> Part:
    tallies = [tally for row in block.tallies for tally in row]
    sums = sum(t.iterations for t in tallies), sum(t.evictions for t in tallies)
    path = slopes(block.arrival, block.finish, block.first_token, measured)
    return reduce(block.times(), block.klass, classes, measured, path, sums)


def _measured(
    times: RequestTimes,
    warmup: int | str,
    relax: Relaxation,
    *,
    whole: bool,
    paths: int | None = None,
) -> tuple[int, int]:
    """First measured request and the one after the last."""
    size, n = times.arrival.shape
    if isinstance(warmup, str):
        if warmup != "auto":
            raise InputError(f"warmup must be a number of requests or 'auto', got {warmup!r}")
        if whole:
            return 0, n
        stays = e2e(times)
        # Of a path too short for its warm-up the second half is as good as it gets; overloaded
        # ones have no warm-up.
        relaxed = relax.start(size if paths is None else paths) if relax.look < math.inf else 0
        relaxed = min(relaxed, n // 2)
        start = max(warm_up(stays.mean(axis=0)), relaxed)
        # Who arrives within a long stay of the last arrival sees the system drain.
        lasts = times.arrival[:, -1] - np.quantile(stays, 0.99, axis=1)
        before = [np.searchsorted(row, end) for row, end in zip(times.arrival, lasts, strict=True)]
        stop = int(min(before))
        return (start, stop) if stop - start >= n // 4 else (min(start, n // 4), n)
    if not 0 <= warmup < n:
        raise InputError(
            f"warmup must leave at least one of the {n} requests, got {warmup}", value=warmup
        )
    return int(warmup), n
