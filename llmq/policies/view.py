"""What a policy sees and what it returns."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

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
    kv, host : ndarray of int, shape (n,)
        Tokens on the device, tokens swapped out.
    rem : ndarray of int, shape (n,)
        Tokens to process before the next output token: prefill, recompute after eviction and a
        prefix hit are the same thing.
    held : ndarray of int, shape (n,)
        KV blocks.
    decoding, resident : ndarray of bool, shape (n,)
        One token from the next output token; in the engine's memory.
    output : ndarray of int, shape (n,), or None
        Output tokens, where the policy lists them in ``sees``.
    free, total : float
        KV blocks; infinite without a limit.
    block, tokens : int
        Tokens in a KV block, tokens that one iteration may take.
    slots : float
        Residents that are allowed.
    one_prefill_slot : bool
        All rows in prefill take one slot together.
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
    rem: Ints
    held: Ints
    decoding: Bools
    resident: Bools
    output: Ints | None
    free: float
    total: float
    block: int
    tokens: int
    slots: float
    one_prefill_slot: bool


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
