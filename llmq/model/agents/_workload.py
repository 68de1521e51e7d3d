"""Streams of agents: arrivals, and which kind of agent comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.agents._agent import Agent, check_agents
from llmq.model.agents._trace import AgentTrace
from llmq.model.arrivals import Arrivals, Poisson
from llmq.model.closed import Closed
from llmq.model.request import RequestClass
from llmq.model.workload import Workload
from llmq.rng import RngLike, seed_sequence

__all__ = ["AgentWorkload"]


@checked
@dataclass(frozen=True, slots=True)
class AgentWorkload:
    """A stochastic stream of agents.

    Parameters
    ----------
    arrivals : Arrivals
        When agents of all kinds come.
    agents : mapping of str to Agent
        The kinds.
    weights : mapping of str to float
        Share of each kind in the arrivals (normalised here).

    Raises
    ------
    InputError
        No agents, weights that cannot be, or closed clients.

    Examples
    --------
    >>> hop = RequestClass(32, 32)
    >>> two = {"there": Agent.chain(("a", hop), ("b", hop)), "here": Agent.chain(("a", hop))}
    >>> AgentWorkload.poisson({"there": 0.5, "here": 1.0}, two).rates
    {'there': 0.5, 'here': 1.0}
    """

    arrivals: Arrivals
    agents: Mapping[str, Agent]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        check_agents(self.agents)
        if isinstance(self.arrivals, Closed):
            raise InputError("agents arrive from outside: closed clients are not supported")
        object.__setattr__(self, "agents", dict(self.agents))
        work = Workload(self.arrivals, _first_calls(self.agents), self.weights)
        object.__setattr__(self, "weights", work.weights)

    @classmethod
    @checked
    def poisson(
        cls,
        rate: float | Mapping[str, float],
        agents: Mapping[str, Agent],
        weights: Mapping[str, float] | None = None,
    ) -> AgentWorkload:
        """Return Poisson arrivals.

        Parameters
        ----------
        rate : float or mapping of str to float
            Agents per second: in total, or of each kind.
        agents : mapping of str to Agent
            The kinds.
        weights : mapping of str to float, optional
            Shares of the kinds where ``rate`` is a total; equal if not given.

        Returns
        -------
        AgentWorkload
            The stream.

        Raises
        ------
        InputError
            No agents, an unknown kind, a rate that is not positive.
        """
        check_agents(agents)
        work = Workload.poisson(rate, _first_calls(agents), weights)
        return cls(Poisson(work.rate), agents, work.weights)

    @property
    def rate(self) -> float:
        """Agents per second of all kinds."""
        return self.arrivals.rate

    @property
    def rates(self) -> dict[str, float]:
        """Agents per second of each kind."""
        return {name: share * self.rate for name, share in self.weights.items()}

    @checked
    def at_rate(self, rate: float) -> AgentWorkload:
        """Return the same stream at another rate.

        Parameters
        ----------
        rate : float
            Agents per second of all kinds.

        Returns
        -------
        AgentWorkload
            The stream.
        """
        return replace(self, arrivals=self.arrivals.at_rate(rate))

    @checked
    def sample(self, agents: int, rng: RngLike = None) -> AgentTrace:
        """Draw a trace.

        Parameters
        ----------
        agents : int
            How many.
        rng : Generator, SeedSequence, int or None
            Source of randomness. Agents of one call are the requests that a
            :class:`llmq.Workload` draws from it.

        Returns
        -------
        AgentTrace
            The agents.

        Examples
        --------
        >>> work = AgentWorkload.poisson(2.0, {"a": Agent.chain(("x", RequestClass(32, 8)))})
        >>> work.sample(3, rng=1).prompt
        array([[32],
               [32],
               [32]])
        """
        source = seed_sequence(rng)
        first = Workload(self.arrivals, _first_calls(self.agents), self.weights)
        drawn = first.sample(agents, source)
        return AgentTrace.draw(self.agents, drawn.arrival, drawn.klass, source)


def _first_calls(agents: Mapping[str, Agent]) -> dict[str, RequestClass]:
    return {name: next(iter(agent.calls.values())).request for name, agent in agents.items()}
