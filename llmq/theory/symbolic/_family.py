"""Formulas that belong together: made at once, found by attribute or by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.result import Kind
from llmq.theory.symbolic._formula import Formula

if TYPE_CHECKING:
    from sympy import Expr

__all__ = ["Formulas", "family"]


@checked(record=True)
@dataclass(frozen=True, slots=True, repr=False)
class Formulas:
    """Formulas that belong together, by attribute or by name.

    Parameters
    ----------
    name : str
        What they describe.
    members : mapping of str to Formula
        The formulas.

    Examples
    --------
    >>> from llmq.theory.symbolic import law
    >>> list(law("mg1"))
    ['utilisation', 'wait', 'sojourn', 'queue_mean']
    >>> law("mg1")["wait"] == law("mg1").wait
    True
    """

    name: str
    members: Mapping[str, Formula]

    def items(self) -> list[tuple[str, Formula]]:
        """Return names and formulas.

        Returns
        -------
        list of tuple of str and Formula
            In the order of the theory.
        """
        return list(self.members.items())

    def __getitem__(self, key: str) -> Formula:
        if key not in self.members:
            raise InputError(f"{self.name} has no {key!r}{nearest(str(key), self.members)}")
        return self.members[key]

    def __getattr__(self, key: str) -> Formula:
        # Copying and pickling ask for special names before the fields exist.
        if key.startswith("_") or key in ("name", "members"):
            raise AttributeError(key)
        if key not in self.members:
            raise AttributeError(f"{self.name} has no {key!r}{nearest(key, self.members)}")
        return self.members[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"Formulas({self.name}: {', '.join(self.members)})"


@checked
def family(
    name: str,
    fields: Mapping[str, tuple[Any, ...]],
    *,
    kind: Kind,
    assumptions: tuple[str, ...],
    source: str,
    load: Expr | None = None,
    arguments: tuple[str, ...] | None = None,
) -> Formulas:
    """Make formulas that share their symbols, kind, assumptions and source."""
    parts = [field[1] for field in fields.values()] + ([] if load is None else [load])
    names = arguments or tuple(sorted({str(s) for part in parts for s in part.free_symbols}))
    members = {
        key: Formula(
            name=key.replace("_", " "),
            letter=letter,
            expression=expression,
            arguments=names,
            kind=special[0] if special else kind,
            assumptions=assumptions,
            source=source,
            # The load itself may be asked for outside the domain of the others.
            load=None if expression == load else load,
        )
        for key, (letter, expression, *special) in fields.items()
    }
    return Formulas(name, members)
