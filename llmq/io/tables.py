"""Configuration text into checked tables: TOML or JSON, every key known, every type right.

A mistake is named by file, table and key: ``plan.toml: [slo] has no key 'ttff'; did you mean
'ttft'?``. Durations are texts with their unit, as on the command line.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from llmq.errors import FormatError, InputError, nearest
from llmq.io.files import PathLike, read_text
from llmq.units import parse_duration, parse_rate

__all__ = ["Table", "parse_toml", "read_table"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a configuration file.

    Parameters
    ----------
    path : str
        The file.
    name : str
        Where in the file, with dots; empty for the whole.
    raw : mapping of str to object
        Its keys and values.

    Examples
    --------
    >>> Table("plan.toml", "slo", {"ttft": "500ms"}).duration("ttft")
    0.5
    """

    path: str
    name: str
    raw: Mapping[str, object]

    def __contains__(self, key: str) -> bool:
        return key in self.raw

    @property
    def where(self) -> str:
        """File and table, for messages."""
        return f"{self.path}: [{self.name}]" if self.name else self.path

    def only(self, known: Iterable[str]) -> None:
        """Refuse unknown keys.

        Parameters
        ----------
        known : iterable of str
            Keys that the table may have.

        Raises
        ------
        InputError
            Names the first unknown key and the nearest known one.

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
                message = f"{self.where} has no key {key!r}{nearest(key, names)}"
                raise InputError(message, place=self.where, key=key)

    def error(self, key: str, expected: str) -> InputError:
        """Make the error of one value.

        Parameters
        ----------
        key : str
            Its key.
        expected : str
            What should be there.

        Returns
        -------
        InputError
            To be raised.
        """
        found = f"found {self.raw[key]!r}" if key in self.raw else "but it is missing"
        return InputError(
            f"{self.where} needs {key} = {expected}, {found}",
            place=self.where, key=key, value=self.raw.get(key),
        )  # fmt: skip

    def mistake(self, message: str, key: str = "") -> InputError:
        """Make an error about the table.

        Parameters
        ----------
        message : str
            What is wrong.
        key : str
            The key, if one is to blame.

        Returns
        -------
        InputError
            To be raised.
        """
        return InputError(f"{self.where}: {message}", place=self.where, key=key)

    def text(self, key: str) -> str:
        """Read a text.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        str
            The text.
        """
        value = self.raw.get(key)
        if not isinstance(value, str):
            raise self.error(key, "a text in quotes")
        return value

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Read a whole number.

        Parameters
        ----------
        key : str
            Its key.
        default : int, optional
            Value of a missing key; required if not given.
        least : int
            Smallest number allowed.

        Returns
        -------
        int
            The number.
        """
        value = self.raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"a whole number >= {least}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Read a number.

        Parameters
        ----------
        key : str
            Its key.
        default : float, optional
            Value of a missing key; required if not given.

        Returns
        -------
        float
            The number, finite.
        """
        value = self.raw.get(key, default)
        if not _is_real(value):
            raise self.error(key, "a finite number")
        return float(value)  # type: ignore[arg-type]

    def duration(self, key: str) -> float:
        """Read a duration with its unit.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        float
            Seconds.
        """
        value = self.raw.get(key)
        if not isinstance(value, str):
            raise self.error(key, 'a duration with its unit, such as "500ms"')
        with self.located(key):
            return parse_duration(value)

    def rate(self, key: str) -> float:
        """Read a request rate.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        float
            Requests per second.
        """
        value = self.raw.get(key)
        if not isinstance(value, str) and not _is_real(value):
            raise self.error(key, 'a request rate, such as "12/s"')
        with self.located(key):
            return parse_rate(str(value))

    def table(self, key: str) -> Table:
        """Read a table inside this one.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        Table
            The inner table.
        """
        value = self.raw.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, "a table")
        return Table(self.path, f"{self.name}.{key}" if self.name else key, value)

    def tables(self, key: str) -> tuple[Table, ...]:
        """Read a list of tables.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        tuple of Table
            At least one, numbered from 1 in messages.
        """
        value = self.raw.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
            raise self.error(key, f"a list of tables ([[{key}]])")
        return tuple(Table(self.path, f"{key} {i}", raw) for i, raw in enumerate(value, 1))

    @contextlib.contextmanager
    def located(self, key: str = "") -> Iterator[None]:
        """Add file, table and key to the errors of what is built from them.

        Parameters
        ----------
        key : str
            The key, if one is to blame.

        Raises
        ------
        InputError
            What was raised inside, with its place.
        """
        try:
            yield
        except InputError as error:
            # A file's own errors and those of an inner table say their place already.
            if isinstance(error, FormatError) or "place" in error.fields:
                raise
            place = f"{self.where} {key}" if key else self.where
            raise InputError(f"{place}: {error}", **(error.fields | {"place": place})) from error


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_table(path: PathLike) -> Table:
    """Read a TOML or JSON file.

    Parameters
    ----------
    path : str or path
        A name ending in ``.toml`` or ``.json``.

    Returns
    -------
    Table
        The whole file.

    Raises
    ------
    InputError
        The file cannot be read, or its name ends otherwise.
    FormatError
        Not TOML or JSON, or a key is given twice; names the line where the reader knows it.
    """
    name = str(path)
    if not name.endswith((".toml", ".json")):
        raise InputError(f"{name}: a configuration file ends in .toml or .json", path=name)
    text = read_text(path)
    if not text.strip():
        raise FormatError("the file is empty", path=name)
    raw = parse_toml(text, name) if name.endswith(".toml") else _parse_json(text, name)
    return Table(name, "", raw)


def parse_toml(text: str, path: str) -> Mapping[str, object]:
    r"""Parse TOML.

    Parameters
    ----------
    text : str
        The text of a file.
    path : str
        For messages.

    Returns
    -------
    mapping of str to object
        Keys and values.

    Raises
    ------
    FormatError
        Not TOML, or a key is given twice.

    Examples
    --------
    >>> parse_toml("a = 1\na = 2\n", "plan.toml")
    Traceback (most recent call last):
    ...
    llmq.errors.FormatError: plan.toml line 2: not TOML: Cannot overwrite a value (at column 6);
    a key may be given once
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.search(r"\(at line (\d+), (column \d+)\)", message)
        line = int(place[1]) if place else text.count("\n") + 1
        if place:
            message = message.replace(place[0], f"(at {place[2]})")
        twice = any(word in message for word in ("overwrite", "twice", "Duplicate"))
        hint = "; a key may be given once" if twice else ""
        raise FormatError(f"not TOML: {message}{hint}", path=path, line=line) from None


def _parse_json(text: str, path: str) -> Mapping[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise FormatError("the key is given twice; keep one", path=path, column=key)
            found[key] = value
        return found

    try:
        raw = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise FormatError(
            f"not JSON: {error.msg} (at column {error.colno})", path=path, line=error.lineno
        ) from None
    if not isinstance(raw, dict):
        raise FormatError("expected one JSON object", path=path, line=1)
    return raw
