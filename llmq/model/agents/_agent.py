"""Agents: jobs that call engines several times, in turn or at the same time.

An *agent* is a set of calls to *stations* (engines, by name). A call is released when all calls
that it comes after have ended and its pause (a tool, a thought) is over; a call after nobody is
released when the agent arrives, and the agent ends with its last call. A chain of calls is
feed-forward or, if stations come back or two agents visit them in opposite order, cyclic between
stations; several calls after one are a fork, a call after several is a join. Each call is a request
of its own: what another call left in the cache is not used again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.model.request import RequestClass

__all__ = ["Agent", "Call", "call_class", "check_agents", "check_stations"]


@checked
@dataclass(frozen=True, slots=True)
class Call:
    """One call of an agent.

    Parameters
    ----------
    station : str
        Engine that serves it.
    request : RequestClass
        Tokens.
    after : tuple of str
        Calls that must have ended before; none for a call that starts with the agent.
    pause : float
        Mean time from the last of these ends (or the arrival) to the release, seconds.
    pause_cv : float
        Coefficient of variation of that time: 0 always the same, 1 exponential, else gamma.

    Examples
    --------
    >>> Call("small", RequestClass(512, 32), after=("plan",), pause=0.5).station
    'small'
    """

    station: str
    request: RequestClass
    after: tuple[str, ...] = ()
    pause: float = 0.0
    pause_cv: float = 0.0

    def __post_init__(self) -> None:
        for name in ("pause", "pause_cv"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must be >= 0 and finite, got {value}", value=value)
        object.__setattr__(self, "after", tuple(dict.fromkeys(self.after)))


@checked
@dataclass(frozen=True, slots=True)
class Agent:
    """The calls of one kind of agent.

    Parameters
    ----------
    calls : mapping of str to Call
        By name.

    Raises
    ------
    InputError
        No calls, a call after one that does not exist, or calls that wait for each other.

    Examples
    --------
    >>> think, act = RequestClass(512, 32), RequestClass(64, 16)
    >>> tree = Agent({"plan": Call("large", think),
    ...               "left": Call("small", act, after=("plan",)),
    ...               "right": Call("small", act, after=("plan",)),
    ...               "write": Call("large", think, after=("left", "right"))})
    >>> tree.remaining
    {'plan': 3, 'left': 2, 'right': 2, 'write': 1}
    """

    calls: Mapping[str, Call]

    def __post_init__(self) -> None:
        if not self.calls:
            raise InputError("an agent needs at least one call")
        for name, call in self.calls.items():
            for before in call.after:
                if before not in self.calls:
                    raise InputError(
                        f"call {name!r} comes after {before!r}, which the agent does not make"
                        f"{nearest(before, self.calls)}",
                        value=before,
                    )
        if (loop := self._loop()) is not None:
            start = "" if any(not c.after for c in self.calls.values()) else " and none can start"
            raise InputError(
                f"calls wait for each other{start}: {' -> '.join(loop)}. An agent that goes back "
                "to a station makes another call there",
                value=loop,
            )
        object.__setattr__(self, "calls", dict(self.calls))

    @classmethod
    @checked
    def chain(cls, *hops: tuple[str, RequestClass], pause: float = 0.0) -> Agent:
        """Return an agent that makes one call after the other.

        Parameters
        ----------
        *hops
            Station and tokens of each call; the calls are named "1", "2", ...
        pause : float
            Seconds from the end of each call to the next.

        Returns
        -------
        Agent
            The chain.

        Examples
        --------
        >>> Agent.chain(("a", RequestClass(32, 32)), ("b", RequestClass(512, 32))).is_chain
        True
        """
        calls = {}
        for i, (station, request) in enumerate(hops, 1):
            before = (str(i - 1),) if i > 1 else ()
            calls[str(i)] = Call(station, request, before, pause if i > 1 else 0.0)
        return cls(calls)

    @property
    def stations(self) -> tuple[str, ...]:
        """Stations that it visits, each once."""
        return tuple(dict.fromkeys(call.station for call in self.calls.values()))

    @property
    def is_chain(self) -> bool:
        """Whether its calls come one after the other."""
        after = [call.after for call in self.calls.values()]
        met = [before for names in after for before in names]
        return (
            all(len(names) < 2 for names in after) and len(met) == len(set(met)) == len(after) - 1
        )

    @property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """Calls that come right after each call."""
        found: dict[str, list[str]] = {name: [] for name in self.calls}
        for name, call in self.calls.items():
            for before in call.after:
                found[before].append(name)
        return {name: tuple(after) for name, after in found.items()}

    @property
    def remaining(self) -> dict[str, int]:
        """Calls on the longest way from each call to the end, itself included."""
        after, found = self.successors, dict.fromkeys(self.calls, 1)
        for _ in self.calls:  # the longest way has at most so many calls
            found = {
                name: 1 + max((found[n] for n in after[name]), default=0) for name in self.calls
            }
        return found

    def _loop(self) -> list[str] | None:
        """Return calls that wait for each other, the first once more at the end."""
        left = dict(self.calls)
        while free := [n for n, c in left.items() if not any(b in left for b in c.after)]:
            for name in free:
                del left[name]
        if not left:
            return None
        path = [next(iter(left))]
        while path[-1] not in path[:-1]:
            path.append(next(b for b in left[path[-1]].after if b in left))
        return path[path.index(path[-1]) :][::-1]


@checked
def call_class(agent: str, call: str) -> str:
    """Return the name of the class that a call is for engines and policies.

    Parameters
    ----------
    agent, call : str
        Names.

    Returns
    -------
    str
        Both, with a point between them.

    Examples
    --------
    >>> call_class("coder", "plan")
    'coder.plan'
    """
    return f"{agent}.{call}"


@checked
def check_agents(agents: Mapping[str, Agent]) -> None:
    """Check that there are agents.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds of agents.

    Raises
    ------
    InputError
        None, or something else.
    """
    if not agents:
        raise InputError("a network of agents needs at least one kind of agent")


@checked
def check_stations(agents: Mapping[str, Agent], stations: Mapping[str, object]) -> None:
    """Check that every call has a station.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds of agents.
    stations : mapping of str to object
        Engines by name.

    Raises
    ------
    InputError
        No agents, something else than agents, or an unknown station.
    """
    check_agents(agents)
    for name, agent in agents.items():
        for call, made in agent.calls.items():
            if made.station not in stations:
                raise InputError(
                    f"call {call_class(name, call)!r} goes to unknown station {made.station!r}"
                    f"{nearest(made.station, stations)}",
                    value=made.station,
                )
