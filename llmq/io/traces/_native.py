"""llmq's own traces: ``arrival`` (s), ``prompt``, ``output`` (tokens), ``reasoning``, ``class``.

CSV with that header or JSON lines with these keys; only ``prompt`` must be there. It is the only
format that keeps hidden reasoning tokens and classes.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from llmq.io.traces._clock import read_clock
from llmq.io.traces._format import TraceFormat
from llmq.io.traces._records import first_record, read_csv, read_jsonl
from llmq.io.traces._schema import PLAIN, Column, How, Rows, lengths

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["FORMAT"]

COLUMNS = (
    Column("arrival", optional=True),
    Column("prompt"),
    Column("output", output=True),
    Column("reasoning", optional=True),
    Column("class", optional=True, words=True),
)


def read(text: str, path: str, how: How = PLAIN) -> Rows:
    r"""Read a native trace.

    Examples
    --------
    >>> read("arrival,prompt,output,class\n0.5,512,128,chat\n", "t.csv").klass
    ['chat']
    """
    extra: tuple[str, ...] = ()
    if first_record(text)[1].startswith("{"):
        cells = read_jsonl(text, path, COLUMNS, how)
    else:
        cells, extra = read_csv(text, path, COLUMNS, how)
    prompt, output = lengths(cells, "prompt", "output", how)
    reasoning = cells["reasoning"].whole(0) if "reasoning" in cells else None
    if reasoning is not None:
        for row in ((reasoning >= output) & (output > 0)).nonzero()[0]:
            cells["reasoning"].fail(int(row), f"fewer tokens than the output ({output[row]})")
    clock = read_clock(cells["arrival"], "s", how.unit) if "arrival" in cells else None
    return Rows(
        arrival=None if clock is None else clock.seconds,
        prompt=prompt,
        output=output,
        reasoning=reasoning,
        klass=cells["class"].names() if "class" in cells else None,
        lines=cells["prompt"].lines,
        clock="arrival",
        notes=(
            *(() if clock is None else clock.notes),
            *((f"columns not used: {', '.join(extra)}",) if extra else ()),
        ),
    )


def write(trace: Trace) -> str:
    """Write a native CSV trace.

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


FORMAT = TraceFormat(
    name="native",
    known_by="arrival (s), prompt, output, reasoning, class",
    columns=COLUMNS,
    read=read,
    write=write,
    keeps=("reasoning", "classes"),
)
