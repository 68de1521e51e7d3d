r"""Agents on which a fixed priority fails although no station is overloaded: searched and proved.

Agents are chains of calls to stations, each an engine whose full iteration takes one second
(``t = 1``); a call of ``v`` tokens takes ``v / b_max`` of it. Small networks in whole numbers are
drawn with some order of the classes, followed as a fluid (:mod:`llmq.optimality.saturation.fluid`),
and shrunk as long as a path comes back larger. What is found by drawing: two types that call two
stations in opposite order, the last call first (Rybko and Stolyar 1992; O15 of the theory core),
and one type that returns to both (Lu and Kumar 1991).

The proof is about the fluid model: rational queues and times that anybody can replay.
``stations``, ``agents``, ``engines``, ``rates`` and ``priority`` are what
:func:`llmq.sim.agents.simulate_agents` and :func:`llmq.theory.stability.agents.every_policy` take,
so a find is confirmed by simulation too.

Not covered: agents that fork, random lengths, engines with limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from llmq.errors import InputError, nearest
from llmq.model.agents import Agent, AgentWorkload
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.optimality.networks import below
from llmq.optimality.saturation.fluid import FluidCycle, Stations, fluid_cycle
from llmq.policies.priority import Priority
from llmq.result import Kind
from llmq.rng import RngLike, generator, seed_sequence
from llmq.units import as_fraction

__all__ = ["ORDERS", "AgentSketch", "PriorityTrap", "find_priority_trap", "remaining_share"]

ORDERS = ("exit_first", "entry_first", "any")
# Station and tokens of each call.
Chain = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class AgentSketch:
    """Chains of calls in whole numbers, and an order of priority.

    Parameters
    ----------
    chains : tuple of tuple of (int, int)
        For each type of agent the station and the tokens (at least 2) of its calls; all types come
        at one rate.
    budget : int
        Tokens of an iteration, which takes a second, of every station.
    order : tuple of (int, int)
        Chain and place of each call, the first served first.

    Examples
    --------
    >>> chains, exit_first = (((0, 2), (1, 3)), ((1, 2), (0, 3))), ((0, 1), (1, 1), (0, 0), (1, 0))
    >>> sketch = AgentSketch(chains, 1, exit_first)
    >>> sketch.fluid(Fraction(9, 10)).loads
    (Fraction(9, 10), Fraction(9, 10))
    """

    chains: tuple[Chain, ...]
    budget: int
    order: tuple[tuple[int, int], ...]

    @property
    def calls(self) -> tuple[tuple[int, int], ...]:
        """Chain and place of every call."""
        return tuple((i, j) for i, chain in enumerate(self.chains) for j in range(len(chain)))

    def fluid(self, load: Fraction) -> Stations:
        """Return the fluid model at a load of the busiest station.

        Parameters
        ----------
        load : fractions.Fraction
            Share of its time.

        Returns
        -------
        Stations
            Classes are the calls, chain by chain.
        """
        place = {call: k for k, call in enumerate(self.calls)}
        parts = [self.chains[i][j] for i, j in self.calls]
        return Stations(
            tuple(station for station, _ in parts),
            tuple(Fraction(tokens, self.budget) for _, tokens in parts),
            tuple(place.get((i, j + 1)) for i, j in self.calls),
            tuple(Fraction(j == 0) for _, j in self.calls),
            tuple(place[call] for call in self.order),
        ).scaled(load)

    def simpler(self) -> Iterator[AgentSketch]:
        """Return networks that are simpler, the boldest step first.

        Yields
        ------
        AgentSketch
            With a chain or a call less, or a smaller number.
        """
        for i in range(len(self.chains) if len(self.chains) > 1 else 0):
            yield self._without((i, None))
        for i, j in self.calls:
            if len(self.chains[i]) > 1:
                yield self._without((i, j))
        for smaller in below(self.budget, 1):
            yield replace(self, budget=smaller)
        sizes = sorted({tokens for chain in self.chains for _, tokens in chain})
        for tokens in sizes:
            for fewer in below(tokens, 2):
                chains = (
                    tuple((s, fewer if v == tokens else v) for s, v in c) for c in self.chains
                )
                yield replace(self, chains=tuple(chains))
        for i, j in self.calls:
            station, tokens = self.chains[i][j]
            for fewer in below(tokens, 2):
                chain = (*self.chains[i][:j], (station, fewer), *self.chains[i][j + 1 :])
                yield replace(self, chains=(*self.chains[:i], chain, *self.chains[i + 1 :]))

    def _without(self, gone: tuple[int, int | None]) -> AgentSketch:
        i, j = gone
        if j is None:
            chains = self.chains[:i] + self.chains[i + 1 :]
            order = tuple((a - (a > i), b) for a, b in self.order if a != i)
        else:
            chain = self.chains[i][:j] + self.chains[i][j + 1 :]
            chains = (*self.chains[:i], chain, *self.chains[i + 1 :])
            order = tuple((a, b - (a == i and b > j)) for a, b in self.order if (a, b) != (i, j))
        return AgentSketch(chains, self.budget, order)


@dataclass(frozen=True, slots=True)
class PriorityTrap:
    """Agents on which a fixed priority diverges.

    Parameters
    ----------
    sketch : AgentSketch
        Chains, budget, order.
    load : float
        Of the busiest station, below 1.
    cycle : FluidCycle
        The path that comes back larger.
    kind, assumptions, source
        As in every result.
    """

    sketch: AgentSketch
    load: float
    cycle: FluidCycle
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def stations(self) -> Stations:
        """The fluid model at the load."""
        return self.sketch.fluid(as_fraction(self.load))

    @property
    def agents(self) -> dict[str, Agent]:
        """The types of agents; their calls have one output token."""
        return {
            "abcd"[i]: Agent.chain(
                *((f"station {s}", RequestClass(tokens - 1, 1)) for s, tokens in chain)
            )
            for i, chain in enumerate(self.sketch.chains)
        }

    @property
    def engines(self) -> dict[str, Engine]:
        """The stations: an iteration takes a second whatever it holds."""
        law = BatchTime.affine(base=1.0, per_token=0.0)
        engine = Engine(law, self.sketch.budget, kv_block=1, conventions=THEORY)
        met = {station for chain in self.sketch.chains for station, _ in chain}
        return {f"station {s}": engine for s in sorted(met)}

    @property
    def rates(self) -> dict[str, float]:
        """Agents of each type per second."""
        rate = float(max(self.stations.arrivals))
        return dict.fromkeys(self.agents, rate)

    @property
    def priority(self) -> Priority:
        """The policy of every station."""
        return Priority(tuple(f"{'abcd'[i]}.{j + 1}" for i, j in self.sketch.order))

    def __str__(self) -> str:
        chains = "; ".join(
            f"{'abcd'[i]}: " + ", then ".join(f"{v} tokens at {s}" for s, v in chain)
            for i, chain in enumerate(self.sketch.chains)
        )
        order = " before ".join(self.priority.classes)
        return (
            f"{chains} (budget {self.sketch.budget}); {order}: at load {self.load:.3g} queues grow "
            f"by the factor {self.cycle.growth} = {float(self.cycle.growth):.4g} per cycle"
        )


def find_priority_trap(
    order: str = "exit_first",
    *,
    stations: int = 2,
    chains: int = 2,
    load: float = 0.9,
    tries: int = 800,
    rng: RngLike = None,
) -> PriorityTrap | None:
    """Search for agents on which a fixed priority diverges below load 1.

    Parameters
    ----------
    order : {"exit_first", "entry_first", "any"}
        The calls nearest to the end of their agent first, the farthest first, or any order.
    stations : int
        Stations, at least 2.
    chains : int
        Types of agents, 1 to 4.
    load : float
        Of the busiest station, below 1.
    tries : int
        Networks drawn.
    rng : Generator, SeedSequence, int or None
        Source of randomness.

    Returns
    -------
    PriorityTrap or None
        The smallest network found; None if nothing was.

    Raises
    ------
    InputError
        An unknown order, a load outside (0, 1), or numbers that cannot be.

    Examples
    --------
    >>> found = find_priority_trap(rng=1)
    >>> found.cycle.growth > 1, max(found.stations.loads)
    (True, Fraction(9, 10))
    """
    if order not in ORDERS:
        raise InputError(f"no order {order!r}{nearest(order, ORDERS)}", field="order", value=order)
    if not 0 < load < 1 or tries < 1 or stations < 2 or not 1 <= chains <= 4:
        raise InputError(
            "a priority trap needs a load in (0, 1), at least 1 try, at least 2 stations and 1 to "
            f"4 types of agents, got {load}, {tries}, {stations} and {chains}",
            value=load,
        )
    random, exact = generator(rng), as_fraction(load)
    for _ in range(tries):
        sketch = _draw(random, order, stations, chains)
        if fluid_cycle(sketch.fluid(exact)) is None:
            continue
        sketch = _shrunk(sketch, exact)
        cycle = fluid_cycle(sketch.fluid(exact))
        assert cycle is not None
        return PriorityTrap(
            sketch,
            load,
            cycle,
            kind=cycle.kind,
            assumptions=cycle.assumptions,
            source=cycle.source,
        )
    return None


def _draw(rng: np.random.Generator, order: str, stations: int, chains: int) -> AgentSketch:
    """Draw chains that mostly change the station at a call."""
    drawn = []
    for _ in range(chains):
        calls, station = [], int(rng.integers(stations))
        for _ in range(rng.integers(2, 4) if chains > 1 else rng.integers(3, 7)):
            calls.append((station, int(rng.integers(2, 13))))
            if rng.random() < 0.75:
                station = (station + 1 + int(rng.integers(stations - 1))) % stations
        drawn.append(tuple(calls))
    sketch = AgentSketch(tuple(drawn), int(rng.integers(1, 9)), ())
    calls_ = [sketch.calls[i] for i in rng.permutation(len(sketch.calls))]
    if order != "any":
        left = {(i, j): len(drawn[i]) - j for i, j in calls_}
        calls_.sort(key=left.__getitem__, reverse=order == "entry_first")
    return replace(sketch, order=tuple(calls_))


def _shrunk(sketch: AgentSketch, load: Fraction) -> AgentSketch:
    """Make simpler while some path comes back larger."""
    tried, found = {sketch}, True
    while found:
        found = False
        for simpler in sketch.simpler():
            if simpler in tried:
                continue
            tried.add(simpler)
            if fluid_cycle(simpler.fluid(load)) is not None:
                sketch, found = simpler, True
                break
    return sketch


def remaining_share(
    trap: PriorityTrap,
    priority: Priority | None = None,
    *,
    agents: int = 2000,
    replications: int = 4,
    rng: RngLike = None,
) -> float:
    """Simulate agents and return the share of them that is there at the last arrival.

    Parameters
    ----------
    trap : PriorityTrap
        The network.
    priority : Priority, optional
        Another order at the stations; that of the trap if not given.
    agents : int
        Arrivals of a path, Poisson.
    replications : int
        Paths.
    rng : Generator, SeedSequence, int or None
        Source of randomness.

    Returns
    -------
    float
        Mean over the paths: falls to 0 with more agents where the order is stable, and does not
        where it diverges.
    """
    from llmq.sim.agents import simulate_agents

    work = AgentWorkload.poisson(trap.rates, trap.agents)
    run = simulate_agents(
        trap.engines,
        work,
        trap.priority if priority is None else priority,
        agents=agents,
        replications=replications,
        rng=seed_sequence(rng),
        warmup=0,
    )
    shares = []
    for r in range(replications):
        time, present = run.present(replication=r)
        last = float(np.max(run.arrival[r]))
        shares.append(float(present[np.searchsorted(time, last, "right") - 1]) / agents)
    return float(np.mean(shares))
