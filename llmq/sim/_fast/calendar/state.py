"""What the completion calendar keeps besides its loop: prefills and events.

A policy that keeps room for the most output (``reserve="most"``) has decodes that never take a
block.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from math import isnan

import numpy as np

from llmq.errors import PolicyError
from llmq.policies.contract.together import Together
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._fast.calendar.memory import Memory
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["State"]


class State(Memory):
    """Prefills, memory and the calendar of one engine."""

    __slots__ = (
        "arrival",
        "attention",
        "block",
        "budget",
        "chunk",
        "curve",
        "cycle",
        "eager",
        "ended",
        "evicted",
        "first",
        "grow",
        "grows",
        "head",
        "heap",
        "hidden",
        "job",
        "lag",
        "limited",
        "log",
        "made",
        "margin",
        "mixed",
        "most",
        "narrow",
        "one_slot",
        "output",
        "partial",
        "prompt",
        "queue",
        "rates",
        "rows",
        "safe",
        "slots",
        "started",
        "stride",
        "tally",
        "whole",
    )

    def __init__(self, job: Job, log: Log, queue: list[int], tally: Tally) -> None:
        engine, blocks = job.engine, job.policy.blocks
        together = blocks.together or Together()
        self.job, self.log, self.queue, self.head = job, log, queue, 0
        self.tally = tally
        self.prompt, self.output, self.hidden = job.prompt, job.output, job.hidden
        self.arrival = job.arrival
        self.lag, self.block = engine.conventions.lag, engine.kv_block
        self.chunk = min(engine.chunk, blocks.budget.chunk or engine.chunk)
        self.slots = engine.max_seqs or math.inf
        self.attention = engine.law.per_work != 0
        self.whole, self.budget, law = blocks.budget.whole, engine.token_budget, engine.law
        self.mixed, self.rows, self.cycle = together.mixed, together.rows, together.cycle
        self.one_slot = engine.conventions.prefill_slots == "one"
        self.narrow = self.one_slot or min(self.rows, self.cycle) < math.inf
        # Prefill has iterations of its own while there are fewer decodes than this, at most as
        # many as can run together; a whole number, because those compare fast.
        until = math.inf if self.mixed else together.until
        self.first = 1 << 29 if until == math.inf else math.ceil(min(until, self.budget))
        self.started = 0
        self.stride = 2 * len(job.arrival)
        # Events: tick * stride + 2 * request + (1: last token, 0: see note).
        self.heap: list[int] = []
        # Decodes by the residue of the tick at which they take a new block, from the first time
        # that memory is counted.
        self.grow, self.counting = [0] * self.block, False
        # Started and just completed prefills by arrival: request, tokens it needs, tokens it has.
        self.partial: list[tuple[int, int, int]] = []
        self.ended: list[tuple[int, int, int]] = []
        self.made: dict[int, int] = {}
        self.evicted: list[int] = []
        # A recompute that lacks one token is a decode (the rem identity), if decodes emit it.
        self.eager = not self.lag
        self.room = engine.kv_blocks * self.block
        self.limited = self.room < math.inf
        self.margin = blocks.admit.margin(engine.kv_blocks) * self.block
        self.most = blocks.admit.most if blocks.admit.reserve == "most" else -1
        self.grows = self.limited and self.most < 0
        # When the first row that waits came; minus infinity if it was evicted.
        self.next = math.inf
        self.rates = float(law.per_kv), float(law.per_kv_mixed), float(law.per_work)
        self.curve: list[float] = law.curve(np.arange(self.budget + 1)).tolist()

    def fill(
        self, decodes: int, clock: float, kv: int, tick: int, safe: int
    ) -> tuple[int, int, float, int]:
        """Give prefills tokens: started ones first, then new ones in arrival order."""
        made, chunk, block = self.made, self.chunk, self.block
        attention = self.attention
        total, held, work, self.safe = 0, 0, 0.0, safe
        left = self.budget - decodes if self.mixed else self.budget
        places = self.slots - decodes - len(self.partial)
        started = len(self.partial)
        if self.narrow:
            left, places, started = self._narrowed(left, places, decodes)
        if started:
            total, held, work = self._go_on(started, left, decodes, kv, tick, clock)
            left -= total
        while left > 0 and self.next <= clock and places > 0 and self.safe:
            evicted = self.evicted
            row = evicted[0] if evicted else self.queue[self.head]
            goal = self.prompt[row]
            if row in made:
                goal += made[row]
            tokens = goal if goal < left else left
            if self.whole:
                if tokens < goal:
                    break
            elif tokens > chunk:
                tokens = self._lifted(tokens, decodes, clock)
            if self.limited:
                need, taken = self._needs(row, goal, tokens)
                if kv + decodes * block + need > self.room - self.margin and not self._fits(
                    need + self.margin, kv, tick
                ):
                    break
                self.room -= taken
            if evicted:
                self._come_back(row, clock)
            else:
                self.head = head = self.head + 1
                self.next = self.arrival[self.queue[head]] if head < len(self.queue) else math.inf
            self.started += 1
            left, total = left - tokens, total + tokens
            held, places = held + tokens, places - 1
            if attention:
                work += tokens * (tokens / 2)
            done = tokens == goal or (row in made and tokens == goal - self.eager)
            (self.ended if done else self.partial).append((row, goal, tokens))
        if not (total or decodes):
            raise self._deadlock(clock)
        return total, held, work, self.safe

    def _go_on(
        self, started: int, left: int, decodes: int, kv: int, tick: int, clock: float
    ) -> tuple[int, int, float]:
        """Give the first started prefills tokens; as in :meth:`fill`."""
        served, rest, self.partial = self.partial[:started], self.partial[started:], []
        chunk, made = self.chunk, self.made
        total, held, work = 0, 0, 0.0
        for row, goal, have in served:
            tokens = goal - have
            if tokens > left:
                tokens = left
            if tokens > chunk:
                tokens = chunk
            if tokens:
                have += tokens
                left, total, held = left - tokens, total + tokens, held + have
                work += tokens * (have - tokens / 2)
            done = have == goal or (row in made and have == goal - self.eager)
            (self.ended if done else self.partial).append((row, goal, have))
        self.partial += rest
        return total, held, work

    def _lifted(self, tokens: int, decodes: int, clock: float) -> int:
        """Cut the first tokens of a prefill to the chunk."""
        return self.chunk

    def _needs(self, row: int, goal: int, tokens: int) -> tuple[int, int]:
        """Tokens in the blocks that must be free for a new row, and in those that it takes."""
        need = goal + -goal % self.block if self.most < 0 else self.kept(row)
        return need, need

    def _narrowed(self, left: int, places: float, decodes: int) -> tuple[int, float, int]:
        """Bound tokens, new rows and started rows where prefills share a slot or are counted."""
        if self.one_slot:
            left, places = left if decodes < self.slots else 0, math.inf
        if not decodes and not self.partial:
            self.started = 0
        served = int(min(self.rows, len(self.partial)))
        return left, min(places, self.rows - served, self.cycle - self.started), served

    def _come_back(self, row: int, clock: float) -> None:
        """Take the first of the evicted rows."""
        heappop(self.evicted)
        self.look()
        log = self.log
        if self.made.get(row, -1) >= self.hidden[row] > 0 and isnan(log.resumed[row]):
            log.resumed[row] = clock

    def look(self) -> None:
        """Find when the next row could be admitted: at once, if one was evicted."""
        queue, head = self.queue, self.head
        if self.evicted:
            self.next = -math.inf
        else:
            self.next = self.arrival[queue[head]] if head < len(queue) else math.inf

    def join(self, decodes: int, kv: int, tick: int, clock: float) -> tuple[int, int, int]:
        """Move complete prefills to the calendar."""
        log, heap, block = self.log, self.heap, self.block
        for row, goal, have in self.ended:
            output, hidden = self.output[row], self.hidden[row]
            emits: int = have == goal and self.eager
            made = emits
            if row in self.made:
                made = emits + self.made.pop(row)
            else:
                log.prefill_end[row] = clock
            if made <= hidden:
                if emits and made == hidden:
                    log.boundary[row] = clock
                heappush(heap, (tick + max(hidden - made, 1)) * self.stride + 2 * row)
            elif emits and made == hidden + 1:
                log.first_token[row] = clock
            if made == output:
                log.finish[row] = clock
                self.room += self._booked(goal, have) if self.most < 0 else self.kept(row)
                continue
            if self.grows:
                if have < goal and not self.mixed and not have % block:
                    raise NotTogetherError("a row that came back holds a block it does not fill")
                self.room += self._booked(goal, have)
                if self.counting:
                    self.grow[(tick - have) % block] += 1
            elif self.limited and output > self.most + self.eager:
                raise NotTogetherError(f"an output of {output} tokens outgrows the room kept")
            heappush(heap, (tick + output - made) * self.stride + 2 * row + 1)
            decodes, kv = decodes + 1, kv + have
        self.ended.clear()
        if decodes > self.budget or decodes > self.slots:
            raise NotTogetherError(f"{decodes} decodes do not fit in one iteration")
        return decodes, kv, heap[0] // self.stride if heap else 0

    def note(self, row: int, tick: int, start: float, clock: float) -> None:
        """Write down that a row is past its reasoning, or that its first visible token came."""
        log, hidden = self.log, self.hidden[row]
        if hidden and isnan(log.boundary[row]):
            log.boundary[row] = clock
            heappush(self.heap, (tick + 1) * self.stride + 2 * row)
            return
        log.first_token[row] = clock
        if hidden and isnan(log.resumed[row]):
            log.resumed[row] = start

    def _deadlock(self, clock: float) -> PolicyError:
        """Name a request that can never be admitted."""
        name = self.job.policy.name
        return PolicyError(
            f"{name} (t = {clock:.6g} s): a request waits that can never be admitted",
            policy=name,
            time=clock,
            rule="deadlock",
        )
