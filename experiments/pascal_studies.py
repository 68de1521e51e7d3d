"""PASCAL's constants and cluster, which the paper holds fixed: five studies at rho 1.1.

AlpacaEval-like requests, 375 for each engine, four seeds; the base is four
engines of 90,000 KV tokens, quantum 500, demotion beyond 5,000 tokens, 100 Gbit/s. Each study
varies one of them: the quantum (of RR too), the demotion threshold (20,000 is none), the memory
and the number of engines (the rate follows, so that the load stays 1.1 times the capacity), the
fabric. All runs of a study see the same lengths.

Read off: P99 of TTFT, of requests with fewer than 512 reasoning tokens alone, mean TTFT, late
answers (QoE below 0.95), P99 of blocking.

Not in Cho et al., PASCAL, arXiv 2602.11530: constants are those of its section V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.pascal_cluster import Runs, interval, serve
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.speed_pascal import LINK
from experiments.table import Table
from llmq import policies
from llmq.policies import Policy
from llmq.rng import RngLike, seed_sequence
from llmq.sim.results._stats import share

TITLE = "PASCAL: quantum, demotion, memory, fabric and number of engines"
SEED = 7
RHO, SHORT = 1.1, 512
BASE = {"quantum": 500, "demotion": 5000, "memory": 90_000, "fabric": 100, "engines": 4}
LEVELS: dict[str, tuple[int, ...]] = {
    "quantum": (125, 250, 500, 1000, 2000),
    "demotion": (1000, 2500, 5000, 20_000),
    "memory": (45_000, 60_000, 90_000, 135_000),
    "fabric": (1, 10, 100, 400),
    "engines": (2, 4, 8, 16),
}
TITLES = {
    "quantum": ("RR", "PASCAL"),
    "demotion": ("PASCAL",),
    "fabric": ("PASCAL",),
    "memory": ("FCFS", "RR", "PASCAL", "NoMigration"),
    "engines": ("FCFS", "RR", "PASCAL"),
}
UNITS = {
    "quantum": "tokens",
    "demotion": "tokens",
    "memory": "KV tokens",
    "fabric": "Gbit/s",
    "engines": "1",
}
METRICS = {
    "ttft mean": "s",
    "ttft P99": "s",
    "ttft P99 short": "s",
    "late": "1",
    "blocked P99": "s",
}
OURS = "llmq, beyond arXiv 2602.11530"


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate every level of every study.

    Parameters
    ----------
    scale : {"small", "full"}
        The ends of two studies with little memory and few requests, or everything.
    rng : Generator, SeedSequence, int or None
        Of the requests.
    runner : Runner
        One point is a level.

    Returns
    -------
    Table
        A row for each study, level, policy and metric.
    """
    points = [
        {"study": study, "level": level, "seeds": 4, "each": 375, **BASE, study: level}
        for study, levels in LEVELS.items()
        for level in levels
    ]
    if scale == "small":
        size = {"memory": 22_500, "engines": 2, "each": 75, "seeds": 3}
        kept = [p for p in points if p["level"] in (100, 10, 5000, 20_000)]
        kept += [{**kept[0], "study": "memory", "level": 22_500}]
        points = [{**p, **size} for p in kept]
    # The same requests at every level: from this seed, not from that of the point.
    entropy = str(seed_sequence(rng).entropy)
    rows = runner.run(simulate, [{**p, "entropy": entropy} for p in points], rng)
    about = {
        "source": f"{OURS}; its constants at the middle levels",
        "setting": "AlpacaEval-like, rho 1.1; small: 2 engines of 22,500 KV tokens, 75 requests "
        "each, 3 seeds; full: 4 engines of 90,000, 375 requests each, 4 seeds",
        "level": "quantum, demotion and memory in tokens, fabric in Gbit/s",
    }
    units = {
        "rate": "req/s",
        "level": "by study",
        "value": "by row",
        "low": "by row",
        "high": "by row",
    }
    return Table.of("pascal_studies", rows, units=units, about=about)


def simulate(point: Point, rng: np.random.SeedSequence) -> Sequence[Row]:
    """Simulate one level under its policies."""
    common = np.random.SeedSequence(int(point["entropy"]))
    quantum, demote = point["quantum"], point["demotion"]
    known: dict[str, Policy] = {
        "FCFS": policies.FCFS(),
        "RR": policies.RR(quantum=quantum),
        "PASCAL": policies.PASCAL(quantum=quantum, demote=demote),
        "NoMigration": policies.PASCAL(quantum=quantum, demote=demote, migrate=False),
    }
    (runs,) = serve(
        "alpaca",
        [RHO],
        common,
        requests=point["each"] * point["engines"],
        seeds=point["seeds"],
        engines=point["engines"],
        kv_tokens=point["memory"],
        link=LINK * point["fabric"] / BASE["fabric"],
        titles=TITLES[point["study"]],
        chosen=known,
    )
    labels = {"study": point["study"], "level": point["level"], "rho": RHO, "rate": runs.rate}
    return [
        {
            **labels,
            "policy": policy,
            "metric": metric,
            **found,
            "unit": METRICS[metric],
            "kind": "simulated",
        }
        for policy in runs.logs
        for metric, found in read(runs, policy).items()
    ]


def read(runs: Runs, policy: str) -> dict[str, Row]:
    """Read the metrics of one policy."""
    ttft, log = runs.ttft(policy), runs.logs[policy]
    short = np.where(runs.paths.hidden < SHORT, ttft, np.nan)
    late = share(log.qoe < 0.95)
    return {
        "ttft mean": interval(ttft.mean(axis=1)),
        "ttft P99": interval(np.percentile(ttft, 99, axis=1)),
        "ttft P99 short": interval(np.nanpercentile(short, 99, axis=1)),
        "late": {"value": late.value, "low": late.low, "high": late.high, "n": late.n},
        "blocked P99": interval(np.nanpercentile(log.resumed - log.boundary, 99, axis=1)),
    }


# ------------------------------------------------------------------------------------ judging


def curve(
    table: Table, study: str, policy: str, metric: str, column: str = "value"
) -> dict[int, float]:
    """Return the values of a study by level."""
    rows = table.where(study=study, policy=policy, metric=metric)
    pairs = zip(rows["level"], rows[column], strict=True)
    return {int(level): float(value) for level, value in pairs}


def near_base(
    study: str, metric: str, levels: Sequence[int], within: float
) -> Callable[[Table], Finding]:
    """Judge: the value at some levels is that of the base; thrice as far: direction."""

    def judge(table: Table) -> Finding:
        found = curve(table, study, "PASCAL", metric)
        base = found[BASE[study]]
        off = {level: found[level] / base - 1 for level in levels if level in found}
        worst = max(abs(x) for x in off.values())
        words = ", ".join(f"{level}: {x:+.1%}" for level, x in off.items())
        status = Status.DIRECTION if worst <= 3 * within else Status.NOT
        status = Status.BAND if worst <= within else status
        return Finding(status, f"{metric} against {base:.3g} s at {BASE[study]}: {words}")

    return judge


def below_fcfs(study: str) -> Callable[[Table], Finding]:
    """Judge: short requests wait less than under FCFS at every level; intervals apart: band."""

    def judge(table: Table) -> Finding:
        mine, fcfs = (curve(table, study, p, "ttft P99 short") for p in ("PASCAL", "FCFS"))
        if not mine:
            return Finding(Status.NOT, "not run at this scale")
        most = curve(table, study, "PASCAL", "ttft P99 short", "high")
        least = curve(table, study, "FCFS", "ttft P99 short", "low")
        words = ", ".join(f"{level}: {mine[level]:.3g} / {fcfs[level]:.3g} s" for level in mine)
        apart = [level for level in mine if most[level] < least[level]]
        status = Status.DIRECTION if all(mine[x] < fcfs[x] for x in mine) else Status.NOT
        status = Status.BAND if len(apart) == len(mine) else status
        return Finding(status, f"{words}; intervals apart at {apart or 'none'}")

    return judge


def later(study: str, level: int, than: tuple[str, int]) -> Callable[[Table], Finding]:
    """Judge: PASCAL's answers are late more often at a level than elsewhere, intervals apart."""

    def judge(table: Table) -> Finding:
        policy, other = than
        low, high = (
            curve(table, study, p, "late", end) for p, end in (("PASCAL", "low"), (policy, "high"))
        )
        if level not in low or other not in high:
            return Finding(Status.NOT, "not run at this scale")
        mine, base = (curve(table, study, p, "late") for p in ("PASCAL", policy))
        highest, lowest = (
            curve(table, study, "PASCAL", "late", "high"),
            curve(table, study, policy, "late", "low"),
        )
        words = (
            f"PASCAL at {level}: {mine[level]:.2%} ({low[level]:.2%} to {highest[level]:.2%}); "
            f"{policy} at {other}: {base[other]:.2%} ({lowest[other]:.2%} to {high[other]:.2%})"
        )
        return Finding(Status.BAND if low[level] > high[other] else Status.NOT, words)

    return judge


CLAIMS = (
    Claim(
        id="PASCAL-S1",
        band=Band.RESULTS,
        equality=True,
        text="A fabric of 10 Gbit/s is enough: mean TTFT within 3 % of that at 100 Gbit/s.",
        source=OURS,
        judge=near_base("fabric", "ttft mean", (10,), 0.03),
        figure="pascal_studies",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-S2",
        band=Band.RESULTS,
        equality=True,
        text="The demotion threshold hardly matters for short requests: P99 of their TTFT without "
        "one within 10 % of that at 5000 tokens.",
        source=OURS,
        judge=near_base("demotion", "ttft P99 short", (20_000,), 0.1),
        figure="pascal_studies",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-S3",
        band=Band.RESULTS,
        text="Short requests wait less than under FCFS with 45,000 to 135,000 KV tokens an engine "
        "(P99 of TTFT at rho 1.1).",
        source=OURS,
        judge=below_fcfs("memory"),
        figure="pascal_studies",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-S4",
        band=Band.RESULTS,
        text="Short requests wait less than under FCFS on 2 to 16 engines (P99 of TTFT at rho "
        "1.1).",
        source=OURS,
        judge=below_fcfs("engines"),
        figure="pascal_studies",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-S5",
        band=Band.RESULTS,
        text="More engines make PASCAL's answers late at the same load and requests an engine: at "
        "16 engines more often than RR's.",
        source=OURS,
        judge=later("engines", 16, ("RR", 16)),
        figure="pascal_studies_slo",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-S6",
        band=Band.RESULTS,
        text="A quantum of 2000 tokens makes more answers late than one of 500.",
        source=OURS,
        judge=later("quantum", 2000, ("PASCAL", 500)),
        figure="pascal_studies_slo",
        least=Status.NOT,
        test="test_pascal.py::test_judges_can_fail",
    ),
)
