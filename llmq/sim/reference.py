"""One engine, row by row, in plain Python: the simulator that is meant to be obviously right.

At an iteration boundary: requests that have arrived join the queue, the policy plans, the plan is
checked against every rule, the iteration lasts as long as the law says, then tokens, memory and
clocks move together. Any policy runs here; the faster engines must give the same trajectory.
"""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np

from llmq.errors import PolicyError
from llmq.policies.kernel import plan
from llmq.policies.view import Batch, View
from llmq.sim.log import Job, Log, Tally

__all__ = ["ReferenceEngine"]


class Row:
    """The state of one request; ``rem`` is what it must process before its next token."""

    __slots__ = ("generated", "held", "host", "index", "kv", "output", "prompt", "queued")

    def __init__(self, index: int, prompt: int, output: int, queued: int) -> None:
        self.index, self.prompt, self.output, self.queued = index, prompt, output, queued
        self.kv = self.host = self.held = self.generated = 0

    def rem(self, lag: int) -> int:
        """Tokens to process before the next output token (a decode of its own if none is left)."""
        missing = self.prompt + self.generated - self.kv - self.host
        return missing if missing > 0 else lag

    def decoding(self, lag: int) -> bool:
        """Whether the next token takes one decode."""
        missing = self.prompt + self.generated - self.kv - self.host
        return missing == 0 if lag else self.generated > 0 and missing == 1


class ReferenceEngine:
    """One engine that is advanced from boundary to boundary.

    Parameters
    ----------
    job : Job
        Engine, policy and requests.
    log : Log
        Where event times go.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
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

    def __init__(self, job: Job, log: Log) -> None:
        self.job, self.log, self.tally = job, log, Tally()
        self.engine, self.blocks = job.engine, job.policy.blocks
        self.lag = self.engine.conventions.lag
        self.queue: list[int] = []
        self.joined = 0
        self.rows: list[Row] = []
        self.prefilled: list[Row] = []
        self.clock = 0.0
        self.free = self.engine.kv_blocks
        self.stamp = 0

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
        waiting = sum(self._demand(i) for i in self.queue[self.joined :])
        present = sum(r.prompt + r.output - 1 + self.lag - r.kv for r in self.rows)
        running = self.tally.last if self.tally.clock > now else 0
        return float(waiting + present + running)

    def _demand(self, i: int) -> int:
        return self.job.prompt[i] + self.job.output[i] - 1 + self.lag

    def advance(self, until: float) -> None:
        """Run every iteration that starts before ``until``.

        Parameters
        ----------
        until : float
            Seconds; infinite runs to empty.

        Raises
        ------
        PolicyError
            The policy broke a rule, or it deadlocked.
        """
        while True:
            if not self.rows:
                if self.joined == len(self.queue):
                    return
                self.clock = max(self.clock, self.job.arrival[self.queue[self.joined]])
            if self.clock >= until:
                return
            self._join()
            self._requeue()
            view = self._view()
            batch = plan(view, self.blocks, self.engine.chunk)
            if batch.rows:
                self._iterate(view, batch)
            else:
                self._hold(batch)

    def _join(self) -> None:
        """Take in the requests that came at or before the boundary."""
        while (
            self.joined < len(self.queue)
            and self.job.arrival[self.queue[self.joined]] <= self.clock
        ):
            i = self.queue[self.joined]
            self.joined += 1
            self.stamp += 1
            self.tally.presence += self.clock - self.job.arrival[i]
            self.rows.append(Row(i, self.job.prompt[i], self.job.output[i], self.stamp))

    def _view(self) -> View:
        rows, lag, job = self.rows, self.lag, self.job
        index = [r.index for r in rows]
        table = np.array(
            [(r.queued, r.prompt, r.kv, r.host, r.generated, r.rem(lag), r.held) for r in rows]
        ).T
        engine = self.engine
        table.flags.writeable = False
        return View(
            time=self.clock, row=np.array(index), arrival=np.array([job.arrival[i] for i in index]),
            queued=table[0], prompt=table[1], klass=np.array([job.klass[i] for i in index]),
            kv=table[2], host=table[3], generated=table[4], rem=table[5], held=table[6],
            decoding=np.array([r.decoding(lag) for r in rows]),
            resident=table[6] > 0,
            output=np.array([r.output for r in rows]) if "output" in job.policy.sees else None,
            free=self.free, total=engine.kv_blocks, block=engine.kv_block,
            tokens=engine.token_budget, slots=engine.max_seqs or math.inf,
            one_prefill_slot=engine.conventions.prefill_slots == "one",
        )  # fmt: skip

    def _iterate(self, view: View, batch: Batch) -> None:
        self._check(view, batch)
        for i in batch.evict:
            self._evict(self.rows[i])
        kv = work = prefill = 0.0
        for i, tokens, held in zip(batch.rows, batch.tokens, batch.reserve, strict=True):
            row = self.rows[i]
            row.kv += tokens
            self.free -= held - row.held
            row.held = held
            kv += row.kv
            if not view.decoding[i]:
                prefill += tokens
                work += tokens * (row.kv - tokens / 2)
        tokens = sum(batch.tokens)
        seconds = self.engine.law(tokens, kv, work, mixed=prefill > 0)
        self.clock += seconds
        tally = self.tally
        tally.iterations += 1
        tally.tokens += tokens
        tally.kv_area += kv
        tally.busy += seconds
        tally.presence += seconds * len(self.rows)
        tally.clock, tally.last = self.clock, tokens
        self._emit(view, batch)

    def _emit(self, view: View, batch: Batch) -> None:
        """Rows that have nothing left to process give a token; the last one leaves."""
        log, job, done = self.log, self.job, set()
        for i in batch.rows:
            row = self.rows[i]
            if row.prompt + row.generated > row.kv:
                continue
            if math.isnan(log.prefill_end[row.index]):
                log.prefill_end[row.index] = self.clock
            if self.lag and not view.decoding[i]:
                continue
            row.generated += 1
            if log.tokens is not None:
                log.tokens[row.index].append(self.clock)
            if row.generated == job.hidden[row.index] + 1:
                log.first_token[row.index] = self.clock
            if row.generated == row.output:
                log.finish[row.index] = self.clock
                self.free += row.held
                done.add(i)
        self.prefilled = [
            self.rows[i]
            for i in batch.rows
            if not view.decoding[i] and self.rows[i].decoding(self.lag)
        ]
        self.rows = [row for i, row in enumerate(self.rows) if i not in done]

    def _requeue(self) -> None:
        """Put rows whose prefill just ended behind those that arrived meanwhile."""
        for row in self.prefilled:
            self.stamp += 1
            row.queued = self.stamp
        self.prefilled = []

    def _evict(self, row: Row) -> None:
        self.tally.evictions += 1
        self.tally.recomputed += row.kv
        self.free += row.held
        row.kv = row.held = 0

    def _hold(self, batch: Batch) -> None:
        """Nothing can run: wait for the policy's wake-up or the next arrival."""
        for i in batch.evict:
            self._evict(self.rows[i])
        times = [] if batch.wake is None else [batch.wake]
        if self.joined < len(self.queue):
            times.append(self.job.arrival[self.queue[self.joined]])
        if not times and not batch.evict:
            self._refuse(f"waits with {len(self.rows)} requests present and names no wake-up time")
        if times:
            moment = max(self.clock, min(times))
            self.tally.presence += (moment - self.clock) * len(self.rows)
            self.clock = moment

    def _check(self, view: View, batch: Batch) -> None:
        """Refuse a plan that breaks a rule of the engine."""
        tokens, limit = sum(batch.tokens), self.engine.token_budget
        if tokens > limit:
            self._refuse(f"{tokens} tokens exceed token_budget {limit}")
        if len(set(batch.rows)) < len(batch.rows):
            self._refuse("a row is served twice in one iteration")
        if set(batch.rows) & set(batch.evict):
            self._refuse("a row is served and evicted in one iteration")
        free = self.free + sum(int(view.held[i]) for i in batch.evict)
        for i, x, held in zip(batch.rows, batch.tokens, batch.reserve, strict=True):
            row = self.rows[i]
            most = 1 if view.decoding[i] else row.rem(self.lag)
            if not 0 < x <= most:
                self._refuse(f"request {row.index} gets {x} tokens, it can take 1 to {most}")
            if held * self.engine.kv_block < row.kv + x:
                self._refuse(f"request {row.index} holds too few KV blocks for its tokens")
            free -= held - row.held
        if free < 0:
            self._refuse(f"the plan needs {-free:g} KV blocks more than there are")
        self._check_slots(view, batch)

    def _check_slots(self, view: View, batch: Batch) -> None:
        limit = self.engine.max_seqs or math.inf
        if view.one_prefill_slot:
            decodes = sum(bool(view.decoding[i]) for i in batch.rows)
            used = decodes + (decodes < len(batch.rows))
        else:
            held = {i for i, row in enumerate(self.rows) if row.held} | set(batch.rows)
            used = len(held - set(batch.evict))
        if used > limit:
            self._refuse(f"{used} requests exceed max_seqs {limit:g}")

    def _refuse(self, rule: str) -> NoReturn:
        name, n = self.job.policy.name, self.tally.iterations
        raise PolicyError(
            f"{name}, iteration {n} (t = {self.clock:.6g} s): {rule}",
            policy=name, iteration=n, time=self.clock, rule=rule,
        )  # fmt: skip
