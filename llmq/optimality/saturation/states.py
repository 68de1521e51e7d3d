"""The states of an engine with equal requests, and what follows each of them.

A state is what a policy can tell apart between two iterations: the requests that have begun, in the
order of arrival, and what the engine remembers. How many more wait is not part of it: any number
may have come during an iteration, so that a state has a successor for each number from those that
are known to wait up to more than an iteration can start ("a queue that is full").
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time._exact import ExactBatchTime
from llmq.policies import Policy
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.rows import Row
from llmq.sim.results._log import Job, Log

__all__ = ["EMPTY", "Moved", "Space", "State", "step"]

# Rows that have begun (KV, on the host, blocks, tokens said), their order in the one queue, those
# whose prefill ended last, prefills since the engine was empty, whether the last iteration had one.
State: TypeAlias = tuple[
    tuple[tuple[int, int, int, int], ...], tuple[int, ...], tuple[int, ...], int, bool
]
EMPTY: State = ((), (), (), 0, False)


@dataclass(frozen=True, slots=True)
class Moved:
    """One iteration: the state after it, who waits then, its prefill tokens, decodes and seconds.

    Parameters
    ----------
    state : tuple
        After the iteration.
    waiting : int
        Of those that waited before it, how many still do.
    prefill, decodes : int
        Tokens.
    seconds : fractions.Fraction
        Its length.
    ended : int
        Requests that ended with it.
    """

    state: State
    waiting: int
    prefill: int
    decodes: int
    seconds: Fraction
    ended: int


@dataclass(slots=True)
class Space:
    """The states that are reached from an empty engine, one iteration after the other.

    Parameters
    ----------
    policy : Policy
        A policy that reads only the head of the queue.
    engine : Engine
        The engine.
    request : RequestClass
        The only class.
    least : dict
        Fewest that are known to wait in each state that was reached.
    rows : int
        Requests in all iterations that were computed: what that took.
    known : dict
        What each iteration that was computed does.
    """

    policy: Policy
    engine: Engine
    request: RequestClass
    least: dict[State, int] = field(default_factory=dict)
    rows: int = 0
    known: dict[tuple[State, int], Moved] = field(default_factory=dict)

    @property
    def full(self) -> int:
        """More than an iteration can start: each but the last takes a chunk or its prompt."""
        engine, prompt = self.engine, self.request.prompt.low
        least = min(prompt, engine.chunk, self.policy.blocks.budget.chunk or prompt)
        started = (engine.token_budget - 1) // least + 1
        return int(min(started, engine.max_seqs or math.inf)) + 1

    def move(self, state: State, waiting: int) -> Moved:
        """Return what one iteration does.

        Parameters
        ----------
        state : tuple
            Before it.
        waiting : int
            Who waits.

        Returns
        -------
        Moved
            The iteration.
        """
        key = state, waiting
        if key not in self.known:
            self.known[key] = self._move(state, waiting)
            self.rows += len(state[0]) + waiting
        return self.known[key]

    def explore(self, most: int) -> bool:
        """Reach states by every number of arrivals, the nearest first.

        Parameters
        ----------
        most : int
            Requests in all iterations together after which to stop.

        Returns
        -------
        bool
            Whether all states were reached.
        """
        todo: deque[tuple[State, int]] = deque([(EMPTY, 1)])  # who comes to nobody comes alone
        done: set[tuple[State, int]] = set()
        while todo:
            if self.rows >= most:
                return False
            state, waiting = todo.popleft()
            if (state, waiting) in done:
                continue
            done.add((state, waiting))
            after = self.move(state, waiting)
            # Nobody present: the next to come starts an iteration.
            first = max(after.waiting, 0 if after.state[0] else 1)
            if first < self.least.get(after.state, self.full + 1):
                last = min(self.least.get(after.state, self.full + 1), self.full + 1)
                self.least[after.state] = first
                todo.extend((after.state, n) for n in (self.full, *range(first, last)))
        return True

    def _move(self, state: State, waiting: int) -> Moved:
        server = self._server(state, waiting)
        tokens, decodes, seconds = step(server, self.engine.law.exact())
        present = len(server.rows)
        server.complete()
        ended = present - len(server.rows)
        here = [row for row in server.rows if row.held or row.generated or row.host]
        order = sorted(range(len(here)), key=lambda i: here[i].queued)
        place = {id(row): i for i, row in enumerate(here)}
        begun = tuple((row.kv, row.host, row.held, row.generated) for row in here)
        last = tuple(sorted(place[id(row)] for row in server.ended))
        together = self.policy.blocks.together
        counts = together is not None and together.cycle < math.inf and bool(here)
        started = server.started if counts else 0
        after: State = begun, tuple(order), last, started, server.prefilled
        left = len(server.rows) - len(here)
        return Moved(after, left, tokens - decodes, decodes, seconds, ended)

    def _server(self, state: State, waiting: int) -> ReferenceEngine:
        rows, order, ended, started, prefilled = state
        n = len(rows) + waiting
        lengths = [self.request.prompt.low] * n, [self.request.output.low] * n
        job = Job(self.engine, self.policy, [0.0] * n, *lengths, [0] * n, [0] * n)
        server = ReferenceEngine(job, Log.empty(n))
        rank = {i: place for place, i in enumerate(order)}
        for i, (kv, host, held, generated) in enumerate(rows):
            row = Row(i, job, rank[i] + 1)
            row.kv, row.host, row.held, row.generated = kv, host, held, generated
            server.rows.append(row)
            server.free -= held
        server.stamp, server.started, server.prefilled = len(rows), started, prefilled
        server.ended = [server.rows[i] for i in ended]
        server.queue.extend(range(len(rows), n))
        return server


def step(server: ReferenceEngine, law: ExactBatchTime) -> tuple[int, int, Fraction]:
    """Start an iteration: its tokens, its decodes, and how long it takes.

    Parameters
    ----------
    server : ReferenceEngine
        Between iterations, with somebody present; may let rows go before it serves others.
    law : ExactBatchTime
        The engine's law.

    Returns
    -------
    tuple of int, int and fractions.Fraction
        Tokens, decodes among them, seconds.
    """
    server.begin()
    while server.running is None:  # it only evicted; a policy that waits for ever is refused
        server.begin()
    tokens, kv, work, decodes = _batch(server)
    return tokens, decodes, law(tokens, kv, work, mixed=tokens > decodes)


def _batch(server: ReferenceEngine) -> tuple[int, int, Fraction, int]:
    """Tokens, KV read, attention work and decodes of the iteration that just began."""
    assert server.running is not None
    view, batch = server.running
    kv, work, decodes = 0, Fraction(0), 0
    for i, tokens in zip(batch.rows, batch.tokens, strict=True):
        held = int(view.kv[i])
        kv += held + tokens
        if view.decoding[i]:
            decodes += 1
        else:
            work += Fraction(tokens * (2 * held + tokens), 2)
    return sum(batch.tokens), kv, work, decodes
