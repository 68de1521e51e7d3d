"""Rates of static splits over that of dynamic allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "rad_split"
GROUP = "RAD and SLAI"
CAPTION = (
    "Four engines split for prefill + decode against four that do either: each split fits one "
    "traffic and loses 48 to 74 % at others; even the best one for the traffic loses up to 25 %."
)
SIZE = (4.4, 3.0)


def draw(table: Table, ax: Axes) -> Axes:
    """Draw laws as lines and saturated engines as points."""
    law, ran = table.where(kind="theory"), table.where(kind="simulated")
    names = ("dynamic", "1 + 3", "2 + 2", "3 + 1")
    for i, name in enumerate(names):
        label = name if i == 0 else f"{name} engines"
        theory(ax, law.where(allocation=name), "share", "of_dynamic", i=i, linestyle="-")
        simulated(ax, ran.where(allocation=name), "share", "of_dynamic", i=i, label=label)
    theory(
        ax,
        law.where(allocation="best split"),
        "share",
        "of_dynamic",
        i=1,
        color="black",
        linewidth=1.0,
        label="best whole split",
    )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.06)
    ax.set_xlabel("prefill's share of the work")
    ax.set_ylabel("rate / rate of dynamic allocation")
    legend(ax, columns=3)
    return ax
