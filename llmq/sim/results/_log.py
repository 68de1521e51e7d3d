"""What one engine is given and what it writes down while it runs.

Event times are kept per request, sums per engine. The sums (iterations, tokens, KV
token-iterations, busy seconds) are made while running, the requests' demands follow from their
lengths alone: that the two agree is a test of the engine, see :mod:`llmq.sim.results._checks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import SupportsIndex, cast

from llmq.model.engine import Engine
from llmq.model.prefix import Prefix
from llmq.policies.contract.blocks import Policy

__all__ = ["Ends", "Job", "Log", "Tally"]


class Ends(list[float]):
    """Finish times that remember which were written since one looked.

    Examples
    --------
    >>> ends = Ends(3)
    >>> ends[1] = 2.5
    >>> ends.new
    [1]
    """

    def __init__(self, n: int) -> None:
        super().__init__([math.nan] * n)
        self.new: list[int] = []

    def __setitem__(self, i: SupportsIndex | slice, value: object) -> None:
        super().__setitem__(i, value)  # type: ignore[call-overload]
        self.new.append(cast(int, i))


@dataclass(slots=True)
class Tally:
    """Sums over the iterations of one engine."""

    iterations: int = 0  # iterations
    tokens: int = 0  # tokens processed, recomputed ones included
    kv_area: float = 0.0  # KV tokens held by the served rows, summed over iterations
    busy: float = 0.0  # seconds in iterations
    evictions: int = 0  # evictions
    recomputed: int = 0  # tokens whose KV was dropped
    # request-seconds in the system, summed iteration by iteration (reference only)
    presence: float = 0.0
    clock: float = 0.0  # end of the last iteration that was started, seconds
    last: int = 0  # tokens of that iteration
    swapped: int = 0  # KV tokens moved to the host or back
    moved: int = 0  # KV tokens that came from another engine
    checks: int = 0  # conditions that an audit looked at (``check=True``)
    hits: int = 0  # tokens whose KV was found in the prefix cache, after evictions too
    # asked, shared: prompt tokens of the requests that a prefix cache let in for the first
    # time, and those of them that it found
    asked: int = 0
    shared: int = 0

    def rest(
        self, iterations: int, tokens: int, kv_area: float, busy: float, clock: float, last: int
    ) -> None:
        """Take over the sums that a loop keeps in its own variables."""
        self.iterations, self.tokens, self.kv_area = iterations, tokens, float(kv_area)
        self.busy, self.clock, self.last = busy, clock, last


@dataclass(slots=True)
class Log:
    """Event times of every request, seconds; NaN where it did not happen."""

    # prefill_end, first_token, finish: one entry for each request of the trace
    prefill_end: list[float]
    first_token: list[float]
    finish: list[float]
    # boundary, resumed: when the reasoning ended, and when the request was first served after
    # that (only requests that reason)
    boundary: list[float]
    resumed: list[float]
    tokens: list[list[float]] | None = None  # time of every token, where asked for

    @classmethod
    def empty(cls, n: int, *, tokens: bool = False) -> Log:
        """Return a log in which nothing has happened."""
        a, b, c, d, e = ([math.nan] * n for _ in range(5))
        return cls(a, b, c, d, e, [[] for _ in range(n)] if tokens else None)


@dataclass(slots=True)
class Job:
    """What an engine needs to know of the trace, as plain lists."""

    engine: Engine  # the engine, with the token budget the policy asks for
    policy: Policy  # the policy
    arrival: list[float]  # seconds
    # prompt, output, hidden, klass: tokens, and class codes
    prompt: list[int]
    output: list[int]
    hidden: list[int]
    klass: list[int] = field(default_factory=list)
    classes: tuple[str, ...] = ()  # class names by code
    prefix: Prefix | None = None  # names of the prompt blocks that requests share
