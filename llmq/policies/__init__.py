"""How work is ordered: one file per system, each a composition of blocks.

To add a policy write one file, one line in ``ALL`` and one exact schedule in the tests; the
contract suite then runs on it unasked.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_origin, get_type_hints

from llmq._input.checked import checked
from llmq._input.numbers import parse_real, parse_whole
from llmq.errors import InputError, nearest, shown
from llmq.policies.contract.blocks import Blocks, Policy
from llmq.policies.contract.routers import (
    ROUTERS,
    LeastKV,
    LeastWork,
    PowerOfD,
    PriceWeighted,
    Random,
    RoundRobin,
    Router,
    ShortestQueue,
)
from llmq.policies.fastertransformer import FasterTransformer
from llmq.policies.maxweight import MaxWeight
from llmq.policies.orca import Orca
from llmq.policies.pascal import PASCAL
from llmq.policies.priority import Priority
from llmq.policies.rad import RAD
from llmq.policies.ranked import FCFS, RR
from llmq.policies.sarathi import Sarathi
from llmq.policies.simple_chunking import SimpleChunking
from llmq.policies.slai import SLAI
from llmq.policies.trail import TRAIL
from llmq.policies.vllm import VLLM

__all__ = [
    "ALL",
    "Blocks",
    "FCFS",
    "FasterTransformer",
    "LeastKV",
    "LeastWork",
    "MaxWeight",
    "Orca",
    "PASCAL",
    "Policy",
    "PowerOfD",
    "PriceWeighted",
    "Priority",
    "RAD",
    "RR",
    "Random",
    "RoundRobin",
    "Router",
    "SLAI",
    "Sarathi",
    "ShortestQueue",
    "SimpleChunking",
    "TRAIL",
    "VLLM",
    "parse",
    "text",
]

ALL = (
    Sarathi,
    VLLM,
    Orca,
    FasterTransformer,
    SimpleChunking,
    RAD,
    SLAI,
    PASCAL,
    FCFS,
    RR,
    MaxWeight,
    Priority,
    TRAIL,
)

# Names that people try; the most similar word would name another scheduler.
_SERVERS = ("sglang", "trt-llm", "trtllm", "tensorrt-llm", "tgi", "lmdeploy", "dynamo", "llama.cpp")


@checked
def parse(text: str) -> Policy:
    """Read a policy from its command-line form.

    Parameters
    ----------
    text : str
        ``name`` or ``name:field=value,field=value``.

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
    """
    name, _, rest = text.partition(":")
    known = {policy.name: policy for policy in ALL}
    if name not in known:
        if name.lower() in _SERVERS:
            raise InputError(
                f"no policy {shown(name)}: the scheduler of this server is not modelled; vllm "
                "(v1) and sarathi, which mix chunks of prompts with decodes, are the nearest",
                value=name,
            )
        raise InputError(f"no policy {shown(name)}{nearest(name, known)}", value=name)
    kind: Any = known[name]
    hints = {key: hint for key, hint in get_type_hints(kind).items() if key in kind.__slots__}
    values: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        field, equals, value = (part.strip() for part in item.partition("="))
        if field not in hints:
            raise InputError(
                f"policy {name}: no field {field!r}{nearest(field, hints)}", value=field
            )
        if not equals:
            raise InputError(f"policy {name}: {field} needs a value: {field}=...", value=field)
        values[field] = _value(name, field, value, hints[field])
    made: Policy = kind(**values)
    return made


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
        Its name and the fields that differ from their defaults; :func:`parse` reads it back.

    Examples
    --------
    >>> text(Sarathi(token_budget=512, order="queue"))
    'sarathi:token_budget=512,order=queue'
    """
    words = []
    for field in dataclasses.fields(policy):  # type: ignore[arg-type]  # policies are dataclasses
        value = getattr(policy, field.name)
        made = field.default_factory
        usual = field.default if made is dataclasses.MISSING else made()
        if value != usual:
            words.append(f"{field.name}={_shown(value)}")
    return ":".join([policy.name, ",".join(words)] if words else [policy.name])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(x if isinstance(x, str) else f"{x[0]}:{x[1]}" for x in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(getattr(value, "name", value))


def _pairs(policy: str, text: str) -> tuple[tuple[str, float], ...]:
    pairs = []
    for item in text.split("+"):
        name, _, number = item.partition(":")
        try:
            pairs.append((name, float(number)))
        except ValueError:
            raise InputError(
                f"policy {policy}: deadlines are class:seconds+class:seconds, got {text!r}",
                value=text,
            ) from None
    return tuple(pairs)


def _value(policy: str, field: str, text: str, hint: Any) -> Any:
    if field == "route":
        routers = {router.name: router for router in ROUTERS}
        if text not in routers:
            raise InputError(f"no router {text!r}{nearest(text, routers)}", value=text)
        return routers[text]()
    choices = get_args(hint)
    if field == "deadlines":
        return _pairs(policy, text)
    if get_origin(hint) is tuple:
        return tuple(text.split("+"))
    if hint is bool:
        if text not in ("true", "false"):
            raise InputError(f"policy {policy}: {field} must be true or false, got {text!r}")
        return text == "true"
    if choices and all(isinstance(choice, str) for choice in choices):
        if text not in choices:
            raise InputError(f"policy {policy}: {field} is {text!r}{nearest(text, choices)}")
        return text
    if text == "none" and type(None) in choices:
        return None
    whole = hint is int or int in choices
    value = parse_whole(text) if whole else parse_real(text)
    if value is None or (whole and "." in text):
        kind = "a whole number >= 0" if whole else "a finite number >= 0"
        raise InputError(f"policy {policy}: {field} must be {kind}, got {shown(text)}", value=text)
    return value
