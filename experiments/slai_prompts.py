r"""SLAI: mean time to first token by prompt length at one rate.

The setting of :mod:`experiments.slai_setting` at KV bandwidth efficiency 0.7 and 1.4 nominal
requests per second; bins of 512 tokens up to 8192, as in the authors' script. TTFT is the authors'
(end of prefill) under their traffic (``metric_set`` authors), and beside it to the first token
under Poisson arrivals (``correct``, two policies). Requests of a bin are pooled within a path; the
value is the mean over paths with its 95 % interval. ``requests`` is the mean number of a bin on a
path.

What to look for: short prompts first trades the long ones' time for the short ones'; there is no
ageing. Paths start empty and are measured whole.
"""

from __future__ import annotations

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.intervals import scores
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.slai_setting import (
    CLASSES,
    DYNAMIC,
    FCFS,
    FIXED,
    POLICIES,
    SOURCE,
    SPF,
    WORKLOAD,
    engine,
    shared,
    traffic,
)
from experiments.table import Table
from llmq.rng import RngLike
from llmq.sim._fast.slots.engine import run_slots
from llmq.sim.results._stats import student

TITLE = "SLAI: TTFT by prompt length"
SEED = 7

EFFICIENCY, RATE, WIDTH, LONGEST = 0.7, 1.4, 512, 8192
FOUR = (FCFS, SPF, FIXED, DYNAMIC)
FULL = {"requests": 2000, "seeds": 24}
SMALL = {"requests": 120, "seeds": 4}


def one(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Rows of a policy: mean TTFT of each bin of prompts."""
    authors, name = point["metric_set"] == "authors", point["policy"]
    seeds = shared(rng, point["seeds"])
    lanes, klass = traffic(point["requests"], seeds, np.array([RATE]), cut=authors)
    log = run_slots(engine(EFFICIENCY), POLICIES[name], lanes, klass, CLASSES)
    done = ~log.undone
    first = ((log.prefill_end if authors else log.first_token) - lanes.arrival)[done]
    place = ((lanes.prompt[done] - 1) // WIDTH).astype(np.int64)
    rows = []
    for bin_ in range(LONGEST // WIDTH):
        mine = [ttft[own == bin_] for ttft, own in zip(first, place, strict=True)]
        means = np.array([values.mean() for values in mine if len(values)])
        if len(means) < 2:
            continue
        half = student(means)
        rows.append(
            {
                "policy": name,
                "metric_set": point["metric_set"],
                "prompt": (bin_ + 0.5) * WIDTH,
                "ttft": means.mean(),
                "low": means.mean() - half,
                "high": means.mean() + half,
                "n": len(means),
                "requests": sum(map(len, mine)) / len(mine),
            }
        )
    return rows


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate four policies and bin their requests by prompt.

    Parameters
    ----------
    scale : {"small", "full"}
        4 paths of 120 requests, or 24 of 2000.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        One row for each policy, metric set and bin; ``prompt`` is the middle of the bin.
    """
    settings = SMALL if scale == "small" else FULL
    runs = [("authors", name) for name in FOUR] + [("correct", FCFS), ("correct", DYNAMIC)]
    points = [{"policy": name, "metric_set": metrics, **settings} for metrics, name in runs]
    rows = runner.run(one, points, rng)
    return Table.of(
        "slai_prompts",
        rows,
        units={"prompt": "tokens", "ttft": "s", "low": "s", "high": "s", "requests": "requests"},
        about={
            "source": SOURCE,
            "kind": "simulated; ttft is a mean over n paths, 95 % interval",
            "engine": f"Mistral-7B on RTX 6000 Ada, KV bandwidth efficiency {EFFICIENCY}",
            "workload": WORKLOAD,
            "rate": f"{RATE} nominal requests/s",
            "paths": "{seeds} of {requests} requests".format_map(settings),
        },
    )


def dynamic_pays(table: Table) -> Finding:
    """Judge: dynamic SLAI is faster than Sarathi FCFS on short prompts and slower on long ones."""
    return _trade(table, DYNAMIC)


def order_pays(table: Table) -> Finding:
    """Judge: the same of Sarathi with short prompts first."""
    return _trade(table, SPF)


def _trade(table: Table, policy: str) -> Finding:
    rows = table.where(metric_set="authors")
    mine, base = rows.where(policy=policy), rows.where(policy=FCFS)
    both = np.intersect1d(mine["prompt"], base["prompt"])
    mine, base = (x.where(prompt=both.tolist()) for x in (mine, base))
    faster = mine["ttft"] < base["ttft"]
    above = scores(mine, base, "ttft")
    clear = bool(above[0] < -4 and above[-1] > 4)
    right = bool(faster[0] and not faster[-1])
    last = np.flatnonzero(faster).max(initial=-1)
    where = "in no bin" if last == len(both) - 1 else f"above {(last + 1) * WIDTH} tokens"
    status = Status.VERIFIED if clear else Status.DIRECTION if right else Status.NOT
    return Finding(
        status,
        f"up to {WIDTH} tokens {mine['ttft'][0]:.2f} against {base['ttft'][0]:.2f} s, longest "
        f"bin {mine['ttft'][-1]:.2f} against {base['ttft'][-1]:.2f} s; slower {where}",
    )


CLAIMS = (
    Claim(
        id="SLAI-PROMPTS",
        band=Band.RESULTS,
        text="Short prompts first pays with the longest: at 1.4 nominal requests/s dynamic SLAI is "
        "faster than Sarathi FCFS on short prompts and slower on the longest.",
        source="the notes: no ageing, so long prompts can starve",
        judge=dynamic_pays,
        figure="slai_prompts",
        least=Status.NOT,
        test="test_slai.py::test_prompts_can_fail",
    ),
    Claim(
        id="SLAI-PROMPTS-SPF",
        band=Band.RESULTS,
        text="The order alone does so: Sarathi with short prompts first against Sarathi FCFS.",
        source="the notes: no ageing, so long prompts can starve",
        judge=order_pays,
        figure="slai_prompts",
        least=Status.NOT,
        test="test_slai.py::test_prompts_can_fail",
    ),
)
