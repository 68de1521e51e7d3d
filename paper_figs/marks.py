"""One vocabulary: theory is a line, simulation points with 95 % bars, measured crosses, printed
values open marks.

Thin calls of matplotlib that fix what the eye has to learn; a figure may add any keyword.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmq.plot._canvas import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

__all__ = ["legend", "marker", "measured", "printed", "simulated", "theory"]

_DASHES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (6, 2)))


def marker(i: int) -> str:
    """Return a marker of the style's cycle.

    Parameters
    ----------
    i : int
        Number, from 0.

    Returns
    -------
    str
        Of matplotlib.
    """
    from matplotlib import rcParams

    known: list[str] = rcParams["axes.prop_cycle"].by_key()["marker"]
    return known[i % len(known)]


def theory(ax: Axes, table: Table, x: str, y: str, i: int = 0, **style: Any) -> Any:
    """Draw a law as a line, in the order of x.

    Parameters
    ----------
    ax : matplotlib axes
        Where.
    table : Table
        The rows.
    x, y : str
        Columns.
    i : int
        Number of the colour and of the dashes.
    **style
        Of ``ax.plot``: ``label`` and others.

    Returns
    -------
    matplotlib line
        For a legend.
    """
    order = np.argsort(table[x], kind="stable")
    look: dict[str, Any] = {
        "color": colour(i),
        "linestyle": _DASHES[i % len(_DASHES)],
        "marker": "",
    } | style
    return ax.plot(table[x][order], table[y][order], **look)[0]


def simulated(
    ax: Axes,
    table: Table,
    x: str,
    y: str,
    low: str = "low",
    high: str = "high",
    i: int = 0,
    **style: Any,
) -> Any:
    """Draw simulated values as points with their 95 % intervals.

    Parameters
    ----------
    ax : matplotlib axes
        Where.
    table : Table
        The rows.
    x, y, low, high : str
        Columns.
    i : int
        Number of the colour and of the marker.
    **style
        Of ``ax.errorbar``: ``label`` and others.

    Returns
    -------
    matplotlib container
        For a legend.
    """
    ends = np.maximum([table[y] - table[low], table[high] - table[y]], 0.0)
    look: dict[str, Any] = {
        "color": colour(i),
        "marker": marker(i),
        "linestyle": "",
        "elinewidth": 1.0,
        "markersize": 4,
        "zorder": 3,
    }
    return ax.errorbar(table[x], table[y], yerr=np.nan_to_num(ends), **(look | style))


def measured(ax: Axes, table: Table, x: str, y: str, i: int = 0, **style: Any) -> Any:
    """Draw measured values as crosses.

    Parameters
    ----------
    ax : matplotlib axes
        Where.
    table : Table
        The rows.
    x, y : str
        Columns.
    i : int
        Number of the colour.
    **style
        Of ``ax.plot``.

    Returns
    -------
    matplotlib line
        For a legend.
    """
    look: dict[str, Any] = {
        "color": colour(i),
        "marker": "x",
        "linestyle": "",
        "markersize": 5,
        "zorder": 3,
    }
    return ax.plot(table[x], table[y], **(look | style))[0]


def printed(ax: Axes, table: Table, x: str, y: str, i: int = 0, **style: Any) -> Any:
    """Draw values printed in a paper as open marks.

    Parameters
    ----------
    ax : matplotlib axes
        Where.
    table : Table
        The rows.
    x, y : str
        Columns.
    i : int
        Number of the colour and of the marker.
    **style
        Of ``ax.plot``.

    Returns
    -------
    matplotlib line
        For a legend.
    """
    look: dict[str, Any] = {
        "color": colour(i),
        "marker": marker(i),
        "markerfacecolor": "none",
        "markersize": 7,
        "linestyle": "",
        "zorder": 4,
    }
    return ax.plot(table[x], table[y], **(look | style))[0]


def legend(ax: Axes, columns: int | None = None, **style: Any) -> None:
    """Put the legend above the axes, where it cannot cover data.

    Parameters
    ----------
    ax : matplotlib axes
        Labelled artists on it are shown.
    columns : int, optional
        Entries side by side; two where they are short, if not given.
    **style
        Of ``ax.legend``.
    """
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    n = columns or (2 if max(map(len, labels)) <= 22 else 1)
    look: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (0.0, 1.0),
        "borderaxespad": 0.2,
        "ncols": n,
        "handlelength": 2.2,
        "columnspacing": 1.2,
        "labelspacing": 0.3,
        "borderpad": 0.2,
    }
    ax.legend(handles, labels, **(look | style))
