"""One value is looked at where it comes in: what is wrong with it, in the same words everywhere.

Each test gives the value back as a plain number or text. :mod:`llmq._input.checked` tests all the
arguments of a call against their annotations; what a type cannot say (a range, a rate for each
class) is said with these.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmq._input.annotations import taker
from llmq._input.refusal import Refused
from llmq.errors import InputError, nearest, shown

__all__ = [
    "choice",
    "finite",
    "mapping",
    "number",
    "positive",
    "rates",
    "sequence",
    "share",
    "text",
    "whole",
]

_MOST = 2**63 - 1


def whole(name: str, value: object, least: int | None = None, most: int = _MOST) -> int:
    """Test a whole number.

    Examples
    --------
    >>> whole("requests", 20.0, least=1)
    20
    """
    found = _taken(name, value, int)
    if least is not None and found < least:
        raise _wrong(name, value, f"at least {least}")
    if found > most:
        raise _wrong(name, value, f"at most {most}")
    return int(found)


def number(name: str, value: object) -> float:
    """Test a number that is not NaN.

    Examples
    --------
    >>> number("link", float("inf"))
    inf
    """
    found = float(_taken(name, value, float))
    if math.isnan(found):
        raise _wrong(name, value, "a number")
    return found


def finite(name: str, value: object, least: float | None = None, most: float = math.inf) -> float:
    """Test a finite number.

    Examples
    --------
    >>> finite("think", 0, least=0)
    0.0
    """
    found = number(name, value)
    if not math.isfinite(found):
        raise _wrong(name, value, "finite")
    if least is not None and found < least:
        raise _wrong(name, value, f"at least {least:g}")
    if found > most:
        raise _wrong(name, value, f"at most {most:g}")
    return found


def positive(name: str, value: object) -> float:
    """Test a positive, finite number.

    Examples
    --------
    >>> positive("rate", 2)
    2.0
    """
    found = number(name, value)
    if not 0 < found < math.inf:
        raise _wrong(name, value, "positive and finite")
    return found


def share(name: str, value: object, *, ends: bool = False) -> float:
    """Test a share between 0 and 1.

    Examples
    --------
    >>> share("quantile", 0.99)
    0.99
    """
    found = number(name, value)
    if not (0 < found < 1 or (ends and found in (0, 1))):
        hint = f": write {found / 100:g} for {found:g} %" if 1 < found < 100 else ""
        raise _wrong(name, value, "between 0 and 1", hint)
    return found


def text(name: str, value: object) -> str:
    """Test a text."""
    return str(_taken(name, value, str))


def choice(name: str, value: object, known: Collection[str]) -> str:
    """Test a word that must be one of several.

    Examples
    --------
    >>> choice("order", "spf", ("spf", "fcfs"))
    'spf'
    """
    if isinstance(value, str) and value in known:
        return value
    words = " or ".join(repr(word) for word in known)
    near = nearest(value, known) if isinstance(value, str) else ""
    raise _wrong(name, value, words, near)


def mapping(name: str, value: object, of: object = Any) -> dict[str, Any]:
    """Test a mapping with texts as keys.

    Examples
    --------
    >>> mapping("rates", {"chat": 2}, float)
    {'chat': 2}
    """
    return dict(_taken(name, value, Mapping[str, of]))  # type: ignore[valid-type]


def sequence(name: str, value: object, of: object = Any) -> tuple[Any, ...]:
    """Test a list or tuple; a text is none.

    Examples
    --------
    >>> sequence("classes", ["chat"], str)
    ('chat',)
    """
    return tuple(_taken(name, value, Sequence[of]))  # type: ignore[valid-type]


def rates(name: str, value: object, classes: Collection[str]) -> dict[str, float]:
    """Test a rate for each of several classes.

    Examples
    --------
    >>> rates("rates", {"chat": 2, "code": 0}, ["code", "chat"])
    {'code': 0, 'chat': 2}
    """
    given = mapping(name, value, float)
    for klass, rate in given.items():
        if klass not in classes:
            raise InputError(
                f"{name}: no class {shown(klass)}{nearest(klass, classes)}", field=name, value=klass
            )
        if not 0 <= rate < math.inf:
            raise _wrong(f"{name}[{shown(klass)}]", rate, "a finite number >= 0")
    for klass in classes:
        if klass not in given:
            raise InputError(
                f"{name}: class {shown(klass)} has no rate; write {shown(klass)}: 0 if none of it "
                "comes",
                field=name,
                value=klass,
            )
    return {klass: given[klass] for klass in classes}


@functools.cache
def _taker(hint: object) -> Any:
    parameter = inspect.Parameter("value", inspect.Parameter.POSITIONAL_ONLY, annotation=hint)
    return taker(parameter, whole, None, False)


def _taken(name: str, value: object, hint: object) -> Any:
    try:
        return _taker(hint)(value)
    except Refused as no:
        raise InputError(
            f"{name}{no.where} must be {no.want}, got {shown(no.value)}{no.remedy}",
            field=name,
            value=no.value,
        ) from None


def _wrong(name: str, value: object, want: str, hint: str = "") -> InputError:
    return InputError(f"{name} must be {want}, got {shown(value)}{hint}", field=name, value=value)
