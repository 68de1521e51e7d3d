"""Capacity of RAD(N) against its finite-N bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "rad_cycles"
GROUP = "RAD and SLAI"
CAPTION = (
    "RAD(N), reconstructed: with N = 1 it carries 15 % of what full tiles allow, with varied "
    "lengths 92 % at N = 64 and all of it only without a limit; the bound holds throughout."
)


def draw(table: Table, ax: Axes) -> Axes:
    """Draw bounds, exact cycles and served backlogs."""
    law = table.where(kind="theory")
    finite = [str(2**k) for k in range(7)]
    for i, traffic in enumerate(("equal", "varied")):
        bound = law.where(traffic=traffic, what="bound", cycle=finite)
        theory(ax, bound, "place", "of_full", i=i, label=f"bound, {traffic} lengths")
    exact = law.where(what="cycle", cycle=finite)
    theory(
        ax,
        exact,
        "place",
        "of_full",
        i=0,
        linestyle="-",
        linewidth=0.8,
        marker="o",
        markerfacecolor="white",
        label="exact cycle, equal",
    )
    end = law.where(what="cycle", cycle="inf")
    ax.plot(
        end["place"],
        end["of_full"],
        color="#0072b2",
        marker="o",
        markerfacecolor="white",
        linestyle="",
    )
    simulated(ax, table.where(kind="simulated"), "place", "of_full", i=1, label="simulated, varied")
    ax.set_xscale("log", base=2)
    ax.set_xticks([*(2**k for k in range(7)), 128], [*finite, "∞"])
    ax.minorticks_off()
    ax.set_ylim(0, 1.06)
    ax.set_xlabel("prefills in a cycle, N")
    ax.set_ylabel("rate / rate of full tiles")
    legend(ax)
    return ax
