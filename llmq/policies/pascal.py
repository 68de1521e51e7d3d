"""PASCAL: reasoning before answering, and answers move to where there is room.

On an engine: reasoning requests (the high queue) get memory before answering ones and before those
whose reasoning grew beyond a threshold (the low queue); inside each, round robin by token quanta.
Who gets no memory is paused with its KV on the host.

In a fleet: an arrival goes to the engine with the least KV among those whose answers are all in
time, a request that ends its reasoning to the one with the fewest reasoning requests, unless there
is no room and here is. The pacer (a reader takes a token every ``tau`` seconds) throttles nothing;
it only says whether the answers are in time.

Cho, Bang, Hwang, Rhu, arXiv 2602.11530 (HPCA 2026), Algorithms 1 and 2; what "room" and "in time"
mean exactly is a reconstruction. On one engine with free swap it carries the memory facet but for
one peak [RANK] (``proofs/THEOREMS.md``); with migration no theorem is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.policies._pascal_route import PascalRoute, level, low_queue
from llmq.policies.contract.blocks import Admit, Blocks, Budget
from llmq.policies.contract.view import Floats, View
from llmq.policies.ranked import UNLIMITED

__all__ = ["PASCAL"]


@checked
@dataclass(frozen=True, slots=True)
class PASCAL:
    """Phase-aware scheduling of reasoning models.

    Parameters
    ----------
    quantum : int
        Output tokens after which the rank in a queue falls.
    demote : int
        Prompt and output tokens from which a reasoning request is ranked with the answers.
    migrate : bool
        Requests may move when their reasoning ends (off: PASCAL NoMigration).
    adaptive : bool
        They stay where there is room if the target has none (off: PASCAL NonAdaptive).
    tau : float
        Seconds a reader takes for a token.
    token_budget : int, optional
        Tokens per iteration; the engine's if None.

    Examples
    --------
    >>> PASCAL().route.moves, PASCAL(migrate=False).route.moves
    (True, False)
    """

    quantum: int = 500
    demote: int = 5000
    migrate: bool = True
    adaptive: bool = True
    tau: float = 0.1
    token_budget: int | None = UNLIMITED
    name: ClassVar[str] = "pascal"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        if self.quantum < 1 or self.demote < 1 or not self.tau > 0:
            raise InputError(
                "PASCAL: quantum and demote must be at least 1 token and tau positive, got "
                f"{self.quantum}, {self.demote} and {self.tau}"
            )

    def key(self, view: View) -> Sequence[npt.NDArray[np.generic]]:
        """Queue, quanta used in it, when the last one ended, arrival.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        sequence of ndarray
            Columns.
        """
        quanta = level(view, self.demote) // self.quantum
        return low_queue(view, self.demote), quanta, view.mark, view.row

    def mark(self, view: View) -> Floats:
        """When the current quantum began.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        ndarray
            Seconds.
        """
        return np.where(level(view, self.demote) % self.quantum == 0, view.time, view.mark)

    def trigger(self, view: View) -> Floats:
        """Count the iterations until the first quantum ends, or somebody is demoted.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        ndarray, shape (..., 1)
            Iterations.
        """
        left = self.quantum - level(view, self.demote) % self.quantum
        entry = np.maximum(self.demote + 1 - view.prompt, 1) - view.generated
        left = np.where(low_queue(view, self.demote), left, np.minimum(left, entry))
        return np.asarray(np.where(view.present, left, np.inf).min(axis=-1, keepdims=True))

    @property
    def route(self) -> PascalRoute:
        """Where arrivals and answers go."""
        return PascalRoute(self.quantum, self.demote, self.migrate, self.adaptive, self.tau)

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        return Blocks(
            key=self.key,
            mark=self.mark,
            trigger=self.trigger,
            budget=Budget(whole=True, ranked=True),
            admit=Admit(watermark=0.0),
            route=self.route,
            swap=True,
        )
