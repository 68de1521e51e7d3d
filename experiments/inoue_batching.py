"""Inoue: dynamic batching that takes all who wait; mean delay, bounds and simulation.

Setting (Inoue, 1912.06322): Poisson arrivals, a batch of ``b`` requests takes ``alpha b + tau0``
with alpha = 0.1438 ms and tau0 = 1.8874 ms (his measured example), every free server takes all who
wait. Rows: ``delay`` the exact mean time from arrival to the end of the batch (his eq. 36), his
closed bounds ``phi0`` and ``phi1`` (the smaller one holds) and llmq's simulator; ``utilisation``
the share of busy time, close to 1 long before the load is. Theory core O19 at loads 0.3, 0.5 and
0.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.intervals import around, standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.model.workload import Workload
from llmq.policies import Sarathi
from llmq.sim.simulate import simulate
from llmq.theory.latency._batches import inoue

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "Inoue: dynamic batching without a largest batch"
SEED = 19
ALPHA, TAU0 = 0.1438, 1.8874  # milliseconds
LOADS = {"small": (0.3, 0.7), "full": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}
KNOWN = {0.3: 4.2248004130, 0.5: 5.9018645690, 0.7: 9.8176470586}


def bounds(load: float) -> tuple[float, float]:
    """Return Inoue's two bounds.

    Parameters
    ----------
    load : float
        Arrivals times ``alpha``.

    Returns
    -------
    tuple of float
        ``phi0`` and ``phi1``, milliseconds.
    """
    x = load * TAU0 / ALPHA
    first = (ALPHA + TAU0) / (2 * (1 - load)) * (1 + 2 * x + (1 - x) / (1 + load))
    second = 1.5 * TAU0 / (1 - load) + ALPHA / 2 * (load + 2) / (1 - load**2)
    return first, second


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Seconds, or a minute.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Columns part, kind, name, load, y, low, high, n.
    """
    n, paths = (800, 16) if scale == "small" else (4000, 64)
    points = [{"load": load, "requests": n, "paths": paths} for load in LOADS[scale]]
    return Table.of(
        "inoue_batching",
        [*_theory(), *runner.run(delay, points, rng)],
        units={"y": "ms or 1", "low": "ms or 1", "high": "ms or 1"},
        about={
            "source": "Inoue, arXiv 1912.06322, eq. 36 and its bounds; theory core O19",
            "setting": f"alpha = {ALPHA} ms, tau0 = {TAU0} ms",
            "replications": f"{paths} of {n} requests or more, the middle half measured",
        },
    )


def _theory() -> Iterator[Row]:
    for load in np.unique(np.concatenate((np.linspace(0.01, 0.95, 95), tuple(KNOWN)))).tolist():
        law = inoue(load / ALPHA, ALPHA, TAU0)
        base = {"part": "delay", "kind": "theory", "load": load}
        yield {**base, "name": "exact", "y": law.wait}
        for name, value in zip(("phi0", "phi1"), bounds(load), strict=True):
            yield {**base, "name": name, "y": value}
        yield {**base, "part": "utilisation", "name": "exact", "y": law.utilisation}


def delay(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate the mean delay and the share of busy time.

    Parameters
    ----------
    point : mapping
        Load, requests and paths.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Two rows.
    """
    chip = Engine(BatchTime.affine(base=TAU0, per_token=ALPHA), token_budget=1_000_000)
    traffic = Workload.poisson(point["load"] / ALPHA, {"x": RequestClass(1, 1)})
    # Batches grow with 1 / (1 - load), and so does the way to their stationary size. The last to
    # come do not have their share of later arrivals in the batch.
    n = int(point["requests"] * max(1.0, 0.5 / (1 - point["load"])))
    kept = slice(2 * n // 5, 9 * n // 10)
    run = simulate(
        chip,
        traffic,
        Sarathi(),
        replications=point["paths"],
        requests=n,
        rng=rng,
    )
    times = run.requests
    delays = (times.finish - times.arrival)[:, kept].mean(axis=1)
    busy = np.array([_busy(finish) for finish in times.finish[:, kept]])
    return [_row("delay", point["load"], delays), _row("utilisation", point["load"], busy)]


def _busy(finish: np.ndarray) -> float:
    """Share of busy time between the first and the last end of a batch."""
    ends, sizes = np.unique(finish, return_counts=True)
    return float((ALPHA * sizes[1:-1] + TAU0).sum() / (ends[-2] - ends[0]))


def _row(part: str, load: float, values: np.ndarray) -> Row:
    return {"part": part, "kind": "simulated", "name": "llmq", "load": load, **around(values)}


def _agrees(table: Table) -> Finding:
    rows = table.where(part="delay", kind="simulated")
    exact = np.array([inoue(load / ALPHA, ALPHA, TAU0).wait for load in rows["load"]])
    scores = (rows["y"] - exact) / standard_errors(rows)
    worst = max(scores, key=abs)
    words = f"largest deviation {worst:+.1f} standard errors at {len(scores)} loads"
    return Finding(Status.VERIFIED if abs(worst) <= 4 else Status.NOT, words)


def _bounded(table: Table) -> Finding:
    rows = table.where(part="delay", kind="theory")
    names = ("exact", "phi0", "phi1")
    exact, first, second = (rows.where(name=name)["y"] for name in names)
    loads = rows.where(name="exact")["load"]
    slack = np.minimum(first, second) / exact - 1
    known = [exact[np.isclose(loads, at)][0] / value - 1 for at, value in KNOWN.items()]
    good = slack.min() >= -1e-5 and max(map(abs, known)) < 1e-5
    words = (
        f"smallest excess {100 * max(slack.min(), 0):.2g} %, largest {100 * slack.max():.2g} % at "
        f"load {loads[slack.argmax()]:.2f}; values at 0.3, 0.5 and 0.7 as catalogued"
    )
    return Finding(Status.VERIFIED if good else Status.NOT, words)


def _soon_busy(table: Table) -> Finding:
    rows = table.where(part="utilisation", kind="theory")
    at = float(rows.where(load=0.2)["y"][0])
    sim = table.where(part="utilisation", kind="simulated")
    gaps = [
        abs(row["y"] - inoue(row["load"] / ALPHA, ALPHA, TAU0).utilisation) for row in sim.rows()
    ]
    good = at > 0.95 and max(gaps) < 0.01
    words = f"{at:.4f} at load 0.2; simulated within {max(gaps):.4f}"
    return Finding(Status.BAND if good else Status.NOT, f"{words} (band 0.01)")


CLAIMS = (
    Claim(
        id="INOUE-DELAY",
        text="Equation 36 is the mean delay of taking all who wait",
        source="Inoue, arXiv 1912.06322, eq. 36",
        judge=_agrees,
        figure="inoue_batching",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_inoue_can_fail",
    ),
    Claim(
        id="INOUE-BOUND",
        text="min(phi0, phi1) bounds the delay, closely beyond light load",
        source="Inoue, arXiv 1912.06322, closed-form bound; theory core O19",
        judge=_bounded,
        figure="inoue_batching",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_inoue_can_fail",
    ),
    Claim(
        id="INOUE-BUSY",
        band=Band.SOURCE,
        text="The server is busy nearly all the time already at load 0.2",
        source="Inoue, arXiv 1912.06322",
        judge=_soon_busy,
        figure="inoue_batching",
        least=Status.BAND,
        test="test_theory_papers.py::test_inoue_can_fail",
    ),
)
