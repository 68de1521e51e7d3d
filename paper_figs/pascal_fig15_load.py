"""Violations and latency without the adaptive override (the paper's figure 15, b and c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY, colour
from paper_figs.marks import legend, simulated
from paper_figs.pascal_fig11 import percent
from paper_figs.pascal_marks import ALL, TITLES, by_load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_rates"
GROUP = "PASCAL"
CAPTION = (
    "Figure 15 b and c: just beyond saturation answers are late 4.6 % of the time without the "
    "override and 0.8 % with it (printed at an unnamed rate, dashed: 7.45 % and 0.69 %); median "
    "and P99 latency are 5 to 7 % longer (printed: 20 % and 10 %)."
)
PAIR = ("PASCAL", "NonAdaptive")


def late(table: Table, ax: Axes) -> Axes:
    """Draw the share of late answers."""
    by_load(ax, percent(table), "alpaca", "late", PAIR)
    for policy in PAIR:
        printed = percent(table).where(metric="late", kind="printed", policy=policy)["value"]
        ax.axhline(
            float(printed[0]),
            color=colour(ALL.index(policy)),
            linewidth=0.8,
            linestyle="--",
            marker="",
        )
    ax.set_ylim(bottom=-0.15)
    ax.set_ylabel("answers with QoE < 0.95 (%)")
    legend(ax, columns=2, bbox_to_anchor=(0.0, 1.07))
    return ax


def slower(table: Table, ax: Axes) -> Axes:
    """Draw end-to-end latency without the override over that with it."""
    for i, metric in enumerate(("e2e P50 ratio", "e2e P99 ratio")):
        rows = table.where(work="alpaca", metric=metric, kind="simulated")
        simulated(
            ax, rows, "rho", "value", i=i, label=("median", "P99")[i], linestyle="-", linewidth=0.8
        )
        printed = table.where(metric=metric, kind="printed")["value"]
        ax.axhline(float(printed[0]), color=colour(i), linewidth=0.8, linestyle="--", marker="")
    ax.axhline(1.0, color=GREY, linewidth=0.8, marker="")
    ax.set_xlabel("load ρ (rate / fluid capacity)")
    ax.set_ylabel("latency / that of PASCAL")
    ax.set_title(TITLES["alpaca"])
    legend(ax, columns=2, bbox_to_anchor=(0.0, 1.07))
    return ax


PANELS = (late, slower)
