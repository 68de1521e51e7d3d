"""The contract of a scheduling policy: what it sees, what it returns, and its blocks.

A policy is a frozen dataclass of parameters whose ``blocks`` property composes

========  =====================================================================================
gate      who may run now; who is held names the time at which to look again
key       in what order: columns, the most significant first, for one ``lexsort``
budget    how much in one iteration: tokens, rows, whole prompts or chunks, head-of-line or backfill
admit     may a row that is not resident take memory, and how much is set aside for it
victim    who leaves when memory is short; its KV is recomputed or (``swap``) kept on the host
mark      one number of each row that the policy writes at the boundary after it was served
route     which engine, at arrival and at the end of the reasoning
trigger   for how many iterations a decode-only plan stays valid (bounds a jump)
========  =====================================================================================

Gate, key, mark and trigger are array formulas whose last axis is the row, so the same line serves
one run and many replications; one that is not says so (:func:`one_run_only`). A policy never sees
``output`` unless it lists it in ``sees``; it is a pure function of the view: what it has to
remember of a row is its ``mark``, a column that it sees. Blocks that a system does not set keep
the default of Sarathi-Serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.contract.together import Together
from llmq.policies.contract.view import Batch, Bools, Floats, Ints, View

__all__ = [
    "Admit",
    "Batch",
    "Blocks",
    "Budget",
    "Policy",
    "Together",
    "View",
    "arrival_order",
    "decodes_first",
    "came",
    "everyone",
    "last_in_key",
    "one_run_only",
    "queue_order",
    "runs_together",
    "until_next_event",
    "until_somebody_changes",
]

Gate: TypeAlias = Callable[[View], tuple[Bools, float | None]]
Key: TypeAlias = Callable[[View], Sequence[npt.NDArray[np.generic]]]
Mark: TypeAlias = Callable[[View], npt.NDArray[np.float64]]
Victim: TypeAlias = Callable[[View, Sequence[int], int, Sequence[bool]], int | None]


_Function = TypeVar("_Function", bound=Callable[..., Any])


def one_run_only(function: _Function) -> _Function:
    """Mark a block that reads the view of one run: many runs ask it one after the other, slowly.

    Parameters
    ----------
    function : callable
        A gate, key, mark, trigger or number of tokens that is no array formula.

    Returns
    -------
    callable
        The same function.

    Examples
    --------
    >>> @one_run_only
    ... def shortest(view):
    ...     return view.row == min(view.row, key=lambda i: view.prompt[i])
    >>> shortest.one_run_only
    True
    """
    function.one_run_only = True  # type: ignore[attr-defined]
    return function


def came(view: View, some: Bools) -> Ints:
    """Count, for each row, how many of some rows came no later than it.

    Parameters
    ----------
    view : View
        The engine.
    some : ndarray of bool, shape (..., n)
        Which rows are counted.

    Returns
    -------
    ndarray of int, shape (..., n)
        Numbers; rows of one run are in order of arrival, those of many runs need not be.
    """
    if view.row.ndim == 1:
        return np.cumsum(some)
    order = np.argsort(view.row, axis=-1)
    sums = np.cumsum(np.take_along_axis(some, order, -1), axis=-1)
    found = np.empty(sums.shape, dtype=np.int64)
    np.put_along_axis(found, order, sums, -1)
    return found


def everyone(view: View) -> tuple[Bools, float | None]:
    """Gate: every row may run.

    Parameters
    ----------
    view : View
        The engine.

    Returns
    -------
    tuple
        Mask of the rows, and no wake-up time: nobody is held.
    """
    return np.ones(view.row.shape, dtype=bool), None


def decodes_first(view: View) -> Sequence[npt.NDArray[np.generic]]:
    """Key: decodes, then started prefills, then new rows; inside each by arrival.

    Parameters
    ----------
    view : View
        The engine.

    Returns
    -------
    sequence of ndarray
        Columns, the most significant first.
    """
    group = np.where(view.decoding, 0, np.where(view.resident, 1, 2))
    return group, view.row


def queue_order(view: View) -> Sequence[npt.NDArray[np.generic]]:
    """Key: one queue; a row goes to its end when its prefill is done.

    Parameters
    ----------
    view : View
        The engine.

    Returns
    -------
    sequence of ndarray
        Columns, the most significant first.
    """
    return (view.queued,)


def arrival_order(view: View) -> Sequence[npt.NDArray[np.generic]]:
    """Key: by arrival.

    Parameters
    ----------
    view : View
        The engine.

    Returns
    -------
    sequence of ndarray
        Columns, the most significant first.
    """
    return (view.row,)


def last_in_key(view: View, order: Sequence[int], row: int, served: Sequence[bool]) -> int | None:
    """Victim: the last resident in the order that has no token yet in this plan.

    Parameters
    ----------
    view : View
        The engine.
    order : sequence of int
        All live rows in key order.
    row : int
        The resident that needs memory.
    served : sequence of bool
        Rows that already have tokens or were evicted in this plan.

    Returns
    -------
    int or None
        A row after ``row``, or ``row`` itself.
    """
    for other in reversed(order):
        if other == row or (view.resident[other] and not served[other]):
            return other
    return None


def until_next_event(view: View) -> float:
    """Trigger: a decode-only plan stays valid until somebody arrives, ends or memory runs out.

    That is so where order is moot because all who are present decode and are served. A policy with
    a gate or marks of its own may change its mind before; unless it has a trigger of its own, each
    of its iterations is planned anew.

    Parameters
    ----------
    view : View
        The engine.

    Returns
    -------
    float
        Iterations: no bound of its own.
    """
    return np.inf


def until_somebody_changes(view: View) -> float:
    """Trigger of a gate or a mark that decides nothing while all present decode and are served.

    Parameters
    ----------
    view : View
        The engine.

    Returns
    -------
    float
        Iterations: no bound of its own.
    """
    return np.inf


@dataclass(frozen=True, slots=True)
class Budget:
    """How much in one iteration.

    Parameters
    ----------
    tokens : int or callable, optional
        Tokens, or a function of the view; the engine's budget if not given.
    rows : int, optional
        Rows; the engine's slots if not given.
    whole : bool
        A prompt is processed in one piece.
    head_of_line : bool
        A new row that does not fit stops the new rows behind it; otherwise they may pass it.
    chunk : int, optional
        Prompt tokens of one row; the engine's if not given.
    alone : bool
        A row that is alone, nobody else runs or waits, may take all tokens: no chunk.
    decodes : int, optional
        Decodes in one iteration; no limit if not given.
    ranked : bool
        Slots and memory are dealt out anew in each iteration, in key order; a row that does not
        fit stops those behind it with the same first key column, and residents that get nothing
        leave. Otherwise residents keep what they have until somebody must leave.
    """

    tokens: int | Callable[[View], Any] | None = None
    rows: int | None = None
    whole: bool = False
    head_of_line: bool = True
    chunk: int | None = None
    alone: bool = False
    decodes: int | None = None
    ranked: bool = False

    def limit(self, view: View) -> Any:
        """Tokens of the next iteration.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        int or ndarray of int
            At most the engine's; of each lane, where the view shows many.
        """
        own = self.tokens(view) if callable(self.tokens) else self.tokens
        if isinstance(own, np.ndarray):
            return np.minimum(view.tokens, own)
        return view.tokens if own is None else min(view.tokens, own)


@dataclass(frozen=True, slots=True)
class Admit:
    """May a new row take memory now.

    Parameters
    ----------
    watermark : float
        Share of the KV blocks that must stay free after an admission.
    reserve : {"prompt", "chunk", "most"}
        What must fit and is set aside: blocks for all its tokens so far, for the first chunk, or
        for its prompt and ``most`` output tokens until it ends.
    bump : bool
        A new row may push out residents that come after it in the order.
    most : int
        Output tokens for which room is kept under "most".
    all_fit : bool
        Under "chunk": all its tokens so far must fit, though only its chunk's blocks are taken.
    """

    watermark: float = 0.01
    reserve: Literal["prompt", "chunk", "most"] = "prompt"
    bump: bool = False
    most: int = 0
    all_fit: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.watermark < 1:
            raise InputError(
                f"watermark is a share of the KV blocks, from 0 to below 1, got {self.watermark}",
                field="watermark",
                value=self.watermark,
            )

    def margin(self, total: float) -> int:
        """Blocks that must stay free.

        Parameters
        ----------
        total : float
            KV blocks of the engine; may be infinite.

        Returns
        -------
        int
            Rounded down, as the engines do.
        """
        return int(self.watermark * total) if total < float("inf") else 0

    def room(self, view: View) -> Ints:
        """Count the blocks that must be free for each row, were it a new one, the margin included.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        ndarray of int, shape (..., n)
            Blocks for all its tokens so far, or for those that are set aside.
        """
        size = view.host + view.rem
        if self.reserve == "most":
            size = np.maximum(size, view.prompt + self.most)
        return -(-size // view.block) + self.margin(view.total)

    def fits(self, view: View, row: int, free: float, tokens: int | None = None) -> bool:
        """Whether a new row fits beside the margin.

        Parameters
        ----------
        view : View
            The engine.
        row : int
            The new row.
        free : float
            Free KV blocks.
        tokens : int, optional
            Its first chunk; all its tokens if not given.

        Returns
        -------
        bool
            What is set aside (with tokens to recompute) and the margin fit.
        """
        size = int(view.host[row] + view.rem[row])
        if tokens is not None and self.reserve == "chunk" and not self.all_fit:
            size = int(view.host[row]) + tokens
        elif self.reserve == "most":
            size = max(size, int(view.prompt[row]) + self.most)
        return -(-size // view.block) + self.margin(view.total) <= free


@dataclass(frozen=True, slots=True)
class Blocks:
    """A policy, block by block; see the module for what each decides.

    Parameters
    ----------
    gate, key, budget, admit, victim, route, trigger
        The blocks that every policy has.
    swap : bool
        A victim's KV goes to the host and comes back; otherwise it is computed again.
    mark : callable, optional
        Column of the view to new marks; taken over for the rows that the last iteration served.
    together : Together, optional
        Set where all decodes advance together.
    """

    gate: Gate = everyone
    key: Key = decodes_first
    budget: Budget = field(default_factory=Budget)
    admit: Admit = field(default_factory=Admit)
    victim: Victim = last_in_key
    route: Router = field(default_factory=RoundRobin)
    trigger: Callable[[View], float | Floats] = until_next_event
    together: Together | None = None
    swap: bool = False
    mark: Mark | None = None


def runs_together(blocks: Blocks) -> bool:
    """Whether the fast engines know every rule of a policy whose decodes advance together.

    Parameters
    ----------
    blocks : Blocks
        The policy.

    Returns
    -------
    bool
        False without ``together``, and with rules that only the kernel knows: budgets of tokens,
        rows or decodes of its own, backfill, bumping, swap, room for a chunk where an iteration
        holds one kind.

    Examples
    --------
    >>> runs_together(Blocks(together=Together())), runs_together(Blocks())
    (True, False)
    """
    budget, admit = blocks.budget, blocks.admit
    own = budget.tokens is None and budget.rows is None and budget.decodes is None
    plain = own and budget.head_of_line and not budget.ranked and not blocks.swap
    if blocks.together is None or not plain or admit.bump:
        return False
    return admit.reserve != "chunk" or (blocks.together.mixed and not blocks.together.queue)


class Policy(Protocol):
    """A scheduling policy: a frozen dataclass with these attributes."""

    name: ClassVar[str]
    sees: ClassVar[frozenset[str]]

    @property
    def token_budget(self) -> int | None:
        """Tokens per iteration; None takes the engine's."""

    @property
    def blocks(self) -> Blocks:
        """The composition."""
