"""WAIT: latency and throughput against thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import GREY
from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "wait_thresholds"
GROUP = "Theory of others"
CAPTION = (
    "Thresholds below n* lose throughput, thresholds above it cost latency in proportion: WAIT is "
    "best a little above n* (the fluid formula holds from 1.2 n* on)."
)


def draw_latency(table: Table, ax: Axes) -> Axes:
    """Draw the mean time in system against the threshold.

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
    rows = table.where(part="threshold")
    law = rows.where(kind="theory", name="latency")
    keep = np.isfinite(law["y"])
    ax.plot(law["x"][keep], law["y"][keep], marker="", label="fluid with slack")
    shown = rows.where(kind="simulated", name="latency")
    simulated(ax, shown, "x", "y", i=1, label="simulated WAIT")
    ax.axvline(1.0, color=GREY, linestyle=":", label="n*")
    ax.set_ylim(0, 1.05 * shown["high"].max())
    ax.set_xlabel("threshold, n / n*")
    ax.set_ylabel("mean time in system (s)")
    legend(ax)
    return ax


def draw_throughput(table: Table, ax: Axes) -> Axes:
    """Draw the throughput against the threshold.

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
    rows = table.where(part="threshold")
    theory(ax, rows.where(kind="theory", name="throughput"), "x", "y", label="fluid")
    shown = rows.where(kind="simulated", name="throughput")
    simulated(ax, shown, "x", "y", i=1, label="simulated WAIT")
    ax.axvline(1.0, color=GREY, linestyle=":", label="n*")
    ax.set_xlabel("threshold, n / n*")
    ax.set_ylabel("output (tokens/s)")
    legend(ax)
    return ax


PANELS = (draw_latency, draw_throughput)
