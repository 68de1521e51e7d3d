r"""MaxWeight: the batch whose priced tokens per second are highest.

**Rule.** Let ``A`` be the work (prompt and output tokens) outstanding in requests whose prompt is
not done, ``D`` that of the decodes, and ``r`` the output tokens that a prompt token of the former
brings. A prompt token takes ``1 + r`` from ``A`` and adds ``r`` to ``D``; a decode takes one from
``D``. With the pressures

.. math:: w_p = (1 + r) A - r D, \qquad w_d = D

the batch of ``x`` prompt tokens and ``y`` decodes runs that maximises
:math:`(x w_p + y w_d) / t(x, y)`, over all ``x`` and ``y`` that rows, budget, slots and memory
allow. That is maximum pressure (Dai and Lin, Operations Research 53(2) 2005) for the two buffers of
an engine, in units of work; it knows output lengths.

**What is tried.** For a given number ``n`` of tokens, attention aside, the best batch takes the
kind with the higher pressure first: prompts if ``A > D`` (then :math:`w_p > w_d`), else decodes.
So one number is chosen, ``n`` from 1 to the budget; all are compared at once. The KV that the rows
hold is counted, row by row in the order in which they would run; the attention work inside a
prompt is not.

**Theorem** [S1]. Without limits of memory and slots, without attention, and with bounded lengths
the engine is positive recurrent at every load below 1. *Proof.* Let ``b`` be the budget, ``K`` the
most work of a request, and ``A + D > 2 b K``. If ``A > D`` then ``A > b K``: at least ``b`` prompt
tokens wait, which have the higher pressure, so a batch of ``n`` of them is worth :math:`n w_p /
t(n)` and the one that runs maximises :math:`n / t(n)`. Otherwise ``D >= b K``: there are at least
``b`` decodes, and the same holds for them. So while more than ``2 b K`` tokens are outstanding each
batch is one with the highest token rate: the hypothesis of S1. The argument needs neither the
classes nor the value of ``r``.

Not covered: attention, memory and slots, where pressures have to be compared kind by kind (entry
DW cites the theorem for the fluid model); latency: prompts may wait while decodes weigh more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from llmq._input.checked import checked
from llmq.policies.contract.blocks import Admit, Blocks, Budget, one_run_only
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.contract.view import Bools, Floats, Ints, View

__all__ = ["Choice", "MaxWeight", "heaviest"]


class Choice(NamedTuple):
    """The batch that is worth most per second.

    Parameters
    ----------
    tokens : int
        Its tokens; 0 if nothing can run.
    rows : ndarray of bool, shape (n,)
        Which rows take part.
    group : ndarray of int, shape (n,)
        Order of the kinds: the row's place among decodes, started and new prompts.
    """

    tokens: int
    rows: Bools
    group: Ints


@checked
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

    def __post_init__(self) -> None:
        Admit(watermark=self.watermark)  # checks it

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        admit = Admit(watermark=self.watermark)
        rule = _Latest(admit)
        return Blocks(
            gate=rule.gate,
            key=rule.key,
            budget=Budget(tokens=rule.tokens),
            admit=admit,
            route=self.route,
        )


class _Latest:
    """Gate, key and budget of one choice: it is made once for a view, not three times."""

    __slots__ = ("admit", "made", "view")

    def __init__(self, admit: Admit) -> None:
        self.admit = admit
        self.view: View | None = None
        self.made = Choice(0, np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))

    def __call__(self, view: View) -> Choice:
        if view is not self.view:
            self.view, self.made = view, heaviest(view, self.admit)
        return self.made

    @one_run_only
    def gate(self, view: View) -> tuple[Bools, None]:
        """Let the rows of the batch run; nobody is held."""
        return self(view).rows, None

    @one_run_only
    def key(self, view: View) -> Sequence[Ints]:
        """Kind with the higher pressure first, inside each by arrival."""
        return self(view).group, view.row

    @one_run_only
    def tokens(self, view: View) -> int:
        """Tokens of the batch."""
        return self(view).tokens


def heaviest(view: View, admit: Admit) -> Choice:
    """Choose the batch of the highest worth per second.

    Parameters
    ----------
    view : View
        The engine; the policy sees outputs.
    admit : Admit
        Which new rows may take memory.

    Returns
    -------
    Choice
        Tokens, rows, and the order of the kinds.
    """
    prompts, answers, brings = _backlogs(view)
    ahead = prompts > answers
    group = np.where(view.decoding, 2 if ahead else -1, np.where(view.resident, 0, 1))
    order = np.argsort(group, kind="stable")
    order = order[(view.decoding | _can_start(view, admit))[order]]
    decoding = view.decoding[order]
    pressure = (1 + brings) * prompts - brings * answers
    if pressure <= 0:  # prompts would add more to the decodes than they take
        order, decoding = order[decoding], decoding[decoding]
    rows = np.zeros(len(group), dtype=bool)
    if not len(order):
        return Choice(0, rows, group)
    ends = np.cumsum(np.where(decoding, 1, view.rem[order]))
    limit = int(min(view.tokens, ends[-1], _room(view, decoding, ends)))
    if limit == 0:
        return Choice(0, rows, group)
    worth = np.where(decoding, answers, pressure)
    tokens = _best(view, order, ends, worth, limit)
    # All rows of a kind that takes part: an engine that cuts prompts goes on to the next.
    first = decoding != ahead
    rows[order] = first | (tokens > ends[first].max(initial=0))
    return Choice(tokens, rows, group)


def _backlogs(view: View) -> tuple[float, float, float]:
    """Work in prompts that are not done, in decodes, and what a prompt token brings."""
    assert view.output is not None
    left = view.output - view.generated
    answers = float(left[view.decoding].sum())
    later = float(left.sum()) - answers
    tokens = float(view.rem[~view.decoding].sum())
    return tokens + later, answers, later / tokens if tokens else 0.0


def _can_start(view: View, admit: Admit) -> Bools:
    """Rows in prefill that hold their memory, or would get it if the new ones come in turn."""
    new = ~view.resident
    some = new & (np.cumsum(new) <= view.slots - np.count_nonzero(view.resident))
    if view.one_prefill_slot:
        some = new
    if view.free < np.inf:
        size = -(-(view.host + view.rem) // view.block)
        some = some & (np.cumsum(np.where(new, size, 0)) + admit.margin(view.total) <= view.free)
    return ~view.decoding & (view.resident | some)


def _room(view: View, decoding: Bools, ends: Ints) -> float:
    """Most tokens that the slots of one batch allow, where all prompts share one."""
    if not view.one_prefill_slot or view.slots == np.inf:
        return np.inf
    slot = np.cumsum(decoding) + np.maximum.accumulate(~decoding)
    inside = np.flatnonzero(slot <= view.slots)
    return int(ends[inside[-1]]) if len(inside) else 0


def _best(view: View, order: Ints, ends: Ints, pressure: Floats, limit: int) -> int:
    """Tokens of the batch of the highest worth per second, the most if several are."""
    n = np.arange(1, limit + 1)
    last = np.searchsorted(ends, n)  # the row that takes the last token
    worth = np.cumsum(pressure[last])
    kv = np.cumsum(view.kv[order])[last] + n
    prompts = np.maximum.accumulate(~view.decoding[order])
    time = view.law(n, kv, mixed=prompts[last])
    rate = worth / time
    return int(n[np.flatnonzero(rate >= rate.max() * (1 - 1e-12))[-1]])
