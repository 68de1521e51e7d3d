"""The formats of one kind: those of the library, and those that users register."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from llmq._input.named import Named, Table
from llmq.errors import FormatError, InputError, LlmqError, printable, shown

__all__ = ["Format", "Formats", "complete"]


class Format(Named, Protocol):
    """What every format has."""

    @property
    def read(self) -> Callable[..., Any]:
        """From a file to what it says."""


F = TypeVar("F", bound=Format)


class Formats(Table[F]):
    """A table of formats; ``kind`` is their record, ``result`` what their readers return."""

    def __init__(self, what: str, kind: type[F], result: type, ours: Iterable[F]) -> None:
        super().__init__(f"{what} format", ours)
        self.kind, self.result = kind, result

    def register(self, record: F) -> None:
        """Add a format."""
        if not isinstance(record, self.kind):
            raise InputError(
                f"a {self.what} is a {self.kind.__name__}, got {type(record).__name__}"
            )
        self.add(record)

    def read(self, record: F, path: object, *given: object) -> Any:
        """Call a reader; what goes wrong in one that was registered is said with its name."""
        try:
            found = record.read(*given)
        except LlmqError:
            raise
        except Exception as error:
            if record.name in self.ours:
                raise  # a fault of llmq, which asks for a report
            raise FormatError(
                f"the reader of the {self.what} {record.name!r} could not read it "
                f"({type(error).__name__}: {shown(str(error))}): check the file, or the reader",
                path=printable(str(path)),
            ) from error
        if not isinstance(found, self.result):
            raise InputError(
                f"the reader of the {self.what} {record.name!r} returned a "
                f"{type(found).__name__}; it must return {self.result.__name__}",
                value=record.name,
            )
        return found


def complete(what: str, record: Format, words: Iterable[str], functions: Iterable[str]) -> None:
    """Refuse a record whose words say nothing or whose functions are none."""
    who = f"{what} format {record.name!r}"
    for field in words:
        word = getattr(record, field)
        if not isinstance(word, str) or not word.strip():
            raise InputError(f"{who}: {field} must say something, got {shown(word)}", value=word)
    for field in functions:
        value = getattr(record, field)
        if not callable(value):
            raise InputError(f"{who}: {field} must be a function, got {shown(value)}", value=value)
