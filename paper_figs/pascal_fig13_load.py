"""Blocking and violations without migration (the paper's figure 13, c and d)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmq.plot._canvas import INK
from paper_figs.marks import legend
from paper_figs.pascal_fig11 import percent
from paper_figs.pascal_marks import by_load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_rates"
GROUP = "PASCAL"
CAPTION = (
    "Figure 13 c and d. With 90,000 KV tokens blocking without migration is 0.5 s at rho 1.1, 4 s "
    "at 1.2, 11 s at 1.3 (printed: 27 s), not clearly longer than with it; with 45,000 it is 31 s "
    "at 1.2, against 11 s with it. Not reproduced: at no load are answers late more often without "
    "migration (of the Arena-like set they are at 1.2: 4.1 %, 3.4 %)."
)
PAIR = ("PASCAL", "NoMigration")


def blocked(table: Table, ax: Axes, work: str = "alpaca") -> Axes:
    """Draw P99 of the time from the end of the reasoning to the next iteration."""
    by_load(ax, table, work, "blocked P99", PAIR)
    rows = table.where(metric="blocked P99", kind="printed")
    ax.axhline(float(rows["value"][0]), color=INK, linewidth=0.8, linestyle="--", marker="")
    ax.annotate(
        "printed, NoMigration, unnamed rate",
        (0.03, rows["value"][0]),
        (0, -4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="top",
    )
    ax.set_ylim(-0.6, None)
    ax.set_ylabel("P99 of blocking (s)")
    legend(ax, columns=2, bbox_to_anchor=(0.0, 1.07))
    return ax


def late(table: Table, ax: Axes) -> Axes:
    """Draw the share of late answers."""
    by_load(ax, percent(table), "alpaca", "late", PAIR)
    ax.set_ylim(bottom=-0.15)
    ax.set_ylabel("answers with QoE < 0.95 (%)")
    legend(ax, columns=2, bbox_to_anchor=(0.0, 1.07))
    return ax


PANELS = (blocked, partial(blocked, work="alpaca, 45,000 KV"), late)
