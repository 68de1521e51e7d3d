"""What recompute loses: the rate served against the number present, and what is computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY, INK, colour
from paper_figs.marks import legend, simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "recompute_loss"
GROUP = "Ours"
CAPTION = (
    "Rank preemption with recompute and backfill: with 40 present only 3.7 of the offered 5 req/s "
    "are served (left); what is missing are the tokens computed again (right: the bound [RC])."
)
SIZE = (3.5, 2.9)
POLICIES = ("FCFS", "backfill", "head of line", "future peak")
OFFERED = 5.0


def draw_drift(table: Table, ax: Axes) -> Axes:
    """Draw the rate served against the number present.

    Parameters
    ----------
    table : Table
        Of ``recompute_loss``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="population")
    for i, name in enumerate(POLICIES):
        mine = rows.where(policy=name)
        simulated(ax, mine, "x", "y", i=i, label=name)
        ax.plot(mine["x"], mine["y"], color=colour(i), marker="", linewidth=0.6)
    best = table.where(part="law", policy="best")["y"][0]
    ax.axhline(best, color=INK, linewidth=0.9, linestyle="--", label="region")
    ax.axhline(OFFERED, color=GREY, linewidth=0.9, label="offered")
    ax.set(xlabel="requests present", ylabel="rate served (requests/s)", ylim=(0, 8.5))
    legend(ax)
    return ax


def draw_again(table: Table, ax: Axes) -> Axes:
    """Draw the rate at full memory against the tokens that are computed again.

    Parameters
    ----------
    table : Table
        Of ``recompute_loss``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="population", x=[30, 40, 60])
    for i, name in enumerate(POLICIES):
        simulated(ax, rows.where(policy=name), "again", "y", i=i, label=name)
    every = sorted(zip(rows["again"], rows["bound"], strict=True))
    ax.plot(*zip(*every, strict=True), color=INK, marker="", label="load with them = 1")
    ax.set(
        xlabel="KV tokens computed again per request",
        ylabel="rate served (requests/s)",
        ylim=(0, 8.5),
    )
    legend(ax)
    return ax


PANELS = (draw_drift, draw_again)
