"""WAIT: throughput against memory, three admission rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY
from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "wait_thresholds"
GROUP = "Theory of others"
CAPTION = (
    "Throughput against memory: below M* WAIT stays within 5 % of what any rule can serve; first "
    "come first served loses 10 to 11 % by evictions, reserving the peak 5 to 9 % by leaving "
    "memory idle."
)
NAMES = {"fcfs": "FCFS, evicts", "reserve": "FCFS, reserves peaks", "wait": "WAIT"}


def draw(table: Table, ax: Axes) -> Axes:
    """Draw throughput against memory.

    Parameters
    ----------
    table : Table
        Of ``wait_thresholds``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="memory")
    theory(ax, rows.where(kind="theory"), "x", "y", label="no rule beyond")
    for i, (name, words) in enumerate(NAMES.items(), 1):
        simulated(ax, rows.where(name=name), "x", "y", i=i, label=words)
    ax.axvline(1.0, color=GREY, linestyle=":", label="M*")
    ax.set_ylim(18_000, 42_000)
    ax.set_xlabel("memory, C / M*")
    ax.set_ylabel("output (tokens/s)")
    legend(ax)
    return ax
