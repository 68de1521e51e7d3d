"""The two-dimensional region of a batch-size limit, and who is stable at its vertex C.

Setting (Dai, Deng, Li and Peng, 2504.07347, section 6): a batch of ``b`` tokens takes
``11.28 + 35.47 ceil(b / 128)`` ms, at most 100 requests share a batch (all prompts in prefill count
as one), at most ``b_max`` tokens. The region of prefill and decode token rates is the polytope of a
configuration LP; its vertices are exact rationals. Vertex C needs every batch to hold 29 prompt and
99 output tokens: requests of (290, 990) tokens every 467.5 ms.

Rows: ``region`` the vertices in tokens per millisecond; ``path`` the requests in system at vertex
C, arrivals at even times; ``edge`` the largest rate along a ray that a policy keeps up with, found
by halving: requests of 128 tokens in the proportion of the ray, 200 of them at the start, then
arrivals at even times. A rate is kept up with where fewer requests are in system in the last
quarter of the run than in the second, so that it is found some per cent too low rather than too
high. ``load`` is relative to the region of 1024 tokens.

Reconstructed: the paper's five configurations are not listed in what we have; ours are
Sarathi-Serve with 128, 512 and 1024 tokens, vLLM, Orca and FasterTransformer with 1024. Paths at
the small scale use requests of (29, 99) tokens every 46.75 ms: the same point of the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.policies import VLLM, FasterTransformer, Orca, Policy, Sarathi
from llmq.sim.simulate import simulate
from llmq.theory.linear._polytope import polytope
from llmq.theory.planning_lp._configurations import TwoPhase
from llmq.theory.planning_lp._static import Need, PlanningProblem, Pool, optimise
from llmq.theory.region._tiling_lp import tiling_lp

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "Dai et al.: the region with a batch-size limit, and vertex C"
SEED = 7
LAW = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
K_MAX = 100
MS = 1e3  # milliseconds in a second
POLICIES: dict[str, tuple[Policy, int]] = {
    "sarathi-128": (Sarathi(), 128),
    "sarathi-512": (Sarathi(), 512),
    "sarathi-1024": (Sarathi(), 1024),
    "orca-1024": (Orca(), 1024),
    "vllm-1024": (VLLM(version="v0"), 1024),
    "fastertransformer-1024": (FasterTransformer(), 1024),
}
N, FULL = 1000, 200  # arrivals of a run that looks for an edge, and those at its start
# Prompt tokens of 128: towards the vertices, and between them.
MIXES = {"small": (29,), "full": (29, 64, 116)}


def engine(budget: int) -> Engine:
    """Return the engine of the paper.

    Parameters
    ----------
    budget : int
        Tokens of a batch.

    Returns
    -------
    Engine
        With at most 100 requests a batch.
    """
    return Engine(LAW, token_budget=budget, max_seqs=K_MAX, conventions=THEORY)


def vertices(budget: int) -> list[tuple[Fraction, Fraction]]:
    """Return the vertices of the region.

    Parameters
    ----------
    budget : int
        Tokens of a batch.

    Returns
    -------
    list of tuple of Fraction
        Prefill and decode tokens per second, from pure decode to pure prefill.
    """
    one = {"p": Need({"prefill": Fraction(1)}), "d": Need({"decode": Fraction(1)})}
    routes = {"p": (("e",),), "d": (("e",),)}
    pool = Pool(1, LAW, TwoPhase(budget, K_MAX), {}, one)
    plan = PlanningProblem({"e": pool}, {"p": Fraction(1), "d": Fraction(1)}, routes)
    columns = plan.columns()

    def price(x: tuple[Fraction, ...]) -> tuple[Fraction, tuple[Fraction, ...]]:
        rated = PlanningProblem({"e": pool}, {"p": x[0], "d": x[1]}, routes)
        found = optimise(rated, columns)
        return found.load, (found.prices["p"], found.prices["d"])

    return [(x, y) for x, y in polytope(2, price)[1]]


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Seconds, or three minutes.
    rng : Generator, SeedSequence, int or None
        Not used: arrivals are at even times.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Columns part, kind, policy, x, y, load, low, high, n.
    """
    n = 900 if scale == "small" else 1200
    few = ("sarathi-128", "sarathi-1024", "fastertransformer-1024")
    chosen = few if scale == "small" else tuple(POLICIES)
    paths = [{"policy": name, "n": n, "scale": scale} for name in chosen]
    edges = [{"policy": name, "prompt": s} for s in MIXES[scale] for name in chosen]
    rows = [*_region(), *runner.run(path, paths, rng)]
    if scale == "full":
        rows += runner.run(edge, edges, rng)
    return Table.of(
        "dai_region",
        rows,
        units={"x": "prefill tokens/ms or s", "y": "decode tokens/ms or requests"},
        about={
            "source": "Dai, Deng, Li, Peng, arXiv 2504.07347, section 6, Theorem 10",
            "batch time": "11.28 ms + 35.47 ms ceil(b / 128), at most 100 requests",
        },
    )


def _region() -> Iterator[Row]:
    for budget in (512, 1024):
        for x, y in vertices(budget):
            yield {
                "part": "region",
                "kind": "theory",
                "policy": f"b_max {budget}",
                "x": float(x) / MS,
                "y": float(y) / MS,
                "n": budget,
            }
    # Degenerate at the vertex: the value is exact, primal and dual agree as rationals.
    plan = tiling_lp(engine(1024), {"x": RequestClass(290, 990)}, {"x": 1})
    yield {
        "part": "vertex",
        "kind": "theory",
        "policy": "C",
        "x": float(290 / plan.primal) / MS,
        "y": float(990 / plan.primal) / MS,
        "load": float(plan.primal / Fraction(4675, 10_000)),
        "low": float(plan.dual / Fraction(4675, 10_000)),
        "n": 29,
    }


def present(
    policy: str, request: tuple[int, int], gap: float, n: int, first: int = 0
) -> np.ndarray:
    """Return the number in system seen by arrivals at even times.

    Parameters
    ----------
    policy : str
        Of ``POLICIES``.
    request : tuple of int
        Prompt and output tokens.
    gap : float
        Seconds between arrivals.
    n : int
        Arrivals.
    first : int
        How many of them are there from the start.

    Returns
    -------
    ndarray of int, shape (n,)
        Counting the arrival itself.
    """
    rule, budget = POLICIES[policy]
    trace = Trace(
        gap * np.maximum(np.arange(n) - max(first - 1, 0), 0), [request[0]] * n, [request[1]] * n
    )
    times = simulate(engine(budget), trace, rule).requests
    gone = np.searchsorted(np.sort(times.finish[0]), times.arrival[0], "right")
    seen = np.searchsorted(times.arrival[0], times.arrival[0], "right")
    return np.asarray(seen - gone)


def growth(counts: np.ndarray) -> float:
    """Return the requests that stay, per arrival, over the second half.

    Parameters
    ----------
    counts : ndarray of int
        Of :func:`present`.

    Returns
    -------
    float
        0 where a policy keeps up, 1 where nothing is served.
    """
    quarter = len(counts) // 4
    early, late = counts[quarter : 2 * quarter], counts[3 * quarter : 4 * quarter]
    return float((late.mean() - early.mean()) / (2 * quarter))


def path(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Compute a path at vertex C.

    Parameters
    ----------
    point : mapping
        Policy, n and scale.
    rng : SeedSequence
        Not used.

    Returns
    -------
    list of dict
        Requests in system against time, and their growth.
    """
    factor = 1 if point["scale"] == "full" else 10
    request, gap = (290 // factor, 990 // factor), 0.4675 / factor
    counts = present(point["policy"], request, gap, point["n"])
    shown = np.unique(np.linspace(0, point["n"] - 1, 61).astype(int))
    base = {"kind": "simulated", "policy": point["policy"], "n": point["n"]}
    rows: list[Row] = [
        {"part": "path", **base, "x": gap * factor * i, "y": int(counts[i])} for i in shown
    ]
    return [*rows, {"part": "growth", **base, "y": growth(counts)}]


def edge(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Find the largest rate along a ray that a policy keeps up with.

    Parameters
    ----------
    point : mapping
        Policy, and prompt tokens of 128.
    rng : SeedSequence
        Not used.

    Returns
    -------
    list of dict
        One row: the middle of the bracket.
    """
    request = (point["prompt"], 128 - point["prompt"])
    plan = tiling_lp(engine(1024), {"x": RequestClass(*request)}, {"x": 1})
    best = 1 / float(plan.primal)
    low, high = _bracket(
        lambda load: growth(present(point["policy"], request, 1 / (load * best), N, FULL)) < 0
    )
    load = (low + high) / 2
    x, y = (load * best * tokens / MS for tokens in request)
    return [
        {
            "part": "edge",
            "kind": "simulated",
            "policy": point["policy"],
            "x": x,
            "y": y,
            "load": load,
            "low": low,
            "high": high,
            "n": N,
        }
    ]


def _bracket(keeps_up: Callable[[float], bool]) -> tuple[float, float]:
    low, high = 0.0, 1.02
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if keeps_up(middle) else (low, middle)
    return low, high


def _vertex(table: Table) -> Finding:
    (row,) = table.where(part="vertex").rows()
    region = table.where(part="region", n=1024)
    near = np.hypot(region["x"] - 29 / 46.75, region["y"] - 99 / 46.75).min()
    good = near < 1e-5 and row["load"] == row["low"] == 1 and abs(row["x"] - 29 / 46.75) < 1e-5
    words = f"({row['x']:.6f}, {row['y']:.6f}) tokens/ms, load of (290, 990) every 467.5 ms: "
    return Finding(Status.PROVED if good else Status.NOT, f"{words}{row['load']:g} (exact)")


def _only_one(table: Table) -> Finding:
    found = {row["policy"]: row["y"] for row in table.where(part="growth").rows()}
    stable = [name for name, y in found.items() if abs(y) < 0.01]
    words = ", ".join(f"{name} {100 * y:+.1f}" for name, y in found.items())
    good = stable == ["sarathi-128"] and len(found) > 2
    status = Status.VERIFIED if good else Status.NOT
    return Finding(status, f"requests that stay, of 100 arrivals: {words} (no randomness)")


CLAIMS = (
    Claim(
        id="DAI-C",
        text="With at most 100 requests a batch, (29, 99)/46.75 tokens/ms is a vertex of the "
        "region",
        source="Dai et al., arXiv 2504.07347, Theorem 10 and section 6",
        judge=_vertex,
        figure="dai_region",
        least=Status.PROVED,
        test="test_theory_papers.py::test_dai_region_can_fail",
    ),
    Claim(
        id="DAI-FIVE",
        text="At vertex C Sarathi-Serve with 128 tokens is stable, and none of the others is",
        source="Dai et al., arXiv 2504.07347, section 6",
        judge=_only_one,
        figure="dai_region",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_dai_region_can_fail",
    ),
)
