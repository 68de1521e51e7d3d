"""The rules of a plan, and a second look at every iteration (``simulate(..., check=True)``).

:func:`broken` names the rule that a plan breaks; the reference simulator asks it always. An
:class:`Audit` costs about three times the simulation and looks at more.

*The policy*: planned again from the same view, with fresh blocks and with a copy of the policy made
at the start, it must say the same; otherwise it keeps something between calls. (What it keeps
outside itself and never changes a plan that was seen cannot be found.)

*The engine*, when an iteration ends: time goes on; blocks that are free and held make the total,
and hold all tokens; no request has more tokens than it asked for; tokens that were processed (or
found in a prefix cache) are in the memory of somebody present, in the demand of somebody who
finished, or were dropped. At the end the request-seconds that were summed on the way are the sum of
the times in the system (Little).
"""

from __future__ import annotations

import math
import pickle
from typing import NoReturn, Protocol

import numpy as np

from llmq.errors import InvariantError
from llmq.model.engine import Engine
from llmq.policies.contract.blocks import Blocks, Policy
from llmq.policies.contract.checks import (
    PAGE,
    BrokenRuleError,
    mark_of,
    over_budget,
    sealed,
    starved,
)
from llmq.policies.contract.view import Batch, View
from llmq.sim._reference.memory import Planner
from llmq.sim._reference.rows import Row
from llmq.sim.results._log import Job, Log, Tally

__all__ = ["Audit", "ask", "broken", "marks_of", "misshapen"]

ROUNDING = 1e-9


class Server(Protocol):
    """What an audit reads of an engine, the reference for one."""

    job: Job
    log: Log
    tally: Tally
    engine: Engine
    blocks: Blocks
    queue: list[int]
    rows: list[Row]
    clock: float
    free: float
    lag: int

    def occupied(self) -> float:
        """Blocks that somebody holds."""

    def left_by(self, view: View, batch: Batch) -> float:
        """Blocks that a plan leaves."""

    def refuse(self, rule: str, cause: Exception | None = None) -> NoReturn:
        """Give up: the policy broke a rule."""


def misshapen(view: View, batch: Batch) -> str | None:
    """Name what is wrong with the rows of a plan."""
    n = len(view.row)
    if not len(batch.rows) == len(batch.tokens) == len(batch.reserve):
        return (
            f"{len(batch.rows)} rows, {len(batch.tokens)} tokens and {len(batch.reserve)} "
            "reservations do not go together"
        )
    if strange := [i for i in (*batch.rows, *batch.evict) if not 0 <= i < n]:
        return f"row {strange[0]} is none of the {n} present: it has finished or never came"
    if len(set(batch.rows)) < len(batch.rows):
        return "a row is served twice in one iteration"
    if len(set(batch.evict)) < len(batch.evict):
        return "a row is evicted twice in one iteration"
    if set(batch.rows) & set(batch.evict):
        return "a row is served and evicted in one iteration"
    return None


def broken(server: Server, view: View, batch: Batch) -> str | None:
    """Name the rule of the engine that a plan breaks."""
    engine = server.engine
    if sum(batch.tokens) > engine.token_budget:
        return over_budget(batch.tokens, engine.token_budget)
    for i, x, held in zip(batch.rows, batch.tokens, batch.reserve, strict=True):
        row = server.rows[i]
        most = 1 if view.decoding[i] else row.rem(server.lag)
        if not 0 < x <= most:
            return f"request {row.index} gets {x} tokens, it can take 1 to {most}"
        if held * engine.kv_block < row.kv + row.host + x:
            return f"request {row.index} holds too few KV blocks for its tokens"
    if (free := server.left_by(view, batch)) < 0:
        return f"the plan needs {-free:g} KV blocks more than there are"
    limit, used = engine.max_seqs or math.inf, _slots(server, view, batch)
    return f"{used} requests exceed max_seqs {limit:g}" if used > limit else None


def _slots(server: Server, view: View, batch: Batch) -> int:
    if view.one_prefill_slot:
        decodes = sum(bool(view.decoding[i]) for i in batch.rows)
        return decodes + (decodes < len(batch.rows))
    held = {i for i, row in enumerate(server.rows) if row.held} | set(batch.rows)
    return len(held - set(batch.evict))


class _PeekError(Exception):
    """Somebody read what is hidden."""


class _Sealed(View):
    """A view that tells when its output lengths are read."""

    __slots__ = ()

    @property
    def output(self) -> None:
        raise _PeekError


def ask(server: Server, plan: Planner, view: View, blocks: Blocks) -> Batch:
    """Ask a policy for its plan."""
    try:
        batch = plan(sealed(view), blocks, server.engine.chunk)
    except Exception as error:
        if "output" not in server.job.policy.sees and _peeks(plan, view, blocks):
            rule = (
                "reads view.output, which is hidden unless the policy lists it in sees: write "
                f'sees = frozenset({{"output"}}) ({PAGE})'
            )
            server.refuse(rule, error)
        if isinstance(error, BrokenRuleError):
            server.refuse(str(error), error)
        raise
    if not batch.rows and not batch.evict and batch.wake is None:
        everybody = np.ones(len(view.row), dtype=bool)
        if (stuck := starved(everybody, ~everybody, None)) is not None:
            server.refuse(stuck)
    return batch


def marks_of(server: Server, view: View) -> list[float]:
    """Ask a policy for its marks."""
    try:
        marks: list[float] = mark_of(server.blocks, sealed(view)).tolist()
    except BrokenRuleError as error:
        server.refuse(str(error), error)
    return marks


def _peeks(plan: Planner, view: View, blocks: Blocks) -> bool:
    """Whether it was the hidden output that a policy failed on."""
    try:
        plan(_Sealed(*view), blocks, 1)
    except _PeekError:
        return True
    except Exception:
        return False
    return False


class Audit:
    """A second look at every iteration of one engine."""

    def __init__(self, policy: Policy) -> None:
        self.fault: str | None = None
        self.copy = policy
        try:
            self.copy = pickle.loads(pickle.dumps(policy))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.fault = f"cannot be copied, a policy is a frozen value: {error}"
        self.last = -math.inf
        self.done = 0
        self.rows: dict[int, int] = {}

    def planned(self, server: Server, plan: Planner, view: View, batch: Batch) -> None:
        """Plan again, and remember who is present."""
        if self.fault is not None:
            server.refuse(self.fault)
        for blocks in (server.blocks, server.job.policy.blocks, self.copy.blocks):
            if ask(server, plan, view, blocks) != batch:
                server.refuse(
                    "a second call with the same view gives another plan: it keeps hidden state "
                    "between calls (what it must remember of a request is its mark)"
                )
            if blocks.mark is not None and server.blocks.mark is not None:
                same = np.array_equal(blocks.mark(view), server.blocks.mark(view), equal_nan=True)
                if not same:
                    server.refuse("a second call with the same view gives other marks")
        # Three plans, the shape of the plan, and the five rules of `broken`.
        server.tally.checks += 9
        self.rows = {row.index: row.prompt + row.output - 1 + server.lag for row in server.rows}

    def ended(self, server: Server) -> None:
        """Look at an engine whose iteration has ended."""
        rows, block, tally = server.rows, server.engine.kv_block, server.tally
        total = server.engine.kv_blocks
        held = server.occupied()
        self.hold(server, server.clock >= self.last, "time went back")
        self.hold(server, server.free >= 0, "more KV blocks are held than there are")
        self.hold(
            server,
            math.isinf(total) or server.free + held == total,
            "free and held KV blocks do not make the total",
        )
        self.hold(
            server, all(row.kv <= row.held * block for row in rows), "tokens without a KV block"
        )
        self.hold(
            server,
            all(
                row.generated < row.output and row.kv + row.host <= row.prompt + row.generated
                for row in rows
            ),
            "a request holds more tokens than there are",
        )
        self.last = server.clock
        if server.blocks.route.moves:
            return
        here = {row.index for row in rows}
        self.done += sum(need for index, need in self.rows.items() if index not in here)
        kept = sum(row.kv + row.host for row in rows)
        self.hold(
            server,
            tally.tokens + tally.hits == self.done + kept + tally.recomputed,
            f"{tally.tokens} tokens processed, {tally.hits} found, {self.done} finished, "
            f"{kept} kept, {tally.recomputed} dropped",
        )

    def over(self, server: Server) -> None:
        """Look at an engine that is empty for good."""
        if server.blocks.route.moves:
            return
        arrival, finish = server.job.arrival, server.log.finish
        spent = math.fsum(finish[i] - arrival[i] for i in server.queue)
        slack = ROUNDING * max(1.0, spent, server.clock * len(server.queue))
        self.hold(
            server,
            abs(spent - server.tally.presence) <= slack,
            f"{server.tally.presence:.12g} request-seconds were summed, the requests spent "
            f"{spent:.12g}",
        )

    def hold(self, server: Server, condition: bool, rule: str) -> None:
        """Count a condition, and give up where it does not hold."""
        server.tally.checks += 1
        if not condition:
            n = server.tally.iterations
            raise InvariantError(
                f"iteration {n} (t = {server.clock:.6g} s): {rule}: a fault of llmq, please report",
                iteration=n,
                time=server.clock,
                rule=rule,
            )
