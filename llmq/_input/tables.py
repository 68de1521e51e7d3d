"""Configuration text into checked tables: TOML or JSON, every key known, every type right.

A mistake is named by file, table and key: ``plan.toml: [slo] has no key 'ttff'; did you mean
'ttft'?``. Durations are texts with their unit, as on the command line.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from llmq._limits import INT
from llmq.errors import FormatError, InputError, nearest, printable, shown
from llmq.units import parse_duration, parse_rate

__all__ = ["Table"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a configuration file.

    Examples
    --------
    >>> Table("plan.toml", "slo", {"ttft": "500ms"}).duration("ttft")
    0.5
    """

    path: str  # the file
    name: str  # where in the file, with dots; empty for the whole
    raw: Mapping[str, object]  # its keys and values

    def __contains__(self, key: str) -> bool:
        return key in self.raw

    @property
    def where(self) -> str:
        """File and table, for messages."""
        path = printable(self.path)
        return f"{path}: [{printable(self.name)}]" if self.name else path

    def only(self, known: Iterable[str]) -> None:
        """Refuse unknown keys.

        Examples
        --------
        >>> Table("plan.toml", "slo", {"ttff": "1s"}).only(["ttft", "tpot"])
        Traceback (most recent call last):
        ...
        llmq.errors.InputError: plan.toml: [slo] has no key 'ttff'; did you mean 'ttft'?
        """
        names = list(known)
        for key in self.raw:
            if key not in names:
                message = f"{self.where} has no key {shown(key)}{nearest(key, names)}"
                raise InputError(message, place=self.where, key=key)

    def error(self, key: str, expected: str) -> InputError:
        """Make the error of one value."""
        found = f"found {shown(self.raw[key])}" if key in self.raw else "but it is missing"
        return InputError(
            f"{self.where} needs {key} = {expected}, {found}",
            place=self.where,
            key=key,
            value=self.raw.get(key),
        )

    def mistake(self, message: str, key: str = "") -> InputError:
        """Make an error about the table."""
        return InputError(f"{self.where}: {message}", place=self.where, key=key)

    def text(self, key: str) -> str:
        """Read a text."""
        value = self.raw.get(key)
        if not isinstance(value, str):
            raise self.error(key, "a text in quotes")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list of texts."""
        value = self.raw.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, 'a list of texts, such as ["no prefix cache"]')
        return tuple(value)

    def whole(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = INT
    ) -> int:
        """Read a whole number."""
        value = self.raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"a whole number >= {least}")
        if value > most:
            raise self.error(key, f"a whole number from {least} to {most:,}")
        return value

    def real(
        self,
        key: str,
        default: float | None = None,
        *,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> float:
        """Read a number."""
        value = self.raw.get(key, default)
        if not _is_real(value) or not least <= value <= most:  # type: ignore[operator]
            bounds = [f">= {least:g}"] if least > -math.inf else []
            bounds += [f"<= {most:g}"] if most < math.inf else []
            raise self.error(key, " ".join(["a finite number", " and ".join(bounds)]).strip())
        return float(value)  # type: ignore[arg-type]

    def duration(self, key: str) -> float:
        """Read a duration with its unit."""
        value = self.raw.get(key)
        if not isinstance(value, str):
            raise self.error(key, 'a duration with its unit, such as "500ms"')
        with self.located(key):
            return parse_duration(value)

    def rate(self, key: str) -> float:
        """Read a request rate."""
        value = self.raw.get(key)
        if not isinstance(value, str) and not _is_real(value):
            raise self.error(key, 'a request rate, such as "12/s"')
        with self.located(key):
            return parse_rate(value if isinstance(value, str) else repr(value))

    def table(self, key: str) -> Table:
        """Read a table inside this one."""
        value = self.raw.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, "a table")
        return Table(self.path, f"{self.name}.{key}" if self.name else key, value)

    def tables(self, key: str) -> tuple[Table, ...]:
        """Read a list of tables."""
        value = self.raw.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
            raise self.error(key, f"a list of tables ([[{key}]])")
        return tuple(Table(self.path, f"{key} {i}", raw) for i, raw in enumerate(value, 1))

    @contextlib.contextmanager
    def located(self, key: str = "") -> Iterator[None]:
        """Add file, table and key to the errors of what is built from them."""
        try:
            yield
        except InputError as error:
            # A file's own errors and those of an inner table say their place already.
            if isinstance(error, FormatError) or "place" in error.fields:
                raise
            place = f"{self.where} {key}" if key else self.where
            raise InputError(f"{place}: {error}", **(error.fields | {"place": place})) from error


def _is_real(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -INT <= value <= INT if isinstance(value, int) else math.isfinite(value)
