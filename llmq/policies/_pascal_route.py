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
    """Which rows are answering, or have reasoned for so long that they count as that.

    Parameters
    ----------
    view : View
        The engine.
    demote : int
        Prompt and output tokens above which a reasoning request is demoted.

    Returns
    -------
    ndarray of bool
        True in the low queue.
    """
    long = (view.generated > 0) & (view.prompt + view.generated > demote)
    return np.asarray(view.answering | long)


def level(view: View, demote: int) -> Ints:
    """Output tokens since a row entered its queue.

    Parameters
    ----------
    view : View
        The engine.
    demote : int
        As in :func:`low_queue`.

    Returns
    -------
    ndarray of int
        Tokens.
    """
    entry = np.where(low_queue(view, demote), np.maximum(demote - view.prompt + 1, 1), 0)
    return np.asarray(view.generated - np.where(view.answering, view.thought, entry))


def in_time(view: View, now: float, tau: float) -> bool:
    """Whether every answer on an engine keeps up with its reader.

    Parameters
    ----------
    view : View
        The engine.
    now : float
        Seconds.
    tau : float
        Seconds a reader takes for a token; the first is due at the first answer token, at the
        latest 0.25 s after the reasoning.

    Returns
    -------
    bool
        False if a token is due that has not been made.
    """
    start = np.fmin(view.first, view.boundary + GRACE)
    due = np.where(now >= start, np.floor((now - start) / tau) + 1, 0)
    return not np.any(view.answering & (view.generated - view.thought < due))


def new_choice(healthy: npt.ArrayLike, kv: npt.ArrayLike) -> Ints:
    """Algorithm 1: the least KV among the engines whose answers are in time, else among all.

    Parameters
    ----------
    healthy : array_like of bool, shape (..., engines)
        Whether all answers are in time.
    kv : array_like, shape (..., engines)
        KV tokens, device and host.

    Returns
    -------
    ndarray of int
        The first of equals.

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

    Parameters
    ----------
    healthy : array_like of bool, shape (..., engines)
        Whether all answers are in time.
    reasoning, fresh : array_like, shape (..., engines)
        Requests in the high queue, and those in their first quantum in the low one; the latter
        count only if no engine is healthy.
    here : array_like of int
        The present engine, which wins ties.

    Returns
    -------
    ndarray of int
        The first of equals after ``here``.

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
    """Override: a request stays where there is room if its target has none.

    Parameters
    ----------
    room_here, room_there : array_like of bool
        Whether it fits.

    Returns
    -------
    ndarray of bool
        True to stay.
    """
    return np.asarray(np.asarray(room_here) & ~np.asarray(room_there))


@dataclass(frozen=True, slots=True)
class PascalRoute(Router):
    """Where arrivals and answers go.

    Parameters
    ----------
    quantum, demote : int
        Of the policy.
    migrate, adaptive : bool
        Requests may move when their reasoning ends; they stay where there is room if the target
        has none.
    tau : float
        Seconds a reader takes for a token.
    room : {"high_aware", "resident"}
        What must leave room: the whole high queue and the resident answers, or all residents.
    count_waiting : bool
        The prompts of waiting requests count as KV of their engine.
    """

    quantum: int = 500
    demote: int = 5000
    migrate: bool = True
    adaptive: bool = True
    tau: float = 0.1
    room: Literal["high_aware", "resident"] = "high_aware"
    count_waiting: bool = False
    name: ClassVar[str] = "pascal"
    sees: ClassVar[frozenset[str]] = frozenset({"views"})

    @property
    def moves(self) -> bool:  # type: ignore[override]
        """Whether requests move when their reasoning ends."""
        return self.migrate

    def footprint(self, view: View) -> float:
        """KV tokens of an engine.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        float
            Prompt and output tokens of those that have started, from the start of their first
            iteration on (of all, if waiting ones count).
        """
        counted = view.resident | (view.kv + view.host > 0) | self.count_waiting
        return float(np.sum((view.prompt + view.generated)[counted]))

    def healthy(self, signals: Signals) -> Bools:
        """Which engines have all their answers in time.

        Parameters
        ----------
        signals : Signals
            The engines.

        Returns
        -------
        ndarray of bool
            One entry for each.
        """
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
        """Whether an engine has room for a request.

        Parameters
        ----------
        view : View
            The engine.
        tokens : int
            What the request needs.
        others : ndarray of bool
            Rows of the view that are not the request itself.

        Returns
        -------
        bool
            Blocks and a slot are left beside those who come first.
        """
        keep = view.resident
        if self.room == "high_aware":
            keep = keep | ~low_queue(view, self.demote)
        size = -(-(view.prompt + view.generated + 1) // view.block)
        left = view.total - float(np.sum(size[keep & others]))
        slots = view.slots - int(np.count_nonzero(keep & others))
        return left >= -(-tokens // view.block) and slots >= 1
