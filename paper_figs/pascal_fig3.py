"""QoE of an example answer (the paper's figure 3)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import colour
from paper_figs.marks import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_qoe"
GROUP = "PASCAL"
CAPTION = (
    "Figure 3, exactly: tokens at 0, 1, 2, 6 and 7 s. A reader of one token a second falls behind "
    "for good in the stall, QoE = 19/25; for one of a token every 2 s the buffer hides it, QoE = 1."
)
SIZE = (3.5, 2.6)


def _panel(table: Table, ax: Axes, *, case: str) -> Axes:
    rows = table.where(case=case)
    end = float(rows["read"][-1])
    count = np.append(rows["token"], rows["token"][-1])
    for i, (column, word) in enumerate(
        (("came", "generated"), ("expected", "expected"), ("read", "read"))
    ):
        times = np.append(rows[column], end)
        ax.step(
            times,
            count,
            where="post",
            color=colour(i),
            marker="",
            label=word,
            linestyle=(":", "--", "-")[i],
            linewidth=(1.2, 1.4, 1.8)[i],
        )
    read = np.append(rows["read"], end)
    ax.fill_between(read, count, step="post", color=colour(2), alpha=0.2, linewidth=0)
    tau, value = rows["tau"][0], rows["qoe"][0]
    ax.text(
        0.03, 0.94, f"one token every {tau:g} s\nQoE = {value:g}", transform=ax.transAxes, va="top"
    )
    ax.set_xlim(-0.2, 8.4)
    ax.set_ylim(0, 6.9)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("answer tokens")
    legend(ax, columns=3)
    return ax


PANELS = tuple(partial(_panel, case=c) for c in ("stall", "stall, slow reader"))
