"""Backlog against time: what a counterexample looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmq._input.checked import checked
from llmq.model.fleet import Fleet
from llmq.optimality.networks.fleet import engine_seconds
from llmq.plot._canvas import GREY, axes_for, colour, label, legend_below, styled
from llmq.policies import Policy, PriceWeighted, Sarathi, parse
from llmq.rng import RngLike, seed_sequence
from llmq.sim.simulate import simulate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmq.optimality.instability import Instability

__all__ = ["draw_backlog"]


@checked
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
        A solid line per path of the policy; a dashed one per path of one that carries the load
        (Sarathi-Serve with the most productive batch as its budget, on a fleet routed by price;
        none where memory binds); a dotted line of the growth that the proof predicts, where it
        is one of a saturated system.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    traffic = found.network.at(found.load)
    with styled():
        ax = axes_for(ax)
        handles, labels = [], []
        for number, policy in enumerate((parse(found.policy), *_better(found))):
            for seed in np.random.SeedSequence(seed_sequence(rng).entropy).spawn(paths):
                run = simulate(found.system, traffic, policy, requests=requests, rng=seed)
                came, gone = run.requests.arrival[0], np.sort(run.requests.finish[0])
                present = np.arange(1, requests + 1) - np.searchsorted(gone, came, "right")
                (line,) = ax.plot(
                    came,
                    present,
                    color=colour(number),
                    linestyle=("-", "--")[number],
                    marker="",
                    linewidth=1.0,
                )
            handles.append(line)
            labels.append(label(_title(found, policy, number)))
        if found.reach is not None and found.cycle is not None:
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


def _better(found: Instability) -> tuple[Policy, ...]:
    """Policies that carry the load: none that is shipped where memory binds."""
    from llmq.theory.region.tiling import best_batch

    system = found.system
    if isinstance(system, Fleet):
        prices = engine_seconds(system, found.network.mix)
        route = PriceWeighted({name: tuple(map(float, row)) for name, row in prices.items()})
        return (Sarathi(route=route),)
    if system.kv_tokens is not None:
        return ()
    return (Sarathi(token_budget=best_batch(system.law, system.token_budget).tokens),)


def _title(found: Instability, policy: Policy, number: int) -> str:
    if number == 0:
        return found.policy
    if isinstance(found.system, Fleet):
        return f"{policy.name}, routed by price"
    return f"full batches of {policy.token_budget} tokens"
