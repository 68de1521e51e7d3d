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
    """Replications to run."""

    traffic: Workload | Trace  # who arrives
    requests: int  # requests of a path, for a workload
    seeds: tuple[np.random.SeedSequence, ...]  # one for each replication
    engines: tuple[Engine, ...]  # the fleet, with the token budgets the policy asks for
    policy: Policy  # how each engine schedules; its router splits the arrivals
    choice: EngineChoice  # which simulator
    tokens: bool  # record the time of every token
    eligible: tuple[npt.NDArray[np.bool_], ...] | None  # for each class which engines may serve it
    link: float  # KV tokens per second from one engine to another
    check: bool = False  # look at every iteration again


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What some replications gave: arrays of shape (replications, n), see :class:`RequestTimes`."""

    # arrival, prefill_end, first_token, finish: seconds
    arrival: Floats
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    # boundary, resumed: seconds; None where nobody reasons or a fast simulator ran
    boundary: Floats | None
    resumed: Floats | None
    # prompt, output, reasoning, klass, server: tokens, class codes, engine that served each
    # request
    prompt: Ints
    output: Ints
    reasoning: Ints
    klass: Ints
    server: Ints
    tallies: tuple[tuple[Tally, ...], ...]  # sums, by replication and engine
    # token times of each request, replication after replication
    tokens: tuple[list[float], ...] | None = None
    qoe: Floats | None = None  # quality of experience, where the simulator kept it

    def times(self) -> RequestTimes:
        """Return the event times."""
        token_times = token_offsets = None
        if self.tokens is not None:
            token_times = np.concatenate([np.asarray(row) for row in self.tokens])
            token_offsets = np.concatenate(([0], np.cumsum([len(row) for row in self.tokens])))
        return RequestTimes(
            arrival=self.arrival,
            prefill_end=self.prefill_end,
            first_token=self.first_token,
            finish=self.finish,
            output=self.output,
            reasoning=self.reasoning,
            boundary=self.boundary,
            resumed=self.resumed,
            token_times=token_times,
            token_offsets=token_offsets,
            qoe=self.qoe,
        )


def join(blocks: Sequence[Block]) -> Block:
    """Put blocks one after the other."""
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
    """Put traces into arrays."""
    return {name: np.stack([getattr(trace, name) for trace in traces]) for name in COLUMNS}
