"""Backlog against time: what a counterexample looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmq.plot.canvas import GREY, axes_for, colour, label, legend_below, styled
from llmq.policies import Sarathi, parse
from llmq.rng import RngLike, seed_sequence
from llmq.sim.run import simulate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmq.instability import Instability

__all__ = ["draw_backlog"]


def draw_backlog(
    found: Instability,
    *,
    requests: int = 800,
    paths: int = 3,
    ax: Axes | None = None,
    rng: RngLike = None,
) -> Axes:
    """Draw how many requests are present under a policy that fails, from an empty start.

    Parameters
    ----------
    found : Instability
        The counterexample.
    requests : int
        Arrivals of a path.
    paths : int
        Paths of the policy, and of full batches for comparison.
    ax : matplotlib axes, optional
        Where; a new figure if not given.
    rng : Generator, SeedSequence, int or None
        Source of randomness; both policies see the same requests.

    Returns
    -------
    matplotlib axes
        A solid line per path of the policy, a dashed one per path of Sarathi-Serve with the most
        productive batch as its budget; a dotted line of the growth that the cycle predicts, where
        there is one.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    from llmq.theory.tiling import best_batch

    engine = found.network.engine
    full = Sarathi(token_budget=best_batch(engine.law, engine.token_budget).tokens)
    traffic = found.network.at(found.load)
    with styled():
        ax = axes_for(ax)
        handles, labels = [], []
        for number, policy in enumerate((parse(found.policy), full)):
            for seed in np.random.SeedSequence(seed_sequence(rng).entropy).spawn(paths):
                run = simulate(engine, traffic, policy, requests=requests, rng=seed)
                came, gone = run.requests.arrival[0], np.sort(run.requests.finish[0])
                present = np.arange(1, requests + 1) - np.searchsorted(gone, came, "right")
                (line,) = ax.plot(
                    came, present, color=colour(number), linestyle=("-", "--")[number], marker="",
                    linewidth=1.0,
                )  # fmt: skip
            handles.append(line)
            name = found.policy if number == 0 else f"full batches of {full.token_budget} tokens"
            labels.append(label(name))
        if found.cycle is not None:
            rate = sum(traffic.rates.values())
            end = requests / rate
            (line,) = ax.plot(
                [0, end], [0, (rate - found.cycle.rate) * end], color=GREY, linestyle=":", marker=""
            )
            handles.append(line)
            labels.append("growth that the exact cycle predicts")
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("time (s)")
        ax.set_ylabel("requests present")
        legend_below(ax, handles, labels)
    return ax
