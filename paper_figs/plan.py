"""The figure of the README: the plan of ``examples/chat.toml``.

Left, the rates that the chosen fleet can carry (theory, a line) with the offered ones; right, the
share of requests within the targets against the number of GPUs (simulation, points with 95 %
intervals).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import GREY, INK, colour, label, legend_below, nines_scale
from paper_figs.marks import simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "plan_example"
GROUP = "Ours"
CAPTION = (
    "What three H100s carry (the star is the offered load), and the share of requests within the "
    "targets against the number of GPUs: three H100s or seven A100s do."
)
SIZE = (4.4, 3.7)
BINDS = {
    "compute": "compute binds",
    "tokens": "the token budget binds",
    "slots": "the slots bind",
    "memory": "KV memory binds",
}


def draw_region(table: Table, ax: Axes) -> Axes:
    """Draw which rates can be served.

    Parameters
    ----------
    table : Table
        Of ``plan_example``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="region")
    outer, inner = (
        np.array([t["x"], t["y"]]) for t in (rows.where(kind="outer"), rows.where(kind="inner"))
    )
    offered = rows.where(kind="offered")
    load = rows.where(kind="load")["y"][0]
    ax.fill(
        [0, *inner[0]],
        [0, *inner[1]],
        color=colour(5),
        alpha=0.3,
        linewidth=0,
        label="inner bound: a known schedule serves it",
    )
    ax.fill(
        [*outer[0], *inner[0][::-1]],
        [*outer[1], *inner[1][::-1]],
        facecolor="none",
        edgecolor=GREY,
        hatch="////",
        linewidth=0,
        alpha=0.7,
        label="between the bounds: undecided",
    )
    for i, name in enumerate(rows.where(kind="outer")["name"][:-1]):
        ax.plot(
            outer[0][i : i + 2],
            outer[1][i : i + 2],
            color=colour(1 + i),
            linestyle="--",
            marker="",
            linewidth=2.2,
            label=f"outer bound at these settings: {BINDS[name]}",
        )
    x, y = offered["x"][0], offered["y"][0]
    ax.plot([x, x / load], [y, y / load], color=INK, linestyle=":", marker="", linewidth=1.0)
    ax.plot(
        [x],
        [y],
        color=INK,
        marker="*",
        markersize=11,
        linestyle="",
        zorder=5,
        label=f"offered: load {load:.3g}, margin {1 / load:.3g}",
    )
    ax.set_xlim(0, 1.05 * outer[0].max())
    ax.set_ylim(0, 1.05 * outer[1].max())
    ax.set_xlabel("chat (requests/s)")
    ax.set_ylabel("code (requests/s)")
    ax.set_title(f"what {table.about['gpus']} GPUs carry: {table.about['engine']}", pad=9)
    legend_below(ax, *ax.get_legend_handles_labels())
    return ax


def draw_attainment(table: Table, ax: Axes) -> Axes:
    """Draw attainment against GPUs.

    Parameters
    ----------
    table : Table
        Of ``plan_example``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(part="plan")
    target = float(table.about["target"])
    handles, labels = [], []
    for i, name in enumerate(dict.fromkeys(rows["name"])):
        mine = rows.where(name=name)
        probes = mine.where(kind="simulated")
        bars = simulated(ax, probes, "x", "y", i=i)
        for artist in bars.get_children():
            artist.set_clip_on(False)
        handles.append(bars)
        labels.append(label(str(name), 60))
        low = ax.axvline(
            mine.where(kind="lower_bound")["x"][0], color=colour(i), linestyle="--", linewidth=1.0
        )
        answer = probes.where(x=mine.where(kind="answer")["x"].tolist())
        (ring,) = ax.plot(
            answer["x"],
            answer["y"],
            color=colour(i),
            marker="o",
            markersize=11,
            markerfacecolor="none",
            linestyle="",
            clip_on=False,
        )
    goal = ax.axhline(target, color=INK, linewidth=1.2, zorder=1)
    nines_scale(ax, target, float(np.nanmin(rows["low"])))
    ax.set_xlim(rows["x"].min() - 1, rows["x"].max() + 1)
    ax.set_xlabel("GPUs")
    ax.set_ylabel("requests within targets (%)")
    ax.set_title(table.about["slo"], pad=9)
    words = [f"target {100 * target:g} %", "lower bound at these settings", "answer"]
    legend_below(ax, [*handles, goal, low, ring], [*labels, *words])
    return ax


PANELS = (draw_region, draw_attainment)
