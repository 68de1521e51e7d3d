"""One engine with a prefix cache: blocks are found again by name, as in vLLM.

:class:`PrefixEngine` is the reference simulator with another memory
(:mod:`llmq.sim._reference.prefix_pool`). Every full KV block has a name: those of a prompt the one
that the trace gives them (:class:`llmq.model.prefix.Prefix`), all others one that only their own
request knows. A request that is admitted begins behind the leading blocks that are known, with at
least one token to compute; its blocks are known from the iteration that computes them, also to
requests admitted later in the same iteration. When a request ends or is evicted its blocks stay
known until the memory is needed, so that who was evicted finds its own again. A shared block is
held once.

The rules are those of vLLM v1 (``vllm/v1/core/kv_cache_manager.py``, ``block_pool.py``), for one
group of attention layers. Not covered: caches on the host or in other engines, sliding windows.
Policies see what is found in ``kv`` and ``rem`` after the admission, not before. Refused are
policies that swap, that push out residents for newcomers, and routers that move requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.trace import Trace
from llmq.policies.contract.blocks import Blocks
from llmq.policies.contract.fill import Fill, plan
from llmq.policies.contract.view import Batch, View
from llmq.sim._reference.audit import Audit
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.memory import Planner
from llmq.sim._reference.prefix_pool import Pool
from llmq.sim._reference.rows import Row
from llmq.sim.results._log import Job, Log

__all__ = ["PrefixEngine", "reference_engine", "said_of_prefixes"]

# A request's own names are below those of traces: request, then block.
OWN, BLOCKS = -2, 1 << 32


class _Fill(Fill):
    """The plan while it is being made, tried out on the real blocks."""

    def __init__(self, view: View, blocks: Blocks, chunk: int, *, server: PrefixEngine) -> None:
        super().__init__(view, blocks, chunk)
        self.server, self.pool = server, server.pool
        # New rows that were looked up: what they found, and how many of it need no room.
        self.found: dict[int, tuple[list[int], int]] = {}

    def amount(self, row: int) -> int:
        closed = not self.open or self.evicted or not self.slot_free(row)
        if not (self.resident[row] or closed or row in self.found):
            blocks = self.server.lookup(self.server.rows[row])
            self.found[row] = blocks, self.pool.in_use(blocks)
            self.kv[row] = len(blocks) * self.view.block
            self.rem[row] -= self.kv[row]
        return super().amount(row)

    def admit(self, row: int, tokens: int) -> bool:
        blocks, used = self.found.get(row, ((), 0))
        self.free += used
        fits = super().admit(row, len(blocks) * self.view.block + tokens)
        self.free -= used
        return fits

    def make_room(self, row: int, need: int) -> bool:
        return super().make_room(row, need - self.found.get(row, ((), 0))[1])

    def take(self, row: int, tokens: int, held: int) -> None:
        super().take(row, tokens, held)
        one = self.server.rows[row]
        if not self.resident[row]:
            self.pool.enter(one.index, self.found[row][0])
        self.server.fill(one, self.kv[row] + tokens, held)
        self.free = self.pool.free

    def evict(self, victim: int) -> None:
        super().evict(victim)
        self.pool.release(self.server.rows[victim].index)
        self.free = self.pool.free


class PrefixEngine(ReferenceEngine):
    """One engine that finds KV blocks again.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.prefix import Prefix
    >>> from llmq.policies import Sarathi
    >>> law = BatchTime.affine(base=1.0, per_token=0.0)
    >>> same = Prefix.of([[0], [0]], block=32)
    >>> lengths = [32, 32], [3, 3], [0, 0], [0, 0]
    >>> job = Job(Engine(law, kv_block=8), Sarathi(), [0.0, 9.0], *lengths)
    >>> job.prefix = same
    >>> server = PrefixEngine(job, Log.empty(2))
    >>> server.queue += [0, 1]
    >>> server.advance(float("inf"))
    >>> server.tally.hits
    24
    """

    def __init__(self, job: Job, log: Log, audit: Audit | None = None) -> None:
        super().__init__(job, log, audit)
        _covered(job)
        self.pool = Pool(self.free)
        self.per = 1 if job.prefix is None else job.prefix.per(job.engine.kv_block)
        self.seen: set[int] = set()

    # ------------------------------------------------------------------------------- the blocks

    def names(self, row: Row, start: int, stop: int) -> list[int]:
        """Name the full blocks of a request."""
        prefix, own = self.job.prefix, OWN - row.index * BLOCKS
        if prefix is None:
            return [own - j for j in range(start, stop)]
        ids, per = prefix.row(row.index), self.per
        known = min(row.prompt // self.engine.kv_block, len(ids) * per, stop)
        some = ids[start // per : -(-known // per)].tolist() if start < known else []
        first = start // per
        given = [some[j // per - first] * per + j % per for j in range(start, known)]
        return given + [own - j for j in range(max(start, known), stop)]

    def lookup(self, row: Row) -> list[int]:
        """Find the leading blocks of a request, all but its last token at most."""
        return self.pool.found(
            self.names(row, 0, (row.prompt + row.generated - 1) // self.engine.kv_block)
        )

    def fill(self, row: Row, tokens: int, held: int) -> None:
        """Give a request blocks, and name those that its tokens fill."""
        pool = self.pool
        pool.grow(row.index, held)
        full = tokens // self.engine.kv_block
        if full > pool.named[row.index]:
            pool.call(row.index, self.names(row, pool.named[row.index], full))

    # ------------------------------------------------------ in the place of the plain memory

    def planner(self) -> Planner:
        """Return the fill rule that looks new rows up."""
        make = partial(_Fill, server=self)

        def tried(view: View, blocks: Blocks, chunk: int) -> Batch:
            with self.pool.trial():
                return plan(view, blocks, chunk, make)

        return tried

    def reserve(self, row: Row, tokens: int, held: int) -> None:
        """Let a request hold blocks; a new one begins with those that it finds."""
        if not row.held:
            blocks = self.lookup(row)
            self.pool.enter(row.index, blocks)
            row.kv = len(blocks) * self.engine.kv_block
            self._count(row)
        if tokens > row.rem(self.lag):
            self.refuse(f"request {row.index} gets {tokens} tokens, {row.rem(self.lag)} are left")
        self.fill(row, row.kv + tokens, held)
        self.free = self.pool.free

    def _count(self, row: Row) -> None:
        tally = self.tally
        tally.hits += row.kv
        if row.index not in self.seen:
            self.seen.add(row.index)
            tally.asked += row.prompt
            tally.shared += row.kv

    def release(self, row: Row) -> None:
        """Take the blocks of a request back; they stay known."""
        self.pool.release(row.index)
        self.free = self.pool.free

    def occupied(self) -> float:
        """Count the KV blocks that somebody holds, a shared one once."""
        return len({block for row in self.rows for block in self.pool.tables.get(row.index, ())})

    def left_by(self, view: View, batch: Batch) -> float:
        """Count the KV blocks that a plan leaves: it was tried out on the blocks themselves."""
        return 0.0

    def complete(self) -> None:
        """End the iteration."""
        super().complete()
        if self.audit is not None and (fault := self.pool.faults()) is not None:
            self.audit.hold(self, False, fault)


def _covered(job: Job) -> None:
    blocks, name = job.policy.blocks, job.policy.name
    reasons = {
        "swaps its victims": blocks.swap,
        "deals out memory anew in each iteration": blocks.budget.ranked,
        "lets newcomers push out residents": blocks.admit.bump,
        "moves requests between engines": blocks.route.moves,
    }
    for reason, true in reasons.items():
        if true:
            raise InputError(
                f"prefix_cache: policy {name!r} {reason}, which a cache that finds blocks again "
                "does not cover: leave prefix_cache out, or use sarathi, vllm, orca, slai",
                field="prefix_cache",
                value=name,
            )


def reference_engine(job: Job, log: Log, audit: Audit | None = None) -> ReferenceEngine:
    """Make the reference simulator that an engine asks for."""
    return (PrefixEngine if job.engine.prefix_cache else ReferenceEngine)(job, log, audit)


def said_of_prefixes(engines: Sequence[Engine], traffic: object) -> tuple[str, ...]:
    """Say what a run rests on where prompts could be shared."""
    named = isinstance(traffic, Trace) and traffic.prefix is not None
    if not any(engine.prefix_cache for engine in engines):
        said = "no prefix cache: prompt blocks that the trace repeats are computed again"
        return (said,) if named else ()
    if not named:
        return (
            "prefix cache: the traffic names no shared prompt blocks; only evicted requests find "
            "their own blocks again",
        )
    return (
        "prefix cache: prompt blocks by the names of the trace, the longest unused forgotten first;"
        " blocks of generated tokens are found by their own request only",
        "load and verdict: outer bound with the tokens an endless cache leaves, inner bound with "
        "whole prompts",
    )
