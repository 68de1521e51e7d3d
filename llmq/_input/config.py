"""TOML and JSON text into values, within limits: size, nesting, digits, characters.

Both formats allow what no configuration needs: whole numbers of a million digits, tables a
thousand deep, half of a surrogate pair. Each is refused with its place, as is a key given twice.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NoReturn

from llmq._input.files import PathLike, read_text
from llmq._input.tables import Table
from llmq._limits import CONFIG_BYTES, INT, NESTING, NUMBER
from llmq.errors import FormatError, InputError, printable, shown

__all__ = ["DEEP", "check_values", "decode_json", "parse_toml", "read_table", "readable"]

DEEP = f"tables or lists nested more than {NESTING} deep: flatten them"


def read_table(path: PathLike) -> Table:
    """Read a TOML or JSON file."""
    name = str(path)
    if not name.endswith((".toml", ".json")):
        raise InputError(
            f"{printable(name)}: a configuration file ends in .toml or .json", path=name
        )
    text = read_text(path, CONFIG_BYTES)
    if not text.strip():
        raise FormatError("the file is empty", path=name)
    return Table(name, "", parse_toml(text, name) if name.endswith(".toml") else _json(text, name))


def parse_toml(text: str, path: str) -> Mapping[str, object]:
    r"""Parse TOML.

    Examples
    --------
    >>> parse_toml("a = 1\na = 2\n", "plan.toml")
    Traceback (most recent call last):
    ...
    llmq.errors.FormatError: plan.toml line 2: not TOML: Cannot overwrite a value (at column 6);
    a key may be given once
    """
    for number, row in enumerate(text.split("\n"), 1):
        # The parser takes time in the square of the parts of a dotted key.
        if row.count(".") > NESTING:
            parts = re.split(r"[\[\]{},=\"'#]", row)
            if max(part.count(".") for part in parts) > 2 * NESTING:
                raise FormatError(DEEP, path=path, line=number)
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise FormatError(DEEP, path=path) from None
    except tomllib.TOMLDecodeError as error:
        message = printable(error)
        place = re.search(r"\(at line (\d+), (column \d+)\)", message)
        line = int(place[1]) if place else text.count("\n") + 1
        if place:
            message = message.replace(place[0], f"(at {place[2]})")
        twice = any(word in message for word in ("overwrite", "twice", "Duplicate"))
        hint = "; a key may be given once" if twice else ""
        raise FormatError(f"not TOML: {_short(message)}{hint}", path=path, line=line) from None
    except ValueError:  # of whole numbers beyond what Python reads
        _too_long(text, "", path)
    check_values(raw, path)
    return raw


def _short(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:150]}...{message[-40:]}"


def _json(text: str, path: str) -> Mapping[str, object]:
    raw = decode_json(text, path)
    if not isinstance(raw, dict):
        raise FormatError("expected one JSON object", path=path, line=1)
    check_values(raw, path)
    return raw


def decode_json(text: str, path: str, line: int | None = None, *, as_text: bool = False) -> object:
    r"""Decode a JSON text.

    Examples
    --------
    >>> decode_json('{"a": 1, "a": 2}', "plan.json")
    Traceback (most recent call last):
    ...
    llmq.errors.FormatError: plan.json, column a: the key is given twice; keep one
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            key = next(name for name in names if names.count(name) > 1)
            raise FormatError(
                "the key is given twice; keep one", path=path, line=line, column=printable(key)
            )
        return found

    def number(digits: str) -> int:
        return int(digits) if len(digits) <= NUMBER else _too_long(text, digits, path, line)

    def real(digits: str) -> float:
        return float(digits) if len(digits) <= NUMBER else _too_long(text, digits, path, line)

    how: dict[str, Any] = {"parse_int": number, "parse_float": real}
    if as_text:
        how = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), str)
    try:
        return json.loads(text, object_pairs_hook=once, **how)
    except json.JSONDecodeError as error:
        place = error.lineno if line is None else line
        raise FormatError(
            f"not JSON: {error.msg} at character {error.colno}; correct or remove the line",
            path=path,
            line=place,
        ) from None
    except RecursionError:
        raise FormatError(DEEP, path=path, line=line) from None


def _too_long(text: str, digits: str, path: str, line: int | None = None) -> NoReturn:
    if not digits and (found := re.search(rf"[0-9_]{{{NUMBER + 1},}}", text)):
        digits = found[0]
    if line is None and digits:
        line = text.count("\n", 0, text.index(digits)) + 1
    raise FormatError(
        f"the number {digits[:12]}... has {len(digits):,} characters, at most {NUMBER} are read: "
        "write it shorter",
        path=path,
        line=line,
    )


def check_values(raw: Mapping[str, object], path: str) -> None:
    """Refuse what no key may hold; without recursion, however deep the tables are."""
    waiting: list[tuple[str, object, int]] = [("", raw, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        if depth > NESTING:
            raise FormatError(DEEP, path=path, column=place[:60])
        if isinstance(value, Mapping):
            for key, inner in value.items():
                at = f"{place}.{printable(key)}" if place else printable(key)
                if not readable(key):
                    raise FormatError(
                        f"the key {shown(key)} holds control characters: rename it", path=path
                    )
                waiting.append((at, inner, depth + 1))
        elif isinstance(value, list):
            waiting += [(place, inner, depth + 1) for inner in value]
        elif isinstance(value, str) and not readable(value, "\n\t"):
            raise FormatError(
                f"the text {shown(value)} holds control characters: remove them",
                path=path,
                column=place,
            )
        elif isinstance(value, int) and not -INT <= value <= INT:
            raise FormatError(
                f"{shown(value)} is beyond 64 bits: a whole number is at most {INT:,}",
                path=path,
                column=place,
            )


def readable(text: str, also: str = "") -> bool:
    r"""Whether a text has no control characters and no half surrogate pairs.

    Examples
    --------
    >>> readable("chat"), readable("a\x1b[31m"), readable("two\nlines", "\n")
    (True, False, True)
    """
    if text.isprintable():
        return True
    return not any(_is_control(c) and c not in also for c in text)


def _is_control(c: str) -> bool:
    code = ord(c)
    # C0, delete and C1; direction marks that reorder what is read; halves of surrogate pairs.
    return (
        code < 32
        or 127 <= code < 160
        or 0xD800 <= code < 0xE000
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
        or code in (0x2028, 0x2029)
    )
