"""Policies and routers by name: those of the library, and those that users register."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, get_type_hints

from llmq._input.named import Table
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
    "fields_of",
    "parameters",
    "policy_kinds",
    "register_policy",
    "register_router",
    "router_kinds",
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
