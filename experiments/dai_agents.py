"""Agents in opposite order: exit priority lets the backlog swing up, the reverse does not.

Setting (Dai, Deng, Li and Peng, 2504.07347, section 5.4): two engines of 768 tokens and one second
an iteration, two kinds of agents that call them in opposite order, first (32, 32) and then
(512, 32) tokens; load 0.9 of each. Both orders of priority keep every batch full. From 150 first
hops at one engine and arrivals at even times, priority to the call that ends an agent lets the
backlog swing with peaks that grow by ``153 / 37 = 4.135`` each (theory core O15); priority to first
calls, and first come first served, bring it down.

Rows: ``path`` tokens of backlog at both engines together, as points of the path; ``peak`` the
peaks, simulated (of either engine), predicted from the first one by the factor, and printed (about
85 thousand, 340 thousand and 1.4 million tokens). No randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.model.agents import Agent, AgentTrace
from llmq.policies import Policy, Sarathi
from llmq.policies.priority import Priority
from llmq.sim.agents import simulate_agents
from llmq.sim.agents._time import peaks
from llmq.theory.stability.agents_case import exit_priority_case

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "Dai et al.: agents in opposite order oscillate under exit priority"
SEED = 31
LOAD, WAITING = Fraction(9, 10), 150
LEAST = 12_000  # tokens: smaller swings are the work of some iterations
PRINTED = (85_000.0, 340_000.0, 1_400_000.0)
MAKE: dict[str, Callable[[Mapping[str, Agent]], Policy]] = {
    "exit first": Priority.exit_first,
    "entry first": Priority.entry_first,
    "first come first served": lambda agents: Sarathi(),
}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Seconds; full has the third peak.
    rng : Generator, SeedSequence, int or None
        Not used: arrivals are at even times.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Columns part, kind, name, x, y, n.
    """
    span = 1000.0 if scale == "small" else 4000.0
    growth = float(exit_priority_case(load=LOAD).growth)
    rows = runner.run(swing, [{"policy": name, "span": span} for name in MAKE], rng)
    tops = [row for row in rows if row["part"] == "peak" and row["name"] == "exit first"]
    base = {"part": "peak", "name": "exit first"}
    for i, top in enumerate(tops):
        rows.append({**base, "kind": "theory", "x": top["x"], "y": tops[0]["y"] * growth**i})
        if i < len(PRINTED):
            rows.append({**base, "kind": "printed", "x": top["x"], "y": PRINTED[i]})
    return Table.of(
        "dai_agents",
        rows,
        units={"x": "s", "y": "tokens"},
        about={
            "source": "Dai, Deng, Li, Peng, arXiv 2504.07347, section 5.4; theory core O15",
            "setting": "768 tokens/s and engine, (32, 32) then (512, 32) tokens, load 0.9",
        },
    )


def swing(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate a policy from a queue of first hops at one engine.

    Parameters
    ----------
    point : mapping
        Policy and span, seconds.
    rng : SeedSequence
        Not used.

    Returns
    -------
    list of dict
        The path and its peaks.
    """
    case, span = exit_priority_case(load=LOAD), point["span"]
    rates = {name: float(rate) for name, rate in case.rates.items()}
    trace = AgentTrace.clockwork(case.agents, rates, span, first={"ab": WAITING})
    run = simulate_agents(case.engines, trace, MAKE[point["policy"]](case.agents))
    base = {"kind": "simulated", "name": point["policy"]}
    paths = [run.backlog(station) for station in case.engines]
    grid = np.linspace(0, span, 201)
    total = sum(y[np.searchsorted(t, grid, "right") - 1] for t, y in paths)
    rows: list[Row] = [
        {"part": "path", **base, "x": x, "y": y}
        for x, y in zip(grid.tolist(), np.asarray(total).tolist(), strict=True)
    ]
    tops = sorted((t, y) for path in paths for t, y in zip(*peaks(*path), strict=True))
    # The queue at the start is no swing, nor what drains after the last arrival.
    rows += [
        {"part": "peak", **base, "x": t, "y": y} for t, y in tops if 1 < t <= span and y > LEAST
    ]
    return rows


def _grows(table: Table) -> Finding:
    found = table.where(part="peak", kind="simulated", name="exit first")["y"]
    if len(found) < 2:
        return Finding(Status.NOT, f"{len(found)} peaks")
    ratios = found[1:] / found[:-1]
    gaps = [abs(y / top - 1) for y, top in zip(found, PRINTED, strict=False)]
    words = ", ".join(f"{y:,.0f}" for y in found)
    good = abs(ratios[-1] / (153 / 37) - 1) < 0.06 and max(gaps) < 0.06
    status = Status.BAND if good else Status.NOT
    return Finding(status, f"peaks {words} tokens; last factor {ratios[-1]:.3f} (4.135; band 6 %)")


def _bounded(table: Table) -> Finding:
    rows = table.where(part="path")
    end = rows["x"].max()
    words, good = [], True
    for name in MAKE:
        path = rows.where(name=name)
        top, late = path["y"].max(), path["y"][path["x"] > 0.8 * end].max()
        words.append(f"{name} {late:,.0f}")
        good &= (late > 0.5 * top) == (name == "exit first")
    return Finding(
        Status.DIRECTION if good else Status.NOT,
        f"largest backlog in the last fifth: {', '.join(words)} tokens",
    )


CLAIMS = (
    Claim(
        id="DAI-SWING",
        band=Band.SOURCE,
        text="Under exit priority the peaks grow by 153/37 at load 0.9, to 85k, 340k and 1.4M "
        "tokens",
        source="Dai et al., arXiv 2504.07347, section 5.4; theory core O15",
        judge=_grows,
        figure="dai_agents",
        least=Status.BAND,
        test="test_theory_papers.py::test_dai_agents_can_fail",
    ),
    Claim(
        id="DAI-REVERSE",
        band=Band.SOURCE,
        text="The reversed priority keeps the backlog bounded",
        source="Dai et al., arXiv 2504.07347, section 5.4",
        judge=_bounded,
        figure="dai_agents",
        least=Status.DIRECTION,
        test="test_theory_papers.py::test_dai_agents_can_fail",
    ),
)
