"""Who gets memory: the longest prefix of each queue that fits, found from who had it before.

The result is that of dealing out in key order. It is reached without sorting: as long as the next
row in order fits it is added; otherwise the last one goes, if it comes after that row or if there
is too little room. Where this stops the set is a prefix that cannot grow, and only one is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmq.policies.contract.view import Bools, Ints
from llmq.sim._fast.ranked.rules import Rules
from llmq.sim._fast.ranked.state import EMPTY, LOW

__all__ = ["deal", "prefix"]


def deal(
    rules: Rules, key: Ints, ran: Bools, need: npt.NDArray[np.integer]
) -> tuple[Bools, Ints, Ints]:
    """Choose who runs."""
    room, slots = np.full(len(key), rules.total), np.full(len(key), rules.slots)
    if not rules.phases:
        return prefix(key, ran, need, room, slots)
    high = key < LOW
    run, used, rows = high.copy(), (need * high).sum(axis=1), high.sum(axis=1)
    full = ((used > room) | (rows > slots)).nonzero()[0]
    if full.size:
        own = np.where(high[full], key[full], EMPTY)
        run[full], used[full], rows[full] = prefix(
            own, ran[full], need[full], room[full], slots[full]
        )
    # The keys of the high queue become `EMPTY`: they are out of this one.
    below = np.maximum(key, high * EMPTY)
    low, more, others = prefix(below, ran, need, room - used, slots - rows)
    return run | low, used + more, rows + others


def prefix(
    key: Ints, ran: Bools, need: npt.NDArray[np.integer], room: Ints, slots: Ints
) -> tuple[Bools, Ints, Ints]:
    """Find the longest prefix in key order that fits.

    Examples
    --------
    >>> key, none = np.array([[3, 1, 2, EMPTY]]), np.zeros((1, 4), bool)
    >>> prefix(key, none, np.array([[1, 5, 3, 0]]), np.array([8]), np.array([9]))
    (array([[False,  True,  True, False]]), array([8]), array([2]))
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
    return run, used, count
