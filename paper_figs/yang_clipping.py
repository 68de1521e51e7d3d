"""Yang et al.: the mean wait against the limit on new tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, printed, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "yang_clipping"
GROUP = "Theory of others"
CAPTION = (
    "Cutting outputs at 1600 instead of 3000 tokens shortens the mean wait from 55.37 s to "
    "22.34 s; 30 % of the requests are cut."
)


def draw_wait(table: Table, ax: Axes) -> Axes:
    """Draw the mean wait against the limit.

    Parameters
    ----------
    table : Table
        Of ``yang_clipping``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(kind="theory")
    theory(ax, rows, "limit", "wait", label="M/G/1")
    simulated(ax, table.where(kind="simulated"), "limit", "wait", i=1, label="llmq")
    printed(ax, table.where(kind="printed"), "limit", "wait", i=2, label="printed", markersize=9)
    _axis(ax)
    ax.set_ylabel("mean wait (s)")
    legend(ax, columns=3)
    return ax


def draw_cut(table: Table, ax: Axes) -> Axes:
    """Draw the share of requests that are cut, and the utilisation.

    Parameters
    ----------
    table : Table
        Of ``yang_clipping``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(kind="theory")
    theory(ax, rows, "limit", "clipped", label="requests cut short")
    theory(ax, rows, "limit", "utilisation", i=1, label="utilisation")
    _axis(ax)
    ax.set_ylabel("share")
    legend(ax)
    return ax


def _axis(ax: Axes) -> None:
    ax.set_xlim(0, 4200)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("limit on the output (tokens)")


PANELS = (draw_wait, draw_cut)
