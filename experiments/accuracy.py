"""The table of ``docs/accuracy.md``: errors of all measured runs, both metrics, from the scatter.

    python -m experiments.accuracy          # writes the table into the page

Runs, laws and errors are those of :mod:`experiments.validation_scatter`; here they are grouped by
sort of run, server, model and number of GPUs. MAPE is the mean of the absolute errors of a group's
means, bias the mean of the signed ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from experiments.table import TABLES, Table, read_table
from experiments.validation_scatter import modern, within
from llmq._input.files import write_text

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
MARK = "<!-- table -->"
SORTS = {
    "vllm_bench": "open, every request recorded",
    "silicon": "closed loops of equal requests",
    "blis_guidellm": "open, by stage of a rate sweep",
    "blis means": "open, published means",
    "llmpilot": "closed loops, TGIS",
}
_HEAD = (
    "| runs | server | model, GPU | GPUs | n | TTFT MAPE (bias) | TPOT MAPE (bias) |\n"
    "|---|---|---|---|---|---|---|\n"
)


def error(rows: Table, metric: str) -> str:
    """Write MAPE and bias of a metric, per cent; a dash where it was not measured."""
    mine = rows.where(metric=metric)
    if not len(mine):
        return "–"
    off = 100 * (mine["predicted"] / mine["measured"] - 1)
    return f"{np.abs(off).mean():.1f} ({off.mean():+.1f})"


def table(scatter: Table) -> str:
    """Write the rows of every group, and how many runs lie within 12 %.

    Parameters
    ----------
    scatter : Table
        ``validation_scatter`` at full scale.

    Returns
    -------
    str
        Markdown.
    """
    lines = []
    for sort, words in SORTS.items():
        mine = scatter.where(runs=sort)
        groups = dict.fromkeys(
            zip(*(mine[key].tolist() for key in ("server", "model", "gpu", "tp")), strict=True)
        )
        for server, model, gpu, tp in groups:
            rows = mine.where(server=server, model=model, gpu=gpu, tp=tp)
            # Stages of a sweep are told apart: below saturation TTFT can be compared.
            parts = [rows]
            if sort == "blis_guidellm":
                parts = [rows.where(run=run) for run in dict.fromkeys(rows["run"].tolist())]
            for part in parts:
                n = max(len(part.where(metric=m)) for m in ("ttft", "tpot"))
                name = words if len(parts) == 1 else f"{words}: {part['run'][0]}"
                name += " (adjusted)" if part["adjusted"].any() else ""
                lines.append(
                    f"| {name} | {server} | {model}, {gpu} | {tp} | {n} | {error(part, 'ttft')} "
                    f"| {error(part, 'tpot')} |\n"
                )
    rows = modern(scatter)
    counts = {metric: within(rows, metric) for metric in ("ttft", "tpot")}
    shown = ", ".join(
        f"{m.upper()} {near} of {n} ({near / n:.0%})" for m, (near, n) in counts.items()
    )
    return f"{_HEAD}{''.join(lines)}\nWithin 12 % on servers of 2025 and 2026: {shown}.\n"


def page(text: str, scatter: Table) -> str:
    """Put the table of the scatter between the marks of the page."""
    before, _, after = text.split(MARK)
    return f"{before}{MARK}\n{table(scatter)}{MARK}{after}"


def main() -> int:
    """Write the page."""
    scatter = read_table(TABLES / "validation_scatter.csv")
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), scatter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
