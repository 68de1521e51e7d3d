"""The result of a simulation of agents: verdict, latencies with intervals, backlog over time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.renamed import renamed
from llmq.errors import InputError, InvariantError, UnstableError, nearest
from llmq.model.agents import Agent
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.metrics import RequestTimes, e2e, prefill_latency, tpot, ttft
from llmq.model.request import RequestClass
from llmq.result import Kind, Provenance
from llmq.sim.agents._time import level_of
from llmq.sim.results._log import Tally
from llmq.sim.results._stability import Verdict
from llmq.sim.results._stats import Metric
from llmq.theory.stability.agents import AgentLoad

__all__ = ["AgentRun"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_TIMES = ("release", "prefill_end", "first_token", "finish")
# Closed-form sums and row-by-row sums differ in the last digits.
ROUNDING = 1e-9

_METRICS = {"ttft": ttft, "tpot": tpot, "e2e": e2e, "prefill": prefill_latency}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class AgentRun:
    """A simulated run of agents.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds, in the order of their codes.
    engines : mapping of str to Engine
        Stations as they ran.
    policies : mapping of str to str
        Policy of each station.
    arrival : ndarray, shape (replications, n)
        When each agent came, seconds.
    klass : ndarray of int, shape (replications, n)
        Code of its kind.
    prompt, output, reasoning : ndarray of int, shape (replications, n, calls)
        Tokens of each call, in the order of the agent's ``calls``; 0 where it makes fewer.
    pause : ndarray, shape (replications, n, calls)
        Seconds before each call.
    release, prefill_end, first_token, finish : ndarray, shape (replications, n, calls)
        When each call was sent to its station, and its events, seconds; NaN where there is none.
    tallies : tuple of tuple of Tally
        Sums, by replication and station.
    steps : tuple of tuple of (ndarray, ndarray)
        By replication and station: ends of iterations, seconds, and the tokens processed by then.
    measured : tuple of int
        First agent that is measured and the one after the last.
    finite : bool
        Given agents: their means are facts, whether the network is stable or not.
    load : AgentLoad
        Load of each station.
    verdict : Verdict
        Whether a stationary mean exists.
    kind, assumptions, source, provenance
        As in every result.
    look : float
        Agents after which the network looks anew (:mod:`llmq.sim.results._relaxation`); 0 for a
        trace.
    """

    agents: Mapping[str, Agent]
    engines: Mapping[str, Engine]
    policies: Mapping[str, str]
    arrival: Floats
    klass: Ints
    prompt: Ints
    output: Ints
    reasoning: Ints
    pause: Floats
    release: Floats
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    tallies: tuple[tuple[Tally, ...], ...]
    steps: tuple[tuple[tuple[Floats, Floats], ...], ...]
    measured: tuple[int, int]
    finite: bool
    load: AgentLoad
    verdict: Verdict
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance
    look: float = 0.0

    @property
    def end(self) -> Floats:
        """When each agent's last call ended, seconds; shape (replications, n)."""
        return np.asarray(np.nanmax(self.finish, axis=2))

    @property
    def e2e(self) -> Metric:
        """Time from an agent's arrival to the end of its last call."""
        return self.metric("e2e")

    @property
    def utilisation(self) -> dict[str, float]:
        """Share of time that each station spends in iterations, until the last agent ended."""
        spans = self.end.max(axis=1) - self.arrival[:, 0]
        busy = np.array([[tally.busy for tally in row] for row in self.tallies])
        shares = (busy / spans[:, None]).mean(axis=0).tolist()
        return dict(zip(self.engines, shares, strict=True))

    @renamed(anyway="allow_unstable")
    def metric(
        self,
        name: str = "e2e",
        *,
        agent: str | None = None,
        call: str | None = None,
        allow_unstable: bool = False,
    ) -> Metric:
        """Return a latency of the measured agents, or of one of their calls.

        Parameters
        ----------
        name : {"e2e", "ttft", "tpot", "prefill"}
            Of an agent only "e2e"; of a call, from its release, as of any request.
        agent : str, optional
            Kind of agent; all if not given.
        call : str, optional
            One of its calls.
        allow_unstable : bool
            Also where no stationary mean exists: a fact about this finite run, which grows with
            its length.

        Returns
        -------
        Metric
            With mean, interval and quantiles.

        Raises
        ------
        UnstableError
            The network is overloaded, so the mean of a longer run would be larger.
        InputError
            Unknown metric, agent or call.
        """
        if name not in _METRICS:
            raise InputError(f"no metric {name!r}{nearest(name, _METRICS)}", value=name)
        if self.verdict.status == "overloaded" and not (self.finite or allow_unstable):
            load = self.verdict.load
            raise UnstableError(
                f"mean {name.upper()} does not exist: {self.verdict.sentence}. See run.verdict; "
                f"run.metric({name!r}, allow_unstable=True) gives the value of this finite run",
                margin=1 / load if load > 0 else math.inf,
                metric=name,
            )
        window = slice(*self.measured)
        short = self.verdict.short and not (self.finite or allow_unstable)
        if call is None:
            if name != "e2e":
                raise InputError(f"{name} is a latency of a call: name agent= and call=")
            values = self.end - self.arrival
            mine = self.klass >= 0 if agent is None else self.klass == self._code(agent)
            return Metric(name, np.where(mine, values, np.nan)[:, window], self.look, short)
        code, c = self._call(agent, call)
        times = RequestTimes(
            arrival=self.release[:, :, c],
            prefill_end=self.prefill_end[:, :, c],
            first_token=self.first_token[:, :, c],
            finish=self.finish[:, :, c],
            output=np.maximum(self.output[:, :, c], 1),
            reasoning=self.reasoning[:, :, c],
        )
        mine = self.klass == code
        values = np.where(mine, _METRICS[name](times), np.nan)
        return Metric(name, values[:, window], self.look, short)

    def _code(self, agent: str) -> int:
        if agent not in self.agents:
            raise InputError(f"no kind of agent {agent!r}{nearest(agent, self.agents)}")
        return list(self.agents).index(agent)

    def _call(self, agent: str | None, call: str) -> tuple[int, int]:
        """Code of an agent and place of its call."""
        if agent is None:
            raise InputError(f"whose call is {call!r}? Name agent= too", value=call)
        code, calls = self._code(agent), self.agents[agent].calls
        if call not in calls:
            raise InputError(f"agent {agent!r} makes no call {call!r}{nearest(call, calls)}")
        return code, list(calls).index(call)

    # ------------------------------------------------------------------------- over time

    def backlog(
        self, station: str, *, replication: int = 0, future: bool = False
    ) -> tuple[Floats, Floats]:
        """Return the tokens that are outstanding at a station over time.

        Parameters
        ----------
        station : str
            Its name.
        replication : int
            Which path.
        future : bool
            Also those of calls that the agents present have still to make there.

        Returns
        -------
        time : ndarray, shape (events,)
            Seconds, ascending: releases (arrivals with ``future``) and ends of iterations; empty
            where nobody calls.
        tokens : ndarray, shape (events,)
            Tokens of calls made and not processed by a finished iteration, from that time on.

        Raises
        ------
        InputError
            No such station or replication.
        """
        e, r = self._station(station), self._replication(replication)
        came, size = [], []
        for code, c in self.made_at(station):
            mine = self.klass[r] == code
            came.append(self.arrival[r, mine] if future else self.release[r, mine, c])
            size.append(self.work(r, station)[mine, c])
        ends, done = self.steps[r][e]
        every = np.concatenate((*came, ends))
        change = np.concatenate((*size, -np.diff(done, prepend=0.0)))
        return level_of(every, change)

    def queue(self, agent: str, call: str, *, replication: int = 0) -> tuple[Floats, Floats]:
        """Return how many agents are in a call over time.

        Parameters
        ----------
        agent, call : str
            Names.
        replication : int
            Which path.

        Returns
        -------
        time : ndarray, shape (events,)
            Seconds, ascending.
        count : ndarray, shape (events,)
            Calls released and not ended, from that time on.

        Raises
        ------
        InputError
            No such agent, call or replication.
        """
        r = self._replication(replication)
        code, c = self._call(agent, call)
        mine = self.klass[r] == code
        came, left = self.release[r, mine, c], self.finish[r, mine, c]
        return level_of(np.concatenate((came, left)), np.repeat([1.0, -1.0], len(came)))

    def present(self, *, replication: int = 0) -> tuple[Floats, Floats]:
        """Return how many agents are in the network over time.

        Parameters
        ----------
        replication : int
            Which path.

        Returns
        -------
        time : ndarray, shape (events,)
            Seconds, ascending.
        count : ndarray, shape (events,)
            Agents that have come and not ended, from that time on.
        """
        r = self._replication(replication)
        every = np.concatenate((self.arrival[r], self.end[r]))
        return level_of(every, np.repeat([1.0, -1.0], len(self.arrival[r])))

    def _replication(self, r: int) -> int:
        if not 0 <= r < len(self.arrival):
            raise InputError(f"replications run from 0 to {len(self.arrival) - 1}, got {r}")
        return r

    def _station(self, station: str) -> int:
        if station not in self.engines:
            raise InputError(f"no station {station!r}{nearest(station, self.engines)}")
        return list(self.engines).index(station)

    def made_at(self, station: str) -> list[tuple[int, int]]:
        """Return codes of agents and places of their calls at a station.

        Parameters
        ----------
        station : str
            Its name.

        Returns
        -------
        list of tuple of int
            Code of the agent and place of the call among its ``calls``.
        """
        return [
            (code, c)
            for code, agent in enumerate(self.agents.values())
            for c, made in enumerate(agent.calls.values())
            if made.station == station
        ]

    def work(self, r: int, station: str) -> Ints:
        """Return the tokens that calls need where they are made.

        Parameters
        ----------
        r : int
            Replication.
        station : str
            Whose conventions count.

        Returns
        -------
        ndarray of int, shape (n, calls)
            Tokens.
        """
        lag = self.engines[station].conventions.lag
        return np.asarray(self.prompt[r] + self.output[r] - 1 + lag)

    def check(self) -> None:
        """Check what must hold on every path.

        Conservation: each station processed every token of every call made there, and every
        eviction's tokens again. Order: a call is released at the end of the last call before it and
        its pause, and its events follow. Little: the request-seconds that a station summed on the
        way are the sum of the times that its calls spent there (stations of the reference
        simulator). Capacity: a station is busy at least as long as the price of the work it did.

        Raises
        ------
        InvariantError
            An invariant is broken: a fault of llmq, please report it.
        """
        for r in range(len(self.arrival)):
            for e, station in enumerate(self.engines):
                _check_station(self, r, e, station)
            for code in range(len(self.agents)):
                _check_order(self, r, code)

    def __repr__(self) -> str:
        r, n = self.arrival.shape
        names = ", ".join(sorted(set(self.policies.values())))
        shown = f"AgentRun({names}, {len(self.engines)} stations, {r} x {n} agents: "
        shown += f"{self.verdict.status}, load {self.verdict.load:.3g} at {self.load.bottleneck}"
        if self.verdict.status != "overloaded" or self.finite:
            shown += f"; E2E {self.e2e.estimate} s"
        return shown + ")"


def _check_station(run: AgentRun, r: int, e: int, station: str) -> None:
    from llmq.theory.region import stability_region

    tally, engine = run.tallies[r][e], run.engines[station]
    here = np.zeros(run.prompt[r].shape, dtype=bool)
    for code, c in run.made_at(station):
        here[run.klass[r] == code, c] = True
    need = int(run.work(r, station)[here].sum())
    _hold(
        tally.tokens == need + tally.recomputed,
        f"station {station!r} processed {tally.tokens} tokens; its calls need {need}, and "
        f"{tally.recomputed} once more",
    )
    stay = float((run.finish[r] - run.release[r])[here].sum())
    if tally.presence:
        _hold(
            abs(tally.presence - stay) <= ROUNDING * max(stay, 1.0) * len(here),
            f"station {station!r}: calls spent {stay:.9g} s there, it counted {tally.presence:.9g}",
        )
    if not here.any():
        return
    lengths = Lengths(run.prompt[r][here]), Lengths(run.output[r][here])
    region = stability_region(engine, {"all": RequestClass(*lengths, paired=True)})
    work, _ = region.load_bracket({"all": float(here.sum())})
    _hold(
        tally.busy >= work * (1 - ROUNDING),
        f"station {station!r}: {work:.6g} s of priced work was done in {tally.busy:.6g} s",
    )


def _check_order(run: AgentRun, r: int, code: int) -> None:
    mine = run.klass[r] == code
    name, agent = list(run.agents.items())[code]
    place = {call: c for c, call in enumerate(agent.calls)}
    for call, c in place.items():
        before = [run.finish[r, mine, place[b]] for b in agent.calls[call].after]
        ready = np.max(before, axis=0) if before else run.arrival[r, mine]
        sent = np.array_equal(ready + run.pause[r, mine, c], run.release[r, mine, c])
        _hold(sent, f"agent {name!r}: call {call!r} was not sent when it was ready")
        events = [getattr(run, event)[r, mine, c] for event in _TIMES]
        for early, late in itertools.pairwise(events):
            ordered = bool(np.all(late >= early - ROUNDING * np.maximum(1.0, late)))
            _hold(ordered, f"agent {name!r}, call {call!r}: events out of order")


def _hold(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvariantError(sentence, rule=sentence)
