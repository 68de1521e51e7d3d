"""The negative-binomial batch: its distribution, the times between tokens, the stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "decode_occupancy"
GROUP = "Ours"
CAPTION = (
    "A decoding engine holds a negative binomial number of requests (6.25 in the mean where the "
    "fluid model says 6): its tail gives the tail of the time between tokens, 19.5 ms at p99."
)
_SHOWN = 5e-4


def draw_occupancy(table: Table, ax: Axes) -> Axes:
    """Draw P(N = n)."""
    rows = table.where(part="occupancy")
    theory(ax, rows.where(kind="theory"), "x", "y", label="negative binomial", linewidth=1.0)
    simulated(ax, rows.where(kind="simulated"), "x", "y", i=1, label="simulated")
    ax.axvline(rows.where(kind="fluid")["x"][0], color="#6e7781", linestyle=":", label="fluid")
    ax.set_xlabel("requests present, n")
    ax.set_ylabel("P(N = n)")
    ax.set_ylim(bottom=0)
    legend(ax)
    return ax


def draw_gaps(table: Table, ax: Axes) -> Axes:
    """Draw the tail of the time between tokens."""
    for i, kind in enumerate(("theory", "simulated")):
        rows = table.where(part="gaps", kind=kind)
        ms = [1000 * x for x in rows["x"].tolist()]
        if kind == "theory":
            ax.step(ms, rows["y"], where="mid", label="c + a (1 + N)")
            continue
        bars = [rows["y"] - rows["low"], rows["high"] - rows["y"]]
        ax.errorbar(
            ms,
            rows["y"],
            yerr=bars,
            fmt="s",
            markersize=3.5,
            elinewidth=1.0,
            color="#d55e00",
            label="simulated",
            zorder=3 + i,
        )
    ax.set_yscale("log")
    ax.set_ylim(_SHOWN, 1.5)
    ax.set_xlabel("time between tokens (ms)")
    ax.set_ylabel("share longer")
    legend(ax)
    return ax


def draw_stay(table: Table, ax: Axes) -> Axes:
    """Draw the mean stay by rate."""
    for i, part in enumerate(("stay, no limit", "stay, 8 slots")):
        rows = table.where(part=part)
        name = part.removeprefix("stay, ")
        theory(ax, rows.where(kind="theory"), "x", "y", i=i, label=f"law, {name}")
        simulated(ax, rows.where(kind="simulated"), "x", "y", i=i, label=f"simulated, {name}")
    ax.set_ylim(0, 16)
    ax.set_xlabel("rate (requests/s)")
    ax.set_ylabel("mean time in the system (s)")
    legend(ax)
    return ax


PANELS = (draw_occupancy, draw_gaps, draw_stay)
