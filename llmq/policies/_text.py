"""Policies as text, the form of the command line and of configuration files: there and back."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from llmq._input.checked import checked
from llmq._input.numbers import parse_real, parse_whole
from llmq.errors import InputError, nearest, shown
from llmq.policies._registry import POLICIES, ROUTERS, Kinds, fields_of, parameters
from llmq.policies.contract.blocks import Policy
from llmq.policies.contract.routers import Router

__all__ = ["defaults", "parse", "text"]

# Names that people try; the most similar word would name another scheduler.
_SERVERS = ("sglang", "trt-llm", "trtllm", "tensorrt-llm", "tgi", "lmdeploy", "dynamo", "llama.cpp")
_DEADLINES = tuple[tuple[str, float], ...]


@checked
def parse(text: str) -> Policy:
    """Read a policy from its command-line form.

    Parameters
    ----------
    text : str
        ``name`` or ``name:field=value,field=value``. A router that has parameters of its own is
        ``route=name:field=value+field=value``.

    Returns
    -------
    Policy
        The policy.

    Raises
    ------
    InputError
        Unknown policy or field (names the nearest known one), or a value of the wrong type.

    Examples
    --------
    >>> parse("sarathi:token_budget=512").token_budget
    512
    >>> parse("sarathi:route=power-of-d:d=3").route
    PowerOfD(d=3)
    """
    name = text.partition(":")[0]
    if name.lower() in _SERVERS and name not in POLICIES.all():
        raise InputError(
            f"no policy {shown(name)}: the scheduler of this server is not modelled; vllm "
            "(v1) and sarathi, which mix chunks of prompts with decodes, are the nearest",
            value=name,
        )
    made: Policy = _made(POLICIES, text, ",")
    return made


def _made(kinds: Kinds[Any], text: str, between: str) -> Any:
    """Read ``name:field=value``, with one sign between the fields."""
    name, _, rest = text.partition(":")
    kind = kinds.named(name)
    who, hints = f"{kinds.what} {name}", fields_of(kind)
    values: dict[str, Any] = {}
    for item in filter(None, rest.split(between)):
        field, equals, value = (part.strip() for part in item.partition("="))
        if field not in hints:
            raise InputError(f"{who}: no field {field!r}{nearest(field, hints)}", value=field)
        if not equals:
            raise InputError(f"{who}: {field} needs a value: {field}=...", value=field)
        values[field] = _value(who, field, value, hints[field])
    for field, usual in parameters(kind).items():
        if usual is None and field not in values:
            raise InputError(f"{who} needs {field}: write {name}:{field}=...", field=field)
    return kind(**values)


@checked
def text(policy: Policy) -> str:
    """Return the command-line form of a policy.

    Parameters
    ----------
    policy : Policy
        The policy.

    Returns
    -------
    str
        Its name and the fields that differ from their defaults; :func:`parse` reads it back. What
        cannot be written, such as the prices of a router, is left out.

    Examples
    --------
    >>> from llmq.policies import Sarathi
    >>> text(Sarathi(token_budget=512, order="queue"))
    'sarathi:token_budget=512,order=queue'
    """
    return _written(policy, ",")


def _written(one: Any, between: str) -> str:
    usual, words = defaults(type(one)), []
    for field in parameters(type(one)):
        value = getattr(one, field)
        if _writable(value) and _shown(value) != usual.get(field):
            words.append(f"{field}={_shown(value)}")
    return ":".join([one.name, between.join(words)] if words else [one.name])


def _writable(value: Any) -> bool:
    """Whether a value can be written as text and read back: prices of a router cannot."""
    if isinstance(value, tuple):
        return all(isinstance(x, str) or isinstance(x[1], int | float) for x in value)
    return value is None or isinstance(value, str | int | float | Router)


def defaults(kind: type) -> dict[str, str]:
    """Return the fields of a policy or router that have a default, with it as text."""
    return {field: _shown(usual()) for field, usual in parameters(kind).items() if usual}


def _shown(value: Any) -> str:
    if isinstance(value, Router):
        return _written(value, "+")
    if isinstance(value, tuple):
        return "+".join(x if isinstance(x, str) else f"{x[0]}:{x[1]}" for x in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def _pairs(who: str, field: str, text: str) -> tuple[tuple[str, float], ...]:
    pairs = []
    for item in text.split("+"):
        name, _, number = item.partition(":")
        try:
            pairs.append((name, float(number)))
        except ValueError:
            raise InputError(
                f"{who}: {field} are class:seconds+class:seconds, got {text!r}", value=text
            ) from None
    return tuple(pairs)


def _value(who: str, field: str, text: str, hint: Any) -> Any:
    """Read a value as the type of its field asks for."""
    several = get_origin(hint) in (Union, types.UnionType, Literal)
    choices = get_args(hint) if several else (hint,)
    if any(isinstance(one, type) and issubclass(one, Router) for one in choices):
        return _made(ROUTERS, text, "+")
    if _DEADLINES in choices:
        return _pairs(who, field, text)
    if tuple[str, ...] in choices:
        return tuple(text.split("+"))
    if hint is bool:
        if text not in ("true", "false"):
            raise InputError(f"{who}: {field} must be true or false, got {text!r}")
        return text == "true"
    if all(isinstance(choice, str) for choice in choices):
        if text not in choices:
            raise InputError(f"{who}: {field} is {text!r}{nearest(text, choices)}")
        return text
    if text == "none" and type(None) in choices:
        return None
    if str in choices:
        return text
    if int not in choices and float not in choices:
        raise InputError(
            f"{who}: {field} cannot be written as text: make the {who.split()[0]} in Python",
            field=field,
        )
    whole = float not in choices
    value = parse_whole(text) if whole else parse_real(text)
    if value is None or (whole and "." in text):
        kind = "a whole number >= 0" if whole else "a finite number >= 0"
        raise InputError(f"{who}: {field} must be {kind}, got {shown(text)}", value=text)
    return value
