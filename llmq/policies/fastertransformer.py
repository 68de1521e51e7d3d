"""FasterTransformer: a batch is decoded to its end before the next prompts start.

While any request decodes, an iteration gives every decode a token and nothing else; otherwise
prompts are processed in arrival order up to the token budget, the last one cut where it ends. The
worst of the baselines of Sarathi-Serve (Agrawal et al., OSDI 2024): with 128 prompt and 112 output
tokens and a budget of 512 it is stable up to 5.3 % of what work-conserving policies carry, see
:func:`llmq.theory.region.tiling.exclusive_cycle`. Chunks and admission are those of the exact
schedules it is tested on; the original reserves memory for the longest output (``max_output``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from llmq._input.checked import checked
from llmq.policies.contract.blocks import Admit, Blocks, Together, until_somebody_changes
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.orca import room_for
from llmq.policies.vllm import OneKind

__all__ = ["FasterTransformer"]


@checked
@dataclass(frozen=True, slots=True)
class FasterTransformer:
    """Prefill only when nobody decodes.

    Parameters
    ----------
    token_budget : int, optional
        Tokens per iteration; the engine's if not given.
    max_output : int, optional
        Output tokens for which room is kept from the admission on; room is taken as needed, and
        the newest resident evicted, if not given.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> FasterTransformer().blocks.together.until
    1
    """

    token_budget: int | None = None
    max_output: int | None = None
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "fastertransformer"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        room_for(self.max_output, self.watermark)  # checks them

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        admit: Admit = room_for(self.max_output, self.watermark)
        together = Together(mixed=False, until=1)
        return Blocks(
            gate=OneKind(admit, False, together),
            trigger=until_somebody_changes,
            admit=admit,
            route=self.route,
            together=together,
        )
