"""Capacity at a median TTFT of 0.5 s, gains, and the cut of the median TTFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figs.marks import legend, simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "slai_capacity"
GROUP = "RAD and SLAI"
CAPTION = (
    "At a median TTFT of 0.5 s dynamic SLAI carries 24 % more than Sarathi FCFS (printed: 26 %); "
    "with the paying's p99 TBT too 9, 14 and 24 %, to the first token 15, 14 and 12 %. Short "
    "prompts first alone bring 7 to 9 %, and no more is left with free users at 0.2 s, where every "
    "decode is critical. The cut of the median TTFT grows with the load to 49 % (printed: 53 %)."
)
POLICIES = ("Sarathi FCFS", "Sarathi SPF", "SLAI SPF fixed", "SLAI SPF dynamic")
QUICK = "SLAI SPF dynamic, free 0.2 s"


def _shifted(ax: Axes, rows: Table, by: float, i: int, **style: Any) -> None:
    ends = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    from llmq.plot._canvas import colour
    from paper_figs.marks import marker

    look: dict[str, Any] = {"color": colour(i), "marker": marker(i), "linestyle": ""}
    look |= {"elinewidth": 1.0} | style
    ax.errorbar(rows["efficiency"] + by, rows["value"], yerr=np.nan_to_num(ends), **look)


def capacity(table: Table, ax: Axes) -> Axes:
    """Draw capacities: filled by the median alone, open where the paying's p99 gap binds."""
    for i, name in enumerate(POLICIES):
        by = 0.016 * (i - 1.5)
        _shifted(ax, table.where(policy=name, what="capacity_median"), by, i, label=name)
        # Open marks only where the second condition binds.
        both = table.where(policy=name, what="capacity_both")
        alone = table.where(policy=name, what="capacity_median")["value"]
        tighter = both["efficiency"][both["value"] < alone - 1e-6]
        if tighter.size:
            _shifted(ax, both.where(efficiency=tighter.tolist()), by, i, markerfacecolor="white")
    ax.errorbar(
        [],
        [],
        color="#6e7781",
        marker="o",
        markerfacecolor="white",
        linestyle="",
        label="p99 TBT of paying too",
    )
    ax.set_ylabel("capacity (nominal requests/s)")
    return _axis(ax)


def gain(table: Table, ax: Axes) -> Axes:
    """Draw the gains of dynamic SLAI against the band and the printed one, and of its parts."""
    ax.axhspan(0.18, 0.32, color="#d8dee4", alpha=0.6, linewidth=0, label="band 18 to 32 %")
    ax.axhline(0.26, color="black", linestyle="--", linewidth=1.0, label="printed: 26 %")
    rows = table.where(policy=POLICIES[-1])
    _shifted(ax, rows.where(what="gain_median"), -0.02, 3, label="median TTFT")
    _shifted(
        ax,
        rows.where(what="gain_both"),
        -0.01,
        3,
        markerfacecolor="white",
        label="and p99 TBT of paying",
    )
    _shifted(ax, rows.where(what="gain_first_token"), 0.0, 5, label="to the first token")
    for name, by, i, words in (
        (POLICIES[1], 0.01, 1, "order alone"),
        (QUICK, 0.02, 4, "free at 0.2 s"),
    ):
        _shifted(ax, table.where(policy=name, what="gain_median"), by, i, label=words)
    ax.set_ylim(0, None)
    ax.yaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
    ax.set_ylabel("gain over Sarathi FCFS")
    return _axis(ax)


def cut(table: Table, ax: Axes) -> Axes:
    """Draw the cut of the median TTFT by load."""
    rows = table.where(policy=POLICIES[-1], what="cut")
    for i, efficiency in enumerate(np.unique(rows["efficiency"])):
        one = rows.where(efficiency=float(efficiency))
        # Loads at which every path is in: of the others the worst are missing.
        one = one.where(load=one["load"][one["n"] == one["n"].max()].tolist())
        simulated(
            ax,
            one,
            "load",
            "value",
            i=i,
            linestyle="-",
            linewidth=0.8,
            label=f"efficiency {efficiency:g}",
        )
    ax.axhline(0.53, color="black", linestyle="--", linewidth=1.0, label="printed: 53 %")
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
    ax.set_xlabel("nominal rate (requests/s)")
    ax.set_ylabel("cut of the median TTFT")
    legend(ax)
    return ax


def _axis(ax: Axes) -> Axes:
    ax.set_xticks([0.6, 0.7, 0.8])
    ax.set_xlim(0.55, 0.85)
    ax.set_xlabel("KV bandwidth efficiency")
    legend(ax)
    return ax


PANELS = (capacity, gain, cut)
