"""Priority: classes served in a fixed order, each as Sarathi serves all.

The decodes, then the prefills, of the first class take what they can of the token budget, then
those of the next class, until the budget is full; a new row may start before an older one of a
lower class. Without limits of memory and slots the batch holds the full budget whenever the
requests present can supply it, so the policy is work-conserving: on one engine that is enough for
stability where the full budget is the most productive batch (Dai et al., 2504.07347, Theorem 2;
entry S1). In networks of agents it is not: see :mod:`llmq.theory.stability.agents`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.agents import Agent, call_class, check_agents
from llmq.policies.contract.blocks import Admit, Blocks
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.contract.view import View

__all__ = ["Priority"]


@checked
@dataclass(frozen=True, slots=True)
class Priority:
    """A fixed order of the classes.

    Parameters
    ----------
    classes : tuple of str
        Classes, the first served first; all others come after them, as one.
    token_budget : int, optional
        Tokens per iteration; the engine's if not given.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> Priority(("chat", "batch")).blocks.together is None
    True
    """

    classes: tuple[str, ...] = ()
    token_budget: int | None = None
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "priority"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        given: object = self.classes
        if isinstance(given, str) or len(set(self.classes)) < len(self.classes):
            raise InputError(
                f"classes is a tuple of names, each once, got {self.classes!r}", value=self.classes
            )
        object.__setattr__(self, "classes", tuple(self.classes))
        Admit(watermark=self.watermark)  # checks it

    @classmethod
    @checked
    def exit_first(cls, agents: Mapping[str, Agent]) -> Priority:
        """Return priority to the calls nearest to the end of their agent.

        Parameters
        ----------
        agents : mapping of str to Agent
            Kinds of agents.

        Returns
        -------
        Priority
            By the number of calls that are left.

        Examples
        --------
        >>> from llmq.model.request import RequestClass
        >>> hop = RequestClass(32, 32)
        >>> Priority.exit_first({"ab": Agent.chain(("a", hop), ("b", hop))}).classes
        ('ab.2', 'ab.1')
        """
        return cls(tuple(_by_remaining(agents)))

    @classmethod
    @checked
    def entry_first(cls, agents: Mapping[str, Agent]) -> Priority:
        """Return priority to the calls farthest from the end of their agent.

        Parameters
        ----------
        agents : mapping of str to Agent
            Kinds of agents.

        Returns
        -------
        Priority
            The reverse of :meth:`exit_first`.
        """
        return cls(tuple(_by_remaining(agents)[::-1]))

    def key(self, view: View) -> Sequence[npt.NDArray[np.generic]]:
        """Order by class, then decodes, started prefills and new rows, then arrival.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        sequence of ndarray
            Columns, the most significant first.
        """
        place = {name: rank for rank, name in enumerate(self.classes)}
        rank = np.array([place.get(name, len(place)) for name in view.classes], dtype=np.int64)
        group = np.where(view.decoding, 0, np.where(view.resident, 1, 2))
        return rank[view.klass], group, view.row

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        return Blocks(key=self.key, admit=Admit(watermark=self.watermark), route=self.route)


def _by_remaining(agents: Mapping[str, Agent]) -> list[str]:
    """Classes by the calls that are left, the fewest first."""
    check_agents(agents)
    left = {
        call_class(name, call): count
        for name, agent in agents.items()
        for call, count in agent.remaining.items()
    }
    return sorted(left, key=lambda name: left[name])
