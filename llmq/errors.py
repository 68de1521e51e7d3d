"""Errors and warnings: what, where, which value, what to do next.

Every error is an :class:`LlmqError` and also the nearest builtin, so ``except ValueError`` keeps
working. Facts a program may want (a line number, a margin) are attributes, not only words.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Iterable

__all__ = [
    "ApproximationWarning",
    "ExtrapolationWarning",
    "FormatError",
    "InfeasibleError",
    "InputError",
    "InvariantError",
    "LlmqError",
    "LlmqWarning",
    "MissingDependencyError",
    "PolicyError",
    "TraceWarning",
    "UndecidedError",
    "UnitWarning",
    "UnstableError",
    "nearest",
    "printable",
    "shown",
]

_COUNTS = ("level", "tuple", "list", "set", "frozenset", "dict", "array", "deque")


class LlmqError(Exception):
    """Base of all errors; keyword arguments become attributes.

    Parameters
    ----------
    message : str
        The sentence shown to people.
    **fields
        Facts for programs, e.g. ``margin=0.93``.

    Examples
    --------
    >>> UnstableError("margin 0.93 < 1", margin=0.93).margin
    0.93
    """

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.fields = fields

    def __getattr__(self, name: str) -> object:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(name)


class InputError(LlmqError, ValueError):
    """An argument, a key or a value cannot be used."""


class FormatError(InputError):
    """A file cannot be read; says file, line and column.

    Parameters
    ----------
    message : str
        What is wrong, and what to do.
    path : str
        The file.
    line : int, optional
        Line number, counted from 1.
    column : str, optional
        Column name or key.

    Examples
    --------
    >>> str(FormatError("expected a whole number, found '4.5'", path="t.csv", line=17, column="P"))
    "t.csv line 17, column P: expected a whole number, found '4.5'"
    """

    def __init__(
        self, message: str, *, path: object, line: int | None = None, column: str | None = None
    ) -> None:
        where = str(path)
        if line is not None:
            where += f" line {line}"
        if column is not None:
            where += f", column {column}"
        super().__init__(f"{where}: {message}")
        self.message, self.path, self.line, self.column = message, str(path), line, column
        self.fields = {"path": str(path), "line": line, "column": column}

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by position, which would lose the keywords: a worker process
        # could not hand its error back.
        make = functools.partial(type(self), path=self.path, line=self.line, column=self.column)
        return make, (self.message,)


class UnstableError(LlmqError, ArithmeticError):
    """The load is outside the stability region: no stationary mean exists."""


class UndecidedError(LlmqError, ArithmeticError):
    """Only a bracket is known and the question falls in its gap."""


class InfeasibleError(LlmqError, ValueError):
    """No admissible choice meets the target; carries the nearest one that does."""


class PolicyError(LlmqError, RuntimeError):
    """A scheduling policy broke a rule of the engine; says policy, iteration, time and rule."""


class InvariantError(LlmqError, AssertionError):
    """Something that must hold on every path does not: a fault of llmq."""


class MissingDependencyError(LlmqError, ImportError):
    """An optional package is needed; says how to install it."""


class LlmqWarning(UserWarning):
    """Base of all warnings."""


class ExtrapolationWarning(LlmqWarning):
    """A fitted law is used outside the data it was fitted to."""


class ApproximationWarning(LlmqWarning):
    """A number rests on an approximation outside its usual domain."""


class UnitWarning(LlmqWarning):
    """A number has a size that suggests another unit than the documented one."""


class TraceWarning(LlmqWarning):
    """A trace was changed while reading (sorted, jittered, rows set aside)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the sentence part that names the nearest known word.

    Parameters
    ----------
    word : str
        What was written.
    known : iterable of str
        What would have been understood.

    Returns
    -------
    str
        ``"; did you mean 'x'?"`` or ``"; known: a, b"``; empty where nothing is known.

    Examples
    --------
    >>> nearest("tokn_budget", ["token_budget", "max_seqs"])
    "; did you mean 'token_budget'?"
    """
    from difflib import get_close_matches

    names = sorted(printable(name) for name in known)
    # Of a word without end the start: to compare it takes time in the square of its length.
    close = get_close_matches(str(word)[:200], names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def printable(text: object, keep: str = "") -> str:
    r"""Write control characters, lone surrogates and other unprintable ones as escapes.

    A name from a file may hold the codes that move a cursor or change the title of a terminal;
    written raw they would act there, and a lone surrogate cannot be written at all.

    Parameters
    ----------
    text : object
        What will be shown; its ``str`` is taken.
    keep : str
        Characters that stay, such as a line break in text of several lines.

    Returns
    -------
    str
        The same text with escapes.

    Examples
    --------
    >>> print(printable("chat" + chr(27) + "[31m"))
    chat\x1b[31m
    """
    words = str(text)
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in words)


def shown(value: object, most: int = 60) -> str:
    r"""Write a value for a message: bounded, and without characters that act on a terminal.

    Parameters
    ----------
    value : object
        Anything, of any size.
    most : int
        About how many characters.

    Returns
    -------
    str
        Its ``repr``, shortened in the middle.

    Examples
    --------
    >>> shown("x" * 500, most=20)
    "'xxxxxxx...xxxxxxxx'"
    >>> shown("a" + chr(10) + "b") == r"'a\nb'"
    True
    """
    if type(value) is int and value.bit_length() > 4 * most:
        # Its digits may be more than Python writes at all.
        return f"a whole number of about {value.bit_length() * 0.30103:.0f} digits"
    short = reprlib.Repr()
    for name in _COUNTS:
        setattr(short, f"max{name}", 4)
    short.maxstring = short.maxother = short.maxlong = most
    try:
        words = printable(short.repr(value))
    except Exception:  # a repr of somebody else's class may do anything
        words = f"<{type(value).__name__}>"
    if len(words) > most:
        half = (most - 3) // 2
        words = f"{words[:half]}...{words[len(words) - half :]}"
    return words
