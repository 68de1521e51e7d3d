"""WAIT: throughput against time when memory is just M*."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY
from paper_figs.marks import legend, simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "wait_cascade"
GROUP = "Theory of others"
CAPTION = (
    "With memory M* first come first served falls, within minutes, into a state in which it evicts "
    "what it admits, and stays there: 11 % of the output is lost; WAIT loses 1 %, to whole numbers."
)


def draw(table: Table, ax: Axes) -> Axes:
    """Draw output tokens per second against time.

    Parameters
    ----------
    table : Table
        Of ``wait_cascade``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="window")
    ax.axhline(rows.where(name="offered")["y"][0], color=GREY, linestyle=":", label="offered")
    for i, (name, words) in enumerate((("fcfs", "FCFS, evicts"), ("wait", "WAIT (16, 8)")), 1):
        simulated(ax, rows.where(name=name), "x", "y", i=i, label=words)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("output (tokens/s)")
    legend(ax, columns=2)
    return ax
