"""WAIT: what thresholds cost and buy, and how much memory each rule needs.

Setting: that of ``wait_equilibrium`` at 400 and 200 requests/s, equilibrium n* = (16.67, 8.33) and
M* = 316,667 KV tokens.

``threshold``: thresholds ``ceil(f n*)`` without a memory limit. In the fluid a type with threshold
``n`` takes part every ``n / lambda`` seconds, so a request waits ``(n - 1) / (2 lambda)``, passes
``l'`` intervals ``n / lambda``, and ends after one more iteration; valid where ``d0 + d1 M(n)`` is
below ``n / lambda``, ``M(n) = sum n g``. Below, the rate served is ``n / (d0 + d1 M(n))``.

``memory``: output tokens per second against capacity ``C``, in units of M*. No rule serves more
than ``1 / (Lambda (d1 + d0 / C))`` of the arrivals. FCFS admits what fits now and evicts the latest
rows when memory runs out (they start again); ``reserve`` admits what fits at its peak; WAIT has the
largest thresholds in proportion to the rates with ``M(n) <= C``.

Reconstructed: the paper compares in a large engine simulator; we take its model. ``reserve`` is not
in the paper's theorems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.intervals import around, standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.wait_equilibrium import LAW, memory, reading, types
from experiments.wait_model import Outcome, Rule, area, arrivals, serve

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "WAIT: thresholds and memory"
SEED = 6
FACTORS = {
    "small": (0.8, 2.0),
    "full": (0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0),
}
SIZES = {
    "small": (1.0, 1.2),
    "full": (0.3, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4),
}
OFFERED = sum(kind.rate * kind.output for kind in types())  # output tokens/s
STAR = memory()


def equilibrium() -> list[float]:
    """Return the requests of each type in each stage at equilibrium.

    Returns
    -------
    list of float
        ``n*``.
    """
    return [kind.rate * LAW[0] / (1 - reading()) for kind in types()]


def held(thresholds: Sequence[float]) -> float:
    """Return the KV tokens of full stages.

    Parameters
    ----------
    thresholds : sequence of float
        Requests in each stage, by type.

    Returns
    -------
    float
        ``M(n)``.
    """
    return sum(n * area(kind) for n, kind in zip(thresholds, types(), strict=True))


def fluid_latency(thresholds: Sequence[float]) -> float:
    """Return the mean time in system in the fluid with slack.

    Parameters
    ----------
    thresholds : sequence of float
        Of the types.

    Returns
    -------
    float
        Seconds; NaN where an iteration outlasts an interval of some type.
    """
    step = LAW[0] + LAW[1] * held(thresholds)
    kinds = types()
    if any(step > n / kind.rate for n, kind in zip(thresholds, kinds, strict=True)):
        return math.nan
    each = [
        (n - 1) / (2 * kind.rate) + kind.output * n / kind.rate + step
        for n, kind in zip(thresholds, kinds, strict=True)
    ]
    return float(np.average(each, weights=[kind.rate for kind in kinds]))


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Seconds, or two minutes.
    rng : Generator, SeedSequence, int or None
        Source of randomness; all rules see the same requests.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Columns part, kind, name, x, y, low, high, n, evictions.
    """
    paths, horizon = (3, 45.0) if scale == "small" else (6, 90.0)
    size = {"paths": paths, "horizon": horizon}
    rows = [*_theory()]
    rows += runner.run(threshold, [{"factor": f, **size} for f in FACTORS[scale]], rng)
    rows += runner.run(capacity, [{"size": c, **size} for c in SIZES[scale]], rng)
    return Table.of(
        "wait_thresholds",
        rows,
        units={"x": "of n* or of M*", "y": "s or output tokens/s", "evictions": "1/request"},
        about={
            "source": "Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320; theory core 1.5 and O7",
            "equilibrium": f"n* = (16.67, 8.33), M* = {STAR:.0f} KV tokens",
            "replications": f"{paths} of {horizon:g} s, the first third left out",
        },
    )


def _theory() -> Iterator[Row]:
    for f in np.linspace(0.4, 4.0, 37):
        n = [f * star for star in equilibrium()]
        base = {"part": "threshold", "kind": "theory", "x": f}
        yield {**base, "name": "latency", "y": fluid_latency(n)}
        share = min(1.0, n[0] / (LAW[0] + LAW[1] * held(n)) / types()[0].rate)
        yield {**base, "name": "throughput", "y": share * OFFERED}
    for c in np.linspace(0.2, 1.6, 57):
        share = 1 / (reading() + LAW[0] * reading() / LAW[1] / (c * STAR))
        y = min(1.0, share) * OFFERED
        yield {"part": "memory", "kind": "theory", "name": "no rule beyond", "x": c, "y": y}


def _measure(found: Outcome, came: np.ndarray, code: np.ndarray, end: float) -> tuple[float, float]:
    """Return output tokens per second and mean time in system after the warm-up."""
    outputs = np.array([kind.output for kind in types()])[code]
    inside = (found.finish > end / 3) & (found.finish <= end)
    later = (came > end / 3) & np.isfinite(found.finish)
    return (
        float(outputs[inside].sum() / (2 * end / 3)),
        float((found.finish - came)[later].mean()) if later.any() else math.nan,
    )


def _row(part: str, name: str, x: float, values: Sequence[float]) -> Row:
    return {"part": part, "kind": "simulated", "name": name, "x": x, **around(values)}


def threshold(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate WAIT with thresholds ``ceil(f n*)``.

    Parameters
    ----------
    point : mapping
        Factor, paths and horizon.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Latency and throughput; x is the exact ratio of the thresholds to n*.
    """
    n = [math.ceil(point["factor"] * star) for star in equilibrium()]
    end = point["horizon"]
    found = []
    for seed in rng.spawn(point["paths"]):
        came, code = arrivals(types(), end, np.random.default_rng(seed))
        # Arrivals stop at the horizon, and so does the run: nothing drains.
        run = serve(types(), came, code, LAW, "wait", n, until=end)
        found.append(_measure(run, came, code, end))
    x = held(n) / STAR
    speed, delay = zip(*found, strict=True)
    theory = {"part": "threshold", "kind": "theory", "name": "latency at n", "x": x}
    return [
        _row("threshold", "throughput", x, speed),
        _row("threshold", "latency", x, delay),
        {**theory, "y": fluid_latency(n)},
    ]


def capacity(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate three rules with a memory of ``C`` on the same requests.

    Parameters
    ----------
    point : mapping
        Size ``C / M*``, paths and horizon.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Throughput and evictions per request of each rule.
    """
    size, end = point["size"] * STAR, point["horizon"]
    share = size / held(equilibrium())
    n = [max(1, math.floor(share * star + 1e-9)) for star in equilibrium()]
    speeds: dict[Rule, list[float]] = {"fcfs": [], "reserve": [], "wait": []}
    evicted = dict.fromkeys(speeds, 0.0)
    for seed in rng.spawn(point["paths"]):
        came, code = arrivals(types(), end, np.random.default_rng(seed))
        for rule, values in speeds.items():
            room = math.inf if rule == "wait" else size
            run = serve(types(), came, code, LAW, rule, n, room, until=end)
            values.append(_measure(run, came, code, end)[0])
            evicted[rule] += run.evictions / len(came) / point["paths"]
            if rule == "wait" and run.held.max() > size:
                evicted[rule] = math.inf  # would not have fitted: shown, never hidden
    return [
        {**_row("memory", rule, point["size"], values), "evictions": evicted[rule]}
        for rule, values in speeds.items()
    ]


def _errors(rows: Table) -> np.ndarray:
    """Return standard errors, at least 0.1 %: the ends of a path hold unfinished requests."""
    return np.maximum(standard_errors(rows), 1e-3 * OFFERED)


def _keeps(table: Table) -> Finding:
    rows = table.where(part="memory", kind="simulated", name="wait", x=1.2)
    (row,), (error,) = rows.rows(), _errors(rows)
    gap = row["y"] / OFFERED - 1
    words = f"{100 * gap:+.2f} % of the offered output at C = 1.2 M*, memory exceeded: "
    good = abs(gap) * OFFERED <= 4 * error and row["evictions"] == 0
    status = Status.VERIFIED if good else Status.NOT
    return Finding(status, words + ("never" if row["evictions"] == 0 else "yes"))


def _bounded(table: Table) -> Finding:
    rows = table.where(part="memory", kind="simulated")
    share = 1 / (reading() + LAW[0] * reading() / LAW[1] / (rows["x"] * STAR))
    excess = (rows["y"] - np.minimum(1.0, share) * OFFERED) / _errors(rows)
    words = f"largest excess {max(excess):.1f} standard errors in {len(excess)} runs"
    return Finding(Status.VERIFIED if max(excess) <= 4 else Status.NOT, words)


def _slower(table: Table) -> Finding:
    rows = table.where(part="threshold")
    gaps = []
    for row in rows.where(kind="simulated", name="latency").rows():
        (law,) = rows.where(name="latency at n", x=row["x"]).rows()
        if row["x"] > 1.15 and math.isfinite(law["y"]):
            gaps.append(row["y"] / law["y"] - 1)
    worst = max(gaps, key=abs)
    words = f"fluid formula within {100 * worst:+.1f} % at {len(gaps)} thresholds (band 10 %)"
    return Finding(Status.BAND if abs(worst) < 0.1 else Status.NOT, words)


CLAIMS = (
    Claim(
        id="WAIT-KEEPS",
        text="WAIT with slack serves all that comes and never exceeds its memory (standard errors "
        "of 0.1 % at least: ends of a path)",
        source="Ao et al., arXiv 2504.11320, theorem on WAIT",
        judge=_keeps,
        figure="wait_memory",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_wait_thresholds_can_fail",
    ),
    Claim(
        id="WAIT-MEMORY",
        text="No rule serves more than 1 / (Lambda (d1 + d0 / C)) of the arrivals (standard errors "
        "of 0.1 % at least: ends of a path)",
        source="memory facet, theory core 1.5 and 2.4",
        judge=_bounded,
        figure="wait_memory",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_wait_thresholds_can_fail",
    ),
    Claim(
        id="WAIT-DELAY",
        band=Band.RESULTS,
        text="Beyond n* the time in system grows in proportion to the threshold",
        source="fluid model of WAIT (ours), Ao et al., arXiv 2504.11320",
        judge=_slower,
        figure="wait_thresholds",
        least=Status.BAND,
        test="test_theory_papers.py::test_wait_thresholds_can_fail",
    ),
)
