"""Throughput by load (the paper's figure 12)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmq.plot._canvas import GRID
from paper_figs.marks import legend
from paper_figs.pascal_marks import BASE, by_load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_rates"
GROUP = "PASCAL"
CAPTION = (
    "Figure 12: tokens per second differ by at most 2.8 % (at rho 1.3; shaded and printed: within "
    "3 %)."
)


def _panel(table: Table, ax: Axes, *, work: str) -> Axes:
    by_load(ax, table, work, "tokens", BASE)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("throughput (tokens/s)")
    legend(ax, columns=3, bbox_to_anchor=(0.0, 1.07))
    return ax


def _ratio(table: Table, ax: Axes, *, work: str) -> Axes:
    by_load(ax, table, work, "tokens ratio", BASE[1:])
    ax.axhspan(0.97, 1.03, color=GRID, alpha=0.6, linewidth=0, zorder=0)
    ax.set_ylabel("throughput / that of FCFS")
    legend(ax, columns=2, bbox_to_anchor=(0.0, 1.07))
    return ax


WORKS = ("alpaca", "arena")
PANELS = (
    *(partial(_panel, work=work) for work in WORKS),
    *(partial(_ratio, work=w) for w in WORKS),
)
COLUMNS = 2
