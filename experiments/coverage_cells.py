"""Cells of the coverage study: which runs, and how their intervals are counted; no command."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

import llmq
from experiments.coverage_paths import Truth, relaxation, trials, truth
from experiments.runner import Point, Row
from llmq.sim.results._precision import MARGIN
from llmq.sim.results.run import Run

__all__ = ["METRICS", "REQUIRED", "cell", "points", "values"]

# Of the intervals that are printed under "stable".
REQUIRED = 0.92
METRICS = ("mean", "median", "p99", "share")
# Paths and requests of users.
SHORT = ((1, 4000), (8, 500), (64, 1000))
# Paths, and how many times the length that a verdict asks for; a little more, as precision= does.
LONG = ((1, 1.0), (8, 1.0), (8, 3.0))
# Requests of a cell beyond which it is left out, unless its paths are those of ALWAYS.
MOST = {"md1": 2.1e8, "mg1": 2.1e8, "sarathi": 5.5e7, "pascal": 1.1e7}
ALWAYS = (8, 1.0)
SEED = 10_000


def points(trials_of: int, systems: Sequence[str], loads: Sequence[float]) -> list[Point]:
    """List the cells of the study.

    Parameters
    ----------
    trials_of : int
        Runs of each.
    systems : sequence of str
        Names.
    loads : sequence of float
        Of the outer bound.

    Returns
    -------
    list of mapping
        System, load, paths, requests and trials: paths just long enough, and those shapes whose
        runs take no more requests together than ``MOST``.
    """
    found: list[Point] = []
    for name in systems:
        for load in loads:
            relax = relaxation(name, load)
            shapes = [(paths, requests, "short", False) for paths, requests in SHORT]
            for paths, times in LONG:
                length = math.ceil(MARGIN * times * relax.length(paths))
                shapes.append((paths, length, f"{times:g} x enough", (paths, times) == ALWAYS))
            for paths, requests, kind, always in shapes:
                if always or trials_of * paths * requests <= MOST[name]:
                    found.append(
                        {
                            "system": name,
                            "load": load,
                            "length": kind,
                            "paths": paths,
                            "requests": requests,
                            "trials": trials_of,
                        }
                    )
    return found


def cell(point: Point, seed: np.random.SeedSequence) -> list[Row]:
    """Count the intervals of one cell.

    Parameters
    ----------
    point : mapping
        Of :func:`points`.
    seed : SeedSequence
        Not used: trial ``i`` has the seed ``SEED + i``, so that anybody can repeat it.

    Returns
    -------
    list of dict
        A row for each metric.
    """
    del seed
    begun = time.process_time()
    true = _truth(point["system"], point["load"])
    exact = {name: value for name, value, _ in true.items()} | {"share": 0.99}
    errors = {name: error for name, _, error in true.items()} | {"share": 0.0}
    counts = {"stable": 0, "undecided": 0, "overloaded": 0}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in METRICS}
    seeds = range(SEED, SEED + point["trials"])
    for run in trials(point["system"], point["load"], point["paths"], point["requests"], seeds):
        counts[run.verdict.status] += 1
        if run.verdict.status == "stable":
            for name, ends in values(run, true).items():
                found[name].append(ends)
    return [
        {
            **point,
            **counts,
            "metric": name,
            "truth": exact[name],
            "truth_error": errors[name],
            **_counted(found[name], exact[name]),
            "seconds": time.process_time() - begun,
        }
        for name in METRICS
    ]


_KNOWN: dict[tuple[str, float], Truth] = {}


def _truth(name: str, load: float) -> Truth:
    """Return true values; a system and load are computed once."""
    if (name, load) not in _KNOWN:
        _KNOWN[name, load] = truth(name, load)
    return _KNOWN[name, load]


def values(run: Run, true: Truth) -> dict[str, tuple[float, float, float]]:
    """Return the estimates that are looked at, with their intervals.

    Parameters
    ----------
    run : Run
        A trial.
    true : Truth
        The target of the share is its 99 % point.

    Returns
    -------
    dict of str to tuple of float
        Estimate, low, high.
    """
    ttft, share = run.metric("ttft"), run.attainment(llmq.SLO(ttft=true.p99))
    each = {"mean": ttft.estimate, "median": ttft.quantile(0.5), "p99": ttft.quantile(0.99)}
    found = {name: (one.mean, one.low, one.high) for name, one in each.items()}
    # A share always has an upper end; it is printed where it has a lower one.
    return found | {"share": (share.value, share.low if share.low > 0 else -math.inf, share.high)}


def _counted(ends: list[tuple[float, float, float]], exact: float) -> dict[str, float]:
    printed = [one for one in ends if all(math.isfinite(value) for value in one)]
    held = sum(low <= exact <= high for _, low, high in printed)
    if not printed:
        return {
            "printed": 0,
            "held": 0,
            "coverage": math.nan,
            "half_width": math.nan,
            "bias": math.nan,
        }
    table = np.array(printed)
    return {
        "printed": len(printed),
        "held": held,
        "coverage": held / len(printed),
        "half_width": float(np.median(table[:, 2] - table[:, 1])) / 2 / exact,
        "bias": float(table[:, 0].mean()) / exact - 1,
    }
