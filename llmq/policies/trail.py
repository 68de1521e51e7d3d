"""TRAIL: least predicted work left first, with preemption of the young only.

Waiting and running requests share one ranking by the output tokens they are predicted to have left;
a running request whose age is at least ``protect`` times its predicted output is safe and comes
first. A newcomer may push out those that rank below it; what was pushed out is computed again.
``protect=1`` is SPRPT (never safe), ``protect=0`` never preempts by rank.

Two choices that the paper leaves open change the stability region
(:mod:`llmq.theory.stability.losses`): whether a request that does not fit stops those behind it
(``fill``), and whether "fits" means now (``admission="now"``) or at every later step, by the
predicted lengths (``"future"``: the peak of Past-Future, and nobody is pushed out by rank).

Shahout et al., arXiv 2410.01035 (``protect=0.8``); Past-Future, arXiv 2507.10150 (5 % reserve).
Predictions are exact here: the policy sees the output length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.policies.contract.blocks import (
    Admit,
    Blocks,
    Budget,
    everyone,
    one_run_only,
    until_somebody_changes,
)
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.contract.view import Bools, Ints, View

__all__ = ["TRAIL", "future_peak"]


def future_peak(held: npt.ArrayLike, left: npt.ArrayLike, block: int = 1) -> int:
    """Largest memory that requests will need if each gains a token per iteration until it ends.

    Parameters
    ----------
    held : array_like of int, shape (n,)
        Tokens now.
    left : array_like of int, shape (n,)
        Tokens still to come, at least 1.
    block : int
        Tokens in a KV block.

    Returns
    -------
    int
        KV blocks.

    Examples
    --------
    >>> future_peak([5, 8, 3], [4, 1, 2]), future_peak([100, 40, 40, 10], [10, 60, 60, 200])
    (19, 270)
    """
    have, more = np.asarray(held), np.asarray(left)
    size = -(-(have + more[:, None]) // block)
    return int(np.sum(size * (more >= more[:, None]), axis=1).max(initial=0))


@checked
@dataclass(frozen=True, slots=True)
class TRAIL:
    """Least predicted work left first, with limited preemption.

    Parameters
    ----------
    protect : float
        Share of the predicted output from which a running request is safe.
    fill : {"backfill", "head"}
        Whether a new request that does not fit is passed by others or stops them.
    admission : {"now", "future"}
        Whether memory must suffice now, or until all have ended.
    reserve : float
        Share of the KV blocks that "future" leaves free.
    token_budget : int, optional
        Tokens per iteration; the engine's if not given.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> TRAIL(fill="head").blocks.admit.bump
    True
    """

    protect: float = 0.8
    fill: Literal["backfill", "head"] = "backfill"
    admission: Literal["now", "future"] = "now"
    reserve: float = 0.05
    token_budget: int | None = None
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "trail"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt", "output"})

    def __post_init__(self) -> None:
        for name, known in (("fill", ("backfill", "head")), ("admission", ("now", "future"))):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"TRAIL: {name} is {value!r}{nearest(value, known)}", value=value)
        if not (0 <= self.protect <= 1 and 0 <= self.reserve < 1):
            raise InputError(
                "TRAIL: protect must be from 0 to 1 and reserve from 0 to below 1, got "
                f"{self.protect} and {self.reserve}"
            )
        Admit(watermark=self.watermark)  # checks it

    def key(self, view: View) -> Sequence[npt.NDArray[np.generic]]:
        """Safe requests, then the others, by predicted tokens left.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        sequence of ndarray
            Columns.
        """
        assert view.output is not None
        safe = view.resident & (view.generated >= self.protect * view.output)
        return ~safe, view.output - view.generated, view.row

    @one_run_only
    def gate(self, view: View) -> tuple[Bools, float | None]:
        """Residents, and in key order the others whose future peak fits beside them.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        tuple
            Mask of the rows, and no wake-up time.
        """
        assert view.output is not None
        allowed, room = view.resident.copy(), (1 - self.reserve) * view.total
        held: Ints = view.prompt + view.generated
        left: Ints = view.output - view.generated
        # Who is refused stays so as more come in, and so do all that are alike.
        refused: set[tuple[int, int]] = set()
        for row in np.lexsort(tuple(reversed(tuple(self.key(view))))):
            size = int(held[row]), int(left[row])
            if allowed[row] or size in refused:
                continue
            allowed[row] = True
            # Alone a request always runs.
            if allowed.sum() > 1 and future_peak(held[allowed], left[allowed], view.block) > room:
                allowed[row] = False
                refused.add(size)
                if self.fill == "head":
                    break
        return allowed, None

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        ahead = self.admission == "future"
        return Blocks(
            gate=self.gate if ahead else everyone,
            trigger=until_somebody_changes,  # residents pass the gate
            key=self.key,
            budget=Budget(head_of_line=self.fill == "head"),
            admit=Admit(watermark=self.watermark, bump=not ahead),
            route=self.route,
        )
