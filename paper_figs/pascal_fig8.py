"""Reasoning and answer lengths of the two main workloads (the paper's figure 8)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmq.plot._canvas import INK, Floats, colour
from paper_figs.marks import legend, marker, theory
from paper_figs.pascal_marks import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_lengths"
GROUP = "PASCAL"
CAPTION = (
    "Figure 8, reconstructed from its means (open marks; ours within 1.1 %): 86 % and 71 % of the "
    "requests reason for less than 1000 tokens, the longest for 15,000."
)


def curves(table: Table, ax: Axes, *, name: str, title: str) -> Axes:
    """Draw the share of requests up to a length.

    Parameters
    ----------
    table : Table
        ``pascal_lengths``.
    ax : matplotlib axes
        Where.
    name, title : str
        The set, and what it is called.

    Returns
    -------
    matplotlib axes
        The same.
    """
    from matplotlib.ticker import FuncFormatter

    for i, part in enumerate(("reasoning", "answer")):
        rows = table.where(set=name, part=part)
        mean, printed = (rows.where(metric="mean", kind=k)["value"] for k in ("theory", "printed"))
        theory(
            ax, rows.where(metric="quantile"), "value", "p", i=i, label=_words(part, mean, printed)
        )
        ax.plot(
            printed,
            [0.04 + 0.07 * i] * len(printed),
            color=colour(i),
            marker=marker(i),
            markersize=6,
            markerfacecolor="none",
            linestyle="",
        )
    ax.axvline(1000, color=INK, linewidth=0.7, linestyle=":", marker="")
    ax.set_xscale("log")
    ax.set_xlim(16, 15000)
    ax.set_ylim(0, 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set_xlabel("length (tokens)")
    ax.set_ylabel("share of requests up to that")
    ax.set_title(title)
    legend(ax, columns=1, bbox_to_anchor=(0.0, 1.08))
    return ax


def _words(part: str, mean: Floats, printed: Floats) -> str:
    known = f", printed {printed[0]:.0f}" if len(printed) else ""
    return f"{part}: mean {mean[0]:.0f}{known}"


PANELS = tuple(partial(curves, name=name, title=TITLES[name]) for name in ("alpaca", "arena"))
