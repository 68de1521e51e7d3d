"""vLLM v0: whole prompts first, in iterations of their own.

If the first waiting prompt can be admitted, one iteration processes whole prompts in arrival order
up to the token budget and no decode; otherwise one iteration gives every decode a token. Newest
resident evicted by recompute. Not throughput-optimal: a steady trickle of prompts starves the
decodes, and phases never share an iteration (Dai et al. 2504.07347, section 4).

:class:`OneKind` is the gate of every policy whose iterations hold one kind: vLLM, FasterTransformer
and RAD differ in how many decodes make prefill wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from llmq.policies.blocks import Admit, Blocks, Budget, Together
from llmq.policies.routers import RoundRobin, Router
from llmq.policies.view import Bools, View

__all__ = ["VLLM", "OneKind"]


@dataclass(frozen=True, slots=True)
class OneKind:
    """Gate: prefills while there are few decodes and one can run, else decodes.

    Parameters
    ----------
    admit : Admit
        The admission rule of the policy.
    whole : bool
        A prompt is processed in one piece.
    together : Together
        How many decodes are few, how many prefills an iteration may hold and a cycle may start.
    """

    admit: Admit
    whole: bool = True
    together: Together = field(default_factory=lambda: Together(mixed=False))

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
        rule, decodes = self.together, np.count_nonzero(view.decoding)
        # More decodes than tokens could not all run.
        enough = rule.until if rule.until == np.inf else min(rule.until, view.tokens)
        started = ~view.decoding & view.resident
        new = ~view.decoding & ~view.resident
        new &= np.cumsum(new) <= rule.cycle - view.started
        slot = not view.one_prefill_slot or decodes < view.slots
        some = started.any() or self._admissible(view, new)
        if decodes >= enough or not slot or not some:
            return view.decoding, None
        place = np.where(started, 0, np.count_nonzero(started))
        place += np.where(started, np.cumsum(started), np.cumsum(new))
        return (started | new) & (place <= rule.rows), None

    def _admissible(self, view: View, new: Bools) -> bool:
        """Whether the first new prompt can run now."""
        if not new.any():
            return False
        head = int(np.argmax(new))
        if self.whole and view.rem[head] > view.tokens:
            return False
        taken = 0 if view.one_prefill_slot else np.count_nonzero(view.resident)
        return bool(taken < view.slots and self.admit.fits(view, head, view.free))


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
            gate=OneKind(admit),
            budget=Budget(whole=True),
            admit=admit,
            route=self.route,
            together=Together(mixed=False),
        )
