r"""The cycle of an engine whose memory is always full: what rank preemption with recompute carries.

Requests are all alike and never run out. Each iteration goes through them by the output tokens they
have left (then by age): a decode takes one token and one place in memory, a request that is not
resident needs places for its prompt and all it has said so far, and pushes out residents that rank
below it until it fits; a resident that grows pushes out the last of them, or itself. Whoever was
pushed out starts again from its first token, but keeps what it has said. The engine is in one of
finitely many states, so the path repeats, and

.. math:: \mu = \text{requests of a period} / \text{time of a period}

is a fraction; with ``R`` recomputed tokens per request in the period, ``n`` iterations and area
``A`` of KV, an affine law has :math:`1 / \mu = c\,n + a\,(v + R) + e\,A` exactly.

*Claim.* With Poisson arrivals the engine is not positive recurrent above ``mu``. *Proof.* That of
:mod:`llmq.optimality.saturation`: as long as enough fresh requests wait the engine does not see the
arrivals, and from the empty state, with positive probability, so many come that they wait for ever.
Nothing is claimed below ``mu``: from another start another cycle may be reached. Above ``mu`` a
path that starts empty may look stable for long: it must first fill the memory.

Rules: those of TRAIL without protection (``policies/trail.py``), watermark 0, one place in memory
per token; this file shares no line with the simulator, which the tests compare it with.

Reference: policies.md 7.1-7.2 found the loss by simulation; theory derived here. Not covered:
lengths that vary (their order changes which are pushed out), protection, slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeAlias

from llmq._input.renamed import renamed
from llmq.errors import InputError, nearest
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind

__all__ = ["FILLS", "Fill", "FullMemoryCycle", "full_memory_cycle"]

Fill: TypeAlias = Literal["backfill", "head", "future"]
FILLS: tuple[Fill, ...] = ("backfill", "head", "future")


@dataclass(frozen=True, slots=True)
class FullMemoryCycle:
    """One period of an engine with full memory.

    Parameters
    ----------
    exact_time : fractions.Fraction
        Its length, in the unit of the law.
    requests, iterations, evictions, recomputed : int
        Requests that end in it, iterations, residents pushed out, KV tokens they lost.
    kind, assumptions, source
        As in every result.
    """

    exact_time: Fraction
    requests: int
    iterations: int
    evictions: int
    recomputed: int
    kind: Kind = field(repr=False)
    assumptions: tuple[str, ...] = field(repr=False)
    source: str = field(repr=False)

    @property
    def exact_rate(self) -> Fraction:
        """Requests per unit of time, exactly: not stable above it."""
        return self.requests / self.exact_time

    @property
    def rate(self) -> float:
        """Requests per unit of time: not stable above it."""
        return float(self.exact_rate)


@renamed(most="maximum")
def full_memory_cycle(
    engine: Engine, request: RequestClass, fill: Fill = "backfill", *, maximum: int = 100_000
) -> FullMemoryCycle:
    """Run an engine with full memory until its state repeats.

    Parameters
    ----------
    engine : Engine
        Its law, token budget, chunk, KV memory and conventions count; no slot limit, blocks of one
        token.
    request : RequestClass
        One class of fixed lengths.
    fill : {"backfill", "head", "future"}
        A request that does not fit now is passed by others; stops them; or nobody enters whose
        future peak does not fit.
    maximum : int
        Iterations after which to give up.

    Returns
    -------
    FullMemoryCycle
        Time, requests and recomputed tokens of a period.

    Raises
    ------
    InputError
        Lengths that vary, no memory limit, slots, blocks of more than a token, a request that does
        not fit, or no cycle found.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=4.0, per_token=1.0), 64, kv_tokens=20, kv_block=1)
    >>> for fill in ("backfill", "head", "future"):
    ...     cycle = full_memory_cycle(engine, RequestClass(2, 8), fill)
    ...     print(fill, cycle.exact_rate, Fraction(cycle.recomputed, cycle.requests))
    backfill 4/95 23/4
    head 2/45 9/2
    future 1/25 0
    """
    if fill not in FILLS:
        raise InputError(f"fill is {fill!r}{nearest(fill, FILLS)}", value=fill)
    _check(engine, request)
    memory = _Memory(engine, request, fill)
    seen: dict[tuple[tuple[int, int, int], ...], int] = {}
    times, sums = [Fraction(0)], [(0, 0, 0)]
    while len(sums) <= maximum:
        now = len(sums) - 1
        start = seen.setdefault(memory.state(), now)
        if start < now:
            ended, evicted, lost = (b - a for a, b in zip(sums[start], sums[now], strict=True))
            if not ended:
                break
            return FullMemoryCycle(
                times[now] - times[start],
                ended,
                now - start,
                evicted,
                lost,
                kind=Kind.EXACT,
                assumptions=(
                    f"conventions {engine.conventions.name}; one class of fixed lengths",
                    "the queue never empties; rank by tokens left; evicted KV is computed again",
                ),
                source="cycle at full memory [RCC]",
            )
        times.append(times[-1] + memory.step())
        sums.append((memory.ended, memory.evicted, memory.lost))
    raise InputError(f"no cycle in which requests end within {maximum} iterations", value=maximum)


def _check(engine: Engine, request: RequestClass) -> None:
    if not (request.prompt.is_fixed and request.output.is_fixed):
        raise InputError(f"a cycle needs one prompt and one output length, got {request}")
    if engine.kv_tokens is None or engine.max_seqs is not None or engine.kv_block != 1:
        raise InputError(
            "a cycle at full memory needs kv_tokens, kv_block=1 and no max_seqs, got "
            f"{engine.kv_tokens}, {engine.kv_block} and {engine.max_seqs}"
        )
    peak = request.prompt.low + request.output.low - 1 + engine.conventions.lag
    if peak > engine.kv_tokens:
        raise InputError(f"a request of {peak} tokens exceeds kv_tokens {engine.kv_tokens}")


@dataclass(slots=True, eq=False)
class _Row:
    """A request that has begun; not resident where it holds nothing."""

    said: int = 0
    kv: int = 0
    held: int = 0


class _Memory:
    """Requests that have begun, the oldest first, and the rule of one iteration."""

    def __init__(self, engine: Engine, request: RequestClass, fill: Fill) -> None:
        self.engine, self.law = engine, engine.law.exact()
        self.fill, self.lag = fill, engine.conventions.lag
        self.prompt, self.output = request.prompt.low, request.output.low
        self.size = self.free = int(engine.kv_blocks)
        self.rows: list[_Row] = []
        self.done: set[int] = set()  # rows that were served or pushed out in this iteration
        self.ended = self.evicted = self.lost = 0

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Everything the rule can tell apart."""
        return tuple((row.said, row.kv, row.held) for row in self.rows)

    def missing(self, row: _Row) -> int:
        """Tokens of prompt and answer that are not in memory."""
        return self.prompt + row.said - row.kv

    def decodes(self, row: _Row) -> bool:
        """Whether one token brings the next one of the answer."""
        missing = self.missing(row)
        return missing == 0 if self.lag else row.said > 0 and missing == 1

    def step(self) -> Fraction:
        """Serve one iteration and return its time."""
        order = sorted(self.rows, key=lambda row: -row.said)
        self.done, left, shut = set(), self.engine.token_budget, False
        before, served = self.evicted, list[tuple[_Row, int, bool]]()
        asked = self.future(order) if self.fill == "future" else None
        queue = iter([*order, *(_Row() for _ in range(left))])
        while left and (row := next(queue, None)) is not None:
            if id(row) in self.done:
                continue
            if not row.held:
                if asked is not None:
                    fits = self.evicted == before and asked > 0 and self.fits(row)
                    asked -= 1
                else:
                    fits = not shut and self.enter(row, order)
                shut = shut or (not fits and self.fill == "head")
                if not fits and row not in order:
                    break  # the other fresh ones are no smaller
                if not fits:
                    continue
            decodes = self.decodes(row)
            tokens = 1 if decodes else min(self.missing(row), left, self.engine.chunk)
            if self.grow(row, max(row.held, row.kv + (1 if decodes else self.missing(row))), order):
                left -= tokens
                self.done.add(id(row))
                served.append((row, tokens, decodes))
                if row not in order:
                    self.rows.append(row)
        return self.advance(served)

    def fits(self, row: _Row) -> bool:
        """Whether a request that holds nothing could enter now."""
        return self.prompt + row.said <= self.free

    def enter(self, row: _Row, order: list[_Row]) -> bool:
        """Push out who ranks below the row until it fits."""
        while not self.fits(row):
            victim = next(self.below(row, order), None)
            if victim is None:
                return False
            self.evict(victim)
        return True

    def grow(self, row: _Row, held: int, order: list[_Row]) -> bool:
        """Give the row its places; False if it was pushed out itself."""
        while self.free < held - row.held:
            victim = next(self.below(row, order), row)
            self.evict(victim)
            if victim is row:
                return False
        self.free -= held - row.held
        row.held = held
        return True

    def below(self, row: _Row, order: list[_Row]) -> Iterator[_Row]:
        """Residents that rank below the row and are not served yet, the last first."""
        for other in reversed(order):
            if other is row:
                return
            if other.held and id(other) not in self.done and row in order:
                yield other

    def evict(self, row: _Row) -> None:
        """Take all memory of a row."""
        self.evicted += 1
        self.lost += row.kv
        self.free += row.held
        row.kv = row.held = 0
        self.done.add(id(row))

    def future(self, order: list[_Row]) -> int:
        """Count who may enter, in their order, so that memory suffices for ever."""
        inside = [row for row in order if row.held]
        waiting = [row for row in order if not row.held]
        count = 0
        while True:
            inside.append(waiting[count] if count < len(waiting) else _Row())
            if self.peak(inside) > self.size and len(inside) > 1:
                return count
            count += 1

    def peak(self, rows: list[_Row]) -> int:
        """Most memory that rows will need if each gains a token per iteration until it ends."""
        return max(
            sum(self.prompt + r.said + at for r in rows if self.output - r.said >= at)
            for at in {self.output - row.said for row in rows}
        )

    def advance(self, served: list[tuple[_Row, int, bool]]) -> Fraction:
        """Let time pass: tokens are in memory, answers grow, requests end."""
        count, kv, work, mixed = 0, 0, Fraction(0), False
        for row, tokens, decodes in served:
            count += tokens
            kv += row.kv + tokens
            if not decodes:
                work += Fraction(tokens * (2 * row.kv + tokens), 2)
                mixed = True
            row.kv += tokens
            if self.missing(row) > 0 or (self.lag and not decodes):
                continue
            row.said += 1
            if row.said == self.output:
                self.ended += 1
                self.free += row.held
                self.rows.remove(row)
        return self.law(count, kv, work, mixed=mixed)
