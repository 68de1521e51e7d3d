"""The columns that a format of traces has, and what a file says in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.cells import Cells
from llmq.errors import FormatError
from llmq.model.prefix import Prefix

__all__ = ["Column", "PLAIN", "How", "Rows", "lengths"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


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
