"""The authors' metrics beside the correct ones, two policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "slai_rates"
GROUP = "RAD and SLAI"
CAPTION = (
    "SLAI holds the first token back as well: to the first token its median at 1.4/s is 0.50 s, "
    "not 0.36 s to the end of the prefill as the authors count, and the cut against Sarathi FCFS "
    "18 % instead of 40 %; cut arrivals and gaps counted as 0 change little."
)
POLICIES = ("Sarathi FCFS", "SLAI SPF dynamic")


def _both(table: Table, ax: Axes, metric: str, user: str) -> Axes:
    for i, name in enumerate(POLICIES):
        for metrics, dashes, face in (("authors", "-", None), ("correct", ":", "white")):
            rows = table.where(policy=name, metric=metric, user=user, metric_set=metrics)
            fill = {} if face is None else {"markerfacecolor": face}
            simulated(
                ax,
                rows,
                "rate",
                "value",
                i=i,
                linestyle=dashes,
                linewidth=0.9,
                label=f"{name}, {metrics}",
                **fill,
            )
    ax.set_xlabel("nominal rate (requests/s)")
    legend(ax, columns=1)
    return ax


def median(table: Table, ax: Axes) -> Axes:
    """Draw the median TTFT of the free users."""
    _both(table, ax, "ttft_median", "free").set_ylim(0, 1.6)
    ax.set_ylabel("median TTFT (s), free")
    return ax


def gaps(table: Table, ax: Axes) -> Axes:
    """Draw the p99 gap of the paying users."""
    _both(table, ax, "tbt_p99", "paying").set_ylim(0, None)
    ax.set_ylabel("p99 TBT (s), paying")
    return ax


PANELS = (median, gaps)
