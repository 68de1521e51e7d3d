"""The completion calendar for one queue in order
(:func:`llmq.policies.contract.blocks.queue_order`).

A prefill ahead of a decode takes the budget first, and a row goes to the end of the queue when its
prefill is done. So the decodes split in two: those with no prefill ahead of them are *active*; they
stay so, advance together and live in a calendar. The others stand in the line behind a prefill and
join the active ones when it is done, at once if the iteration has tokens left for them. Without
memory limit, and as long as slots do not bind.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from heapq import heappop, heappush
from math import isnan

import numpy as np

from llmq.sim._fast.calendar.jump import NotTogetherError, leap
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["QueueState", "queue_loop"]


class QueueState:
    """The line, the calendar of the active decodes and the log."""

    def __init__(self, job: Job, log: Log, queue: list[int]) -> None:
        engine, chunk = job.engine, job.policy.blocks.budget.chunk or job.engine.chunk
        if engine.kv_tokens is not None or min(chunk, engine.chunk) < engine.token_budget:
            raise NotTogetherError("memory and chunks below the budget can break up the queue")
        self.job, self.log, self.queue, self.head = job, log, queue, 0
        self.lag, self.stride = job.engine.conventions.lag, 2 * len(job.arrival)
        self.slots = job.engine.max_seqs or math.inf
        self.heap: list[int] = []
        self.line: deque[int] = deque()
        self.done: dict[int, int] = {}
        self.stalled = 0
        self.active = 0

    def come(self, clock: float) -> None:
        """Take in the requests that have come."""
        arrival, queue = self.job.arrival, self.queue
        while self.head < len(queue) and arrival[queue[self.head]] <= clock:
            self.line.append(queue[self.head])
            self.done[queue[self.head]] = 0
            self.head += 1

    def walk(self, left: int, tick: int, clock: float) -> tuple[int, int, float, int, list[int]]:
        """Go along the line while tokens last."""
        tokens, held, work, joined, ended = 0, 0, 0.0, 0, list[int]()
        prompt = self.job.prompt
        while self.line and left > 0:
            row = self.line[0]
            have = self.done[row]
            if have == prompt[row]:
                self.activate(row, tick, clock)
                joined += have
                left -= 1
            else:
                started = sum(1 for r in ended if r != row) + 1
                if self.active + self.stalled + started > self.slots:
                    raise NotTogetherError("slots bind: rows may overtake each other")
                step = min(prompt[row] - have, left)
                self.done[row] = have = have + step
                tokens, left, held = tokens + step, left - step, held + have
                work += step * (have - step / 2)
                if have < prompt[row]:
                    break
                ended.append(row)
            self.line.popleft()
        return tokens, held, work, joined, ended

    def activate(self, row: int, tick: int, clock: float) -> None:
        """Enter a decode with nothing ahead of it into the calendar."""
        made, hidden = 1 - self.lag, self.job.hidden[row]
        del self.done[row]
        self.stalled -= 1
        self.active += 1
        if made <= hidden:
            heappush(self.heap, (tick + max(hidden - made, 1)) * self.stride + 2 * row)
        if 0 < hidden <= made:
            self.log.resumed[row] = clock
        heappush(self.heap, (tick + self.job.output[row] - made) * self.stride + 2 * row + 1)

    def finish_prefill(self, row: int, clock: float) -> None:
        """Emit the first token where engines do, and go to the end of the line."""
        self.log.prefill_end[row] = clock
        if not self.lag and self.job.hidden[row] < 2:
            event = self.log.boundary if self.job.hidden[row] else self.log.first_token
            event[row] = clock
        if not self.lag and self.job.output[row] == 1:
            self.log.finish[row] = clock
            del self.done[row]
            return
        self.stalled += 1
        self.line.append(row)


def queue_loop(s: QueueState, tally: Tally) -> Generator[None, float, None]:
    """Run the iterations of one engine; send the time up to which to go."""
    job, law, budget = s.job, s.job.engine.law, s.job.engine.token_budget
    curve, per_kv = law.curve(np.arange(budget + 1)).tolist(), float(law.per_kv)
    clock, until, tick, kv = 0.0, -math.inf, 0, 0
    ended: list[int] = []
    while True:
        if clock < until:
            s.come(clock)
            for row in ended:
                s.finish_prefill(row, clock)
            ended = []
        coming = job.arrival[s.queue[s.head]] if s.head < len(s.queue) else math.inf
        if clock >= until or not (s.active or s.line):
            if clock < until and coming < until:
                clock = coming
            else:
                until = yield
            continue
        tokens, area, work, joined, ended = s.walk(budget - s.active, tick, clock)
        kv += joined
        if s.line or ended or tokens:
            steps, kv = 1, kv + s.active
            rate = float(law.per_kv_mixed) if tokens else per_kv
            area += kv
            span = curve[tokens + s.active] + rate * area + float(law.per_work) * work
        else:
            first, slope = curve[s.active] + per_kv * (kv + s.active), per_kv * s.active / 2
            limit, steps = min(until, coming), s.heap[0] // s.stride - tick
            span = steps * (first + slope * (steps - 1))
            if clock + span > limit:
                steps, span = leap(first, slope, clock, limit)
            area = steps * kv + s.active * (steps * (steps + 1) // 2)
            kv += steps * s.active
        tick, clock = tick + steps, clock + span
        tally.iterations += steps
        tally.tokens += tokens + steps * s.active
        tally.kv_area += area
        tally.busy += span
        tally.clock, tally.last = clock, tokens + s.active
        while s.heap and s.heap[0] < (tick + 1) * s.stride:
            row, last = divmod(heappop(s.heap) % s.stride, 2)
            if last:
                s.active -= 1
                kv -= job.prompt[row] + job.output[row] - 1 + s.lag
                s.log.finish[row] = clock
            elif s.job.hidden[row] and isnan(s.log.boundary[row]):
                # It is active: the next iteration goes on with it.
                s.log.boundary[row] = s.log.resumed[row] = clock
                heappush(s.heap, (tick + 1) * s.stride + 2 * row)
            else:
                s.log.first_token[row] = clock
