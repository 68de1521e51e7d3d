"""Rows of a file into checked columns; a bad cell is named by file, line and column.

A number is taken as the decimal that is written, not as the nearest binary number of an
intermediate unit: 1,500.1 ms becomes the float nearest to 1.5001 s.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, nearest
from llmq.model.prefix import Prefix

__all__ = ["Cells", "Column", "Rows", "first_record", "read_csv", "read_jsonl"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

# Pandas writes whole numbers as 512.0 where a column had gaps. Eighteen digits fit an int64.
_WHOLE = re.compile(r"\s*\+?([0-9]{1,18})(?:\.0*)?\s*")
_REAL = re.compile(r"\s*\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?\s*")


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a format has.

    Parameters
    ----------
    name : str
        Header or key.
    optional : bool
        Whether it may be missing.
    """

    name: str
    optional: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a file says about its requests, in the order of the file.

    Parameters
    ----------
    prompt, output : ndarray of int, shape (n,)
        Tokens.
    lines : sequence of int
        Line number of each request, from 1.
    arrival : ndarray, shape (n,), optional
        Seconds; None where the file has lengths only.
    reasoning : ndarray of int, shape (n,), optional
        Hidden tokens.
    klass : sequence of str, optional
        Class of each request.
    clock : str
        Name of the column with the times.
    notes : tuple of str
        What was left aside.
    prefix : Prefix, optional
        Names of the prompt blocks that requests share.
    """

    prompt: Ints
    output: Ints
    lines: Sequence[int]
    arrival: Floats | None = None
    reasoning: Ints | None = None
    klass: Sequence[str] | None = None
    clock: str = ""
    notes: tuple[str, ...] = ()
    prefix: Prefix | None = None


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one column.

    Parameters
    ----------
    path : str
        The file.
    name : str
        The column.
    values : sequence of str
        The text of each cell.
    lines : sequence of int
        Its line number.
    """

    path: str
    name: str
    values: Sequence[str]
    lines: Sequence[int]

    def fail(self, row: int, expected: str) -> NoReturn:
        """Raise the error of one cell.

        Parameters
        ----------
        row : int
            Index of the cell.
        expected : str
            What should be there.

        Raises
        ------
        FormatError
            Always.
        """
        value = self.values[row]
        found = f"found {value!r}" if value.strip() else "the cell is empty"
        raise FormatError(
            f"expected {expected}, {found}; correct or remove the row",
            path=self.path, line=self.lines[row], column=self.name,
        )  # fmt: skip

    def whole(self, least: int) -> Ints:
        """Read token counts.

        Parameters
        ----------
        least : int
            Smallest count allowed.

        Returns
        -------
        ndarray of int, shape (n,)
            The counts.

        Raises
        ------
        FormatError
            Not a whole number, or too small.

        Examples
        --------
        >>> Cells("t.csv", "prompt", ["512", "4.5"], [2, 3]).whole(1)
        Traceback (most recent call last):
        ...
        llmq.errors.FormatError: t.csv line 3, column prompt: expected a whole number of tokens
        >= 1, found '4.5'; correct or remove the row
        """
        found = np.empty(len(self.values), dtype=np.int64)
        for row, value in enumerate(self.values):
            match = _WHOLE.fullmatch(value)
            if match is None or (number := int(match[1])) < least:
                self.fail(row, f"a whole number of tokens >= {least}")
            found[row] = number
        return found

    def seconds(self, exponent: int = 0) -> Floats:
        """Read times.

        Parameters
        ----------
        exponent : int
            Power of ten of the unit: 0 for seconds, -3 for milliseconds.

        Returns
        -------
        ndarray, shape (n,)
            Seconds, each the float nearest to the decimal in the file.

        Raises
        ------
        FormatError
            Not a finite number >= 0.

        Examples
        --------
        >>> Cells("t.jsonl", "timestamp", ["1500.1"], [1]).seconds(-3)
        array([1.5001])
        """
        found = np.empty(len(self.values))
        for row, value in enumerate(self.values):
            if not _REAL.fullmatch(value):
                self.fail(row, "a finite time >= 0")
            number = Decimal(value.strip()).scaleb(exponent) if exponent else value
            found[row] = float(number)
        if not np.all(np.isfinite(found)):
            self.fail(int(np.flatnonzero(~np.isfinite(found))[0]), "a finite time >= 0")
        return found


def first_record(text: str) -> tuple[int, str]:
    r"""Find the first line that is not blank.

    Parameters
    ----------
    text : str
        The text of a file.

    Returns
    -------
    tuple of int and str
        Line number from 1 and the line; ``(0, "")`` for an empty file.

    Examples
    --------
    >>> first_record("\n a,b\n1,2")
    (2, 'a,b')
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            return number, line.strip()
    return 0, ""


def read_csv(
    text: str, path: str, columns: Sequence[Column]
) -> tuple[dict[str, Cells], tuple[str, ...]]:
    r"""Split a CSV table into the columns of a format.

    Parameters
    ----------
    text : str
        The table, with a header.
    path : str
        For messages.
    columns : sequence of Column
        What the format has.

    Returns
    -------
    cells : dict of str to Cells
        The columns that are there.
    extra : tuple of str
        Names of further columns, in order.

    Raises
    ------
    FormatError
        No rows, a missing or doubled column, or a row of another length.

    Examples
    --------
    >>> cells, extra = read_csv("arrival,who\n0.5,me\n", "t.csv", [Column("arrival")])
    >>> cells["arrival"].seconds(), extra
    (array([0.5]), ('who',))
    """
    lines, rows = _csv_rows(text, path)
    header = [name.strip() for name in rows.pop(0)]
    top = lines.pop(0)
    known = {column.name for column in columns}
    for name in header:
        if header.count(name) > 1 and name in known:
            raise FormatError("the column is there twice", path=path, line=top, column=name)
    for column in columns:
        if column.name not in header and not column.optional:
            raise FormatError(
                f"the column is missing{_hint(column.name, header, known)}",
                path=path, line=top, column=column.name,
            )  # fmt: skip
    if not rows:
        raise FormatError("there is a header but no request below it", path=path, line=top)
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise FormatError(
                f"expected {len(header)} columns, found {len(row)}; correct or remove the row",
                path=path, line=line,
            )  # fmt: skip
    table = dict(zip(header, zip(*rows, strict=True), strict=False))
    cells = {name: Cells(path, name, table[name], lines) for name in header if name in known}
    return cells, tuple(name for name in header if name not in known)


def _csv_rows(text: str, path: str) -> tuple[list[int], list[list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    lines, rows = [], []
    try:
        for row in reader:
            if row:
                lines.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        raise FormatError(f"not CSV: {error}", path=path, line=reader.line_num) from None
    return lines, rows


def read_jsonl(text: str, path: str, columns: Sequence[Column]) -> dict[str, Cells]:
    """Split JSON lines into the columns of a format.

    Parameters
    ----------
    text : str
        One object a line; blank lines are skipped.
    path : str
        For messages.
    columns : sequence of Column
        Keys that the format has; others are ignored. An optional key must be in every record or
        in none.

    Returns
    -------
    dict of str to Cells
        The columns that are there; numbers as they are written.

    Raises
    ------
    FormatError
        Not an object on a line, or a missing key.

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
    cells = {}
    known = {column.name for column in columns}
    for column in columns:
        if column.optional and not any(column.name in record for record in records):
            continue
        values = []
        for record, number in zip(records, lines, strict=True):
            if column.name not in record:
                raise FormatError(
                    f"the key is missing{_hint(column.name, record, known)}",
                    path=path, line=number, column=column.name,
                )  # fmt: skip
            value = record[column.name]
            values.append(value if isinstance(value, str) else json.dumps(value))
        cells[column.name] = Cells(path, column.name, values, lines)
    return cells


def _record(line: str, path: str, number: int) -> Mapping[str, object]:
    try:
        # Numbers stay text, so that a decimal is read once and exactly.
        record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        raise FormatError(
            f"not JSON: {error.msg} at character {error.colno}; correct or remove the line",
            path=path, line=number,
        ) from None  # fmt: skip
    if not isinstance(record, dict):
        raise FormatError("expected one JSON object on the line", path=path, line=number)
    return record


def _hint(missing: str, present: Collection[str], known: Collection[str]) -> str:
    """Name the stranger most like a missing column: a known name is there for its own sake."""
    strangers = [name for name in present if name not in known]
    hint = nearest(missing, strangers) if strangers else ""
    return hint if "did you mean" in hint else f"; found: {', '.join(present)}"
