"""Three requests on two slots, exactly (the paper's figure 2)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llmq.plot._canvas import GREY, INK, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_exact"
GROUP = "PASCAL"
CAPTION = (
    "Figure 2, exactly: on two slots with a quantum of 4 tokens, C has its first answer token "
    "after 7 units under FCFS and after 3 under RR, where B pauses 3 units and C stops at 8. "
    "Without reasoning PASCAL is RR. Triangles: first answer tokens; ticks: arrivals."
)
SIZE = (2.7, 1.9)
END = 16


def timeline(table: Table, ax: Axes, *, case: str, policy: str, end: float = END) -> Axes:
    """Draw who has a slot when; hatched stretches reason, full ones answer.

    Parameters
    ----------
    table : Table
        ``pascal_exact``.
    ax : matplotlib axes
        Where.
    case, policy : str
        Which rows.
    end : float
        Last time shown, seconds.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(case=case, policy=policy)
    names = list(dict.fromkeys(rows["request"].tolist()))
    engines = int(rows["engine"].max()) + 1
    for row in rows.rows():
        answers = row["phase"] == "answer"
        face = colour(row["engine"]) if engines > 1 else colour(2)
        look: dict[str, Any] = {"facecolor": face, "edgecolor": face}
        if not answers:
            look |= {"facecolor": "white", "hatch": "////"}
        y, width = names.index(row["request"]), row["end"] - row["start"]
        ax.barh(y, width, left=row["start"], height=0.62, linewidth=0.8, **look)
    for name in names:
        mine, y = rows.where(request=name), names.index(name)
        first = float(mine.where(phase="answer")["start"].min()) + 1
        ax.plot([mine["arrival"][0]] * 2, [y - 0.42, y + 0.42], color=INK, marker="", linewidth=1)
        ax.plot([first], [y - 0.42], color=INK, marker="v", markersize=3.5, linestyle="")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.7)
    ax.set_xlim(0, end)
    ax.set_xticks(range(0, int(end) + 1, 2))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("time (units of an iteration)")
    ax.set_title(policy, color=GREY)
    return ax


PANELS = tuple(partial(timeline, case="three", policy=p) for p in ("FCFS", "RR", "PASCAL"))
