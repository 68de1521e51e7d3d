"""What SLAI's held decodes and the swaps of PASCAL cost in throughput.

``slai``: iterations of 20 ms + 20 us per token, budget 512, 64 slots, prompts of 512 tokens,
outputs uniform on 1..129; the deadline between tokens (TBT) varies, the offset is 5 mean batches.
Laws: the region, and the rate at which the load under held decodes is 1 [PACE].

``swap``: 20 ms + 100 us per token, 4,000 KV tokens in blocks of 1, prompts of 32 tokens, outputs
uniform on 96..160 of which 8..88 are reasoning, quantum 16; a swapped token takes ``x`` seconds.
Laws: the region, the load that any rank carries with free swap [RANK]; ``bound`` is the rate at
which the region's load plus the measured swap time is 1 [RC].

Rates are throughputs of closed clients that keep the queue from emptying. None of this is in the
papers: the rules are those of ``policies/slai.py`` and ``policies/pascal.py``.
"""

from __future__ import annotations

import math

import numpy as np

import llmq
from experiments.claim import Band, Claim, Finding, Status
from experiments.intervals import standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.optimality.verdict import served
from llmq.policies import FCFS, PASCAL, RR, SLAI, Policy, Sarathi
from llmq.rng import RngLike
from llmq.sim.results._stats import student
from llmq.sim.results.run import Run
from llmq.theory.stability.losses import holding_load, ranked_load, recompute_load

TITLE = "Held decodes and swaps: what SLAI and PASCAL lose"
SEED = 7
PARTS = 10
SLOTS, OUTPUT = 64, 65
CHIP = llmq.Engine(
    llmq.BatchTime.affine(base=0.02, per_token=2e-5), token_budget=512, max_seqs=SLOTS
)
MIX = {"chat": llmq.RequestClass(512, llmq.Lengths.uniform(1, 2 * OUTPUT - 1))}
USERS = 4 * SLOTS
DEADLINES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
STORE = llmq.Engine(
    llmq.BatchTime.affine(base=0.02, per_token=1e-4),
    token_budget=2**20,
    kv_tokens=4000,
    kv_block=1,
)
THINK = {
    "think": llmq.RequestClass(
        32, llmq.Lengths.uniform(96, 160), reasoning=llmq.Lengths.uniform(8, 88)
    )
}
TOKENS = {"slai": 512 + OUTPUT - 1, "swap": 32 + 128 - 1}  # of a request, in the mean
SWAPS = (0.0, 1e-5, 5e-5)
RANKS: dict[str, Policy] = {
    "FCFS": FCFS(),
    "RR": RR(quantum=16),
    "PASCAL": PASCAL(quantum=16, migrate=False),
}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate saturated engines.

    Parameters
    ----------
    scale : {"small", "full"}
        Ends of the ranges and short runs, or all.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Rates and laws.
    """
    full = scale == "full"
    points: list[Point] = [
        {"part": "slai", "policy": "SLAI", "x": x, "n": 3000 if full else 500}
        for x in (DEADLINES if full else (0.05, 5.0))
    ]
    points.append({"part": "slai", "policy": "Sarathi", "x": 0.0, "n": 12_000 if full else 3000})
    points += [
        {"part": "swap", "policy": name, "x": x, "n": 2000 if full else 300}
        for x in (SWAPS if full else (0.0, 1e-5))
        for name in (RANKS if full else ("PASCAL",))
    ]
    return Table.of(
        "pacing_loss",
        [*runner.run(_point, points, rng), *_laws()],
        units={"x": "s", "y": "req/s", "low": "req/s", "high": "req/s", "bound": "req/s"},
        about={
            "source": "policies of arXiv 2508.01002 and 2602.11530; laws derived here",
            "columns": "x: deadline between tokens (slai), seconds per swapped token (swap); "
            "moved: KV tokens to the host and back per request",
        },
    )


def _point(point: Point, seed: np.random.SeedSequence) -> list[Row]:
    if point["part"] == "slai":
        policy = SLAI(tbt=point["x"], above=5.0) if point["policy"] == "SLAI" else Sarathi()
        run = _saturated(CHIP, MIX, policy, USERS, point["n"])
        return [_row(point, run, math.nan)]
    chip = STORE.with_(per_swap=point["x"])
    run = _saturated(chip, THINK, RANKS[point["policy"]], 100, point["n"])
    moved = run.tallies[0][0].swapped / point["n"]
    found = recompute_load(chip, THINK, {"think": 1.0}, {"think": 0.0}, {"think": moved})
    return [_row(point, run, 1 / found.load) | {"moved": moved}]


def _saturated(
    chip: llmq.Engine, mix: dict[str, llmq.RequestClass], policy: Policy, users: int, n: int
) -> Run:
    users_ = llmq.Workload.closed(users, mix)
    same = np.random.SeedSequence(SEED)  # the same requests for all
    return llmq.simulate(chip, users_, policy, requests=n + users, rng=same)


def _row(point: Point, run: Run, bound: float) -> Row:
    """Count tokens served per second over those of a request, in parts after the first fill."""
    sent = np.sort(run.requests.arrival[0])
    marks = np.linspace(sent[-int(0.7 * point["n"])], sent[-1], PARTS + 1)
    done = np.array([served(run, np.array([mark])).item() for mark in marks])
    parts = np.diff(done) / np.diff(marks) / TOKENS[point["part"]]
    half = student(parts)
    return {
        "part": point["part"],
        "kind": "simulated",
        "policy": point["policy"],
        "x": point["x"],
        "y": parts.mean(),
        "low": parts.mean() - half,
        "high": parts.mean() + half,
        "n": PARTS,
        "bound": bound,
        "moved": math.nan,
    }


def _law(part: str, policy: str, x: float, load: float) -> Row:
    rate = 1 / load
    return {
        "part": part,
        "kind": "theory",
        "policy": policy,
        "x": x,
        "y": rate,
        "low": rate,
        "high": rate,
        "n": 0,
        "bound": rate,
        "moved": math.nan,
    }


def _laws() -> list[Row]:
    held = holding_load(CHIP, MIX, {"chat": 1.0})
    free = ranked_load(STORE, THINK, {"think": 1.0})
    rows = [_law("slai", "region", x, held.least) for x in (DEADLINES[0], DEADLINES[-1])]
    rows += [_law("slai", "held", x, held.load) for x in (DEADLINES[0], DEADLINES[-1])]
    rows += [_law("slai", "conjecture", x, OUTPUT * x / SLOTS) for x in DEADLINES]
    rows += [_law("swap", "region", x, free.least) for x in (SWAPS[0], SWAPS[-1])]
    rows += [_law("swap", "any rank", x, free.load) for x in (SWAPS[0], SWAPS[-1])]
    return rows


# Judges.


def _error(table: Table) -> np.ndarray:
    return standard_errors(table)


def _one(table: Table, **which: object) -> tuple[float, float]:
    rows = table.where(**which)
    return float(rows["y"][0]), float(_error(rows)[0])


def _held(table: Table) -> Finding:
    law, _ = _one(table, part="slai", policy="held")
    rate, error = _one(table, part="slai", policy="SLAI", x=DEADLINES[-1])
    words = f"{rate:.2f} req/s, law {law:.2f}"
    near = abs(rate - law) <= 4 * error and error < 0.02 * law
    return Finding(Status.VERIFIED if near else Status.NOT, words)


def _tight(table: Table) -> Finding:
    rate, error = _one(table, part="slai", policy="SLAI", x=DEADLINES[0])
    other, spread = _one(table, part="slai", policy="Sarathi")
    near = abs(rate - other) <= 4 * math.hypot(error, spread) and error < 0.03 * rate
    words = f"SLAI {rate:.2f}, Sarathi {other:.2f} req/s"
    return Finding(Status.VERIFIED if near else Status.NOT, words)


def _slots(table: Table) -> Finding:
    """Refute an upper bound by one rate above it."""
    law, _ = _one(table, part="slai", policy="conjecture", x=DEADLINES[-1])
    rate, error = _one(table, part="slai", policy="SLAI", x=DEADLINES[-1])
    words = f"{rate:.2f} req/s where the conjecture allows {law:.2f}"
    return Finding(Status.NOT if rate - 4 * error > law else Status.DIRECTION, words)


def _rank(table: Table) -> Finding:
    rows = table.where(part="swap", kind="simulated", x=0.0)
    (inner, _), (outer, _) = (
        _one(table, part="swap", policy=name) for name in ("any rank", "region")
    )
    error = 4 * _error(rows)
    holds = bool(np.all((rows["y"] + error >= inner) & (rows["y"] - error <= outer)))
    shown = ", ".join(f"{p} {y:.2f}" for p, y in zip(rows["policy"], rows["y"], strict=True))
    words = f"{shown} req/s between {inner:.2f} and {outer:.2f}"
    return Finding(_sure(holds, rows), words)


def _swap(table: Table) -> Finding:
    rows = table.where(part="swap", kind="simulated")
    holds = bool(np.all(rows["y"] - 4 * _error(rows) <= rows["bound"]))
    share = float((rows["y"] / rows["bound"]).min())
    words = f"never above the bound, at least {share:.2f} of it"
    return Finding(_sure(holds and share > 0.9, rows), words)


def _sure(holds: bool, rows: Table) -> Status:
    """Say verified where errors are small enough to see a difference."""
    if not holds or not len(rows):
        return Status.NOT
    small = bool(np.all(_error(rows) < 0.02 * rows["y"]))
    return Status.VERIFIED if small else Status.DIRECTION


_OWN = "derived here"
_TEST = "test_losses.py::test_judges_of_pacing_loss_can_fail"
CLAIMS = (
    Claim(
        id="PACING-1",
        text="With slots, whole chunks and long deadlines SLAI serves at the rate "
        "of phases that exclude one another [PACE]",
        source=_OWN,
        judge=_held,
        figure="pacing_loss",
        least=Status.VERIFIED,
        test=_TEST,
    ),
    Claim(
        id="PACING-2",
        text="With deadlines shorter than its offset SLAI serves as fast as Sarathi",
        source=_OWN,
        judge=_tight,
        figure="pacing_loss",
        least=Status.VERIFIED,
        test=_TEST,
    ),
    Claim(
        id="PACING-3",
        band=Band.RESULTS,
        conjecture=True,
        text="Conjecture: a slot is held for the deadline times the output, so "
        "the rate is at most slots / (output x TBT)",
        source=_OWN,
        judge=_slots,
        figure="pacing_loss",
        least=Status.NOT,
        test=_TEST,
    ),
    Claim(
        id="PACING-4",
        band=Band.RESULTS,
        text="With free swap FCFS, RR and PASCAL all serve within one peak of the "
        "memory facet, whatever the rank [RANK]",
        source=_OWN,
        judge=_rank,
        figure="pacing_loss",
        test=_TEST,
    ),
    Claim(
        id="PACING-5",
        band=Band.RESULTS,
        text="Swaps cost what their tokens take: the rate is at most that of the "
        "load with the swap time added, and 90 % of it or more [RC]",
        source=_OWN,
        judge=_swap,
        figure="pacing_loss",
        test=_TEST,
    ),
)
