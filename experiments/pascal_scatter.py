"""TTFT of single requests against their reasoning tokens, at three loads.

The first 4,000 (AlpacaEval-like) and 3,000 (Arena-like) requests of one path on eight engines, at
0.6, 0.9 and 1.1 times the capacity (the paper's low, medium and high are not published), under
FCFS, RR and PASCAL. Of each path 50 requests are kept: in the order of their reasoning tokens
every 80th or 60th, from the shortest to the longest, the same ones at every load. They are single
observations, without intervals; quantiles with intervals are in :mod:`experiments.pascal_rates`.

Cho et al., PASCAL, arXiv 2602.11530, section V, figure 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.pascal_bins import BASE
from experiments.pascal_cluster import SOURCE, serve
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike

TITLE = "PASCAL: TTFT of single requests at three loads"
SEED = 7
LOADS = (0.6, 0.9, 1.1)
SIZES = {"alpaca": 4000, "arena": 3000}
KEPT = 50


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate one path of both workloads.

    Parameters
    ----------
    scale : {"small", "full"}
        One engine and one workload, or eight and both.
    rng : Generator, SeedSequence, int or None
        Of the requests.
    runner : Runner
        One point is a workload.

    Returns
    -------
    Table
        A row for each request that is kept, load and policy.
    """
    points: list[Row] = [{"work": "alpaca", "requests": 400, "engines": 1}]
    if scale == "full":
        points = [{"work": name, "requests": n, "engines": 8} for name, n in SIZES.items()]
    rows = runner.run(simulate, points, rng)
    about = {
        "source": f"{SOURCE}, figure 9; the rates are not published",
        "setting": "small: 1 engine, 400 requests; full: 8 engines, 4,000 and 3,000 requests; "
        "90,000 KV tokens each; all rows are simulated",
    }
    return Table.of(
        "pascal_scatter",
        rows,
        units={"rate": "req/s", "tokens": "tokens", "ttft": "s"},
        about=about,
    )


def simulate(point: Point, rng: np.random.SeedSequence) -> Sequence[Row]:
    """Simulate one workload."""
    work, rows = point["work"], []
    size = {"requests": point["requests"], "engines": point["engines"], "seeds": 1}
    for runs in serve(work, LOADS, rng, titles=BASE, **size):
        hidden = runs.paths.hidden[0]
        order = np.argsort(hidden, kind="stable")
        kept = order[np.linspace(0, len(order) - 1, KEPT).astype(int)]
        for policy in BASE:
            ttft = runs.ttft(policy)[0]
            rows += [
                {**runs.labels(work), "policy": policy, "tokens": hidden[i], "ttft": ttft[i]}
                for i in kept
            ]
    return rows


def span(table: Table) -> Finding:
    """Judge: the median at the low load is 1 to 30 s, the longest at the high 200 to 1,000 s."""
    low, high = table.where(rho=0.6)["ttft"], table.where(rho=1.1)["ttft"]
    middle, most = float(np.median(low)), float(high.max())
    good = 1 <= middle <= 30 and 200 <= most < 1000
    status = Status.DIRECTION if most > 10 * middle else Status.NOT
    return Finding(
        Status.BAND if good else status,
        f"median at rho 0.6 {middle:.3g} s, longest of those kept at rho 1.1 {most:.3g} s",
    )


CLAIMS = (
    Claim(
        id="PASCAL-H14",
        band=Band.RESULTS,
        text="TTFT goes from a few seconds to several hundred seconds; band: median of 1 to 30 s "
        "at rho 0.6, longest of 200 to 1,000 s at rho 1.1.",
        source=f"{SOURCE}, figure 9",
        judge=span,
        figure="pascal_fig9",
        test="test_pascal.py::test_judges_can_fail",
    ),
)
