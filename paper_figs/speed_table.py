"""Requests per CPU-second of each simulator, with the plain loop and the peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import colour
from paper_figs.marks import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "speed_table"
GROUP = "Ours"
CAPTION = (
    "Requests per CPU-second, timed in one run. Each workload has its plain loop: one path by "
    "itself is about as fast as the loop, many replications in lockstep are faster. SLAI, PASCAL, "
    "RAD, KV blocks and the other simulators do other work than the loop: only their rate counts."
)
SIZE = (6.4, 3.6)
WHO = {"llmq": "llmq", "yardstick": "plain loop", "peer": "other simulators"}


def draw(table: Table, ax: Axes) -> Axes:
    """Draw one mark a case, fastest on top, with its target where it has one."""
    order = np.argsort(table["speed"], kind="stable")
    names = table["case"][order].tolist()
    place = {name: i for i, name in enumerate(names)}
    for i, (who, name) in enumerate(WHO.items()):
        rows = table.where(who=who)
        at = [place[case] for case in rows["case"].tolist()]
        ax.plot(
            rows["speed"],
            at,
            linestyle="",
            marker=("o", "s", "D")[i],
            color=colour(i),
            markersize=5,
            label=name,
        )
    asked = [row for row in table.rows() if np.isfinite(float(row["target"]))]
    ax.plot(
        [row["target"] for row in asked],
        [place[row["case"]] for row in asked],
        linestyle="",
        marker="|",
        markersize=10,
        color=colour(3),
        label="target",
    )
    ax.set_xscale("log")
    ax.set_xticks([10**k for k in range(3, 7)], ["1 k", "10 k", "100 k", "1 M"])
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("requests per CPU-second")
    ax.set_ylabel("case")
    legend(ax, columns=4)
    return ax
