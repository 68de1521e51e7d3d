"""KV blocks that are counted by reference and found again by name, as vLLM keeps them.

A free block keeps its name and waits at the end of a queue; a block that is needed comes from the
front, the one that has been free the longest, and loses its name. Whoever finds a block by name
takes it out of the queue, or shares it with those who hold it. A request gives its blocks back last
block first, so that the ends of prompts are forgotten before their beginnings. Two blocks may have
one name (a last block that was computed again); the older one is found.

A :class:`Pool` can be tried out: what is done inside ``with pool.trial()`` is undone at its end.
The queue is a doubly linked list, in which a block that was taken out goes back to its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["Pool"]


class Pool:
    """The KV blocks of one engine.

    Examples
    --------
    >>> pool = Pool(3)
    >>> pool.grow(0, 2)
    >>> pool.call(0, [7, 8])
    >>> pool.release(0)
    >>> pool.free, pool.found([7, 8, 9])
    (3, [1, 2])
    """

    def __init__(self, total: float) -> None:
        self.free = total if math.isinf(total) else int(total)
        # Blocks that were never used come first; block 0 is the two ends of the queue.
        self.fresh = self.free
        self.users, self.name = [0], [-1]
        self.before, self.after = [0], [0]
        self.known: dict[int, dict[int, None]] = {}
        self.tables: dict[int, list[int]] = {}
        self.named: dict[int, int] = {}
        self.undo: list[Callable[[], object]] | None = None

    # ------------------------------------------------------------------------- what requests do

    def found(self, names: Sequence[int]) -> list[int]:
        """Find the leading blocks that are known."""
        blocks = []
        for name in names:
            here = self.known.get(name)
            if here is None:
                break
            blocks.append(next(iter(here)))
        return blocks

    def in_use(self, blocks: Sequence[int]) -> int:
        """Count the blocks that somebody holds."""
        return sum(self.users[block] > 0 for block in blocks)

    def enter(self, row: int, blocks: Sequence[int]) -> None:
        """Let a request begin with blocks that it found."""
        places = []
        for block in blocks:
            if not self.users[block]:
                places.append((block, *self._unlink(block)))
            self.users[block] += 1
        self.tables[row], self.named[row] = list(blocks), len(blocks)
        if self.undo is not None:
            self.undo.append(lambda: self._leave(row, blocks, places))

    def grow(self, row: int, size: int) -> None:
        """Give a request more blocks."""
        if row not in self.tables:
            self.enter(row, ())
        table = self.tables[row]
        for _ in range(size - len(table)):
            table.append(self._first())
            if self.undo is not None:
                self.undo.append(table.pop)

    def call(self, row: int, names: Sequence[int]) -> None:
        """Name the next blocks of a request: their tokens are all there."""
        table, start = self.tables[row], self.named[row]
        for block, name in zip(table[start : start + len(names)], names, strict=True):
            self.name[block] = name
            self.known.setdefault(name, {})[block] = None
        self.named[row] = start + len(names)
        if self.undo is not None and names:
            self.undo.append(lambda: self._uncall(row, start, names))

    def release(self, row: int) -> None:
        """Take the blocks of a request back."""
        if row not in self.tables:
            return
        table, named = self.tables.pop(row), self.named.pop(row)
        queued = []
        for block in reversed(table):
            self.users[block] -= 1
            if not self.users[block]:
                self._link(block, self.before[0], 0)
                queued.append(block)
        if self.undo is not None:
            self.undo.append(lambda: self._restore(row, table, named, queued))

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Undo at the end what is done inside."""
        self.undo = []
        try:
            yield
        finally:
            steps, self.undo = self.undo, None
            for step in reversed(steps):
                step()

    # ---------------------------------------------------------------------------- the way back

    def _leave(
        self, row: int, blocks: Sequence[int], places: Sequence[tuple[int, int, int]]
    ) -> None:
        del self.tables[row], self.named[row]
        for block in blocks:
            self.users[block] -= 1
        for place in reversed(places):
            self._link(*place)

    def _uncall(self, row: int, start: int, names: Sequence[int]) -> None:
        for block, name in zip(self.tables[row][start:], names, strict=False):
            self._forget(block, name)
        self.named[row] = start

    def _restore(self, row: int, table: list[int], named: int, queued: Sequence[int]) -> None:
        for block in reversed(queued):
            self._unlink(block)
        for block in table:
            self.users[block] += 1
        self.tables[row], self.named[row] = table, named

    # ------------------------------------------------------------------------------- the queue

    def _first(self) -> int:
        """Take the block that has been free the longest; it forgets its name."""
        if self.fresh:
            return self._new()
        block = self.after[0]
        if not block:
            raise MemoryError("no free KV block")
        place = self._unlink(block)
        self.users[block] = 1
        name, here = self.name[block], None
        if name != -1:
            here = dict(self.known[name])
            self._forget(block, name)
        if self.undo is not None:
            self.undo.append(lambda: self._return(block, place, name, here))
        return block

    def _new(self) -> int:
        block = len(self.users)
        for column, value in zip(self._columns(), (1, -1, 0, 0), strict=True):
            column.append(value)
        self.fresh -= 1
        self.free -= 1
        if self.undo is not None:
            self.undo.append(self._discard)
        return block

    def _discard(self) -> None:
        for column in self._columns():
            column.pop()
        self.fresh += 1
        self.free += 1

    def _return(
        self, block: int, place: tuple[int, int], name: int, here: dict[int, None] | None
    ) -> None:
        self.users[block] = 0
        if here is not None:
            self.name[block], self.known[name] = name, here
        self._link(block, *place)

    def _columns(self) -> tuple[list[int], ...]:
        return self.users, self.name, self.before, self.after

    def _forget(self, block: int, name: int) -> None:
        self.name[block] = -1
        here = self.known[name]
        del here[block]
        if not here:
            del self.known[name]

    def _unlink(self, block: int) -> tuple[int, int]:
        left, right = self.before[block], self.after[block]
        self.after[left], self.before[right] = right, left
        self.free -= 1
        return left, right

    def _link(self, block: int, left: int, right: int) -> None:
        self.before[block], self.after[block] = left, right
        self.after[left] = self.before[right] = block
        self.free += 1

    def faults(self) -> str | None:
        """Count everything again."""
        held: dict[int, int] = {}
        for table in self.tables.values():
            for block in table:
                held[block] = held.get(block, 0) + 1
        if any(self.users[b] != held.get(b, 0) for b in range(1, len(self.users))):
            return "a KV block is counted for more or fewer requests than hold it"
        queue, block = [], self.after[0]
        while block:
            queue.append(block)
            block = self.after[block]
        idle = [b for b in range(1, len(self.users)) if not self.users[b]]
        if sorted(queue) != idle or len(queue) + self.fresh != self.free:
            return "the queue of free KV blocks is not the blocks that nobody holds"
        named = {(self.name[b], b) for b in range(1, len(self.users)) if self.name[b] != -1}
        if named != {(name, b) for name, here in self.known.items() for b in here}:
            return "a KV block is found under a name that it does not have"
        return None
