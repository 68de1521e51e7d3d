"""PASCAL's constants and cluster, one varied at a time: late answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from paper_figs.pascal_fig11 import percent
from paper_figs.pascal_studies import STUDIES, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.table import Table

TABLE = "pascal_studies"
GROUP = "PASCAL"
CAPTION = (
    "Beyond the paper (rho 1.1, 375 requests an engine): under PASCAL late answers grow with "
    "the number of engines: at 16 they are 3.9 %, under RR 0.03 %. With 45,000 KV tokens instead "
    "of 90,000 (1.6 and 0.05 %) and with a quantum of 2,000 tokens instead of 500 (0.9 and 0.05 %) "
    "the intervals overlap."
)
SIZE = (2.9, 2.5)
COLUMNS = 2


def _panel(table: Table, ax: Axes, *, study: str) -> Axes:
    return panel(percent(table), ax, study=study, metric="late", name="QoE < 0.95 (%)")


PANELS = tuple(partial(_panel, study=study) for study in STUDIES)
