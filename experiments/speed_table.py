"""How fast: requests per CPU-second, all cases of :mod:`experiments.speed` timed in one run.

The yardstick of each workload is a plain loop on the same requests, timed in turn with the others;
a slow machine slows all, so a ratio means more than a rate. Where ``LLMQ_PEERS`` names an
interpreter that has them, Dynamo's replay and vllm-sr-sim are timed in the same sitting
(:mod:`experiments.speed_peers`); their work differs, so they get no ratio. Times are no random
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
from experiments.claim import Band, Claim, Finding, Status
from experiments.plain_loop import cpu
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.tile_staircase import data
from llmq.rng import RngLike

TITLE = "Speed beside a plain loop and other simulators"
SEED = 7
NEEDS_DATA = True
SOURCE = "CPU-seconds measured on the machine that made this table, one process each"
UNITS = {"speed": "requests/CPU-s", "target": "requests/CPU-s"}


def own(point: Point, _: np.random.SeedSequence) -> list[Row]:
    """Time llmq and the yardsticks."""
    if point["scale"] == "full":
        timed = speed.rates(data(), repeat=point["repeat"])
    else:
        lanes = speed_vector.draw(64, 50)
        calls = [
            speed.Case(speed.YARDSTICK + "drawn", 64 * 50, speed.plain(speed.CHIP, lanes)),
            speed.Case(
                "lockstep", 64 * 50, speed_vector.vector(speed.CHIP, speed.SARATHI, lanes), "drawn"
            ),
        ]
        timed = [(case, case.requests / cpu(case.call)) for case in calls]
    found = {case.name: rate for case, rate in timed}
    return [
        _row(
            "yardstick" if case.name.startswith(speed.YARDSTICK) else "llmq",
            case.name,
            rate,
            case.target,
            speed.ratio(case, found),
        )
        for case, rate in timed
    ]


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


def _row(who: str, case: str, rate: float, target: float = np.nan, times: float = np.nan) -> Row:
    return {
        "kind": "measured",
        "who": who,
        "case": case,
        "speed": rate,
        "target": target,
        "times": times,
    }


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
    return Table.of("speed_table", rows, units=UNITS, about={"source": SOURCE})


def targets(table: Table) -> Finding:
    """Judge: every target, in requests per CPU-second."""
    rows = table.where(who="llmq")
    asked = np.isfinite(rows["target"].astype(float))
    met = rows["speed"][asked] >= rows["target"][asked]
    cases = rows["case"][asked]
    words = f"{int(met.sum())} of {len(met)} targets met"
    missed = ", ".join(
        f"{case} {rate:,.0f}"
        for case, rate, ok in zip(
            cases.tolist(), rows["speed"][asked].tolist(), met.tolist(), strict=True
        )
        if not ok
    )
    full = len(met) and bool(met.all())
    return Finding(
        Status.BAND if full else Status.DIRECTION if met.any() else Status.NOT,
        words + (f"; missed: {missed}" if missed else ""),
    )


def lockstep(table: Table) -> Finding:
    """Judge: is every lockstep faster than the plain loop that does the same work."""
    rows = table.where(who="llmq")
    times, case = rows["times"].astype(float), rows["case"]
    many = np.array(["R = " in name or name == "lockstep" for name in case.tolist()])
    some = many & np.isfinite(times)
    if not some.any():
        raise LookupError("no case has a plain loop beside it")
    path = times[np.isfinite(times) & ~many]
    one = f"; one path {path.min():.2g} to {path.max():.2g} times" if path.size else ""
    words = f"{times[some].min():.2g} to {times[some].max():.2g} times the plain loop{one}"
    return Finding(Status.BAND if bool((times[some] > 1).all()) else Status.NOT, words)


CLAIMS = (
    Claim(
        id="OURS-SPEED-1",
        band=Band.NOTES,
        text="Simulators reach the requests per CPU-second that the project set itself "
        "(on the machine that made the table).",
        source="targets of the project",
        judge=targets,
        figure="speed_table",
        least=Status.NOT,
        test="test_ours.py::test_speed_can_fail",
    ),
    Claim(
        id="OURS-SPEED-2",
        band=Band.RESULTS,
        text="Many replications in lockstep are faster than a plain loop that does the same work; "
        "one path by itself is about as fast as the loop.",
        source="observation of the project",
        judge=lockstep,
        figure="speed_table",
        least=Status.NOT,
        test="test_ours.py::test_speed_can_fail",
    ),
)
