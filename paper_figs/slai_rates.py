"""TTFT by rate, free and paying users: the four policies that the story is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmq.plot._canvas import colour
from paper_figs.marks import legend, marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "slai_rates"
GROUP = "RAD and SLAI"
CAPTION = (
    "At 1.4/s nominal the median TTFT of free users is 0.60 s under Sarathi FCFS, 0.36 s under "
    "dynamic SLAI and 0.29 s under vLLM of 2023, which pays in TBT; at 1.6/s dynamic SLAI pays "
    "with its p99, 23 against 9 s, in intervals that leave the figure (bars end at its edge). The "
    "other SLAI rules are in slai_variants."
)
COLUMNS = 2
SIZE = (3.5, 2.5)
POLICIES = (
    "vLLM",
    "Sarathi FCFS",
    "Sarathi SPF",
    "SLAI FCFS fixed",
    "SLAI SPF fixed",
    "SLAI SPF dynamic",
    "SLAI paying first",
)
# The style has six colours: vLLM, of another kind, is black.
COLOURS = (None, 0, 1, 2, 3, 4, 5)
SHOWN = ("vLLM", "Sarathi FCFS", "Sarathi SPF", "SLAI SPF dynamic")
MEDIAN, TAIL = (0.15, 0.25, 0.5, 1, 2, 4), (0.8, 2, 5, 10, 20, 50)
NAMES = {"ttft_median": "median TTFT (s)", "ttft_p99": "p99 TTFT (s)", "tbt_p99": "p99 TBT (s)"}


def curves(
    table: Table,
    ax: Axes,
    metric: str,
    user: str,
    metrics: str = "authors",
    shown: tuple[str, ...] = SHOWN,
) -> Axes:
    """Draw one metric of one kind of user under some policies."""
    rows = table.where(metric=metric, user=user, metric_set=metrics)
    count = len(shown)
    for k, name in enumerate(shown):
        one, i = rows.where(policy=name), COLOURS[POLICIES.index(name)]
        look: dict[str, Any] = {
            "color": "black" if i is None else colour(i),
            "marker": "*" if i is None else marker(i),
        }
        # Two paths give no interval that could be drawn.
        half = np.where(one["n"] > 2, (one["high"] - one["low"]) / 2, 0)
        ends = [np.minimum(half, 0.95 * one["value"]), half]
        # Side by side, so that bars of equal values can be told apart.
        place = one["rate"] + 0.012 * (k - count / 2)
        ax.errorbar(
            place,
            one["value"],
            yerr=np.nan_to_num(ends),
            linewidth=0.8,
            elinewidth=0.8,
            markersize=3.5,
            capsize=0,
            label=name,
            **look,
        )
    ax.set_xlabel("nominal rate (requests/s)")
    ax.set_ylabel(f"{NAMES[metric]}, {user}")
    ax.set_xlim(0.3, 1.7)
    return ax


def scale(ax: Axes, ticks: tuple[float, ...]) -> Axes:
    """Scale the y axis logarithmically from the first tick to the last."""
    ax.set_yscale("log")
    ax.set_ylim(ticks[0], ticks[-1])
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    return ax


def median_free(table: Table, ax: Axes) -> Axes:
    """Draw the median of the free users, with the legend of the figure."""
    legend(curves(table, ax, "ttft_median", "free"), columns=2)
    return scale(ax, MEDIAN)


def median_paying(table: Table, ax: Axes) -> Axes:
    """Draw the median of the paying users."""
    return scale(curves(table, ax, "ttft_median", "paying"), MEDIAN)


def tail_free(table: Table, ax: Axes) -> Axes:
    """Draw p99 of the free users."""
    return scale(curves(table, ax, "ttft_p99", "free"), TAIL)


def tail_paying(table: Table, ax: Axes) -> Axes:
    """Draw p99 of the paying users."""
    return scale(curves(table, ax, "ttft_p99", "paying"), TAIL)


PANELS = (median_free, median_paying, tail_free, tail_paying)
