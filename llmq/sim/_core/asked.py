"""The blocks of a policy, asked for all lanes at once, or for one lane after the other.

A formula that holds for one run only, such as ``if view.decoding.any()``, would give every lane the
answer of all of them. So answers are compared with those for a single lane, in each of the first
steps and in some of the later ones; where they differ the block is asked lane by lane from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from llmq.errors import PolicyError
from llmq.policies.contract.blocks import Blocks
from llmq.policies.contract.checks import budget_of, gate_of, key_of, mark_of
from llmq.policies.contract.view import View
from llmq.sim._core.state import State

__all__ = ["OneRunOnlyError", "asked"]

# Answers are compared in all of the first steps and one in so many of the later ones, for so many
# lanes.
FIRST, LATER, LANES = 256, 64, 8


class OneRunOnlyError(Exception):
    """A block is no array formula; its argument is the name of the block."""


# The checks that a policy keeps the contract; a trigger has none.
CHECKS: dict[str, Callable[[Blocks, View], Any]] = {
    "gate": gate_of,
    "key": key_of,
    "mark": mark_of,
    "tokens": budget_of,
}


def asked(s: State, view: View, name: str, blocks: Blocks) -> Any:
    """Evaluate a gate, key, mark, trigger or number of tokens."""
    block = blocks.budget.tokens if name == "tokens" else getattr(blocks, name)
    ask = partial(CHECKS[name], blocks) if name in CHECKS else blocks.trigger
    if name in s.one_run_only or getattr(block, "one_run_only", False):
        return _one_by_one(s, view, name, ask)
    if s.steps > FIRST and s.steps % LATER:
        return ask(view)
    try:
        answer = ask(view)
        good = _agrees(s, view, name, ask, answer)
    except (PolicyError, ValueError, IndexError, TypeError) as error:
        if name in CHECKS:
            # What is broken for one run too is refused; the reference says how.
            for _, own, _ in s.each(view)[:1]:
                ask(own)
        raise OneRunOnlyError(name) from error
    if not good:
        raise OneRunOnlyError(name)
    return answer


def _parts(name: str, answer: Any) -> tuple[list[Any], list[Any]]:
    """Split an answer into what it says of rows and what it says of lanes."""
    if name == "gate":
        mask, wake = answer
        return [mask], [np.inf if wake is None else wake]
    if name == "key":
        return list(answer), []
    return ([answer], []) if name == "mark" else ([], [answer])


def _joined(name: str, rows: list[Any], lanes: list[Any]) -> Any:
    """Put the parts of an answer together."""
    if name == "gate":
        return rows[0], lanes[0]
    if name == "key":
        return tuple(rows)
    return (rows or lanes)[0]


def _one_by_one(s: State, view: View, name: str, function: Callable[[View], Any]) -> Any:
    """Ask for one lane after the other; nobody is asked for lanes that are empty."""
    rows: list[Any] = []
    lanes: list[Any] = []
    for lane, own, slots in s.each(view):
        of_rows, of_lane = _parts(name, function(own))
        # Nothing but the lane itself is compared by its key: another lane may have more columns.
        _room(rows, of_rows, s.row.shape)
        _room(lanes, of_lane, (s.width,))
        for column, part in zip(rows, of_rows, strict=False):
            column[lane, slots] = part
        for column, part in zip(lanes, of_lane, strict=True):
            column[lane] = np.asarray(part).item()
    return _joined(name, rows, lanes)


def _room(columns: list[Any], answers: list[Any], shape: tuple[int, ...]) -> None:
    """Make columns, or wider ones, for the answers of a lane."""
    for place, answer in enumerate(answers):
        kind = np.asarray(answer).dtype
        if place == len(columns):
            columns.append(np.zeros(shape, kind, order="F"))
        elif not np.can_cast(kind, columns[place].dtype, "safe"):
            wide = np.result_type(kind, columns[place].dtype)
            columns[place] = columns[place].astype(wide, order="F")


def _agrees(s: State, view: View, name: str, function: Callable[[View], Any], answer: Any) -> bool:
    """Whether some of the lanes, others in each step, get what they would get alone."""
    present = np.roll(np.flatnonzero(s.present.any(axis=1)), -LANES * s.steps)
    some = present[:LANES].tolist()
    return all(_agrees_in(s, view, name, function, answer, lane) for lane in some)


def _agrees_in(
    s: State, view: View, name: str, function: Callable[[View], Any], answer: Any, lane: int
) -> bool:
    """Whether a lane gets what it would get alone."""
    own, slots = s.one(view, lane)
    rows, lanes = _parts(name, answer)
    own_rows, own_lanes = _parts(name, function(own))
    if len(rows) != len(own_rows) or len(lanes) != len(own_lanes):
        return False
    found = [np.broadcast_to(x, s.row.shape)[lane, slots] for x in rows]
    # One number for all lanes, or one for each.
    found += [np.broadcast_to(np.asarray(x).reshape(-1), (s.width,))[lane] for x in lanes]
    alone = [*own_rows, *(np.asarray(x).item() for x in own_lanes)]
    return all(
        np.array_equal(one, other, equal_nan=np.asarray(other).dtype.kind == "f")
        for one, other in zip(found, alone, strict=True)
    )
