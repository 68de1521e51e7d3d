"""PASCAL where half the requests reason much longer than they answer.

Half AlpacaEval-like requests, half of the three reasoning-heavy sets of
:mod:`experiments.pascal_lengths` in equal shares (answers of 350 tokens, a choice); eight engines,
4,000 requests a path, five seeds pooled, 1.1 and 1.2 times the capacity of this mix. Tails, cuts
and losses as in :mod:`experiments.pascal_bins`. Short answers leave little that PASCAL could
defer, so its gain over RR should shrink. With 1,500 requests a path the memory never fills and
all three policies are the same.

Small scale: two engines of 30,000 KV tokens and 200 requests a path.

Cho et al., PASCAL, arXiv 2602.11530, section V, figure 16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.pascal_bins import BASE, UNITS, loads, one, place
from experiments.pascal_bins import read as tails
from experiments.pascal_cluster import SOURCE, serve
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike
from llmq.sim.results._stats import share

TITLE = "PASCAL: a mix with half reasoning-heavy requests"
SEED = 7
LOADS = (1.1, 1.2)
PRINTED = {"cut vs FCFS": 0.70, "loss vs FCFS": 0.068, "cut vs RR": 0.139, "loss vs RR": 0.077}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate the mix under FCFS, RR and PASCAL.

    Parameters
    ----------
    scale : {"small", "full"}
        Two engines or eight.
    rng : Generator, SeedSequence, int or None
        Of the requests.
    runner : Runner
        One point.

    Returns
    -------
    Table
        Tails by bin; cuts, losses and shares of late answers with ``bin`` -1.
    """
    size = {"requests": 200, "engines": 2, "kv_tokens": 30_000, "seeds": 3}
    if scale == "full":
        size = {"requests": 4000, "engines": 8, "kv_tokens": 90_000, "seeds": 5}
    rows = runner.run(simulate, [{"rhos": LOADS, **size}], rng)
    for metric, value in PRINTED.items():
        rows.append(
            {
                "work": "mix",
                "rho": np.nan,
                "rate": np.nan,
                "policy": "PASCAL",
                "metric": metric,
                "bin": -1,
                "value": value,
                "low": value,
                "high": value,
                "n": 1,
                "unit": "1",
                "kind": "printed",
            }
        )
    about = {
        "source": f"{SOURCE}, figure 16; rates and the heavy sets' means are not published",
        "setting": "small: 2 engines of 30,000 KV tokens, 200 requests a path, 3 seeds; "
        "full: 8 engines of 90,000, 4,000 requests, 5 seeds",
    }
    return Table.of("pascal_mix", rows, units=UNITS, about=about)


def simulate(point: Point, rng: np.random.SeedSequence) -> Sequence[Row]:
    """Simulate all loads."""
    size = {key: value for key, value in point.items() if key != "rhos"}
    rows: list[Row] = []
    for runs in serve("mix", point["rhos"], rng, titles=BASE, **size):
        rows += tails(runs, "mix")
        for policy in BASE:
            late = share(runs.logs[policy].qoe < 0.95)
            rows.append(
                {
                    **runs.labels("mix"),
                    "policy": policy,
                    "metric": "late",
                    "bin": -1,
                    "value": late.value,
                    "low": late.low,
                    "high": late.high,
                    "n": late.n,
                    "unit": "1",
                    "kind": "simulated",
                }
            )
    return rows


def against_fcfs(table: Table) -> Finding:
    """Judge: largest cut 50 to 85 %, no loss of 20 % in bins of 100; cut above loss: direction."""
    band, above, parts = True, True, []
    for rho, rows in loads(table, "mix"):
        cut, loss = (one(rows, f"{m} vs FCFS")["value"] for m in ("cut", "loss_100"))
        band &= 0.5 <= cut <= 0.85 and loss < 0.2
        above &= cut > max(loss, 0.0)
        parts.append(f"{place(rho, rows)}: cut {cut:.0%}, worst {loss:+.1%}")
    status = Status.BAND if band else Status.DIRECTION if above else Status.NOT
    return Finding(status, "; ".join(parts))


def against_rr(table: Table) -> Finding:
    """Judge: largest cut below 15 %, no loss of 20 % in bins of 100; at one load: direction."""
    small, parts = [], []
    for rho, rows in loads(table, "mix"):
        cut, loss = (one(rows, f"{m} vs RR")["value"] for m in ("cut", "loss_100"))
        small.append(cut < 0.15 and loss < 0.2)
        parts.append(f"{place(rho, rows)}: cut {cut:.1%}, worst {loss:+.1%}")
    status = Status.DIRECTION if any(small) else Status.NOT
    return Finding(Status.BAND if all(small) else status, "; ".join(parts))


def violations(table: Table) -> Finding:
    """Judge: PASCAL late at most 1.5 points above RR, and below FCFS with intervals apart.

    Direction: not above FCFS at either load.
    """
    near, apart, below, parts = True, True, True, []
    for rho, rows in loads(table, "mix"):
        fcfs, rr, mine = (one(rows, "late", policy=p) for p in BASE)
        near &= mine["value"] <= rr["value"] + 0.015
        apart &= mine["high"] < fcfs["low"]
        below &= mine["value"] <= fcfs["value"]
        words = ", ".join(
            f"{policy} {row['value']:.2%} ({row['low']:.2%} to {row['high']:.2%})"
            for policy, row in zip(BASE, (fcfs, rr, mine), strict=True)
        )
        parts.append(f"{place(rho, rows)}: {words}")
    status = Status.BAND if near and apart else Status.DIRECTION if below else Status.NOT
    return Finding(status, "; ".join(parts))


CLAIMS = (
    Claim(
        id="PASCAL-H12",
        band=Band.RESULTS,
        text="With half reasoning-heavy requests PASCAL cuts the tail TTFT of FCFS by up to 70 % "
        "for short reasoning and adds 6.8 % for long; band: 50 to 85 %, below 20 %.",
        source=f"{SOURCE}, figure 16",
        judge=against_fcfs,
        figure="pascal_fig16",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H13",
        band=Band.NOTES,
        text="There it cuts that of RR by up to 13.9 % and adds at most 7.7 %; band: the gain "
        "shrinks below 15 %, losses stay below 20 %.",
        source=f"{SOURCE}, figure 16",
        judge=against_rr,
        figure="pascal_fig16",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H13-SLO",
        band=Band.RESULTS,
        text="There its SLO violations are similar to RR's and below FCFS's; band: at most 1.5 "
        "points above RR, and below FCFS with intervals apart.",
        source=f"{SOURCE}, figure 16",
        judge=violations,
        figure="pascal_fig16",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
)
