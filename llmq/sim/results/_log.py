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

    Parameters
    ----------
    n : int
        Requests; none has ended.

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
    """Sums over the iterations of one engine.

    Parameters
    ----------
    iterations : int
        Iterations.
    tokens : int
        Tokens processed, recomputed ones included.
    kv_area : float
        KV tokens held by the served rows, summed over iterations.
    busy : float
        Seconds in iterations.
    evictions : int
        Evictions.
    recomputed : int
        Tokens whose KV was dropped.
    presence : float
        Request-seconds in the system, summed iteration by iteration (reference only).
    clock : float
        End of the last iteration that was started, seconds.
    last : int
        Tokens of that iteration.
    swapped : int
        KV tokens moved to the host or back.
    moved : int
        KV tokens that came from another engine.
    checks : int
        Conditions that an audit looked at (``check=True``).
    hits : int
        Tokens whose KV was found in the prefix cache, after evictions too.
    asked, shared : int
        Prompt tokens of the requests that a prefix cache let in for the first time, and those of
        them that it found.
    """

    iterations: int = 0
    tokens: int = 0
    kv_area: float = 0.0
    busy: float = 0.0
    evictions: int = 0
    recomputed: int = 0
    presence: float = 0.0
    clock: float = 0.0
    last: int = 0
    swapped: int = 0
    moved: int = 0
    checks: int = 0
    hits: int = 0
    asked: int = 0
    shared: int = 0

    def rest(
        self, iterations: int, tokens: int, kv_area: float, busy: float, clock: float, last: int
    ) -> None:
        """Take over the sums that a loop keeps in its own variables.

        Parameters
        ----------
        iterations, tokens, kv_area, busy, clock, last
            As above.
        """
        self.iterations, self.tokens, self.kv_area = iterations, tokens, float(kv_area)
        self.busy, self.clock, self.last = busy, clock, last


@dataclass(slots=True)
class Log:
    """Event times of every request, seconds; NaN where it did not happen.

    Parameters
    ----------
    prefill_end, first_token, finish : list of float
        One entry for each request of the trace.
    boundary, resumed : list of float
        When the reasoning ended, and when the request was first served after that (only requests
        that reason).
    tokens : list of list of float, optional
        Time of every token, where asked for.
    """

    prefill_end: list[float]
    first_token: list[float]
    finish: list[float]
    boundary: list[float]
    resumed: list[float]
    tokens: list[list[float]] | None = None

    @classmethod
    def empty(cls, n: int, *, tokens: bool = False) -> Log:
        """Return a log in which nothing has happened.

        Parameters
        ----------
        n : int
            Requests.
        tokens : bool
            Keep every token time.

        Returns
        -------
        Log
            Ready to be written.
        """
        a, b, c, d, e = ([math.nan] * n for _ in range(5))
        return cls(a, b, c, d, e, [[] for _ in range(n)] if tokens else None)


@dataclass(slots=True)
class Job:
    """What an engine needs to know of the trace, as plain lists.

    Parameters
    ----------
    engine : Engine
        The engine, with the token budget the policy asks for.
    policy : Policy
        The policy.
    arrival : list of float
        Seconds.
    prompt, output, hidden, klass : list of int
        Tokens, and class codes.
    classes : tuple of str
        Class names by code.
    prefix : Prefix, optional
        Names of the prompt blocks that requests share.
    """

    engine: Engine
    policy: Policy
    arrival: list[float]
    prompt: list[int]
    output: list[int]
    hidden: list[int]
    klass: list[int] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    prefix: Prefix | None = None
