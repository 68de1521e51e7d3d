"""Mooncake traces: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``.

``hash_ids`` names the 512-token blocks of each prompt; equal ids mean a shareable prefix. llmq does
not model prefix sharing: ids are not read, and a written file gives every block its own id, which
says the same to the tools that read it (aiperf, guidellm, SGLang).
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING

from llmq.io.schema import Column, Rows, read_jsonl

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["COLUMNS", "read", "write"]

COLUMNS = (
    Column("timestamp"),
    Column("input_length"),
    Column("output_length"),
    Column("hash_ids", optional=True),
)

_BLOCK = 512  # prompt tokens behind one hash id


def read(text: str, path: str) -> Rows:
    """Read a Mooncake trace.

    Parameters
    ----------
    text : str
        The text of the file.
    path : str
        For messages.

    Returns
    -------
    Rows
        Times in seconds.

    Raises
    ------
    FormatError
        A line that is not a record, a missing key or a bad value.

    Examples
    --------
    >>> read('{"timestamp": 1500, "input_length": 9, "output_length": 4}', "m.jsonl").arrival
    array([1.5])
    """
    cells = read_jsonl(text, path, COLUMNS[:3])
    shares = '"hash_ids"' in text
    return Rows(
        arrival=cells["timestamp"].seconds(-3),
        prompt=cells["input_length"].whole(1),
        output=cells["output_length"].whole(1),
        lines=cells["timestamp"].lines,
        clock="timestamp",
        notes=("hash_ids not used: no prefix is shared",) if shares else (),
    )


def write(trace: Trace) -> str:
    """Write a Mooncake trace.

    Parameters
    ----------
    trace : Trace
        The requests.

    Returns
    -------
    str
        The text of the file; times are exact decimals of milliseconds.

    Examples
    --------
    >>> from llmq.model.trace import Trace
    >>> print(write(Trace([0.0, 0.0015], [512, 513], [128, 16])))
    {"timestamp": 0, "input_length": 512, "output_length": 128, "hash_ids": [0]}
    {"timestamp": 1.5, "input_length": 513, "output_length": 16, "hash_ids": [1, 2]}
    <BLANKLINE>
    """
    rows, block = [], 0
    for time, p, o in zip(
        trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist(), strict=True
    ):
        stop = block - (-p // _BLOCK)
        ids = json.dumps(list(range(block, stop)))
        rows.append(
            f'{{"timestamp": {_milliseconds(time)}, "input_length": {p}, "output_length": {o}, '
            f'"hash_ids": {ids}}}\n'
        )
        block = stop
    return "".join(rows)


def _milliseconds(seconds: float) -> str:
    number = Decimal(repr(seconds)).scaleb(3)
    return f"{int(number)}" if number == int(number) else f"{number:f}"
