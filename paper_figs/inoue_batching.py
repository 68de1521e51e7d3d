"""Inoue: delay of taking all who wait, its bounds, and the share of busy time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY
from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "inoue_batching"
GROUP = "Theory of others"
CAPTION = (
    "Dynamic batching of all who wait: the delay grows slowly with load (5.90 ms at half load), "
    "min(phi0, phi1) bounds it within 9.4 %, and the server is busy 98.8 % of the time at load 0.2."
)


def draw_delay(table: Table, ax: Axes) -> Axes:
    """Draw the mean delay against load.

    Parameters
    ----------
    table : Table
        Of ``inoue_batching``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="delay")
    theory(ax, rows.where(name="exact"), "load", "y", label="exact (eq. 36)")
    for i, name in enumerate(("phi0", "phi1"), 1):
        theory(ax, rows.where(name=name), "load", "y", i=i, label=f"bound {name}", color=GREY)
    simulated(ax, rows.where(kind="simulated"), "load", "y", i=1, label="llmq")
    ax.set_yscale("log")
    ax.set_ylim(1.5, 100)
    ax.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    ax.minorticks_off()
    ax.set_xlabel("load")
    ax.set_ylabel("mean delay (ms)")
    legend(ax)
    return ax


def draw_busy(table: Table, ax: Axes) -> Axes:
    """Draw the share of busy time against load.

    Parameters
    ----------
    table : Table
        Of ``inoue_batching``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="utilisation")
    theory(ax, rows.where(kind="theory"), "load", "y", label="exact")
    simulated(ax, rows.where(kind="simulated"), "load", "y", i=1, label="llmq")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", marker="", label="load itself")
    ax.set_xlabel("load")
    ax.set_ylabel("share of time busy")
    legend(ax)
    return ax


PANELS = (draw_delay, draw_busy)
