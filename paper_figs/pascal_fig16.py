"""Tail TTFT with half reasoning-heavy requests (the paper's figure 16)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmq.plot._canvas import colour
from paper_figs.marks import legend, simulated
from paper_figs.pascal_fig11 import percent
from paper_figs.pascal_marks import ALL, BASE, TITLES, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_mix"
GROUP = "PASCAL"
CAPTION = (
    "Figure 16: with half reasoning-heavy requests PASCAL cuts the tail TTFT of FCFS by up to 92 "
    "and 96 % (printed: 70 %) and adds up to 60 and 51 % in well-filled bins (7 %). Of RR it cuts "
    "up to 24 and 16 % (14 %) and adds up to 17 and 47 % (8 %). It all depends on the number of "
    "requests: 4,000 here; with 1,500 the memory never fills and the three coincide."
)
SIZE = (3.5, 2.7)
FILLED = 20  # requests of a bin; the tail of fewer is their largest or their P90


def _panel(table: Table, ax: Axes, *, rho: float) -> Axes:
    """Draw each policy as a line over the shade of its interval, in well-filled bins."""
    rows = table.where(work="mix", rho=rho, kind="simulated", metric="ttft")
    for policy in BASE:
        mine = rows.where(policy=policy)
        full = mine["n"] >= FILLED
        x, tone = mine["bin"][full], colour(ALL.index(policy))
        ax.fill_between(x, mine["low"][full], mine["high"][full], color=tone, alpha=0.15, lw=0)
        ax.plot(x, mine["value"][full], color=tone, marker="", linewidth=1.2, label=policy)
    ax.set_title(place(rows))
    ax.set_xlabel("reasoning tokens (bins with 20 requests and more)")
    ax.set_xlim(0, 9000)  # beyond, filled bins lie far apart
    ax.set_ylabel("tail of TTFT (s)")
    ax.set_ylim(0, 1000)
    legend(ax, columns=3, bbox_to_anchor=(0.0, 1.07), columnspacing=0.8)
    return ax


def late(table: Table, ax: Axes) -> Axes:
    """Draw the share of late answers."""
    shares = percent(table)
    for policy in BASE:
        rows = shares.where(metric="late", policy=policy)
        simulated(
            ax,
            rows,
            "rho",
            "value",
            i=ALL.index(policy),
            label=policy,
            linestyle="-",
            linewidth=0.8,
        )
    ax.set_ylim(bottom=0)
    ax.set_xlim(1.05, 1.25)
    ax.set_title(TITLES["mix"])
    ax.set_xlabel("load ρ (rate / fluid capacity)")
    ax.set_ylabel("answers with QoE < 0.95 (%)")
    legend(ax, columns=3, bbox_to_anchor=(0.0, 1.07), columnspacing=0.8)
    return ax


PANELS = (partial(_panel, rho=1.1), partial(_panel, rho=1.2), late)
