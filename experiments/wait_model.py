"""The model of WAIT, iteration by iteration: thresholds, or first come first served.

A request of type ``j`` passes stages ``0 .. l'``; at stage ``s`` it holds ``l + s`` KV tokens, and
an iteration lasts ``d0 + d1 M`` with ``M`` the tokens of the rows that take part (Ao, Luo,
Simchi-Levi and Wang, 2504.11320).

* **WAIT**: type ``j`` takes part only if ``n_j`` of it wait; then ``n_j`` enter and all its rows
  move on by a stage. If no type can, time passes to the arrival that fills a threshold. When no
  arrival is left the remainder drains.
* **FCFS**: all rows move on in every iteration; those who wait are admitted in order while the KV
  of the next iteration fits, or while all peaks fit (``reserve``). Where it does not fit any
  longer, the latest rows are evicted and start again at stage 0.

llmq's simulator has no WAIT policy; without a memory limit its trajectory of FCFS is the one here,
to the last digit (a test compares).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Outcome", "Rule", "Type", "arrivals", "area", "fluid", "serve"]

Floats: TypeAlias = npt.NDArray[np.float64]
Rule: TypeAlias = Literal["wait", "fcfs", "reserve"]


@dataclass(frozen=True, slots=True)
class Type:
    """A type of requests.

    Parameters
    ----------
    prompt, output : int
        Tokens.
    rate : float
        Requests per second.
    """

    prompt: int
    output: int
    rate: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left behind.

    Parameters
    ----------
    finish : ndarray, shape (n,)
        End of each request, seconds; NaN if it did not end.
    start, kv : ndarray, shape (n_iterations,)
        Start of each iteration, seconds, and the KV tokens of the rows in it.
    held : ndarray, shape (n_iterations,)
        KV tokens of all rows, waiting types included.
    evictions : int
        Rows thrown out.
    """

    finish: Floats
    start: Floats
    kv: Floats
    held: Floats
    evictions: int


def area(kind: Type) -> float:
    """Return the KV tokens of a request, summed over its stages.

    Parameters
    ----------
    kind : Type
        The type.

    Returns
    -------
    float
        ``(l' + 1)(l + l' / 2)``.
    """
    return (kind.output + 1) * (kind.prompt + kind.output / 2)


def arrivals(
    types: Sequence[Type], horizon: float, rng: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Draw Poisson arrivals of all types.

    Parameters
    ----------
    types : sequence of Type
        With their rates.
    horizon : float
        Seconds.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    tuple of ndarray, shape (n,)
        Times, ascending, and types.
    """
    times = [np.sort(rng.uniform(0, horizon, rng.poisson(t.rate * horizon))) for t in types]
    codes = np.repeat(np.arange(len(types)), [len(row) for row in times])
    order = np.argsort(np.concatenate(times), kind="stable")
    return np.concatenate(times)[order], codes[order]


def serve(
    types: Sequence[Type],
    came: Floats,
    code: npt.NDArray[np.int64],
    law: tuple[float, float],
    rule: Rule = "wait",
    thresholds: Sequence[int] = (),
    capacity: float = math.inf,
    until: float = math.inf,
) -> Outcome:
    """Serve a list of requests.

    Parameters
    ----------
    types : sequence of Type
        The types.
    came : ndarray, shape (n,)
        Arrivals, seconds, ascending.
    code : ndarray of int, shape (n,)
        Types of the requests.
    law : tuple of float
        Seconds of an iteration, and per KV token in it.
    rule : {"wait", "fcfs", "reserve"}
        Who is admitted.
    thresholds : sequence of int
        Of the types, for WAIT.
    capacity : float
        KV tokens.
    until : float
        Seconds after which no iteration starts.

    Returns
    -------
    Outcome
        Ends and iterations.
    """
    system = _System(types, came, code, rule, thresholds, capacity)
    start, kv, held = [], [], []
    while (rows := system.admit()) is not None and system.now < until:
        tokens = float(system.tokens(rows).sum())
        start.append(system.now)
        kv.append(tokens)
        held.append(float(system.tokens(slice(None)).sum()))
        system.now += law[0] + law[1] * tokens
        system.advance(rows)
    return Outcome(system.finish, np.array(start), np.array(kv), np.array(held), system.evictions)


class _System:
    """Rows in service (type, stage, request), and the queue."""

    def __init__(
        self,
        types: Sequence[Type],
        came: Floats,
        code: npt.NDArray[np.int64],
        rule: Rule,
        thresholds: Sequence[int],
        capacity: float,
    ) -> None:
        self.prompt = np.array([t.prompt for t in types])
        self.output = np.array([t.output for t in types])
        self.came, self.code, self.rule, self.capacity = came, code, rule, capacity
        self.thresholds = np.array(thresholds, dtype=np.int64)
        self.finish = np.full(len(came), np.nan)
        self.who = np.zeros(0, dtype=np.int64)  # in order of admission
        self.stage = np.zeros(0, dtype=np.int64)
        self.next, self.now, self.evictions = 0, 0.0, 0
        self.queues: list[list[int]] = [[] for _ in types]
        self.line: deque[int] = deque()  # FCFS: all who wait, in order

    def tokens(self, rows: npt.NDArray[np.bool_] | slice) -> npt.NDArray[np.int64]:
        who = self.who[rows]
        return np.asarray(self.prompt[self.code[who]] + self.stage[rows])

    def arrive(self) -> None:
        last = int(np.searchsorted(self.came, self.now, "right"))
        new = range(self.next, last)
        self.line.extend(new)
        for i in new:
            self.queues[self.code[i]].append(i)
        self.next = max(self.next, last)

    def admit(self) -> npt.NDArray[np.bool_] | None:
        """Return which rows take part, or None where nothing is left to do."""
        while True:
            self.arrive()
            rows = self.by_threshold() if self.rule == "wait" else self.in_order()
            if rows.any():
                return rows
            if self.next >= len(self.came):
                return None
            self.now = float(self.came[self.next])

    def by_threshold(self) -> npt.NDArray[np.bool_]:
        waits = np.array([len(queue) for queue in self.queues])
        held = np.bincount(self.code[self.who], minlength=len(waits))
        draining = self.next >= len(self.came)
        fires = (waits >= self.thresholds) | (draining & (waits + held > 0))
        new: list[int] = []
        for j in np.flatnonzero(fires):
            n = int(self.thresholds[j])
            new += self.queues[j][:n]
            self.queues[j] = self.queues[j][n:]
        self.enter(new)
        return np.asarray(fires[self.code[self.who]], dtype=bool)

    def in_order(self) -> npt.NDArray[np.bool_]:
        now = self.tokens(slice(None))
        while now.sum() > self.capacity:  # the latest go, and start again
            self.line.appendleft(int(self.who[-1]))
            self.who, self.stage, now = self.who[:-1], self.stage[:-1], now[:-1]
            self.evictions += 1
        kinds = self.code[self.who]
        peak = self.prompt + self.output
        used = int(peak[kinds].sum()) if self.rule == "reserve" else int(now.sum())
        cost = peak if self.rule == "reserve" else self.prompt
        new: list[int] = []
        while self.line and used + cost[self.code[self.line[0]]] <= self.capacity:
            used += int(cost[self.code[self.line[0]]])
            new.append(self.line.popleft())
        self.enter(new)
        return np.ones(len(self.who), dtype=bool)

    def enter(self, new: list[int]) -> None:
        self.who = np.concatenate((self.who, np.array(new, dtype=np.int64)))
        self.stage = np.concatenate((self.stage, np.zeros(len(new), dtype=np.int64)))

    def advance(self, rows: npt.NDArray[np.bool_]) -> None:
        self.stage = self.stage + rows
        done = self.stage > self.output[self.code[self.who]]
        self.finish[self.who[done]] = self.now
        self.who, self.stage = self.who[~done], self.stage[~done]


def fluid(types: Sequence[Type], law: tuple[float, float], until: float) -> tuple[Floats, Floats]:
    """Return the path of the fluid under FCFS without a memory limit, from an empty start.

    Parameters
    ----------
    types : sequence of Type
        With their rates.
    law : tuple of float
        Seconds of an iteration, and per KV token in it.
    until : float
        Seconds.

    Returns
    -------
    tuple of ndarray, shape (n_iterations,)
        Starts of the iterations, seconds, and KV tokens in them.
    """
    now, gap = 0.0, law[0]
    stages = [np.zeros(t.output + 1) for t in types]
    held = [t.prompt + np.arange(t.output + 1) for t in types]
    start, kv = [], []
    while now < until:
        for j, kind in enumerate(types):
            stages[j] = np.concatenate(([kind.rate * gap], stages[j][:-1]))
        tokens = float(sum((s * h).sum() for s, h in zip(stages, held, strict=True)))
        start.append(now)
        kv.append(tokens)
        gap = law[0] + law[1] * tokens
        now += gap
    return np.array(start), np.array(kv)
