"""The adaptive override, exactly (the situation of the paper's figure 7)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llmq.plot._canvas import INK, colour
from paper_figs.pascal_fig2 import timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_exact"
GROUP = "PASCAL"
CAPTION = (
    "Figure 7, exactly (lengths chosen): P ends its reasoning at 5 on engine 1, which has a slot. "
    "Without the override it moves to engine 0, which has none, and Q1 pauses for 3 units: its "
    "last token comes at 13, not at 10. Triangles: first answer tokens; ticks: arrivals."
)
SIZE = (3.5, 2.3)


def _panel(table: Table, ax: Axes, *, policy: str) -> Axes:
    timeline(table, ax, case="override", policy=policy, end=14)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    key: list[Any] = [Patch(facecolor=colour(i), label=f"engine {i}") for i in (0, 1)]
    key.append(Patch(facecolor="white", edgecolor=INK, hatch="////", label="reasoning"))
    key.append(
        Line2D(
            [], [], color=INK, marker="v", markersize=3.5, linestyle="", label="first answer token"
        )
    )
    words = {"PASCAL": "PASCAL: P stays", "NonAdaptive": "without the override: P moves"}
    ax.set_title(words[policy])
    if policy == "NonAdaptive":
        ax.legend(
            handles=key,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.28),
            ncols=2,
            handlelength=1.4,
            columnspacing=1.2,
        )
    return ax


PANELS = tuple(partial(_panel, policy=p) for p in ("PASCAL", "NonAdaptive"))
COLUMNS = 2
