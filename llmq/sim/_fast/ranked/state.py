"""The rows of every engine in the lockstep of ranked policies, and the times of their iterations.

A *lane* is an engine in one replication. A *stretch* is a run of iterations with one batch: the
first may hold prompts and swaps and takes ``head`` seconds, iteration ``k + 2`` takes
``step + 2 k slope``, so that ``j`` of them end ``head + (j - 1)(step + slope (j - 2))`` seconds
after the start. Rows of a lane lie in slots, in no order; an empty slot and a row that is on its
way from another engine have ``size = -block``, need no memory and never run.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.ranked.rules import BIG, Requests, Rules, Sums

__all__ = ["EMPTY", "LOW", "QUANTA", "STAMP", "State", "Tokens"]

Tokens: TypeAlias = npt.NDArray[np.signedinteger]

# A key is one number: queue, quanta used, when the quantum began, request (from 1).
EMPTY = np.iinfo(np.int64).max
LOW, QUANTA, STAMP = 1 << 62, 49, 20
WIDTH = 16


class State:
    """Lanes and their rows."""

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
        self.held = np.zeros(lanes, np.int64)
        self.filling, self.fills = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self.waiting = np.zeros(lanes, np.int64)
        # Rows in the high queue.
        self.high = np.zeros(lanes, np.int64)
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
            "req": -1,
            "key": EMPTY,
            "run": False,
            "size": -rules.block,
            "left": BIG,
            "start": np.inf,
        }
        self.fastest = float(rules.curve[1:].min())

    @property
    def width(self) -> int:
        """Slots of a lane."""
        return int(self.req.shape[1])

    def slot(self, lanes: Ints) -> Ints:
        """Find an empty slot in each lane, making more if there is none."""
        req = self.req[lanes]
        found = req.argmin(axis=1)
        if (req[np.arange(len(lanes)), found] >= 0).any():
            more = {"ready": np.inf, "landed": False, "seen": 0, "opens": False, "think": BIG}
            for name, value in (self.blank | more).items():
                old = getattr(self, name)
                new = np.full((len(old), WIDTH), value, old.dtype)
                setattr(self, name, np.concatenate((old, new), axis=1))
            return self.slot(lanes)
        return np.asarray(found)

    def clear(self, lanes: Ints, slots: Ints) -> None:
        """Empty slots of rows whose reasoning has ended."""
        place = lanes * self.width + slots
        for name, value in self.blank.items():
            getattr(self, name).ravel()[place] = value

    def rank(self, prompt: Ints, hidden: Ints, made: Ints) -> tuple[Bools, Ints]:
        """Tell in which queue requests are, and for how many tokens."""
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
        """Count the tokens up to where a request ends, changes its queue or its rank."""
        rules = self.rules
        left = np.minimum(output - made, rules.quantum - level % rules.quantum)
        ahead = hidden - made
        left = np.minimum(left, np.where(ahead > 0, ahead, BIG))
        if rules.phases:
            entry = np.maximum(rules.demote + 1 - prompt, 1)
            left = np.minimum(left, np.where(low, BIG, entry - made))
        return np.asarray(left)

    def keyed(self, q: Ints, low: Bools, level: Ints, stamp: Ints) -> Ints:
        """Put queue, quanta, time and request into one number."""
        row = q % self.data.count + 1
        if self.rules.quantum == BIG and not self.rules.phases:
            return np.asarray(row)
        quanta = level // self.rules.quantum
        return np.asarray(low * LOW + (quanta << QUANTA) + (stamp << STAMP) + row)

    # ------------------------------------------------------------------------------- time

    def after(self, lanes: Ints, steps: Ints) -> Floats:
        """When a number of iterations of the stretch have ended."""
        return _when(self.law[:, lanes], steps)

    def ended(self, lanes: Ints, time: Floats) -> Ints:
        """Count the iterations of the stretch that have ended by a time."""
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
        """Let lanes look again as soon as they can after a time."""
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
