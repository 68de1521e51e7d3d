"""Who gets memory: the longest prefix of each queue that fits, found from who had it before.

The result is that of dealing out in key order. It is reached without sorting: as long as the next
row in order fits it is added; otherwise the last one goes, if it comes after that row or if there
is too little room. Where this stops the set is a prefix that cannot grow, and only one is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmq.policies.view import Bools, Ints
from llmq.sim.ranked_rules import Rules
from llmq.sim.ranked_state import EMPTY, LOW

__all__ = ["deal", "prefix"]


def deal(rules: Rules, key: Ints, ran: Bools, need: npt.NDArray[np.integer]) -> Bools:
    """Choose who runs.

    Parameters
    ----------
    rules : Rules
        Room and slots.
    key : ndarray of int, shape (lanes, slots)
        Ranks; ``EMPTY`` for rows that are not here.
    ran : ndarray of bool, shape (lanes, slots)
        Who ran before; any set gives the same result.
    need : ndarray of int, shape (lanes, slots)
        Blocks.

    Returns
    -------
    ndarray of bool, shape (lanes, slots)
        Who runs.
    """
    room = np.full(len(key), rules.total)
    slots = np.full(len(key), rules.slots)
    if not rules.phases:
        return prefix(key, ran, need, room, slots)
    high = key < LOW
    run = high.copy()
    full = ((need * high).sum(axis=1) > room) | (high.sum(axis=1) > slots)
    if full.any():
        some = np.flatnonzero(full)
        own = np.where(high[some], key[some], EMPTY)
        run[some] = prefix(own, ran[some], need[some], room[some], slots[some])
    room -= (need * run).sum(axis=1)
    slots -= run.sum(axis=1)
    # The keys of the high queue become `EMPTY`: they are out of this one.
    below = np.maximum(key, high * EMPTY)
    return np.asarray(run | prefix(below, ran, need, room, slots))


def prefix(key: Ints, ran: Bools, need: npt.NDArray[np.integer], room: Ints, slots: Ints) -> Bools:
    """Find the longest prefix in key order that fits.

    Parameters
    ----------
    key : ndarray of int, shape (lanes, slots)
        Positive ranks; ``EMPTY`` for rows that are not in the queue.
    ran : ndarray of bool, shape (lanes, slots)
        Where to start from.
    need : ndarray of int, shape (lanes, slots)
        Blocks.
    room, slots : ndarray of int, shape (lanes,)
        Blocks and residents that may be used.

    Returns
    -------
    ndarray of bool, shape (lanes, slots)
        The prefix.

    Examples
    --------
    >>> key, none = np.array([[3, 1, 2, EMPTY]]), np.zeros((1, 4), bool)
    >>> prefix(key, none, np.array([[1, 5, 3, 0]]), np.array([8]), np.array([9]))
    array([[False,  True,  True, False]])
    """
    run = ran & (key < EMPTY)
    used, count = (need * run).sum(axis=1), run.sum(axis=1)
    todo = np.arange(len(key))
    while todo.size:
        k, r, here = key[todo], run[todo], np.arange(len(todo))
        next_ = np.maximum(k, r * EMPTY).argmin(axis=1)
        last = (k * r).argmax(axis=1)
        waits = ~r[here, next_] & (k[here, next_] < EMPTY)
        more = need[todo, next_]
        over = (used[todo] > room[todo]) | (count[todo] > slots[todo])
        fits = (used[todo] + more <= room[todo]) & (count[todo] < slots[todo])
        add = waits & fits & ~over
        before = waits & (k[here, next_] < k[here, last]) & r[here, last]
        drop = ~add & (over | before)
        sign = add.astype(np.int64) - drop
        place = np.where(add, next_, last)
        some = np.flatnonzero(add | drop)
        lanes, slot = todo[some], place[some]
        run[lanes, slot] = add[some]
        used[lanes] += sign[some] * need[lanes, slot]
        count[lanes] += sign[some]
        todo = lanes
    return run
