"""Tables of text: CSV into columns, whose bad cells are named by file, line and column.

A number is taken as the decimal that is written, not as the nearest binary number of an
intermediate unit: 1,500.1 ms becomes the float nearest to 1.5001 s.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from llmq._input.config import readable
from llmq._input.numbers import parse_decimal, parse_real, parse_whole
from llmq._limits import NAME, ROWS, TOKENS
from llmq.errors import FormatError, shown

__all__ = ["Cells", "bad_cell", "position", "split_csv", "transposed"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_N = TypeVar("_N")
_LATEST = Decimal(10) ** 24  # of any unit: later than any clock


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one column."""

    path: str  # the file
    name: str  # the column
    values: Sequence[str]  # the text of each cell
    lines: Sequence[int]  # its line number

    def fail(self, row: int, expected: str) -> NoReturn:
        """Raise the error of one cell."""
        raise bad_cell(self.values[row], expected, self.path, self.lines[row], self.name)

    def whole(self, least: int, most: int = TOKENS, *, or_zero: bool = False) -> Ints:
        """Read token counts.

        Examples
        --------
        >>> Cells("t.csv", "prompt", ["512", "4.5"], [2, 3]).whole(1)
        Traceback (most recent call last):
        ...
        llmq.errors.FormatError: t.csv line 3, column prompt: expected a whole number of tokens
        >= 1, found '4.5'; correct or remove the row
        """

        def tokens(text: str) -> int | None:
            number = parse_whole(text)
            enough = number is not None and (number >= least or (or_zero and number == 0))
            return number if enough else None

        expected = f"a whole number of tokens >= {least}"
        found = np.array(self._parsed(tokens, expected), dtype=np.int64)
        if np.any(found > most):
            self.fail(int(np.argmax(found > most)), f"at most {most:,} tokens")
        return found

    def _parsed(self, parse: Callable[[str], _N | None], expected: str) -> list[_N]:
        """Read each cell; the first that is None is an error."""
        found = []
        for row, value in enumerate(self.values):
            number = parse(value)
            if number is None:
                self.fail(row, expected)
            found.append(number)
        return found

    def counts(self) -> Ints:
        """Read whole numbers of any unit."""
        return np.array(self._parsed(parse_whole, "a whole number >= 0"), dtype=np.int64)

    def times(self, *, or_blank: bool = False) -> Floats:
        """Read times as floats; a blank cell is NaN where it is allowed."""

        def time(text: str) -> float | None:
            return math.nan if or_blank and not text.strip() else parse_real(text)

        return np.array(self._parsed(time, "a finite time >= 0"), dtype=np.float64)

    def decimals(self) -> list[Decimal]:
        """Read times exactly, in the unit of the file.

        Examples
        --------
        >>> Cells("t.jsonl", "timestamp", ["1500.10"], [1]).decimals()
        [Decimal('1500.10')]
        """

        def time(text: str) -> Decimal | None:
            number = parse_decimal(text)
            return None if number is None or number > _LATEST else number

        return self._parsed(time, "a finite time >= 0")

    def names(self) -> list[str]:
        """Read the names of classes.

        Examples
        --------
        >>> Cells("t.csv", "class", [" chat ", ""], [2, 3]).names()
        ['chat', 'all']
        """
        for row, value in enumerate(self.values):
            if len(value) > NAME:
                self.fail(row, f"a name of at most {NAME} characters")
            if not readable(value):
                self.fail(row, "a name without control characters (an open quotation mark?)")
        return [value.strip() or "all" for value in self.values]


def bad_cell(value: object, expected: str, path: str, line: int, column: str) -> FormatError:
    """Return the error of one cell."""
    blank = isinstance(value, str) and not value.strip()
    found = "the cell is empty" if blank else f"found {shown(value)}"
    message = f"expected {expected}, {found}; correct or remove the row"
    return FormatError(message, path=path, line=line, column=column)


def split_csv(text: str, path: str) -> tuple[list[str], list[list[str]], list[int]]:
    r"""Split a CSV text: header, rows and the line number of each.

    Examples
    --------
    >>> split_csv("arrival, who\n0.5,me\n\n1,you\n", "t.csv")
    (['arrival', 'who'], [['0.5', 'me'], ['1', 'you']], [2, 4])
    """
    # Strict: a quotation mark without its partner would make one row of all that follow.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    rows, lines = [], []
    try:
        for row in filter(None, reader):
            if not header:
                header = [name.strip() for name in row]
                continue
            lines.append(reader.line_num)
            rows.append(row)
            if len(rows) > ROWS:
                message = f"more than {ROWS:,} rows, the most that is read: split the file"
                raise FormatError(message, path=path)
    except csv.Error as error:
        hint = ": a quotation mark is open" if "unexpected end" in str(error) else ""
        raise FormatError(f"not CSV: {error}{hint}", path=path, line=reader.line_num) from None
    if not header:
        raise FormatError("the file is empty: expected a header and rows", path=path)
    return header, rows, lines


def position(name: str, header: Sequence[str], path: str, line: int = 1) -> int:
    """Find a column of a header."""
    if header.count(name) > 1:
        raise FormatError("the column is there twice", path=path, line=line, column=name)
    return header.index(name)


def transposed(
    header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[int], path: str
) -> list[tuple[str, ...]]:
    """Return the columns of rows that are all as long as the header."""
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            message = f"expected {len(header)} columns, found {len(row)}; correct or remove the row"
            raise FormatError(message, path=path, line=line)
    return list(zip(*rows, strict=True))
