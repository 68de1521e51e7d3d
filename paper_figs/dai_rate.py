"""Dai et al., Theorem 2: token rate of a batch, and the slope of the backlog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY, colour
from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "dai_rate"
GROUP = "Theory of others"
CAPTION = (
    "Only full tiles reach the best rate (3.343 tokens/ms at 512 tokens); ten per cent above "
    "capacity the backlog grows by 0.3343 tokens/ms, in theory and in simulation."
)


def draw_curve(table: Table, ax: Axes) -> Axes:
    """Draw the rate of a batch against its size.

    Parameters
    ----------
    table : Table
        Of ``dai_rate``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="curve")
    theory(ax, rows, "x", "y", label="b / t(b)")
    best = rows.where(x=512)
    ax.plot(
        best["x"], best["y"], color=colour(1), marker="s", linestyle="", label="full batch of 512"
    )
    ax.axhline(best["y"][0], color=GREY, linewidth=0.8, linestyle=":")
    ax.set_xticks(range(0, 1025, 256))
    ax.set_xlim(0, 1040)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("tokens in the batch, b")
    ax.set_ylabel("rate (tokens/ms)")
    legend(ax)
    return ax


def draw_slope(table: Table, ax: Axes) -> Axes:
    """Draw the slope of the backlog against load.

    Parameters
    ----------
    table : Table
        Of ``dai_rate``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="slope")
    theory(ax, rows.where(kind="theory"), "x", "y", label="theory")
    simulated(ax, rows.where(name="poisson"), "x", "y", i=1, label="Sarathi-Serve, Poisson")
    ax.set_xlabel("load, arrivals over capacity")
    ax.set_ylabel("slope of backlog (tokens/ms)")
    legend(ax)
    return ax


PANELS = (draw_curve, draw_slope)
