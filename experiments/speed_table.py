"""How fast: requests per CPU-second, all cases of :mod:`experiments.speed` timed in one run.

The yardstick is a naive loop over slots, timed in turn with the others; a slow machine slows all.
Where ``LLMQ_PEERS`` names an interpreter that has them, Dynamo's replay and vllm-sr-sim run the
same 10,000 requests in the same sitting (:mod:`experiments.speed_peers`). Times are no random
numbers and differ from machine to machine: the small scale, two cases, only shows that this runs.
Needs ``LLMQ_DATA``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import llmq
from experiments import speed, speed_peers, speed_vector
from experiments.claim import Claim, Finding, Status
from experiments.naive import cpu
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.tile_staircase import data
from llmq.rng import RngLike

TITLE = "Speed beside a naive loop and other simulators"
SEED = 7
NEEDS_DATA = True
SOURCE = "CPU-seconds measured on the machine that made this table, one process each"
UNITS = {"speed": "requests/CPU-s", "target": "requests/CPU-s"}
NAIVE = "naive per-slot loop"


def own(point: Point, _: np.random.SeedSequence) -> list[Row]:
    """Time llmq and the yardstick."""
    if point["scale"] == "small":
        calls = {NAIVE: (500, speed_vector.naive(500))}
        lanes = speed_vector.draw(64, 50)
        chip, policy = speed_vector.CHIP, llmq.policies.Sarathi()
        calls["vector, Sarathi"] = (64 * 50, speed_vector.vector(chip, policy, lanes))
        found = {name: n / cpu(call) for name, (n, call) in calls.items()}
    else:
        found = speed.rates(data(), repeat=point["repeat"])
    return [_row("llmq" if name != NAIVE else "yardstick", name, v) for name, v in found.items()]


def others(_: Point, __: np.random.SeedSequence) -> list[Row]:
    """Time the peers that are there."""
    trace = llmq.read_trace(data() / "bench" / "w10k.csv")
    rows: list[Row] = []
    python = os.environ.get("LLMQ_PEERS")
    calls = {"Dynamo replay": speed_peers.dynamo, "vllm-sr-sim": speed_peers.sr_sim}
    with tempfile.TemporaryDirectory() as folder:
        for name, call in calls.items() if python else ():
            try:
                seconds = call(str(python), trace, Path(folder))
            except (OSError, subprocess.CalledProcessError):
                continue  # not installed there
            rows.append(_row("peer", name, len(trace) / seconds))
    return rows


def _row(who: str, case: str, value: float) -> Row:
    target = float(speed.TARGETS.get(case, "nan").partition(", ")[0].replace(",", ""))
    times = float(speed.TARGETS.get(case, ", nan").partition(", ")[2])
    return {"kind": "measured", "who": who, "case": case, "speed": value, "target": target,
            "target_times": times}  # fmt: skip


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Time everything.

    Parameters
    ----------
    scale : {"small", "full"}
        Two short cases, or all, the best of three rounds.
    rng : Generator, SeedSequence, int or None
        Not used: the cases have their own seeds.
    runner : Runner
        How points are computed; one worker, or they disturb each other.

    Returns
    -------
    Table
        A row for each case.
    """
    rows = runner.run(own, [{"scale": scale, "repeat": 3}], rng)
    if scale == "full":
        rows += runner.run(others, [{}], rng)
    naive = next(row["speed"] for row in rows if row["case"] == NAIVE)
    rows = [row | {"times": row["speed"] / naive} for row in rows]
    return Table.of("speed_table", rows, units=UNITS, about={"source": SOURCE})


def targets(table: Table) -> Finding:
    """Judge: every target, as a multiple of the naive loop timed in the same run."""
    rows = table.where(who="llmq")
    asked = np.isfinite(rows["target_times"].astype(float))
    met = rows["times"][asked] >= rows["target_times"][asked]
    cases = rows["case"][asked]
    words = f"{int(met.sum())} of {len(met)} targets met"
    missed = ", ".join(
        f"{case} {times:.2g} x" for case, times, ok in
        zip(cases.tolist(), rows["times"][asked].tolist(), met.tolist(), strict=True) if not ok
    )  # fmt: skip
    full = len(met) and bool(met.all())
    return Finding(
        Status.BAND if full else Status.DIRECTION if met.any() else Status.NOT,
        words + (f"; missed: {missed}" if missed else ""),
    )


CLAIMS = (
    Claim(
        id="OURS-SPEED-1",
        text="Simulators reach their targets, in multiples of a naive loop timed in the same run.",
        source="targets of the project", judge=targets, figure="speed_table", least=Status.NOT,
        test="test_ours.py::test_speed_can_fail",
    ),
)  # fmt: skip
