"""Simple chunking: iterations of prefill chunks and of decodes take turns.

After an iteration with prefill tokens comes one that gives every decode a token; after that, if a
prompt can go on or start, one of prompts in arrival order up to the token budget. Bounds what a
prompt adds to a token gap at one iteration, but pays the fixed cost of an iteration twice. A
baseline of Sarathi-Serve (Agrawal et al., OSDI 2024); the rule is from a description of its code,
several prompts in one iteration are our reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from llmq._input.checked import checked
from llmq.policies.contract.blocks import Admit, Blocks, until_somebody_changes
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.contract.view import Bools, View
from llmq.policies.vllm import OneKind

__all__ = ["SimpleChunking"]


@dataclass(frozen=True, slots=True)
class Turns:
    """Gate: decodes after prefills, prefills (if any can run) after decodes."""

    prefill: OneKind  # who may run when it is the prefills' turn

    def __call__(self, view: View) -> tuple[Bools, float | None]:
        """Return who may run."""
        turn = view.prefilled & view.decoding.any(axis=-1, keepdims=True)
        return np.where(turn, view.decoding, self.prefill(view)[0]), None


@checked
@dataclass(frozen=True, slots=True)
class SimpleChunking:
    """Prefill chunks and decodes in turn.

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
    >>> SimpleChunking(token_budget=512).blocks.together is None
    True
    """

    token_budget: int | None = None
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "simple-chunking"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        Admit(watermark=self.watermark)  # checks it

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        admit = Admit(watermark=self.watermark)
        gate = Turns(OneKind(admit, whole=False))
        return Blocks(gate=gate, admit=admit, route=self.route, trigger=until_somebody_changes)
