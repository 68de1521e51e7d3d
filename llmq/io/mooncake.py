"""Mooncake traces: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``.

``hash_ids`` names the 512-token blocks of each prompt; equal ids mean a shareable prefix
(:mod:`llmq.model.prefix`), which ``Engine(prefix_cache=True)`` computes once. A file without them
shares nothing. A trace without names is written with an id of its own for every block, which says
the same to the tools that read it (aiperf, guidellm, SGLang).
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING

from llmq.io.schema import Cells, Column, Rows, read_jsonl
from llmq.model.prefix import Prefix

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["BLOCK", "COLUMNS", "read", "write"]

COLUMNS = (
    Column("timestamp"),
    Column("input_length"),
    Column("output_length"),
    Column("hash_ids", optional=True),
)

BLOCK = 512  # prompt tokens behind one hash id


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
    cells = read_jsonl(text, path, COLUMNS)
    prompt = cells["input_length"].whole(1)
    prefix = _names(cells["hash_ids"], prompt.tolist()) if "hash_ids" in cells else None
    return Rows(
        arrival=cells["timestamp"].seconds(-3),
        prompt=prompt,
        output=cells["output_length"].whole(1),
        lines=cells["timestamp"].lines,
        clock="timestamp",
        notes=(f"hash_ids name prompt blocks of {BLOCK} tokens",) if prefix is not None else (),
        prefix=prefix,
    )


def _names(cells: Cells, prompt: list[int]) -> Prefix:
    """Read the ids of each prompt."""
    rows = []
    for row, (value, tokens) in enumerate(zip(cells.values, prompt, strict=True)):
        try:
            ids = [int(name) for name in json.loads(value)]
        except (ValueError, TypeError):
            cells.fail(row, "a list of whole numbers")
        if (
            len(ids) > -(-tokens // BLOCK)
            or min(ids, default=0) < 0
            or max(ids, default=0) >= 2**62
        ):
            most = -(-tokens // BLOCK)
            cells.fail(row, f"at most {most} ids from 0 to 2**62 - 1 ({tokens} tokens)")
        rows.append(ids)
    return Prefix.of(rows, block=BLOCK)


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
    rows = []
    own = trace.prefix if trace.prefix is not None and trace.prefix.block == BLOCK else None
    block = 0 if own is None or not len(own.ids) else int(own.ids.max()) + 1
    for i, (time, p, o) in enumerate(
        zip(trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist(), strict=True)
    ):
        ids = [] if own is None else own.row(i).tolist()
        more = -(-p // BLOCK) - len(ids)
        rows.append(
            f'{{"timestamp": {_milliseconds(time)}, "input_length": {p}, "output_length": {o}, '
            f'"hash_ids": {json.dumps([*ids, *range(block, block + more)])}}}\n'
        )
        block += more
    return "".join(rows)


def _milliseconds(seconds: float) -> str:
    number = Decimal(repr(seconds)).scaleb(3)
    return f"{int(number)}" if number == int(number) else f"{number:f}"
