"""Dai et al., section 6: the region of a batch-size limit, and the paths at its vertex C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import GREY, INK, colour
from paper_figs.marks import legend, marker, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "dai_region"
GROUP = "Theory of others"
CAPTION = (
    "With at most 100 requests a batch the region has two dimensions; at its vertex C, "
    "(29, 99)/46.75 tokens/ms, only Sarathi-Serve with 128 tokens keeps up, the others leave "
    "13-15 of every 100 requests behind, FasterTransformer 96. Marks: the largest rate that each "
    "sustains."
)
SIZE = (3.5, 3.1)
NAMES = (
    "sarathi-128",
    "sarathi-512",
    "sarathi-1024",
    "orca-1024",
    "vllm-1024",
    "fastertransformer-1024",
)


def draw_region(table: Table, ax: Axes) -> Axes:
    """Draw the region, and the largest rates that policies keep up with.

    Parameters
    ----------
    table : Table
        Of ``dai_region``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    for i, budget in enumerate((1024, 512)):
        rows = table.where(part="region", n=budget)
        ax.plot(
            rows["x"],
            rows["y"],
            color=(INK, GREY)[i],
            linestyle=("-", "--")[i],
            marker="",
            label=f"region, {budget} tokens",
        )
    (c,) = table.where(part="vertex").rows()
    ax.annotate("C", (c["x"], c["y"]), xytext=(6, 2), textcoords="offset points")
    for i, name in enumerate(NAMES):
        rows = table.where(part="edge", policy=name)
        ax.plot(
            rows["x"],
            rows["y"],
            color=colour(i),
            marker=marker(i),
            linestyle="",
            markersize=4,
            markerfacecolor=colour(i) if i % 2 == 0 else "white",
            label=name,
        )
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("prefill (tokens/ms)")
    ax.set_ylabel("decode (tokens/ms)")
    legend(ax, fontsize=6.5)
    return ax


def draw_paths(table: Table, ax: Axes) -> Axes:
    """Draw the requests in system at vertex C.

    Parameters
    ----------
    table : Table
        Of ``dai_region``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    for i, name in enumerate(NAMES):
        rows = table.where(part="path", policy=name)
        theory(ax, rows, "x", "y", i=i, label=name)
    ax.set_xlim(left=0)
    ax.set_ylim(0, 420)  # FasterTransformer goes on to 1,160
    ax.set_xlabel("time (s)")
    ax.set_ylabel("requests in system at C")
    legend(ax, fontsize=6.5)
    return ax


PANELS = (draw_region, draw_paths)
