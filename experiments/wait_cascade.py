"""WAIT: what first come first served loses in the long run when memory is just M*.

Setting: that of ``wait_equilibrium`` with a memory of C = M* = 316,667 KV tokens, from an empty
start, ten minutes at the full scale. FCFS admits what fits now; where memory runs out the latest
rows are evicted and start again, which makes the line longer, which keeps memory full. WAIT has the
largest thresholds in proportion to the rates with ``M(n) <= C``, (16, 8): whole numbers, so it
serves a little less than is offered. Both see the same requests.

Rows: output tokens per second in windows of 30 s (60 s at the full scale), mean and 95 % interval
over replications; ``late`` the same over the second half of the run, ``evictions`` per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Claim, Finding, Status
from experiments.intervals import around, standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.wait_equilibrium import LAW, memory, types
from experiments.wait_model import Rule, arrivals, serve

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "WAIT: first come first served at the edge of memory"
SEED = 8
THRESHOLDS = (16, 8)
RULES: tuple[Rule, ...] = ("fcfs", "wait")
OFFERED = sum(kind.rate * kind.output for kind in types())


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Seconds, or a minute.
    rng : Generator, SeedSequence, int or None
        Source of randomness; both rules see the same requests.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Columns part, kind, name, x, y, low, high, n, evictions.
    """
    paths, end, window = (3, 180.0, 30.0) if scale == "small" else (8, 600.0, 60.0)
    points = [{"path": i, "end": end, "window": window} for i in range(paths)]
    found = runner.run(path, points, rng)
    rows = [
        *_windows(found),
        {"part": "window", "kind": "theory", "name": "offered", "x": 0.0, "y": OFFERED},
    ]
    return Table.of(
        "wait_cascade",
        rows,
        units={
            "x": "s",
            "y": "output tokens/s",
            "low": "output tokens/s",
            "high": "output tokens/s",
            "evictions": "1/request",
        },
        about={
            "source": "Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320, proposition on FCFS",
            "setting": f"C = M* = {memory():.0f} KV tokens, thresholds {THRESHOLDS}",
            "replications": f"{paths} of {end:g} s",
        },
    )


def path(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate both rules on one list of requests.

    Parameters
    ----------
    point : mapping
        Path, end and window, seconds.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Output tokens per second, by rule and window.
    """
    kinds, end, window = types(), point["end"], point["window"]
    came, code = arrivals(kinds, end, np.random.default_rng(rng))
    output = np.array([kind.output for kind in kinds])[code]
    rows: list[Row] = []
    for rule in RULES:
        run = serve(kinds, came, code, LAW, rule, THRESHOLDS, memory(), until=end)
        ended = np.isfinite(run.finish) & (run.finish <= end)
        edges = np.arange(0.0, end + window / 2, window)
        rates = np.histogram(run.finish[ended], edges, weights=output[ended])[0] / window
        evictions = run.evictions / len(came)
        rows += [
            {"name": rule, "x": x, "y": y, "evictions": evictions}
            for x, y in zip((edges[:-1] + window / 2).tolist(), rates.tolist(), strict=True)
        ]
    return rows


def _windows(found: list[Row]) -> list[Row]:
    rows: list[Row] = []
    for rule in RULES:
        mine = [row for row in found if row["name"] == rule]
        at = sorted({row["x"] for row in mine})
        values = np.array([[row["y"] for row in mine if row["x"] == x] for x in at])
        rows += [_row("window", rule, x, row) for x, row in zip(at, values, strict=True)]
        late = values[len(at) // 2 :].mean(axis=0)
        evictions = float(np.mean([row["evictions"] for row in mine]))
        rows.append({**_row("late", rule, at[-1], late), "evictions": evictions})
    return rows


def _row(part: str, name: str, x: float, values: np.ndarray) -> Row:
    return {"part": part, "kind": "simulated", "name": name, "x": x, **around(values)}


def _loses(table: Table) -> Finding:
    (fcfs,), (wait,) = (table.where(part="late", name=name).rows() for name in RULES)
    loss, other = (1 - row["y"] / OFFERED for row in (fcfs, wait))
    error = float(standard_errors(table.where(part="late", name=RULES[0]))[0]) / OFFERED
    half = (fcfs["high"] - fcfs["low"]) / 2 / OFFERED
    words = (
        f"FCFS loses {100 * loss:.1f} ± {100 * half:.1f} % ({fcfs['evictions']:.2f} evictions per "
        f"request), WAIT {100 * other:.1f} %"
    )
    good = loss > 0.01 + 4 * error and loss > other
    return Finding(Status.VERIFIED if good else Status.NOT, words)


CLAIMS = (
    Claim(
        id="WAIT-FCFS",
        text="First come first served with memory M* loses a constant share of the throughput",
        source="Ao et al., arXiv 2504.11320, proposition on FCFS",
        judge=_loses,
        figure="wait_cascade",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_wait_cascade_can_fail",
    ),
)
