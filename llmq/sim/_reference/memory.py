"""The KV memory of an engine, as a count of free blocks.

A request that is served holds at least the blocks of its tokens; who ends or is evicted gives them
back. :class:`llmq.sim._reference.prefix.PrefixEngine` keeps blocks that can be found again instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from llmq.policies.contract.blocks import Blocks
from llmq.policies.contract.view import Batch, View
from llmq.sim._reference.rows import Row

__all__ = ["CountedMemory"]

Planner: TypeAlias = Callable[[View, Blocks, int], Batch]


class CountedMemory:
    """What an engine does with its KV blocks; ``free`` counts them, ``rows`` are who is present."""

    free: float
    rows: list[Row]

    def planner(self) -> Planner | None:
        """Return the fill rule of this memory."""
        return None

    def reserve(self, row: Row, tokens: int, held: int) -> None:
        """Let a request hold blocks."""
        self.free -= held - row.held

    def release(self, row: Row) -> None:
        """Take the blocks of a request back."""
        self.free += row.held

    def occupied(self) -> float:
        """Count the blocks that somebody holds."""
        return sum(row.held for row in self.rows)

    def left_by(self, view: View, batch: Batch) -> float:
        """Count the blocks that a plan leaves."""
        back = sum(int(view.held[i]) for i in batch.evict)
        pairs = zip(batch.rows, batch.reserve, strict=True)
        return self.free + back - sum(held - self.rows[i].held for i, held in pairs)
