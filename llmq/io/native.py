"""llmq's own traces: ``arrival`` (s), ``prompt``, ``output`` (tokens), ``reasoning``, ``class``.

CSV with that header or JSON lines with these keys; the last two are optional. It is the only format
that keeps hidden reasoning tokens and classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmq.io.schema import Column, Rows, first_record, read_csv, read_jsonl

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["COLUMNS", "read", "write"]

COLUMNS = (
    Column("arrival"),
    Column("prompt"),
    Column("output"),
    Column("reasoning", optional=True),
    Column("class", optional=True),
)


def read(text: str, path: str) -> Rows:
    r"""Read a native trace.

    Parameters
    ----------
    text : str
        The text of the file, CSV or JSON lines.
    path : str
        For messages.

    Returns
    -------
    Rows
        All that the file says.

    Raises
    ------
    FormatError
        A missing column, a bad cell, or reasoning that leaves no answer.

    Examples
    --------
    >>> read("arrival,prompt,output,class\n0.5,512,128,chat\n", "t.csv").klass
    ['chat']
    """
    extra: tuple[str, ...] = ()
    if first_record(text)[1].startswith("{"):
        cells = read_jsonl(text, path, COLUMNS)
    else:
        cells, extra = read_csv(text, path, COLUMNS)
    output = cells["output"].whole(1)
    reasoning = cells["reasoning"].whole(0) if "reasoning" in cells else None
    if reasoning is not None:
        for row in (reasoning >= output).nonzero()[0]:
            cells["reasoning"].fail(int(row), f"fewer tokens than the output ({output[row]})")
    return Rows(
        arrival=cells["arrival"].seconds(),
        prompt=cells["prompt"].whole(1),
        output=output,
        reasoning=reasoning,
        klass=_names(cells["class"].values) if "class" in cells else None,
        lines=cells["arrival"].lines,
        clock="arrival",
        notes=(f"columns not used: {', '.join(extra)}",) if extra else (),
    )


def _names(values: Sequence[str]) -> list[str]:
    return [value.strip() or "all" for value in values]


def write(trace: Trace) -> str:
    """Write a native CSV trace.

    Parameters
    ----------
    trace : Trace
        The requests.

    Returns
    -------
    str
        The text of the file; ``reasoning`` and ``class`` only where there is something to say.

    Examples
    --------
    >>> from llmq.model.trace import Trace
    >>> print(write(Trace([0.25], [512], [128], klass=["chat"])))
    arrival,prompt,output,class
    0.25,512,128,chat
    <BLANKLINE>
    """
    columns: dict[str, list[object]] = {
        "arrival": [repr(time) for time in (trace.arrival + 0.0).tolist()],
        "prompt": trace.prompt.tolist(),
        "output": trace.output.tolist(),
    }
    if trace.reasoning.any():
        columns["reasoning"] = trace.reasoning.tolist()
    if trace.classes != ("all",):
        columns["class"] = [trace.classes[code] for code in trace.klass]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
