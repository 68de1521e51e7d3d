"""Orca: whole prompts share iterations with the decodes, memory is reserved for the longest output.

Per iteration: every decode one token, then whole prompts in arrival order while they fit in the
token budget. A request is admitted when blocks for its prompt and ``max_output`` more tokens are
free, and keeps them to its end, so nobody is ever evicted and most of the memory is idle (Yu et
al., OSDI 2022, as a baseline of Agrawal et al., OSDI 2024). Dai et al. 2504.07347 count it among
the throughput-optimal policies of their model, which knows neither memory nor prompts that do not
fit in what is left of the budget; so optimality is not claimed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.policies.contract.blocks import Admit, Blocks, Budget, Together
from llmq.policies.contract.routers import RoundRobin, Router

__all__ = ["Orca", "room_for"]


def room_for(max_output: int | None, watermark: float) -> Admit:
    """Return the admission rule that keeps room for the longest output.

    Parameters
    ----------
    max_output : int or None
        Output tokens; None keeps room for the prompt only.
    watermark : float
        Share of the KV blocks that an admission must leave free.

    Returns
    -------
    Admit
        The rule.

    Raises
    ------
    InputError
        Not a whole number from 1 on, or a watermark outside [0, 1).

    Examples
    --------
    >>> room_for(256, 0.0).most
    256
    """
    if max_output is None:
        return Admit(watermark=watermark)
    if isinstance(max_output, bool) or not max_output >= 1 or max_output % 1:
        raise InputError(
            f"max_output must be a whole number of tokens, at least 1, got {max_output!r}",
            field="max_output",
            value=max_output,
        )
    return Admit(watermark=watermark, reserve="most", most=int(max_output))


@checked
@dataclass(frozen=True, slots=True)
class Orca:
    """Whole prompts beside decodes, with room for the longest output.

    Parameters
    ----------
    token_budget : int, optional
        Tokens per iteration, at least the longest prompt; the engine's if not given.
    max_output : int
        Output tokens for which room is kept from the admission on.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> Orca(max_output=256).blocks.admit.reserve
    'most'
    """

    token_budget: int | None = None
    max_output: int = 1024
    watermark: float = 0.0
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "orca"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        room_for(self.max_output, self.watermark)  # checks them

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        return Blocks(
            budget=Budget(whole=True),
            admit=room_for(self.max_output, self.watermark),
            route=self.route,
            together=Together(),
        )
