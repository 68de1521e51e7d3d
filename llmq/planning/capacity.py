"""How many GPUs: bounds first, then the count that meets the targets.

For each candidate (an engine and a policy)

1. *unloaded*: every request by itself on an idle engine; if too few meet the targets even then, no
   number of engines helps (:mod:`llmq.planning._unloaded`);
2. *lower bounds* (:mod:`llmq.planning._need`): the load of the traffic on one engine, rounded up.
   One at the settings of the candidate: with fewer no policy does. One of the hardware, where token
   budget, slots and chunk are free: with fewer no scheduler does;
3. *search* (:mod:`llmq.planning._search`): from the bound at these settings upwards the smallest
   count that is stable when simulated and whose attainment is at least the target with its whole
   95 % interval (galloping, then bisection: more engines are taken to do no harm). It stops where
   engines abound and four times as many do no better.

A fleet of equal engines behind a round-robin or random router is simulated through one engine
(:mod:`llmq.planning._thinning`); a given trace, or a router that looks at the engines, through all.
Not covered: mixed fleets (refused; their region is :func:`llmq.stability_region`), disaggregated
pools, autoscaling within the trace.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.slo import SLO
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.planning._need import Need, need_of
from llmq.planning._search import OutOfTime, Search, decides, least_requests, reason_of
from llmq.planning._unloaded import hopeless, warn_of_units
from llmq.planning.plans import Candidate, CandidatePlan, Plan, PlanInterrupted, Probe
from llmq.policies import VLLM, Policy
from llmq.policies.contract.settings import effective, priced
from llmq.result import Estimate, Kind, Provenance, provenance
from llmq.rng import RngLike, seed_sequence
from llmq.sim._parallel.workers import Workers
from llmq.sim.results.run import Run
from llmq.theory.needs.demand import demand
from llmq.theory.region._bounds import check_fits

__all__ = ["Candidate", "CandidatePlan", "Plan", "PlanInterrupted", "Probe", "plan_capacity"]

SHOWN = (0.5, 0.9, 0.99)
CURVE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# How much longer than the first path of a count its last may be.
LONGEST = 16


@checked
def plan_capacity(
    workload_or_trace: Workload | Trace,
    slo: SLO,
    candidates: Engine | Candidate | Mapping[str, Engine] | Sequence[Engine | Candidate],
    *,
    policy: Policy | None = None,
    attainment: float = 0.99,
    max_gpus: int = 100_000,
    requests: int = 2000,
    longest: int | None = None,
    replications: int = 8,
    max_seconds: float = math.inf,
    rng: RngLike = 0,
    workers: Workers = 1,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """Find the smallest fleet that meets latency targets with confidence.

    Parameters
    ----------
    workload_or_trace : Workload or Trace
        The traffic of the whole fleet.
    slo : SLO
        The targets. With ``quantile`` each metric must meet its own population target; without it
        a share ``attainment`` of the requests must meet all of them.
    candidates : Engine, Candidate, mapping of str to Engine, or sequence
        What could be bought.
    policy : Policy, optional
        For candidates that name none; ``VLLM()`` (vLLM v1) if not given.
    attainment : float
        Used without ``slo.quantile``.
    max_gpus : int
        Give up above this.
    requests, replications : int
        Length of the first simulated paths of a count and their number, for a workload. Where they
        cannot show the target they are longer from the start.
    longest : int, optional
        Length up to which paths grow that do not decide; 16 times ``requests`` if not given.
    max_seconds : float
        No simulation is begun later than this: the plan then has what was found by then.
    rng : Generator, SeedSequence, int or None
        Source of randomness; each count sees the same arrivals.
    workers : int or map-like
        As in :func:`llmq.simulate`.
    progress : callable, optional
        Called with a line of text as the search goes on.

    Returns
    -------
    Plan
        With every candidate and every probe.

    Warns
    -----
    UnitWarning
        A target is so wide that milliseconds were meant.

    Raises
    ------
    InputError
        No candidates, a request that one cannot hold, traffic without a rate, or a trace with too
        few requests to show the target with confidence.
    PlanInterrupted
        After Ctrl-C; it is a KeyboardInterrupt and carries the candidates that were finished.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.request import RequestClass
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64, name="chip")
    >>> work = Workload.poisson(40.0, {"chat": RequestClass(512, 64)})
    >>> plan = plan_capacity(work, SLO(ttft=1.0, tpot=0.05, quantile=0.9), chip, requests=500)
    >>> plan.chosen.gpus_lower_bound <= plan.chosen.gpus
    True
    """
    offers = _candidates(candidates, VLLM() if policy is None else policy)
    if not isinstance(slo, SLO):
        raise InputError(
            f"the targets of a plan must be an llmq.SLO, got {type(slo).__name__}: write "
            "llmq.SLO(ttft=0.5, tpot=0.05, quantile=0.99)",
            field="slo",
            value=slo,
        )
    target = slo.quantile if slo.quantile is not None else attainment
    if not 0 < target < 1:
        raise InputError(f"attainment must lie between 0 and 1, got {target}", value=target)
    if max_gpus < 1:
        raise InputError(f"max_gpus must be at least 1, got {max_gpus}", value=max_gpus)
    traffic = _rated(workload_or_trace)
    for one in offers:
        warn_of_units(one.engine, slo)
    seed = seed_sequence(rng)
    # Half of a path may be warm-up and drain.
    first = max(requests, math.ceil(2 * least_requests(target) / replications))
    most = LONGEST * first if longest is None else longest
    deadline = time.monotonic() + max_seconds
    done: list[tuple[CandidatePlan, Need]] = []

    def plan() -> Plan:
        return _plan(
            done,
            len(offers),
            slo,
            target,
            traffic,
            provenance(
                entropy=seed.entropy,
                slo=slo,
                target=target,
                requests=first,
                longest=most,
                replications=replications,
                traffic=_describe(traffic),
            ),
        )

    try:
        for offer in offers:
            tell = _teller(progress, offer.label)
            search = Search(
                traffic,
                slo,
                target,
                offer,
                effective(offer.engine, offer.policy),
                seed,
                first,
                most,
                replications,
                workers,
                tell,
                deadline,
            )
            if time.monotonic() > deadline:
                break
            done.append(_plan_one(search, max_gpus))
    except KeyboardInterrupt as stop:
        raise PlanInterrupted(plan() if done else None) from stop
    return plan()


def _rated(traffic: Workload | Trace) -> Workload | Trace:
    if not isinstance(traffic, Workload | Trace):
        raise InputError(f"plan_capacity needs a Workload or a Trace, got {traffic!r}")
    if not math.isfinite(traffic.rate):
        raise InputError(
            "all requests come at one time, so the traffic has no rate to plan for: give a trace "
            "with more times, or draw arrivals for its lengths with Workload.poisson(rate, mix)"
        )
    return traffic


def _teller(progress: Callable[[str], None] | None, label: str) -> Callable[[str], None]:
    def tell(text: str) -> None:
        if progress is not None:
            progress(f"{label}: {text}")

    return tell


def _candidates(
    given: Engine | Candidate | Mapping[str, Engine] | Sequence[Engine | Candidate], policy: Policy
) -> list[Candidate]:
    if isinstance(given, Engine | Candidate):
        given = [given]
    if isinstance(given, Mapping):
        given = [Candidate(engine, policy, name) for name, engine in given.items()]
    if isinstance(given, Fleet):
        raise InputError(
            "plan_capacity sizes one kind of engine at a time: offer the engine of each pool as a "
            "candidate, fleet.pools[name][0]; what a given fleet carries is "
            "llmq.stability_region(fleet, mix).margin(rates)",
            value=given,
        )
    anything: Any = given
    if isinstance(anything, str) or not isinstance(anything, Sequence):
        raise InputError(
            f"candidates must be llmq.Engine objects, got {given!r}: "
            "load one by name with llmq.load_engine('llama-3.1-8b/h100')",
            value=given,
        )
    offers = [one if isinstance(one, Candidate) else Candidate(one, policy) for one in given]
    for one in offers:
        if not isinstance(one.engine, Engine):
            raise InputError(
                f"a candidate must be an llmq.Engine, got {one.engine!r}: load one by name with "
                "llmq.load_engine('llama-3.1-8b/h100')"
            )
    if not offers:
        raise InputError("plan_capacity needs at least one candidate engine")
    return offers


def _plan(
    done: Sequence[tuple[CandidatePlan, Need]],
    offers: int,
    slo: SLO,
    target: float,
    traffic: Workload | Trace,
    made: Provenance,
) -> Plan:
    plans, needs = [one for one, _ in done], [need for _, need in done]
    feasible = [one for one in plans if one.feasible]
    complete = len(plans) == offers and all(one.finished for one in plans)
    priced = bool(feasible) and all(one.cost is not None for one in feasible)
    best = min(feasible, key=lambda one: _rank(one, priced=priced)) if feasible else None
    widest = max(needs, key=lambda need: bool(need.window)) if needs else None
    notes = _notes(traffic, needs, plans, priced=priced)
    if len(plans) < offers:
        notes += (f"time ran out: {offers - len(plans)} of {offers} candidates were not begun",)
    return Plan(
        verdict="feasible" if feasible else "infeasible" if complete else "unfinished",
        chosen=best,
        chosen_by="price" if priced else "GPUs",
        candidates=tuple(plans),
        slo=slo,
        target=target,
        traffic=_describe(traffic),
        window=widest.window if widest else "",
        regions=tuple(need.region for need in needs),
        rates=widest.rates if widest else traffic.rates,
        kind=Kind.SIMULATED,
        assumptions=notes,
        provenance=made,
    )


def _rank(one: CandidatePlan, *, priced: bool) -> tuple[float, ...]:
    """Cheapest first, or fewest GPUs."""
    assert one.gpus is not None, "a feasible plan has a count"
    if not priced:
        return (one.gpus,)
    assert one.cost is not None, "every feasible plan has a price"
    return (one.cost, one.gpus)


def _plan_one(s: Search, max_gpus: int) -> tuple[CandidatePlan, Need]:
    mix = s.traffic.mix() if isinstance(s.traffic, Trace) else s.traffic.mix
    for name, one in mix.items():
        check_fits(s.engine, name, demand(one, s.engine))
    unloaded = s.unloaded()
    need = s.need = need_of(priced(s.engine, s.offer.policy), s.traffic, s.slo, s.target)
    limit, per = min(max_gpus, s.offer.max_gpus or max_gpus), s.engine.gpus
    most, answer, finished = limit // per, None, True
    if not s.shown(unloaded.attainment(s.slo)):
        reason = hopeless(unloaded, s.slo, s.target)
    elif need.least > most:
        reason = (
            f"the lower bound of {need.least * per} GPUs exceeds the limit of {limit} (at these "
            f"settings; {need.hardware_least * per} at any)"
        )
    else:
        # On average fewer than one request for two engines, even if all took as long as unloaded.
        plenty = 2 * s.traffic.rate * unloaded.metric("e2e", allow_unstable=True).mean
        try:
            answer = s.smallest(need.least, most, plenty)
        except OutOfTime:
            finished = False
            answer = min((n for n, (one, _) in s.probes.items() if s.passes(one)), default=None)
        reason = reason_of(s, answer, most, finished=finished)
    return _report(s, need, answer, reason, finished=finished), need


def _report(
    s: Search, need: Need, answer: int | None, reason: str, *, finished: bool
) -> CandidatePlan:
    gpus, rates = s.engine.gpus, need.rates
    count = answer or need.least
    run = s.probes[answer][1] if answer else None
    shown, curves = _latencies(run)
    tried = [s.probes[n][0] for n in sorted(s.probes)]
    point = [
        one.engines
        for one in tried
        if one.attainment.value >= s.target
        and (isinstance(s.traffic, Trace) or one.status != "overloaded")
    ]
    return CandidatePlan(
        candidate=s.offer,
        feasible=answer is not None,
        finished=finished,
        reason=reason,
        decides=decides(s, answer),
        gpus_lower_bound=need.least * gpus,
        hardware_lower_bound=need.hardware_least * gpus,
        gpus=answer * gpus if answer else None,
        engines=answer,
        gpus_point=point[0] * gpus if point else None,
        load_one=need.load,
        hardware_load_one=need.hardware_load,
        load=need.load / count,
        headroom=_headroom(need.load / count),
        hardware_headroom=_headroom(need.hardware_load / count),
        binding=need.region.binding(rates),
        prices=need.region.prices(rates),
        attainment=s.probes[answer][0].attainment if answer else None,
        ttft=shown.get("ttft", {}),
        tpot=shown.get("tpot", {}),
        curves=curves,
        probes=tuple(tried),
    )


def _headroom(load: float) -> float:
    return 1 / load - 1 if load > 0 else math.inf


def _latencies(
    run: Run | None,
) -> tuple[dict[str, dict[str, Estimate]], dict[str, tuple[tuple[float, Estimate], ...]]]:
    if run is None:
        return {}, {}
    shown, curves = {}, {}
    for name in ("ttft", "tpot"):
        metric = run.metric(name, allow_unstable=True)
        shown[name] = {f"p{100 * q:g}": metric.quantile(q) for q in SHOWN}
        curves[name] = tuple((q, metric.quantile(q)) for q in CURVE)
    return shown, curves


def _describe(traffic: Workload | Trace) -> str:
    if isinstance(traffic, Trace):
        return repr(traffic) + _clock(traffic)
    classes = ", ".join(f"{name} {rate:.4g} req/s" for name, rate in traffic.rates.items())
    return f"{type(traffic.arrivals).__name__} arrivals at {traffic.rate:.4g} req/s ({classes})"


def _clock(trace: Trace) -> str:
    """Say that a scaled trace runs at another speed, which squeezes its bursts and lulls too."""
    said = [note for note in trace.notes if note.startswith("rate scaled by ")]
    factor = math.prod(float(note.removeprefix("rate scaled by ")) for note in said)
    return f"; its clock runs {factor:.4g} times as fast, bursts and lulls too" if said else ""


def _notes(
    traffic: Workload | Trace,
    needs: Sequence[Need],
    plans: Sequence[CandidatePlan],
    *,
    priced: bool,
) -> tuple[str, ...]:
    """Say what the plan rests on."""
    said: dict[str, None] = {}
    for need in needs:
        said.update(dict.fromkeys(need.region.assumptions))
        said.update(dict.fromkeys(need.region.engine.assumptions))
        said.update(dict.fromkeys(need.notes))
    said.update(dict.fromkeys(traffic.notes if isinstance(traffic, Trace) else ()))
    kinds = {(one.candidate.engine.name, one.candidate.engine.gpus) for one in plans}
    if priced:
        said["chosen: the lowest price for an hour"] = None
    elif len(kinds) > 1:
        said[
            "chosen: the fewest GPUs; what a GPU of each kind costs is not considered (give every "
            "candidate a price)"
        ] = None
    return (*said, "more engines do no harm to the attainment (bisection)")
