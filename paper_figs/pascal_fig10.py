"""Tail TTFT by reasoning tokens beyond saturation (the paper's figure 10)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from paper_figs.marks import legend
from paper_figs.pascal_marks import BASE, tails

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_bins"
GROUP = "PASCAL"
CAPTION = (
    "Figure 10, the headline: just beyond saturation PASCAL cuts the tail TTFT of FCFS by up to "
    "52 % and 65 % (AlpacaEval-like, rho 1.1 and 1.2; printed 61 %), 79 % and 94 % (Arena-like; "
    "72 %), that of RR by up to 22 and 30 % (33 %), 36 and 47 % (29 %). Max, P90, P95 or "
    "P99 by the number in a bin, five seeds pooled."
)
SIZE = (3.5, 2.7)
COLUMNS = 2


def _panel(table: Table, ax: Axes, *, work: str, rho: float) -> Axes:
    tails(ax, table.where(work=work, rho=rho, kind="simulated"), BASE)
    legend(ax, columns=3, bbox_to_anchor=(0.0, 1.07))
    return ax


PANELS = tuple(
    partial(_panel, work=work, rho=rho) for rho in (1.1, 1.2) for work in ("alpaca", "arena")
)
