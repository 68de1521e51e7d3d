"""One engine whose iterations are timed from their whole composition, as a serving engine runs.

:class:`KernelEngine` is the reference simulator with two differences. An iteration is timed by a
function of its chunks and of every decode's context, such as
:class:`llmq.calibrate.catalogue._kernel_time.KernelTime`, instead of a law of their sums; where the
function knows no time (NaN), the engine's law answers, and ``outside`` counts it. And with
``prefix_hits`` what an eviction frees is not lost at once: vLLM keeps the blocks of a preempted
request in its queue of free blocks, the last ones first, and hands them out only after all that
were freed before. When the request comes back, the leading blocks that nobody took are hits; the
rest, two tokens at least, is computed again.

Blocks are counted, not numbered: freed blocks queue up, allocations take from the front. Not
covered: hits between different requests, and a cache that other requests' blocks were read from.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

from llmq.policies.contract.view import Batch, View
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.rows import Row
from llmq.sim.results._log import Job, Log

__all__ = ["KernelEngine", "Timer"]

Timer = Callable[[Sequence[tuple[int, int]], Sequence[int], int], float]


class KernelEngine(ReferenceEngine):
    """An engine timed by kernel tables.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.engine import Engine
    >>> from llmq.policies import Sarathi
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> log = Log.empty(1)
    >>> job = Job(engine, Sarathi(), [0.0], [8], [3], [0], [0])
    >>> server = KernelEngine(job, log, lambda chunks, contexts, emitting: 0.5 + len(contexts))
    >>> server.queue.append(0)
    >>> server.advance(math.inf)
    >>> log.finish[0]
    3.5
    """

    def __init__(self, job: Job, log: Log, timer: Timer, *, prefix_hits: bool = False) -> None:
        super().__init__(job, log)
        self.timer, self.hits = timer, prefix_hits and math.isfinite(self.free)
        self.outside = 0
        # Blocks in the order in which they will be handed out: whose, and how many.
        self.queued: deque[tuple[Row | None, int]] = deque()
        self.known = 0.0
        if self.hits:
            self.queued.append((None, int(self.free)))
            self.known = self.free
        self.kept: dict[Row, int] = {}

    def _start(self, view: View, batch: Batch) -> None:
        """Start an iteration, and put the timer's seconds in the place of the law's."""
        chunks, contexts, emitting = [], [], 0
        for i, tokens in zip(batch.rows, batch.tokens, strict=True):
            row = self.rows[i]
            have = row.kv + row.host
            if view.decoding[i]:
                contexts.append(have + tokens)
            else:
                chunks.append((tokens, have))
            emitting += row.prompt + row.generated <= have + tokens
        time = self.timer(chunks, contexts, emitting)
        tally, begun, swapped = self.tally, self.clock, self.tally.swapped
        super()._start(view, batch)
        if math.isnan(time):
            self.outside += 1
            return
        if self.hits:
            tally.swapped = swapped  # what was found again never left the device
        law = self.clock - begun - self.engine.per_swap * (tally.swapped - swapped)
        self.clock += time - law
        tally.busy += time - law
        tally.presence += (time - law) * len(self.rows)
        tally.clock = self.clock

    def _evict(self, row: Row) -> int:
        blocks = row.kv // self.engine.kv_block
        held = row.held
        moved = super()._evict(row)
        if self.hits and held and not self.blocks.swap:
            self._settle(held)
            # Its last blocks are handed out first: those that are not full, then from the end.
            if held > blocks:
                self.queued.append((None, held - blocks))
            if blocks:
                self.queued.append((row, blocks))
                self.kept[row] = blocks
                self._remember(row)
        return moved

    def begin(self) -> None:
        """Start an iteration; who was evicted finds what is left of its blocks."""
        if self.hits:
            self._settle()
        super().begin()
        if self.hits:
            for row in [row for row in self.kept if row.held]:
                self._touch(row)
            self._settle()

    def _settle(self, freed: int = 0) -> None:
        """Book what was freed (to the back) and taken (from the front) since the last time."""
        change = int(self.free - self.known) - freed
        self.known = self.free
        if change > 0:
            self.queued.append((None, change))
        while change < 0:
            row, blocks = self.queued.popleft()
            taken = min(blocks, -change)
            change += taken
            if blocks > taken:
                self.queued.appendleft((row, blocks - taken))
            if row is not None:
                self.kept[row] -= taken
                self._remember(row)

    def _remember(self, row: Row) -> None:
        """Show an evicted row the tokens that it need not compute again, as if swapped out."""
        if row.held:
            return
        block = self.engine.kv_block
        # With one token left it would pass for a decode, which needs no admission.
        most = (row.prompt + row.generated - 2) // block * block
        row.host = min(self.kept[row] * block, most)

    def _touch(self, row: Row) -> None:
        """Take a row's own blocks out of the queue, not the ones at its front."""
        left = self.kept.pop(row)
        self.queued = deque(item for item in self.queued if item[0] is not row)
        # The row's share of what was taken came from here, so the front loses less.
        self.known -= left
