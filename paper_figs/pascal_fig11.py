"""SLO violations by load (the paper's figure 11)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from paper_figs.marks import legend
from paper_figs.pascal_marks import BASE, by_load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_rates"
GROUP = "PASCAL"
CAPTION = (
    "Figure 11: just beyond saturation (rho 1.1) PASCAL violates the SLO no more often than FCFS, "
    "but RR violates it less than PASCAL at every load, and PASCAL's share runs away from rho 1.2 "
    "on. The paper says lower than or comparable to both."
)


def percent(table: Table) -> Table:
    """Return the table with shares in per cent."""
    columns = {key: column.copy() for key, column in table.columns.items()}
    share = columns["metric"] == "late"
    for key in ("value", "low", "high"):
        columns[key] = np.where(share, 100 * columns[key], columns[key])
    return type(table)(table.name, columns)


def _panel(table: Table, ax: Axes, *, work: str) -> Axes:
    by_load(ax, percent(table), work, "late", BASE)
    ax.set_ylim(bottom=-0.15)
    ax.set_ylabel("answers with QoE < 0.95 (%)")
    legend(ax, columns=3, bbox_to_anchor=(0.0, 1.07))
    return ax


PANELS = tuple(partial(_panel, work=work) for work in ("alpaca", "arena"))
