"""Vidur's CSV: ``arrived_at`` (s), ``num_prefill_tokens``, ``num_decode_tokens``.

The processed length files of Vidur and Sarathi-Serve have no ``arrived_at`` and their order means
nothing; they need an arrival process from the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.io.traces._clock import read_clock
from llmq.io.traces._format import TraceFormat
from llmq.io.traces._records import read_csv
from llmq.io.traces._schema import PLAIN, Column, How, Rows, lengths

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["FORMAT"]

COLUMNS = (
    Column("arrived_at", optional=True),
    Column("num_prefill_tokens"),
    Column("num_decode_tokens", output=True),
    Column("num_total_tokens", optional=True),
    Column("pd_ratio", optional=True),
)


def read(text: str, path: str, how: How = PLAIN) -> Rows:
    r"""Read a Vidur trace, or its lengths alone.

    Examples
    --------
    >>> read("arrived_at,num_prefill_tokens,num_decode_tokens\n0.25,512,128\n", "v.csv").prompt
    array([512])
    """
    cells, extra = read_csv(text, path, COLUMNS, how)
    clock = read_clock(cells["arrived_at"], "s", how.unit) if "arrived_at" in cells else None
    extra = tuple(name for name in extra if name)  # pandas writes its index without a name
    prompt, output = lengths(cells, "num_prefill_tokens", "num_decode_tokens", how)
    return Rows(
        arrival=None if clock is None else clock.seconds,
        prompt=prompt,
        output=output,
        lines=cells["num_prefill_tokens"].lines,
        clock="arrived_at",
        notes=(
            *(() if clock is None else clock.notes),
            *((f"columns not used: {', '.join(extra)}",) if extra else ()),
        ),
    )


def write(trace: Trace) -> str:
    """Write a Vidur trace.

    Examples
    --------
    >>> from llmq.model.trace import Trace
    >>> print(write(Trace([0.25], [512], [128])))
    arrived_at,num_prefill_tokens,num_decode_tokens
    0.25,512,128
    <BLANKLINE>
    """
    rows = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    columns = ((trace.arrival + 0.0).tolist(), trace.prompt.tolist(), trace.output.tolist())
    rows += [f"{time!r},{p},{o}" for time, p, o in zip(*columns, strict=True)]
    return "\n".join(rows) + "\n"


FORMAT = TraceFormat(
    name="vidur",
    known_by="arrived_at (s), num_prefill_tokens, num_decode_tokens",
    columns=COLUMNS,
    read=read,
    write=write,
)
