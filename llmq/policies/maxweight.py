r"""MaxWeight: the batch whose priced tokens per second are highest.

With ``Q_p`` prompt tokens and ``Q_d`` output tokens of the decodes outstanding, a batch of ``x``
prompt tokens and ``y`` decodes is worth ``x (Q_p - r Q_d)^+ + y Q_d``: a prompt token leaves one
queue and feeds the next with ``r`` output tokens. Of all batches with no or all decodes and up to
the budget of prompt tokens the one with the highest worth per second runs.

Maximum pressure (Dai & Lin, Operations Research 53(2) 2005) for the two queues of an engine. It is
throughput-optimal in the fluid model of the region; it knows output lengths. Here it decodes all
or none, so it is not where decodes alone can exceed the most productive batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from llmq.policies.blocks import Admit, Blocks, Budget
from llmq.policies.routers import RoundRobin, Router
from llmq.policies.view import Bools, View

__all__ = ["MaxWeight"]


@dataclass(frozen=True, slots=True)
class MaxWeight:
    """The batch of the highest worth per second.

    Parameters
    ----------
    token_budget : int, optional
        Tokens per iteration; the engine's if not given.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> sorted(MaxWeight().sees)
    ['output', 'prompt']
    """

    token_budget: int | None = None
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "maxweight"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt", "output"})
    claims: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        Admit(watermark=self.watermark)  # checks it

    def choice(self, view: View) -> tuple[int, int]:
        """Prompt tokens and decodes of the batch that is worth most per second.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        tuple of int
            Prompt tokens (at most), decodes.
        """
        assert view.output is not None
        prefill = ~view.decoding
        ready = prefill & (view.resident | self._admissible(view))
        out = np.where(prefill, view.output - view.generated, 0).sum()
        prompts, answers = view.rem[prefill].sum(), (view.output - view.generated)[~prefill].sum()
        worth = max(prompts - answers * out / prompts, 0.0) if prompts else 0.0
        best = (-1.0, 0, 0)
        for y in {0, min(int(np.count_nonzero(view.decoding)), view.tokens)}:
            x = np.arange(min(view.tokens - y, int(view.rem[ready].sum())) + 1)
            kv = view.kv[view.decoding].sum() * (y > 0) + x
            rate = (x * worth + y * answers) / np.maximum(view.law(x + y, kv, mixed=x > 0), 1e-300)
            top = int(np.argmax(np.where(x + y > 0, rate, -1.0)))
            best = max(best, (float(rate[top]) if top + y else -1.0, top, y))
        return best[1], best[2]

    def _admissible(self, view: View) -> Bools:
        """Rows that could be the first to be admitted."""
        new = np.flatnonzero(~view.resident)
        fits = np.zeros(len(view.row), dtype=bool)
        if len(new) and np.count_nonzero(view.resident) < view.slots:
            fits[new] = Admit(self.watermark).fits(view, int(new[0]), view.free)
        return fits

    def gate(self, view: View) -> tuple[Bools, None]:
        """Let decodes run if they are in the batch, prefills if prompt tokens are.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        tuple
            Mask of the rows; nobody is held.
        """
        x, y = self.choice(view)
        return np.where(view.decoding, y > 0, x > 0), None

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        return Blocks(
            gate=self.gate,
            budget=Budget(tokens=lambda view: sum(self.choice(view))),
            admit=Admit(watermark=self.watermark),
            route=self.route,
        )
