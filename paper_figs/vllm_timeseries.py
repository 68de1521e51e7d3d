"""State of a measured vLLM server and of the simulated one, second by second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.plot._canvas import colour
from paper_figs.marks import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "validation_timeseries"
GROUP = "Ours"
CAPTION = (
    "A burst of 300 requests on a real GPU (vLLM 0.19, RTX PRO 6000) fills 128 slots, queues and "
    "drains: nothing fitted, the simulated state follows each second (mean requests running "
    "-1.7 %, correlation 0.998). The server did not record its KV use."
)
SIZE = (3.4, 2.7)
LAWS = {"table": ("kernel tables", "-"), "affine": ("affine law", "--")}


def _draw(table: Table, ax: Axes, series: str, label: str, entries: bool, scale: float) -> Axes:
    true = table.where(kind="measured", series=series)
    ax.plot(
        true["t"],
        true["value"] / scale,
        linestyle="",
        marker="x",
        color="#24292f",
        markersize=3,
        markeredgewidth=0.7,
        label="measured" if entries else None,
    )
    for i, (law, (name, dashes)) in enumerate(LAWS.items()):
        rows = table.where(kind="simulated", series=series, law=law)
        ax.plot(
            rows["t"],
            rows["value"] / scale,
            linestyle=dashes,
            marker="",
            linewidth=1.0,
            color=colour(i),
            label=name if entries else None,
        )
    ax.set_xlabel("time (s)")
    ax.set_ylabel(label)
    ax.set_ylim(bottom=0)
    return ax


def draw_running(table: Table, ax: Axes) -> Axes:
    """Draw the requests that run."""
    _draw(table, ax, "running", "requests running", entries=True, scale=1)
    legend(ax, columns=3)
    return ax


def draw_waiting(table: Table, ax: Axes) -> Axes:
    """Draw the requests that wait."""
    return _draw(table, ax, "waiting", "requests waiting", entries=False, scale=1)


def draw_tokens(table: Table, ax: Axes) -> Axes:
    """Draw the tokens generated each second."""
    label = "generated (thousand tokens/s)"
    return _draw(table, ax, "gen_throughput", label, entries=False, scale=1000)


PANELS = (draw_running, draw_waiting, draw_tokens)
