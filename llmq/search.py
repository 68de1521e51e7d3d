"""The highest rate at which a fleet meets its targets: a search over simulated probes.

A probe is lengthened until it is decided: the verdict is "stable" and the whole interval of the
share of good requests lies above the target, or the interval lies below it, or the fleet is
overloaded; or until it has the most requests it may have. The largest rate that is surely good and
the smallest that surely is not are the ends of the answer's interval, assuming that more load is
never better. Between them bisection goes on, on both sides of the rates that stay undecided. The
answer itself is where the share of bad requests, interpolated on a logarithmic scale between the
neighbouring probes, crosses the target.

All probes use the same random numbers, and changing the rate stretches the same arrivals. Theory
ends the search from above with two bounds: at these settings (token budget, slots, chunk) no policy
carries more than the first, and on this hardware no scheduler carries more than the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmq.errors import InputError
from llmq.model.checked import checked
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.slo import SLO
from llmq.model.workload import Workload
from llmq.policies import VLLM, Policy
from llmq.policies.settings import priced
from llmq.result import Kind, Provenance, provenance
from llmq.rng import RngLike, seed_sequence
from llmq.sim.record import Run
from llmq.sim.run import simulate
from llmq.sim.stats import Share

__all__ = ["MaxRate", "Probe", "max_rate"]

# How much longer than its first try a probe may become.
LONGEST = 4


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
    """

    rate: float
    share: Share
    verdict: str


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
        Of each probe to begin with.
    longest : int, optional
        Requests of all paths of a probe that stays undecided; 4 times those of the first try if
        not given.
    rng : Generator, SeedSequence, int or None
        Source of randomness, the same for every probe.
    progress : callable, optional
        Called with (probes done, probes).

    Returns
    -------
    MaxRate
        With interval and probes.

    Raises
    ------
    InputError
        ``share`` beside a quantile, or no probes; or what :func:`llmq.simulate` refuses.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
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
    if share is not None and slo.quantile is not None:
        raise InputError(f"the targets already say {slo.quantile:g} of the requests: drop share=")
    goal = slo.quantile or share or 0.99
    if not 0 < goal < 1:
        raise InputError(f"share must lie between 0 and 1, got {goal}", value=goal)
    root = seed_sequence(rng)
    chosen = VLLM() if policy is None else policy
    system = priced(engine_or_fleet, chosen)
    pools = [system] if isinstance(system, Engine) else [one for one, _ in system.pools.values()]
    # The prompts of a workload share nothing.
    hits = 0 if any(one.prefix_cache for one in pools) else None
    region = stability_region(system, workload.mix, hits=hits)
    bound = workload.rate * region.margin(workload.rates)
    free = stability_region(system, workload.mix, limits="hardware", hits=hits)
    most = LONGEST * requests * replications if longest is None else longest

    def decided(run: Run) -> bool:
        good = run.attainment(slo)
        return good.high < goal or (run.verdict.status == "stable" and good.low >= goal)

    top = bound if math.isfinite(bound) else 2 * workload.rate
    tried: list[Probe] = []
    for done in range(probes):
        rate = _next(tried, goal, top)
        run = simulate(
            engine_or_fleet, workload.at_rate(rate), chosen, replications=replications,
            requests=requests, precision=decided, most=most,
            rng=np.random.SeedSequence(root.entropy, spawn_key=root.spawn_key),
        )  # fmt: skip
        tried.append(Probe(rate, run.attainment(slo), run.verdict.status))
        if progress is not None:
            progress(done + 1, probes)
    low, high = _ends(tried, goal, bound)
    return MaxRate(
        rate=_crossing(tried, goal, low, high), low=low, high=high, bound=bound,
        hardware_bound=workload.rate * free.margin(workload.rates),
        probes=tuple(tried), kind=Kind.SIMULATED,
        assumptions=(
            f"{goal:.4g} of the requests must meet {slo}", "more load is never better",
            *run.assumptions,
        ),
        source=run.source,
        provenance=provenance(
            entropy=root.entropy, system=engine_or_fleet, policy=run.policy, slo=slo,
            probes=probes, requests=requests, replications=replications, longest=most,
        ),
    )  # fmt: skip


def _ends(tried: list[Probe], goal: float, top: float) -> tuple[float, float]:
    """Largest rate that is surely good, and the smallest that surely is not."""
    bad = [p.rate for p in tried if p.verdict == "overloaded" or p.share.high < goal]
    high = min([*bad, top])
    good = [p.rate for p in tried if p.verdict == "stable" and p.share.low >= goal]
    return max([rate for rate in good if rate <= high], default=0.0), high


def _next(tried: list[Probe], goal: float, top: float) -> float:
    """Halve the wider gap beside the rates that stay undecided."""
    low, high = _ends(tried, goal, top)
    between = [p.rate for p in tried if low < p.rate < high]
    if not between:
        return (low + high) / 2
    below, above = (low, min(between)), (max(between), high)
    first, last = max(below, above, key=lambda gap: gap[1] - gap[0])
    return (first + last) / 2


def _crossing(tried: list[Probe], goal: float, low: float, high: float) -> float:
    """Where the share of bad requests crosses what the target allows."""
    within = sorted((p for p in tried if low <= p.rate <= high), key=lambda p: p.rate)
    good = [p for p in within if p.verdict != "overloaded" and p.share.value >= goal]
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
