"""The blocks of a policy, asked for all lanes at once, or one after the other where they say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llmq.policies.contract.view import View
from llmq.sim._core.state import State

__all__ = ["asked"]


def asked(s: State, view: View, function: Callable[[View], Any]) -> Any:
    """Evaluate a gate, key, mark, trigger or number of tokens."""
    if not getattr(function, "one_run_only", False):
        return function(view)
    found: Any = None
    for lane, own, slots in s.each(view):
        answer = function(own)
        if found is None:
            found = _empty(answer, s)
        _put(found, answer, lane, slots)
    return found


def _empty(answer: Any, s: State) -> Any:
    """Room for the answers of all lanes."""
    if answer is None:
        return None
    if isinstance(answer, tuple | list):
        return [_empty(one, s) for one in answer]
    one = np.asarray(answer)
    shape = (s.width, 1) if one.size == 1 and one.ndim == 0 else s.row.shape
    return np.zeros(shape, one.dtype)


def _put(found: Any, answer: Any, lane: int, slots: np.ndarray) -> None:
    """Write down the answer of a lane."""
    if isinstance(answer, tuple | list):
        for one, part in zip(found, answer, strict=True):
            _put(one, part, lane, slots)
    elif answer is not None and found is not None:
        one = np.asarray(answer)
        found[lane, 0 if one.ndim == 0 else slots] = one
