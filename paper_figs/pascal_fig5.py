"""Answering latency and attainment on one engine short of memory (the paper's figure 5)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from paper_figs.marks import legend, simulated
from paper_figs.pascal_fig4 import bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_latency"
GROUP = "PASCAL"
CAPTION = (
    "Figure 5: RR makes answers of 2048 tokens slower than FCFS does, yet all attain their SLO: "
    "the reader is behind anyway. FCFS starts many answers too late."
)
SIZE = (3.5, 2.8)


def attained(table: Table, ax: Axes) -> Axes:
    """Draw the share of answers with a QoE of 0.95 or more."""
    for i, policy in enumerate(("FCFS", "RR", "oracle")):
        rows = table.where(phase="answering", metric="attained", policy=policy)
        shown = {key: column.copy() for key, column in rows.columns.items()}
        # Points that coincide stand side by side.
        shown["length"] = np.log2(shown["length"]) - 7 + 0.12 * (i - 1)
        for key in ("value", "low", "high"):
            shown[key] = 100 * np.clip(shown[key], 0, 1)
        side = type(rows)(rows.name, shown)
        simulated(ax, side, "length", "value", i=i, label=policy, linestyle="-", linewidth=0.8)
    ax.set_xticks(range(5), ["128", "256", "512", "1024", "2048"])
    ax.set_ylim(0, 104)
    ax.set_xlabel("answering tokens")
    ax.set_ylabel("answers that attain the SLO (%)")
    legend(ax, columns=3)
    return ax


PANELS = (partial(bars, phase="answering", rate=3.5), attained)
