"""The state of many SLAI engines in lockstep.

Decodes that were served by the same iteration and have the same deadline have the same mark, and
from then on they are served together until the end: they are one *group*. Groups that are served
together merge if their deadlines agree, so a lane has few of them, and what an iteration does is
done to groups, not to rows. A group counts its own *ticks* (the tokens that each member took);
every member has a slot with the tick of its next event. Where a group merges into another its
slots move by the difference of the two ticks.

Arrays of groups have one row per group and one column per lane, the groups of a deadline together.
Whole numbers are kept as floats: they stay exact up to 2**53.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from llmq.model.engine import Engine
from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.policies.slai import SLAI

__all__ = ["NEVER", "Requests", "Rules", "State", "Sums"]

NEVER = 1e200  # later than any arrival; finite, so that formulas with it stay numbers
SLOTS, GROUPS = 16, 4  # of a lane, and of a deadline in it, to begin with


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """All requests, lane after lane, and where their event times go."""

    # arrival, prompt, output, hidden: seconds, tokens; shape (lanes * n,)
    arrival: Floats
    prompt: Floats
    output: Floats
    hidden: Floats
    urgency: Ints  # which deadline: the place in ``Rules.dues``; shape (lanes * n,)
    # place in the queue of its lane: the smallest goes first; the row modulo ``n``; shape
    # (lanes * n,)
    code: Ints
    # start, stop: first request of each lane and the one after its last; shape (lanes,)
    start: Ints
    stop: Ints
    n: int  # requests of a lane, padding included
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
    # gaps between tokens that are longer than the limit of their deadline, where asked for;
    # shape (deadlines, lanes)
    late: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """The engine and the policy as numbers."""

    # budget, most, slots: tokens of an iteration, decodes in it, residents
    budget: float
    most: float
    slots: float
    one_slot: bool  # prefills share a slot, and slots are places in a batch
    lag: int  # iterations from the end of the prefill to the first token
    curve: Floats  # seconds of an iteration by tokens; shape (budget + 1,)
    # per_kv, per_kv_mixed, per_work: seconds per KV token and per unit of attention work
    per_kv: float
    per_kv_mixed: float
    per_work: float
    # total, margin, block: KV blocks, those kept free, tokens in a block
    total: float
    margin: float
    block: float
    dues: tuple[float, ...]  # deadlines between two tokens, seconds, ascending
    # below, above, turn: theta while fewer than ``turn`` blocks are used, and from then on
    below: float
    above: float
    turn: float
    staged: bool  # some first visible token comes later than the end of the prefill

    @classmethod
    def of(cls, engine: Engine, policy: SLAI, dues: tuple[float, ...], *, staged: bool) -> Rules:
        """Read an engine and a policy."""
        law, total = engine.law, engine.kv_blocks
        used = np.zeros(1)
        if total < math.inf:
            # The share as the policy computes it, to the bit.
            used = 1 - (total - np.arange(total + 1)) / total
        high = np.flatnonzero(used >= policy.limit)
        return cls(
            budget=engine.token_budget,
            most=policy.decodes,
            slots=engine.max_seqs or math.inf,
            one_slot=engine.conventions.prefill_slots == "one",
            lag=engine.conventions.lag,
            curve=law.curve(np.arange(engine.token_budget + 1)),
            per_kv=float(law.per_kv),
            per_kv_mixed=float(law.per_kv_mixed),
            per_work=float(law.per_work),
            total=total,
            margin=policy.blocks.admit.margin(total),
            block=engine.kv_block,
            dues=dues,
            below=policy.below,
            above=policy.above,
            turn=float(high[0]) if high.size else math.inf,
            staged=staged,
        )

    @property
    def limited(self) -> bool:
        """Whether memory is finite."""
        return self.total < math.inf


class State:
    """The lanes that are not done; they move up when others are."""

    VECTORS = (
        "area",
        "booked",
        "busy",
        "clock",
        "come",
        "have",
        "head",
        "iterations",
        "kv",
        "lane",
        "n",
        "next",
        "part",
        "queued",
        "stop",
        "tokens",
    )
    SHEETS = ("count", "due", "fresh", "last", "mark", "reads", "tick")
    MATRICES = ("ends", "group", "later", "who")

    def __init__(self, data: Requests, rules: Rules) -> None:
        lanes = len(data.start)
        self.data, self.rules = data, rules
        self.lane, self.come, self.stop = np.arange(lanes), data.start.copy(), data.stop.copy()
        zeros = np.zeros((9, lanes))
        self.clock, self.busy, self.iterations, self.tokens, self.area = map(np.copy, zeros[:5])
        self.have, self.booked, self.n, self.kv = map(np.copy, zeros[5:])
        self.next = np.full(lanes, NEVER)
        some = np.flatnonzero(self.stop > self.come)
        self.next[some] = data.arrival[self.come[some]]
        self.head, self.part = np.full((2, lanes), -1)
        self.queued = np.zeros(lanes, dtype=np.int64)
        self.heaps: list[list[int]] = [[] for _ in range(lanes)]
        self.places = GROUPS
        rows = len(rules.dues) * GROUPS
        self.count, self.reads, self.tick, self.last, self.fresh = np.zeros((5, rows, lanes))
        self.due, self.mark = np.full((2, rows, lanes), np.inf)
        self.ends = np.full((lanes, SLOTS), np.inf)
        self.later = self.ends.copy() if rules.staged else np.empty((lanes, 0))
        self.who, self.group = np.zeros((2, lanes, SLOTS), dtype=np.int64)

    @property
    def width(self) -> int:
        """Lanes."""
        return len(self.clock)

    def push(self, lane: int, row: int) -> None:
        """Let a request wait beside the first one."""
        code, head = self.data.code, int(self.head[lane])
        if code[row] < code[head]:
            self.head[lane], row = row, head
        heappush(self.heaps[self.lane[lane]], int(code[row]))
        self.queued[lane] += 1

    def pop(self, lanes: Ints) -> None:
        """Take the first request out of the queue of each lane."""
        self.head[lanes] = -1
        lanes = lanes[self.queued[lanes] > 0]
        n = self.data.n
        for lane, place in zip(lanes.tolist(), self.lane[lanes].tolist(), strict=True):
            self.head[lane] = place * n + heappop(self.heaps[place]) % n
        self.queued[lanes] -= 1

    def add_slots(self) -> None:
        """Make room for more decodes in each lane."""
        wide = ((0, 0), (0, self.ends.shape[1] // 2))
        self.ends = np.pad(self.ends, wide, constant_values=np.inf)
        self.who, self.group = np.pad(self.who, wide), np.pad(self.group, wide)
        if self.rules.staged:
            self.later = np.pad(self.later, wide, constant_values=np.inf)

    def add_groups(self) -> None:
        """Make room for more groups of each deadline."""
        old, new = self.places, 2 * self.places
        kinds = len(self.rules.dues)
        for name in self.SHEETS:
            sheet = getattr(self, name).reshape(kinds, old, -1)
            empty = np.inf if name in ("due", "mark") else 0.0
            wide = np.pad(sheet, ((0, 0), (0, new - old), (0, 0)), constant_values=empty)
            setattr(self, name, wide.reshape(kinds * new, -1))
        self.group = self.group // old * new + self.group % old
        self.places = new

    def undo(self, lanes: Ints, sums: Sums) -> None:
        """Give lanes up: they look empty from now on."""
        sums.undone[self.lane[lanes]] = True
        self.n[lanes] = self.kv[lanes] = self.booked[lanes] = 0.0
        self.next[lanes] = NEVER
        self.head[lanes] = self.part[lanes] = -1
        self.ends[lanes] = np.inf
        self.count[:, lanes] = self.reads[:, lanes] = 0.0
        self.due[:, lanes] = np.inf

    def retire(self, done: Bools, sums: Sums) -> None:
        """Write down the sums of lanes that are done and drop them."""
        lanes = self.lane[done]
        sums.iterations[lanes] = self.iterations[done]
        sums.tokens[lanes] = self.tokens[done]
        sums.kv_area[lanes] = self.area[done]
        sums.busy[lanes] = self.busy[done]
        sums.clock[lanes] = self.clock[done]
        keep = np.flatnonzero(~done)
        for name in self.VECTORS + self.MATRICES:
            setattr(self, name, getattr(self, name)[keep])
        for name in self.SHEETS:
            # Not [:, keep]: that would turn rows into columns in memory.
            setattr(self, name, getattr(self, name).take(keep, axis=1))
