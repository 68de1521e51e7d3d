"""TTFT of single requests at three loads (the paper's figure 9)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmq.plot._canvas import colour
from paper_figs.marks import legend, marker
from paper_figs.pascal_marks import BASE, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_scatter"
GROUP = "PASCAL"
CAPTION = (
    "Figure 9: at low load FCFS and RR coincide and the median request is 4 % (AlpacaEval-like) "
    "and 2 % faster under PASCAL; at the high load (a transient: 4,000 and 3,000 requests) FCFS "
    "keeps short reasoning waiting. 50 requests of each path, single observations."
)
SIZE = (2.33, 2.4)
COLUMNS = 3


def _panel(table: Table, ax: Axes, *, work: str, rho: float) -> Axes:
    from matplotlib.ticker import FuncFormatter

    rows = table.where(work=work, rho=rho)
    for i, policy in enumerate(BASE):
        mine = rows.where(policy=policy)
        ax.plot(
            mine["tokens"],
            mine["ttft"],
            color=colour(i),
            marker=marker(i),
            linestyle="",
            markersize=3,
            markerfacecolor="none",
            markeredgewidth=0.8,
            label=policy,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(14, 16000)
    ax.set_ylim(0.4, 900)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set_title(place(rows), fontsize=6.8)
    ax.set_xlabel("reasoning (tokens)")
    ax.set_ylabel("TTFT (s)")
    if work == "alpaca":
        legend(ax, columns=3, bbox_to_anchor=(0.0, 1.1), handlelength=1, columnspacing=1)
    return ax


PANELS = tuple(
    partial(_panel, work=work, rho=rho) for work in ("alpaca", "arena") for rho in (0.6, 0.9, 1.1)
)
