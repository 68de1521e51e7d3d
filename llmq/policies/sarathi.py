"""Sarathi-Serve: decodes never wait, prompts are cut into chunks that fill the token budget.

Per iteration: every decode one token, then started prefills, then new rows in arrival order while
the budget lasts; a new row needs blocks for its whole prompt beside a watermark, and the first
that does not fit stops the others. Out of memory, the newest resident is evicted and recomputed
(Agrawal et al., OSDI 2024). Without limits of memory and slots, and if the full budget is the most
productive batch, it is throughput-optimal (Dai et al. 2504.07347, Theorem 2; entry S1). With two
slots it may serve two thirds of what is possible (SAT), where memory binds 9/11 (counterexamples).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.policies.contract.blocks import Admit, Blocks, Together, decodes_first, queue_order
from llmq.policies.contract.routers import RoundRobin, Router

__all__ = ["Sarathi"]


@checked
@dataclass(frozen=True, slots=True)
class Sarathi:
    """Chunked prefill beside decodes.

    Parameters
    ----------
    token_budget : int, optional
        Tokens per iteration; the engine's if not given.
    order : {"decodes_first", "queue"}
        Decodes before prefills, or one queue in which a prefill ahead of a decode takes the
        budget first (a row goes to the end when its prefill is done).
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> Sarathi(token_budget=512).blocks.together.mixed
    True
    """

    token_budget: int | None = None
    order: Literal["decodes_first", "queue"] = "decodes_first"
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "sarathi"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        if self.order not in ("decodes_first", "queue"):
            raise InputError(
                f"order must be 'decodes_first' or 'queue', got {self.order!r}", value=self.order
            )
        Admit(watermark=self.watermark)  # checks it

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        queue = self.order == "queue"
        return Blocks(
            key=queue_order if queue else decodes_first,
            admit=Admit(watermark=self.watermark),
            route=self.route,
            together=Together(mixed=True, queue=queue),
        )
