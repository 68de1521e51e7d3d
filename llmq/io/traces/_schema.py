"""What a trace file says: checked columns, whose bad cells are named by file, line and column.

A number is taken as the decimal that is written, not as the nearest binary number of an
intermediate unit: 1,500.1 ms becomes the float nearest to 1.5001 s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.config import readable
from llmq._input.numbers import parse_decimal, parse_whole
from llmq._limits import NAME, TOKENS
from llmq.errors import FormatError, shown
from llmq.model.prefix import Prefix

__all__ = ["Cells", "Column", "PLAIN", "How", "Rows", "lengths"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_LATEST = Decimal(10) ** 24  # of any unit: later than any clock


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a format has.

    Parameters
    ----------
    name : str
        Header or key.
    optional : bool
        Whether it may be missing.
    aliases : tuple of str
        What other tools call it.
    words : bool
        It holds text, not a number.
    output : bool
        It holds the output lengths, which the caller may give instead.
    """

    name: str
    optional: bool = False
    aliases: tuple[str, ...] = ()
    words: bool = False
    output: bool = False

    def among(self, names: Collection[str]) -> str | None:
        """Find the column in a header.

        Parameters
        ----------
        names : collection of str
            Header or keys.

        Returns
        -------
        str or None
            What it is called there; None if it is missing.
        """
        return next((name for name in (self.name, *self.aliases) if name in names), None)

    def needed(self, how: How) -> bool:
        """Whether a file must have the column.

        Parameters
        ----------
        how : How
            What the caller gives instead.

        Returns
        -------
        bool
            False where it is optional or given.
        """
        return not (self.optional or (self.output and how.output is not None))

    @property
    def remedy(self) -> str:
        """What else to do where the column is missing."""
        return "; or give one length for all requests, e.g. output=128" if self.output else ""


@dataclass(frozen=True, slots=True)
class How:
    """What the caller says about a file, where the file itself does not.

    Parameters
    ----------
    unit : str, optional
        Unit of its times: ``s``, ``ms``, ``us`` or ``ns``.
    block : int, optional
        Prompt tokens behind one hash id.
    output : int, optional
        Output tokens of every request, for a file without them.
    """

    unit: str | None = None
    block: int | None = None
    output: int | None = None


PLAIN = How()


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a file says about its requests, in the order of the file.

    Parameters
    ----------
    prompt, output : ndarray of int, shape (n,)
        Tokens; an output of 0 is a request that failed.
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
    """The cells of one column."""

    path: str  # the file
    name: str  # the column
    values: Sequence[str]  # the text of each cell
    lines: Sequence[int]  # its line number

    def fail(self, row: int, expected: str) -> NoReturn:
        """Raise the error of one cell."""
        value = self.values[row]
        found = f"found {shown(value)}" if value.strip() else "the cell is empty"
        raise FormatError(
            f"expected {expected}, {found}; correct or remove the row",
            path=self.path,
            line=self.lines[row],
            column=self.name,
        )

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
        found = np.empty(len(self.values), dtype=np.int64)
        for row, value in enumerate(self.values):
            number = parse_whole(value)
            if number is None or (number < least and not (or_zero and number == 0)):
                self.fail(row, f"a whole number of tokens >= {least}")
            if number > most:
                self.fail(row, f"at most {most:,} tokens")
            found[row] = number
        return found

    def decimals(self) -> list[Decimal]:
        """Read times exactly, in the unit of the file.

        Examples
        --------
        >>> Cells("t.jsonl", "timestamp", ["1500.10"], [1]).decimals()
        [Decimal('1500.10')]
        """
        found = []
        for row, value in enumerate(self.values):
            number = parse_decimal(value)
            if number is None or number > _LATEST:
                self.fail(row, "a finite time >= 0")
            found.append(number)
        return found

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


def lengths(cells: Mapping[str, Cells], prompt: str, output: str, how: How) -> tuple[Ints, Ints]:
    """Read prompt and output lengths; the caller gives the output of a file without them."""
    asked = cells[prompt].whole(1, or_zero=True)
    if output in cells:
        if how.output is not None:
            raise FormatError(
                "the file has output lengths of its own: leave output= out",
                path=cells[output].path,
                line=cells[output].lines[0],
                column=cells[output].name,
            )
        answered = cells[output].whole(1, or_zero=True)
    else:
        answered = np.full(len(asked), how.output or 0, dtype=np.int64)
    if np.any(bad := (asked == 0) & (answered > 0)):
        cells[prompt].fail(int(np.argmax(bad)), "a whole number of tokens >= 1")
    return asked, answered
