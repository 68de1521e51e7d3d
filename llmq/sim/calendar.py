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
    >>> log.finish
    [3.0]
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

    @property
    def work(self) -> float:
        """Outstanding tokens: of the requests sent here, those no started iteration processed."""
        lag = self.job.engine.conventions.lag
        for i in self.queue[self.counted :]:
            self.assigned += self.job.prompt[i] + self.job.output[i] - 1 + lag
        self.counted = len(self.queue)
        return float(self.assigned + self.tally.recomputed - self.tally.tokens)

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
        self.booked = self.complete = 0
        self.curve = self.law.curve(np.arange(self.budget + 1)).tolist()

    def coming(self) -> float:
        """Arrival time of the first request that was never admitted."""
        queue, head = self.queue, self.head
        return self.job.arrival[queue[head]] if head < len(queue) else math.inf

    def waits(self, clock: float) -> bool:
        """Whether a prefill can be served or begun at this time."""
        return bool(self.partial or self.evicted) or self.coming() <= clock

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
        done, made, prompt, queue = self.done, self.made, self.job.prompt, self.queue
        arrival, total, held, work = self.job.arrival, 0, 0, 0.0
        if self.one_slot and decodes >= self.slots:
            return 0, 0, 0.0
        for row in self.partial:
            goal = prompt[row] + made.get(row, 0)
            tokens = min(goal - done[row], left, self.chunk)
            if tokens:
                have = done[row] = done[row] + tokens
                left, total, held = left - tokens, total + tokens, held + have
                work += tokens * (have - tokens / 2)
                self.complete += have >= goal - (self.eager and row in made)
        slots = math.inf if self.one_slot else self.slots - decodes
        while fresh and left > 0 and len(self.partial) < slots:
            if self.evicted:
                row = self.evicted[0]
            elif self.head < len(queue) and arrival[queue[self.head]] <= clock:
                row = queue[self.head]
            else:
                break
            goal = prompt[row] + made[row] if row in made else prompt[row]
            need = -(-goal // self.block) + self.margin
            if need > spare:
                spare = self.free(kv, tick) - (self.grow[tick % self.block] if self.mixed else 0)
                if need > spare:
                    break
            if self.whole and goal > left:
                break
            tokens = goal if self.whole else min(goal, left, self.chunk)
            if self.evicted:
                heappop(self.evicted)
            else:
                self.head += 1
            self.partial.append(row)
            need -= self.margin
            self.booked += need
            done[row] = tokens
            left, total, held, spare = left - tokens, total + tokens, held + tokens, spare - need
            work += tokens * (tokens / 2)
            self.complete += tokens >= goal - (self.eager and row in made)
        return total, held, work

    def join(self, tick: int, clock: float) -> tuple[int, int]:
        """Move complete prefills to the calendar; new decodes and their KV tokens."""
        job, log, decodes, kv = self.job, self.log, 0, 0
        stay = []
        for row in self.partial:
            made = self.made.get(row, 0)
            goal = job.prompt[row] + made
            have = self.done[row]
            if have < goal - (self.eager and made > 0):
                stay.append(row)
                continue
            del self.done[row]
            if made:
                del self.made[row]
            self.booked -= -(-goal // self.block)
            if log.prefill_end[row] != log.prefill_end[row]:
                log.prefill_end[row] = clock
            emits = have == goal and not self.lag
            made += emits
            ahead = job.hidden[row] + 1 - made
            if ahead > 0:
                heappush(self.heap, (tick + ahead) * self.stride + 2 * row)
            elif ahead == 0 and emits:
                log.first_token[row] = clock
            if made == job.output[row]:
                log.finish[row] = clock
                continue
            heappush(self.heap, (tick + job.output[row] - made) * self.stride + 2 * row + 1)
            self.grow[(tick - have) % self.block] += 1
            decodes += 1
            kv += have
        self.partial, self.complete = stay, 0
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
    iterations, served, kv_area, busy, coming = 0, 0, 0, 0.0, math.inf
    while True:
        if clock >= until or not (decodes or s.waits(clock)):
            if clock < until and coming < until:
                clock = coming
            else:
                tally.iterations, tally.tokens = iterations, served
                tally.kv_area, tally.busy = float(kv_area), busy
                until = yield
                coming = s.coming()
            continue
        waiting, fresh, tokens = coming <= clock or s.partial or s.evicted, True, 0
        if limited:
            free = s.total - s.booked - (kv + (block - 1) * decodes) // block
            if mixed and free < decodes:
                decodes, kv, free, fresh = s.make_room(decodes, kv, tick, tally)
        if waiting:
            room, spare = (budget - decodes, free - decodes) if mixed else (budget, free)
            tokens, area, work = s.fill(room, decodes, spare, clock, kv, tick, fresh)
            coming = s.coming()
        if tokens:
            steps = 1
            if mixed:
                tick, kv, tokens = tick + 1, kv + decodes, tokens + decodes
                area += kv
            span = curve[tokens] + per_kv_mixed * area + per_work * work
            clock += span
            if s.complete:
                new, new_kv = s.join(tick, clock)
                decodes, kv = decodes + new, kv + new_kv
                if decodes > most:
                    raise NotTogetherError(f"{decodes} decodes do not fit in one iteration")
        else:
            if not decodes:
                raise s.deadlock(clock)
            steps = heap[0] // stride - tick if fresh else 1
            if limited and free < decodes * (steps // block + 1):
                decodes, kv, free, fresh = s.make_room(decodes, kv, tick, tally)
                steps = max(1, min(steps, block * int(free // decodes))) if fresh else 1
            limit = until if waiting or until < coming else coming
            first = curve[decodes] + per_kv * (kv + decodes)
            steps, span = leap(steps, first, per_kv * decodes / 2, clock, limit)
            clock, tick, tokens = clock + span, tick + steps, steps * decodes
            area, kv = steps * kv + tokens * (steps + 1) // 2, kv + tokens
        iterations, served = iterations + steps, served + tokens
        kv_area, busy = kv_area + area, busy + span
        while heap and heap[0] < (tick + 1) * stride:
            row, ends = divmod(heappop(heap) % stride, 2)
            if ends:
                size = prompt[row] + output[row] + final
                grow[(tick - size) % block] -= 1
                decodes, kv, log.finish[row] = decodes - 1, kv - size, clock
            else:
                log.first_token[row] = clock


def leap(steps: int, first: float, slope: float, clock: float, limit: float) -> tuple[int, float]:
    """Cut a leap of decode-only iterations where the clock passes ``limit``.

    Parameters
    ----------
    steps : int
        Iterations to make at most.
    first : float
        Seconds of the first one.
    slope : float
        Half of what each adds to the next, seconds.
    clock, limit : float
        Seconds.

    Returns
    -------
    tuple of int and float
        Iterations, and the seconds they take.

    Examples
    --------
    >>> leap(10, 1.0, 0.5, clock=0.0, limit=5.0)
    (3, 6.0)
    """
    span = steps * (first + slope * (steps - 1))
    if clock + span <= limit:
        return steps, span
    gap, b = limit - clock, first - slope
    steps = int(2 * gap / (b + math.sqrt(b * b + 4 * slope * gap))) or 1
    span = steps * (first + slope * (steps - 1))
    # The root is rounded down and rounded: step to where the clock itself crosses.
    while clock + span < limit:
        steps += 1
        span = steps * (first + slope * (steps - 1))
    return steps, span
