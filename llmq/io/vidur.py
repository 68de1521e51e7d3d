"""Vidur's CSV: ``arrived_at`` (s), ``num_prefill_tokens``, ``num_decode_tokens``.

The processed length files of Vidur and Sarathi-Serve have no ``arrived_at`` and their order means
nothing; they need an arrival process from the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.io.schema import Column, Rows, read_csv

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["COLUMNS", "read", "write"]

COLUMNS = (
    Column("arrived_at", optional=True),
    Column("num_prefill_tokens"),
    Column("num_decode_tokens"),
    Column("num_total_tokens", optional=True),
    Column("pd_ratio", optional=True),
)


def read(text: str, path: str) -> Rows:
    r"""Read a Vidur trace, or its lengths alone.

    Parameters
    ----------
    text : str
        The text of the file.
    path : str
        For messages.

    Returns
    -------
    Rows
        Times in seconds; None without ``arrived_at``.

    Raises
    ------
    FormatError
        A missing column or a bad cell.

    Examples
    --------
    >>> read("arrived_at,num_prefill_tokens,num_decode_tokens\n0.25,512,128\n", "v.csv").prompt
    array([512])
    """
    cells, extra = read_csv(text, path, COLUMNS)
    timed = "arrived_at" in cells
    extra = tuple(name for name in extra if name)  # pandas writes its index without a name
    return Rows(
        arrival=cells["arrived_at"].seconds() if timed else None,
        prompt=cells["num_prefill_tokens"].whole(1),
        output=cells["num_decode_tokens"].whole(1),
        lines=cells["num_prefill_tokens"].lines,
        clock="arrived_at",
        notes=(f"columns not used: {', '.join(extra)}",) if extra else (),
    )


def write(trace: Trace) -> str:
    """Write a Vidur trace.

    Parameters
    ----------
    trace : Trace
        The requests.

    Returns
    -------
    str
        The text of the file.

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
