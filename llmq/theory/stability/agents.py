r"""Networks of agents: the load of every station, and what work conservation is worth.

**Load (every policy).** An agent makes each of its calls once, so calls of an agent that comes at
rate :math:`\lambda_a` come at that rate wherever they are made (the traffic equations), whatever
the order, forks, joins and pauses. Station ``s`` therefore needs
:math:`\rho_s = \rho^{(s)}(\lambda)`, the load of its stability region
(:mod:`llmq.theory.region`) with the calls made there as classes. No policy is stable where
:math:`\max_s \rho_s > 1`: this is the static planning problem of the network, whose activities
share nothing between stations. Its certificate is the one of ``stability_region(engines[s],
station_mix(agents, s))`` at the bottleneck.

**Feed-forward and fork-join networks.** If no call returns to a station upstream, and full batches
are the most productive, every work-conserving policy is stable where all loads are below 1 (Dai et
al., 2504.07347, section 5): stations settle one after the other. :func:`is_feed_forward` says
whether the stations can be ordered so that every call goes to a later one or stays.

**Cycles between stations.** Then loads below 1 are not enough for every work-conserving policy. For
two stations and chains a linear programme decides (:func:`every_policy`;
:mod:`llmq.theory.stability._lyapunov_lp`), with mean service time (tokens of the call) t(b_max) /
b_max.

Not covered: policies that are not work-conserving, three stations with cycles, fork-join agents
with cycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.agents import Agent, call_class, check_stations
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.region import stability_region
from llmq.theory.region.tiling import best_batch
from llmq.theory.stability._lyapunov_lp import TwoStation, two_station
from llmq.units import as_fraction

__all__ = [
    "AgentLoad",
    "agent_load",
    "every_policy",
    "is_feed_forward",
    "station_mix",
    "two_station_network",
]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLoad:
    """Loads of the stations of a network of agents.

    Parameters
    ----------
    stations : mapping of str to (float, float)
        Load of each station over the outer and the inner bound of its region.
    bottleneck : str
        Station with the highest load.
    binding : str
        Resource that binds there.
    feed_forward : bool
        Whether no call returns to a station upstream.
    kind, assumptions, source
        As in every result; exact where every station's region is.
    """

    stations: Mapping[str, tuple[float, float]]
    bottleneck: str
    binding: str
    feed_forward: bool
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def load(self) -> float:
        """Highest load over the outer bounds: above 1 no policy is stable."""
        return max(outer for outer, _ in self.stations.values())

    @property
    def load_inner(self) -> float:
        """Highest load over the inner bounds."""
        return max(inner for _, inner in self.stations.values())

    @property
    def margin(self) -> float:
        """Factor by which all rates can grow."""
        return 1 / self.load if self.load else float("inf")

    def __str__(self) -> str:
        loads = ", ".join(f"{name} {outer:.3g}" for name, (outer, _) in self.stations.items())
        return f"load {self.load:.3g} at {self.bottleneck} ({self.binding} binds); {loads}"


@checked
def station_mix(agents: Mapping[str, Agent], station: str) -> dict[str, RequestClass]:
    """Return the calls that are made at a station, as classes.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds of agents.
    station : str
        Its name.

    Returns
    -------
    dict of str to RequestClass
        By :func:`llmq.model.agents.call_class`.

    Examples
    --------
    >>> hop = RequestClass(32, 32)
    >>> list(station_mix({"ab": Agent.chain(("a", hop), ("b", hop))}, "b"))
    ['ab.2']
    """
    return {
        call_class(name, call): made.request
        for name, agent in agents.items()
        for call, made in agent.calls.items()
        if made.station == station
    }


@checked
def agent_load(
    agents: Mapping[str, Agent], engines: Mapping[str, Engine], rates: Rates
) -> AgentLoad:
    """Return the load of every station.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds of agents.
    engines : mapping of str to Engine
        Stations.
    rates : mapping of str to float
        Agents per second of each kind.

    Returns
    -------
    AgentLoad
        Stations that nobody visits have load 0.

    Raises
    ------
    InputError
        An unknown station or kind, a rate that is negative, a call that does not fit its engine.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=0.0), token_budget=512)
    >>> hop = RequestClass(512, 129)
    >>> found = agent_load({"ab": Agent.chain(("a", hop), ("b", hop), ("a", hop))},
    ...                    {"a": chip, "b": chip}, {"ab": 20.0})
    >>> found.stations["a"], found.bottleneck
    ((0.5, 0.5), 'a')
    """
    check_stations(agents, engines)
    vector = dict(zip(agents, rate_vector(rates, tuple(agents)), strict=True))
    loads: dict[str, tuple[float, float]] = {}
    kinds, binds = [], {}
    for station, engine in engines.items():
        mix = station_mix(agents, station)
        if not mix:
            loads[station], binds[station] = (0.0, 0.0), "nothing"
            continue
        here = {
            call_class(name, call): vector[name]
            for name, agent in agents.items()
            for call, made in agent.calls.items()
            if made.station == station
        }
        region = stability_region(engine, mix)
        loads[station] = region.load_bracket(here)
        binds[station] = region.binding(here)[0] if any(here.values()) else "nothing"
        kinds.append(region.kind)
    busiest = max(loads, key=lambda station: loads[station][0])
    exact = all(kind is Kind.EXACT for kind in kinds)
    return AgentLoad(
        stations=loads,
        bottleneck=busiest,
        binding=binds[busiest],
        feed_forward=is_feed_forward(agents),
        kind=Kind.EXACT if exact else Kind.OUTER_BOUND,
        assumptions=(
            "every call is made once by every agent; calls share no cache",
            "load below 1 at every station is necessary; enough for work-conserving policies "
            "where no call returns upstream",
        ),
        source="traffic equations and stability regions (Dai et al., 2504.07347, section 5) [AG]",
    )


@checked
def is_feed_forward(agents: Mapping[str, Agent]) -> bool:
    """Whether no call goes back to a station upstream.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds of agents.

    Returns
    -------
    bool
        True if the stations can be ordered so that every call goes on to a later one or stays.

    Examples
    --------
    >>> hop = RequestClass(32, 32)
    >>> there, back = (Agent.chain((x, hop), (y, hop)) for x, y in ("ab", "ba"))
    >>> is_feed_forward({"ab": there}), is_feed_forward({"ab": there, "ba": back})
    (True, False)
    """
    ahead: dict[str, set[str]] = {}
    for agent in agents.values():
        for made in agent.calls.values():
            mine = ahead.setdefault(made.station, set())
            mine |= {agent.calls[before].station for before in made.after} - {made.station}
    while free := [station for station, before in ahead.items() if not before & set(ahead)]:
        for station in free:
            del ahead[station]
    return not ahead


@checked
def every_policy(
    agents: Mapping[str, Agent], engines: Mapping[str, Engine], rates: Rates
) -> TwoStation:
    """Decide whether every work-conserving policy is stable in a network of two stations.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds of agents, each a chain.
    engines : mapping of str to Engine
        Two stations without limits of memory and slots whose full budget is the most productive
        batch.
    rates : mapping of str to float
        Agents per second of each kind.

    Returns
    -------
    TwoStation
        Its ``is_stable`` is the answer, its ``weights`` the proof; classes are named as by
        :func:`llmq.model.agents.call_class`.

    Raises
    ------
    InputError
        Other agents, other stations.

    Examples
    --------
    >>> from llmq.theory.stability.agents_case import exit_priority_case
    >>> case = exit_priority_case(768, (32, 32), (512, 32), load=0.9)
    >>> every_policy(case.agents, case.engines, case.rates).is_stable
    False
    >>> half = {name: rate / 2 for name, rate in case.rates.items()}
    >>> every_policy(case.agents, case.engines, half).epsilon > 0
    True
    """
    return two_station(**two_station_network(agents, engines, rates))


@checked
def two_station_network(
    agents: Mapping[str, Agent], engines: Mapping[str, Engine], rates: Rates
) -> dict[str, dict[str, Any]]:
    """Return chains of calls as the classes of a network with one job at a time.

    Parameters
    ----------
    agents, engines, rates
        As in :func:`every_policy`.

    Returns
    -------
    dict of str to dict
        ``station``, ``mean_service`` (seconds of full batches), ``successor`` and ``arrivals`` by
        class: arguments of :func:`llmq.lyapunov.two_station` and of
        :func:`llmq.theory.stability.finite.certify_network`.

    Raises
    ------
    InputError
        As :func:`every_policy`.

    Examples
    --------
    >>> from llmq.theory.stability.agents_case import exit_priority_case
    >>> case = exit_priority_case()
    >>> network = two_station_network(case.agents, case.engines, case.rates)
    >>> network["mean_service"]["ab.2"], network["successor"]["ab.1"]
    (Fraction(17, 24), 'ab.2')
    """
    check_stations(agents, engines)
    rate_vector(rates, tuple(agents))  # checks them
    used = {name: engine for name, engine in engines.items() if station_mix(agents, name)}
    speed = {name: _full_rate(name, engine) for name, engine in used.items()}
    station: dict[str, str] = {}
    service, successor, arrivals = {}, {}, {}
    for name, agent in agents.items():
        if not agent.is_chain:
            raise InputError(
                f"agent {name!r} forks: the programme is for chains of calls", value=name
            )
        for call, made in agent.calls.items():
            key, after = call_class(name, call), agent.successors[call]
            lag = engines[made.station].conventions.lag
            lengths = made.request.prompt, made.request.output
            tokens = sum(as_fraction(one.mean) for one in lengths) - 1 + lag
            station[key] = made.station
            service[key] = tokens / speed[made.station]
            successor[key] = call_class(name, after[0]) if after else None
            arrivals[key] = Fraction(0) if made.after else as_fraction(rates.get(name, 0))
    return {
        "station": station,
        "mean_service": service,
        "successor": successor,
        "arrivals": arrivals,
    }


def _full_rate(name: str, engine: Engine) -> Fraction:
    """Tokens per second of full batches, where these are the most productive."""
    law = engine.law
    best = best_batch(law, engine.token_budget)
    full = Fraction(engine.token_budget) / law.exact()(engine.token_budget)
    limited = engine.kv_tokens is not None or engine.max_seqs is not None
    if limited or law.per_kv or law.per_kv_mixed or law.per_work:
        raise InputError(
            f"station {name!r}: the programme is for engines without limits of memory and slots "
            "whose iterations take no time for KV",
            value=name,
        )
    if full < best.exact_rate:
        raise InputError(
            f"station {name!r}: a batch of {best.tokens} tokens serves more per second than a full "
            f"one of {engine.token_budget}, so work conservation is no promise: lower its budget",
            value=name,
        )
    return full
