"""TTFT without the adaptive override (the paper's figure 15, a)."""

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
    "Figure 15 a: without the adaptive override the tail TTFT looks much the same, 8 % "
    "longer in the median bin; what suffers are answers (next figure)."
)
SIZE = (3.5, 2.6)


def _panel(table: Table, ax: Axes, *, rho: float) -> Axes:
    rows = table.where(work="alpaca", rho=rho, kind="simulated")
    tails(ax, rows, ("PASCAL", "NonAdaptive"))
    legend(ax, columns=2, bbox_to_anchor=(0.0, 1.07))
    return ax


PANELS = tuple(partial(_panel, rho=rho) for rho in (1.1, 1.2))
