"""What a policy sees and what it returns."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.model.time.batchtime import BatchTime

__all__ = ["Batch", "Bools", "Floats", "Ints", "View"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]


class View(NamedTuple):
    """What a policy sees at an iteration boundary: live rows in arrival order, read-only.

    Parameters
    ----------
    time : float
        Seconds.
    row, klass : ndarray of int, shape (n,)
        Number of the request in arrival order, code of its class; all arrays have the row last.
    arrival : ndarray, shape (n,)
        Seconds.
    queued : ndarray of int, shape (n,)
        Place in one queue of all rows, see :func:`queue_order`.
    prompt, generated : ndarray of int, shape (n,)
        Prompt tokens, output tokens so far.
    thought : ndarray of int, shape (n,)
        Hidden reasoning tokens among them: what has been seen, not what will come.
    kv, host : ndarray of int, shape (n,)
        Tokens on the device, tokens swapped out.
    rem : ndarray of int, shape (n,)
        Tokens to process before the next output token: prefill, recompute after eviction and a
        prefix hit are the same thing.
    held : ndarray of int, shape (n,)
        KV blocks.
    decoding, resident, answering : ndarray of bool, shape (n,)
        One token from the next output token; in the engine's memory; past its reasoning.
    mark : ndarray, shape (n,)
        What the policy wrote after the row was last served (:class:`llmq.policies.Blocks`), before
        that when the row came, seconds.
    boundary, first : ndarray, shape (n,)
        When the reasoning ended and when the first visible token came, seconds; NaN before.
    output : ndarray of int, shape (n,), or None
        Output tokens, where the policy lists them in ``sees``.
    classes : tuple of str
        Class names by code.
    free, total : float
        KV blocks; infinite without a limit.
    block, tokens : int
        Tokens in a KV block, tokens that one iteration may take.
    slots : float
        Residents that are allowed.
    one_prefill_slot : bool
        All rows in prefill take one slot together.
    law : BatchTime
        Seconds of an iteration.
    iterations : int
        Iterations so far.
    busy : float
        Seconds they took.
    started : int
        Rows admitted since the engine last held none.
    prefilled : bool
        Whether the last iteration held prefill tokens.
    present : ndarray of bool, shape (n,)
        Rows that are there: all of one run; of many lanes at once a shorter one has empty places,
        where all numbers are 0 and all other masks false.
    """

    time: float
    row: Ints
    arrival: Floats
    queued: Ints
    prompt: Ints
    klass: Ints
    kv: Ints
    host: Ints
    generated: Ints
    thought: Ints
    rem: Ints
    held: Ints
    decoding: Bools
    resident: Bools
    answering: Bools
    mark: Floats
    boundary: Floats
    first: Floats
    output: Ints | None
    classes: tuple[str, ...]
    free: float
    total: float
    block: int
    tokens: int
    slots: float
    one_prefill_slot: bool
    law: BatchTime
    iterations: int
    busy: float
    started: int
    prefilled: bool
    present: Bools


class Batch(NamedTuple):
    """What a policy returns: rows to serve with their tokens, rows to evict, or a time to wait to.

    Parameters
    ----------
    rows, tokens, reserve : tuple of int
        Rows of the view to serve, tokens and (at least) KV blocks of each from now on.
    evict : tuple of int
        Rows of the view.
    wake : float, optional
        Seconds; when to look again if nobody can run.
    """

    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    reserve: tuple[int, ...]
    evict: tuple[int, ...] = ()
    wake: float | None = None
