"""The smallest count of an engine that meets the targets: probes, and how long each must be.

A probe of a workload is accepted only if its verdict is "stable" and the whole 95 % interval of its
attainment lies above the target. A short pilot comes first: it rejects what is overloaded or
misses the targets clearly, and says how long paths must be. A path that does not decide is made
longer, as long as its verdict or its interval asks for, until it does; where that is longer than
paths may be, the count is not accepted, and this is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.slo import SLO
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.planning._need import Need
from llmq.planning._thinning import Thinned
from llmq.planning._unloaded import run_unloaded
from llmq.planning.plans import Candidate, Probe
from llmq.sim._parallel.workers import Workers
from llmq.sim.results._stats import Share
from llmq.sim.results.run import Run
from llmq.sim.simulate import simulate
from llmq.units import format_seconds

__all__ = ["OutOfTime", "Search", "decides", "least_requests", "reason_of"]

# Square of the normal quantile of a 95 % interval.
Z2 = 1.959963984540054**2
# A path that must be longer becomes at least so many times as long. What a verdict asks for is
# exceeded, because stays look longer on a longer path: most of all after a pilot, whose batches
# are still small.
LONGER, MARGIN, AFTER_PILOT = 2, 1.15, 1.5
# Shares of a path, and of the requests of a count: of the pilot, and simulated alone at first.
PILOT, FEW = 4, 8
# Requests of the path of a pilot at least.
LEAST = 200


class OutOfTime(Exception):
    """The time that a plan may take is over."""


def least_requests(target: float) -> int:
    """Return how many requests, all good, show a share with 95 % confidence.

    Examples
    --------
    >>> least_requests(0.99), least_requests(0.9)
    (381, 35)
    """
    return math.ceil(Z2 * target / (1 - target))


@dataclass(slots=True)
class Search:
    """All that stays the same while a candidate's count is searched, and what was tried."""

    traffic: Workload | Trace  # who arrives at the whole fleet
    slo: SLO  # the targets
    target: float  # share of requests that must meet them
    offer: Candidate  # what could be bought
    engine: Engine  # its engine as the policy runs it
    seed: np.random.SeedSequence  # the same for every count
    # requests, longest: requests of a path at first, and at most
    requests: int
    longest: int
    replications: int  # paths
    workers: Workers  # as in :func:`llmq.simulate`
    tell: Callable[[str], None]  # gets a line of text for each simulated path
    deadline: float  # of :func:`time.monotonic`; nothing is simulated after it
    need: Need | None = None  # bounds of the traffic; set before the first count is simulated
    # what was simulated, by engines; (Probe, Run)
    probes: dict[int, tuple[Probe, Run]] = field(default_factory=dict)

    def unloaded(self) -> Run:
        """Simulate the requests of a count, each by itself."""
        few = max(self.requests // FEW, self._least())
        if few < self.requests and not isinstance(self.traffic, Trace):
            run = self._unloaded(few)
            # Shown by a part of the requests, it need not be shown by all of them.
            if self.shown(run.attainment(self.slo)):
                return run
        return self._unloaded(self.requests)

    def _unloaded(self, requests: int) -> Run:
        return run_unloaded(
            self.traffic,
            self.engine,
            self.offer.policy,
            requests=requests,
            replications=self.replications,
            rng=self.seed,
        )

    def _least(self) -> int:
        """Return the requests of a path that can show a share, half of them warm-up and drain."""
        return math.ceil(2 * least_requests(self.target) / self.replications)

    def _run(self, engines: int, requests: int) -> Run:
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
            fleet,
            traffic,
            self.offer.policy,
            requests=requests * scale,
            replications=1 if isinstance(traffic, Trace) else self.replications,
            rng=self.seed,
            workers=self.workers,
        )

    def _probe(self, engines: int) -> tuple[Probe, Run]:
        """Simulate a count, longer until it is decided whether it meets the targets."""
        requests, gpus = self.requests, engines * self.engine.gpus
        assert self.need is not None
        load, pilot = self.need.load / engines, False
        if not isinstance(self.traffic, Trace):
            short = max(requests // PILOT, self._least(), LEAST)
            requests, pilot = min(requests, short), short < requests
        while True:
            if time.monotonic() > self.deadline:
                raise OutOfTime
            run = self._run(engines, requests)
            share, verdict = run.attainment(self.slo), run.verdict
            size = run.requests.arrival.size
            self.tell(f"{gpus} GPUs: load {load:.2f}, {verdict.status}, attainment {share}")
            probe = Probe(engines, gpus, load, share, verdict.status, size, verdict.sentence)
            # A pilot may reject, but what is bought has been seen for longer.
            if self.decided(probe) and not (pilot and self.passes(probe)):
                return probe, run
            longer = self._longer(run, share, requests, AFTER_PILOT if pilot else MARGIN)
            if not longer:
                return probe, run
            requests, pilot = max(self.requests, longer) if pilot else longer, False

    def _longer(self, run: Run, share: Share, requests: int, margin: float) -> int:
        """Count the requests of a path that may decide, or 0 where no path may be that long."""
        if run.verdict.short:
            least = float(run.verdict.needed)
            wished = max(LONGER * requests, margin * least)
        else:
            good = share.value >= self.target
            half = share.value - share.low if good else share.high - share.value
            # The gap may be wider by a standard error than it looks.
            gap = abs(share.value - self.target) + half / 2
            least = requests * (half / gap) ** 2 if gap > 0 else math.inf
            wished = max(LONGER * requests, margin * least)
        # What would take longer paths than may be is not worth a longer one.
        if least > self.longest or requests >= self.longest:
            return 0
        return min(math.ceil(wished), self.longest)

    def decided(self, probe: Probe) -> bool:
        """Say whether a longer path would say the same: surely good, or surely not."""
        if isinstance(self.traffic, Trace) or probe.status == "overloaded":
            return True
        share = probe.attainment
        if probe.status == "stable":
            return share.low >= self.target or share.high < self.target
        # A longer path of what is not stable is no better.
        return share.high < self.target

    def ok(self, engines: int) -> bool:
        """Say whether a count meets the targets."""
        if engines not in self.probes:
            self.probes[engines] = self._probe(engines)
        return self.passes(self.probes[engines][0])

    def passes(self, probe: Probe) -> bool:
        """Say whether a count is stable and its whole interval lies above the target."""
        steady = isinstance(self.traffic, Trace) or probe.status == "stable"
        return self.shown(probe.attainment) and steady

    def shown(self, share: Share) -> bool:
        """Say whether the target is met with confidence, as far as the requests can show it."""
        if share.n < least_requests(self.target) and share.value == 1:
            # All of them are good, so more engines would change nothing.
            most, need = 1 / (1 + Z2 / share.n), least_requests(self.target)
            raise InputError(
                f"{share.n} measured requests, all within the targets, show with 95 % confidence "
                f"no share above {most:.4g}; {self.target:g} needs at least {need}: use a longer "
                "trace, simulate more requests, or ask for a smaller share",
                value=share.n,
            )
        return share.low >= self.target

    def smallest(self, least: int, most: int, plenty: float) -> int | None:
        """Find the smallest count that passes: gallop up from the lower bound, then bisect."""
        low, high = least - 1, least
        while not self.ok(high):
            shares = {n: probe.attainment.value for n, (probe, _) in self.probes.items()}
            fewer = [share for n, share in shares.items() if 4 * n <= high]
            stalled = fewer and shares[high] <= max(fewer)
            if high >= most or (high >= plenty and stalled):
                return None
            low, high = high, min(most, math.ceil(high * 1.5))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.ok(middle) else (middle, high)
        return high


def reason_of(s: Search, answer: int | None, most: int, *, finished: bool) -> str:
    """Say why a count is the answer, or why there is none."""
    late = "" if finished else "; time ran out before smaller counts were tried"
    if answer:
        return f"{answer} engines meet {s.slo} with confidence{late}"
    if not s.probes:
        return "time ran out before any count was simulated"
    tried, per = [probe for probe, _ in s.probes.values()], s.engine.gpus
    largest = max(tried, key=lambda probe: probe.engines)
    if not finished:
        return f"time ran out: up to {largest.gpus} GPUs were tried, and none meets {s.slo}"
    if largest.status == "undecided":
        return (
            f"{largest.gpus} GPUs are not shown to meet {s.slo}: after {largest.requests:,} "
            f"requests it is undecided whether they are stable ({largest.sentence})"
        )
    best = max(probe.attainment.value for probe in tried)
    return (
        f"{largest.engines * per} GPUs do not meet {s.slo} with confidence"
        f"{', and more do not help' if largest.engines < most else ''}; best attainment {best:.4f}"
    )


def decides(s: Search, answer: int | None) -> str:
    """Say what keeps the answer from being smaller."""
    if answer is None or s.need is None:
        return ""
    per = s.engine.gpus
    if answer == s.need.least:
        if answer == 1:
            return "one engine is the least there is"
        fewer = f"{(answer - 1) * per} GPU{'s' * ((answer - 1) * per != 1)}"
        if s.need.load > answer - 1:
            return (
                f"the lower bound decides: {fewer} would have a load of "
                f"{s.need.load / (answer - 1):.2f} at these settings"
            )
        return f"the lower bound decides: {fewer} cannot do in time what the window demands"
    if answer - 1 not in s.probes:
        return "smaller counts were not tried"
    probe = s.probes[answer - 1][0]
    gpus = f"{probe.gpus} GPU{'s' * (probe.gpus != 1)}"
    share = probe.attainment
    name, part = min(share.by_metric, key=lambda pair: pair[1])
    if probe.status == "overloaded" and not isinstance(s.traffic, Trace):
        return f"stability decides: {gpus} would be overloaded ({probe.sentence})"
    if probe.status == "undecided" and share.high >= s.target and not isinstance(s.traffic, Trace):
        return (
            f"stability decides: it is undecided after {probe.requests:,} requests whether {gpus} "
            f"would be stable ({probe.sentence})"
        )
    if share.value >= s.target:
        return (
            f"confidence decides: on {gpus} {share} meet the targets, which {probe.requests:,} "
            f"requests do not show to be {100 * s.target:g} %"
        )
    metric, limit = name.upper(), s.slo.targets.get(name)
    aim = "" if limit is None else f" of {format_seconds(limit)}"
    return f"latency decides: on {gpus} only {100 * part:.2f} % meet the {metric} target{aim}"
