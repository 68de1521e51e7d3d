"""Tails without migration (the paper's figure 13, a and b)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from paper_figs.marks import legend
from paper_figs.pascal_marks import tails

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_bins"
GROUP = "PASCAL"
CAPTION = (
    "Figure 13 a and b, not reproduced: without migration the tail TTFT (left) is longer in less "
    "than half of the bins and by a few per cent; the reasoning latency (right) agrees with the "
    "paper to 6 % in the median bin."
)
SIZE = (3.5, 2.6)
COLUMNS = 2


def _panel(table: Table, ax: Axes, *, metric: str, rho: float) -> Axes:
    rows = table.where(work="alpaca", rho=rho, kind="simulated")
    tails(ax, rows, ("PASCAL", "NoMigration"), metric)
    legend(ax, columns=2, bbox_to_anchor=(0.0, 1.07))
    return ax


PANELS = tuple(
    partial(_panel, metric=metric, rho=rho)
    for rho in (1.1, 1.2)
    for metric in ("ttft", "reasoning")
)
