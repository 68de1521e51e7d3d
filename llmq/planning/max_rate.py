"""The highest rate at which a fleet meets its targets: a search over simulated probes.

Half of the probes are pilots: short paths, bisected by their estimates, that find where to look.
The others are lengthened until they are decided: the verdict is "stable" and the whole interval of
the share of good requests lies above the target, or the interval lies below it, or the fleet is
overloaded; or until they have the most requests they may have. They begin just below the pilots'
answer, because short paths start empty and do too well; for the same reason many short paths may
show that a rate is too high, but only long ones that it is not.

The largest rate that is surely good and the smallest that surely is not are the ends of the
answer's interval, assuming that more load is never better. Between them bisection goes on, on both
sides of the rates that stay undecided. The answer itself is where the share of bad requests,
interpolated on a logarithmic scale between the neighbouring probes, crosses the target.

All probes use the same random numbers, and changing the rate stretches the same arrivals. Theory
ends the search from above with two bounds: at these settings (token budget, slots, chunk) no policy
carries more than the first, and on this hardware no scheduler carries more than the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.slo import SLO
from llmq.model.workload import Workload
from llmq.planning._unloaded import warn_of_units
from llmq.policies import VLLM, Policy
from llmq.policies.contract.settings import priced
from llmq.result import Kind, Provenance, provenance
from llmq.rng import RngLike, seed_sequence
from llmq.sim.results._stats import Share
from llmq.sim.results.run import Run
from llmq.sim.simulate import simulate

__all__ = ["MaxRate", "Probe", "max_rate"]

# Requests of a probe that stays undecided, relative to ``requests * replications``.
LONGEST = 12
# Of the requests of a path, those of a pilot; many short paths are so many times as many.
SHORT, MANY = 4, 4
# What a verdict asks for is exceeded a little, most of all after a pilot.
MARGIN, AFTER_PILOT = 1.15, 1.5
# First step from the pilots' answer; it doubles.
STEP = 0.04


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that was tried.

    Parameters
    ----------
    rate : float
        Requests per second.
    share : Share
        Requests that meet the targets.
    verdict : str
        Stable, undecided or overloaded.
    pilot : bool
        A short path, to find where to look; it may show that a rate is too high, never that it is
        not.
    """

    rate: float
    share: Share
    verdict: str
    pilot: bool = False


@dataclass(frozen=True, slots=True)
class MaxRate:
    """The highest rate that meets the targets.

    Parameters
    ----------
    rate : float
        Requests per second; 0 if even the lowest rate tried fails.
    low, high : float
        Ends of the 95 % interval; below the first the targets are surely met, above the second
        surely missed.
    bound : float
        At these settings no policy is stable above it (outer bound of the region).
    hardware_bound : float
        No scheduler is stable above it, whatever the token budget, slots and chunk.
    probes : tuple of Probe
        What was tried, in order.
    kind, assumptions, source, provenance
        As in every result.
    """

    rate: float
    low: float
    high: float
    bound: float
    hardware_bound: float
    probes: tuple[Probe, ...]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance

    def __str__(self) -> str:
        shown = f"{self.rate:.3g} req/s [{self.low:.3g}, {self.high:.3g}]"
        return (
            f"{shown}; at these settings no policy carries more than {self.bound:.3g}, no "
            f"scheduler at any settings more than {self.hardware_bound:.3g}"
        )


@checked
def max_rate(
    engine_or_fleet: Engine | Fleet,
    workload: Workload,
    slo: SLO,
    policy: Policy | None = None,
    *,
    share: float | None = None,
    probes: int = 8,
    requests: int = 2000,
    replications: int = 8,
    longest: int | None = None,
    rng: RngLike = None,
    progress: Callable[[int, int], None] | None = None,
) -> MaxRate:
    """Find the highest rate at which the targets are met.

    Parameters
    ----------
    engine_or_fleet : Engine or Fleet
        What serves.
    workload : Workload
        Who arrives; its rate is what is searched.
    slo : SLO
        Targets.
    policy : Policy, optional
        How it is scheduled; ``VLLM()`` (vLLM v1) if not given.
    share : float, optional
        Share of the requests that must meet all targets, where ``slo`` has no quantile; 0.99 if
        not given.
    probes : int
        Simulated rates.
    requests, replications : int
        Of each probe to begin with; pilots have a quarter of the requests.
    longest : int, optional
        Requests of all paths of a probe that stays undecided; 12 times ``requests * replications``
        if not given.
    rng : Generator, SeedSequence, int or None
        Source of randomness, the same for every probe.
    progress : callable, optional
        Called with (probes done, probes).

    Returns
    -------
    MaxRate
        With interval and probes.

    Warns
    -----
    UnitWarning
        A target is so wide that milliseconds were meant.

    Raises
    ------
    InputError
        ``share`` beside a quantile, or no probes; or what :func:`llmq.simulate` refuses.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.request import RequestClass
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=128)
    >>> work = Workload.poisson(1.0, {"chat": RequestClass(512, 64)})
    >>> found = max_rate(chip, work, SLO(ttft=0.5, tpot=0.05, quantile=0.95), requests=500, rng=1)
    >>> found.low <= found.rate <= found.high <= found.bound
    True
    """
    from llmq.theory.region import stability_region

    if probes < 1:
        raise InputError(f"probes must be at least 1, got {probes}", value=probes)
    goal = _goal(slo, share)
    root = seed_sequence(rng)
    chosen = VLLM() if policy is None else policy
    system = priced(engine_or_fleet, chosen)
    pools = [system] if isinstance(system, Engine) else [one for one, _ in system.pools.values()]
    warn_of_units(pools[0], slo)
    # The prompts of a workload share nothing.
    hits = 0 if any(one.prefix_cache for one in pools) else None
    region = stability_region(system, workload.mix, hits=hits)
    bound = workload.rate * region.margin(workload.rates)
    free = stability_region(system, workload.mix, limits="hardware", hits=hits)
    most = LONGEST * requests * replications if longest is None else longest

    def at(rate: float, paths: int, length: int) -> Run:
        return simulate(
            engine_or_fleet,
            workload.at_rate(rate),
            chosen,
            replications=paths,
            requests=length,
            rng=np.random.SeedSequence(root.entropy, spawn_key=root.spawn_key),
        )

    top = bound if math.isfinite(bound) else 2 * workload.rate
    pilots: list[Probe] = []
    tried: list[Probe] = []
    for done in range(probes):
        pilot = done < probes // 2  # the last one is never a pilot
        rate = _halved(pilots, goal, top) if pilot else _next(pilots, tried, goal, top)
        run = at(rate, replications, max(1, requests // SHORT))
        if not pilot:
            run = _lengthened(partial(at, rate), run, slo, goal, most)
        found = Probe(rate, run.attainment(slo), run.verdict.status, pilot)
        (pilots if pilot else tried).append(found)
        if progress is not None:
            progress(done + 1, probes)
    low, high = _ends([*pilots, *tried], goal, bound)
    return MaxRate(
        rate=_crossing(tried, goal, low, high),
        low=low,
        high=high,
        bound=bound,
        hardware_bound=workload.rate * free.margin(workload.rates),
        probes=(*pilots, *tried),
        kind=Kind.SIMULATED,
        assumptions=(
            f"{goal:.4g} of the requests must meet {slo}",
            "more load is never better",
            *run.assumptions,
        ),
        source=run.source,
        provenance=provenance(
            entropy=root.entropy,
            system=engine_or_fleet,
            policy=run.policy,
            slo=slo,
            probes=probes,
            requests=requests,
            replications=replications,
            longest=most,
        ),
    )


def _goal(slo: SLO, share: float | None) -> float:
    """Share of the requests that must meet all targets."""
    if share is not None and slo.quantile is not None:
        raise InputError(f"the targets already say {slo.quantile:g} of the requests: drop share=")
    goal = slo.quantile or share or 0.99
    if not 0 < goal < 1:
        raise InputError(f"share must lie between 0 and 1, got {goal}", value=goal)
    return goal


def _lengthened(at: Callable[[int, int], Run], run: Run, slo: SLO, goal: float, most: int) -> Run:
    """Simulate a rate for longer until it is decided."""
    paths, length = run.requests.arrival.shape
    if not _decided(run, slo, goal) and run.attainment(slo).value < goal:
        # Many short paths show soonest that a rate is too high.
        wide = at(MANY * paths, 2 * length) if 2 * MANY * paths * length <= most else run
        if _decided(wide, slo, goal):
            return wide
    margin = AFTER_PILOT
    while not _decided(run, slo, goal):
        least = max(2 * length, run.verdict.needed)
        longer = min(max(least, math.ceil(margin * run.verdict.needed)), most // paths)
        if longer < least:
            return run
        length, margin = longer, MARGIN
        run = at(paths, length)
    return run


def _decided(run: Run, slo: SLO, goal: float) -> bool:
    good = run.attainment(slo)
    if run.verdict.status == "overloaded" or good.high < goal:
        return True
    return run.verdict.status == "stable" and good.low >= goal


def _ends(tried: list[Probe], goal: float, top: float) -> tuple[float, float]:
    """Largest rate that is surely good, and the smallest that surely is not."""
    bad = [p.rate for p in tried if p.verdict == "overloaded" or p.share.high < goal]
    high = min([*bad, top])
    good = [p.rate for p in tried if p.verdict == "stable" and p.share.low >= goal and not p.pilot]
    return max([rate for rate in good if rate <= high], default=0.0), high


def _halved(tried: list[Probe], goal: float, top: float) -> float:
    """Bisect by what the probes look like."""
    high = min([top, *(p.rate for p in tried if _looks_bad(p, goal))])
    good = [p.rate for p in tried if p.rate < high]
    return (max(good, default=0.0) + high) / 2


def _next(pilots: list[Probe], tried: list[Probe], goal: float, top: float) -> float:
    """Step away from the answer so far until both ends are sure, then halve the wider gap."""
    low, high = _ends([*pilots, *tried], goal, top)
    answer = min(_answer(pilots, tried, goal, top), high) or high / 2
    seen = {p.rate for p in tried}
    steps = [STEP * 2.0**k for k in range(len(tried) + 1) if STEP * 2.0**k < 1]
    for way in (-1, 1):
        sure = low > 0 if way < 0 else high < top
        for rate in [] if sure else [answer * (1 + way * step) for step in steps]:
            if low < rate < high and rate not in seen:
                return rate
    between = [p.rate for p in tried if low < p.rate < high]
    if not between:
        return (low + high) / 2
    below, above = (low, min(between)), (max(between), high)
    first, last = max(below, above, key=lambda gap: gap[1] - gap[0])
    return (first + last) / 2


def _answer(pilots: list[Probe], tried: list[Probe], goal: float, top: float) -> float:
    """Crossing of what was tried for long; of the pilots as long as it shows one side only."""
    bad = [p.rate for p in tried if _looks_bad(p, goal)]
    good = [p.rate for p in tried if not _looks_bad(p, goal)]
    if good and bad:
        return _crossing(tried, goal, 0.0, top)
    found = _crossing(pilots, goal, 0.0, top)
    return min(bad) if bad else max([*good, found])


def _looks_bad(probe: Probe, goal: float) -> bool:
    return probe.verdict == "overloaded" or probe.share.value < goal


def _crossing(tried: list[Probe], goal: float, low: float, high: float) -> float:
    """Where the share of bad requests crosses what the target allows."""
    within = sorted((p for p in tried if low <= p.rate <= high), key=lambda p: p.rate)
    good = [p for p in within if not _looks_bad(p, goal)]
    if not good:
        return low
    last = good[-1]
    after = next((p for p in within if p.rate > last.rate), None)
    if after is None or after.verdict == "overloaded":
        return last.rate
    # Half a request stands for none.
    least = 0.5 / max(last.share.n, 1)
    there, here = (math.log(max(1 - p.share.value, least)) for p in (after, last))
    step = (math.log(1 - goal) - here) / (there - here) if there > here else 0.0
    return min(max(last.rate + step * (after.rate - last.rate), low), high)
