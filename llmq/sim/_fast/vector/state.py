"""The state of many engines in lockstep: one entry per lane in each array.

Whole numbers (ticks, tokens, blocks) are kept as floats: they stay exact up to 2**53, and arrays of
one type are added without conversion. Every decode has a slot in the matrix ``ends`` with the tick
of its next event; the free slots of a lane are a linked list inside ``who``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmq.model.engine import Engine
from llmq.policies.contract.blocks import Blocks, Together
from llmq.policies.contract.view import Bools, Floats, Ints

__all__ = ["NEVER", "Requests", "Rules", "Sums", "State"]

NEVER = 1e200  # later than any arrival; finite, so that formulas with it stay numbers
SLOTS = 16  # columns of the slot matrix to begin with


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """All requests, lane after lane, and where their event times go."""

    # arrival, prompt, output, hidden: seconds, tokens; shape (lanes * n,)
    arrival: Floats
    prompt: Floats
    output: Floats
    hidden: Floats
    # start, stop: first request of each lane and the one after its last; shape (lanes,)
    start: Ints
    stop: Ints
    # some first visible token comes later than the end of the prefill; if none does,
    # ``first_token`` is not written
    staged: bool
    # prefill_end, first_token, finish: seconds; NaN where it has not happened; shape (lanes *
    # n,)
    prefill_end: Floats
    first_token: Floats
    finish: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What is summed over the iterations of each lane."""

    # iterations, tokens: iterations, tokens processed; shape (lanes,)
    iterations: Ints
    tokens: Ints
    # kv_area, busy, clock: KV token-iterations, seconds in iterations, end of the last one;
    # shape (lanes,)
    kv_area: Floats
    busy: Floats
    clock: Floats
    undone: Bools  # lanes that need a scalar engine; shape (lanes,)


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """The engine and the policy as numbers."""

    # budget, chunk, slots: tokens of an iteration, prompt tokens of a row in it, residents
    budget: float
    chunk: float
    slots: float
    gate: float  # prefill runs while there are fewer decodes than this
    # rows, cycle: prefills in an iteration, prefills that may start before the engine is
    # empty again
    rows: float
    cycle: float
    # mixed, whole, one_slot, alone: prefill shares iterations with decodes; prompts are not
    # split; prefills share a slot; who is alone is not cut to a chunk
    mixed: bool
    whole: bool
    one_slot: bool
    alone: bool
    lag: int  # iterations from the end of the prefill to the first token
    # seconds of an iteration by tokens; entry 0 is any positive number; shape (budget + 1,)
    curve: Floats
    # per_kv, per_kv_mixed, per_work: seconds per KV token and per unit of attention work
    per_kv: float
    per_kv_mixed: float
    per_work: float
    # total, margin, block, most: KV blocks, those kept free, tokens in a block, output tokens
    # room is kept for
    total: float
    margin: float
    block: float
    most: float
    keeps: bool  # blocks are set aside until the request ends, so decodes take none
    staged: bool  # some first visible token comes later than the end of the prefill

    @classmethod
    def of(cls, engine: Engine, blocks: Blocks, together: Together, *, staged: bool) -> Rules:
        """Read an engine and a policy."""
        law, admit, fill = engine.law, blocks.admit, blocks.budget
        tokens = fill.tokens if isinstance(fill.tokens, int) else math.inf
        budget = min(engine.token_budget, tokens)
        slots = min(engine.max_seqs or math.inf, fill.rows or math.inf)
        # As many decodes as tokens make prefill wait, where anything does.
        until = together.until if together.until == math.inf else min(together.until, budget)
        curve = law.curve(np.arange(int(budget) + 1))
        curve[0] = curve[-1]
        return cls(
            budget=budget,
            chunk=min(engine.chunk, budget, fill.chunk or math.inf),
            slots=slots,
            gate=min(slots, budget if together.mixed else until),
            rows=together.rows,
            cycle=together.cycle,
            mixed=together.mixed,
            whole=fill.whole,
            one_slot=engine.conventions.prefill_slots == "one",
            alone=fill.alone,
            lag=engine.conventions.lag,
            curve=curve,
            per_kv=float(law.per_kv),
            per_kv_mixed=float(law.per_kv_mixed),
            per_work=float(law.per_work),
            total=engine.kv_blocks,
            margin=admit.margin(engine.kv_blocks),
            block=engine.kv_block,
            most=admit.most if admit.reserve == "most" else 0,
            keeps=admit.reserve == "most",
            staged=staged,
        )

    @property
    def limited(self) -> bool:
        """Whether memory is finite."""
        return self.total < math.inf

    @property
    def grows(self) -> bool:
        """Whether decodes take blocks of a finite memory."""
        return self.limited and not self.keeps

    @property
    def picky(self) -> bool:
        """Whether a request that has come may have to wait though a slot is free."""
        return self.whole or self.limited or self.cycle < math.inf

    @property
    def overflows(self) -> bool:
        """Whether prefills may end for which there is no decode slot."""
        return self.one_slot or not self.mixed

    @property
    def splits(self) -> bool:
        """Whether a prompt can be cut while tokens are left for another one."""
        return self.chunk < self.budget and self.rows > 1 and not self.whole


class State:
    """The lanes that are not done; they move up when others are."""

    VECTORS = (
        "alone",
        "area",
        "booked",
        "clock",
        "decodes",
        "have",
        "head",
        "idle",
        "kv",
        "lane",
        "lasts",
        "next",
        "served",
        "started",
        "stop",
        "tick",
        "top",
    )
    MATRICES = ("ends", "growth", "later", "who")

    def __init__(self, data: Requests, rules: Rules) -> None:
        lanes = len(data.start)
        self.data, self.rules = data, rules
        self.lane, self.head, self.stop = np.arange(lanes), data.start.copy(), data.stop.copy()
        zeros = np.zeros((11, lanes))
        self.clock, self.idle, self.tick, self.alone, self.decodes, self.kv = map(
            np.copy, zeros[:6]
        )
        self.have, self.booked, self.started, self.served, self.area = map(np.copy, zeros[6:])
        self.lasts = np.full(lanes, np.inf)
        self.next = np.full(lanes, NEVER)
        some = np.flatnonzero(self.stop > self.head)
        self.next[some] = data.arrival[self.head[some]]
        self.top = np.zeros(lanes, dtype=np.int64)
        self.ends = np.full((lanes, SLOTS), np.inf)
        self.later = self.ends.copy() if rules.staged else np.empty((lanes, 0))
        self.who = np.tile(np.arange(1, SLOTS + 1), (lanes, 1))
        self.growth = np.zeros((lanes, int(rules.block) if rules.grows else 0))
        self.measure()

    def measure(self) -> None:
        """Set what depends on the shape alone."""
        self.width, self.slots = self.ends.shape
        self.base = np.arange(self.width) * self.slots
        # Flat views: one index finds a slot.
        self.flat_ends, self.flat_later = self.ends.ravel(), self.later.ravel()
        self.flat_who, self.flat_growth = self.who.ravel(), self.growth.ravel()
        self.spare = self.slots - int(self.decodes.max(initial=0))

    def look(self) -> None:
        """Find the next event of each lane."""
        self.slot = self.ends.argmin(axis=1)
        self.due = self.flat_ends[self.base + self.slot]
        self.limit = self.due

    def claim(self) -> None:
        """Make sure that every lane has a slot for one more decode."""
        if self.spare == 0:
            self.spare = self.slots - int(self.decodes.max())
        if self.spare == 0:
            more = self.slots // 2
            wide = ((0, 0), (0, more))
            self.ends = np.pad(self.ends, wide, constant_values=np.inf)
            if self.rules.staged:
                self.later = np.pad(self.later, wide)
            links = np.tile(np.arange(self.slots + 1, self.slots + more + 1), (self.width, 1))
            self.who = np.concatenate((self.who, links), axis=1)
            self.measure()
        self.spare -= 1

    def undo(self, lanes: Ints, sums: Sums) -> None:
        """Give lanes up: they look empty from now on."""
        sums.undone[self.lane[lanes]] = True
        self.decodes[lanes] = 0.0
        self.next[lanes] = NEVER
        self.ends[lanes] = np.inf
        self.due[lanes] = np.inf
        self.limit[lanes] = np.inf

    def retire(self, done: Bools, sums: Sums) -> None:
        """Write down the sums of lanes that are done and drop them."""
        lanes = self.lane[done]
        sums.iterations[lanes] = self.tick[done] + self.alone[done]
        sums.tokens[lanes] = self.served[done]
        sums.kv_area[lanes] = self.area[done]
        sums.busy[lanes] = self.clock[done] - self.idle[done]
        sums.clock[lanes] = self.clock[done]
        keep = np.flatnonzero(~done)
        for name in self.VECTORS + self.MATRICES:
            setattr(self, name, getattr(self, name)[keep])
        self.measure()
