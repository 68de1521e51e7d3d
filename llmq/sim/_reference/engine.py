"""One engine, row by row, in plain Python: the simulator that is meant to be obviously right.

At an iteration boundary: requests that have arrived join the queue, the policy plans, the plan is
checked against every rule, and the iteration lasts as long as the law says (and the swaps take).
When it ends, tokens and clocks move together. Any policy runs here; the faster engines must give
the same trajectory.
"""

from __future__ import annotations

import math
from typing import NoReturn

from llmq.errors import PolicyError
from llmq.policies.contract.fill import plan
from llmq.policies.contract.view import Batch, View
from llmq.sim._reference.audit import Audit, ask, broken, marks_of, misshapen
from llmq.sim._reference.memory import CountedMemory
from llmq.sim._reference.rows import Row, view_of
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["ReferenceEngine"]

# Boundaries in a row at which a policy may wait; iterations without a token, which must also be
# this many times the tokens of all who are present, before a policy counts as going in circles.
WAITS, LOST = 10_000, 10


class ReferenceEngine(CountedMemory):
    """One engine that is advanced from boundary to boundary.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.engine import Engine
    >>> from llmq.policies import Sarathi
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> job = Job(engine, Sarathi(), [0.0], [8], [3], [0], [0])
    >>> log = Log.empty(1)
    >>> server = ReferenceEngine(job, log)
    >>> server.queue.append(0)
    >>> server.advance(math.inf)
    >>> log.finish[0]
    3.0
    """

    def __init__(self, job: Job, log: Log, audit: Audit | None = None) -> None:
        self.job, self.log, self.tally, self.audit = job, log, Tally(), audit
        self.engine, self.blocks = job.engine, job.policy.blocks
        self.lag = self.engine.conventions.lag
        self.queue: list[int] = []
        self.joined = 0
        self.rows: list[Row] = []
        # (ready, left, row): on their way from another engine, the first to come last.
        self.flights: list[tuple[float, float, Row]] = []
        # Rows whose reasoning, whose prefill ended with the last iteration.
        self.crossed: list[Row] = []
        self.ended: list[Row] = []
        self.running: tuple[View, Batch] | None = None
        self.clock, self.wake = 0.0, -math.inf
        self.free = self.engine.kv_blocks
        self.stamp = self.started = 0
        # Boundaries at which nobody was served, and iterations without a token, since the last.
        self.waits = self.barren = 0
        self.prefilled = False

    # ------------------------------------------------------------------------ what routers see

    def work(self, now: float) -> float:
        """Outstanding tokens: of the requests sent here, those no finished iteration processed."""
        rows = sum(r.prompt + r.output - 1 + self.lag - r.kv - r.host for r in self.present())
        return float(rows)

    def present(self) -> list[Row]:
        """Return everybody sent here who has not ended: in a batch, waiting or on the way."""
        waiting = [Row(i, self.job, 0) for i in self.queue[self.joined :]]
        return self.rows + waiting + [row for _, _, row in self.flights]

    def view(self, now: float) -> View:
        """Show everybody sent here."""
        return self._view(self.present(), now)

    def _view(self, rows: list[Row], time: float) -> View:
        return view_of(
            rows,
            self.job,
            self.tally,
            time=time,
            free=self.free,
            started=self.started,
            prefilled=self.prefilled,
        )

    # ---------------------------------------------------------------------------- moving on

    def advance(self, until: float) -> None:
        """End every iteration that ends by ``until`` and start those that start before it."""
        while (due := self.due()) < until or (self.running and due == until):
            if self.running:
                self.complete()
            else:
                self.begin()
        if math.isinf(until):
            self.check_end()

    def check_end(self) -> None:
        """Refuse to end while somebody is here."""
        if self.rows:
            self.refuse(f"waits with {len(self.rows)} requests present and names no wake-up time")
        if self.audit is not None:
            self.audit.over(self)

    def due(self) -> float:
        """When something happens here next: an iteration ends or can start."""
        if self.running:
            return self.clock
        next_ = self.flights[-1][0] if self.flights else math.inf
        if self.joined < len(self.queue):
            next_ = min(next_, self.job.arrival[self.queue[self.joined]])
        return max(self.clock, min(next_, self.wake) if self.rows else next_)

    def begin(self) -> None:
        """Start an iteration, or hold until there is a reason to look again."""
        moment = self.due()
        self.tally.presence += (moment - self.clock) * len(self.rows)
        self.clock, self.wake = moment, -math.inf
        self._join()
        if not any(row.held for row in self.rows):
            self.started = 0
        view = self._marked(self._view(self.rows, self.clock))
        planner = self.planner() or plan
        batch = ask(self, planner, view, self.blocks)
        if (rule := misshapen(view, batch)) is not None:
            self.refuse(rule)
        if self.audit is not None:
            self.audit.planned(self, planner, view, batch)
        if batch.rows:
            self._start(view, batch)
        else:
            self._hold(batch)
        for row in self.rows:
            row.landed = False

    def _hold(self, batch: Batch) -> None:
        """Let nobody run until the policy's wake-up or the next arrival."""
        self.waits += 1
        if self.waits > WAITS:
            self.refuse(f"served nobody {WAITS} times in a row, {len(self.rows)} requests present")
        moved = any(self.rows[i].held for i in batch.evict)
        for i in batch.evict:
            self._evict(self.rows[i])
        if not moved:
            self.wake = math.inf if batch.wake is None else batch.wake
            if not self.wake > self.clock:
                self.refuse(f"asks to be woken at {self.wake:g} s, which has passed")

    def _join(self) -> None:
        """Take in the requests that came at or before the boundary, then those that queue again."""
        queue, arrival = self.queue, self.job.arrival
        while self.joined < len(queue) and arrival[queue[self.joined]] <= self.clock:
            i = queue[self.joined]
            self.joined += 1
            self.stamp += 1
            self.tally.presence += self.clock - arrival[i]
            self.rows.append(Row(i, self.job, self.stamp))
        while self.flights and self.flights[-1][0] <= self.clock:
            ready, left, row = self.flights.pop()
            self.tally.presence += self.clock - left
            self.stamp += 1
            row.queued, row.mark, row.landed = self.stamp, ready, True
            self.rows.append(row)
        for row in self.ended:
            self.stamp += 1
            row.queued = self.stamp
        self.ended = []

    def _marked(self, view: View) -> View:
        """Let the policy write the marks of the rows that were just served."""
        if self.blocks.mark is None:
            return view
        mark = view.mark.copy()
        for i, new in enumerate(marks_of(self, view)):
            row = self.rows[i]
            if row.served:
                row.mark = mark[i] = new
                row.served = False
        mark.flags.writeable = False
        return view._replace(mark=mark)

    def _start(self, view: View, batch: Batch) -> None:
        if (rule := broken(self, view, batch)) is not None:
            self.refuse(rule)
        swapped, self.waits = 0, 0
        for i in batch.evict:
            swapped += self._evict(self.rows[i])
        kv = work = prefill = 0.0
        for i, tokens, held in zip(batch.rows, batch.tokens, batch.reserve, strict=True):
            row = self.rows[i]
            swapped += 0 if row.landed else row.host
            row.kv, row.host = row.kv + row.host, 0
            self.reserve(row, tokens, held)
            self.started += not row.held
            row.held = held
            kv += row.kv + tokens
            if not view.decoding[i]:
                prefill += tokens
                work += tokens * (row.kv + tokens / 2)
            if row.generated >= row.hidden > 0 and math.isnan(self.log.resumed[row.index]):
                self.log.resumed[row.index] = self.clock
        count = sum(batch.tokens)
        seconds = self.engine.law(count, kv, work, mixed=prefill > 0)
        seconds += self.engine.per_swap * swapped
        self.clock += seconds
        self.prefilled = prefill > 0
        tally = self.tally
        tally.iterations += 1
        tally.tokens += count
        tally.kv_area += kv
        tally.busy += seconds
        tally.swapped += swapped
        tally.presence += seconds * len(self.rows)
        tally.clock, tally.last = self.clock, count
        self.running = view, batch

    def complete(self) -> None:
        """End the iteration: rows with nothing left to process give a token."""
        assert self.running is not None
        (view, batch), self.running = self.running, None
        log, job, done = self.log, self.job, set()
        self.barren += 1
        for i, tokens in zip(batch.rows, batch.tokens, strict=True):
            row = self.rows[i]
            row.kv += tokens
            row.served = True
            if row.prompt + row.generated > row.kv:
                continue
            if math.isnan(log.prefill_end[row.index]):
                log.prefill_end[row.index] = self.clock
            if self.lag and not view.decoding[i]:
                self.ended.append(row)
                continue
            row.generated += 1
            self.barren = 0
            if log.tokens is not None:
                log.tokens[row.index].append(self.clock)
            if row.generated == row.hidden:
                log.boundary[row.index] = row.boundary = self.clock
                self.crossed.append(row)
            if row.generated == job.hidden[row.index] + 1:
                log.first_token[row.index] = row.first = self.clock
            if row.generated == row.output:
                log.finish[row.index] = self.clock
                self.release(row)
                done.add(i)
            elif not view.decoding[i]:
                self.ended.append(row)
        self.rows = [row for i, row in enumerate(self.rows) if i not in done]
        if self.barren > WAITS and self.barren > LOST * sum(r.prompt + r.output for r in self.rows):
            self.refuse(f"no request got a token in {self.barren} iterations: evicted again before")
        if self.audit is not None:
            self.audit.ended(self)

    def part(self, row: Row) -> None:
        """Let a row go to another engine."""
        self.rows.remove(row)
        self.free += row.held
        row.host, row.kv, row.held = row.kv + row.host, 0, 0
        # What it was given here is no reason to write its mark where it goes.
        row.served = False

    def receive(self, row: Row, left: float, ready: float) -> None:
        """Expect a row from another engine."""
        self.tally.moved += row.host
        self.flights.append((ready, left, row))
        self.flights.sort(key=lambda flight: (-flight[0], -flight[2].index))

    def _evict(self, row: Row) -> int:
        """Take a row off the device; the tokens that move to the host."""
        self.tally.evictions += 1
        self.release(row)
        moved, row.kv, row.held = row.kv, 0, 0
        if self.blocks.swap:
            row.host += moved
            return moved
        self.tally.recomputed += moved
        return 0

    # ------------------------------------------------------------------------- keeping the rules

    def refuse(self, rule: str, cause: Exception | None = None) -> NoReturn:
        """Give up: the policy broke a rule."""
        name, n = self.job.policy.name, self.tally.iterations
        raise PolicyError(
            f"{name}, iteration {n} (t = {self.clock:.6g} s): {rule}",
            policy=name,
            iteration=n,
            time=self.clock,
            rule=rule,
        ) from cause
