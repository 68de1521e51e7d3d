"""What a trace format is: a frozen record, known by its columns, with a reader and maybe a writer.

The formats that come with the library are records of this kind too (``FORMAT`` of each file);
:func:`llmq.io.traces.register_trace_format` adds one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmq.errors import InputError, shown
from llmq.io._formats import complete
from llmq.io.traces._schema import Column, How, Rows
from llmq.model.trace import Trace

__all__ = ["TraceFormat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """A format of traces.

    Parameters
    ----------
    name : str
        As users write it, ``format=name``.
    known_by : str
        What a file looks like, for the documents.
    columns : tuple of Column
        What its records hold; a file is of the format most of whose columns it has.
    read : callable
        From text, path and what the caller says to rows; malformed text is refused with a
        :class:`llmq.FormatError` that names line, column, value and remedy.
    write : callable, optional
        From a trace to text.
    keeps : tuple of str
        What its files hold beyond times and lengths: ``reasoning``, ``classes``.
    block : int, optional
        Prompt tokens of the prefix blocks whose names its files hold.
    before_zero : bool
        Whether its files can hold times before 0.
    suffix : str
        End of the file names that are written in this format unless the caller says otherwise.

    Raises
    ------
    InputError
        A record without a name, its line of the documents, columns or a reader.

    Examples
    --------
    >>> TraceFormat(name="mine", known_by="columns", columns=(Column("size"),), read="later")
    Traceback (most recent call last):
    llmq.errors.InputError: trace format 'mine': read must be a function, got 'later'
    """

    name: str
    known_by: str
    columns: tuple[Column, ...]
    read: Callable[[str, str, How], Rows]
    write: Callable[[Trace], str] | None = None
    keeps: tuple[str, ...] = ()
    block: int | None = None
    before_zero: bool = False
    suffix: str = ""

    def __post_init__(self) -> None:
        functions = ("read",) if self.write is None else ("read", "write")
        complete("trace", self, ("name", "known_by"), functions)
        if not self.columns or not all(isinstance(one, Column) for one in self.columns):
            raise InputError(
                f"trace format {self.name!r}: columns must be Column records, got "
                f"{shown(self.columns)}"
            )
