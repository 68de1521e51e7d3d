"""PASCAL's constants and cluster, one varied at a time: TTFT."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from paper_figs.marks import legend, simulated
from paper_figs.pascal_marks import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_studies"
GROUP = "PASCAL"
CAPTION = (
    "Beyond the paper (rho 1.1, 375 requests an engine; dotted: the paper's constants): quantum "
    "and demotion hardly move the TTFT of short requests, 10 Gbit/s are enough and 1 Gbit/s is "
    "not, and the gain over FCFS comes from scarce memory: short requests wait 20 against 48 s "
    "with 45,000 KV tokens an engine, from 60,000 on and by number of engines it is not clear."
)
SIZE = (2.9, 2.5)
STUDIES = {
    "quantum": "quantum (tokens)",
    "demotion": "demotion beyond (tokens)",
    "memory": "memory (KV tokens an engine)",
    "fabric": "fabric (Gbit/s)",
    "engines": "engines",
}
BASE = {"quantum": 500, "demotion": 5000, "memory": 90_000, "fabric": 100, "engines": 4}


def panel(table: Table, ax: Axes, *, study: str, metric: str, name: str) -> Axes:
    """Draw a metric against what is varied.

    Parameters
    ----------
    table : Table
        ``pascal_studies``.
    ax : matplotlib axes
        Where.
    study, metric : str
        Which rows.
    name : str
        Of the y axis.

    Returns
    -------
    matplotlib axes
        The same.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    rows = table.where(study=study, metric=metric)
    for policy in ALL:
        mine = rows.where(policy=policy)
        if len(mine):
            simulated(
                ax,
                mine,
                "level",
                "value",
                i=ALL.index(policy),
                label=policy,
                linestyle="-",
                linewidth=0.8,
                capsize=1.5,
            )
    ax.axvline(BASE[study], color="0.6", linewidth=0.8, linestyle=":", marker="")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(rows["level"].tolist()))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:g}" if x < 10_000 else f"{x / 1000:g}k")
    )
    if study == "fabric" and metric != "late":
        ax.set_yscale("log")
        ax.set_ylim(10, 1000)
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel(STUDIES[study])
    ax.set_ylabel(name)
    legend(ax, columns=2, columnspacing=0.8)
    return ax


NAME = "P99 of TTFT, < 512 tokens (s)"
PANELS = tuple(partial(panel, study=s, metric="ttft P99 short", name=NAME) for s in STUDIES)
COLUMNS = 2
