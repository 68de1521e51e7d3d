"""The highest rate at which a fleet meets its targets: bisection over simulated probes.

All probes use the same random numbers, and changing the rate stretches the same arrivals, so that
the share of good requests falls smoothly with the rate. The theory ends the search from above: no
policy carries more than the outer bound of the stability region at these settings. Probes whose
interval lies clear of the target give the ends of the answer's interval, assuming that more load is
never better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.slo import SLO
from llmq.model.workload import Workload
from llmq.policies import VLLM, Policy
from llmq.policies.settings import priced
from llmq.result import Kind, Provenance, provenance
from llmq.rng import RngLike, seed_sequence
from llmq.sim.run import simulate
from llmq.sim.stats import Share

__all__ = ["MaxRate", "Probe", "max_rate"]


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


def max_rate(
    engine_or_fleet: Engine | Fleet,
    workload: Workload,
    slo: SLO,
    policy: Policy | None = None,
    *,
    share: float | None = None,
    probes: int = 8,
    requests: int = 2000,
    replications: int = 1,
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
        Of each probe.
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
    low, high, tried = 0.0, bound if math.isfinite(bound) else 2 * workload.rate, []
    for done in range(probes):
        rate = (low + high) / 2
        run = simulate(
            engine_or_fleet, workload.at_rate(rate), chosen, replications=replications,
            requests=requests, rng=np.random.SeedSequence(root.entropy, spawn_key=root.spawn_key),
        )  # fmt: skip
        probe = Probe(rate, run.attainment(slo), run.verdict.status)
        tried.append(probe)
        good = probe.verdict != "overloaded" and probe.share.value >= goal
        low, high = (rate, high) if good else (low, rate)
        if progress is not None:
            progress(done + 1, probes)
    surely = [p.rate for p in tried if p.verdict != "overloaded" and p.share.low >= goal]
    never = [p.rate for p in tried if p.verdict == "overloaded" or p.share.high < goal]
    return MaxRate(
        rate=low, low=min(max(surely, default=0.0), low), high=min([*never, bound]), bound=bound,
        hardware_bound=workload.rate * free.margin(workload.rates),
        probes=tuple(tried), kind=Kind.SIMULATED,
        assumptions=(
            f"{goal:.4g} of the requests must meet {slo}", "more load is never better",
            *run.assumptions,
        ),
        source=run.source,
        provenance=provenance(
            entropy=root.entropy, system=engine_or_fleet, policy=run.policy, slo=slo,
            probes=probes, requests=requests, replications=replications,
        ),
    )  # fmt: skip
