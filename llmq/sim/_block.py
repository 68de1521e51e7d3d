"""Some replications at once: what is sent to a worker and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.model.metrics import RequestTimes
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies import Policy
from llmq.sim._dispatch import EngineChoice
from llmq.sim.results._log import Tally

__all__ = ["Block", "Task", "join", "stacked"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Task:
    """Replications to run.

    Parameters
    ----------
    traffic : Workload or Trace
        Who arrives.
    requests : int
        Requests of a path, for a workload.
    seeds : tuple of numpy.random.SeedSequence
        One for each replication.
    engines : tuple of Engine
        The fleet, with the token budgets the policy asks for.
    policy : Policy
        How each engine schedules; its router splits the arrivals.
    choice : {"auto", "vector", "calendar", "reference"}
        Which simulator.
    tokens : bool
        Record the time of every token.
    eligible : tuple of ndarray of bool, optional
        For each class which engines may serve it.
    link : float
        KV tokens per second from one engine to another.
    check : bool
        Look at every iteration again.
    """

    traffic: Workload | Trace
    requests: int
    seeds: tuple[np.random.SeedSequence, ...]
    engines: tuple[Engine, ...]
    policy: Policy
    choice: EngineChoice
    tokens: bool
    eligible: tuple[npt.NDArray[np.bool_], ...] | None
    link: float
    check: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What some replications gave: arrays of shape (replications, n), see :class:`RequestTimes`.

    Parameters
    ----------
    arrival, prefill_end, first_token, finish : ndarray
        Seconds.
    boundary, resumed : ndarray or None
        Seconds; None where nobody reasons or a fast simulator ran.
    prompt, output, reasoning, klass, server : ndarray of int
        Tokens, class codes, engine that served each request.
    tallies : tuple of tuple of Tally
        Sums, by replication and engine.
    tokens : tuple of list of float, or None
        Token times of each request, replication after replication.
    qoe : ndarray or None
        Quality of experience, where the simulator kept it.
    """

    arrival: Floats
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    boundary: Floats | None
    resumed: Floats | None
    prompt: Ints
    output: Ints
    reasoning: Ints
    klass: Ints
    server: Ints
    tallies: tuple[tuple[Tally, ...], ...]
    tokens: tuple[list[float], ...] | None = None
    qoe: Floats | None = None

    def times(self) -> RequestTimes:
        """Return the event times.

        Returns
        -------
        RequestTimes
            With token times where they were recorded.
        """
        token_times = token_offsets = None
        if self.tokens is not None:
            token_times = np.concatenate([np.asarray(row) for row in self.tokens])
            token_offsets = np.concatenate(([0], np.cumsum([len(row) for row in self.tokens])))
        return RequestTimes(
            arrival=self.arrival, prefill_end=self.prefill_end, first_token=self.first_token,
            finish=self.finish, output=self.output, reasoning=self.reasoning,
            boundary=self.boundary, resumed=self.resumed, token_times=token_times,
            token_offsets=token_offsets, qoe=self.qoe,
        )  # fmt: skip


def join(blocks: Sequence[Block]) -> Block:
    """Put blocks one after the other.

    Parameters
    ----------
    blocks : sequence of Block
        At least one.

    Returns
    -------
    Block
        All replications.
    """
    if len(blocks) == 1:
        return blocks[0]
    columns: dict[str, Any] = {}
    for field in fields(Block):
        parts = [getattr(block, field.name) for block in blocks]
        if any(part is None for part in parts):
            columns[field.name] = None
        elif isinstance(parts[0], tuple):
            columns[field.name] = tuple(item for part in parts for item in part)
        else:
            columns[field.name] = np.concatenate(parts)
    return Block(**columns)


COLUMNS = ("arrival", "prompt", "output", "reasoning", "klass")


def stacked(traces: Sequence[Trace]) -> dict[str, Any]:
    """Put traces into arrays.

    Parameters
    ----------
    traces : sequence of Trace
        One for each replication.

    Returns
    -------
    dict of str to ndarray, shape (replications, n)
        Arrival, prompt, output, reasoning and klass.
    """
    return {name: np.stack([getattr(trace, name) for trace in traces]) for name in COLUMNS}
