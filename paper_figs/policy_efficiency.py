"""How much of the stability region each policy carries, on the standard set of networks.

A bar runs from the mean of the loads called stable to the mean of the loads called growing, a mark
at the lowest reach of a single network. Filled: networks that suit the policy; open: the others
(longer prompts than it can pack, or a budget that is not the most productive batch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmq.plot._canvas import colour, legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "verdicts"
GROUP = "Ours"
CAPTION = (
    "Share of the stability region that each policy carries on the standard set: full batches, RAD "
    "on whole tiles and MaxWeight reach 0.99, MaxWeight also where the budget is too large; "
    "exclusive phases 0.58 in the mean and 0.34 at worst. The number of networks behind "
    "each mean stands on the axis."
)
SIZE = (4.6, 4.2)


def sort_of(policy: str, suits: bool) -> str:
    """Sort of networks on which a policy was measured.

    Parameters
    ----------
    policy : str
        Its name.
    suits : bool
        Networks that suit it.

    Returns
    -------
    str
        Name of the sort in the standard set.
    """
    if policy == "rad":
        return "tiles" if suits else "split"
    whole = policy in ("vllm", "orca", "pascal", "fcfs", "rr")
    return ("short" if suits else "long") if whole else ("split" if suits else "cut")


def draw(table: Table, ax: Axes) -> Axes:
    """Draw the intervals.

    Parameters
    ----------
    table : Table
        Of ``verdicts``.
    ax : matplotlib axes
        Where.

    Returns
    -------
    matplotlib axes
        The same.
    """
    rows = table.where(quantity="reach")
    names = sorted(
        dict.fromkeys(rows["policy"]),
        key=lambda name: rows.where(policy=name, set=sort_of(name, True))["low"].mean(),
    )
    handles: dict[Any, Any] = {}
    for suits, face, shift in ((True, colour(0), 0.16), (False, "none", -0.16)):
        for place, name in enumerate(names):
            mine = rows.where(policy=name, set=sort_of(name, suits))
            if not len(mine):
                continue
            low, high = mine["low"].mean(), mine["high"].mean()
            i = 0 if suits else 1
            handles[suits] = ax.barh(
                place + shift,
                high - low,
                left=low,
                height=0.26,
                facecolor=face,
                edgecolor=colour(i),
                linewidth=1.2,
            )
            (handles["worst", suits],) = ax.plot(
                [mine["low"].min()],
                [place + shift],
                color=colour(i),
                marker="<",
                linestyle="",
                markersize=5,
                markerfacecolor=face,
            )
    ax.axvline(1.0, color="0.4", linewidth=1.0, zorder=0)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlim(0, 1.04)
    counts = sorted(
        {
            len(rows.where(policy=name, set=sort_of(name, suits)))
            for name in names
            for suits in (True, False)
        }
        - {0}
    )
    n = " or ".join(str(count) for count in counts)
    ax.set_xlabel(f"load carried (share of capacity), mean of n = {n} networks")
    keys = [key for key in (True, ("worst", True), False, ("worst", False)) if key in handles]
    words = {
        True: "mean: called stable to called growing",
        ("worst", True): "worst network",
        False: "on networks that do not suit it",
        ("worst", False): "worst of those",
    }
    legend_below(ax, [handles[key] for key in keys], [words[key] for key in keys])
    return ax
