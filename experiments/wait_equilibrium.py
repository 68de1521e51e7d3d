"""WAIT: the fluid equilibrium, and how a random system comes to it.

Setting (Ao, Luo, Simchi-Levi and Wang, 2504.11320): iterations of ``d0 + d1 M`` with d0 = 10 ms
and d1 = 0.1 us per KV token; types of (100, 50) and (200, 100) tokens. Rows ``exact`` are theory
core O7 at 8 and 4 requests/s. The paths and the curve use the same types at ``400 x`` and ``200 x``
requests/s, where the equilibrium holds hundreds of requests.

Rows: ``exact`` equilibrium in rationals (as floats) and the exponent of Nested WAIT; ``path`` KV
tokens in the iteration against time from an empty start, fluid and simulated (one path each, FCFS
and WAIT with thresholds 17 and 9); ``curve`` M* against ``d1 Lambda``, simulated means with 95 %
intervals over replications, first come first served without a memory limit.

Differs from the paper: FCFS without limit, our choice, reaches the equilibrium without thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.intervals import around
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.wait_model import Type, area, arrivals, fluid, serve
from llmq.model.request import RequestClass
from llmq.theory.fluid._wait import nested_wait_exponent, wait_equilibrium

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "WAIT: fluid equilibrium and the way to it"
SEED = 5
LAW = (0.01, 1e-7)
LENGTHS = ((100, 50), (200, 100))
RATES = (400.0, 200.0)
THRESHOLDS = (17, 9)
LOADS = {"small": (0.5,), "full": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}


def types(factor: float = 1.0) -> list[Type]:
    """Return the two types.

    Parameters
    ----------
    factor : float
        Of the rates.

    Returns
    -------
    list of Type
        At 400 and 200 requests per second, times the factor.
    """
    pairs = zip(LENGTHS, RATES, strict=True)
    return [Type(*lengths, factor * rate) for lengths, rate in pairs]


def reading(factor: float = 1.0) -> float:
    """Return the share of time that reading KV takes, ``d1 Lambda``.

    Parameters
    ----------
    factor : float
        Of the rates.

    Returns
    -------
    float
        Below 1 where there is an equilibrium.
    """
    return LAW[1] * sum(kind.rate * area(kind) for kind in types(factor))


def memory(factor: float = 1.0) -> float:
    """Return M*, the KV tokens of the equilibrium.

    Parameters
    ----------
    factor : float
        Of the rates.

    Returns
    -------
    float
        Tokens.
    """
    mix = {"a": RequestClass(*LENGTHS[0]), "b": RequestClass(*LENGTHS[1])}
    rates = {"a": factor * RATES[0], "b": factor * RATES[1]}
    return float(wait_equilibrium(mix, rates, *LAW).memory)


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
    paths, horizon = (4, 30.0) if scale == "small" else (8, 90.0)
    points = [{"load": load, "paths": paths, "horizon": horizon} for load in LOADS[scale]]
    rows = [*_exact(), *_fluid(), *_curve()]
    rows += runner.run(path, [{"horizon": 40.0}], rng)
    rows += runner.run(mean_memory, points, rng)
    return Table.of(
        "wait_equilibrium",
        rows,
        units={"x": "s or 1", "y": "KV tokens", "low": "KV tokens", "high": "KV tokens"},
        about={
            "source": "Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320; theory core O7",
            "law": "10 ms + 0.1 us per KV token",
            "types": "(100, 50) and (200, 100) tokens at 400 and 200 requests/s",
            "replications": f"{paths} of {horizon:g} s, the first third left out",
        },
    )


def _exact() -> Iterator[Row]:
    mix = {"a": RequestClass(100, 50), "b": RequestClass(200, 100)}
    rest = wait_equilibrium(mix, {"a": 8, "b": 4}, *LAW)
    found: dict[str, Fraction | float] = {
        "memory": rest.memory,
        "interval": rest.interval,
        "count a": rest.counts["a"],
        "count b": rest.counts["b"],
        "throughput": rest.throughput,
        "nested exponent": nested_wait_exponent(40, 20, 0.4),
    }
    for name, value in found.items():
        yield {"part": "exact", "kind": "theory", "name": name, "y": float(value)}


def _fluid() -> Iterator[Row]:
    start, kv = fluid(types(), LAW, 40.0)
    for i in np.unique(np.linspace(0, len(start) - 1, 80).astype(int)):
        yield {"part": "path", "kind": "theory", "name": "fluid", "x": start[i], "y": kv[i]}
    yield {"part": "path", "kind": "theory", "name": "M*", "x": 40.0, "y": memory()}


def _curve() -> Iterator[Row]:
    for load in np.linspace(0.05, 0.85, 33):
        y = memory(load / reading())
        yield {"part": "curve", "kind": "theory", "name": "M*", "x": load, "y": y}


def path(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate a path from an empty start, under FCFS and WAIT on the same requests.

    Parameters
    ----------
    point : mapping
        Horizon, seconds.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        KV tokens against time; under WAIT of all rows, in steps.
    """
    end = point["horizon"]
    came, code = arrivals(types(), end, np.random.default_rng(rng))
    rows: list[Row] = []
    for name in ("fcfs", "wait"):
        found = serve(types(), came, code, LAW, name, THRESHOLDS, until=end)
        shown = np.unique(np.linspace(0, len(found.start) - 1, 80).astype(int))
        base = {"part": "path", "kind": "simulated", "name": name, "n": 1}
        rows += [{**base, "x": found.start[i], "y": found.held[i]} for i in shown]
    return rows


def mean_memory(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate the mean KV tokens of an iteration at a load.

    Parameters
    ----------
    point : mapping
        Load (share of time spent reading), paths and horizon.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        One row.
    """
    kinds = types(point["load"] / reading())
    means = []
    for seed in rng.spawn(point["paths"]):
        came, code = arrivals(kinds, point["horizon"], np.random.default_rng(seed))
        found = serve(kinds, came, code, LAW, "fcfs", until=point["horizon"])
        means.append(found.kv[found.start > point["horizon"] / 3].mean())
    row = {"part": "curve", "kind": "simulated", "name": "fcfs", "x": point["load"]}
    return [{**row, **around(means)}]


def _values(table: Table) -> Finding:
    found = {row["name"]: row["y"] for row in table.where(part="exact").rows()}
    known = {
        "memory": 1543.4606011373,
        "interval": 0.0101543460601,
        "count a": 0.0812347684809,
        "count b": 0.0406173842405,
        "throughput": 800.0,
        "nested exponent": 0.81093021621633,
    }
    worst = max(abs(found[name] / value - 1) for name, value in known.items())
    words = f"M* = {found['memory']:.6g} tokens, interval {found['interval']:.6g} s; "
    status = Status.PROVED if worst < 1e-5 else Status.NOT
    return Finding(status, f"{words}largest relative error {worst:.0e}")


def _approach(table: Table) -> Finding:
    rows = table.where(part="curve", kind="simulated").rows()
    gaps = [row["y"] / memory(row["x"] / reading()) - 1 for row in rows]
    worst = max(gaps, key=abs)
    words = f"mean KV within {100 * worst:+.1f} % of M* (band 5 %) at {len(gaps)} loads"
    return Finding(Status.BAND if abs(worst) < 0.05 else Status.NOT, words)


CLAIMS = (
    Claim(
        id="WAIT-FLUID",
        text="M* = d0 Lambda / (1 - d1 Lambda), one iteration lasts d0 / (1 - d1 Lambda)",
        source="Ao et al., arXiv 2504.11320, equilibrium; theory core O7",
        judge=_values,
        figure="wait_equilibrium",
        least=Status.PROVED,
        test="test_theory_papers.py::test_wait_equilibrium_can_fail",
    ),
    Claim(
        id="WAIT-APPROACH",
        band=Band.SOURCE,
        text="A random system without memory limit holds M* tokens on average",
        source="Ao et al., arXiv 2504.11320, fluid limit",
        judge=_approach,
        figure="wait_equilibrium",
        least=Status.BAND,
        test="test_theory_papers.py::test_wait_equilibrium_can_fail",
    ),
)
