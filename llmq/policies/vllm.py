"""vLLM v0: whole prompts first, in iterations of their own.

If the first waiting prompt can be admitted, one iteration processes whole prompts in arrival order
up to the token budget and no decode; otherwise one iteration gives every decode a token. Newest
resident evicted by recompute. Not throughput-optimal: a steady trickle of prompts starves the
decodes, and phases never share an iteration (Dai et al. 2504.07347, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from llmq.policies.blocks import Admit, Blocks, Budget, Together, decodes_first
from llmq.policies.routers import RoundRobin, Router
from llmq.policies.view import Bools, View

__all__ = ["VLLM"]


@dataclass(frozen=True, slots=True)
class PrefillIfAdmissible:
    """Gate: prefills while the first waiting prompt can be admitted, else decodes.

    Parameters
    ----------
    admit : Admit
        The admission rule of the policy.
    """

    admit: Admit

    def __call__(self, view: View) -> tuple[Bools, float | None]:
        """Return who may run.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        tuple
            Mask of the rows, and no wake-up time: one of the two groups can always run.
        """
        prefill = ~view.decoding
        if not prefill.any():
            return view.decoding, None
        head = int(np.flatnonzero(prefill)[0])
        taken = np.count_nonzero(view.decoding if view.one_prefill_slot else view.resident)
        fits = view.rem[head] <= view.tokens and self.admit.fits(view, head, view.free)
        return (prefill if fits and taken < view.slots else view.decoding), None


@dataclass(frozen=True, slots=True)
class VLLM:
    """Whole-prompt prefill iterations before decode iterations.

    Parameters
    ----------
    token_budget : int, optional
        Prompt tokens per prefill iteration; must hold the longest prompt. None takes the engine's.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> VLLM().blocks.budget.whole
    True
    """

    token_budget: int | None = 8192
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "vllm"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})
    claims: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        Admit(watermark=self.watermark)  # checks it

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        admit = Admit(watermark=self.watermark)
        return Blocks(
            gate=PrefillIfAdmissible(admit),
            key=decodes_first,
            budget=Budget(whole=True),
            admit=admit,
            route=self.route,
            together=Together(mixed=False),
        )
