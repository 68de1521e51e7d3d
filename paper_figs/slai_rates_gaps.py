"""p99 gap between tokens by rate, free and paying users, seven policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend
from paper_figs.slai_rates import curves, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "slai_rates"
GROUP = "RAD and SLAI"
CAPTION = (
    "Paying users: Sarathi and SLAI keep 0.1 s up to 1.4/s nominal (dynamic SLAI 0.104 s at 1.6), "
    "vLLM passes it from 0.6 on. Free users: dynamic SLAI holds their tokens back to 0.4 of the "
    "0.5 s allowed. vLLM: two short paths, no intervals."
)
COLUMNS = 2


def paying(table: Table, ax: Axes) -> Axes:
    """Draw the paying users and their deadline."""
    return _with_deadline(table, ax, "paying", 0.1)


def free(table: Table, ax: Axes) -> Axes:
    """Draw the free users and their deadline."""
    return _with_deadline(table, ax, "free", 0.5)


def _with_deadline(table: Table, ax: Axes, user: str, due: float) -> Axes:
    curves(table, ax, "tbt_p99", user)
    ax.axhline(due, color="#6e7781", linestyle="--", linewidth=1.0, label=f"deadline {due:g} s")
    scale(ax, (0.02, 0.05, 0.1, 0.2, 0.5, 1))
    legend(ax, columns=2)
    return ax


PANELS = (paying, free)
