"""Every request by itself on an idle engine: the best that any number of engines can do.

A count of engines changes only how long requests wait for each other. If the requests miss the
targets without any company, no count helps, and the latencies they have unloaded say which targets
could be met: the least that the requests alone meet with confidence. Engines that share a request
(disaggregated prefill and decode) are not covered.
"""

from __future__ import annotations

import dataclasses
import warnings
from bisect import bisect_left

import numpy as np

from llmq.errors import UnitWarning
from llmq.model.arrivals import Deterministic
from llmq.model.engine import Engine
from llmq.model.slo import SLO
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies import Policy
from llmq.rng import RngLike
from llmq.sim.results.run import Run
from llmq.sim.simulate import simulate
from llmq.units import MILLISECOND, format_seconds, parse_duration

__all__ = ["hopeless", "nearest_targets", "run_unloaded", "warn_of_units"]

QUEUEING = 0.1
# A time to first token of 40 s at 4 ms an iteration is a target of batch jobs; 500 s is a slip.
DOUBTFUL = {"ttft": 8192, "tpot": 1024}


def warn_of_units(engine: Engine, slo: SLO) -> None:
    """Warn of a target so wide that milliseconds were meant.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-4))
    >>> warn_of_units(chip, SLO(ttft=60.0, tpot=0.05))
    """
    one = float(engine.law(1))
    for name, most in DOUBTFUL.items():
        value = slo.targets.get(name)
        if value is not None and value >= most * one:
            warnings.warn(
                UnitWarning(
                    f"{name.upper()} <= {format_seconds(value)} is {value / one:,.0f} iterations "
                    f"of one token ({format_seconds(one)}): targets are in seconds; if "
                    f"milliseconds were meant, write {name}={value * MILLISECOND:g}"
                ),
                stacklevel=4,
            )


def run_unloaded(
    traffic: Workload | Trace,
    engine: Engine,
    policy: Policy,
    *,
    requests: int,
    replications: int = 1,
    rng: RngLike,
) -> Run:
    """Simulate requests so far apart that none meets another.

    Examples
    --------
    >>> from llmq import policies
    >>> from llmq.model.time.batchtime import BatchTime
    >>> chip = Engine(BatchTime.affine(base=1, per_token=1))
    >>> burst = Trace([0, 0, 0], [8, 8, 8], [3, 3, 3])
    >>> run_unloaded(burst, chip, policies.Sarathi(), requests=3, rng=0).ttft.mean
    9.0
    """
    if isinstance(traffic, Trace):
        longest = int((traffic.prompt + traffic.output).max())
    else:
        longest = max(one.peak for one in traffic.mix.values())
    # As if each token took an iteration of the largest size.
    apart = longest * float(engine.law(engine.chunk, longest, longest * engine.chunk))
    spread: Workload | Trace
    if isinstance(traffic, Trace):
        spread = Trace(
            np.arange(len(traffic)) * apart,
            traffic.prompt,
            traffic.output,
            traffic.reasoning,
            traffic.klass,
            traffic.classes,
        )
    else:
        spread = dataclasses.replace(traffic, arrivals=Deterministic(1 / apart))
    paths = 1 if isinstance(traffic, Trace) else replications
    return simulate(
        engine, spread, policy, requests=requests, replications=paths, rng=rng, warmup=0
    )


def nearest_targets(run: Run, slo: SLO, target: float) -> dict[str, float]:
    """Raise the targets that are missed to what the requests alone meet with confidence."""
    # A tenth of the allowed misses is left to queueing: a target just met alone would need
    # engines without number.
    found = {name: np.sort(run.metric(name).values, axis=None) for name in slo.targets}
    seen = {name: values[~np.isnan(values)] for name, values in found.items()}

    def limits(part: float) -> dict[str, float]:
        raised = dict(slo.targets)
        for name, values in seen.items():
            if len(values):
                least = float(values[round(part * (len(values) - 1))])
                raised[name] = max(raised[name], least)
        return raised

    enough = target + QUEUEING * (1 - target)

    def shown(part: int) -> bool:
        return run.attainment(dataclasses.replace(slo, **limits(part / n))).low >= enough

    n = run.requests.arrival.size
    parts = range(1, n + 1)
    # Where no part is shown to be enough, all times are taken.
    return limits(parts[bisect_left(parts[:-1], True, key=shown)] / n)


def hopeless(run: Run, slo: SLO, target: float) -> str:
    """Say which targets no count of engines can meet, and the nearest that can be met."""
    near = nearest_targets(run, slo, target)
    words, better = [], []
    for name, limit in slo.targets.items():
        if near[name] > limit:
            need = run.metric(name).quantile(target).mean
            words.append(
                f"{name.upper()} <= {format_seconds(limit)} (alone on an idle engine its "
                f"p{100 * target:g} is {format_seconds(need)})"
            )
            better.append(f"{name} = {_at_least(near[name])}")
    return (
        f"no number of GPUs meets {' and '.join(words)} with confidence; without any queueing "
        f"{run.attainment(slo)} of the requests meet the targets, needed {100 * target:g} %. "
        f"Nearest feasible: {', '.join(better)}"
    )


def _at_least(seconds: float) -> str:
    """Write a time with few digits, never less than it is."""
    shown = seconds
    while parse_duration(text := format_seconds(shown)) < seconds:
        shown *= 1.001
    return text
