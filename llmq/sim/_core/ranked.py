"""Slots and memory dealt out anew in each iteration, in key order, for many lanes at once.

A row that does not fit closes its queue (the first key column) to those behind it. Everything
before the first such row is settled, so each pass closes one queue of each lane for good, and there
are no more passes than queues.
"""

from __future__ import annotations

import numpy as np

from llmq.policies.contract.blocks import Blocks
from llmq.policies.contract.view import View
from llmq.sim._core.asked import asked
from llmq.sim._core.fill import Plan, gated, limits, to_blocks
from llmq.sim._core.order import InOrder
from llmq.sim._core.state import State

__all__ = ["deal"]


def deal(s: State, view: View, blocks: Blocks) -> Plan:
    """Compose the next iteration of every lane."""
    eligible, wake = gated(s, view, blocks)
    budget, may_run = blocks.budget, s.present if eligible is None else s.present & eligible
    chunk = min(s.engine.chunk, budget.chunk or s.engine.chunk)
    want = view.rem if budget.whole else np.minimum(view.rem, chunk)
    want = np.asfortranarray(want * may_run)
    need = to_blocks(s.prompt + s.generated + 1, view.block) * may_run
    left, slots = limits(s, view, blocks), view.slots if budget.rows is None else budget.rows
    slots = min(slots, view.slots)
    moot = (want.sum(axis=1) <= left) & (need.sum(axis=1) <= s.total)
    moot &= may_run.sum(axis=1) <= slots
    tokens, rank = want, None
    lanes = np.flatnonzero(~moot)
    ends = (want >= view.rem) & ~view.decoding & may_run
    several = np.flatnonzero(ends.sum(axis=1) > 1)
    if lanes.size or several.size:
        columns = asked(s, view, "key", blocks)
        rank = np.zeros(s.row.shape, np.int64, order="F")
        if several.size:
            InOrder.of(s, columns, several).put(rank, np.arange(s.row.shape[1]))
    if lanes.size:
        order = InOrder.of(s, columns, lanes)
        take, queue = order.take, np.broadcast_to(columns[0], want.shape)
        ask, size, kind, may = take(want), take(need), take(queue), take(may_run)
        place = np.arange(ask.shape[1])
        todo = np.arange(len(lanes))
        given = np.zeros_like(ask)
        while todo.size:
            some = may[todo]
            mine = ask[todo] * some
            rest = left[lanes[todo]][:, None] - (np.cumsum(mine, axis=1) - mine)
            given[todo] = mine if budget.whole else np.clip(rest, 0, mine)
            used = np.cumsum(size[todo] * some, axis=1)
            bad = some & (
                (used > s.total)
                | (np.cumsum(some, axis=1) > slots)
                | ((mine > rest) if budget.whole else (rest <= 0))
            )
            shut = bad.argmax(axis=1)
            hit = bad[np.arange(len(todo)), shut]
            todo, shut, bad = todo[hit], shut[hit], bad[hit]
            if budget.head_of_line:
                closed = kind[todo] == kind[todo, shut][:, None]
                may[todo] &= ~(closed & (place >= shut[:, None]))
            else:
                may[todo, shut] = False
        order.put(tokens, given)
    at, places = np.nonzero(view.resident & (tokens == 0))
    held = np.where(tokens > 0, need, s.held)
    return Plan(tokens, held, (at, places), wake, moot, rank)
