r"""Theorem U between its two bounds: how the bracket closes as the memory grows.

The outer bound (configuration LP with KV memory and slots) holds for every scheduler that keeps to
these settings; the inner bound is an explicit schedule. Both are computed for engines of one law
whose KV memory grows from 7,500 to 480,000 tokens. The simulator serves a backlog under Sarathi and
under vLLM's first scheduler; what is finished between a fifth and four fifths of the requests, each
weighted with its price, over the time this took, is the load that the policy carries.

Setting (oracle O25): 12 ms + 25 us a token + 10 ns a KV token, budget 2,048, chunks of 512, 128
slots, blocks of 16; requests of (512, 128) and (2048, 256) tokens, five to one.

A policy that does not know output lengths may lie below the inner bound, whose schedules do: it
evicts, and computes again. It can never lie above the outer one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

import llmq
from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq import policies
from llmq.model.arrivals import Batch
from llmq.policies import Policy
from llmq.rng import RngLike
from llmq.sim.results._stats import student
from llmq.sim.results.run import Run

TITLE = "Theorem U: the bracket closes as memory grows"
SEED = 3
SOURCE = "llmq theory core 2.4, oracle O25; inner bound llmq.theory.region._inner"
UNITS = {
    "memory": "KV tokens",
    "load": "share of the outer bound",
    "low": "as load",
    "high": "as load",
    "evicted": "evictions a request",
}

MEMORY = (7_504, 15_008, 30_000, 60_000, 120_000, 240_000, 480_000)
MIX = {"short": llmq.RequestClass(512, 128), "long": llmq.RequestClass(2048, 256)}
RATES = {"short": 10.0, "long": 2.0}
POLICIES: dict[str, Policy] = {
    "sarathi": policies.Sarathi(),
    "vllm": policies.VLLM(version="v0", token_budget=8192),
}


def engine(memory: int) -> llmq.Engine:
    """Return the engine with so much memory."""
    law = llmq.BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    return llmq.Engine(
        law, token_budget=2048, prefill_chunk=512, max_seqs=128, kv_tokens=memory, kv_block=16
    )


def one(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Serve a backlog with one memory under every policy; they share the requests."""
    chip, n = engine(point["memory"]), point["requests"]
    region = llmq.stability_region(chip, MIX)
    outer, inner = region.load_bracket(RATES)
    prices = region.prices(RATES)
    row = {"memory": point["memory"], "binds": region.binding(RATES)[0]}
    rows: list[Row] = [
        row | {"kind": "outer", "load": 1.0, "low": 1.0, "high": 1.0, "n": 1},
        row
        | {
            "kind": "inner",
            "load": outer / inner,
            "low": outer / inner,
            "high": outer / inner,
            "n": 1,
        },
    ]
    work = replace(llmq.Workload.poisson(RATES, MIX), arrivals=Batch(math.inf))
    for name, policy in POLICIES.items():
        run = llmq.simulate(chip, work, policy, replications=point["paths"], requests=n, rng=rng)
        carried = served(run, prices)
        half = student(carried)
        mean = float(carried.mean())
        rows.append(
            row
            | {
                "kind": "simulated",
                "policy": name,
                "load": mean,
                "low": mean - half,
                "high": mean + half,
                "n": len(carried),
                "evicted": run.evictions / (n * len(carried)),
            }
        )
    return rows


def served(run: Run, prices: dict[str, float]) -> np.ndarray:
    """Priced work finished per second in the middle of each path."""
    weight = np.array([prices[name] for name in run.classes])
    paths = []
    for finish, klass in zip(run.requests.finish, run.klass, strict=True):
        order = np.argsort(finish, kind="stable")
        n = len(order)
        first, last = n // 5, 4 * n // 5
        done = weight[klass[order[first + 1 : last + 1]]].sum()
        paths.append(done / (finish[order[last]] - finish[order[first]]))
    return np.array(paths)


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute bounds and backlogs for every memory.

    Parameters
    ----------
    scale : {"small", "full"}
        4 paths of 1000 requests at three memories, or 8 of 6000 at all.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        Loads relative to the outer bound.
    """
    small = scale == "small"
    size = {"paths": 4 if small else 8, "requests": 1000 if small else 6000}
    rows = runner.run(one, [size | {"memory": m} for m in MEMORY[:: 3 if small else 1]], rng)
    about = {"source": SOURCE, "paths": f"{size['paths']} of {size['requests']} requests"}
    return Table.of("bracket", rows, units=UNITS, about=about)


def closes(table: Table) -> Finding:
    """Judge: the inner bound rises with memory to within 1 % of the outer."""
    inner = table.where(kind="inner")
    gap = 1 - inner["load"]
    good = bool(np.all(np.diff(gap[np.argsort(inner["memory"])]) <= 1e-9)) and gap.min() < 0.01
    words = f"gap {100 * gap.max():.0f} % at {inner['memory'].min():,} KV tokens, "
    words += f"{100 * gap.min():.1f} % at {inner['memory'].max():,}"
    return Finding(Status.BAND if good else Status.NOT, words)


def below(table: Table) -> Finding:
    """Judge: nothing simulated lies above the outer bound, and Sarathi reaches 85 % of it."""
    rows = table.where(kind="simulated")
    above = rows["low"].max()
    least = _least(rows, "sarathi")
    good = above <= 1.0 and least >= 0.85
    words = f"highest lower end {above:.3f}; Sarathi at least {least:.3f}, "
    words += f"vLLM {_least(rows, 'vllm'):.3f} of the outer bound"
    return Finding(Status.BAND if good else Status.NOT, words)


def _least(rows: Table, policy: str) -> float:
    return float(rows.where(policy=policy)["load"].min())


CLAIMS = (
    Claim(
        id="OURS-BRACKET-1",
        band=Band.RESULTS,
        text="The bracket of Theorem U closes as the memory holds more requests.",
        source=SOURCE,
        judge=closes,
        figure="bracket",
        least=Status.BAND,
        test="test_ours.py::test_bracket_can_fail",
    ),
    Claim(
        id="OURS-BRACKET-2",
        band=Band.RESULTS,
        text="No simulated backlog is served faster than the outer bound; Sarathi, which does not "
        "know output lengths, reaches 85 % of it and more.",
        source=SOURCE,
        judge=below,
        figure="bracket",
        least=Status.BAND,
        test="test_ours.py::test_bracket_can_fail",
    ),
)
