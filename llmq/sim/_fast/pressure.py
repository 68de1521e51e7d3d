r"""MaxWeight on one engine without limits of memory and slots, in plain numbers.

The policy (:mod:`llmq.policies.maxweight`) knows two groups: prompts in the order of arrival, of
which only the first can be half done, and decodes. Their totals are enough to choose a batch:
where the group with the higher pressure fills all that the budget allows, the most productive size
up to it, which is looked up; else the worth of each size, which is linear on either side of the
first group's tokens. So nothing of the size of the queue is touched at a boundary.

The trajectory is that of the reference simulator, which the tests compare. Not covered, and left
to it: memory, slots, attention, prompts cut into chunks below the budget, hidden reasoning, prefix
caches, and routers that look at the engines.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from llmq.model.engine import Engine
from llmq.model.trace import Trace
from llmq.policies import MaxWeight, Policy
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["PressureEngine", "fits"]


def fits(policy: Policy, engines: tuple[Engine, ...], trace: Trace) -> bool:
    """Whether this engine runs a policy on engines and requests."""
    return (
        type(policy) is MaxWeight
        and all(_plain(engine) for engine in engines)
        and not trace.reasoning.any()
    )


def _plain(engine: Engine) -> bool:
    law = engine.law
    attention = law.per_kv or law.per_kv_mixed or law.per_work
    limits = engine.kv_tokens is not None or engine.max_seqs is not None
    return not attention and not limits and engine.chunk == engine.token_budget


class PressureEngine:
    """One engine under MaxWeight, from the first request of its queue to the last.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), 8)
    >>> job = Job(engine, MaxWeight(), [0.0], [8], [3], [0], [0])
    >>> log = Log.empty(1)
    >>> server = PressureEngine(job, log)
    >>> server.queue.append(0)
    >>> server.advance(math.inf)
    >>> log.finish[0]
    3.0
    """

    def __init__(self, job: Job, log: Log) -> None:
        self.job, self.log, self.tally = job, log, Tally()
        self.queue: list[int] = []
        self.lag = job.engine.conventions.lag
        self.budget = job.engine.token_budget
        self.sizes = np.arange(1, self.budget + 1)
        self.times = np.asarray(job.engine.law(self.sizes))
        self.most_productive = _best_up_to(self.sizes / self.times)
        self.seconds: list[float] = self.times.tolist()
        # [request, prompt tokens to come]; [request, tokens to come, KV tokens].
        self.prompts: deque[list[int]] = deque()
        self.decodes: list[list[int]] = []
        self.joined = 0
        # Prompt tokens to come, output tokens of the prompts, output tokens of the decodes.
        self.tokens = self.later = self.answers = 0

    def work(self, now: float) -> float:
        """Outstanding tokens of the requests sent here."""
        job = self.job
        missing = sum(job.prompt[i] + job.output[i] for i in self.queue[self.joined :])
        waiting = len(self.queue) - self.joined + len(self.prompts)
        first = waiting * (1 - self.lag)  # the token that comes with the end of a prompt
        return float(missing + self.tokens + self.later + self.answers - first)

    def advance(self, until: float) -> None:
        """Run to the last token."""
        arrival, output = self.job.arrival, self.job.output
        tally, queue = self.tally, self.queue
        while self.joined < len(queue) or self.prompts or self.decodes:
            clock = tally.clock
            if not self.prompts and not self.decodes:
                clock = max(clock, arrival[queue[self.joined]])
            while self.joined < len(queue) and arrival[(i := queue[self.joined])] <= clock:
                self.prompts.append([i, self.job.prompt[i]])
                self.tokens += self.job.prompt[i]
                self.later += output[i]
                tally.presence += clock - arrival[i]
                self.joined += 1
            n, ahead = self._choose()
            seconds = self.seconds[n - 1]
            tally.presence += seconds * (len(self.prompts) + len(self.decodes))
            tally.iterations += 1
            tally.tokens += n
            tally.busy += seconds
            tally.clock, tally.last = clock + seconds, n
            decodes = min(len(self.decodes), max(n - self.tokens, 0) if ahead else n)
            begun = self._prefill(n - decodes, tally.clock)
            self._decode(decodes, tally.clock)
            self.decodes.extend(begun)

    def _choose(self) -> tuple[int, bool]:
        """Tokens of the batch, and whether prompts go first."""
        tokens, answers, decodes = self.tokens, self.answers, len(self.decodes)
        prompts = tokens + self.later
        ahead = prompts > answers
        brings = self.later / tokens if tokens else 0.0
        pressure = (1 + brings) * prompts - brings * answers
        if pressure <= 0:
            tokens = 0
        first, second = (tokens, decodes) if ahead else (decodes, tokens)
        limit = min(self.budget, first + second)
        if first >= limit:
            return self.most_productive[limit - 1], ahead
        high, low = (pressure, answers) if ahead else (answers, pressure)
        n = self.sizes[:limit]
        worth = np.minimum(n, first) * high + np.maximum(n - first, 0) * low
        rate = worth / self.times[:limit]
        return int(n[np.flatnonzero(rate >= rate.max() * (1 - 1e-12))[-1]]), ahead

    def _prefill(self, tokens: int, clock: float) -> list[list[int]]:
        """Process prompt tokens in the order of arrival; the decodes that begin."""
        log, begun, left = self.log, [], tokens
        self.tokens -= tokens
        while left:
            head = self.prompts[0]
            i, part = head[0], min(head[1], left)
            left -= part
            head[1] -= part
            self.tally.kv_area += self.job.prompt[i] - head[1]
            if head[1]:
                break
            self.prompts.popleft()
            self.later -= self.job.output[i]
            log.prefill_end[i] = clock
            row = [i, self.job.output[i], self.job.prompt[i]]
            if self.lag or not self._token(row, clock):
                begun.append(row)
                self.answers += row[1]
        return begun

    def _decode(self, count: int, clock: float) -> None:
        """Give the first decodes a token each."""
        self.answers -= count
        served = self.decodes[:count]
        for row in served:
            row[2] += 1
            self.tally.kv_area += row[2]
        left = [row for row in served if not self._token(row, clock)]
        self.decodes[:count] = left

    def _token(self, row: list[int], clock: float) -> bool:
        """Write down a token; whether it is the last."""
        i, log = row[0], self.log
        if row[1] == self.job.output[i]:
            log.first_token[i] = clock
        row[1] -= 1
        if log.tokens is not None:
            log.tokens[i].append(clock)
        if not row[1]:
            log.finish[i] = clock
        return not row[1]


def _best_up_to(rate: np.ndarray) -> list[int]:
    """Return the most productive size up to each size, the largest if several are."""
    best, found = 0, []
    top = -math.inf
    for i, value in enumerate(rate.tolist()):
        if value >= top * (1 - 1e-12):
            best = i + 1
        top = max(top, value)
        found.append(best)
    return found
