"""Text into rows: CSV with a header, or JSON lines; a bad row is named by file and line."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from llmq._input.cells import Cells, position, split_csv, transposed
from llmq._input.config import decode_json
from llmq._limits import LINE, ROWS
from llmq.errors import FormatError, nearest, printable, shown
from llmq.io.traces._schema import PLAIN, Column, How

__all__ = ["first_record", "read_csv", "read_jsonl"]

_TOO_MANY = f"more than {ROWS:,} requests, the most that is read: split the file"


def first_record(text: str) -> tuple[int, str]:
    r"""Find the first line that is not blank.

    Examples
    --------
    >>> first_record("\n a,b\n1,2")
    (2, 'a,b')
    """
    number, start = 1, 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if line := text[start:end].strip():
            return number, line
        number, start = number + 1, end + 1
    return 0, ""


def read_csv(
    text: str, path: str, columns: Sequence[Column], how: How = PLAIN
) -> tuple[dict[str, Cells], tuple[str, ...]]:
    r"""Split a CSV table into the columns of a format.

    Examples
    --------
    >>> cells, extra = read_csv("arrival,who\n0.5,me\n", "t.csv", [Column("arrival")])
    >>> cells["arrival"].values, extra
    (('0.5',), ('who',))
    """
    header, rows, lines = split_csv(text, path)
    top = first_record(text)[0]
    places = _places(header, columns, path, top, how)
    if not rows:
        raise FormatError("there is a header but no request below it", path=path, line=top)
    table = transposed(header, rows, lines, path)
    cells = {
        name: Cells(path, header[place], table[place], lines) for name, place in places.items()
    }
    used = set(places.values())
    return cells, tuple(name for place, name in enumerate(header) if place not in used)


def _places(
    header: list[str], columns: Sequence[Column], path: str, top: int, how: How
) -> dict[str, int]:
    """Where each column of the format stands in the header."""
    known = {name for column in columns for name in (column.name, *column.aliases)}
    places = {}
    for column in columns:
        name = column.among(header)
        if name is None:
            if column.needed(how):
                raise FormatError(
                    f"the column is missing{_hint(column.name, header, known)}{column.remedy}",
                    path=path,
                    line=top,
                    column=column.name,
                )
            continue
        places[column.name] = position(name, header, path, top)
    return places


def read_jsonl(
    text: str, path: str, columns: Sequence[Column], how: How = PLAIN
) -> dict[str, Cells]:
    """Split JSON lines into the columns of a format.

    Examples
    --------
    >>> read_jsonl('{"arrival": 0.50}', "t.jsonl", [Column("arrival")])["arrival"].values
    ['0.50']
    """
    lines, records = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            lines.append(number)
            records.append(_record(line, path, number))
            if len(lines) > ROWS:
                raise FormatError(_TOO_MANY, path=path)
    cells = {}
    known = {name for column in columns for name in (column.name, *column.aliases)}
    for column in columns:
        name = next(filter(None, map(column.among, records)), None)
        if name is None and not column.needed(how):
            continue
        values = []
        for record, number in zip(records, lines, strict=True):
            if name is None or name not in record:
                raise FormatError(
                    f"the key is missing{_hint(column.name, record, known)}{column.remedy}",
                    path=path,
                    line=number,
                    column=name or column.name,
                )
            value = record[name]
            if column.words and not isinstance(value, str):
                raise FormatError(
                    f"expected a text in quotes, found {shown(value)}; correct or remove the line",
                    path=path,
                    line=number,
                    column=name,
                )
            values.append(value if isinstance(value, str) else json.dumps(value))
        cells[column.name] = Cells(path, name or column.name, values, lines)
    return cells


def _record(line: str, path: str, number: int) -> Mapping[str, object]:
    if len(line) > LINE:
        raise FormatError(
            f"the line has {len(line):,} characters, at most {LINE:,} are read: split it",
            path=path,
            line=number,
        )
    record = decode_json(line, path, number, as_text=True)
    if not isinstance(record, dict):
        raise FormatError(
            "expected one JSON object on the line, not a list or a number: write JSON lines",
            path=path,
            line=number,
        )
    return record


def _hint(missing: str, present: Collection[str], known: Collection[str]) -> str:
    """Name the stranger most like a missing column: a known name is there for its own sake."""
    strangers = [name for name in present if name not in known]
    hint = nearest(missing, strangers) if strangers else ""
    if "did you mean" in hint:
        return hint
    names = [printable(name) for name in present]
    shown_ = ", ".join(names[:12])
    return f"; found: {shown_ if len(shown_) <= 200 else shown_[:200] + '...'}"
