"""The region of two classes and what each scheduler reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from paper_figs.marks import legend, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "rad_region"
GROUP = "RAD and SLAI"
CAPTION = (
    "With prompts of whole tiles RAD, Sarathi and vLLM reach the line that no policy passes, "
    "FasterTransformer a third to 60 % of it; with ragged prompts RAD loses 5 to 10 %, Sarathi "
    "nothing."
)
POLICIES = ("RAD", "Sarathi", "vLLM", "FasterTransformer")
MARKS = (8, 5, 3, 4)
TITLES = {"aligned": "prompts of\nwhole tiles", "ragged": "prompts that\nare not"}
SIZE = (3.5, 3.1)


def _draw(table: Table, ax: Axes, mix: str) -> Axes:
    from llmq.plot._canvas import colour
    from paper_figs.marks import marker

    rows = table.where(mix=mix)
    theory(
        ax,
        rows.where(policy="bound"),
        "short",
        "long",
        i=0,
        color="black",
        label="bound (Theorem 1)",
    )
    for i, name in enumerate(POLICIES):
        one = rows.where(policy=name)
        # The interval lies along the ray from the origin.
        for row in one.rows():
            ends = np.array([row["low"], row["high"]]) / row["reached"]
            ax.plot(
                ends * row["short"], ends * row["long"], color=colour(i), marker="", linewidth=1.0
            )
        face = "none" if i == 0 else colour(i)
        order = np.argsort(one["short"])
        ax.plot(
            one["short"][order],
            one["long"][order],
            color=colour(i),
            marker=marker(i),
            markersize=MARKS[i],
            linestyle=":" if mix == "ragged" or i == 3 else "",
            linewidth=0.8,
            label=name,
            zorder=3,
            markerfacecolor=face,
        )
    ax.set_xlim(0, 460)
    ax.set_ylim(0, 205)
    ax.set_xlabel("short requests (1/s)")
    ax.text(0.97, 0.95, TITLES[mix], transform=ax.transAxes, ha="right", va="top")
    ax.set_ylabel("long requests (1/s)")
    legend(ax, columns=2)
    return ax


def aligned(table: Table, ax: Axes) -> Axes:
    """Draw the mix with prompts of whole tiles."""
    return _draw(table, ax, "aligned")


def ragged(table: Table, ax: Axes) -> Axes:
    """Draw the mix with other prompts."""
    return _draw(table, ax, "ragged")


PANELS = (aligned, ragged)
