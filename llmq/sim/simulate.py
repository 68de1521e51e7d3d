"""``simulate``: replications of a workload, or one trace, through an engine or a fleet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence

from llmq._input.checked import checked
from llmq._input.renamed import renamed
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies import VLLM, Policy, text
from llmq.policies.contract.settings import effective
from llmq.rng import RngLike, seed_sequence
from llmq.sim._amount import check_amount, check_classes, check_clock
from llmq.sim._block import Task
from llmq.sim._collect import as_run, finished, summarise, tasks_of
from llmq.sim._dispatch import EngineChoice
from llmq.sim._parallel.workers import Workers
from llmq.sim._replicate import run_block
from llmq.sim.results._precision import MOST, Enough, lengthened
from llmq.sim.results.run import Run
from llmq.sim.results.summary import Summary

__all__ = ["simulate"]


@overload
def simulate(
    engine_or_fleet: Engine | Fleet,
    workload_or_trace: Workload | Trace,
    policy: Policy | None = None,
    *,
    record: Literal["summary"],
    replications: int = 1,
    requests: int = 2000,
    rng: RngLike = None,
    simulator: EngineChoice = "auto",
    warmup: int | str = "auto",
    precision: Enough | None = None,
    maximum: int = MOST,
    workers: Workers = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Summary: ...


@overload
def simulate(
    engine_or_fleet: Engine | Fleet,
    workload_or_trace: Workload | Trace,
    policy: Policy | None = None,
    *,
    replications: int = 1,
    requests: int = 2000,
    rng: RngLike = None,
    simulator: EngineChoice = "auto",
    record: Literal["requests", "tokens"] = "requests",
    warmup: int | str = "auto",
    check: bool = False,
    precision: Enough | None = None,
    maximum: int = MOST,
    workers: Workers = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Run: ...


@renamed(engine="simulator", most="maximum")
@checked
def simulate(
    engine_or_fleet: Engine | Fleet,
    workload_or_trace: Workload | Trace,
    policy: Policy | None = None,
    *,
    replications: int = 1,
    requests: int = 2000,
    rng: RngLike = None,
    simulator: EngineChoice = "auto",
    record: str = "requests",
    warmup: int | str = "auto",
    check: bool = False,
    precision: Enough | None = None,
    maximum: int = MOST,
    workers: Workers = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Run | Summary:
    """Simulate requests through an engine or a fleet, to the last token.

    Parameters
    ----------
    engine_or_fleet : Engine or Fleet
        What serves.
    workload_or_trace : Workload or Trace
        Who arrives: a workload is drawn anew in each replication, a trace is one path.
    policy : Policy, optional
        How it is scheduled; ``VLLM()`` (vLLM v1) if not given. Its settings meet the engine's in
        :func:`llmq.policies.contract.settings.effective`.
    replications : int
        Independent paths.
    requests : int
        Requests of a path, for a workload.
    rng : Generator, SeedSequence, int or None
        Source of randomness; replication ``i`` gets the i-th child, whatever the workers.
    simulator : {"auto", "vector", "calendar", "reference"}
        Which simulator. All give one trajectory; "auto" takes the fastest that can.
    record : {"requests", "tokens", "summary"}
        "tokens" keeps the time of every token as well (reference simulator); "summary" keeps no
        requests, only sums and sketches, for tens of millions of them.
    warmup : int or "auto"
        Requests left out at the start; "auto" decides by the relaxation time of the system
        (:mod:`llmq.sim.results._relaxation`) and MSER-5, and also leaves out the requests that see
        the system drain. A trace is measured whole unless a number is given.
    check : bool
        Look at every iteration again (reference simulator, about three times as slow): what the
        policy says a second time, and what must hold of the engine. See
        :mod:`llmq.sim._reference.audit`; ``run.checks`` counts.
    precision : float or callable, optional
        Lengthen the paths, and take more of them, until the verdict is decided and the mean TTFT
        and TPOT are known up to this relative half width (0.05: 5 %); or until a function of the
        run returns True, whatever the verdict. Without it a run whose paths are too short is
        "undecided", its intervals are infinite, and ``run.verdict.needed`` says how long paths
        must be.
    maximum : int
        With ``precision``: requests of all paths together beyond which the run is returned as it
        is, perhaps undecided; its assumptions say so.
    workers : int, map-like or dask.distributed.Client
        Processes, a function like :func:`map`, or a cluster. The result is the same for all.
    progress : callable, optional
        Called with (replications done, replications).

    Returns
    -------
    Run or Summary
        Event times (not in a summary), verdict, and metrics with intervals. An interrupt (Ctrl-C)
        is passed on: there is no result of a part of the replications.

    Raises
    ------
    InputError
        Unusable arguments, or a request that can never fit.
    PolicyError
        The policy broke a rule.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.request import RequestClass
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=128)
    >>> work = Workload.poisson(5.0, {"chat": RequestClass(512, 64)})
    >>> run = simulate(chip, work, replications=4, requests=500, rng=7)
    >>> run.verdict.status
    'stable'
    """
    chosen = VLLM() if policy is None else policy
    fleet = _fleet(engine_or_fleet, chosen)
    _check_arguments(replications, requests, record, workload_or_trace, chosen)
    check_amount(requests, replications, kept=record != "summary")
    check_classes(chosen, workload_or_trace)
    if isinstance(workload_or_trace, Trace):
        check_clock(workload_or_trace, fleet)
    _check_requests(fleet, workload_or_trace, chosen)
    if check:
        simulator = _audited(simulator, record, workload_or_trace)
    root = seed_sequence(rng)
    eligible = _eligible(engine_or_fleet, workload_or_trace)
    link = engine_or_fleet.link if isinstance(engine_or_fleet, Fleet) else math.inf

    def make(paths: int, length: int) -> Run | Summary:
        before = time.process_time()
        # Spawning changes a seed sequence: every try gets a fresh one of the same seed.
        seed = root if precision is None else SeedSequence(root.entropy, spawn_key=root.spawn_key)
        whole = Task(
            workload_or_trace,
            length,
            tuple(seed.spawn(paths)),
            fleet,
            chosen,
            simulator,
            record == "tokens",
            eligible,
            link,
            check,
        )
        found: Run | Summary
        if record == "summary":
            found = summarise(whole, warmup, seed, workers, progress)
        else:
            blocks = finished(run_block, tasks_of(whole, workers), workers, progress, paths)
            found = as_run(blocks, whole, warmup, seed)
        if not found.verdict.short or workers != 1:
            return found
        pace = (time.process_time() - before) / length
        verdict = replace(found.verdict, seconds=pace * found.verdict.needed)
        return replace(found, verdict=verdict)

    if precision is None:
        return make(replications, requests)
    if isinstance(workload_or_trace, Trace):
        raise InputError(
            "precision= lengthens drawn traffic, and a trace is as long as it is: leave it out, or "
            "draw from a Workload with trace.mix()",
            field="precision",
            value=precision,
        )
    return lengthened(make, replications, requests, precision, maximum)


def _fleet(what: Engine | Fleet, policy: Policy) -> tuple[Engine, ...]:
    if isinstance(what, Fleet):
        if any(role != "both" for role in what.roles.values()):
            raise InputError(
                "prefill and decode pools are not simulated yet: leave out roles=, or simulate "
                "each pool by itself"
            )
        engines = what.engines
    elif isinstance(what, Engine):
        engines = (what,)
    else:
        raise InputError(f"simulate needs an Engine or a Fleet, got {type(what).__name__}")
    # Equal engines are one object before and after: a pool may have thousands.
    as_run = {id(one): effective(one, policy) for one in engines}
    return tuple(as_run[id(one)] for one in engines)


def _check_arguments(
    replications: int, requests: int, record: str, traffic: Workload | Trace, policy: Policy
) -> None:
    if replications < 1:
        raise InputError(f"replications must be at least 1, got {replications}", value=replications)
    if requests < 1:
        raise InputError(f"requests must be at least 1, got {requests}", value=requests)
    if record not in ("requests", "tokens", "summary"):
        raise InputError(
            f"record must be 'requests', 'tokens' or 'summary', got {record!r}", value=record
        )
    if not isinstance(traffic, Workload | Trace):
        raise InputError(f"simulate needs a Workload or a Trace, got {type(traffic).__name__}")
    if isinstance(traffic, Trace) and replications > 1 and policy.blocks.route.name != "random":
        raise InputError(
            f"a trace is one path: {replications} replications of it would be copies. Leave out "
            "replications=, route at random, or draw from a Workload with trace.mix()",
            value=replications,
        )


def _audited(simulator: EngineChoice, record: str, traffic: Workload | Trace) -> EngineChoice:
    """Return the simulator that can be looked at."""
    if simulator not in ("auto", "reference"):
        raise InputError(
            f"check=True looks at the reference simulator, got simulator={simulator!r}: leave out "
            "one",
            field="check",
            value=simulator,
        )
    if record == "summary":
        raise InputError("check=True reports how much was checked: use record='requests'")
    if isinstance(traffic, Workload) and traffic.is_closed:
        raise InputError("check=True needs arrivals that are known beforehand, not closed clients")
    return "reference"


def _check_requests(engines: tuple[Engine, ...], traffic: Workload | Trace, policy: Policy) -> None:
    """Refuse a request that no engine state could ever serve."""
    if isinstance(traffic, Trace):
        peak = int((traffic.prompt + traffic.output).max())
        prompt = int(traffic.prompt.max())
    else:
        peak = max(one.peak for one in traffic.mix.values())
        prompt = max(one.prompt.high for one in traffic.mix.values())
    blocks = policy.blocks
    kept = blocks.admit.reserve == "most"
    # Whose room is kept to the end, or whose KV is kept on the host, computes nothing twice.
    again = prompt if blocks.swap or (kept and peak - prompt <= blocks.admit.most) else peak
    if kept:
        peak = max(peak, prompt + blocks.admit.most)
    for one in engines:
        room = one.kv_blocks - blocks.admit.margin(one.kv_blocks)
        if -(-peak // one.kv_block) > room:
            raise InputError(
                f"a request of {peak} tokens needs {-(-peak // one.kv_block)} KV blocks, more than "
                f"the {room:g} that {one.name or 'the engine'} can give one request "
                f"({one.kv_tokens} KV tokens, watermark {blocks.admit.watermark:g}): raise "
                "kv_tokens or drop such requests",
                peak=peak,
                kv_tokens=one.kv_tokens,
            )
        longest = prompt if one.kv_tokens is None else again
        if blocks.budget.whole and longest > one.token_budget:
            wider: Any = policy
            wider = text(replace(wider, token_budget=longest))
            raise InputError(
                f"policy {policy.name} does not split prompts: {longest} tokens exceed its "
                f"token_budget {one.token_budget}; use {wider} or a policy with "
                "chunked prefill",
                tokens=longest,
                token_budget=one.token_budget,
            )


def _eligible(
    what: Engine | Fleet, traffic: Workload | Trace
) -> tuple[npt.NDArray[np.bool_], ...] | None:
    if not isinstance(what, Fleet) or not what.eligible:
        return None
    names = traffic.classes if isinstance(traffic, Trace) else tuple(traffic.mix)
    if unknown := sorted(set(what.eligible) - set(names)):
        raise InputError(f"eligible= names class {unknown[0]!r}; the traffic has {names}")
    pools = [name for name, (_, count) in what.pools.items() for _ in range(count)]
    return tuple(
        np.array([name in what.eligible.get(klass, pools) for name in pools]) for klass in names
    )
