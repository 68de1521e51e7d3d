r"""One engine, fast: a completion calendar and exact jumps.

For policies whose decodes all advance together (:class:`llmq.policies.blocks.Together`) the state
of the decodes is four numbers: how many there are, their KV tokens, a heap of the *ticks* (decode
iterations) at which each ends, and how many of them take a new KV block at each tick, by residue
modulo the block size. While nobody can start a prefill nothing changes but the KV read, so ``k``
iterations take

.. math:: S(k) = k\,t_1 + e n\,k (k - 1) / 2,

and the engine jumps to the next completion, to the next arrival (the smallest ``k`` with
``t + S(k)`` past it) or to where memory might run out. Work per request, not per token; memory for
live requests only.

The trajectory is that of :mod:`llmq.sim.reference`, with sums in closed form: equal up to rounding,
and to the last bit where all times are dyadic rationals.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from heapq import heapify, heappop, heappush

import numpy as np

from llmq.errors import PolicyError
from llmq.sim.calendar_queue import NotTogetherError, QueueState, queue_loop
from llmq.sim.log import Job, Log, Tally

__all__ = ["CalendarEngine", "NotTogetherError", "leap"]


class CalendarEngine:
    """One engine that is advanced from boundary to boundary.

    Parameters
    ----------
    job : Job
        Engine, policy and requests; the policy must declare ``together``.
    log : Log
        Where event times go.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
    >>> from llmq.model.engine import Engine
    >>> from llmq.policies import Sarathi
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> log = Log.empty(1)
    >>> server = CalendarEngine(Job(engine, Sarathi(), [0.0], [8], [3], [0], [0]), log)
    >>> server.queue.append(0)
    >>> server.advance(math.inf)
    >>> log.finish[0]
    3.0
    """

    def __init__(self, job: Job, log: Log) -> None:
        self.job, self.tally = job, Tally()
        self.queue: list[int] = []
        together = job.policy.blocks.together
        if together and together.queue:
            self.loop = queue_loop(QueueState(job, log, self.queue), self.tally)
        else:
            self.loop = _lockstep(_State(job, log, self.queue), self.tally)
        next(self.loop)
        self.assigned = self.counted = 0

    def work(self, now: float) -> float:
        """Outstanding tokens: of the requests sent here, those no finished iteration processed.

        Parameters
        ----------
        now : float
            Seconds, not before the last advance.

        Returns
        -------
        float
            Tokens.
        """
        tally, lag = self.tally, self.job.engine.conventions.lag
        for i in self.queue[self.counted :]:
            self.assigned += self.job.prompt[i] + self.job.output[i] - 1 + lag
        self.counted = len(self.queue)
        running = tally.last if tally.clock > now else 0
        return float(self.assigned + tally.recomputed - tally.tokens + running)

    def advance(self, until: float) -> None:
        """Run every iteration that starts before ``until``.

        Parameters
        ----------
        until : float
            Seconds; infinite runs to empty.

        Raises
        ------
        NotTogetherError
            More decodes than one iteration can serve.
        """
        self.loop.send(until)


class _State:
    """What the loop's less frequent paths (fill, join, evict) share with it."""

    def __init__(self, job: Job, log: Log, queue: list[int]) -> None:
        engine, blocks = job.engine, job.policy.blocks
        self.job, self.log, self.queue, self.head = job, log, queue, 0
        self.lag, self.block, self.chunk = engine.conventions.lag, engine.kv_block, engine.chunk
        self.slots = engine.max_seqs or math.inf
        self.one_slot = engine.conventions.prefill_slots == "one"
        self.total, self.margin = engine.kv_blocks, blocks.admit.margin(engine.kv_blocks)
        self.whole, self.law, self.budget = blocks.budget.whole, engine.law, engine.token_budget
        self.mixed = bool(blocks.together and blocks.together.mixed)
        self.stride = 2 * len(job.arrival)
        # Events: tick * stride + 2 * request + (0: first visible token, 1: last token).
        self.heap: list[int] = []
        # Decodes by the residue of the tick at which they take a new block.
        self.grow = [0] * self.block
        self.partial: list[int] = []
        self.done: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.evicted: list[int] = []
        # A recompute that lacks one token is a decode (the rem identity), if decodes emit it.
        self.eager = not self.lag
        self.ended: list[tuple[int, int]] = []
        self.booked = 0
        # When the first row that waits came; minus infinity if it was evicted.
        self.next = math.inf
        self.curve = self.law.curve(np.arange(self.budget + 1)).tolist()

    def free(self, kv: int, tick: int) -> float:
        """Count the free blocks: each decode's last block lacks ``-kv mod block`` tokens."""
        block = self.block
        lack = sum(n * ((r - tick) % block) for r, n in enumerate(self.grow))
        return self.total - self.booked - (kv + lack) // block

    def fill(
        self, left: int, decodes: int, spare: float, clock: float, kv: int, tick: int, fresh: bool
    ) -> tuple[int, int, float]:
        """Give prefills up to ``left`` tokens; their tokens, KV tokens held and work.

        ``spare`` is a lower bound of the blocks that new rows may take; where it does not decide,
        the exact number is counted.
        """
        made, prompt, ended, chunk = self.made, self.job.prompt, self.ended, self.chunk
        queue, arrival = self.queue, self.job.arrival
        total, held, work = 0, 0, 0.0
        if self.one_slot and decodes >= self.slots:
            return 0, 0, 0.0
        for row in self.partial:
            goal = prompt[row] + made.get(row, 0)
            tokens = min(goal - self.done[row], left, chunk)
            if tokens:
                have = self.done[row] = self.done[row] + tokens
                left, total, held = left - tokens, total + tokens, held + have
                work += tokens * (have - tokens / 2)
                if have >= goal - (row in made and self.eager):
                    ended.append((row, self.done.pop(row)))
        count = len(self.partial) + decodes
        if ended:
            self.partial = [row for row in self.partial if row in self.done]
        while fresh and left > 0 and self.next <= clock and (self.one_slot or count < self.slots):
            row = self.evicted[0] if self.evicted else queue[self.head]
            goal = prompt[row] + made[row] if row in made else prompt[row]
            need = -(-goal // self.block)
            if need + self.margin > spare:
                spare = self.free(kv, tick) - (self.grow[tick % self.block] if self.mixed else 0)
                if need + self.margin > spare:
                    break
            if self.whole:
                if goal > left:
                    break
                tokens = goal
            else:
                tokens = left if left < chunk else chunk
                if goal < tokens:
                    tokens = goal
            if self.evicted:
                heappop(self.evicted)
                self.look()
            else:
                self.head = head = self.head + 1
                self.next = arrival[queue[head]] if head < len(queue) else math.inf
            self.booked += need
            left, total, held, spare = left - tokens, total + tokens, held + tokens, spare - need
            work += tokens * (tokens / 2)
            count += 1
            if tokens >= goal - (row in made and self.eager):
                ended.append((row, tokens))
            else:
                self.partial.append(row)
                self.done[row] = tokens
        return total, held, work

    def look(self) -> None:
        """Find when the next row could be admitted: at once, if one was evicted."""
        queue, head = self.queue, self.head
        if self.evicted:
            self.next = -math.inf
        else:
            self.next = self.job.arrival[queue[head]] if head < len(queue) else math.inf

    def join(self, tick: int, clock: float) -> tuple[int, int]:
        """Move complete prefills to the calendar; new decodes and their KV tokens."""
        job, log, heap, decodes, kv = self.job, self.log, self.heap, 0, 0
        for row, have in self.ended:
            made = 0
            if row in self.made:
                made = self.made.pop(row)
            else:
                log.prefill_end[row] = clock
            goal, output = job.prompt[row] + made, job.output[row]
            self.booked -= -(-goal // self.block)
            emits = have == goal and self.eager
            made += emits
            ahead = job.hidden[row] + 1 - made
            if ahead > 0:
                heappush(heap, (tick + ahead) * self.stride + 2 * row)
            elif ahead == 0 and emits:
                log.first_token[row] = clock
            if made == output:
                log.finish[row] = clock
                continue
            heappush(heap, (tick + output - made) * self.stride + 2 * row + 1)
            self.grow[(tick - have) % self.block] += 1
            decodes += 1
            kv += have
        self.ended.clear()
        return decodes, kv

    def make_room(
        self, decodes: int, kv: int, tick: int, tally: Tally
    ) -> tuple[int, int, float, bool]:
        """Evict until the decodes can take this tick's blocks.

        Decodes, their KV tokens, free blocks, and whether nobody had to go.
        """
        free, evictions = self.free(kv, tick), tally.evictions
        while self.grow[tick % self.block] > free:
            tally.evictions += 1
            if self.partial:
                row = max(self.partial)
                self.partial.remove(row)
                self.booked -= -(-(self.job.prompt[row] + self.made.get(row, 0)) // self.block)
                tally.recomputed += self.done.pop(row)
            else:
                row, gone = self.drop(tick)
                decodes, kv = decodes - 1, kv - gone
                tally.recomputed += gone
            heappush(self.evicted, row)
            self.next = -math.inf
            free = self.free(kv, tick)
        return decodes, kv, free, tally.evictions == evictions

    def drop(self, tick: int) -> tuple[int, int]:
        """Take the newest decode out of the calendar; the row and its KV tokens."""
        ends = {e % self.stride // 2: e // self.stride for e in self.heap if e & 1}
        row = max(ends)
        left = ends[row] - tick
        kv = self.job.prompt[row] + self.job.output[row] - 1 + self.lag - left
        self.heap[:] = [e for e in self.heap if e % self.stride // 2 != row]
        heapify(self.heap)
        self.grow[(tick - kv) % self.block] -= 1
        self.made[row] = self.job.output[row] - left
        return row, kv

    def deadlock(self, clock: float) -> PolicyError:
        """Name a request that can never be admitted."""
        name = self.job.policy.name
        return PolicyError(
            f"{name} (t = {clock:.6g} s): a request waits that can never be admitted",
            policy=name, time=clock, rule="deadlock",
        )  # fmt: skip


def _lockstep(s: _State, tally: Tally) -> Generator[None, float, None]:
    """Run the iterations of one engine; send the time up to which to go."""
    law, heap, grow, stride, block, log = s.law, s.heap, s.grow, s.stride, s.block, s.log
    prompt, output, final, curve = s.job.prompt, s.job.output, s.lag - 1, s.curve
    mixed, limited, budget, most = s.mixed, s.total < math.inf, s.budget, min(s.budget, s.slots)
    per_kv, per_kv_mixed, per_work = float(law.per_kv), float(law.per_kv_mixed), float(law.per_work)
    clock, until, tick, decodes, kv, free = 0.0, -math.inf, 0, 0, 0, math.inf
    alone, served, kv_area, idle, half_kv, steps, tokens = 0, 0, 0, 0.0, per_kv / 2, 1, 0
    while True:
        if clock >= until or not (decodes or s.partial or s.next <= clock):
            if clock < until and s.next < until:
                idle, clock = idle + (s.next - clock), s.next
            else:
                tally.rest(tick + alone, served, kv_area, clock - idle, clock, tokens // steps)
                until = yield
                s.look()
            continue
        waiting, fresh, tokens = s.next <= clock or s.partial, True, 0
        if limited:
            free = s.total - s.booked - (kv + (block - 1) * decodes) // block
            if mixed and free < decodes:
                decodes, kv, free, fresh = s.make_room(decodes, kv, tick, tally)
        if waiting:
            room, spare = (budget - decodes, free - decodes) if mixed else (budget, free)
            tokens, area, work = s.fill(room, decodes, spare, clock, kv, tick, fresh)
        if tokens:
            steps, alone = 1, alone + (not mixed)
            if mixed:
                tick, kv, tokens = tick + 1, kv + decodes, tokens + decodes
                area += kv
            clock += curve[tokens] + per_kv_mixed * area + per_work * work
            if s.ended:
                new, new_kv = s.join(tick, clock)
                decodes, kv = decodes + new, kv + new_kv
                if decodes > most:
                    raise NotTogetherError(f"{decodes} decodes do not fit in one iteration")
        else:
            if not decodes:
                raise s.deadlock(clock)
            steps = heap[0] // stride - tick if fresh else 1
            if limited and free < decodes * (steps // block + 1):
                decodes, kv, free, kept = s.make_room(decodes, kv, tick, tally)
                steps = max(1, min(steps, block * int(free // decodes))) if kept else 1
                fresh = fresh and kept
            limit = until if waiting or not fresh or until < s.next else s.next
            first, slope = curve[decodes] + per_kv * (kv + decodes), half_kv * decodes
            span = steps * (first + slope * (steps - 1))
            if clock + span > limit:
                steps, span = leap(first, slope, clock, limit)
            clock, tick, tokens = clock + span, tick + steps, steps * decodes
            area, kv = steps * kv + tokens * (steps + 1) // 2, kv + tokens
        served, kv_area = served + tokens, kv_area + area
        while heap and heap[0] < (tick + 1) * stride:
            row, ends = divmod(heappop(heap) % stride, 2)
            if ends:
                size = prompt[row] + output[row] + final
                grow[(tick - size) % block] -= 1
                decodes, kv, log.finish[row] = decodes - 1, kv - size, clock
            else:
                log.first_token[row] = clock


def leap(first: float, slope: float, clock: float, limit: float) -> tuple[int, float]:
    """Count the decode-only iterations up to where the clock reaches ``limit``.

    Parameters
    ----------
    first : float
        Seconds of the first one.
    slope : float
        Half of what each adds to the next, seconds.
    clock, limit : float
        Seconds.

    Returns
    -------
    tuple of int and float
        Iterations, at least 1, and the seconds they take.

    Examples
    --------
    >>> leap(1.0, 0.5, clock=0.0, limit=5.0)
    (3, 6.0)
    """
    gap, b = limit - clock, first - slope
    steps = int(2 * gap / (b + math.sqrt(b * b + 4 * slope * gap))) or 1
    span = steps * (first + slope * (steps - 1))
    # The root is rounded down and rounded: step to where the clock itself crosses.
    while clock + span < limit:
        steps += 1
        span = steps * (first + slope * (steps - 1))
    return steps, span
