"""TRAIL: SOAP curves of size-based disciplines, events and printed values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.table import Table
from paper_figs.marks import legend, printed, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE = "trail_soap"
GROUP = "Theory of others"
CAPTION = (
    "Mean time in system relative to first come first served: at load 0.9 predictions cost 44 % "
    "(SPRPT 5.10 against SRPT 3.55 services), limiting preemption to C = 0.8 costs 0.1 %; formula, "
    "events and printed values agree."
)
SIZE = (3.5, 3.2)
NAMES = ("SJF", "SRPT", "SPJF", "TRAIL C = 0.8", "SPRPT")


def draw(table: Table, ax: Axes) -> Axes:
    """Draw mean time in system against load.

    Parameters
    ----------
    table : Table
        Of ``trail_soap``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    # First come first served needs 1 / (1 - load): the curves come apart beside it.
    values = ("sojourn", "low", "high")
    scaled = {key: table[key] * (1 - table["load"]) for key in values}
    kept = {key: table[key] for key in ("kind", "name", "load")}
    every = Table(table.name, kept | scaled)
    for i, name in enumerate(NAMES):
        rows = every.where(name=name)
        theory(ax, rows.where(kind="theory"), "load", "sojourn", i=i, label=name)
        simulated(ax, rows.where(kind="simulated"), "load", "sojourn", i=i)
        shown = rows.where(kind="printed")
        if len(shown):
            printed(ax, shown, "load", "sojourn", i=i, label=f"{name}, printed", markersize=9)
    ax.set_xlabel("load")
    ax.set_ylabel("mean time in system, FCFS = 1")
    legend(ax)
    return ax
