"""Dai et al., section 5.4: the backlog of agents in opposite order, two priorities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, printed, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "dai_agents"
GROUP = "Theory of others"
CAPTION = (
    "Every batch full, every engine at load 0.9, and yet the backlog swings up by 153/37 = 4.135 "
    "a peak when calls that end an agent go first; the reversed order and first come first served "
    "bring it down."
)
SIZE = (3.5, 3.1)


def draw(table: Table, ax: Axes) -> Axes:
    """Draw backlog against time.

    Parameters
    ----------
    table : Table
        Of ``dai_agents``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="path")
    for i, name in enumerate(dict.fromkeys(rows["name"])):
        path = rows.where(name=name)
        theory(ax, path.where(name=name), "x", "y", i=i, label=str(name), linewidth=1.2)
    tops = table.where(part="peak", name="exit first")
    law = {"marker": "_", "linestyle": "", "markersize": 12, "label": "growth by 153/37"}
    theory(ax, tops.where(kind="theory"), "x", "y", i=3, **law)
    printed(ax, tops.where(kind="printed"), "x", "y", i=0, label="printed peaks", markersize=8)
    ax.set_yscale("log")
    ax.set_ylim(bottom=300)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("backlog of both engines (tokens)")
    legend(ax, columns=2)
    return ax
