"""Yang et al.: a limit on new tokens shortens the wait of everybody.

Setting (Yang, Jiao and Xu, 2407.05347): one request at a time, 22.5 ms a token, output lengths
``min(ceil(lognormal(7, 0.7)), n_max)``, Poisson arrivals, one in 40 s. The mean wait is that of
M/G/1 with clipped lengths; printed are 22.34 s at n_max = 1600 and 55.37 s at 3000. Rows: theory,
llmq's simulator (an engine with one slot), printed values; ``clipped`` is the share of requests cut
short.
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
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.model.workload import Workload
from llmq.policies import Sarathi
from llmq.sim.simulate import simulate
from llmq.theory.latency._single import MG1, mg1_tokens

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "Yang et al.: clipped outputs, one request at a time"
SEED = 29
PER_TOKEN, RATE = 0.0225, 1 / 40
PRINTED = {1600: 22.34, 3000: 55.37}
LIMITS = {"small": (1600,), "full": (600, 1000, 1600, 2200, 3000, 4000)}


def lengths(limit: int) -> Lengths:
    """Return the output lengths, cut at a limit.

    Parameters
    ----------
    limit : int
        Tokens.

    Returns
    -------
    Lengths
        ``min(ceil(X), limit)`` with ``ln X`` normal, mean 7 and deviation 0.7.
    """
    from scipy.special import ndtr

    below = ndtr((np.log(np.arange(1, limit)) - 7) / 0.7)  # ceil(X) <= n
    return Lengths(np.arange(1, limit + 1), np.diff(np.concatenate(([0.0], below, [1.0]))))


def law(limit: int) -> MG1:
    """Return the exact mean wait.

    Parameters
    ----------
    limit : int
        Tokens.

    Returns
    -------
    MG1
        With ``wait`` and ``utilisation``.
    """
    return mg1_tokens(RATE, lengths(limit), PER_TOKEN)


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
        Columns kind, limit, wait, low, high, n, clipped, utilisation.
    """
    n, paths = (1500, 16) if scale == "small" else (6000, 64)
    points = [{"limit": limit, "requests": n, "paths": paths} for limit in LIMITS[scale]]
    rows: list[Row] = [*_theory()]
    rows += [{"kind": "printed", "limit": at, "wait": wait} for at, wait in PRINTED.items()]
    rows += runner.run(wait, points, rng)
    return Table.of(
        "yang_clipping",
        rows,
        units={"limit": "tokens", "wait": "s", "low": "s", "high": "s"},
        about={
            "source": "Yang, Jiao, Xu, arXiv 2407.05347; theory core O11",
            "setting": "22.5 ms a token, lognormal(7, 0.7) tokens, one arrival in 40 s",
            "replications": f"{paths} of {n} requests, the first fifth left out",
        },
    )


def _theory() -> Iterator[Row]:
    for limit in (*range(200, 4001, 100), 6000):
        found, output = law(limit), lengths(limit)
        weights = output.weights
        assert weights is not None  # lengths() gives one to each
        yield {
            "kind": "theory",
            "limit": limit,
            "wait": found.wait,
            "clipped": float(weights[-1]),
            "utilisation": found.utilisation,
        }


def wait(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate the mean wait at a limit.

    Parameters
    ----------
    point : mapping
        Limit, requests and paths.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        One row.
    """
    # The iteration of the prompt gives the first token: one iteration a token.
    chip = Engine(BatchTime.affine(base=PER_TOKEN, per_token=0.0), token_budget=8, max_seqs=1)
    traffic = Workload.poisson(RATE, {"x": RequestClass(1, lengths(point["limit"]))})
    cut = point["requests"] // 5
    run = simulate(
        chip,
        traffic,
        Sarathi(),
        replications=point["paths"],
        requests=point["requests"],
        warmup=cut,
        rng=rng,
    )
    times = run.requests
    # Waits end where the first iteration begins, one iteration before the first token.
    waits = (times.first_token - times.arrival)[:, cut:].mean(axis=1) - PER_TOKEN
    return [{"kind": "simulated", "limit": point["limit"], **around(waits, "wait")}]


def _agrees(table: Table) -> Finding:
    rows = table.where(kind="simulated")
    exact = np.array([law(int(limit)).wait for limit in rows["limit"]])
    scores = (rows["wait"] - exact) / standard_errors(rows)
    worst = max(scores, key=abs)
    words = f"largest deviation {worst:+.1f} standard errors at {len(scores)} limits"
    return Finding(Status.VERIFIED if abs(worst) <= 4 else Status.NOT, words)


def _printed(table: Table) -> Finding:
    theory = table.where(kind="theory")
    rows = table.where(kind="printed").rows()
    found = {
        row["limit"]: (theory.where(limit=row["limit"])["wait"][0], row["wait"]) for row in rows
    }
    close = len(found) == 2 and all(abs(ours - theirs) < 0.0051 for ours, theirs in found.values())
    cut = 1 - found[1600][0] / found[3000][0]
    words = ", ".join(f"{a:.2f} s at {n:.0f} (printed {b:.2f})" for n, (a, b) in found.items())
    return Finding(Status.BAND if close else Status.NOT, f"{words}: {100 * cut:.2f} % less")


CLAIMS = (
    Claim(
        id="YANG-CLIP",
        band=Band.SOURCE,
        text="A limit of 1600 instead of 3000 tokens cuts the mean wait from 55.37 to 22.34 s",
        source="Yang et al., arXiv 2407.05347; theory core O11",
        judge=_printed,
        figure="yang_clipping",
        least=Status.BAND,
        test="test_theory_papers.py::test_yang_can_fail",
    ),
    Claim(
        id="YANG-WAIT",
        text="The mean wait of clipped outputs is that of M/G/1",
        source="Yang et al., arXiv 2407.05347",
        judge=_agrees,
        figure="yang_clipping",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_yang_can_fail",
    ),
)
