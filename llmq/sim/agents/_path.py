"""One path of agents through their stations.

The loop goes from event to event in the order of time. At one instant: iterations end; calls whose
predecessors have ended and whose pause is over are sent, in the order of the agents and of their
calls; then iterations start. So a call without pause takes part in the very next iteration of its
station. Requests are numbered in the order in which they are sent, which policies see as the order
of arrival.

Every station is an engine of its own with a policy of its own, advanced one iteration at a time,
because every end of a call may send another one. The calendar is taken where the policy allows it;
it does an iteration at once and knows its end beforehand, so ends reach the agents early, but what
they release is sent in time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.model.agents import AgentTrace, call_class
from llmq.model.engine import Engine
from llmq.policies.contract.blocks import Policy, runs_together
from llmq.sim._fast.calendar.engine import CalendarEngine
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim.agents._window import WindowEngine, can_window
from llmq.sim.results._log import Ends, Job, Log, Tally

__all__ = ["AgentPath", "Choice", "serve_agents"]

Choice = Literal["auto", "calendar", "window", "reference"]
Floats: TypeAlias = npt.NDArray[np.float64]

# What happens first at one instant.
END, SEND, START = range(3)
EVENTS = ("prefill_end", "first_token", "finish")


@dataclass(frozen=True, slots=True, eq=False)
class AgentPath:
    """What happened on one path."""

    # release, prefill_end, first_token, finish: seconds; NaN where an agent makes fewer
    # calls; shape (n, calls)
    release: Floats
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    tallies: tuple[Tally, ...]  # sums by station
    # by station: ends of the iterations, seconds, and the tokens of live and finished calls
    # that were processed by then; (ndarray, ndarray)
    steps: tuple[tuple[Floats, Floats], ...]


def serve_agents(
    trace: AgentTrace,
    engines: Mapping[str, Engine],
    policies: Mapping[str, Policy],
    choice: Choice = "auto",
) -> AgentPath:
    """Serve agents to the last token of their last call."""
    order = {"auto": ("calendar", "window", "reference")}.get(choice, (choice,))
    for first in range(len(order)):
        makers = [_maker(policies[name], engine, order[first:]) for name, engine in engines.items()]
        try:
            return _Loop(trace, engines, policies, makers).run()
        except NotTogetherError:
            if first + 1 == len(order):
                raise
    raise AssertionError  # the reference simulator runs every policy


def _maker(policy: Policy, engine: Engine, order: tuple[str, ...]) -> type[Server]:
    if "calendar" in order and runs_together(policy.blocks):
        return CalendarEngine
    if "window" in order and can_window(policy, engine):
        return WindowEngine
    if order == ("calendar",):
        raise NotTogetherError(f"the calendar cannot run policy {policy.name!r}")
    return ReferenceEngine


Server = CalendarEngine | ReferenceEngine


class _Loop:
    """Agents, stations, and what happens next."""

    def __init__(
        self,
        trace: AgentTrace,
        engines: Mapping[str, Engine],
        policies: Mapping[str, Policy],
        makers: list[type[Server]],
    ) -> None:
        kinds = trace.agents
        names = tuple(call_class(name, call) for name, a in kinds.items() for call in a.calls)
        self._learn(trace, list(engines), {name: code for code, name in enumerate(names)})
        m = int(trace.made.sum())
        self.log = Log.empty(m)
        self.ends = self.log.finish = Ends(m)
        self.columns: list[list[int]] = [[0] * m for _ in range(4)]
        prompt, output, hidden, klass = self.columns
        self.arrival = [math.inf] * m
        self.servers: list[Server] = [
            make(
                Job(engine, policies[name], self.arrival, prompt, output, hidden, klass, names),
                self.log,
            )
            for make, (name, engine) in zip(makers, engines.items(), strict=True)
        ]
        self.present, self.start = [0] * len(engines), [0.0] * len(engines)
        self.steps: list[tuple[list[float], list[int]]] = [([], []) for _ in engines]
        # Agent and call of each request, in the order of sending.
        self.sent: list[tuple[int, int]] = []

    def _learn(self, trace: AgentTrace, stations: list[str], codes: dict[str, int]) -> None:
        """Turn agents into lists: what comes after a call, where it goes, how many it awaits."""
        self.trace, self.kind = trace, trace.klass.tolist()
        self.sizes = [x.tolist() for x in (trace.prompt, trace.output, trace.reasoning)]
        self.pause = trace.pause.tolist()
        self.after: list[list[list[int]]] = []
        self.where: list[list[tuple[int, int]]] = []
        awaits: list[list[int]] = []
        for name, agent in trace.agents.items():
            place = {call: c for c, call in enumerate(agent.calls)}
            next_ = agent.successors
            self.after.append([[place[x] for x in next_[call]] for call in place])
            self.where.append(
                [
                    (stations.index(made.station), codes[call_class(name, call)])
                    for call, made in agent.calls.items()
                ]
            )
            awaits.append([len(made.after) for made in agent.calls.values()])
        self.awaits = [list(awaits[k]) for k in self.kind]
        came = trace.arrival.tolist()
        self.ready = [[time] * len(row) for time, row in zip(came, self.awaits, strict=True)]
        self.waiting = [
            (time + self.pause[i][c], i, c)
            for i, time in enumerate(came)
            for c, count in enumerate(self.awaits[i])
            if not count
        ]
        heapify(self.waiting)

    def run(self) -> AgentPath:
        """Go on until every call has ended."""
        while True:
            time, kind, e = min(self._due(e) for e in range(len(self.servers)))
            if self.waiting and (self.waiting[0][0], SEND) < (time, kind):
                self._send()
            elif time < math.inf:
                self._step(kind, e)
            else:
                break
        for one in self.servers:
            if isinstance(one, ReferenceEngine):
                one.check_end()
        return self._path()

    def _due(self, e: int) -> tuple[float, int, int]:
        """When a station goes on, and whether an iteration ends or starts."""
        one = self.servers[e]
        if isinstance(one, ReferenceEngine):
            return one.due(), END if one.running else START, e
        return (self.start[e] if self.present[e] else math.inf), START, e

    def _send(self) -> None:
        now, i, c = heappop(self.waiting)
        e, klass = self.where[self.kind[i]][c]
        row = len(self.sent)
        self.sent.append((i, c))
        self.arrival[row] = now
        for column, size in zip(self.columns, self.sizes, strict=False):
            column[row] = size[i][c]
        self.columns[3][row] = klass
        server = self.servers[e]
        if isinstance(server, WindowEngine):
            server.send(row)
        else:
            server.queue.append(row)
        if not self.present[e]:
            self.start[e] = max(self.start[e], now)
        self.present[e] += 1

    def _step(self, kind: int, e: int) -> None:
        """End or start an iteration (reference), or run a whole one (calendar)."""
        one = self.servers[e]
        if isinstance(one, CalendarEngine):
            one.advance(math.nextafter(self.start[e], math.inf))
            self.start[e] = one.tally.clock
        elif kind == START:
            one.begin()
            return
        else:
            one.complete()
        tally, (times, done) = one.tally, self.steps[e]
        times.append(tally.clock)
        done.append(tally.tokens - tally.recomputed)
        for row in self.ends.new:
            self.present[e] -= 1
            self._ended(*self.sent[row], self.ends[row])
        self.ends.new.clear()

    def _ended(self, i: int, c: int, time: float) -> None:
        """Tell the calls that come after one."""
        awaits, ready = self.awaits[i], self.ready[i]
        for n in self.after[self.kind[i]][c]:
            awaits[n] -= 1
            ready[n] = max(ready[n], time)
            if not awaits[n]:
                heappush(self.waiting, (ready[n] + self.pause[i][n], i, n))

    def _path(self) -> AgentPath:
        agent, call = np.array(self.sent).T
        tables = {}
        for name, column in (
            ("release", self.arrival),
            *((event, getattr(self.log, event)) for event in EVENTS),
        ):
            tables[name] = np.full(self.trace.prompt.shape, np.nan)
            tables[name][agent, call] = column
        steps = tuple((np.array(t), np.array(d, dtype=np.float64)) for t, d in self.steps)
        return AgentPath(**tables, tallies=tuple(s.tally for s in self.servers), steps=steps)
