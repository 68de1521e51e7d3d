"""Past-Future: the peak formula, its prediction, and the admission rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY, colour
from paper_figs.marks import legend, marker, simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "past_future"
GROUP = "Theory of others"
SIZE = (3.5, 2.9)
CAPTION = (
    "The peak formula equals brute force in every case; predicted peaks average within a few per "
    "cent of the true ones, and admission by them serves twice as much as by the token limit with "
    "hardly an eviction - as does keeping 5 % free."
)
WORDS = {
    "limit": "by the token limit",
    "now, 5 %": "memory now, 5 % free",
    "now, 1 %": "memory now, 1 % free",
    "Past-Future, no reserve": "without reserve",
}


def draw_peak(table: Table, ax: Axes) -> Axes:
    """Draw the formula against brute force.

    Parameters
    ----------
    table : Table
        Of ``past_future``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="peak")
    (case,) = table.where(part="wrong", name="formula").rows()
    ends = [0, 1.05 * rows["x"].max()]
    ax.plot(ends, ends, color=GREY, linestyle=":", marker="", label="equal")
    label = f"random batches ({case['y']:.0f} of {case['n']:.0f} differ)"
    ax.plot(rows["x"], rows["y"], color=colour(0), marker="o", linestyle="", ms=3, label=label)
    ax.set_xlabel("peak by brute force (KV tokens)")
    ax.set_ylabel("peak by formula (KV tokens)")
    legend(ax, columns=1)
    return ax


def draw_cover(table: Table, ax: Axes) -> Axes:
    """Draw how often and how closely predictions cover the peak.

    Parameters
    ----------
    table : Table
        Of ``past_future``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="cover")
    simulated(ax, rows.where(name="ratio"), "x", "y", i=0, label="predicted / true, mean")
    simulated(ax, rows.where(name="share"), "x", "y", i=1, label="share covered")
    ax.axhline(1.0, color=GREY, linestyle=":")
    ax.set_xscale("log")
    ax.set_ylim(0.5, 1.1)
    ax.set_xlabel("history W (finished requests)")
    ax.set_ylabel("predicted peak")
    legend(ax, columns=1)
    return ax


def draw_rules(table: Table, ax: Axes) -> Axes:
    """Draw throughput against evictions of the admission rules.

    Parameters
    ----------
    table : Table
        Of ``past_future``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    for i, row in enumerate(table.where(part="rule").rows()):
        ends = [[row["y"] - row["low"]], [row["high"] - row["y"]]]
        ax.errorbar(
            [row["x"]],
            [row["y"]],
            yerr=ends,
            color=colour(i),
            marker=marker(i),
            linestyle="",
            label=WORDS.get(row["name"], row["name"]),
        )
    ax.set_ylim(0, 1.1)
    ax.set_xlabel("evictions per 100 requests")
    ax.set_ylabel("throughput, relative")
    legend(ax, columns=2)
    return ax


PANELS = (draw_peak, draw_cover, draw_rules)
