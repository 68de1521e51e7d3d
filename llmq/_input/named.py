"""Things that users choose by name: those of the library, and those that users register."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from llmq.errors import InputError, nearest, shown

__all__ = ["Named", "Table"]


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """As users write it."""


T = TypeVar("T", bound=Named)


class Table(Generic[T]):
    """A table of things by name; ``what`` is what messages call one of them."""

    def __init__(self, what: str, ours: Iterable[T]) -> None:
        self.what = what
        self.ours = {one.name: one for one in ours}
        self.registered: dict[str, T] = {}

    def all(self) -> dict[str, T]:
        """Return everything, users' own first: that is the order in which files are recognised."""
        return {**self.registered, **self.ours}

    def named(self, name: str) -> T:
        """Return one by its name, or refuse with the nearest known one."""
        known = self.all()
        if name not in known:
            raise InputError(f"unknown {self.what} {shown(name)}{nearest(name, known)}", value=name)
        return known[name]

    def add(self, one: T) -> None:
        """Add one; the same again changes nothing."""
        if not self.same(self.all().get(one.name, one), one):
            raise InputError(
                f"another {self.what} is called {one.name!r}: choose another name", value=one.name
            )
        if one.name not in self.ours:
            self.registered[one.name] = one

    def same(self, old: T, new: T) -> bool:
        """Whether one that is known and one that is added are the same."""
        return old == new
