"""The reference engine, shown no more waiting rows than one iteration could start.

The cost of an iteration of :class:`llmq.sim._reference.engine.ReferenceEngine` grows with the rows
that are present. Where a queue of thousands waits, nearly all of it cannot matter: if the new rows
of each class are served in the order in which they came, a row with a full token budget of its own
class ahead of it gets nothing. So each class waits in a line of its own, and lets rows in only
until the new ones inside could fill an iteration. The trajectory is that of the reference engine.

For policies without gate, marks, memory limit and budgets of their own, whose key puts the new rows
of a class in the order of arrival.
"""

from __future__ import annotations

from collections import deque

from llmq.model.engine import Engine
from llmq.policies.contract.blocks import Budget, Policy, arrival_order, decodes_first, everyone
from llmq.policies.priority import Priority
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim.results._log import Job, Log

__all__ = ["WindowEngine", "can_window"]


def can_window(policy: Policy, engine: Engine) -> bool:
    """Whether the rows behind a full budget of their class cannot matter.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies import MaxWeight, Sarathi
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> can_window(Sarathi(), engine), can_window(MaxWeight(), engine)
    (True, False)
    """
    blocks = policy.blocks
    known = isinstance(policy, Priority) or blocks.key in (decodes_first, arrival_order)
    simple = blocks.gate is everyone and blocks.mark is None and not blocks.swap
    plain = blocks.budget == Budget(whole=blocks.budget.whole, chunk=blocks.budget.chunk)
    return known and simple and plain and not blocks.admit.bump and engine.kv_tokens is None


class WindowEngine(ReferenceEngine):
    """One engine that is advanced from boundary to boundary.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies import Sarathi
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=4)
    >>> log = Log.empty(9)
    >>> job = Job(engine, Sarathi(), [0.0] * 9, [2] * 9, [1] * 9, [0] * 9, [0] * 9)
    >>> server = WindowEngine(job, log)
    >>> for i in range(9):
    ...     server.send(i)
    >>> len(server.present())
    2
    """

    def __init__(self, job: Job, log: Log) -> None:
        super().__init__(job, log)
        chunk = job.policy.blocks.budget.chunk or self.engine.chunk
        self.most = self.engine.token_budget
        self.chunk = self.most if job.policy.blocks.budget.whole else min(chunk, self.engine.chunk)
        self.lines: dict[int, deque[int]] = {}
        # Tokens that the new rows inside could take in one iteration, by class.
        self.fresh: dict[int, int] = {}

    def send(self, i: int) -> None:
        """Let a request queue up."""
        klass = self.job.klass[i]
        self.lines.setdefault(klass, deque()).append(i)
        self._let_in(klass)

    def complete(self) -> None:
        """End the iteration, and let new rows in."""
        super().complete()
        self.fresh = dict.fromkeys(self.lines, 0)
        for row in self.rows:
            if not row.held:
                self.fresh[self.job.klass[row.index]] += min(row.prompt, self.chunk)
        for i in self.queue[self.joined :]:
            self.fresh[self.job.klass[i]] += min(self.job.prompt[i], self.chunk)
        for klass in self.lines:
            self._let_in(klass)

    def _let_in(self, klass: int) -> None:
        line, inside = self.lines[klass], self.fresh.get(klass, 0)
        while line and inside < self.most:
            self.queue.append(line.popleft())
            inside += min(self.job.prompt[self.queue[-1]], self.chunk)
        self.fresh[klass] = inside
