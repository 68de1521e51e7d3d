r"""The known case: agents in opposite order, priority to the last hop (Dai et al., 5.4).

Two kinds of agents call two engines in opposite order, a short hop first and a long one last. Every
engine has time to spare, the policy is work-conserving, and the backlog swings from one engine to
the other with peaks that grow by :math:`\gamma = \lambda m_2 / (1 - \lambda m_2)` (ledger G1): the
certificate is this factor above 1, with the Lyapunov programme at the same load, whose value is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from llmq.model.agents import Agent
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.stability._lyapunov_lp import TwoStation
from llmq.theory.stability.agents import every_policy
from llmq.theory.stability.lyapunov import cyclic_agents
from llmq.units import as_fraction

__all__ = ["AgentCase", "exit_priority_case"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCase:
    """Agents that a work-conserving policy does not carry although every engine has time to spare.

    Parameters
    ----------
    agents : mapping of str to Agent
        Kinds of agents.
    engines : mapping of str to Engine
        Stations.
    policy : str
        The policy, in words.
    rates : mapping of str to fractions.Fraction
        Agents per second of each kind.
    load : fractions.Fraction
        Load of each station.
    growth : fractions.Fraction
        Factor by which the peak of the backlog grows per half-cycle; above 1 it diverges.
    critical_load : fractions.Fraction
        Load up to which every work-conserving policy is stable.
    lyapunov : TwoStation
        The linear programme at this load; its ``epsilon`` is 0 beyond the critical load.
    kind, assumptions, source
        As in every result.
    """

    agents: Mapping[str, Agent]
    engines: Mapping[str, Engine]
    policy: str
    rates: Mapping[str, Fraction]
    load: Fraction
    growth: Fraction
    critical_load: Fraction
    lyapunov: TwoStation
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return (
            f"{self.policy}, load {self.load} at each of {len(self.engines)} stations: the peak "
            f"grows by {self.growth} = {float(self.growth):.4g} per half-cycle; every "
            f"work-conserving policy is stable up to {self.critical_load}"
        )


def exit_priority_case(
    token_budget: int = 768,
    first_hop: tuple[int, int] = (32, 32),
    second_hop: tuple[int, int] = (512, 32),
    *,
    load: float | Fraction = Fraction(9, 10),
) -> AgentCase:
    """Return two kinds of agents in opposite order, whose last hops are served first.

    Parameters
    ----------
    token_budget : int
        Tokens per iteration of each engine; an iteration takes one second.
    first_hop, second_hop : tuple of int
        Prompt and output tokens of each call.
    load : float or Fraction
        Load of each engine.

    Returns
    -------
    AgentCase
        Network, rates and proof; the policy is ``Priority.exit_first(case.agents)``.

    Raises
    ------
    InputError
        Tokens that are no whole numbers, a load outside (0, 1), a second hop shorter than the
        first.

    Examples
    --------
    >>> print(exit_priority_case())
    exit-first priority, load 9/10 at each of 2 stations: the peak grows by 153/37 = 4.135 per
    half-cycle; every work-conserving policy is stable up to 19/34
    """
    law = cyclic_agents(token_budget, first_hop, second_hop)
    short, long = RequestClass(*first_hop), RequestClass(*second_hop)
    engine = Engine(
        BatchTime.affine(base=1.0, per_token=0.0), token_budget=token_budget, conventions=THEORY
    )
    agents = {x + y: Agent.chain((x, short), (y, long)) for x, y in ("ab", "ba")}
    rates, stations = dict.fromkeys(agents, law.rate(load)), {"a": engine, "b": engine}
    return AgentCase(
        agents=agents,
        engines=stations,
        policy="exit-first priority",
        rates=rates,
        load=as_fraction(load),
        growth=law.growth(load),
        critical_load=law.critical_load,
        lyapunov=every_policy(agents, stations, rates),
        kind=law.kind,
        assumptions=law.assumptions,
        source=law.source,
    )
