"""PASCAL's placement (Algorithm 1), its move at the end of the reasoning (Algorithm 2, override).

The rules are written on arrays whose last axis is the engine, so that they serve one run and many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from llmq.policies.contract.routers import Router, Signals
from llmq.policies.contract.view import Bools, Ints, View

__all__ = ["PascalRoute", "answer_choice", "in_time", "level", "low_queue", "new_choice", "stays"]

# Seconds after the end of the reasoning from which a reader waits for the answer.
GRACE = 0.25


def low_queue(view: View, demote: int) -> Bools:
    """Which rows are answering, or have reasoned for so long that they count as that."""
    long = (view.generated > 0) & (view.prompt + view.generated > demote)
    return np.asarray(view.answering | long)


def level(view: View, demote: int) -> Ints:
    """Output tokens since a row entered its queue."""
    entry = np.where(low_queue(view, demote), np.maximum(demote - view.prompt + 1, 1), 0)
    return np.asarray(view.generated - np.where(view.answering, view.thought, entry))


def in_time(view: View, now: float, tau: float) -> bool:
    """Whether every answer on an engine keeps up with its reader."""
    start = np.fmin(view.first, view.boundary + GRACE)
    due = np.where(now >= start, np.floor((now - start) / tau) + 1, 0)
    return not np.any(view.answering & (view.generated - view.thought < due))


def new_choice(healthy: npt.ArrayLike, kv: npt.ArrayLike) -> Ints:
    """Algorithm 1: the least KV among the engines whose answers are in time, else among all.

    Examples
    --------
    >>> new_choice([True, False, True], [500, 300, 400])
    array(2)
    """
    good = np.asarray(healthy)
    good = good | ~good.any(axis=-1, keepdims=True)
    return np.asarray(np.argmin(np.where(good, kv, math.inf), axis=-1))


def answer_choice(
    healthy: npt.ArrayLike, reasoning: npt.ArrayLike, fresh: npt.ArrayLike, here: npt.ArrayLike
) -> Ints:
    """Algorithm 2: the fewest reasoning requests among the engines whose answers are in time.

    Examples
    --------
    >>> answer_choice([False] * 3, [2, 1, 0], [0, 0, 4], 0)
    array(1)
    """
    good, r, place = np.asarray(healthy), np.asarray(reasoning), np.asarray(here)
    some = good.any(axis=-1, keepdims=True)
    score = np.where(some, np.where(good, r, math.inf), r + np.asarray(fresh))
    mine = np.take_along_axis(score, place[..., None], axis=-1)[..., 0]
    return np.where(mine == score.min(axis=-1), place, np.argmin(score, axis=-1))


def stays(room_here: npt.ArrayLike, room_there: npt.ArrayLike) -> Bools:
    """Override: a request stays where there is room if its target has none."""
    return np.asarray(np.asarray(room_here) & ~np.asarray(room_there))


@dataclass(frozen=True, slots=True)
class PascalRoute(Router):
    """Where arrivals and answers go."""

    # quantum, demote: of the policy
    quantum: int = 500
    demote: int = 5000
    # migrate, adaptive: requests may move when their reasoning ends; they stay where there is
    # room if the target has none
    migrate: bool = True
    adaptive: bool = True
    tau: float = 0.1  # seconds a reader takes for a token
    # what must leave room: the whole high queue and the resident answers, or all residents
    room: Literal["high_aware", "resident"] = "high_aware"
    count_waiting: bool = False  # the prompts of waiting requests count as KV of their engine
    name: ClassVar[str] = "pascal"
    sees: ClassVar[frozenset[str]] = frozenset({"views"})

    @property
    def moves(self) -> bool:  # type: ignore[override]
        """Whether requests move when their reasoning ends."""
        return self.migrate

    def footprint(self, view: View) -> float:
        """KV tokens of an engine."""
        counted = view.resident | (view.kv + view.host > 0) | self.count_waiting
        return float(np.sum((view.prompt + view.generated)[counted]))

    def healthy(self, signals: Signals) -> Bools:
        """Which engines have all their answers in time."""
        return np.array([in_time(v, v.time, self.tau) for v in signals.views])

    def pick(self, signals: Signals) -> int:
        kv = [self.footprint(view) for view in signals.views]
        return int(new_choice(self.healthy(signals), kv))

    def move(self, signals: Signals, here: int, row: int) -> int:
        reasoning, fresh = [], []
        for place, view in enumerate(signals.views):
            low, first = low_queue(view, self.demote), level(view, self.demote) < self.quantum
            reasoning.append(int(np.count_nonzero(~low)))
            fresh.append(int(np.count_nonzero(low & first)) - (place == here))
        target = int(answer_choice(self.healthy(signals), reasoning, fresh, here))
        if not self.adaptive or target == here:
            return target
        mine = signals.views[here]
        tokens = int(mine.prompt[row] + mine.generated[row] + 1)
        others = np.arange(len(mine.row)) != row
        room = self.fits(mine, tokens, others)
        there = signals.views[target]
        if stays(room, self.fits(there, tokens, np.ones(len(there.row), dtype=bool))):
            return here
        return target

    def fits(self, view: View, tokens: int, others: Bools) -> bool:
        """Whether an engine has room for a request."""
        keep = view.resident
        if self.room == "high_aware":
            keep = keep | ~low_queue(view, self.demote)
        size = -(-(view.prompt + view.generated + 1) // view.block)
        left = view.total - float(np.sum(size[keep & others]))
        slots = view.slots - int(np.count_nonzero(keep & others))
        return left >= -(-tokens // view.block) and slots >= 1
