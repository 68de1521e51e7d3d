"""What rank preemption with recompute loses of the stability region, and which fill repairs it.

The toy: iterations of 8 ms + 60 us per token + 25 ns per context token, 20,000 KV tokens, budget
512, lognormal prompts (median 330) and outputs (median 181), exact predictions. The spread of the
lengths is not printed in the source: sigma 0.9 for both reproduces its mean delay under first come
first served (3.04 s), the one number it was chosen by. Blocks are of 16 tokens here.

``population``: a fixed number of requests present (closed clients), so the rate at which they are
served is the drift that an open system has there. Rates are in useful tokens, over the mean
request, so that a rank cannot look fast by serving the short ones. ``open``: 5 requests per second
from an empty engine; ``growth``: the same for other lengths of the run. ``cycle``: equal requests,
exact; "paced" is a schedule of P1, and its bound the region.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

import llmq
from experiments.claim import Band, Claim, Finding, Status
from experiments.intervals import standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.optimality.verdict import served
from llmq.policies import Policy, Sarathi
from llmq.policies.trail import TRAIL
from llmq.rng import RngLike
from llmq.sim.results._stats import student
from llmq.sim.results.run import Run
from llmq.theory.region import stability_region
from llmq.theory.stability._losses_cycle import FILLS, full_memory_cycle
from llmq.theory.stability.losses import recompute_load, thrash_rates

TITLE = "Rank preemption with recompute: a smaller region"
SEED = 7
RATE = 5.0  # requests per second, offered
SIGMA = 0.9
PARTS = 10  # batches of a run
LAW = llmq.BatchTime.affine(base=0.008, per_token=60e-6, per_kv=25e-9)
CHIP = llmq.Engine(LAW, token_budget=512, max_seqs=128, kv_tokens=20_000)
POLICIES: dict[str, Policy] = {
    "FCFS": Sarathi(),
    "backfill": TRAIL(),
    "head of line": TRAIL(fill="head"),
    "future peak": TRAIL(fill="head", admission="future"),
}
# Equal requests (prompt, output), memory, in tokens; an iteration takes 4 + tokens.
CYCLES = ((1, 3, 4), (1, 4, 6), (1, 4, 20), (2, 4, 24), (1, 8, 30), (2, 8, 40), (1, 8, 60))


def _lengths(median: float, most: int) -> llmq.Lengths:
    return llmq.Lengths.lognormal(mean=median * math.exp(SIGMA**2 / 2), sigma=SIGMA, high=most)


MIX = {"chat": llmq.RequestClass(_lengths(330, 4000), _lengths(181, 2000))}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate the toy and derive the cycles.

    Parameters
    ----------
    scale : {"small", "full"}
        Few populations and short runs, or all.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Populations, open runs, growth, cycles and laws.
    """
    full = scale == "full"
    people = (5, 10, 15, 20, 25, 30, 40, 60) if full else (15, 40)
    points: list[Point] = [
        {"part": "population", "x": x, "policy": name, "n": 1200 if full else 250}
        for x in people
        for name in (POLICIES if full else ("FCFS", "backfill", "head of line"))
    ]
    points += [
        {"part": "open", "x": 1500, "policy": name, "n": 1500, "paths": paths}
        for name, paths in (zip(POLICIES, (12, 12, 12, 4), strict=True) if full else ())
    ]
    points += [
        {"part": "growth", "x": n, "policy": name, "n": n, "paths": 4}
        for n, name in itertools.product((750, 3000) if full else (), ("FCFS", "backfill"))
    ]
    rows = runner.run(_point, points, rng)
    return Table.of(
        "recompute_loss",
        [*rows, *_laws(), *_cycles()],
        units={"x": "requests", "y": "req/s or s", "low": "req/s or s", "high": "req/s or s"},
        about={
            "source": "policies.md 7.1-7.2 (toy); theory derived here [RC, RCC]",
            "setting": f"sigma {SIGMA} for both lengths (reconstructed), offered {RATE:g} req/s",
            "columns": "again: KV tokens computed again per request; evictions: per request; "
            "bound: rate at which the load with those tokens is 1",
        },
    )


def _point(point: Point, seed: np.random.SeedSequence) -> list[Row]:
    # The same requests for every policy.
    same = np.random.SeedSequence(SEED, spawn_key=(point["x"],))
    policy, n = POLICIES[point["policy"]], point["n"]
    if point["part"] == "population":
        users = llmq.Workload.closed(point["x"], MIX)
        run = llmq.simulate(CHIP, users, policy, requests=n, rng=same)
        return [_row(point, run, _rates(run))]
    traffic = llmq.Workload.poisson(RATE, MIX)
    run = llmq.simulate(CHIP, traffic, policy, requests=n, replications=point["paths"], rng=same)
    times = (run.requests.finish - run.requests.arrival).mean(axis=1)
    return [_row(point, run, times)]


def _rates(run: Run) -> np.ndarray:
    """Count useful tokens per second over the mean of a request, in parts of the run."""
    sent = run.requests.arrival[0]
    marks = np.linspace(np.sort(sent)[len(sent) // 4], sent.max(), PARTS + 1)
    done = np.array([served(run, np.array([mark])).item() for mark in marks])
    kind = MIX["chat"]
    return np.asarray(np.diff(done) / np.diff(marks) / (kind.prompt.mean + kind.output.mean - 1))


def _row(point: Point, run: Run, parts: np.ndarray) -> Row:
    sums = [tally[0] for tally in run.tallies]
    requests = run.prompt.size
    again = sum(tally.recomputed for tally in sums) / requests
    half = student(parts)
    limit = recompute_load(CHIP, MIX, {"chat": 1.0}, {"chat": again}).load
    return {
        "part": point["part"],
        "kind": "simulated",
        "policy": point["policy"],
        "x": point["x"],
        "y": parts.mean(),
        "low": parts.mean() - half,
        "high": parts.mean() + half,
        "n": len(parts),
        "again": again,
        "bound": 1 / limit,
        "evictions": sum(tally.evictions for tally in sums) / requests,
        "iterations": sum(tally.iterations for tally in sums) / requests,
    }


def _theory(part: str, policy: str, x: float, y: float, again: float, bound: float) -> Row:
    return {
        "part": part,
        "kind": "theory",
        "policy": policy,
        "x": x,
        "y": y,
        "low": y,
        "high": y,
        "n": 0,
        "again": again,
        "bound": bound,
        "evictions": math.nan,
        "iterations": math.nan,
    }


def _laws() -> list[Row]:
    """Return the region without loss, and the rate if recomputation fills every budget."""
    found = thrash_rates(CHIP, MIX["chat"])
    return [
        _theory("law", "best", 0, found.best, 0.0, found.best),
        _theory("law", "worst", 0, found.worst, math.nan, found.best),
    ]


def _cycles() -> list[Row]:
    rows = []
    for i, (prompt, output, memory) in enumerate(CYCLES):
        law = llmq.BatchTime.affine(base=4.0, per_token=1.0)
        chip = llmq.Engine(law, 64, kv_tokens=memory, kv_block=1)
        kind = llmq.RequestClass(prompt, output)
        for fill in FILLS:
            cycle = full_memory_cycle(chip, kind, fill)
            again = cycle.recomputed / cycle.requests
            load = recompute_load(chip, {"r": kind}, {"r": 1.0}, {"r": again}).load
            rows.append(_theory("cycle", fill, i, cycle.rate, again, 1 / load))
        low, high = stability_region(chip, {"r": kind}).load_bracket({"r": 1.0})
        rows.append(_theory("cycle", "paced", i, 1 / high, 0.0, 1 / low))
    return rows


# Judges.


def _table_7_1(table: Table) -> Finding:
    rows = {row["policy"]: row for row in table.where(part="open").rows()}
    if len(rows) < len(POLICIES):
        return Finding(Status.NOT, "not computed at this scale")
    slow, fcfs, head = (rows[name] for name in ("backfill", "FCFS", "head of line"))
    words = ", ".join(f"{name} {row['y']:.2f} s" for name, row in rows.items())
    if not (slow["low"] > fcfs["high"] and head["y"] < 1.25 * fcfs["y"]):
        return Finding(Status.NOT, words)
    band = slow["low"] <= 20.2 <= slow["high"] and abs(head["y"] / 3.29 - 1) < 0.1
    return Finding(Status.BAND if band else Status.DIRECTION, words)


def _growth(table: Table) -> Finding:
    means = {
        name: [
            float(table.where(part=part, x=n, policy=name)["y"][0])
            for part, n in (("growth", 750), ("open", 1500), ("growth", 3000))
            if len(table.where(part=part, x=n, policy=name))
        ]
        for name in ("FCFS", "backfill")
    }
    if min(map(len, means.values())) < 3:
        return Finding(Status.NOT, "not computed at this scale")
    words = "; ".join(
        f"{name} " + " / ".join(f"{x:.1f}" for x in found) + " s" for name, found in means.items()
    )
    slow, fcfs = means["backfill"], means["FCFS"]
    grows = slow[0] < slow[1] < slow[2] and max(fcfs) < 1.2 * min(fcfs)
    return Finding(Status.DIRECTION if grows else Status.NOT, words)


def _bistable(table: Table) -> Finding:
    """Backfill serves more than is offered at 20 present (or at 15), less from 40 on."""
    rows = table.where(part="population")
    slow, fcfs = rows.where(policy="backfill"), rows.where(policy="FCFS")
    few, many = slow["x"] <= 20, slow["x"] >= 40
    error = standard_errors(slow)
    peak = int(np.argmax(np.where(few, slow["y"], -np.inf)))
    words = (
        f"backfill {slow['y'][peak]:.2f} req/s at {slow['x'][peak]:g} present, at most "
        f"{slow['y'][many].max():.2f} from 40 on; FCFS {fcfs['y'][-1]:.2f} at {fcfs['x'][-1]:g}"
    )
    if not (np.all(slow["y"][many] < RATE) and fcfs["y"][-1] > RATE and slow["y"][peak] > RATE):
        return Finding(Status.NOT, words)
    sure = np.all(slow["y"][many] + 4 * error[many] < RATE)
    sure &= slow["y"][peak] - 4 * error[peak] > RATE
    sure &= fcfs["y"][-1] - 4 * standard_errors(fcfs)[-1] > RATE
    return Finding(Status.VERIFIED if sure else Status.DIRECTION, words)


def _reduced(table: Table) -> Finding:
    """Judge the bound with the measured tokens: it holds, and is near where it should bind."""
    rows = table.where(part="population", policy=["backfill", "head of line", "FCFS"])
    error = standard_errors(rows)
    holds = bool(np.all(rows["y"] - 4 * error <= rows["bound"]))
    full = rows.where(policy="backfill", x=[30, 40, 60])
    near = float((full["y"] / full["bound"]).min()) if len(full) else math.nan
    words = f"rate at least {near:.2f} of the bound at full memory, never above it"
    return Finding(Status.VERIFIED if holds and near > 0.85 else Status.NOT, words)


def _worse(table: Table, less: str, more: str) -> list[tuple[int, int, int]]:
    """Cycles in which one rule carries less than another."""
    one, two = (table.where(part="cycle", policy=name) for name in (less, more))
    if not len(one):  # a judge shall not accept what it does not see
        raise LookupError(f"no cycles of {less} in table {table.name}")
    return [
        CYCLES[int(x)]
        for x, a, b in zip(one["x"], one["y"], two["y"], strict=True)
        if a < b * (1 - 1e-5)
    ]


def _never_below(less: str) -> Callable[[Table], Finding]:
    def judge(table: Table) -> Finding:
        found = _worse(table, less, "backfill")
        words = f"backfill carries more for (prompt, output, memory) {found}" if found else "held"
        return Finding(Status.NOT if found else Status.DIRECTION, words)

    return judge


def _not_optimal(table: Table) -> Finding:
    """Exact cycle below the rate of an explicit schedule."""
    found = _worse(table, "backfill", "paced")
    words = f"backfill below a paced schedule for (prompt, output, memory) {found}"
    return Finding(Status.PROVED if found else Status.NOT, words)


_TOY, _OWN = "llmq's own toy, policies.md 7.1", "derived here"
_TEST = "test_losses.py::test_judges_of_recompute_loss_can_fail"
CLAIMS = (
    Claim(
        id="RECOMPUTE-1",
        band=Band.SOURCE,
        text="At 5 req/s the mean delay under TRAIL with backfill is 20.2 s, "
        "with head of line 3.29 s, first come first served 3.04 s",
        source=_TOY,
        judge=_table_7_1,
        figure="recompute_loss",
        least=Status.NOT,
        test=_TEST,
    ),
    Claim(
        id="RECOMPUTE-2",
        band=Band.SOURCE,
        text="Under backfill the mean grows with the length of the run "
        "(1,500 to 6,000 requests: 20 to 65 s), first come first served stays at 3 s",
        source=_TOY,
        judge=_growth,
        figure="recompute_loss",
        least=Status.NOT,
        test=_TEST,
    ),
    Claim(
        id="RECOMPUTE-3",
        band=Band.RESULTS,
        text="The failure is metastable: fewer than the offered 5 req/s are "
        "served with 40 present and more, more than that with few",
        source=_TOY,
        judge=_bistable,
        figure="recompute_loss",
        least=Status.DIRECTION,
        test=_TEST,
    ),
    Claim(
        id="RECOMPUTE-4",
        text="No policy serves faster than the load with its recomputed tokens "
        "allows, and backfill at full memory serves at 85 % of it or more [RC]",
        source=_OWN,
        judge=_reduced,
        figure="recompute_loss",
        least=Status.VERIFIED,
        test=_TEST,
    ),
    Claim(
        id="RECOMPUTE-7",
        text="Backfill with recompute is not throughput-optimal: the exact "
        "cycle at full memory is slower than a schedule that is carried [RCC, P1]",
        source=_OWN,
        judge=_not_optimal,
        figure="recompute_loss",
        least=Status.PROVED,
        test=_TEST,
    ),
    Claim(
        id="RECOMPUTE-5",
        band=Band.RESULTS,
        conjecture=True,
        text="Conjecture: head of line never carries less than backfill",
        source=_OWN,
        judge=_never_below("head"),
        least=Status.NOT,
        test=_TEST,
    ),
    Claim(
        id="RECOMPUTE-6",
        band=Band.RESULTS,
        conjecture=True,
        text="Conjecture: admission by the future peak carries at least what backfill does",
        source=_OWN,
        judge=_never_below("future"),
        least=Status.NOT,
        test=_TEST,
    ),
)
