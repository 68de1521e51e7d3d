r"""SLAI: decodes wait as long as their deadline allows, so that prefill gets the budget.

After the batch that gave a request its last token (or ended its prefill) its *last schedulable
time* is set once,

.. math:: Y = t_{end} + \mathrm{TBT} - \Theta\,\bar b,

with the deadline TBT between two tokens and the mean batch time so far; Theta is larger when memory
is nearly full. A batch takes critical decodes (now >= Y) by Y, started prefills, new requests, then
the other decodes by Y. Out of memory, the last started prefill is evicted, else the decode itself.

Bari, Hegde, de Veciana, arXiv 2508.01002 (Eq. 8), rules read in the authors' code; reported there:
median TTFT -53 %, capacity +26 % against Sarathi-Serve. Without limits of memory and slots, and if
the full budget is the most productive batch, it is throughput-optimal where ``decodes`` is at least
the token budget [WC]; with slots, held decodes cost capacity [PACE] (``proofs/THEOREMS.md``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.policies.contract.blocks import Admit, Blocks, Budget, until_somebody_changes
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.contract.view import Floats, View

__all__ = ["SLAI"]


@checked
@dataclass(frozen=True, slots=True)
class SLAI:
    """Deadline-aware decodes, short prompts first.

    Parameters
    ----------
    token_budget : int, optional
        Tokens per iteration; the engine's if not given.
    order : {"spf", "fcfs", "paying"}
        New requests by prompt (with tokens to recompute), by arrival, or those with the tightest
        deadline first and by prompt among equals.
    tbt : float
        Deadline between two tokens, seconds, of a class without its own.
    deadlines : mapping of str to float
        Deadline of a class, seconds.
    below, above : float
        Theta, in batches, while a smaller and from a larger share of the KV blocks is used. Equal
        values are the fixed offset.
    limit : float
        That share.
    decodes : int
        Decodes in one iteration.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> SLAI(deadlines={"paying": 0.1}).deadlines
    (('paying', 0.1),)
    """

    token_budget: int | None = None
    order: Literal["spf", "fcfs", "paying"] = "spf"
    tbt: float = 0.2
    deadlines: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    below: float = 5.0
    above: float = 10.0
    limit: float = 0.96
    decodes: int = 128
    watermark: float = 0.01
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "slai"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        pairs = self.deadlines.items() if isinstance(self.deadlines, Mapping) else self.deadlines
        object.__setattr__(self, "deadlines", tuple((str(k), float(v)) for k, v in pairs))
        if not all(0 < x < math.inf for _, x in (("tbt", self.tbt), *self.deadlines)):
            raise InputError(f"SLAI: deadlines must be positive (s): {self.tbt}, {self.deadlines}")
        if self.order not in (known := ("spf", "fcfs", "paying")):
            raise InputError(f"SLAI: order is {self.order!r}{nearest(self.order, known)}")
        if not (self.below >= 0 and self.above >= 0 and self.decodes >= 1):
            raise InputError("SLAI: below and above must be at least 0, decodes at least 1")
        Admit(watermark=self.watermark)  # checks it

    def due(self, view: View) -> Floats:
        """Deadline of each row.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        ndarray
            Seconds between two tokens.
        """
        own = dict(self.deadlines)
        return np.array([own.get(name, self.tbt) for name in view.classes])[view.klass]

    def theta(self, used: npt.ArrayLike) -> Floats:
        """Offset for a share of the KV blocks that is used.

        Parameters
        ----------
        used : array_like
            Shares.

        Returns
        -------
        ndarray
            Batches.
        """
        return np.where(np.asarray(used) >= self.limit, self.above, self.below)

    def mark(self, view: View) -> Floats:
        """Last schedulable time of each row, had it been served just now.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        ndarray
            Seconds.
        """
        used = 1 - view.free / view.total if view.total < math.inf else 0.0
        # Before the first iteration nobody was served, so nobody's mark is taken over.
        mean = np.where(view.iterations, view.busy / np.maximum(view.iterations, 1), 1.0)
        return np.asarray(view.time + self.due(view) - self.theta(used) * mean)

    def key(self, view: View) -> Sequence[npt.NDArray[np.generic]]:
        """Critical decodes, started prefills, new rows, other decodes.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        sequence of ndarray
            Columns.
        """
        late = np.where(view.time >= view.mark, 0, 3)
        group = np.where(view.decoding, late, np.where(view.resident, 1, 2))
        paying, short = (
            (group == 2) & (self.order == "paying"),
            (group == 2) & (self.order != "fcfs"),
        )
        first = np.where(view.decoding, view.mark, paying * self.due(view))
        return group, first, short * (view.prompt + view.generated), view.row

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        return Blocks(
            key=self.key,
            mark=self.mark,
            budget=Budget(decodes=self.decodes),
            admit=Admit(watermark=self.watermark),
            victim=last_started_prefill,
            trigger=until_somebody_changes,  # a mark depends on the last iteration alone
            route=self.route,
        )


def last_started_prefill(
    view: View, order: Sequence[int], row: int, served: Sequence[bool]
) -> int | None:
    """Victim: the started prefill that came last and has no token yet in this plan, else itself."""
    started = view.resident & ~view.decoding & ~np.asarray(served)
    return max((i for i in order if i != row and started[i]), default=row)
