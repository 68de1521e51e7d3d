"""Token rate against batch size, and how fast the backlog grows beyond the capacity.

Setting (Dai, Deng, Li and Peng, 2504.07347, Theorem 2): a batch of ``b`` tokens takes
``11.28 + 35.47 ceil(b / 128)`` ms, at most 512 tokens, requests of (100, 100) tokens. No policy
serves faster than ``512 / t(512) = 12800 / 3829`` tokens/ms, so beyond ``lambda* = 16.7145``
requests/s the backlog grows with slope ``200 lambda - 12800 / 3829``; at 1.1 lambda* that is
0.334291 tokens/ms. Below, work-conserving policies are stable: slope 0.

Rows: ``curve`` the rate of a batch; ``slope`` theory and simulation (Sarathi-Serve; Poisson
arrivals with 95 % intervals over replications, or ``even``: arrivals at even times, one path). A
simulated slope is arrived minus finished tokens over the second half of the arrivals, per time;
beyond capacity the arrivals are taken at their mean rate, which removes their noise and no more.

Differs from the paper: residents at the two ends of that window are not counted token by token,
an error of a few hundred tokens over the whole window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Claim, Finding, Status
from experiments.dai_region import LAW, MS
from experiments.intervals import around, standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.model.arrivals import Deterministic, Poisson
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.workload import Workload
from llmq.policies import Sarathi
from llmq.rng import seed_sequence
from llmq.sim.simulate import simulate

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "Dai et al.: token rate, and the slope of an overloaded backlog"
SEED = 11
BUDGET = 512
BEST = BUDGET / LAW(BUDGET)  # tokens/s
CRITICAL = BEST / 200  # requests/s
LOADS = {"small": (0.8, 1.1), "full": (0.7, 0.8, 0.9, 0.95, 1.02, 1.05, 1.1, 1.15, 1.2)}


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
        Columns part, kind, name, x, y, low, high, n.
    """
    n, paths = (3000, 8) if scale == "small" else (12000, 32)
    points = [{"load": load, "n": n, "paths": paths} for load in LOADS[scale]]
    return Table.of(
        "dai_rate",
        [*_curve(), *_slopes(), *runner.run(slope, points, rng)],
        units={"x": "tokens or load", "y": "tokens/ms", "low": "tokens/ms", "high": "tokens/ms"},
        about={
            "source": "Dai, Deng, Li, Peng, arXiv 2504.07347, Theorem 2",
            "requests": f"(100, 100) tokens; {n} arrivals, {paths} replications",
            "capacity": f"{CRITICAL:.10g} requests/s",
        },
    )


def _curve() -> Iterator[Row]:
    edges = np.unique(np.concatenate((np.arange(8, 1025, 8), np.arange(1, 1024, 128))))
    for b in edges.tolist():
        yield {"part": "curve", "kind": "theory", "name": "b / t(b)", "x": b, "y": b / LAW(b) / MS}


def _slopes() -> Iterator[Row]:
    for load in (0.65, *np.linspace(1, 1.25, 6).tolist()):
        y = max(0.0, load - 1) * BEST / MS
        yield {
            "part": "slope",
            "kind": "theory",
            "name": "max(0, 200 lambda - b/t)",
            "x": load,
            "y": y,
        }


def slope(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate the slope of the backlog at a load.

    Parameters
    ----------
    point : mapping
        Load, n and paths.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Poisson arrivals, and arrivals at even times.
    """
    chip = Engine(LAW, token_budget=BUDGET, conventions=THEORY)
    mix = {"x": RequestClass(100, 100)}
    rate = point["load"] * CRITICAL
    rows: list[Row] = []
    for name, arrivals, paths in (
        ("poisson", Poisson(rate), point["paths"]),
        ("even", Deterministic(rate), 1),
    ):
        run = simulate(
            chip,
            Workload(arrivals, mix, {"x": 1.0}),
            Sarathi(),
            requests=point["n"],
            replications=paths,
            rng=seed_sequence(rng),
        )
        times = run.requests
        nominal = rate if point["load"] > 1 else None
        pairs = zip(times.arrival, times.finish, strict=True)
        found = np.array([_slope(came, gone, nominal) for came, gone in pairs])
        mean = float(found.mean())
        sure = {"y": mean, "low": mean, "high": mean, "n": 1}  # even times: nothing is random
        rows.append(
            {
                "part": "slope",
                "kind": "simulated",
                "name": name,
                "x": point["load"],
                **(around(found) if paths > 1 else sure),
            }
        )
    return rows


def _slope(arrival: np.ndarray, finish: np.ndarray, nominal: float | None) -> float:
    start, end = arrival[len(arrival) // 2], arrival[-1]
    came = np.count_nonzero((arrival > start) & (arrival <= end)) / (end - start)
    gone = np.count_nonzero((finish > start) & (finish <= end)) / (end - start)
    return float(200 * ((nominal or came) - gone) / MS)


def _overload(table: Table) -> Finding:
    rows = table.where(part="slope", kind="simulated", x=1.1)
    (even,), (drawn,) = rows.where(name="even").rows(), rows.where(name="poisson").rows()
    exact = 0.1 * 12800 / 3829
    error = float(standard_errors(rows.where(name="poisson"))[0])
    words = (
        f"{drawn['y']:.4f} ± {drawn['high'] - drawn['y']:.4f} tokens/ms (Poisson), "
        f"{even['y']:.4f} (even times), exact {exact:.4f}"
    )
    close = abs(drawn["y"] - exact) <= 4 * error and abs(even["y"] - exact) < 0.03 * exact
    return Finding(Status.VERIFIED if close and error < 0.05 * exact else Status.NOT, words)


def _stable(table: Table) -> Finding:
    rows = table.where(part="slope", kind="simulated", name="even")
    below = rows["y"][rows["x"] < 1]
    drawn = table.where(part="slope", kind="simulated", name="poisson")
    z = (np.abs(drawn["y"]) / np.maximum(standard_errors(drawn), 1e-12))[drawn["x"] < 0.96].max()
    words = f"largest |slope| below capacity {np.abs(below).max():.4f} tokens/ms at even times; "
    good = z <= 4 and np.all(np.abs(below) < 0.02)
    return Finding(Status.VERIFIED if good else Status.NOT, f"{words}Poisson: |z| <= {z:.1f}")


def _best(table: Table) -> Finding:
    rows = table.where(part="curve")
    within = rows["x"] <= BUDGET
    best = rows["x"][within][np.argmax(rows["y"][within])]
    value = rows["y"][within].max()
    good = best == BUDGET and abs(value - 12800 / 3829) < 1e-5
    return Finding(Status.PROVED if good else Status.NOT, f"{value:.5f} tokens/ms at {best:.0f}")


CLAIMS = (
    Claim(
        id="DAI-RATE",
        text="The best rate within 512 tokens is that of the full batch, 12800/3829 tokens/ms",
        source="Dai et al., arXiv 2504.07347, Theorem 2",
        judge=_best,
        figure="dai_rate",
        least=Status.PROVED,
        test="test_theory_papers.py::test_dai_rate_can_fail",
    ),
    Claim(
        id="DAI-SLOPE",
        text="Ten per cent above capacity the backlog grows by 0.3343 tokens/ms",
        source="Dai et al., arXiv 2504.07347, Theorem 2(a)",
        judge=_overload,
        figure="dai_rate",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_dai_rate_can_fail",
    ),
    Claim(
        id="DAI-STABLE",
        text="Below capacity the backlog of a work-conserving policy does not grow",
        source="Dai et al., arXiv 2504.07347, Theorem 2(b)",
        judge=_stable,
        figure="dai_rate",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_dai_rate_can_fail",
    ),
)
