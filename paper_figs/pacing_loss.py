"""What held decodes and swaps lose: SLAI against its deadline, ranked policies against swaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pacing_loss"
GROUP = "Ours"
CAPTION = (
    "With slots, SLAI loses a third of the rate as its deadlines grow, down to the law of phases "
    "that exclude one another (left). With free swap every rank serves between the region and the "
    "law for any rank; swaps cost what their tokens take (right: lines with the measured tokens)."
)
SIZE = (3.5, 2.9)
RANKS = ("FCFS", "RR", "PASCAL")


def draw_deadline(table: Table, ax: Axes) -> Axes:
    """Draw the rate of SLAI against its deadline.

    Parameters
    ----------
    table : Table
        Of ``pacing_loss``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="slai")
    for i, (name, label) in enumerate((("region", "region"), ("held", "held decodes [PACE]"))):
        theory(ax, rows.where(policy=name), "x", "y", i, label=label)
    simulated(ax, rows.where(policy="SLAI"), "x", "y", i=2, label="SLAI")
    ax.set(
        xscale="log",
        xlabel="deadline between tokens (s)",
        ylabel="rate served (requests/s)",
        ylim=(0, 32),
    )
    legend(ax)
    return ax


def draw_swaps(table: Table, ax: Axes) -> Axes:
    """Draw the rate of ranked policies against the time of a swapped token.

    Parameters
    ----------
    table : Table
        Of ``pacing_loss``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="swap", kind="simulated")
    for i, name in enumerate(RANKS):
        mine = rows.where(policy=name)
        theory(ax, mine, "x", "bound", i, linewidth=0.8)
        simulated(ax, mine, "x", "y", i=i, label=name)
    for i, (name, label) in enumerate((("region", "region"), ("any rank", "any rank [RANK]"))):
        theory(ax, table.where(part="swap", policy=name), "x", "y", 3 + i, label=label)
    ax.set_xscale("symlog", linthresh=1e-5)
    ax.set(xlabel="time of a swapped token (s)", ylabel="rate served (requests/s)", ylim=(0, 15))
    legend(ax)
    return ax


PANELS = (draw_deadline, draw_swaps)
