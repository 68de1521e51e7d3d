"""PASCAL from low load to overload: violations, throughput, blocking, transfers, latency.

Five loads from 0.6 to 1.3 times the capacity, five policies on the same requests, five seeds;
cluster and load in :mod:`experiments.pascal_cluster`. An answer is late if its QoE is below 0.95:
the reader takes a token every 0.1 s from the first visible one. Blocking runs from the last
reasoning token to the start of the iteration that goes on; transfers are those of requests that
moved; end-to-end latency starts at the submission.

The paper's three rates are not published. ``high`` in the claims means 1.1 and 1.2 times the
capacity, which is a transient overload: every number there grows with the number of requests.
Neither is the memory of an engine: 90,000 KV tokens is an assumption, and migration matters where
memory is scarce, so one workload is served with 45,000 as well, beside 0.9 to 1.2 times the
capacity that it leaves.

Cho et al., PASCAL, arXiv 2602.11530, section V, figures 9, 11, 12, 13 and 15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.pascal_bins import BASE, one, place
from experiments.pascal_cluster import POLICIES, SOURCE, Runs, interval, serve
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike
from llmq.sim.results._stats import share

TITLE = "PASCAL: violations, throughput, blocking and latency by rate"
SEED = 7
LOADS = (0.6, 0.9, 1.1, 1.2, 1.3)
HIGH = (1.1, 1.2)
SIZES = {"alpaca": 4000, "arena": 3000}
TIGHT: Row = {"work": "alpaca, 45,000 KV", "kv_tokens": 45_000, "rhos": (0.9, 1.0, 1.1, 1.2)}
UNITS = {"rate": "req/s", "value": "by row", "low": "by row", "high": "by row"}
METRICS = {
    "late": "1",
    "tokens": "tokens/s",
    "ttft P50": "s",
    "ttft P99": "s",
    "blocked P99": "s",
    "blocked P99 excess": "s",
    "transfer P99": "s",
    "moved": "1",
    "e2e P50": "s",
    "e2e P99": "s",
    "tokens ratio": "1",
    "e2e P50 ratio": "1",
    "e2e P99 ratio": "1",
}
# Workload, policy, metric.
PRINTED = {
    ("alpaca", "PASCAL", "late"): 0.0069,
    ("alpaca", "NonAdaptive", "late"): 0.0745,
    ("alpaca", "PASCAL", "transfer P99"): 0.14,
    ("arena", "PASCAL", "transfer P99"): 0.25,
    ("alpaca", "NoMigration", "blocked P99"): 27.39,
    ("alpaca", "NonAdaptive", "e2e P50 ratio"): 1.201,
    ("alpaca", "NonAdaptive", "e2e P99 ratio"): 1.097,
}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate both workloads at all loads.

    Parameters
    ----------
    scale : {"small", "full"}
        Three engines and one workload at one load, or eight at five.
    rng : Generator, SeedSequence, int or None
        Of the requests.
    runner : Runner
        One point is a workload.

    Returns
    -------
    Table
        A row for each load, policy and metric.
    """
    small = {"requests": 250, "engines": 3, "kv_tokens": 30_000, "rhos": (0.6, 1.2), "seeds": 3}
    points: list[Row] = [{"work": "alpaca", **small}]
    if scale == "full":
        more = {"seeds": 5, "rhos": LOADS}
        points = [{"work": name, "requests": n, **more} for name, n in SIZES.items()]
        points.append({"requests": SIZES["alpaca"], **more, **TIGHT})
    rows = runner.run(simulate, points, rng)
    for (name, policy, metric), value in PRINTED.items():
        rows.append(
            {
                "work": name,
                "rho": np.nan,
                "rate": np.nan,
                "policy": policy,
                "metric": metric,
                "value": value,
                "low": value,
                "high": value,
                "n": 1,
                "unit": METRICS[metric],
                "kind": "printed",
            }
        )
    about = {
        "source": f"{SOURCE}, figures 11 to 13 and 15; its highest rate is not published",
        "setting": "small: 3 engines of 30,000 KV tokens, 250 requests a path, 3 seeds; "
        "full: 8 engines of 90,000 (one workload also of 45,000), 4,000 and 3,000 requests, "
        "5 seeds",
        "ratios": "tokens to FCFS, end-to-end latency to PASCAL, seed by seed",
    }
    return Table.of("pascal_rates", rows, units=UNITS, about=about)


def simulate(point: Point, rng: np.random.SeedSequence) -> Sequence[Row]:
    """Simulate one workload."""
    size = {key: value for key, value in point.items() if key not in ("work", "rhos")}
    rows: list[Row] = []
    for runs in serve(point["work"].partition(",")[0], point["rhos"], rng, **size):
        for policy in POLICIES:
            for metric, found in read(runs, policy).items():
                labels = {**runs.labels(point["work"]), "policy": policy, "metric": metric}
                rows.append({**labels, **found, "unit": METRICS[metric], "kind": "simulated"})
    return rows


def speed(runs: Runs, policy: str) -> np.ndarray:
    """Tokens per second of each seed, from the first arrival to the last token."""
    span = runs.logs[policy].finish.max(axis=1) - runs.paths.arrival[:, 0]
    return np.asarray(runs.paths.output.sum(axis=1) / span)


def read(runs: Runs, policy: str) -> dict[str, Row]:
    """Read the metrics of one policy at one load.

    Parameters
    ----------
    runs : Runs
        What happened.
    policy : str
        Of POLICIES.

    Returns
    -------
    dict of str to dict
        Value, interval and number of seeds (of requests for shares) by metric.
    """
    log = runs.logs[policy]
    late = share(log.qoe < 0.95)
    found = {"late": {"value": late.value, "low": late.low, "high": late.high, "n": late.n}}
    tokens, e2e = speed(runs, policy), np.percentile(runs.e2e(policy), [50, 99], axis=1)
    found["tokens"] = interval(tokens)
    found["e2e P50"], found["e2e P99"] = interval(e2e[0]), interval(e2e[1])
    if policy in BASE:
        ttft = np.percentile(runs.ttft(policy), [50, 99], axis=1)
        found["ttft P50"], found["ttft P99"] = interval(ttft[0]), interval(ttft[1])
    if policy != "FCFS":
        found["tokens ratio"] = interval(tokens / speed(runs, "FCFS"))
    if policy in ("FCFS", "RR"):
        return found
    wait = np.nanpercentile(log.resumed - log.boundary, 99, axis=1)
    found["blocked P99"] = interval(wait)
    if policy == "NoMigration":
        other = runs.logs["PASCAL"]
        found["blocked P99 excess"] = interval(
            wait - np.nanpercentile(other.resumed - other.boundary, 99, axis=1)
        )
    if policy == "NonAdaptive":
        base = np.percentile(runs.e2e("PASCAL"), [50, 99], axis=1)
        found["e2e P50 ratio"], found["e2e P99 ratio"] = (interval(x) for x in e2e / base)
    if policy == "PASCAL":
        found["transfer P99"] = interval(np.nanpercentile(log.transfer, 99, axis=1))
        found["moved"] = interval(np.isfinite(log.transfer).mean(axis=1))
    return found


# ------------------------------------------------------------------------------------ judging


def loads(table: Table, work: str, rhos: Sequence[float]) -> list[tuple[float, Table]]:
    """Return the simulated rows of a workload at those of some loads that were run."""
    mine = table.where(work=work, kind="simulated")
    found = [(r, mine.where(rho=r)) for r in rhos if len(mine.where(rho=r))]
    # A judge shall not accept what it does not see; the small scale has one workload.
    if not found and (table.about.get("scale") == "full" or not len(table.where(kind="simulated"))):
        raise LookupError(f"no simulated rows of {work} at {list(rhos)} in table {table.name}")
    return found


def late(rows: Table, policy: str) -> float:
    """Share of late answers."""
    return float(one(rows, "late", policy=policy)["value"])


def _late_text(rho: float, rows: Table, policies: Sequence[str]) -> str:
    words = ", ".join(f"{p} {late(rows, p):.2%}" for p in policies)
    return f"{rows['work'][0]} {place(rho, rows)}: {words}"


def coincide(table: Table) -> Finding:
    """Judge: median and P99 TTFT within 5 % at the lowest rate; within 10 %: direction."""
    worst, parts = 0.0, []
    for work in SIZES:
        for rho, rows in loads(table, work, (0.6,)):
            for metric in ("ttft P50", "ttft P99"):
                values = [one(rows, metric, policy=p)["value"] for p in BASE]
                worst = max(worst, max(values) / min(values) - 1)
                words = ", ".join(f"{v:.4g} s" for v in values)
                parts.append(f"{work} {place(rho, rows)} {metric[5:]}: {words}")
    status = Status.DIRECTION if worst <= 0.1 else Status.NOT
    return Finding(Status.BAND if worst <= 0.05 else status, "; ".join(parts))


def violations_near(table: Table) -> Finding:
    """Judge: late at most half a point above FCFS and 1.5 points above RR at every load."""
    good, parts = True, []
    for work in SIZES:
        for rho, rows in loads(table, work, [r for r in LOADS if r <= 1.2]):
            mine = late(rows, "PASCAL")
            good &= mine <= late(rows, "FCFS") + 0.005 and mine <= late(rows, "RR") + 0.015
            if rho >= 1.1:
                parts.append(_late_text(rho, rows, ("FCFS", "RR", "PASCAL")))
    return Finding(Status.BAND if good else Status.NOT, "; ".join(parts))


def violations_lower(table: Table) -> Finding:
    """Judge: PASCAL is late less often than both; than FCFS alone: direction."""
    wins: list[tuple[bool, bool]] = []
    parts = []
    for work in SIZES:
        for rho, rows in loads(table, work, HIGH):
            mine = late(rows, "PASCAL")
            wins.append((mine <= late(rows, "FCFS"), mine <= late(rows, "RR")))
            parts.append(_late_text(rho, rows, ("FCFS", "RR", "PASCAL")))
    fcfs, rr = (all(column) for column in zip(*wins, strict=True))
    status = Status.BAND if fcfs and rr else Status.DIRECTION if fcfs else Status.NOT
    return Finding(status, "; ".join(parts))


def throughput(table: Table) -> Finding:
    """Judge: tokens per second within 3 % of the baselines; within 5 %: direction."""
    worst, parts = 0.0, []
    for work in SIZES:
        for rho, rows in loads(table, work, LOADS):
            mine = one(rows, "tokens ratio", policy="PASCAL")["value"]
            other = one(rows, "tokens ratio", policy="RR")["value"]
            off = max(abs(mine - 1), abs(mine / other - 1))
            if off >= worst:
                parts = [f"largest difference {off:.1%}, {work} {place(rho, rows)}"]
            worst = max(worst, off)
    status = Status.DIRECTION if worst <= 0.05 else Status.NOT
    return Finding(Status.BAND if worst <= 0.03 else status, "; ".join(parts))


def transfers(table: Table) -> Finding:
    """Judge: P99 transfer within a quarter of the printed; Arena above Alpaca: direction."""
    near, parts, values = True, [], {}
    for work in SIZES:
        target = PRINTED[work, "PASCAL", "transfer P99"]
        for rho, rows in loads(table, work, HIGH):
            found = one(rows, "transfer P99", policy="PASCAL")
            near &= abs(found["value"] / target - 1) <= 0.25
            values[work, rho] = found["value"]
            words = f"{found['value']:.3g} s ({found['low']:.3g} to {found['high']:.3g})"
            parts.append(f"{work} {place(rho, rows)}: {words}, printed {target:g} s")
    longer = all(values.get(("arena", r), 0) > values["alpaca", r] for _, r in values)
    quick = max(values.values()) < 1.0
    status = Status.DIRECTION if longer and quick else Status.NOT
    return Finding(Status.BAND if near else status, "; ".join(parts))


def blocking(work: str, rhos: Sequence[float]) -> Callable[[Table], Finding]:
    """Judge: NoMigration's P99 within a factor 2 of the printed, PASCAL's near 0, at some load.

    Direction: at some load it is longer, seed by seed on the same requests, and at none shorter.
    """

    def judge(table: Table) -> Finding:
        band, longer, shorter, parts = False, False, False, []
        target = PRINTED["alpaca", "NoMigration", "blocked P99"]
        for rho, rows in loads(table, work, rhos):
            none, mine = (one(rows, "blocked P99", policy=p) for p in ("NoMigration", "PASCAL"))
            band |= target / 2 <= none["value"] <= 2 * target and mine["value"] < 0.5
            more = one(rows, "blocked P99 excess", policy="NoMigration")
            longer |= more["low"] > 0
            shorter |= more["high"] < 0
            parts.append(
                f"{place(rho, rows)}: NoMigration {none['value']:.3g} s "
                f"({none['low']:.3g} to {none['high']:.3g}), PASCAL {mine['value']:.3g} s "
                f"({mine['low']:.3g} to {mine['high']:.3g}), "
                f"difference {more['value']:.3g} s ({more['low']:.3g} to {more['high']:.3g})"
            )
        if not parts:
            return Finding(Status.NOT, "not run at this scale")
        direction = longer and not shorter
        status = Status.BAND if band and direction else Status.NOT
        return Finding(Status.DIRECTION if direction and not band else status, "; ".join(parts))

    return judge


def late_ratio(policy: str, times: float) -> Callable[[Table], Finding]:
    """Judge: a variant is late so many times as often as PASCAL, intervals apart (direction)."""

    def judge(table: Table) -> Finding:
        band, clear, parts = True, True, []
        for rho, rows in loads(table, "alpaca", HIGH):
            other, mine = (one(rows, "late", policy=p) for p in (policy, "PASCAL"))
            band &= other["value"] >= times * mine["value"] and other["value"] > 0
            clear &= other["low"] > mine["high"]
            parts.append(_late_text(rho, rows, (policy, "PASCAL")))
        status = Status.DIRECTION if clear else Status.NOT
        return Finding(Status.BAND if band and clear else status, "; ".join(parts))

    return judge


def slower(table: Table) -> Finding:
    """Judge: NonAdaptive's latency at half to 1.5 times the printed excess; above 0: direction."""
    band, above, parts = True, True, []
    for rho, rows in loads(table, "alpaca", HIGH):
        words = []
        for metric in ("e2e P50 ratio", "e2e P99 ratio"):
            found = one(rows, metric, policy="NonAdaptive")
            excess = found["value"] - 1
            relative = excess / (PRINTED["alpaca", "NonAdaptive", metric] - 1)
            band &= 0.5 <= relative <= 1.5
            above &= excess > 0
            words.append(
                f"{metric[4:7]} {excess:+.1%} ({found['low'] - 1:+.1%} to {found['high'] - 1:+.1%})"
            )
        parts.append(f"{place(rho, rows)}: {', '.join(words)}")
    status = Status.BAND if band else Status.DIRECTION if above else Status.NOT
    return Finding(status, "; ".join(parts))


CLAIMS = (
    Claim(
        id="PASCAL-9",
        band=Band.NOTES,
        equality=True,
        text="At the low rate FCFS, RR and PASCAL have the same TTFT; band: median and P99 within "
        "5 % at rho 0.6.",
        source=f"{SOURCE}, figure 9",
        judge=coincide,
        figure="pascal_fig9",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H6",
        band=Band.NOTES,
        text="At every rate PASCAL's SLO violations are lower than or comparable to both "
        "baselines'; band: for rho up to 1.2 at most 0.5 points above FCFS, 1.5 above RR.",
        source=f"{SOURCE}, figure 11",
        judge=violations_near,
        figure="pascal_fig11",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H6-LOWER",
        band=Band.SOURCE,
        text="At its highest rate PASCAL violates less than both baselines, which are at 2 to 5 %; "
        "band: at rho 1.1 and 1.2.",
        source=f"{SOURCE}, figure 11",
        judge=violations_lower,
        figure="pascal_fig11",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H7",
        band=Band.NOTES,
        equality=True,
        text="PASCAL's throughput is within 3 % of the baselines'.",
        source=f"{SOURCE}, figure 12",
        judge=throughput,
        figure="pascal_fig12",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H8",
        band=Band.RESULTS,
        text="At the highest rate the P99 of KV transfers is 0.14 s (AlpacaEval 2.0) and 0.25 s "
        "(Arena-Hard); band: within 25 %.",
        source=f"{SOURCE}, section V",
        judge=transfers,
        figure="pascal_fig13_load",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H9",
        band=Band.RESULTS,
        text="Without migration the P99 blocking latency reaches 27.39 s, with it near zero: with "
        "90,000 KV tokens an engine (assumed; the paper names no memory); band: a factor 2, and "
        "PASCAL below 0.5 s.",
        source=f"{SOURCE}, figure 13(c)",
        judge=blocking("alpaca", HIGH),
        figure="pascal_fig13_load",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H9-TIGHT",
        band=Band.RESULTS,
        text="The same with 45,000 KV tokens an engine, at and above the capacity that they leave.",
        source=f"{SOURCE}, figure 13(c)",
        judge=blocking(TIGHT["work"], (1.0, *HIGH)),
        figure="pascal_fig13_load",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-13D",
        band=Band.RESULTS,
        text="Without migration SLO violations are markedly higher; band: at least 3 times.",
        source=f"{SOURCE}, figure 13(d)",
        judge=late_ratio("NoMigration", 3.0),
        figure="pascal_fig13_load",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H10",
        band=Band.NOTES,
        text="At the top rate SLO violations are 7.45 % without the adaptive override and 0.69 % "
        "with it; band: at least 3 times.",
        source=f"{SOURCE}, figure 15(b)",
        judge=late_ratio("NonAdaptive", 3.0),
        figure="pascal_fig15_load",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-H11",
        band=Band.RESULTS,
        text="Without the adaptive override the median end-to-end latency is 20.1 % longer, the "
        "tail 9.7 %; band: half to 1.5 times that.",
        source=f"{SOURCE}, figure 15(c)",
        judge=slower,
        figure="pascal_fig15_load",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
)
