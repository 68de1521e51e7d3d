"""Batch time and efficiency under tiles, with the waves of one matrix product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "rad_tiling"
GROUP = "RAD and SLAI"
CAPTION = (
    "A token beyond a full tile costs a whole one: 129 tokens take 8.645 ms where 128 take 4.640, "
    "so they are served at 54 % of the rate; in waves of one product the best sizes are others."
)


def batch_time(table: Table, ax: Axes) -> Axes:
    """Draw the staircase and the simulated iterations."""
    tiles = table.where(quantity="tiles")
    theory(ax, tiles.where(kind="theory"), "tokens", "time", drawstyle="steps-pre", label="Eq. (7)")
    simulated(ax, tiles.where(kind="simulated"), "tokens", "time", i=1, label="simulated iteration")
    _axis(ax)
    ax.yaxis.set_major_formatter(lambda seconds, _: f"{1000 * seconds:g}")
    ax.set_ylabel("batch time (ms)")
    ax.set_ylim(0, None)
    legend(ax)
    return ax


def efficiency(table: Table, ax: Axes) -> Axes:
    """Draw the useful share of a batch and of the waves of a product."""
    tiles = table.where(quantity="tiles")
    theory(ax, tiles.where(kind="theory"), "tokens", "efficiency", label="batch of Eq. (7)")
    waves = table.where(quantity="waves")
    theory(ax, waves, "tokens", "efficiency", i=2, label="waves, one product")
    simulated(
        ax,
        tiles.where(kind="simulated"),
        "tokens",
        "efficiency",
        "efficiency",
        "efficiency",
        i=1,
        label="simulated",
    )
    _axis(ax)
    ax.set_ylabel("useful share of the time")
    ax.set_ylim(0, 1.03)
    legend(ax)
    return ax


def _axis(ax: Axes) -> None:
    ax.set_xticks(range(0, 641, 128))
    ax.set_xlim(0, 650)
    ax.set_xlabel("tokens in the batch")


PANELS = (batch_time, efficiency)
