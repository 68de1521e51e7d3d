"""KV memory of the completion calendar: free blocks, evictions.

Memory is exact in blocks, but rarely counted. ``room`` is the tokens in the blocks that nobody has
set aside: the decodes are in these. While their tokens and a block for each fit there, nobody has
to look.
"""

from __future__ import annotations

import math
from heapq import heapify, heappush

from llmq.sim.results._log import Tally

__all__ = ["Memory"]


class Memory:
    """What a calendar knows of its KV blocks; the rest of the state is :class:`State`'s."""

    __slots__ = ("counting", "next", "room")

    block: int
    counting: bool
    evicted: list[int]
    grow: list[int]
    grows: bool
    heap: list[int]
    lag: int
    made: dict[int, int]
    mixed: bool
    most: int
    next: float
    output: list[int]
    partial: list[tuple[int, int, int]]
    prompt: list[int]
    room: float
    stride: int
    tally: Tally

    def kept(self, row: int) -> int:
        """Count the tokens in the blocks that are kept for a row until it ends."""
        size = self.prompt[row] + self.most
        return size + -size % self.block

    def _booked(self, goal: int, have: int) -> int:
        """Tokens in the blocks that a started prefill holds."""
        return goal + -goal % self.block

    def free(self, kv: int, tick: int) -> float:
        """Count the free blocks."""
        block = self.block
        if not self.grows:
            return self.room // block
        if not self.counting:
            self.counting = True
            for row, left in self._ends(tick):
                self.grow[(tick - self._tokens(row, left)) % block] += 1
        lack = sum(n * ((r - tick) % block) for r, n in enumerate(self.grow))
        return (self.room - kv - lack) // block

    def _fits(self, need: int, kv: int, tick: int) -> bool:
        """Whether so many tokens of whole blocks are free beside the decodes, counted exactly."""
        free = self.free(kv, tick)
        if self.mixed:
            free -= self.grow[tick % self.block]
        return need <= free * self.block

    def make_room(self, decodes: int, kv: int, tick: int) -> tuple[int, int, int]:
        """Evict until the decodes can take this tick's blocks."""
        free, evictions = self.free(kv, tick), self.tally.evictions
        while self.grow[tick % self.block] > free:
            if self.partial:
                self._drop_partial()
            else:
                gone = self._drop(tick)
                decodes, kv = decodes - 1, kv - gone
            free = self.free(kv, tick)
        if self.tally.evictions > evictions:
            return decodes, kv, 0
        return decodes, kv, max(1, int(free // decodes) * self.block)

    def _ends(self, tick: int) -> list[tuple[int, int]]:
        """List the decodes with the iterations until each ends."""
        stride = self.stride
        return [(e % stride // 2, e // stride - tick) for e in self.heap if e & 1]

    def _tokens(self, row: int, left: int) -> int:
        """Count the KV tokens of a decode with so many iterations to go."""
        return self.prompt[row] + self.output[row] - 1 + self.lag - left

    def _drop_partial(self) -> None:
        """Evict the newest started prefill."""
        row, goal, have = self.partial.pop()
        self.room += self._booked(goal, have)
        self._gone(row, have)

    def _gone(self, row: int, tokens: int) -> None:
        """Let an evicted row wait."""
        self.tally.evictions += 1
        self.tally.recomputed += tokens
        heappush(self.evicted, row)
        self.next = -math.inf

    def _drop(self, tick: int) -> int:
        """Evict the newest decode; its KV tokens."""
        row, left = max(self._ends(tick))
        kv = self._tokens(row, left)
        self.heap[:] = [e for e in self.heap if e % self.stride // 2 != row]
        heapify(self.heap)
        self.grow[(tick - kv) % self.block] -= 1
        self.made[row] = self.output[row] - left
        self._gone(row, kv)
        return kv
