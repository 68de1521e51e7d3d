"""Intervals near saturation: ``python -m experiments.coverage_saturation [--trials N]``.

Many runs of ``simulate`` of one system at one load, each with its own seed. Where the verdict is
"stable", the intervals of the mean, the median and the 99 % point of the TTFT are counted: printed
(finite), and among those, holding the true value. Shapes are those of users: short paths, whose
verdict is "undecided" near saturation, and paths that are long enough at that load.

The truth is exact for M/D/1 (mean and quantiles) and for the mean of M/G/1 (Pollaczek and
Khinchine); the others come from one run that is 30 times as long.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import llmq
from experiments.table import TABLES, Table, write_table
from llmq import policies
from llmq.sim.relaxation import Relaxation, dispersion_of_work, unit
from llmq.theory import latency

__all__ = ["LOADS", "REQUIRED", "SYSTEMS", "System", "main", "study"]

LOADS = (0.5, 0.8, 0.9, 0.95, 0.98)
# Of the intervals that are printed under "stable".
REQUIRED = 0.92
# Short paths of users; further ones follow from the load.
SHORT = ((64, 1000), (8, 500), (1, 4000))
# Paths, and independent looks of all of them together.
LONG = ((8, 150), (32, 600), (1, 300))
TRUTH = 30
SERVICE = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)


@dataclass(frozen=True)
class System:
    """What is simulated.

    Parameters
    ----------
    engine : Engine
        What serves.
    mix : RequestClass
        Every request.
    policy : Policy
        How it is scheduled.
    """

    engine: llmq.Engine
    mix: llmq.RequestClass
    policy: policies.Policy

    def work(self, load: float) -> llmq.Workload:
        """Return Poisson arrivals at a share of the region.

        Parameters
        ----------
        load : float
            Of the outer bound.

        Returns
        -------
        Workload
            Traffic.
        """
        mix = {"x": self.mix}
        margin = llmq.stability_region(self.engine, mix).margin({"x": 1.0})
        return llmq.Workload.poisson(load * margin, mix)


CHIP = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), token_budget=256, max_seqs=64)
TALK = llmq.RequestClass(llmq.Lengths.empirical([32, 64, 128, 512]),
                         llmq.Lengths.empirical([4, 8, 16, 32]))  # fmt: skip
THINK = llmq.RequestClass.with_reasoning(prompt=64, reasoning=16, answer=16)
SYSTEMS = {
    "md1": System(SERVICE, llmq.RequestClass(1, 1), policies.Sarathi()),
    "mg1": System(SERVICE, llmq.RequestClass(1, llmq.Lengths.empirical([1] * 9 + [11])),
                  policies.Sarathi()),
    "sarathi": System(CHIP, TALK, policies.Sarathi()),
    "pascal": System(CHIP.with_(kv_tokens=20_000), THINK, policies.PASCAL()),
}  # fmt: skip


def shapes(system: System, load: float) -> list[tuple[int, int]]:
    """Return paths and requests of a path of the runs at a load.

    Parameters
    ----------
    system : System
        What is simulated.
    load : float
        Of the outer bound.

    Returns
    -------
    list of tuple of int
        Short ones, and some long enough.
    """
    work = system.work(load)
    spread = 1.0 + dispersion_of_work(work.mix, work.rates)
    relax = Relaxation(unit(load, spread), dispersion=spread)
    long = [(r, relax.start(r) + math.ceil(looks * relax.look / r) + 500) for r, looks in LONG]
    return [*SHORT, *long]


def exact(name: str, load: float) -> dict[str, float]:
    """Return what is known in closed form.

    Parameters
    ----------
    name : str
        System.
    load : float
        Of the queue.

    Returns
    -------
    dict of str to float
        Seconds.
    """
    if name == "mg1":
        # The first token ends the first second: wait and one iteration.
        second = float(np.mean(np.array([1.0] * 9 + [11.0]) ** 2))
        return {"mean": load / 2.0 * second / (2 * (1 - load)) + 1.0}
    if name != "md1":
        return {}
    law, found = latency.md1(load, 1.0), {"mean": latency.md1(load, 1.0).sojourn}
    for key, q in (("median", 0.5), ("p99", 0.99)):
        low, high = 0.0, 20.0 / (1 - load)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if law.tail(middle) > 1 - q else (low, middle)
        found[key] = 1.0 + low
    return found


def study(
    name: str, load: float, paths: int, requests: int, trials: int, truth: dict[str, float]
) -> Iterator[dict[str, object]]:
    """Count intervals of many runs.

    Parameters
    ----------
    name : str
        System.
    load : float
        Of the outer bound.
    paths, requests : int
        Of a run.
    trials : int
        Runs.
    truth : dict of str to float
        True mean, median and 99 % point, seconds.

    Yields
    ------
    dict
        Rows of the table.
    """
    system, work = SYSTEMS[name], SYSTEMS[name].work(load)
    counts = {key: [0, 0] for key in truth}
    widths: dict[str, list[float]] = {key: [] for key in truth}
    stable = 0
    for seed in range(trials):
        run = llmq.simulate(system.engine, work, system.policy, replications=paths,
                            requests=requests, rng=10_000 + seed)  # fmt: skip
        if run.verdict.status != "stable":
            continue
        stable += 1
        for key, found in values(run).items():
            if math.isfinite(found.half_width):
                counts[key][0] += 1
                counts[key][1] += found.low <= truth[key] <= found.high
                widths[key].append(found.half_width / truth[key])
    for key, (printed, held) in counts.items():
        yield {
            "system": name, "load": load, "paths": paths, "requests": requests, "metric": key,
            "trials": trials, "stable": stable, "printed": printed, "held": held,
            "coverage": held / printed if printed else math.nan,
            "half_width": float(np.median(widths[key])) if printed else math.nan,
        }  # fmt: skip


def values(run: llmq.Run) -> dict[str, llmq.Estimate]:
    """Return what is looked at in a run.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    dict of str to Estimate
        Mean, median and 99 % point of the TTFT.
    """
    ttft = run.metric("ttft")
    return {"mean": ttft.estimate, "median": ttft.quantile(0.5), "p99": ttft.quantile(0.99)}


def truth_of(name: str, load: float) -> dict[str, float]:
    """Return the true values, exact or from a long run.

    Parameters
    ----------
    name : str
        System.
    load : float
        Of the outer bound.

    Returns
    -------
    dict of str to float
        Seconds.
    """
    known = exact(name, load)
    if len(known) == 3:
        return known
    system = SYSTEMS[name]
    paths, requests = max(shapes(system, load), key=lambda shape: shape[0] * shape[1])
    run = llmq.simulate(system.engine, system.work(load), system.policy, replications=paths,
                        requests=TRUTH * requests, rng=1, record="summary")  # fmt: skip
    metric = run.metric("ttft", anyway=True)
    return {"mean": metric.mean, "median": metric.quantile(0.5).mean,
            "p99": metric.quantile(0.99).mean} | known  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command line.

    Returns
    -------
    int
        4 if intervals that are printed cover too seldom.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--loads", nargs="+", type=float, default=list(LOADS))
    parser.add_argument("--write", action="store_true", help="keep the table")
    args = parser.parse_args(arguments)
    rows = []
    for name in args.systems:
        for load in args.loads:
            truth = truth_of(name, load)
            for paths, requests in shapes(SYSTEMS[name], load):
                for row in study(name, load, paths, requests, args.trials, truth):
                    rows.append(row)
                    print(" ".join(f"{value:.4g}" if isinstance(value, float) else str(value)
                                   for value in row.values()), flush=True)  # fmt: skip
    if args.write:
        about = "coverage of printed intervals"
        table = Table.of("coverage_saturation", rows, about={"what": about})
        write_table(table, TABLES / "coverage_saturation.csv")
    low = [row for row in rows if row["printed"] and _surely_low(row)]
    return 4 if low else 0


def _surely_low(row: dict[str, object]) -> bool:
    """Whether the coverage lies below what is required by more than chance."""
    n, share = int(str(row["printed"])), float(str(row["coverage"]))
    return share + 2.6 * math.sqrt(REQUIRED * (1 - REQUIRED) / n) < REQUIRED


if __name__ == "__main__":
    sys.exit(main())
