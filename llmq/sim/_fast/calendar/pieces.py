"""The completion calendar for policies that take KV blocks chunk by chunk, as vLLM v1 does.

A started prefill holds the blocks of the tokens it has. If it finds none for its next chunk, the
newest resident leaves, itself at last. Where prompts are cut only because the tokens of an
iteration end, one prefill at most is started and it is the last resident, so all decodes are
served before it. Where the chunk is smaller than the budget, a started prefill may stand before
decodes: that changes nothing while tokens and memory last for all, and otherwise the reference
engine takes over.
"""

from __future__ import annotations

from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._fast.calendar.state import State
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["PiecewiseState"]


class PiecewiseState(State):
    """Prefills that take their blocks with each chunk."""

    __slots__ = ("all_fit", "alone", "by_arrival", "mingles")

    def __init__(self, job: Job, log: Log, queue: list[int], tally: Tally) -> None:
        super().__init__(job, log, queue, tally)
        blocks = job.policy.blocks
        self.all_fit = blocks.admit.all_fit
        self.mingles = self.chunk < self.budget
        self.by_arrival = self.mingles and bool(blocks.together and blocks.together.arrival)
        self.alone = self.mingles and blocks.budget.alone

    def _lifted(self, tokens: int, decodes: int, clock: float) -> int:
        if self.alone and not (decodes or self.partial or self.ended):
            waits, queue = self.head + (not self.evicted), self.queue
            more = waits < len(queue) and self.arrival[queue[waits]] <= clock
            if len(self.evicted) < 2 and not more:
                return tokens
        return self.chunk

    def _needs(self, row: int, goal: int, tokens: int) -> tuple[int, int]:
        taken = self._booked(goal, tokens)
        return (goal + -goal % self.block if self.all_fit else taken), taken

    def _booked(self, goal: int, have: int) -> int:
        return have + -have % self.block

    def _drop_partial(self) -> None:
        self._in_order(self.partial[-1][0])
        super()._drop_partial()

    def _in_order(self, row: int) -> None:
        """Refuse a prefill that stands before a decode where one of them gets less."""
        if self.by_arrival and any(event % self.stride > 2 * row for event in self.heap):
            raise NotTogetherError("a started prompt stands before a decode, and both cannot go on")

    def _go_on(
        self, started: int, left: int, decodes: int, kv: int, tick: int, clock: float
    ) -> tuple[int, int, float]:
        todo, self.partial = self.partial, []
        chunk = self.chunk
        if self.alone and len(todo) == 1 and not decodes and self.next > clock:
            chunk = self.budget
        total, held, work, i = 0, 0, 0.0, 0
        while i < len(todo):
            row, goal, have = todo[i]
            tokens = min(goal - have, chunk)
            if tokens > left:
                self._in_order(row)
                tokens = left
            if self.limited and tokens:
                need = self._booked(goal, have + tokens) - self._booked(goal, have)
                if not self._make_way(need, todo, i, decodes, kv, tick):
                    break
                self.room -= need
            if tokens:
                have += tokens
                left, total, held = left - tokens, total + tokens, held + have
                work += tokens * (have - tokens / 2)
            done = have == goal or (row in self.made and have == goal - self.eager)
            (self.ended if done else self.partial).append((row, goal, have))
            i += 1
        return total, held, work

    def _make_way(
        self, need: int, todo: list[tuple[int, int, int]], i: int, decodes: int, kv: int, tick: int
    ) -> bool:
        """Evict the newest prefills until so much is free; False if the i-th itself had to go."""
        cheap = kv + decodes * self.block + need
        while need and cheap > self.room and not self._fits(need, kv, tick):
            self._in_order(todo[i][0])
            row, goal, have = todo.pop()
            self.room += self._booked(goal, have)
            self._gone(row, have)
            self.safe = 0
            if len(todo) == i:
                return False
        return True
