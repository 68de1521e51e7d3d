"""Tiles of 128 tokens: in measured kernels, and what 8 tokens more of budget cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmq.plot._canvas import colour
from paper_figs.marks import legend, marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "tile_staircase"
GROUP = "Ours"
CAPTION = (
    "Measured linear layers step at multiples of 128 tokens; a budget of 392 instead of 384 tokens "
    "costs 5.5 % TPOT and 16 % mean TTFT, and a smooth law shows none of it."
)
SIZE = (3.5, 2.9)
GPUS = {"a100": "A100, Llama-3-8B", "h100": "H100, CodeLlama-34B"}
PLACES = (256, 384, 512, 1024)


def draw_layers(table: Table, ax: Axes) -> Axes:
    """Draw the linear layers of two GPUs, each relative to 1,024 tokens."""
    for i, (gpu, name) in enumerate(
        (("a100", "A100, Llama-3-8B"), ("h100", "H100, CodeLlama-34B"))
    ):
        rows = table.where(part="layers", what=gpu)
        top = rows.where(kind="measured")["y"].max()
        scaled = [rows.where(kind=kind) for kind in ("measured", "theory")]
        ax.plot(
            scaled[0]["x"],
            scaled[0]["y"] / top,
            linestyle="",
            marker="x",
            markersize=3,
            color=colour(i),
            label=name,
        )
        ax.plot(
            scaled[1]["x"],
            scaled[1]["y"] / top,
            linestyle=("-", "--")[i],
            marker="",
            linewidth=0.9,
            color=colour(i),
            label="roofline",
        )
    ax.set_xticks(range(0, 1025, 128))
    ax.tick_params(axis="x", rotation=45)
    ax.set_xlabel("tokens in the iteration")
    ax.set_ylabel("time / time at 1,024 tokens")
    legend(ax, columns=2)
    return ax


def draw_budget(table: Table, ax: Axes) -> Axes:
    """Draw the change from a budget to the next one beyond the tile."""
    rows = table.where(part="budget")
    series = {
        "table, TPOT": "TPOT",
        "table, mean TTFT": "mean TTFT",
        "roofline, TPOT": "TPOT, smooth law",
        "roofline, mean TTFT": "mean TTFT, smooth law",
    }
    for i, (what, name) in enumerate(series.items()):
        some = rows.where(what=what, kind="simulated")
        at = np.array([PLACES.index(int(x)) for x in some["x"].tolist()]) + 0.12 * (i - 1.5)
        bars = 100 * np.array([some["y"] - some["low"], some["high"] - some["y"]])
        ax.errorbar(
            at,
            100 * some["y"],
            yerr=bars,
            linestyle="",
            marker=marker(i),
            markersize=4,
            color=colour(i),
            elinewidth=1.0,
            label=name,
        )
        shown = rows.where(what=what, kind="printed")
        if len(shown):
            at = np.array([PLACES.index(int(x)) for x in shown["x"].tolist()]) + 0.12 * (i - 1.5)
            ax.plot(
                at,
                100 * shown["y"],
                linestyle="",
                marker=marker(i),
                markersize=8,
                markerfacecolor="none",
                color=colour(i),
                label=f"{name}, earlier",
            )
    ax.axhline(0, color="#6e7781", linewidth=0.8)
    ax.set_xticks(range(len(PLACES)), ["256\n+ 8", "384\n+ 8", "512\n+ 8", "1,024\n+ 16"])
    ax.set_xlabel("token budget")
    ax.set_ylabel("change (%)")
    legend(ax, columns=2)
    return ax


PANELS = (draw_layers, draw_budget)
