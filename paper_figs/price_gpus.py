"""What a request costs on each GPU, part by part."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.price_gpus import GPUS, PARTS
from llmq.plot._canvas import colour
from paper_figs.marks import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "price_gpus"
GROUP = "Ours"
CAPTION = (
    "GPU-time of a request of Llama-3.1-8B, taken apart by duality: prompts are the largest part "
    "of a chat request on all but the L40S, reading the KV cache is that of reasoning on all (53 "
    "to 75 %), and scarce memory is a fifth to a third of each price on the L40S and a tenth to a "
    "fifth on the H100."
)
SIZE = (3.3, 2.9)
_HATCH = ("", "", "///", "", "xx", "...")


def draw_class(table: Table, ax: Axes, klass: str, entries: bool) -> Axes:
    """Draw stacked bars of one class."""
    known = [gpu for gpu in GPUS if gpu in table["gpu"]]
    left = np.zeros(len(known))
    for i, part in enumerate(PARTS):
        rows = table.where(klass=klass, part=part)
        price = dict(zip(rows["gpu"].tolist(), (1000 * rows["price"]).tolist(), strict=True))
        values = np.array([price[gpu] for gpu in known])
        ax.barh(
            known,
            values,
            left=left,
            color=colour(i),
            hatch=_HATCH[i],
            edgecolor="white",
            linewidth=0.3,
            label=part if entries else None,
        )
        left += values
    ax.set_xlabel(f"price of a {klass} request (GPU-ms)")
    ax.set_ylabel("GPU")
    legend(ax, columns=3)
    return ax


PANELS = tuple(
    partial(draw_class, klass=klass, entries=klass == "chat")
    for klass in ("chat", "code", "reasoning")
)
