"""WAIT: the fluid equilibrium, and paths that come to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY
from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "wait_equilibrium"
GROUP = "Theory of others"
CAPTION = (
    "From an empty start the KV memory comes to M* = 316,667 tokens, as the fluid does, and under "
    "WAIT to what its thresholds hold, 335,625; M* = d0 Lambda / (1 - d1 Lambda) at every load."
)


def draw_path(table: Table, ax: Axes) -> Axes:
    """Draw KV tokens against time.

    Parameters
    ----------
    table : Table
        Of ``wait_equilibrium``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="path")
    ax.axhline(rows.where(name="M*")["y"][0], color=GREY, linestyle=":", label="M*")
    theory(ax, rows.where(name="fluid"), "x", "y", label="fluid")
    for i, (name, words) in enumerate((("fcfs", "FCFS"), ("wait", "WAIT (17, 9)")), 1):
        path = rows.where(name=name)
        mark = {"linestyle": "", "marker": "os^"[i], "markersize": 2.5}
        theory(ax, path, "x", "y", i=i, label=words, **mark)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("KV memory (tokens)")
    legend(ax)
    return ax


def draw_curve(table: Table, ax: Axes) -> Axes:
    """Draw the equilibrium against load.

    Parameters
    ----------
    table : Table
        Of ``wait_equilibrium``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="curve")
    theory(ax, rows.where(kind="theory"), "x", "y", label="M*")
    simulated(ax, rows.where(kind="simulated"), "x", "y", i=1, label="FCFS, no memory limit")
    ax.set_yscale("log")
    ax.set_xlabel("share of time reading KV, d1 Lambda")
    ax.set_ylabel("KV memory, mean (tokens)")
    legend(ax)
    return ax


PANELS = (draw_path, draw_curve)
