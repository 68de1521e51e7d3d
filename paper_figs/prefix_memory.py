"""Hits of a prefix cache, and the wait for the first token, by memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import colour
from paper_figs.marks import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "prefix_memory"
GROUP = "Ours"
CAPTION = (
    "Mooncake conversations on one H100: its own memory (leftmost) keeps 4 % of the prompt tokens "
    "to be found again, 8 million tokens 25 %, an endless cache the 31 % that the trace repeats "
    "(line); the wait falls also because more requests fit."
)
SIZE = (3.2, 2.6)


def _points(table: Table, ax: Axes, column: str, name: str) -> Axes:
    rows = table.where(kind="simulated")
    some = np.isfinite(rows["memory"])
    order = np.argsort(rows["memory"][some])
    ax.plot(
        rows["memory"][some][order],
        rows[column][some][order],
        marker="o",
        markersize=4,
        linestyle="-",
        linewidth=0.8,
        color=colour(0),
        label=name,
    )
    ax.set_xscale("log")
    ax.set_xticks([500_000, 1e6, 2e6, 4e6, 8e6], ["0.5 M", "1 M", "2 M", "4 M", "8 M"])
    ax.minorticks_off()
    ax.set_xlabel("KV memory (tokens)")
    return ax


def draw_hits(table: Table, ax: Axes) -> Axes:
    """Draw the share of the prompt tokens that was found."""
    _points(table, ax, "hits", "simulated")
    ax.axhline(
        float(table.where(kind="theory")["hits"][0]),
        color=colour(1),
        linestyle="--",
        label="endless cache, counted",
    )
    ax.set_ylim(bottom=0)
    ax.set_ylabel("share of prompt tokens found")
    legend(ax)
    return ax


def draw_wait(table: Table, ax: Axes) -> Axes:
    """Draw the mean time to the first token."""
    _points(table, ax, "ttft", "simulated")
    rows = table.where(kind="simulated")
    endless = rows["ttft"][np.isinf(rows["memory"])]
    ax.axhline(float(endless[0]), color=colour(1), linestyle="--")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("mean TTFT (s)")
    return ax


PANELS = (draw_hits, draw_wait)
