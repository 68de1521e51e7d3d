"""TTFT of free users by rate: SLAI's own choices beside Sarathi-Serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend
from paper_figs.slai_rates import MEDIAN, TAIL, curves, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "slai_rates"
GROUP = "RAD and SLAI"
CAPTION = (
    "What each rule of SLAI does to free users: a fixed offset in arrival order hardly differs "
    "from Sarathi FCFS, short prompts first and the dynamic offset lower the median, paying users "
    "first costs the free nothing visible; near saturation the tails cannot be told apart."
)
SHOWN = (
    "Sarathi FCFS",
    "SLAI FCFS fixed",
    "SLAI SPF fixed",
    "SLAI SPF dynamic",
    "SLAI paying first",
)


def median(table: Table, ax: Axes) -> Axes:
    """Draw the median, with the legend of the figure."""
    legend(curves(table, ax, "ttft_median", "free", shown=SHOWN), columns=2)
    return scale(ax, MEDIAN)


def tail(table: Table, ax: Axes) -> Axes:
    """Draw p99."""
    return scale(curves(table, ax, "ttft_p99", "free", shown=SHOWN), TAIL)


PANELS = (median, tail)
