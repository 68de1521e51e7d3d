"""Columns of a CSV file with checks that name file, line, column, value and remedy.

A cell is a ``count`` (whole number >= 0), a ``time`` (finite number
>= 0), a ``time?`` (may be blank: NaN) or a ``text``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.files import read_text
from llmq._input.numbers import parse_real, parse_whole
from llmq._limits import ROWS
from llmq.errors import FormatError, nearest, shown

__all__ = ["Columns", "find_file", "header", "read_columns"]

Columns: TypeAlias = dict[str, npt.NDArray[Any]]


def find_file(folder: Path, stem: str) -> Path:
    """Find a table by the start of its name: CSV, compressed CSV or parquet."""
    found = sorted(p for p in folder.glob(f"{stem}*") if _is_table(p))
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found) or "none"
    raise FormatError(
        f"expected one table {stem}*.csv, .csv.gz or .parquet, found {names}", path=folder
    )


def _is_table(path: Path) -> bool:
    return path.suffix in (".csv", ".parquet") or path.suffixes[-2:] == [".csv", ".gz"]


def header(path: Path) -> list[str]:
    """Read the column names."""
    return _lines(path, read_text(path).split("\n", 1)[0])[0][1]


def read_columns(path: Path, kinds: Mapping[str, str], remedy: str) -> Columns:
    """Read some columns of a CSV file."""
    rows = _lines(path, read_text(path))
    names = rows[0][1]
    for name in kinds:
        if names.count(name) > 1:
            raise FormatError("the column is there twice", path=path, line=1, column=name)
        if name not in names:
            hint = nearest(name, [n for n in names if n])
            end = "" if hint.endswith("?") else "."
            raise FormatError(f"no such column{hint}{end} {remedy}", path=path, line=1, column=name)
    if len(rows) == 1:
        raise FormatError(f"a header but no rows. {remedy}", path=path, line=1)
    for line, cells in rows[1:]:
        if len(cells) != len(names):
            raise FormatError(
                f"{len(cells)} cells, expected {len(names)}: is the file cut off?",
                path=path,
                line=line,
            )
    lines = np.array([line for line, _ in rows[1:]], dtype=np.int64)
    table: Columns = {"line": lines}
    for name, kind in kinds.items():
        position = names.index(name)
        cells = [cells[position] for _, cells in rows[1:]]
        table[name] = _column(cells, kind, path, lines, name)
    return table


def _lines(path: Path, text: str) -> list[tuple[int, list[str]]]:
    # Strict: a quotation mark without its partner would make one row of all that follow.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise FormatError(f"not CSV: {error}", path=path, line=reader.line_num) from error
    if len(rows) > ROWS:
        raise FormatError(f"more than {ROWS:,} rows, the most that is read: split it", path=path)
    if not rows:
        raise FormatError("the file is empty: expected a header and rows", path=path)
    return rows


def _column(
    cells: Sequence[str], kind: str, path: Path, lines: npt.NDArray[np.int64], name: str
) -> npt.NDArray[Any]:
    if kind == "text":
        return np.array(cells)
    parse: Callable[[str], float | None] = parse_whole if kind == "count" else parse_real
    values = np.empty(len(cells), dtype=np.int64 if kind == "count" else np.float64)
    for row, cell in enumerate(cells):
        if kind == "time?" and not cell.strip():
            values[row] = np.nan
        elif (value := parse(cell)) is not None:
            values[row] = value
        else:
            want = "a whole number >= 0" if kind == "count" else "a finite time >= 0"
            raise _bad_cell(cell, want, path, lines[row], name)
    return values


def _bad_cell(cell: str, want: str, path: Path, line: int, name: str) -> FormatError:
    return FormatError(
        f"expected {want}, found {shown(cell)}: correct or remove the row",
        path=path,
        line=int(line),
        column=name,
    )
