"""Are plans of the default length large enough? Each count is simulated for long.

Each case is planned with the defaults of :func:`llmq.plan_capacity` under Sarathi, for 99 % of the
requests within a TTFT of 0.5 s and a TPOT of 50 ms. Then the planned count, and one engine fewer,
are simulated with 30,000 requests on each of four paths: one engine behind a round-robin router,
which gets every n-th request. A plan is *too small* if that run is not stable or less than 99 % of
its requests meet the targets, *too large* if one engine fewer is stable and the lower end of its
share is 99 % or more, which is what a plan asks for. Where only its share is, the count is *close*:
the long run does not tell the two counts apart. Fewer than the lower bound are not run.

Where the plan says that no count meets the targets, the run is that of an engine with a thousandth
of the traffic: if that one meets them, the plan was wrong.

The last setting (2,048 tokens, 256 slots; three engines have a load of 0.977) is one in which short
paths called three engines enough and long ones were overloaded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import llmq
from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq import policies
from llmq.planning._thinning import Thinned
from llmq.rng import RngLike

TITLE = "Plans of the default length against long runs"
SEED = 12345
SOURCE = "llmq.plan_capacity and llmq.simulate; engines and traffic of the catalogue"
GOAL = 0.99
SLO = llmq.SLO(ttft=0.5, tpot=0.05, quantile=GOAL)
H100, A100 = "llama-3.1-8b/h100", "llama-3.1-8b/a100"
TRAFFIC = (("azure-conv", 60.0), ("azure-conv", 200.0), ("openchat-sharegpt4", 20.0))
NARROW = {
    "workload": "azure-conv",
    "rate": 200.0,
    "engine": H100,
    "tp": 4,
    "budget": 2048,
    "slots": 256,
}
SETTINGS: tuple[Row, ...] = (
    *(
        {"workload": workload, "rate": rate, "engine": engine, "tp": tp, "budget": 0, "slots": 0}
        for workload, rate in TRAFFIC
        for engine, tp in ((H100, 1), (H100, 4), (A100, 1))
    ),
    NARROW,
)
SEEDS = (0, 1)
# Traffic of an engine on which hardly any request meets another one.
IDLE = 1000
LONG = {"small": 5_000, "full": 30_000}


def one(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Plan one case, and simulate the count of the plan and one engine fewer."""
    work = llmq.load_workload(point["workload"], point["rate"])
    engine = llmq.load_engine(point["engine"], point["tp"])
    if point["budget"]:
        engine = engine.with_(token_budget=point["budget"], max_seqs=point["slots"])
    (plan,) = llmq.plan_capacity(
        work, SLO, engine, policy=policies.Sarathi(), rng=point["seed"]
    ).candidates
    found: Row = {"bound": plan.gpus_lower_bound, "gpus": plan.gpus or 0}
    found |= long_run(engine, work, plan.engines or IDLE, point["requests"], rng)
    less = (plan.engines or 0) - 1
    under: Row = {"status": "not run", "share": np.nan, "low": np.nan, "high": np.nan}
    if less * engine.gpus >= max(plan.gpus_lower_bound, 1):
        under = long_run(engine, work, less, point["requests"], rng)
    case = {key: value for key, value in point.items() if key != "requests"}
    case |= {"budget": engine.token_budget, "slots": engine.max_seqs}
    return [{**case, **found, **{f"less_{key}": value for key, value in under.items()}}]


def long_run(
    engine: llmq.Engine,
    work: llmq.Workload,
    engines: int,
    requests: int,
    rng: np.random.SeedSequence,
) -> Row:
    """Simulate one of so many equal engines behind a round-robin router, for long."""
    thin = replace(work, arrivals=Thinned(work.arrivals, engines))
    run = llmq.simulate(
        engine, thin, policies.Sarathi(), requests=requests, replications=4, rng=rng
    )
    share = run.attainment(SLO)
    return {
        "status": run.verdict.status,
        "share": share.value,
        "low": share.low,
        "high": share.high,
    }


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Plan every case and run it for long.

    Parameters
    ----------
    scale : {"small", "full"}
        The last setting and the first with 5,000 requests a path, or twenty plans with 30,000.
    rng : Generator, SeedSequence, int or None
        Source of randomness of the long runs; each plan has the seed of its row.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        Bound and plan in GPUs (0: no count meets the targets), verdict and attainment of the long
        run, and those of one engine fewer.
    """
    some = (NARROW, SETTINGS[0]) if scale == "small" else SETTINGS
    seeds = SEEDS[:1] if scale == "small" else SEEDS
    points = [{**x, "seed": seed, "requests": LONG[scale]} for x in some for seed in seeds]
    about = {
        "source": SOURCE,
        "target": "99 % within TTFT 0.5 s and TPOT 50 ms, Sarathi",
        "runs": f"4 paths of {LONG[scale]} requests; low and high: 95 % interval of the share",
    }
    units = {"rate": "requests/s", "budget": "tokens", "bound": "GPUs", "gpus": "GPUs"}
    return Table.of("plan_study", runner.run(one, points, rng), units=units, about=about)


def counted(table: Table) -> dict[str, int]:
    """Count the plans that are too small, too large, or close to the next count.

    Parameters
    ----------
    table : Table
        Of this experiment.

    Returns
    -------
    dict of str to int
        ``"too small"``, ``"too large"``, ``"close"``. A plan without a count is too large where an
        idle engine meets the targets.
    """
    found = dict.fromkeys(("too small", "too large", "close"), 0)
    for row in table.rows():
        meets = row["status"] == "stable" and row["share"] >= GOAL
        spare = row["less_status"] == "stable" and row["less_low"] >= GOAL
        near = row["less_status"] == "stable" and row["less_share"] >= GOAL
        found["too small"] += row["gpus"] > 0 and not meets
        found["too large"] += spare or (row["gpus"] == 0 and meets)
        found["close"] += near and not spare
    return found


def large_enough(table: Table) -> Finding:
    """Judge: no plan is too small; how many are too large is said."""
    if not len(table):
        raise LookupError("no plans")
    found = counted(table)
    none = int((table["gpus"] == 0).sum())
    least = table["share"][table["gpus"] > 0].min()
    return Finding(
        Status.NOT if found["too small"] else Status.BAND,
        f"of {len(table)} plans {found['too small']} too small, {found['too large']} too large, "
        f"{found['close']} where one engine fewer has a share of 99 % or more but not with "
        f"confidence; {none} say that no count meets the targets; least share of a planned count "
        f"{100 * least:.2f} %",
    )


CLAIMS = (
    Claim(
        id="PLAN-2",
        band=Band.RESULTS,
        text="No plan of the default length is too small: 4 x 30,000 requests on its count are "
        "stable and meet the target.",
        source=SOURCE,
        judge=large_enough,
        least=Status.BAND,
        test="test_ours.py::test_the_judge_of_plans_can_fail",
    ),
)
