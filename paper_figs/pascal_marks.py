"""What the figures on PASCAL share: one colour and marker for each policy, titles, bins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paper_figs.marks import simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

__all__ = ["ALL", "BASE", "TITLES", "by_load", "place", "tails"]

BASE = ("FCFS", "RR", "PASCAL")
ALL = (*BASE, "NonAdaptive", "NoMigration")
TITLES = {
    "alpaca": "AlpacaEval-like",
    "arena": "Arena-like",
    "mix": "half reasoning-heavy",
    "alpaca, 45,000 KV": "AlpacaEval-like, 45,000 KV tokens",
}


def place(rows: Table) -> str:
    """Name workload and load of rows.

    Parameters
    ----------
    rows : Table
        Of one workload at one load.

    Returns
    -------
    str
        For a title.
    """
    work, rho, rate = (rows[key][0] for key in ("work", "rho", "rate"))
    return f"{TITLES[str(work)]}, ρ = {rho:g} ({rate:.1f} req/s)"


def tails(ax: Axes, rows: Table, policies: tuple[str, ...], metric: str = "ttft") -> Axes:
    """Draw tails by bins of 256 reasoning tokens.

    Parameters
    ----------
    ax : matplotlib axes
        Where.
    rows : Table
        Of one workload at one load.
    policies : tuple of str
        Of ALL.
    metric : str
        ``ttft`` or ``reasoning``.

    Returns
    -------
    matplotlib axes
        The same.
    """
    for policy in policies:
        mine = rows.where(policy=policy, metric=metric)
        simulated(
            ax,
            mine,
            "bin",
            "value",
            i=ALL.index(policy),
            label=policy,
            markersize=3,
            elinewidth=0.6,
            capsize=0,
            linestyle="-",
            linewidth=0.7,
        )
    ax.set_title(place(rows))
    ax.set_xlabel("reasoning tokens (bins of 256)")
    names = {"ttft": "tail of TTFT (s)", "reasoning": "tail of reasoning latency (s)"}
    ax.set_ylabel(names[metric])
    ax.set_xlim(left=-150)
    ax.set_ylim(bottom=0)
    return ax


def by_load(
    ax: Axes, table: Table, work: str, metric: str, policies: tuple[str, ...], **style: Any
) -> Axes:
    """Draw a metric against the load.

    Parameters
    ----------
    ax : matplotlib axes
        Where.
    table : Table
        Of ``pascal_rates``.
    work, metric : str
        Which rows.
    policies : tuple of str
        Of ALL.
    **style
        Of ``ax.errorbar``.

    Returns
    -------
    matplotlib axes
        The same.
    """
    look: dict[str, Any] = {"linestyle": "-", "linewidth": 0.8} | style
    for policy in policies:
        rows = table.where(work=work, metric=metric, policy=policy, kind="simulated")
        simulated(ax, rows, "rho", "value", i=ALL.index(policy), label=policy, **look)
    ax.set_xlabel("load ρ (rate / fluid capacity)")
    ax.set_title(TITLES[work])
    return ax
