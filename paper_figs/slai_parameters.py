"""The parameter study: printed values, law and simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.marks import legend, printed, simulated, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "slai_parameters"
GROUP = "RAD and SLAI"
CAPTION = (
    "Published TTFT and batch time by budget lie within 4 % of floor and affine law; 108 requests "
    "of 2048 tokens fill 94.7 % of the memory; with 256 of 512 tokens decodes a batch takes half "
    "as long again as with 8 (efficiency 0.7)."
)
_NAMES = {"ttft": "median TTFT", "batch": "mean batch time"}


def budget(table: Table, ax: Axes) -> Axes:
    """Draw study (a)."""
    rows = table.where(study="budget")
    for i, (what, name) in enumerate(_NAMES.items()):
        one = rows.where(what=what)
        theory(
            ax,
            one.where(kind="theory"),
            "x",
            "value",
            i=i,
            linestyle="-",
            linewidth=1.0,
            label=f"{name}, law",
        )
        simulated(
            ax, one.where(kind="simulated"), "x", "value", i=i, markersize=3, label="simulated"
        )
        printed(ax, one.where(kind="printed"), "x", "value", i=i, label="printed")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks([64, 128, 256, 512, 1024], ["64", "128", "256", "512", "1024"])
    ax.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1], ["20", "50", "100", "200", "500", "1000"])
    ax.minorticks_off()
    ax.set_xlabel("token budget (tokens)")
    ax.set_ylabel("time (ms)")
    legend(ax)
    return ax


def memory(table: Table, ax: Axes) -> Axes:
    """Draw study (b)."""
    rows = table.where(study="memory")
    theory(ax, rows.where(kind="theory"), "x", "value", label="blocks counted")
    printed(ax, rows.where(kind="printed"), "x", "value", i=1, label="derived in the notes")
    ax.axhline(0.96, color="#6e7781", linestyle="--", linewidth=1.0, label="offset changes (96 %)")
    ax.set_ylim(0, 1.05)
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    ax.set_xlabel("active requests of 2048 tokens")
    ax.set_ylabel("used share of the KV blocks")
    legend(ax)
    return ax


def decodes(table: Table, ax: Axes) -> Axes:
    """Draw study (c)."""
    rows = table.where(study="decodes")
    law = rows.where(kind="theory")
    for i, what in enumerate(dict.fromkeys(law["what"].tolist())):
        theory(ax, law.where(what=what), "x", "value", i=i, label=f"law, {what}")
    simulated(ax, rows.where(kind="simulated"), "x", "value", i=1, label="simulated")
    ax.set_ylim(0, None)
    ax.yaxis.set_major_formatter(lambda seconds, _: f"{1000 * seconds:g}")
    ax.set_xlabel("decodes among 512 tokens")
    ax.set_ylabel("batch time (ms)")
    legend(ax)
    return ax


PANELS = (budget, memory, decodes)
