"""How many GPUs: a bound that no scheduler beats, and the count that meets the targets.

For each candidate (an engine and a policy)

1. *lower bound*: the load of the traffic on one engine (:func:`llmq.stability_region`), rounded up:
   with fewer engines no policy is stable;
2. *alone*: every request by itself on an idle engine; if too few meet the targets even then, no
   number of engines helps (:mod:`llmq.alone`);
3. *search*: from the lower bound upwards the smallest count whose simulated attainment is at least
   the target with its whole 95 % interval (galloping, then bisection: more engines are taken to
   do no harm). It stops where engines abound and four times as many do no better.

A fleet of equal engines behind a round-robin or random router is simulated through one engine
(:mod:`llmq.model.thinning`); a given trace, or a router that looks at the engines, through all.
Not covered: mixed fleets (refused; their region is :func:`llmq.stability_region`), disaggregated
pools, autoscaling within the trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmq.alone import hopeless, run_alone
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.slo import SLO
from llmq.model.thinning import Thinned
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.plan import Candidate, CandidatePlan, Plan, Probe
from llmq.policies import Policy, Sarathi
from llmq.policies.settings import effective
from llmq.result import Estimate, Kind, provenance
from llmq.rng import RngLike, seed_sequence
from llmq.sim.record import Run
from llmq.sim.run import simulate
from llmq.sim.stats import Share
from llmq.sim.workers import Workers
from llmq.theory.region import Region, stability_region

__all__ = ["Candidate", "CandidatePlan", "Plan", "Probe", "plan_capacity"]

SHOWN = (0.5, 0.9, 0.99)
# Square of the normal quantile of a 95 % interval.
Z2 = 1.959963984540054**2
CURVE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def plan_capacity(
    workload_or_trace: Workload | Trace,
    slo: SLO,
    candidates: Engine | Candidate | Mapping[str, Engine] | Sequence[Engine | Candidate],
    *,
    policy: Policy | None = None,
    attainment: float = 0.99,
    max_gpus: int = 100_000,
    requests: int = 2000,
    replications: int = 8,
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
        For candidates that name none; ``Sarathi()`` if not given.
    attainment : float
        Used without ``slo.quantile``.
    max_gpus : int
        Give up above this.
    requests, replications : int
        Length and number of the simulated paths, for a workload.
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

    Raises
    ------
    InputError
        No candidates, a request that one cannot hold, traffic without a rate, or too few requests
        to show the target with confidence.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
    >>> from llmq.model.request import RequestClass
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64, name="chip")
    >>> work = Workload.poisson(40.0, {"chat": RequestClass(512, 64)})
    >>> plan = plan_capacity(work, SLO(ttft=1.0, tpot=0.05, quantile=0.9), chip, requests=500)
    >>> plan.chosen.gpus_lower_bound <= plan.chosen.gpus
    True
    """
    offers = _candidates(candidates, Sarathi() if policy is None else policy)
    target = slo.quantile if slo.quantile is not None else attainment
    if not 0 < target < 1:
        raise InputError(f"attainment must lie between 0 and 1, got {target}", value=target)
    if max_gpus < 1:
        raise InputError(f"max_gpus must be at least 1, got {max_gpus}", value=max_gpus)
    traffic = _rated(workload_or_trace)
    mix = traffic.mix() if isinstance(traffic, Trace) else traffic.mix
    seed = seed_sequence(rng)
    plans, regions = [], []
    for offer in offers:
        tell = (lambda text, name=offer.label: progress(f"{name}: {text}")) if progress else _quiet
        engine = effective(offer.engine, offer.policy)
        region = stability_region(engine, mix)
        search = _Search(
            traffic, slo, target, offer, engine, region, seed, requests, replications, workers, tell
        )
        plans.append(_plan_one(search, max_gpus))
        regions.append(region)
    feasible = [plan for plan in plans if plan.feasible]
    return Plan(
        verdict="feasible" if feasible else "infeasible",
        chosen=min(feasible, key=lambda plan: plan.gpus or 0) if feasible else None,
        candidates=tuple(plans),
        slo=slo,
        target=target,
        traffic=_describe(traffic),
        regions=tuple(regions),
        rates=traffic.rates,
        kind=Kind.SIMULATED,
        assumptions=_assumptions(traffic, regions),
        provenance=provenance(
            entropy=seed.entropy, slo=slo, target=target, requests=requests,
            replications=replications, traffic=_describe(traffic),
        ),
    )  # fmt: skip


def _rated(traffic: Workload | Trace) -> Workload | Trace:
    if not isinstance(traffic, Workload | Trace):
        raise InputError(f"plan_capacity needs a Workload or a Trace, got {traffic!r}")
    if not math.isfinite(traffic.rate):
        raise InputError(
            "all requests come at one time, so the traffic has no rate to plan for: give a trace "
            "with more times, or draw arrivals for its lengths with Workload.poisson(rate, mix)"
        )
    return traffic


def _quiet(text: str) -> None:
    return None


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
    offers = [one if isinstance(one, Candidate) else Candidate(one, policy) for one in given]
    for one in offers:
        if not isinstance(one.engine, Engine):
            raise InputError(f"a candidate must be an llmq.Engine, got {one.engine!r}")
    if not offers:
        raise InputError("plan_capacity needs at least one candidate engine")
    return offers


@dataclass(frozen=True, slots=True)
class _Search:
    """All that stays the same while a candidate's count is searched."""

    traffic: Workload | Trace
    slo: SLO
    target: float
    offer: Candidate
    engine: Engine
    region: Region
    seed: np.random.SeedSequence
    requests: int
    replications: int
    workers: Workers
    tell: Callable[[str], None]

    def alone(self) -> Run:
        """Simulate the requests of a count, each by itself."""
        return run_alone(
            self.traffic, self.engine, self.offer.policy,
            requests=self.requests, replications=self.replications, rng=self.seed,
        )  # fmt: skip

    def run(self, engines: int) -> Run:
        """Simulate a count."""
        router = self.offer.policy.blocks.route.name
        traffic: Workload | Trace
        if isinstance(self.traffic, Trace) or router not in ("round-robin", "random"):
            traffic = self.traffic
            fleet, scale = Fleet({"all": (self.engine, engines)}), engines
        else:
            shared = Thinned(self.traffic.arrivals, engines, in_turn=router == "round-robin")
            fleet, traffic = (
                Fleet({"all": (self.engine, 1)}),
                replace(self.traffic, arrivals=shared),
            )
            scale = 1
        return simulate(
            fleet, traffic, self.offer.policy, requests=self.requests * scale,
            replications=1 if isinstance(traffic, Trace) else self.replications,
            rng=self.seed, workers=self.workers,
        )  # fmt: skip

    def probe(self, engines: int) -> tuple[Probe, Run]:
        """Simulate a count and see whether it meets the targets."""
        run = self.run(engines)
        share = run.attainment(self.slo)
        gpus = engines * self.engine.gpus
        load = necessary_load(self.region, self.traffic.rates) / engines
        self.tell(f"{gpus} GPUs: load {load:.2f}, attainment {share}")
        return Probe(engines, gpus, load, share, run.verdict.status), run

    def passes(self, probe: Probe) -> bool:
        """Whether the whole interval lies above the target."""
        steady = isinstance(self.traffic, Trace) or probe.status != "overloaded"
        return steady and self.shown(probe.attainment)

    def shown(self, share: Share) -> bool:
        """Whether the target is met with confidence, as far as the requests can show it."""
        if share.low < self.target and share.value == 1:
            # All of them are good, so more engines would change nothing.
            most, need = 1 / (1 + Z2 / share.n), math.ceil(Z2 * self.target / (1 - self.target))
            raise InputError(
                f"{share.n} measured requests, all within the targets, show with 95 % confidence "
                f"no share above {most:.4g}; {self.target:g} needs at least {need}: use a longer "
                "trace, simulate more requests, or ask for a smaller share",
                value=share.n,
            )
        return share.low >= self.target


def necessary_load(region: Region, rates: Mapping[str, float]) -> float:
    """Load that no policy can undercut.

    Parameters
    ----------
    region : Region
        Of one engine.
    rates : mapping of str to float
        Requests per second by class.

    Returns
    -------
    float
        Engines.
    """
    return region.load_bracket(rates)[0]


def _plan_one(s: _Search, max_gpus: int) -> CandidatePlan:
    load_one = necessary_load(s.region, s.traffic.rates)
    least = max(1, math.ceil(load_one)) if math.isfinite(load_one) else 1
    alone = s.alone()
    limit = min(max_gpus, s.offer.max_gpus or max_gpus)
    probes: dict[int, tuple[Probe, Run]] = {}
    answer = None
    if not s.shown(alone.attainment(s.slo)):
        reason = hopeless(alone, s.slo, s.target)
    elif least * s.engine.gpus > limit:
        reason = f"the lower bound of {least * s.engine.gpus} GPUs exceeds the limit of {limit}"
    else:
        most = limit // s.engine.gpus
        # On average fewer than one request for two engines, even if all took as long as alone.
        plenty = 2 * s.traffic.rate * alone.metric("e2e", anyway=True).mean
        answer = _smallest(s, least, most, plenty, probes)
        best = max(probe.attainment.value for probe, _ in probes.values())
        reason = (
            f"{answer} engines meet {s.slo} with confidence"
            if answer
            else f"{max(probes) * s.engine.gpus} GPUs do not meet {s.slo} with confidence"
            f"{', and more do not help' if max(probes) < most else ''}; best attainment {best:.4f}"
        )
    return _report(s, least, load_one, answer, reason, probes)


def _smallest(
    s: _Search, least: int, most: int, plenty: float, probes: dict[int, tuple[Probe, Run]]
) -> int | None:
    """Smallest count that passes: gallop up from the lower bound, then bisect.

    None at ``most`` engines, or where ``plenty`` of them do no better than a quarter of them.
    """

    def ok(engines: int) -> bool:
        if engines not in probes:
            probes[engines] = s.probe(engines)
        return s.passes(probes[engines][0])

    low, high = least - 1, least
    while not ok(high):
        fewer = [probes[n][0].attainment.value for n in probes if 4 * n <= high]
        stalled = fewer and probes[high][0].attainment.value <= max(fewer)
        if high >= most or (high >= plenty and stalled):
            return None
        low, high = high, min(most, max(high + 1, math.ceil(high * 1.5)))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ok(middle) else (middle, high)
    return high


def _report(
    s: _Search,
    least: int,
    load_one: float,
    answer: int | None,
    reason: str,
    probes: dict[int, tuple[Probe, Run]],
) -> CandidatePlan:
    gpus, rates = s.engine.gpus, s.traffic.rates
    load = load_one / (answer or least)
    run = probes[answer][1] if answer else None
    shown, curves = _latencies(run)
    seen = sorted(probes)
    point = [n for n in seen if probes[n][0].attainment.value >= s.target]
    return CandidatePlan(
        candidate=s.offer,
        feasible=answer is not None,
        reason=reason,
        gpus_lower_bound=least * gpus,
        gpus=answer * gpus if answer else None,
        engines=answer,
        gpus_point=point[0] * gpus if point else None,
        load_one=load_one,
        load=load,
        headroom=1 / load - 1 if load > 0 else math.inf,
        binding=s.region.binding(rates),
        prices=s.region.prices(rates),
        attainment=probes[answer][0].attainment if answer else None,
        ttft=shown.get("ttft", {}),
        tpot=shown.get("tpot", {}),
        curves=curves,
        probes=tuple(probes[n][0] for n in seen),
    )


def _latencies(
    run: Run | None,
) -> tuple[dict[str, dict[str, Estimate]], dict[str, tuple[tuple[float, Estimate], ...]]]:
    if run is None:
        return {}, {}
    shown, curves = {}, {}
    for name in ("ttft", "tpot"):
        metric = run.metric(name, anyway=True)
        shown[name] = {f"p{100 * q:g}": metric.quantile(q) for q in SHOWN}
        curves[name] = tuple((q, metric.quantile(q)) for q in CURVE)
    return shown, curves


def _describe(traffic: Workload | Trace) -> str:
    if isinstance(traffic, Trace):
        return repr(traffic)
    classes = ", ".join(f"{name} {rate:.4g} req/s" for name, rate in traffic.rates.items())
    return f"{type(traffic.arrivals).__name__} arrivals at {traffic.rate:.4g} req/s ({classes})"


def _assumptions(traffic: Workload | Trace, regions: Sequence[Region]) -> tuple[str, ...]:
    shared: dict[str, None] = {}
    for region in regions:
        shared.update(dict.fromkeys(region.assumptions))
        shared.update(dict.fromkeys(region.engine.assumptions))
    notes = traffic.notes if isinstance(traffic, Trace) else ()
    if isinstance(traffic, Trace):
        notes += ("the lower bound takes the trace for a piece of endless traffic at its rates",)
    return (*shared, *notes, "more engines do no harm to the attainment (bisection)")
