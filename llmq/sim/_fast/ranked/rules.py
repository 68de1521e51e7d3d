"""What the lockstep of ranked policies is given, and where it writes what happened."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from llmq.model.engine import Engine
from llmq.policies._pascal_route import PascalRoute
from llmq.policies.contract.blocks import Policy
from llmq.policies.contract.view import Floats, Ints
from llmq.policies.pascal import PASCAL
from llmq.policies.ranked import RR

__all__ = ["BIG", "Requests", "Rules", "Sums"]

# More than any count of tokens; two of them fit in 32 bits.
BIG = 2**29


@dataclass(frozen=True, slots=True)
class Rules:
    """What engine, policy and router say."""

    # total, slots: KV blocks and residents; ``BIG`` without a limit
    total: int
    slots: int
    # block, budget: tokens in a KV block and of one iteration
    block: int
    budget: int
    curve: Floats  # seconds by tokens, without attention
    # per_kv, per_kv_mixed, per_work, per_swap: seconds per KV token read, unit of prefill
    # attention, token swapped
    per_kv: float
    per_kv_mixed: float
    per_work: float
    per_swap: float
    # quantum, demote: of the policy; ``BIG`` where it has none
    quantum: int
    demote: int
    phases: bool  # reasoning before answering; otherwise one queue
    route: PascalRoute | None  # none sends to the least KV
    tau: float  # seconds a reader takes for a token, for QoE
    link: float  # KV tokens per second

    @classmethod
    def of(cls, engine: Engine, policy: Policy, *, tau: float, link: float, most: int) -> Rules:
        """Read them off."""
        law, blocks = engine.law, engine.kv_blocks
        total = BIG if math.isinf(blocks) else int(blocks)
        longest = min(engine.token_budget, most, total * engine.kv_block)
        route = policy.blocks.route
        return cls(
            total=total,
            slots=engine.max_seqs or BIG,
            block=engine.kv_block,
            budget=engine.token_budget,
            curve=law.curve(np.arange(longest + 1)),
            per_kv=float(law.per_kv),
            per_kv_mixed=float(law.per_kv_mixed),
            per_work=float(law.per_work),
            per_swap=float(engine.per_swap),
            quantum=min(policy.quantum, BIG) if isinstance(policy, PASCAL | RR) else BIG,
            demote=min(policy.demote, BIG) if isinstance(policy, PASCAL) else BIG,
            phases=isinstance(policy, PASCAL),
            route=route if isinstance(route, PascalRoute) else None,
            tau=tau,
            link=link,
        )

    @property
    def moves(self) -> bool:
        """Whether requests move when their reasoning ends."""
        return self.route is not None and self.route.moves


@dataclass(slots=True)
class Requests:
    """All requests, replication after replication on one axis, and when things happened to them."""

    count: int  # requests of a replication
    arrival: Floats  # seconds
    lengths: Ints  # prompt, output and hidden tokens; shape (3, requests)
    prefill_end: Floats = field(init=False)
    first_token: Floats = field(init=False)
    finish: Floats = field(init=False)
    boundary: Floats = field(init=False)
    resumed: Floats = field(init=False)
    transfer: Floats = field(init=False)
    server: Ints = field(init=False)
    # Reading: how late the last token is, the sum of that over tokens, tokens summed so far.
    delay: Floats = field(init=False)
    stalled: Floats = field(init=False)
    summed: Ints = field(init=False)

    def __post_init__(self) -> None:
        shape = self.arrival.shape
        for name in ("prefill_end", "first_token", "finish", "boundary", "resumed", "transfer"):
            setattr(self, name, np.full(shape, np.nan))
        self.server, self.summed = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.delay, self.stalled = np.zeros(shape), np.zeros(shape)


@dataclass(slots=True)
class Sums:
    """Sums over the iterations of each lane."""

    lanes: int  # lanes
    iterations: Ints = field(init=False)
    tokens: Ints = field(init=False)
    evictions: Ints = field(init=False)
    swapped: Ints = field(init=False)
    moved: Ints = field(init=False)
    kv_area: Ints = field(init=False)
    busy: Floats = field(init=False)
    clock: Floats = field(init=False)

    def __post_init__(self) -> None:
        for name in ("iterations", "tokens", "evictions", "swapped", "moved", "kv_area"):
            setattr(self, name, np.zeros(self.lanes, np.int64))
        for name in ("busy", "clock"):
            setattr(self, name, np.zeros(self.lanes))
