"""Mooncake traces: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``.

``hash_ids`` names the blocks of each prompt; equal ids mean a shareable prefix
(:mod:`llmq.model.prefix`), which ``Engine(prefix_cache=True)`` computes once. A file without them
shares nothing. Tools that copied the keys did not copy what they mean:

============  ==========================  ======  ============================
dialect       recognised by               times   tokens behind one hash id
============  ==========================  ======  ============================
Mooncake      no other keys               ms      512
Bailian       chat_id, parent_chat_id     s       16
WEKA          t, in, out                  s       64
Dynamo        no other keys               ms      often 64
guidellm      no other keys               s       -
============  ==========================  ======  ============================

Where keys do not tell, the file does: the number of ids of a prompt leaves few block sizes, and
times with fractions are asked about. A trace without names is written with an id of its own for
every block, which says the same to the tools that read it (aiperf, guidellm, SGLang); times with
fractions of a millisecond are written with their unit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from llmq._input.cells import Cells
from llmq.errors import FormatError
from llmq.io.traces._clock import TIME_UNITS, read_clock
from llmq.io.traces._format import TraceFormat
from llmq.io.traces._records import read_jsonl
from llmq.io.traces._schema import PLAIN, Column, How, Rows, lengths
from llmq.model.prefix import Prefix

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["FORMAT", "BLOCK"]

COLUMNS = (
    Column("timestamp", aliases=("created_time", "t")),
    Column("input_length", aliases=("input_tokens", "in")),
    Column("output_length", output=True, aliases=("output_tokens", "out")),
    Column("hash_ids", optional=True),
    Column("timestamp_unit", optional=True),
    Column("chat_id", optional=True),
)

BLOCK = 512  # prompt tokens behind one hash id
_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)  # that servers use


def read(text: str, path: str, how: How = PLAIN) -> Rows:
    """Read a Mooncake trace.

    Examples
    --------
    >>> read('{"timestamp": 1500, "input_length": 9, "output_length": 4}', "m.jsonl").arrival
    array([1.5])
    """
    cells = read_jsonl(text, path, COLUMNS, how)
    times = cells["timestamp"]
    unit, usual_block = _dialect(cells)
    clock = read_clock(times, unit, how.unit or _stated(cells))
    prompt, output = lengths(cells, "input_length", "output_length", how)
    prefix, notes = None, list(clock.notes)
    if "hash_ids" in cells:
        ids = _ids(cells["hash_ids"])
        block, why = _block(cells["hash_ids"], ids, prompt.tolist(), usual_block, how.block)
        notes.append(f"hash_ids name prompt blocks of {block} tokens{why}")
        prefix = Prefix.of(ids, block=block)
    return Rows(
        arrival=clock.seconds,
        prompt=prompt,
        output=output,
        lines=times.lines,
        clock=times.name,
        notes=tuple(notes),
        prefix=prefix,
    )


def _dialect(cells: dict[str, Cells]) -> tuple[str, int]:
    """Tell the unit of the times and the size of the blocks, as far as the keys do."""
    if "chat_id" in cells:
        return "s", 16
    return ("s", 64) if cells["timestamp"].name == "t" else ("ms", BLOCK)


def _stated(cells: dict[str, Cells]) -> str | None:
    if "timestamp_unit" not in cells:
        return None
    units = cells["timestamp_unit"]
    for row, unit in enumerate(units.values):
        if unit not in TIME_UNITS or unit != units.values[0]:
            units.fail(row, f"one of {', '.join(TIME_UNITS)}, the same on every line")
    return units.values[0]


def _ids(cells: Cells) -> list[list[int]]:
    """Read the ids of each prompt; ids that are words are numbered as they come."""
    rows, numbers = [], dict[str, int]()
    for row, value in enumerate(cells.values):
        names = json.loads(value) if value.startswith("[") else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            cells.fail(row, "a list of whole numbers")
        rows.append(names)
    if all(name.isascii() and name.isdigit() for names in rows for name in names):
        for row, names in enumerate(rows):
            if any(len(name) > 19 or int(name) >= 2**62 for name in names):
                cells.fail(row, "ids from 0 to 2**62 - 1")
        return [[int(name) for name in names] for names in rows]
    for row, names in enumerate(rows):
        if any(not name or name[0] in "+-" for name in names):
            cells.fail(row, "ids from 0 to 2**62 - 1")
    return [[numbers.setdefault(name, len(numbers)) for name in names] for names in rows]


def _block(
    cells: Cells, ids: Sequence[Sequence[int]], prompt: Sequence[int], usual: int, given: int | None
) -> tuple[int, str]:
    """Choose the size of a block: given, or the one that the numbers of ids leave."""
    count, tokens = np.array([len(row) for row in ids]), np.array(prompt)
    some = count > 0
    if given is not None:
        if np.any(bad := count > -(-tokens // given)):
            row = int(np.argmax(bad))
            most = -(-prompt[row] // given)
            cells.fail(row, f"at most {most} ids of {given} tokens ({prompt[row]} tokens)")
        return given, ", as asked"
    fitting = [
        size
        for size in _SIZES
        if np.array_equal(count[some], -(-tokens[some] // size))
        or np.array_equal(count[some], tokens[some] // size)
    ]
    if usual in fitting or not np.any(some):
        return usual, ""
    if len(fitting) == 1:
        return fitting[0], f" (the only size that fits {int(some.sum())} prompts)"
    row = int(np.argmax(some & (count != -(-tokens // usual))))
    words = f"{', '.join(map(str, fitting))} would fit" if fitting else "no usual size fits"
    raise FormatError(
        f"{count[row]} ids for {prompt[row]} tokens are not blocks of {usual} tokens, and {words} "
        "all prompts: say how many tokens are behind an id with hash_block=16 (Bailian: 16, "
        "Dynamo and WEKA: 64, Mooncake: 512)",
        path=cells.path,
        line=cells.lines[row],
        column=cells.name,
    )


def write(trace: Trace) -> str:
    r"""Write a Mooncake trace.

    Examples
    --------
    >>> from llmq.model.trace import Trace
    >>> print(write(Trace([0.0, 1.5], [512, 513], [128, 16])))
    {"timestamp": 0, "input_length": 512, "output_length": 128, "hash_ids": [0]}
    {"timestamp": 1500, "input_length": 513, "output_length": 16, "hash_ids": [1, 2]}
    <BLANKLINE>
    >>> write(Trace([0.0015], [9], [4])).partition(" ")[2]
    '1.5, "input_length": 9, "output_length": 4, "hash_ids": [0], "timestamp_unit": "ms"}\n'
    """
    rows = []
    own = trace.prefix if trace.prefix is not None and trace.prefix.block == BLOCK else None
    block = 0 if own is None or not len(own.ids) else int(own.ids.max()) + 1
    times = [_milliseconds(time) for time in trace.arrival.tolist()]
    unit = "" if all(time.isdigit() for time in times) else ', "timestamp_unit": "ms"'
    for i, (time, p, o) in enumerate(
        zip(times, trace.prompt.tolist(), trace.output.tolist(), strict=True)
    ):
        ids = [] if own is None else own.row(i).tolist()
        more = -(-p // BLOCK) - len(ids)
        rows.append(
            f'{{"timestamp": {time}, "input_length": {p}, "output_length": {o}, '
            f'"hash_ids": {json.dumps([*ids, *range(block, block + more)])}{unit}}}\n'
        )
        block += more
    return "".join(rows)


def _milliseconds(seconds: float) -> str:
    number = Decimal(repr(seconds)).scaleb(3)
    if number == int(number):
        return f"{int(number)}"
    return f"{number}" if number.adjusted() < -6 else f"{number:f}"


FORMAT = TraceFormat(
    name="mooncake",
    known_by="JSON lines, timestamp (ms), input_length, output_length",
    columns=COLUMNS,
    read=read,
    write=write,
    block=BLOCK,
    suffix=".jsonl",
)
