"""The figure of the README: the plan of ``examples/chat.toml``.

Left, the rates that the chosen fleet can carry (theory, a line) with the offered ones; right, the
share of requests within the targets against the number of GPUs (simulation, points with 95 %
intervals). Seed, requests and replications are those of the file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmq.calibrate.catalogue import load_engine
from llmq.capacity import Candidate, Plan, plan_capacity
from llmq.errors import InfeasibleError
from llmq.io.config import CandidateConfig, read_config
from llmq.plot import draw_attainment, draw_region, styled
from llmq.policies import Sarathi, parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NAME", "compute", "draw"]

NAME = "plan"
EXAMPLE = Path(__file__).parent.parent / "examples" / "chat.toml"


def compute() -> Plan:
    """Plan the example.

    Returns
    -------
    Plan
        The same on every call.
    """
    config = read_config(EXAMPLE)
    effort = config.simulation
    return plan_capacity(
        config.traffic, config.slo, [_candidate(one) for one in config.candidates],
        requests=effort.requests, replications=effort.replications, rng=effort.seed,
    )  # fmt: skip


def _candidate(one: CandidateConfig) -> Candidate:
    made = load_engine(one.engine, one.tp) if isinstance(one.engine, str) else one.engine
    policy = Sarathi() if one.policy is None else parse(one.policy)
    return Candidate(made.with_(**one.overrides), policy)


def draw(plan: Plan) -> Figure:
    """Draw region and attainment side by side.

    Parameters
    ----------
    plan : Plan
        With an answer.

    Returns
    -------
    matplotlib figure
        Two axes.

    Raises
    ------
    InfeasibleError
        No candidate meets the targets, so there is no fleet to draw.
    """
    best = plan.chosen
    if best is None:
        raise InfeasibleError(f"no candidate meets {plan.slo}: there is no fleet to draw")
    with styled():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        figure = Figure(figsize=(9.6, 3.9), layout=ConstrainedLayoutEngine(wspace=0.06))
        left, right = figure.subplots(1, 2)
        region = plan.regions[plan.candidates.index(best)]
        draw_region(replace(region, engines=best.engines or 1), plan.rates, ax=left)
        draw_attainment(plan.candidates, plan.target, ax=right)
        left.set_title(f"what {best.gpus} GPUs carry: {best.candidate.engine.name}", loc="left")
        right.set_title(str(plan.slo), loc="left")
    return figure
