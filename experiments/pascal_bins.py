"""PASCAL's headline: tail TTFT by the number of reasoning tokens just beyond saturation.

Eight engines, 4,000 requests a path (AlpacaEval-like lengths) and 3,000 (Arena-like), five seeds
pooled, at 1.1 and 1.2 times the capacity; cluster, tail rule and load in
:mod:`experiments.pascal_cluster`. ``cut`` is the largest share by which PASCAL shortens the tail
over all bins, ``saved`` the seconds (perhaps of another bin), ``loss`` and ``lost`` the largest
that it lengthens it; the paper prints these of its highest rate, which it does not name.

Bands: a largest cut of 50 to 85 % against FCFS and 15 to 45 % against RR, no loss of 20 %, at both
loads. The variants without migration and without the adaptive override are run on the first
workload, as in the paper's figures 13 and 15.

Small scale: two engines of 18,000 KV tokens and 130 requests a path, which fill and empty the
memory as often.

Cho et al., PASCAL, arXiv 2602.11530, section V, figures 10, 13 and 15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.pascal_cluster import POLICIES, SOURCE, Runs, contrast, serve, tail_by_bin
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike

TITLE = "PASCAL: tail TTFT by reasoning tokens beyond saturation"
SEED = 7
LOADS = (1.1, 1.2)
BASE = ("FCFS", "RR", "PASCAL")
SIZES = {"alpaca": (4000, tuple(POLICIES)), "arena": (3000, BASE)}
UNITS = {"rate": "req/s", "bin": "tokens", "value": "by row", "low": "by row", "high": "by row"}
# Largest cut, seconds saved; largest loss, seconds lost.
PRINTED = {
    ("alpaca", "FCFS"): {"cut": 0.61, "saved": 43.22, "loss": 0.0612, "lost": 13.30},
    ("alpaca", "RR"): {"cut": 0.33, "saved": 89.91, "loss": 0.0923, "lost": 8.25},
    ("arena", "FCFS"): {"cut": 0.72, "saved": 64.21},
    ("arena", "RR"): {"cut": 0.29, "saved": 72.73},
}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate both workloads under all policies.

    Parameters
    ----------
    scale : {"small", "full"}
        Two engines or eight.
    rng : Generator, SeedSequence, int or None
        Of the requests.
    runner : Runner
        One point is a workload.

    Returns
    -------
    Table
        Tails by bin, and what is largest over the bins (``bin`` is -1).
    """
    points = []
    for name, (requests, titles) in SIZES.items():
        small = {"requests": 130, "engines": 2, "kv_tokens": 18_000}
        size = small if scale == "small" else {"requests": requests}
        points.append({"work": name, "titles": titles, "rhos": LOADS, "seeds": 5, **size})
    rows = runner.run(simulate, points, rng)
    for (name, other), values in PRINTED.items():
        rows += [
            {
                "work": name,
                "rho": np.nan,
                "rate": np.nan,
                "policy": "PASCAL",
                "metric": f"{key} vs {other}",
                "bin": -1,
                "value": value,
                "low": value,
                "high": value,
                "n": 1,
                "unit": _unit(key),
                "kind": "printed",
            }
            for key, value in values.items()
        ]
    about = {
        "source": f"{SOURCE}, figures 10, 13, 15; rates and number of requests are not published",
        "setting": "small: 2 engines of 18,000 KV tokens, 130 requests a path, 5 seeds; "
        "full: 8 engines of 90,000, 4,000 and 3,000 requests",
    }
    return Table.of("pascal_bins", rows, units=UNITS, about=about)


def simulate(point: Point, rng: np.random.SeedSequence) -> Sequence[Row]:
    """Simulate one workload."""
    size = {key: value for key, value in point.items() if key not in ("work", "rhos")}
    found = serve(point["work"], point["rhos"], rng, **size)
    return [row for runs in found for row in read(runs, point["work"])]


def _unit(metric: str) -> str:
    return "1" if metric.startswith(("cut", "loss")) else "s"


def read(runs: Runs, work: str) -> list[Row]:
    """Read the tails off all policies at one load.

    Parameters
    ----------
    runs : Runs
        What happened.
    work : str
        The workload.

    Returns
    -------
    list of dict
        Rows of the table.
    """
    hidden, rows = runs.paths.hidden, []

    def add(metric: str, policy: str, row: Row) -> None:
        labels = {**runs.labels(work), "policy": policy, "metric": metric, "bin": -1}
        rows.append({**labels, **row, "unit": _unit(metric), "kind": "simulated"})

    for policy in runs.logs:
        for row in tail_by_bin(hidden, runs.ttft(policy)):
            add("ttft", policy, row)
    if "NoMigration" in runs.logs:
        for policy in ("PASCAL", "NoMigration"):
            for row in tail_by_bin(hidden, runs.reasoning(policy)):
                add("reasoning", policy, row)
    for other in ("FCFS", "RR"):
        found = contrast(hidden, runs.ttft("PASCAL"), runs.ttft(other))
        for metric, row in found.items():
            add(f"{metric} vs {other}", "PASCAL", row)
    return rows


# ------------------------------------------------------------------------------------ judging


def loads(table: Table, work: str) -> list[tuple[float, Table]]:
    """Return the simulated rows of a workload, load by load.

    Parameters
    ----------
    table : Table
        Of this module.
    work : str
        The workload.

    Returns
    -------
    list of tuple
        Load and rows.

    Raises
    ------
    LookupError
        None: a judge shall not accept what it does not see.
    """
    mine = table.where(work=work, kind="simulated")
    if not len(mine):
        raise LookupError(f"no simulated rows of {work} in table {table.name}")
    return [(float(rho), mine.where(rho=float(rho))) for rho in np.unique(mine["rho"])]


def place(rho: float, rows: Table) -> str:
    """Name a load."""
    return f"rho {rho:g} ({rows['rate'][0]:.3g} req/s)"


def one(rows: Table, metric: str, **where: Any) -> Row:
    """Return the only row of a metric, as a dict."""
    (row,) = rows.where(metric=metric, **where).rows()
    return row


def cut_between(work: str, other: str, low: float, high: float) -> Callable[[Table], Finding]:
    """Judge: the largest cut is in a band at every load; in direction if above the largest loss.

    Losses of bins of 100 requests or more.
    """

    def judge(table: Table) -> Finding:
        status, parts = Status.BAND, []
        for rho, rows in loads(table, work):
            cut, saved, loss = (one(rows, f"{m} vs {other}") for m in ("cut", "saved", "loss_100"))
            if not low <= cut["value"] <= high and status is Status.BAND:
                status = Status.DIRECTION
            if not cut["value"] > max(loss["value"], 0):
                status = Status.NOT
            parts.append(
                f"{place(rho, rows)}: {cut['value']:.0%} ({cut['low']:.0%} to {cut['high']:.0%}), "
                f"{saved['value']:.3g} s"
            )
        return Finding(status, "; ".join(parts))

    return judge


def losses(work: str, most: float) -> Callable[[Table], Finding]:
    """Judge: no bin loses as much at any load; in direction if no bin of 100 requests does."""

    def judge(table: Table) -> Finding:
        worst, filled, parts = 0.0, 0.0, []
        for rho, rows in loads(table, work):
            for other in ("FCFS", "RR"):
                loss, full, lost = (
                    one(rows, f"{m} vs {other}") for m in ("loss", "loss_100", "lost")
                )
                worst, filled = max(worst, loss["value"]), max(filled, full["value"])
                parts.append(
                    f"{place(rho, rows)} vs {other}: {loss['value']:.1%} "
                    f"({full['value']:.1%} in bins of 100 or more), {max(lost['value'], 0):.3g} s"
                )
        status = Status.BAND if worst < most else Status.NOT
        if status is Status.NOT and filled < most:
            status = Status.DIRECTION
        return Finding(status, "; ".join(parts))

    return judge


def _ratios(rows: Table, metric: str, policy: str) -> np.ndarray[Any, Any]:
    """Tail under a policy over that under PASCAL, in bins of 100 requests or more."""
    mine, base = (rows.where(metric=metric, policy=p) for p in (policy, "PASCAL"))
    full = base["n"] >= min(100, base["n"].max())
    return np.asarray(mine["value"][full] / base["value"][full])


def same(metric: str, policy: str, within: float) -> Callable[[Table], Finding]:
    """Judge: a variant's tail is PASCAL's in the median bin; in direction if thrice as far."""

    def judge(table: Table) -> Finding:
        worst, parts = 0.0, []
        for rho, rows in loads(table, "alpaca"):
            ratio = _ratios(rows, metric, policy)
            off = float(np.median(np.abs(ratio - 1)))
            worst = max(worst, off)
            span = f"{ratio.min() - 1:+.0%} to {ratio.max() - 1:+.0%}"
            parts.append(f"{place(rho, rows)}: median {off:.1%}, {span} over {len(ratio)} bins")
        status = Status.DIRECTION if worst < 3 * within else Status.NOT
        return Finding(Status.BAND if worst < within else status, "; ".join(parts))

    return judge


def worse_without_migration(table: Table) -> Finding:
    """Judge: without migration the tail TTFT is longer in most bins at every load (or at one)."""
    shares, parts = [], []
    for rho, rows in loads(table, "alpaca"):
        ratio = _ratios(rows, "ttft", "NoMigration")
        shares.append(float(np.mean(ratio > 1)))
        parts.append(
            f"{place(rho, rows)}: longer in {shares[-1]:.0%} of {len(ratio)} bins, "
            f"{ratio.min() - 1:+.0%} to {ratio.max() - 1:+.0%}"
        )
    status = Status.BAND if min(shares) > 0.5 else Status.NOT
    if status is Status.NOT and max(shares) > 0.5:
        status = Status.DIRECTION
    return Finding(status, "; ".join(parts))


def _cut(number: int, work: str, other: str, share: str, band: tuple[float, float]) -> Claim:
    name = {"alpaca": "AlpacaEval 2.0", "arena": "Arena-Hard"}[work]
    return Claim(
        id=f"PASCAL-H{number}",
        band=Band.NOTES,
        text=f"At its highest rate PASCAL cuts the tail TTFT of {other} by up to {share} on "
        f"{name}; band {band[0]:.0%} to {band[1]:.0%} at rho 1.1 and 1.2.",
        source=f"{SOURCE}, section V, figure 10",
        judge=cut_between(work, other, *band),
        figure="pascal_fig10",
        # With the little memory of the small scale long prompts make PASCAL lose to RR there.
        least=Status.NOT if (work, other) == ("arena", "RR") else Status.DIRECTION,
        test="test_pascal.py::test_judges_can_fail",
    )


CLAIMS = (
    _cut(1, "alpaca", "FCFS", "61 % (43.22 s)", (0.5, 0.85)),
    _cut(2, "arena", "FCFS", "72 % (64.21 s)", (0.5, 0.85)),
    _cut(3, "alpaca", "RR", "33 % (89.91 s)", (0.15, 0.45)),
    _cut(4, "arena", "RR", "29 % (72.73 s)", (0.15, 0.45)),
    Claim(
        id="PASCAL-H5",
        band=Band.NOTES,
        text="On AlpacaEval 2.0 no bin of PASCAL is worse than FCFS by more than 13.30 s (6.12 %) "
        "or than RR by more than 8.25 s (9.23 %); band: below 20 % in every bin.",
        source=f"{SOURCE}, section V, figure 10",
        judge=losses("alpaca", 0.2),
        figure="pascal_fig10",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-13A",
        band=Band.RESULTS,
        text="Without migration the tail TTFT is longer over a broad range of reasoning lengths "
        "at the highest rate; band: in more than half of the bins.",
        source=f"{SOURCE}, figure 13(a)",
        judge=worse_without_migration,
        figure="pascal_fig13",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-13B",
        band=Band.RESULTS,
        equality=True,
        text="Without migration the reasoning latency is unchanged; band: within 5 % in the "
        "median bin.",
        source=f"{SOURCE}, figure 13(b)",
        judge=same("reasoning", "NoMigration", 0.05),
        figure="pascal_fig13",
        least=Status.DIRECTION,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-15A",
        band=Band.RESULTS,
        equality=True,
        text="Without the adaptive override the TTFT looks the same; band: the tail within 5 % in "
        "the median bin.",
        source=f"{SOURCE}, figure 15(a)",
        judge=same("ttft", "NonAdaptive", 0.05),
        figure="pascal_fig15",
        least=Status.DIRECTION,
        test="test_pascal.py::test_judges_can_fail",
    ),
)
