"""Predicted against measured means of every public run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import colour
from paper_figs.marks import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "validation_scatter"
GROUP = "Ours"
CAPTION = (
    "Nothing fitted to the runs: TPOT of 68 % of the runs on modern engines lies within 12 % "
    "(grey); servers that their CPU binds (LLM-Pilot's TGIS) are slower than their kernels; "
    "measured TTFT of the silicon loops includes the wait for a slot, which is not simulated."
)
SIZE = (3.2, 2.9)
NAMES = {
    "silicon": ("H100 loops", "o"),
    "vllm_bench": ("vLLM 0.19", "*"),
    "blis_guidellm": ("vLLM sweeps", "s"),
    "blis means": ("BLIS means", "^"),
    "llmpilot": ("LLM-Pilot", "D"),
}
BAND = 0.12


def draw_metric(table: Table, ax: Axes, metric: str, entries: bool) -> Axes:
    """Draw one metric."""
    rows = table.where(metric=metric)
    ends = np.array([rows["measured"].min() / 1.5, rows["measured"].max() * 1.5])
    ax.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="#d8dee4", zorder=0)
    ax.plot(ends, ends, color="#6e7781", linewidth=0.8, linestyle="-", marker="")
    for i, (runs, (name, mark)) in enumerate(NAMES.items()):
        some = rows.where(runs=runs)
        ax.plot(
            some["measured"],
            some["predicted"],
            linestyle="",
            marker=mark,
            color=colour(i),
            markersize=6 if mark == "*" else 3,
            markerfacecolor="none",
            markeredgewidth=0.8,
            zorder=4 if mark == "*" else 2,
            label=name if entries else None,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlim(*ends)
    ax.set_xlabel(f"measured {metric.upper()} (s)")
    ax.set_ylabel(f"predicted {metric.upper()} (s)")
    legend(ax, columns=3)
    return ax


PANELS = tuple(
    partial(draw_metric, metric=metric, entries=metric == "tpot")
    for metric in ("tpot", "ttft", "e2e")
)
