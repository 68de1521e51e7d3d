"""Docstrings agree with signatures: every parameter is documented, and no other."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import llmq

SECTIONS = (
    "Parameters",
    "Returns",
    "Yields",
    "Raises",
    "Warns",
    "Attributes",
    "Notes",
    "References",
    "See Also",
    "Examples",
)


def section(text: str, title: str) -> str | None:
    """Body of a numpydoc section of a cleaned docstring."""
    ends = "|".join(SECTIONS)
    match = re.search(
        rf"^{title}\n-{{3,}}\n(.*?)(?=^(?:{ends})\n-{{3,}}|\Z)", text, re.MULTILINE | re.DOTALL
    )
    return match[1] if match else None


def documented(text: str) -> list[str]:
    """Names of the Parameters section; ``a, b : type`` documents two."""
    body = section(text, "Parameters") or ""
    heads = [line for line in body.splitlines() if line and not line.startswith(" ")]
    return [name.strip() for head in heads for name in head.split(" :")[0].split(",")]


def parameters(function: Any) -> list[str]:
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        star.get(p.kind, "") + name
        for name, p in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    ]


def is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def constructed(kind: type) -> bool:
    """Whether the class has a signature of its own to document."""
    if is_protocol(kind) or issubclass(kind, enum.Enum):
        return False
    own = "__init__" in vars(kind) or "__new__" in vars(kind)
    return own or dataclasses.is_dataclass(kind)


def faults_of(name: str, thing: Any, *, signature: bool = True) -> list[str]:
    text = inspect.getdoc(thing) or ""
    if not text:
        return [f"{name}: no docstring"]
    found = []
    first = text.split("\n\n")[0]
    if not first.rstrip().endswith((".", ":")):
        found.append(f"{name}: the first paragraph is not a sentence: {first!r}")
    if signature and sorted(mine := parameters(thing)) != sorted(theirs := documented(text)):
        found.append(f"{name}: signature {mine}, documented {theirs}")
    if inspect.isfunction(thing) and signature:
        returns = inspect.signature(thing).return_annotation
        said = section(text, "Returns") or section(text, "Yields")
        # A context manager that yields nothing returns nothing to its user.
        nothing = (None, "None", inspect.Signature.empty, "NoReturn", "Iterator[None]")
        if returns not in nothing and not said:
            found.append(f"{name}: returns {returns}, but has no Returns section")
    return found


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties a class defines itself."""
    for name, value in vars(kind).items():
        if name == "__call__" or not name.startswith("_"):
            if isinstance(value, classmethod | staticmethod):
                yield name, value.__func__
            elif inspect.isfunction(value) or isinstance(value, property):
                yield name, value


def is_private(name: str) -> bool:
    return any(re.match(r"_[^_]", part) for part in name.split("."))


def handed_on() -> set[int]:
    """What public modules give to users, wherever it is defined."""
    public = [llmq, *(module for module in MODULES if not is_private(module.__name__))]
    return {id(getattr(m, name)) for m in public for name in getattr(m, "__all__", ())}


def owes(thing: Any, public: bool) -> bool:
    """Whether the parameters must be documented: of private code only where some are."""
    return public or bool(documented(inspect.getdoc(thing) or ""))


def audit(module: Any, users: set[int] | None = None) -> list[str]:
    found = [] if module.__doc__ else [f"{module.__name__}: no docstring"]
    users = set() if users is None else users
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        full = f"{module.__name__}.{name}"
        if getattr(thing, "__module__", None) != module.__name__:
            continue  # a constant, or audited where it is defined
        public = not is_private(module.__name__) or id(thing) in users
        if inspect.isfunction(thing):
            found += faults_of(full, thing, signature=owes(thing, public))
        elif inspect.isclass(thing):
            found += faults_of(full, thing, signature=constructed(thing) and owes(thing, public))
            for method, value in members(thing):
                plain = isinstance(value, property) or is_protocol(thing)
                found += faults_of(
                    f"{full}.{method}", value, signature=not plain and owes(value, public)
                )
    return found


MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(llmq.__path__, "llmq.")
    if not found.name.endswith("__main__")
]


def test_docstrings_agree_with_signatures():
    users = handed_on()
    found = [fault for module in [llmq, *MODULES] for fault in audit(module, users)]
    assert not found, "\n".join(found)


def test_modules_with_public_code_list_it():
    """Without ``__all__`` the audit would see nothing."""
    missing = [
        module.__name__
        for module in MODULES
        if not hasattr(module, "__all__")
        and any(
            not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__
            for name, thing in vars(module).items()
            if inspect.isfunction(thing) or inspect.isclass(thing)
        )
    ]
    assert not missing


@pytest.mark.parametrize("name", [n for n in llmq.__all__ if inspect.isfunction(getattr(llmq, n))])
def test_public_functions_have_an_example(name):
    assert ">>> " in (section(inspect.getdoc(getattr(llmq, name)), "Examples") or "")


def good(a: int, b: int, *rest: int, c: int = 0, **more: int) -> int:
    """Add.

    Parameters
    ----------
    a, b : int
        Numbers.
    *rest
        More numbers.
    c : int
        Another:

        with a list.
    **more
        Named numbers.

    Returns
    -------
    int
        The sum.
    """
    return a + b + sum(rest) + c + sum(more.values())


def lacks(a: int, b: int) -> None:
    """Forget b.

    Parameters
    ----------
    a : int
        A number.
    """


def invents(a: int) -> None:
    """Document too much.

    Parameters
    ----------
    a : int
        A number.
    z : int
        Nobody takes it.
    """


def silent(a: int) -> int:
    """Keep the answer.

    Parameters
    ----------
    a : int
        A number.
    """
    return a


def bare(a: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lacks, "signature ['a', 'b'], documented ['a']"),
        (invents, "signature ['a'], documented ['a', 'z']"),
        (silent, "no Returns section"),
        (bare, "no docstring"),
    ],
)
def test_the_audit_sees(function, fault):
    (found,) = faults_of("f", function)
    assert fault in found


def test_the_audit_lets_pass():
    assert faults_of("f", good) == []
    assert documented(inspect.getdoc(good)) == ["a", "b", "*rest", "c", "**more"]


def silent(a: int) -> int:
    """Say one line."""
    return a


def test_private_code_owes_a_line_and_no_false_one():
    assert is_private("llmq.sim._fast.queue")
    assert not is_private("llmq.__main__")
    assert faults_of("silent", silent, signature=owes(silent, public=False)) == []
    assert len(faults_of("silent", silent, signature=owes(silent, public=True))) == 2
    assert faults_of("lacks", lacks, signature=owes(lacks, public=False))
    assert id(llmq.simulate) in handed_on()
    assert id(llmq.theory.region.stability_region) in handed_on()
