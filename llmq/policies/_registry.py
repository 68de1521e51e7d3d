"""Policies and routers by name and as text: those of the library, and those that users register."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from llmq._input.checked import checked
from llmq._input.named import Table
from llmq._input.numbers import parse_real, parse_whole
from llmq.errors import InputError, nearest, shown
from llmq.policies.contract.blocks import Blocks, Policy
from llmq.policies.contract.checks import PAGE, ROUTER_PAGE
from llmq.policies.contract.routers import ROUTERS as OUR_ROUTERS
from llmq.policies.contract.routers import Router, Signals
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
    "POLICIES",
    "ROUTERS",
    "Kinds",
    "defaults",
    "fields_of",
    "parameters",
    "parse",
    "policy_kinds",
    "register_policy",
    "register_router",
    "router_kinds",
    "text",
]

# Names that people try; the most similar word would name another scheduler.
_SERVERS = ("sglang", "trt-llm", "trtllm", "tensorrt-llm", "tgi", "lmdeploy", "dynamo", "llama.cpp")
_DEADLINES = tuple[tuple[str, float], ...]

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

# What a policy may look at beyond what every policy sees, and what a router may look at.
_POLICY_SEES = ("prompt", "output")
_ROUTER_SEES = tuple(name for name in Signals._fields if name != "draw")
# A name is a word of the command line: `name:field=value,field=value`.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Kind(Protocol):
    """A class of policies or of routers."""

    @property
    def name(self) -> str:
        """As users write it."""


K = TypeVar("K", bound=Kind)


class Kinds(Table[K]):
    """A table of classes; one that is defined again (a cell that is run twice) replaces itself."""

    def same(self, old: K, new: K) -> bool:
        """Whether two classes are one: the same words in the same module."""
        mine, other = _place(new), _place(old)
        return old is new or (mine == other and old.name not in self.ours)


POLICIES: Kinds[type[Policy]] = Kinds("policy", ALL)
ROUTERS: Kinds[type[Router]] = Kinds("router", OUR_ROUTERS)

P = TypeVar("P", bound=type[Policy])
R = TypeVar("R", bound=type[Router])


def policy_kinds() -> Mapping[str, type[Policy]]:
    """Return the policies that can be named, those that were registered first.

    Returns
    -------
    mapping of str to class
        By name.

    Examples
    --------
    >>> policy_kinds()["sarathi"](token_budget=512).token_budget
    512
    """
    return POLICIES.all()


def router_kinds() -> Mapping[str, type[Router]]:
    """Return the routers that can be named, those that were registered first.

    Returns
    -------
    mapping of str to class
        By name.

    Examples
    --------
    >>> router_kinds()["power-of-d"](3).d
    3
    """
    return ROUTERS.all()


def register_policy(kind: P) -> P:
    """Let a policy of one's own be named like those of the library; may decorate its class.

    From here on :func:`llmq.policies.parse`, configuration files, every command that takes a
    policy, and ``llmq policies`` know it. Parameters are the fields of the class.

    Parameters
    ----------
    kind : class
        A frozen dataclass with ``name``, ``sees``, ``token_budget`` and ``blocks``.

    Returns
    -------
    class
        The same.

    Raises
    ------
    InputError
        No policy, or a name that is taken or cannot be written on a command line.

    Examples
    --------
    >>> register_policy(Sarathi) is Sarathi
    True
    """
    who = _checked("policy", kind, ("sees", "token_budget", "blocks"), PAGE)
    _check_sees(who, kind.sees, _POLICY_SEES, PAGE)
    if not _needed(kind):
        blocks: Any = kind().blocks
        if not isinstance(blocks, Blocks):
            raise InputError(
                f"{who}: blocks must be Blocks, got {type(blocks).__name__}: write it as a "
                f"property that returns Blocks(...) ({PAGE})",
                field="blocks",
            )
    POLICIES.add(kind)
    return kind


def register_router(kind: R) -> R:
    """Let a router of one's own be named like those of the library; may decorate its class.

    From here on ``route=name`` of every policy that has a ``route`` knows it, on the command line
    and in configuration files. Parameters are the fields of the class.

    Parameters
    ----------
    kind : class
        A frozen dataclass, derived from :class:`llmq.policies.Router`, with ``name`` and ``split``
        or ``pick``.

    Returns
    -------
    class
        The same.

    Raises
    ------
    InputError
        No router, or a name that is taken or cannot be written on a command line.

    Examples
    --------
    >>> from llmq.policies import LeastWork
    >>> register_router(LeastWork) is LeastWork
    True
    """
    who = _checked("router", kind, (), ROUTER_PAGE)
    if not issubclass(kind, Router):
        raise InputError(f"{who}: a router is derived from llmq.policies.Router ({ROUTER_PAGE})")
    if kind.split is Router.split and kind.pick is Router.pick:
        raise InputError(
            f"{who} chooses nothing: write split (a choice beforehand) or pick (a choice at each "
            f"arrival) ({ROUTER_PAGE})"
        )
    _check_sees(who, kind.sees, _ROUTER_SEES, ROUTER_PAGE)
    ROUTERS.add(kind)
    return kind


def fields_of(kind: type) -> dict[str, Any]:
    """Return the types of the parameters of a policy or router, by name."""
    hints = get_type_hints(kind)
    return {name: hints[name] for name in parameters(kind)}


def parameters(kind: type) -> dict[str, Any]:
    """Return the parameters of a policy or router with what makes their default, or None."""
    made: Any = kind
    missing = dataclasses.MISSING
    found: dict[str, Any] = {}
    for field in dataclasses.fields(made):
        if field.init:
            plain = None if field.default is missing else functools.partial(_same, field.default)
            found[field.name] = plain if field.default_factory is missing else field.default_factory
    return found


def _same(value: Any) -> Any:
    return value


def _needed(kind: type) -> list[str]:
    """Parameters without a default."""
    return [name for name, usual in parameters(kind).items() if usual is None]


def _place(kind: Kind) -> tuple[str, str]:
    """Where a class is written."""
    made: Any = kind
    return made.__module__, made.__qualname__


def _checked(what: str, kind: Any, needs: tuple[str, ...], page: str) -> str:
    """Refuse what is no class of policies or routers; how messages call it."""
    if not isinstance(kind, type):
        raise InputError(
            f"register the class of a {what}, not {shown(kind)}: register_{what}(Mine) ({page})",
            value=kind,
        )
    who = f"{what} class {kind.__name__}"
    options: Any = getattr(kind, "__dataclass_params__", None)
    if options is None or not options.frozen:
        raise InputError(
            f"{who} is no frozen dataclass: write @dataclass(frozen=True) above it; its parameters "
            f"never change ({page})"
        )
    name: Any = getattr(kind, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f'{who}: name must be a word of the command line such as "mine" or "mine-2", got '
            f"{shown(name)} ({page})",
            value=name,
        )
    for need in needs:
        if not hasattr(kind, need) and need not in _needed(kind):
            raise InputError(f"{who} has no {need}: {_WHY[need]} ({page})", field=need)
    try:
        fields_of(kind)
    except NameError as error:
        raise InputError(
            f"{who}: the types of its fields use a name that its module lacks ({error}): define "
            f"the class and its types at the top of a module ({page})"
        ) from None
    return who


_WHY = {
    "sees": 'write sees: ClassVar[frozenset[str]] = frozenset(), or {"output"} where its rules '
    "look at output lengths",
    "token_budget": "write token_budget: int | None = None; None takes the engine's",
    "blocks": "write it as a property that returns Blocks(...)",
}


def _check_sees(who: str, sees: Any, known: tuple[str, ...], page: str) -> None:
    """Refuse a list of what is seen that holds unknown names."""
    if not isinstance(sees, frozenset | set):
        raise InputError(
            f"{who}: sees must be a set of names such as {{{known[-1]!r}}}, got {shown(sees)} "
            f"({page})",
            value=sees,
        )
    for name in sorted(map(str, sees - set(known))):
        raise InputError(
            f"{who}: sees lists {name!r}, which nobody shows{nearest(name, known)} ({page})",
            value=name,
        )


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
