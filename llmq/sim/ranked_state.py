"""What the lockstep of ranked policies keeps: requests, rules, and the rows of every engine.

A *lane* is an engine in one replication. A *stretch* is a run of iterations with one batch: the
first may hold prompts and swaps and takes ``head`` seconds, iteration ``k + 2`` takes
``step + 2 k slope``, so that ``j`` of them end ``head + (j - 1)(step + slope (j - 2))`` seconds
after the start. Rows of a lane lie in slots, in no order; an empty slot and a row that is on its
way from another engine have ``size = -block``, need no memory and never run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.policies.blocks import Policy
from llmq.policies.pascal import PASCAL
from llmq.policies.pascal_route import PascalRoute
from llmq.policies.ranked import RR
from llmq.policies.view import Bools, Floats, Ints

__all__ = ["BIG", "EMPTY", "LOW", "Requests", "Rules", "State", "Sums", "Tokens"]

Tokens: TypeAlias = npt.NDArray[np.signedinteger]

# More than any count of tokens; two of them fit in 32 bits.
BIG = 2**29
# A key is one number: queue, quanta used, when the quantum began, request (from 1).
EMPTY = np.iinfo(np.int64).max
LOW, QUANTA, STAMP = 1 << 62, 49, 20
WIDTH = 32


@dataclass(frozen=True, slots=True)
class Rules:
    """What engine, policy and router say.

    Parameters
    ----------
    total, slots : int
        KV blocks and residents; ``BIG`` without a limit.
    block, budget : int
        Tokens in a KV block and of one iteration.
    curve : ndarray
        Seconds by tokens, without attention.
    per_kv, per_kv_mixed, per_work, per_swap : float
        Seconds per KV token read, unit of prefill attention, token swapped.
    quantum, demote : int
        Of the policy; ``BIG`` where it has none.
    phases : bool
        Reasoning before answering; otherwise one queue.
    route : PascalRoute or None
        None sends to the least KV.
    tau : float
        Seconds a reader takes for a token, for QoE.
    link : float
        KV tokens per second.
    """

    total: int
    slots: int
    block: int
    budget: int
    curve: Floats
    per_kv: float
    per_kv_mixed: float
    per_work: float
    per_swap: float
    quantum: int
    demote: int
    phases: bool
    route: PascalRoute | None
    tau: float
    link: float

    @classmethod
    def of(cls, engine: Engine, policy: Policy, *, tau: float, link: float, most: int) -> Rules:
        """Read them off.

        Parameters
        ----------
        engine : Engine
            The engine.
        policy : Policy
            PASCAL, RR or FCFS.
        tau : float
            Seconds a reader takes for a token.
        link : float
            KV tokens per second.
        most : int
            Prompt tokens of all requests of a replication together, at most.

        Returns
        -------
        Rules
            The rules.
        """
        law, blocks = engine.law, engine.kv_blocks
        total = BIG if math.isinf(blocks) else int(blocks)
        longest = min(engine.token_budget, most, total * engine.kv_block)
        route = policy.blocks.route
        return cls(
            total=total, slots=engine.max_seqs or BIG, block=engine.kv_block,
            budget=engine.token_budget, curve=law.curve(np.arange(longest + 1)),
            per_kv=float(law.per_kv), per_kv_mixed=float(law.per_kv_mixed),
            per_work=float(law.per_work), per_swap=float(engine.per_swap),
            quantum=min(policy.quantum, BIG) if isinstance(policy, PASCAL | RR) else BIG,
            demote=min(policy.demote, BIG) if isinstance(policy, PASCAL) else BIG,
            phases=isinstance(policy, PASCAL),
            route=route if isinstance(route, PascalRoute) else None, tau=tau, link=link,
        )  # fmt: skip

    @property
    def moves(self) -> bool:
        """Whether requests move when their reasoning ends."""
        return self.route is not None and self.route.moves


@dataclass(slots=True)
class Requests:
    """All requests, replication after replication on one axis, and when things happened to them.

    Parameters
    ----------
    count : int
        Requests of a replication.
    arrival : ndarray
        Seconds.
    lengths : ndarray of int, shape (3, requests)
        Prompt, output and hidden tokens.
    """

    count: int
    arrival: Floats
    lengths: Ints
    prefill_end: Floats = field(init=False)
    first_token: Floats = field(init=False)
    finish: Floats = field(init=False)
    boundary: Floats = field(init=False)
    resumed: Floats = field(init=False)
    server: Ints = field(init=False)
    # Reading: how late the last token is, the sum of that over tokens, tokens summed so far.
    delay: Floats = field(init=False)
    stalled: Floats = field(init=False)
    summed: Ints = field(init=False)

    def __post_init__(self) -> None:
        shape = self.arrival.shape
        for name in ("prefill_end", "first_token", "finish", "boundary", "resumed"):
            setattr(self, name, np.full(shape, np.nan))
        self.server, self.summed = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.delay, self.stalled = np.zeros(shape), np.zeros(shape)


@dataclass(slots=True)
class Sums:
    """Sums over the iterations of each lane.

    Parameters
    ----------
    lanes : int
        Lanes.
    """

    lanes: int
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


class State:
    """Lanes and their rows.

    Parameters
    ----------
    data : Requests
        The requests.
    rules : Rules
        The rules.
    replications, engines : int
        Lanes are replications times engines, engine by engine inside a replication.
    """

    def __init__(self, data: Requests, rules: Rules, replications: int, engines: int) -> None:
        self.data, self.rules = data, rules
        self.engines, lanes = engines, replications * engines
        self.sums = Sums(lanes)
        self.undone = np.zeros(replications, dtype=bool)
        # The stretch: start, head, step, slope; rows and iterations, tokens and KV of the first.
        self.law = np.array([[0.0], [np.inf], [1.0], [0.0]]).repeat(lanes, axis=1)
        self.batch, self.planned = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self.tokens, self.kv = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        # When it ends; before when nobody here ends the reasoning.
        self.due, self.cross = np.full(lanes, np.inf), np.full(lanes, np.inf)
        self.turns, self.landing = np.zeros(lanes, np.int64), np.full(lanes, np.inf)
        # KV tokens and rows that hold some, prompts and rows in their prefill, prompts that wait.
        self.held, self.started = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self.filling, self.fills = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self.waiting = np.zeros(lanes, np.int64)
        # No answer is late before `safe`; slot, request and tokens of one that was late.
        self.safe, self.late = np.full(lanes, np.inf), np.full((3, lanes), -2)
        self.late[0] = 0
        shape = lanes, WIDTH
        self.req, self.key = np.full(shape, -1), np.full(shape, EMPTY)
        self.run, self.opens = np.zeros(shape, bool), np.zeros(shape, bool)
        self.landed = np.zeros(shape, bool)
        self.size = np.full(shape, -rules.block, np.int32)
        self.left, self.think = np.full(shape, BIG, np.int32), np.full(shape, BIG, np.int32)
        self.start, self.ready = np.full(shape, np.inf), np.full(shape, np.inf)
        # Prompt and reasoning tokens: size less this is what has been answered.
        self.seen = np.zeros(shape, np.int32)
        self.blank = {
            "req": -1, "key": EMPTY, "run": False, "opens": False, "size": -rules.block,
            "left": BIG, "think": BIG, "start": np.inf,
        }  # fmt: skip
        self.fastest = float(rules.curve[1:].min())

    @property
    def width(self) -> int:
        """Slots of a lane."""
        return int(self.req.shape[1])

    def slot(self, lanes: Ints) -> Ints:
        """Find an empty slot in each lane, making more if there is none.

        Parameters
        ----------
        lanes : ndarray of int
            Different lanes.

        Returns
        -------
        ndarray of int
            Slots.
        """
        req = self.req[lanes]
        found = req.argmin(axis=1)
        if (req[np.arange(len(lanes)), found] >= 0).any():
            more = {"ready": np.inf, "landed": False, "seen": 0}
            for name, value in (self.blank | more).items():
                old = getattr(self, name)
                new = np.full((len(old), WIDTH), value, old.dtype)
                setattr(self, name, np.concatenate((old, new), axis=1))
            return self.slot(lanes)
        return np.asarray(found)

    def clear(self, lanes: Ints, slots: Ints) -> None:
        """Empty slots.

        Parameters
        ----------
        lanes, slots : ndarray of int
            Where.
        """
        place = lanes * self.width + slots
        for name, value in self.blank.items():
            getattr(self, name).ravel()[place] = value

    def rank(self, prompt: Ints, hidden: Ints, made: Ints) -> tuple[Bools, Ints]:
        """Tell in which queue requests are, and for how many tokens.

        Parameters
        ----------
        prompt, hidden : ndarray of int
            Of the requests.
        made : ndarray of int
            Output tokens so far.

        Returns
        -------
        tuple of ndarray
            Whether in the low queue; output tokens since it was entered.
        """
        if not self.rules.phases:
            return np.zeros(made.shape, bool), made
        answers = made >= hidden
        entry = np.maximum(self.rules.demote + 1 - prompt, 1)
        demoted = made >= entry
        level = made - np.where(answers, hidden, demoted * entry)
        return answers | demoted, level

    def until_turn(
        self, prompt: Ints, hidden: Ints, output: Ints, made: Ints, low: Bools, level: Ints
    ) -> Ints:
        """Count the tokens up to where a request ends, changes its queue or its rank.

        Parameters
        ----------
        prompt, hidden, output, made : ndarray of int
            Tokens of the requests, and those made so far.
        low : ndarray of bool
            From :meth:`rank`.
        level : ndarray of int
            From :meth:`rank`.

        Returns
        -------
        ndarray of int
            At least 1.
        """
        rules = self.rules
        left = np.minimum(output - made, rules.quantum - level % rules.quantum)
        ahead = hidden - made
        left = np.minimum(left, np.where(ahead > 0, ahead, BIG))
        if rules.phases:
            entry = np.maximum(rules.demote + 1 - prompt, 1)
            left = np.minimum(left, np.where(low, BIG, entry - made))
        return np.asarray(left)

    def keyed(self, q: Ints, low: Bools, level: Ints, stamp: Ints) -> Ints:
        """Put queue, quanta, time and request into one number.

        Parameters
        ----------
        q : ndarray of int
            Requests.
        low : ndarray of bool
            Whether in the low queue.
        level, stamp : ndarray of int
            Tokens in the queue; count of the lane that orders times.

        Returns
        -------
        ndarray of int
            Keys.
        """
        row = q % self.data.count + 1
        if self.rules.quantum == BIG and not self.rules.phases:
            return np.asarray(row)
        quanta = level // self.rules.quantum
        return np.asarray(low * LOW + (quanta << QUANTA) + (stamp << STAMP) + row)

    # ------------------------------------------------------------------------------- time

    def after(self, lanes: Ints, steps: Ints) -> Floats:
        """When a number of iterations of the stretch have ended.

        Parameters
        ----------
        lanes, steps : ndarray of int
            Lanes and iterations, at least 1.

        Returns
        -------
        ndarray
            Seconds.
        """
        return _when(self.law[:, lanes], steps)

    def ended(self, lanes: Ints, time: Floats) -> Ints:
        """Count the iterations of the stretch that have ended by a time.

        Parameters
        ----------
        lanes : ndarray of int
            Lanes.
        time : ndarray
            Seconds.

        Returns
        -------
        ndarray of int
            Iterations.
        """
        law = self.law[:, lanes]
        begun, head, step, slope = law
        rest = time - (begun + head)
        b, gap = step - slope, np.maximum(rest, 0.0)
        more = 2 * gap / (b + np.sqrt(b * b + 4 * slope * gap))
        # Rounded up where it is close, then checked.
        found = (more + (1e-9 + 1e-12 * more)).astype(np.int64) + (rest >= 0)
        found -= (found > 0) & (_when(law, found) > time)
        return np.asarray(np.minimum(found, self.planned[lanes]))

    def cut(self, lanes: Ints, time: Floats) -> None:
        """Let lanes look again as soon as they can after a time.

        Parameters
        ----------
        lanes : ndarray of int
            Lanes; one that has a stretch ends it with the iteration in which the time falls.
        time : ndarray
            Seconds.
        """
        planned, due = self.planned[lanes], self.due[lanes]
        idle = planned == 0
        found = self.ended(lanes, time)
        # An iteration that ends just then is the last one.
        steps = found + ((found == 0) | (self.after(lanes, found) < time))
        short = ~idle & (steps < planned)
        found = np.where(idle, np.minimum(due, time), due)
        self.due[lanes] = np.where(short, self.after(lanes, steps), found)
        self.planned[lanes] = np.where(short, steps, planned)
        if self.rules.moves:
            later = np.where(short, np.inf, self.cross[lanes])
            soon = np.where(idle, np.inf, self.due[lanes] + self.fastest)
            self.cross[lanes] = np.minimum(later, soon)


def _when(law: Floats, steps: Ints) -> Floats:
    """When iterations of stretches have ended; before the first, anything."""
    begun, head, step, slope = law
    more = steps - 1
    return np.asarray((begun + head) + more * (step + slope * (more - 1)))
