"""BurstGPT's CSV: ``Timestamp`` (s), ``Model``, ``Request tokens``, ``Response tokens``.

Times are seconds since the first day. A response of 0 tokens is a request that failed. Later
versions add ``Session ID`` and ``Elapsed time``, which are not used.
"""

from __future__ import annotations

from llmq.io.traces._clock import read_clock
from llmq.io.traces._format import TraceFormat
from llmq.io.traces._records import read_csv
from llmq.io.traces._schema import PLAIN, Column, How, Rows, lengths

__all__ = ["FORMAT"]

COLUMNS = (
    Column("Timestamp"),
    Column("Request tokens"),
    Column("Response tokens", output=True),
    Column("Model", optional=True, words=True),
    Column("Total tokens", optional=True),
    Column("Log Type", optional=True, words=True),
)


def read(text: str, path: str, how: How = PLAIN) -> Rows:
    r"""Read a BurstGPT trace.

    Examples
    --------
    >>> head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    >>> read(head + "5,ChatGPT,472,18,490,Conversation log\n", "b.csv").prompt
    array([472])
    """
    cells, extra = read_csv(text, path, COLUMNS, how)
    clock = read_clock(cells["Timestamp"], "s", how.unit)
    unused = [name for name in ("Model", "Log Type") if name in cells] + [n for n in extra if n]
    prompt, output = lengths(cells, "Request tokens", "Response tokens", how)
    return Rows(
        arrival=clock.seconds,
        prompt=prompt,
        output=output,
        lines=cells["Timestamp"].lines,
        clock="Timestamp",
        notes=(*clock.notes, f"columns not used: {', '.join(unused)}") if unused else clock.notes,
    )


FORMAT = TraceFormat(
    name="burstgpt",
    known_by="Timestamp (s), Request tokens, Response tokens",
    columns=COLUMNS,
    read=read,
)
