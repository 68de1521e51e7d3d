"""The bracket of Theorem U by memory, with simulated backlogs in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "bracket"
GROUP = "Ours"
CAPTION = (
    "Theorem U: the inner bound, an explicit schedule, comes within 3 % of the outer bound at "
    "these settings with 60,000 KV tokens (some 65 requests at their longest), within 1 % "
    "with 240,000; Sarathi serves 90 % of it and more. The axis starts at 0.70."
)


def draw(table: Table, ax: Axes) -> Axes:
    """Draw both bounds and the backlogs."""
    theory(ax, table.where(kind="outer"), "memory", "load", i=0, label="outer bound")
    theory(ax, table.where(kind="inner"), "memory", "load", i=1, label="explicit schedule")
    for i, policy in enumerate(("sarathi", "vllm"), 2):
        rows = table.where(kind="simulated", policy=policy)
        simulated(ax, rows, "memory", "load", i=i, label=f"{policy}, simulated")
    ax.set_xscale("log")
    ax.set_xticks([10_000, 30_000, 100_000, 300_000], ["10 k", "30 k", "100 k", "300 k"])
    ax.minorticks_off()
    ax.set_ylim(0.7, 1.03)
    ax.set_xlabel("KV memory (tokens)")
    ax.set_ylabel("rate / outer bound")
    legend(ax)
    return ax
