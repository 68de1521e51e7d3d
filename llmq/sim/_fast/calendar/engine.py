r"""One engine, fast: a completion calendar and exact jumps.

For policies whose decodes all advance together (:class:`llmq.policies.contract.blocks.Together`)
the state of the decodes is four numbers: how many there are, their KV tokens, a heap of the *ticks*
(decode iterations) at which each ends, and how many of them take a new KV block at each tick, by
residue modulo the block size. While nobody can start a prefill nothing changes but the KV read, so
``k`` iterations take

.. math:: S(k) = k\,t_1 + e n\,k (k - 1) / 2,

and the engine jumps to the next completion, to the next arrival (the smallest ``k`` with
``t + S(k)`` past it) or to where memory might run out. Work per request, not per token; memory for
live requests only.

The trajectory is that of :mod:`llmq.sim._reference.engine`, with sums in closed form: equal up to
rounding, and to the last bit where all times are dyadic rationals.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from heapq import heappop

from llmq.sim._fast.calendar.jump import leap
from llmq.sim._fast.calendar.pieces import PiecewiseState
from llmq.sim._fast.calendar.queue import QueueState, queue_loop
from llmq.sim._fast.calendar.state import State
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["CalendarEngine"]


class CalendarEngine:
    """One engine that is advanced from boundary to boundary.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
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
            kind = PiecewiseState if job.policy.blocks.admit.reserve == "chunk" else State
            self.loop = _lockstep(kind(job, log, self.queue, self.tally), self.tally)
        next(self.loop)
        self.assigned = self.counted = 0

    def work(self, now: float) -> float:
        """Outstanding tokens: of the requests sent here, those no finished iteration processed."""
        tally, lag = self.tally, self.job.engine.conventions.lag
        for i in self.queue[self.counted :]:
            self.assigned += self.job.prompt[i] + self.job.output[i] - 1 + lag
        self.counted = len(self.queue)
        running = tally.last if tally.clock > now else 0
        return float(self.assigned + tally.recomputed - tally.tokens + running)

    def advance(self, until: float) -> None:
        """Run every iteration that starts before ``until``."""
        self.loop.send(until)


def _lockstep(s: State, tally: Tally) -> Generator[None, float, None]:
    """Run the iterations of one engine; send the time up to which to go."""
    heap, stride, block, curve, grows = s.heap, s.stride, s.block, s.curve, s.grows
    prompt, output, final, finish = s.prompt, s.output, s.lag - 1, s.log.finish
    mixed, first, per_kv, per_kv_mixed, per_work = s.mixed, s.first, *s.rates
    clock, until, tick, decodes, kv, due, alone = 0.0, -math.inf, 0, 0, 0, 0, 0
    served, kv_area, idle, steps, tokens, keeps = 0, 0, 0.0, 1, 0, s.limited and not grows
    while True:
        coming = s.next
        waiting = coming <= clock or s.partial
        if clock >= until or not (decodes or waiting):
            if clock < until and coming < until:
                idle, clock = idle + (coming - clock), coming
            else:
                tally.rest(tick + alone, served, kv_area, clock - idle, clock, tokens // steps)
                until = yield
                s.look()
            continue
        safe, tokens = 1, 0
        steps, start = 1, clock
        if waiting and decodes < first:
            if mixed and grows and kv + decodes * block > s.room:
                decodes, kv, safe = s.make_room(decodes, kv, tick)
            tokens, area, work, safe = s.fill(decodes, clock, kv, tick, safe)
        if tokens:
            if mixed:
                tick, kv, tokens = tick + 1, kv + decodes, tokens + decodes
                area += kv
            else:
                alone += 1
            clock += curve[tokens] + per_kv_mixed * area + per_work * work
            kv_area += area
            if s.ended:
                decodes, kv, due = s.join(decodes, kv, tick, clock)
        else:
            steps, limit = due - tick, until if waiting or until < coming else coming
            if not safe or (grows and kv + decodes * (steps + block) > s.room):
                decodes, kv, fits = s.make_room(decodes, kv, tick)
                steps = min(steps, fits, safe * steps) or 1
            begin, slope = curve[decodes] + per_kv * (kv + decodes), per_kv / 2 * decodes
            span = steps * (begin + slope * (steps - 1))
            if clock + span > limit:
                steps, span = leap(begin, slope, clock, limit)
            clock, tick, tokens = clock + span, tick + steps, steps * decodes
            kv_area, kv = kv_area + steps * kv + tokens * (steps + 1) // 2, kv + tokens
        served += tokens
        if tick == due:
            edge = (tick + 1) * stride
            while heap and heap[0] < edge:
                event = heappop(heap) % stride
                row = event >> 1
                if not event & 1:
                    s.note(row, tick, start, clock)
                    continue
                size = prompt[row] + output[row] + final
                decodes, kv, finish[row] = decodes - 1, kv - size, clock
                if s.counting:
                    s.grow[(tick - size) % block] -= 1
                elif keeps:
                    s.room += s.kept(row)
            due = heap[0] // stride if heap else 0
