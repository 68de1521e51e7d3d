"""Where reasoning latency comes from on one engine short of memory (the paper's figure 4)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import INK, colour
from paper_figs.marks import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_latency"
GROUP = "PASCAL"
CAPTION = (
    "Figure 4: with half the memory FCFS blocks short reasoning (128 tokens: 3.9 and 4.3 times the "
    "oracle's latency, printed: 5.14) and RR preempts long (2048 tokens: 1.6 times, printed: "
    "1.75). The rate is not printed; both guesses are shown."
)
SIZE = (3.5, 2.8)
LOOK = {"executed": (0, ""), "blocked": (1, "////"), "preempted": (2, "....")}


def bars(table: Table, ax: Axes, *, phase: str, rate: float) -> Axes:
    """Draw latencies over the oracle's, cut in three, for FCFS (F) and RR (R).

    Parameters
    ----------
    table : Table
        ``pascal_latency``.
    ax : matplotlib axes
        Where.
    phase : str
        ``reasoning`` or ``answering``.
    rate : float
        Requests per second.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(phase=phase, kind="simulated", rate=rate)
    lengths = np.unique(rows["length"]).tolist()
    ticks = []
    for j, policy in enumerate(("FCFS", "RR")):
        mine = rows.where(policy=policy)
        x = np.arange(len(lengths)) + (j - 0.5) * 0.4
        ticks += [(float(place), policy[0]) for place in x]
        base = np.zeros(len(lengths))
        for part, (i, hatch) in LOOK.items():
            value = mine.where(metric=part)["value"]
            ax.bar(
                x,
                value,
                0.34,
                base,
                facecolor="white" if hatch else colour(i),
                hatch=hatch,
                edgecolor=colour(i),
                linewidth=0.8,
                label=part if j == 0 else None,
            )
            base = base + value
        whole = mine.where(metric="latency")
        ends = np.maximum([base - whole["low"], whole["high"] - base], 0.0)
        ax.errorbar(
            x,
            base,
            np.nan_to_num(ends),
            color=INK,
            linestyle="",
            marker="",
            elinewidth=0.8,
            capsize=1.5,
        )
        known = table.where(phase=phase, kind="printed", policy=policy)
        for row in known.rows():
            ax.plot(
                x[lengths.index(row["length"])],
                row["value"],
                marker="D",
                markersize=6,
                markerfacecolor="none",
                color=INK,
                linestyle="",
                label="printed" if j == 0 else None,
            )
    ax.axhline(1.0, color=INK, linewidth=0.8, linestyle="--", marker="")
    ticks.sort()
    ax.set_xticks([x for x, _ in ticks], [word for _, word in ticks])
    for at, length in enumerate(lengths):
        ax.annotate(
            f"{length}",
            (at, 0),
            (0, -15),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
        )
    ax.grid(visible=False, axis="x")
    ax.set_xlabel(f"{phase} tokens, under FCFS (F) and RR (R)", labelpad=14)
    ax.set_ylabel("latency / oracle's")
    ax.text(0.98, 0.97, f"{rate:g} req/s", transform=ax.transAxes, ha="right", va="top")
    legend(ax, columns=4, handlelength=1.0, columnspacing=0.7, handletextpad=0.4)
    return ax


PANELS = tuple(partial(bars, phase="reasoning", rate=rate) for rate in (3.0, 3.5))
