"""The blocks of a policy, asked for all lanes at once, or for one lane after the other.

A formula that holds for one run only, such as ``if view.decoding.any()``, would give every lane the
answer of all of them. So answers are compared with those for a single lane, in each of the first
steps and in some of the later ones; where they differ the block is asked lane by lane from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llmq.policies.contract.view import View
from llmq.sim._core.state import State

__all__ = ["OneRunOnlyError", "asked"]

FIRST, LATER = 64, 256  # steps in which answers are compared: all so many, then one in so many


class OneRunOnlyError(Exception):
    """A block is no array formula; its argument is the name of the block."""


def asked(s: State, view: View, name: str, function: Callable[[View], Any]) -> Any:
    """Evaluate a gate, key, mark, trigger or number of tokens."""
    if name in s.one_run_only or getattr(function, "one_run_only", False):
        return _one_by_one(s, view, name, function)
    if s.steps > FIRST and s.steps % LATER:
        return function(view)
    try:
        answer = function(view)
        good = _agrees(s, view, name, function, answer)
    except (ValueError, IndexError, TypeError) as error:
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
    rows: list[Any] | None = None
    lanes: list[Any] = []
    for lane, own, slots in s.each(view):
        of_rows, of_lane = _parts(name, function(own))
        if rows is None:
            rows = [np.zeros(s.row.shape, np.asarray(x).dtype, order="F") for x in of_rows]
            lanes = [np.zeros(s.width, np.asarray(x).dtype) for x in of_lane]
        for column, part in zip(rows, of_rows, strict=True):
            column[lane, slots] = part
        for column, part in zip(lanes, of_lane, strict=True):
            column[lane] = np.asarray(part).item()
    assert rows is not None  # a block is asked where somebody is
    return _joined(name, rows, lanes)


def _agrees(s: State, view: View, name: str, function: Callable[[View], Any], answer: Any) -> bool:
    """Whether one of the lanes, another in each step, gets what it would get alone."""
    present = np.flatnonzero(s.present.any(axis=1))
    if not present.size:
        return True
    lane = int(present[s.steps % present.size])
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
