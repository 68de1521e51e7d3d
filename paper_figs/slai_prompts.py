"""Mean TTFT by prompt length and requests by bin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "slai_prompts"
GROUP = "RAD and SLAI"
CAPTION = (
    "At 1.4/s nominal prompts up to 512 tokens wait 0.18 s under dynamic SLAI and 0.48 s under "
    "Sarathi FCFS; short prompts first loses above 5120 tokens, dynamic SLAI only above 7168, "
    "rarely and then for long (wide intervals)."
)
POLICIES = ("Sarathi FCFS", "Sarathi SPF", "SLAI SPF fixed", "SLAI SPF dynamic")


def delays(table: Table, ax: Axes) -> Axes:
    """Draw the mean TTFT of each bin."""
    rows = table.where(metric_set="authors")
    for i, name in enumerate(POLICIES):
        simulated(
            ax,
            rows.where(policy=name),
            "prompt",
            "ttft",
            i=i,
            linestyle="-",
            linewidth=0.8,
            label=name,
        )
    ax.set_ylim(0, None)
    ax.set_ylabel("mean TTFT (s)")
    return _axis(ax)


def counts(table: Table, ax: Axes) -> Axes:
    """Draw the requests of each bin."""
    rows = table.where(metric_set="authors", policy=POLICIES[0])
    share = rows["requests"] / rows["requests"].sum()
    ax.bar(rows["prompt"], share, width=440, color="#0072b2", label="all policies")
    ax.yaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
    ax.set_ylabel("share of the requests")
    return _axis(ax)


def _axis(ax: Axes) -> Axes:
    ax.set_xlim(0, 8192)
    ax.set_xticks(range(0, 8193, 2048))
    ax.set_xlabel("prompt (tokens), bins of 512")
    legend(ax)
    return ax


PANELS = (delays, counts)
