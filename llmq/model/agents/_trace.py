"""Agents that came: arrival times, and the tokens of every call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.annotations import Numbers
from llmq._input.checked import checked
from llmq._input.columns import floats, wholes
from llmq._limits import REQUESTS
from llmq.errors import InputError, nearest, shown
from llmq.model.closed import Closed
from llmq.rng import RngLike, seed_sequence

if TYPE_CHECKING:
    from llmq.model.agents._agent import Agent

__all__ = ["AgentTrace"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


@checked
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AgentTrace:
    """A finite list of agents in arrival order; make one with ``draw`` or ``clockwork``.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds, in the order of their codes.
    arrival : ndarray, shape (n,)
        Seconds, ascending.
    klass : ndarray of int, shape (n,)
        Code of the kind of each agent.
    prompt, output, reasoning : ndarray of int, shape (n, calls)
        Tokens of each call, in the order of the agent's ``calls``; 0 where it makes fewer.
    pause : ndarray, shape (n, calls)
        Seconds before each call.
    """

    agents: Mapping[str, Agent]
    arrival: Floats
    klass: Ints
    prompt: Ints
    output: Ints
    reasoning: Ints
    pause: Floats

    def __post_init__(self) -> None:
        for name, read, dimensions in (
            ("arrival", floats, 1),
            ("klass", wholes, 1),
            ("prompt", wholes, 2),
            ("output", wholes, 2),
            ("reasoning", wholes, 2),
            ("pause", floats, 2),
        ):
            object.__setattr__(self, name, read(name, getattr(self, name), dimensions))
        n = len(self.arrival)
        if not n:
            raise InputError("a trace of agents needs at least one agent, got none")
        falls = np.flatnonzero(~(np.diff(self.arrival) >= 0))
        if len(falls) or not np.all(np.isfinite(self.arrival)):
            row = int(falls[0]) + 1 if len(falls) else 0
            raise InputError(f"arrivals must be finite and ascend, agent {row} does not", row=row)
        if self.klass.shape != (n,) or not np.all(
            (self.klass >= 0) & (self.klass < len(self.agents))
        ):
            raise InputError(
                f"klass needs a code from 0 to {len(self.agents) - 1} for each of the {n} agents"
            )
        for name in ("arrival", "klass", "prompt", "output", "reasoning", "pause"):
            getattr(self, name).flags.writeable = False

    @classmethod
    @checked
    def draw(
        cls,
        agents: Mapping[str, Agent],
        arrival: Numbers,
        klass: npt.ArrayLike,
        rng: RngLike = None,
    ) -> AgentTrace:
        """Draw the tokens and pauses of agents whose times are known.

        Parameters
        ----------
        agents : mapping of str to Agent
            Kinds.
        arrival : array_like, shape (n,)
            Seconds, ascending.
        klass : array_like of int or str, shape (n,)
            Kind of each agent: code or name.
        rng : Generator, SeedSequence, int or None
            Source of randomness.

        Returns
        -------
        AgentTrace
            The agents.

        Raises
        ------
        InputError
            Times that do not ascend, an unknown kind.
        """
        time, names = floats("arrival", arrival, 1), list(agents)
        if not names:
            raise InputError("a trace of agents needs at least one kind of agent")
        raw = np.asarray(klass).ravel().tolist()
        for one in raw:
            if isinstance(one, str) and one not in names:
                raise InputError(f"no kind of agent {shown(one)}{nearest(one, names)}", value=one)
        codes = wholes("klass", [names.index(k) if isinstance(k, str) else k for k in raw])
        if len(codes) != len(time):
            raise InputError(f"{len(time)} agents need as many kinds, got {len(codes)}")
        shape = len(time), max(len(agent.calls) for agent in agents.values())
        sizes, pause = np.zeros((3, *shape), dtype=np.int64), np.zeros(shape)
        size = seed_sequence(rng).spawn(3)[2]
        for code, (agent, child) in enumerate(
            zip(agents.values(), size.spawn(len(agents)), strict=True)
        ):
            mine = np.flatnonzero(codes == code)
            # The first call draws what a workload of first calls would.
            streams = [child, *child.spawn(len(agent.calls) - 1)]
            for c, (call, stream) in enumerate(zip(agent.calls.values(), streams, strict=True)):
                sizes[:, mine, c] = np.stack(call.request.sample(len(mine), stream))
                tools = Closed(1, call.pause, call.pause_cv)
                pause[mine, c] = tools.pauses(len(mine), stream.spawn(1)[0])
        prompt, output, reasoning = sizes
        return cls(agents, time, codes, prompt, output, reasoning, pause)

    @classmethod
    @checked
    def clockwork(
        cls,
        agents: Mapping[str, Agent],
        rates: Mapping[str, float],
        span: float,
        *,
        first: Mapping[str, int] | None = None,
        rng: RngLike = None,
    ) -> AgentTrace:
        """Return agents of each kind at equal gaps, which takes the noise out of arrivals.

        Parameters
        ----------
        agents : mapping of str to Agent
            Kinds.
        rates : mapping of str to float
            Agents per second of each kind; the first comes after one gap.
        span : float
            Seconds during which they come.
        first : mapping of str to int, optional
            So many more come at time 0.
        rng : Generator, SeedSequence, int or None
            For tokens and pauses that vary.

        Returns
        -------
        AgentTrace
            The agents; at one instant in the order of the kinds.

        Raises
        ------
        InputError
            An unknown kind, a rate or a span that is not positive.

        Examples
        --------
        >>> from llmq.model.agents._agent import Agent
        >>> from llmq.model.request import RequestClass
        >>> one = {"a": Agent.chain(("x", RequestClass(8, 2)))}
        >>> AgentTrace.clockwork(one, {"a": 2.0}, 1.5, first={"a": 1}).arrival
        array([0. , 0.5, 1. , 1.5])
        """
        start = {} if first is None else first
        for name in (*rates, *start):
            if name not in agents:
                raise InputError(
                    f"no kind of agent {shown(name)}{nearest(name, agents)}", value=name
                )
        if not 0 < span < math.inf:
            raise InputError(f"span must be positive and finite, got {span}", value=span)
        times, codes = [], []
        for code, name in enumerate(agents):
            if name not in rates:
                raise InputError(
                    f"kind of agent {shown(name)} has no rate; write {shown(name)}: 0 if none comes"
                )
            rate = rates[name]
            if not 0 <= rate < math.inf:
                raise InputError(f"rate of {name!r} must be >= 0 and finite, got {rate}")
            if not 0 <= start.get(name, 0) <= REQUESTS or span * rate > REQUESTS:
                raise InputError(
                    f"kind {shown(name)} makes {start.get(name, 0) + span * rate:.4g} agents: "
                    f"from 0 to {REQUESTS:,} can be made, choose a shorter span or fewer at first"
                )
            clock = np.arange(1, int(span * rate) + 1) / (rate or 1.0)
            times.append(np.concatenate((np.zeros(start.get(name, 0)), clock)))
            codes.append(np.full(len(times[-1]), code))
        arrival, klass = np.concatenate(times), np.concatenate(codes)
        order = np.lexsort((klass, arrival))
        return cls.draw(agents, arrival[order], klass[order], rng)

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def rates(self) -> dict[str, float]:
        """Agents per second of each kind; infinite where all come at once."""
        n, span = len(self), float(self.arrival[-1] - self.arrival[0])
        rate = (n - 1) / span if span > 0 else math.inf
        counts = np.bincount(self.klass, minlength=len(self.agents)).tolist()
        return {
            name: rate * count / n if count else 0.0
            for name, count in zip(self.agents, counts, strict=True)
        }

    @property
    def made(self) -> npt.NDArray[np.bool_]:
        """Which calls each agent makes; shape (n, calls)."""
        counts = np.array([len(agent.calls) for agent in self.agents.values()])
        return np.asarray(np.arange(self.prompt.shape[1]) < counts[self.klass][:, None])

    def __reduce__(self) -> tuple[object, ...]:
        # Through the constructor: arrays come out of a pickle unlocked.
        return AgentTrace, tuple(getattr(self, name) for name in self.__slots__)

    def __repr__(self) -> str:
        kinds = ", ".join(self.agents)
        span = float(self.arrival[-1] - self.arrival[0])
        calls = int(self.made.sum())
        return f"AgentTrace({len(self)} agents ({kinds}) in {span:.4g} s, {calls} calls)"
