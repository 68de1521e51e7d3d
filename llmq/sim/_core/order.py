"""Rows in the order of a policy's key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmq.policies.contract.view import Ints
from llmq.sim._core.state import State

__all__ = ["InOrder", "ordered"]

MOST = 1 << 62
NONE = np.zeros(0, np.int64)


@dataclass(slots=True)
class InOrder:
    """Some lanes with their rows in key order; arrays of all lanes are read and written so."""

    lanes: Ints
    width: int  # of all lanes
    index: Ints  # places in the columns of an array, one after the other; shape (lanes, rows)

    @classmethod
    def of(cls, s: State, columns: Sequence[np.ndarray], lanes: Ints) -> InOrder:
        """Put the rows of some lanes in the order of a key."""
        return cls(lanes, s.width, ordered(s, columns, lanes) * s.width + lanes[:, None])

    def take(self, column: np.ndarray) -> np.ndarray:
        """Read an array of all lanes."""
        return column.T.reshape(-1)[self.index]

    def places(self, some: np.ndarray) -> tuple[Ints, Ints]:
        """Lanes and slots of the rows that a mask in key order chooses."""
        if not some.any():
            return NONE, NONE
        slots, lanes = np.divmod(self.index[some], self.width)
        return lanes, slots

    def put(self, column: np.ndarray, values: np.ndarray | int) -> None:
        """Write into an array of all lanes, which is stored column by column."""
        assert column.flags.f_contiguous  # or what is written would be lost in a copy
        flat = column.T.reshape(-1)
        flat[self.index] = values


def ordered(s: State, columns: Sequence[np.ndarray], lanes: Ints) -> Ints:
    """Sort rows by columns, the most significant first, then by arrival; the absent come last."""
    absent = ~s.present[lanes]
    row = s.row[lanes]
    shape = s.present.shape
    every = len(lanes) == len(s.present)
    keys = [np.broadcast_to(column, shape) for column in columns if column is not s.row]
    keys = keys if every else [column[lanes] for column in keys]
    packed = _packed(keys, row, s.data.n, absent)
    if packed is not None:
        return np.argsort(packed, axis=1)
    return np.lexsort((row, *reversed(keys), absent), axis=1)


def _packed(keys: Sequence[np.ndarray], row: Ints, n: int, absent: np.ndarray) -> Ints | None:
    """Put whole-numbered columns into one number; None where they do not fit."""
    if any(key.dtype.kind not in "bui" for key in keys):
        return None
    span, found = n + 1, row
    for key in reversed(keys):
        if key.dtype.kind == "b":
            low, wide = 0, 2
        else:
            low, high = int(key.min(initial=0)), int(key.max(initial=0))
            wide = high - low + 1
        if wide == 1:
            continue
        if span * wide > MOST // 2:
            return None
        found = found + (key.astype(np.int64) - low) * span
        span *= wide
    return np.where(absent, MOST, found)
