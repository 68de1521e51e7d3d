"""FCFS and round robin with swap: the baselines of PASCAL.

In each iteration slots and KV memory are dealt out in the order of a rank; who gets none is paused
and its KV goes to the host, so nothing is computed twice. FCFS ranks by arrival: a request keeps
its memory until its answer is complete. Round robin ranks by the quanta of tokens used so far, then
by when the last one ended, then by arrival: nobody is paused as long as everything fits.

Cho et al., PASCAL, arXiv 2602.11530, section IV (baselines). The prompt is processed in one piece
in the first iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.policies.contract.blocks import Admit, Blocks, Budget
from llmq.policies.contract.routers import LeastKV, Router
from llmq.policies.contract.view import Floats, View

__all__ = ["FCFS", "UNLIMITED", "RR"]

# Tokens of an iteration: memory and slots are the limits here.
UNLIMITED = 2**20


@checked
@dataclass(frozen=True, slots=True)
class FCFS:
    """First come, first served, with swap.

    Parameters
    ----------
    token_budget : int, optional
        Tokens per iteration; the engine's if None.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> FCFS().blocks.swap
    True
    """

    token_budget: int | None = UNLIMITED
    route: Router = field(default_factory=LeastKV)
    name: ClassVar[str] = "fcfs"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        return Blocks(
            key=lambda view: (np.zeros_like(view.row), view.row),
            budget=Budget(whole=True, ranked=True),
            admit=Admit(watermark=0.0),
            route=self.route,
            swap=True,
        )


@checked
@dataclass(frozen=True, slots=True)
class RR:
    """Round robin by token quanta, with swap.

    Parameters
    ----------
    quantum : int
        Output tokens after which the rank falls.
    token_budget : int, optional
        Tokens per iteration; the engine's if None.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> RR(quantum=4).quantum
    4
    """

    quantum: int = 500
    token_budget: int | None = UNLIMITED
    route: Router = field(default_factory=LeastKV)
    name: ClassVar[str] = "rr"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        if self.quantum < 1:
            raise InputError(f"quantum must be at least 1 token, got {self.quantum}")

    def key(self, view: View) -> Sequence[npt.NDArray[np.generic]]:
        """Quanta used, when the last one ended, arrival.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        sequence of ndarray
            Columns; the first says that there is one queue.
        """
        return np.zeros_like(view.row), view.generated // self.quantum, view.mark, view.row

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
        return np.where(view.generated % self.quantum == 0, view.time, view.mark)

    def trigger(self, view: View) -> Floats:
        """Count the iterations until the first quantum ends.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        ndarray, shape (..., 1)
            Iterations.
        """
        left = self.quantum - view.generated % self.quantum
        return np.asarray(np.where(view.present, left, np.inf).min(axis=-1, keepdims=True))

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
