"""Groups of decodes that are served together: how they merge, part, gain members and lose them.

All of this concerns a few lanes at a time, whose slots are looked at as a matrix.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.slots.state import State

__all__ = ["enter", "finish", "held", "merge", "part_groups"]

_T = TypeVar("_T", bound=np.generic)


def _at_slots(s: State, sheet: npt.NDArray[_T], lanes: Ints) -> npt.NDArray[_T]:
    """Read what belongs to the group of each slot: shape (lanes, slots)."""
    return sheet.ravel().take(s.group[lanes] * s.width + lanes[:, None])


def held(s: State, lanes: Ints, served: Bools | None = None) -> tuple[Floats, Floats]:
    """Count the KV blocks of the decodes, one by one."""
    block, who = s.rules.block, s.who[lanes]
    last = s.later[lanes] if s.rules.staged else s.ends[lanes]
    live = s.ends[lanes] < np.inf
    left = np.where(live, last, 0.0) - _at_slots(s, s.tick, lanes)
    size = s.data.prompt[who] + s.data.output[who] + (s.rules.lag - 1.0) - left
    blocks = np.where(live, np.ceil(size / block), 0.0).sum(axis=1)
    if served is None:
        return blocks, blocks
    crossing = live & (size % block == 0.0) & _at_slots(s, served, lanes)
    return blocks, crossing.sum(axis=1)


def merge(s: State, served: Bools) -> None:
    """Make one group of the groups of a deadline that are served together."""
    kinds, g = len(s.rules.dues), s.places
    block = served.reshape(kinds, g, -1)
    lanes = np.flatnonzero((np.add.reduce(block, axis=1, dtype=np.int64) > 1).any(axis=0))
    if not lanes.size:
        return
    rows, m = kinds * g, lanes.size
    mine = block[:, :, lanes]
    target = mine.argmax(axis=1)[:, None, :] + (np.arange(kinds) * g)[:, None, None]
    goal = np.where(mine, target, np.arange(rows).reshape(kinds, g, 1)).reshape(rows, m)
    at = np.arange(m)
    tick = s.tick[:, lanes]
    shift = tick[goal, at] - tick
    gone = mine.reshape(rows, m) & (goal != np.arange(rows)[:, None])
    due = s.due[:, lanes] + shift
    np.minimum.at(due, (goal, at), due.copy())
    due[gone] = np.inf
    s.due[:, lanes] = due
    for name in ("count", "reads"):
        sheet = getattr(s, name)
        old = sheet[:, lanes]
        new = np.where(gone, 0.0, old)
        np.add.at(new, (goal, at), np.where(gone, old, 0.0))
        sheet[:, lanes] = new
    served[:, lanes] &= ~gone
    flat = s.group[lanes] * m + at[:, None]
    s.group[lanes] = goal.ravel()[flat]
    moved = shift.ravel()[flat]
    s.ends[lanes] += moved
    if s.rules.staged:
        s.later[lanes] += moved


def empty_place(s: State, kinds: Ints, lanes: Ints, served: Bools | None = None) -> Ints:
    """Find a group for new members: the served one of their deadline if there is one."""
    first = kinds * s.places
    rows = first + np.arange(s.places)[:, None]
    fit = 1 * (s.count[rows, lanes] == 0.0)
    if served is not None:
        fit += 2 * served[rows, lanes]
    best = fit.argmax(axis=0)
    found = fit[best, np.arange(lanes.size)] > 0
    place: Ints = np.where(found.all(), first + best, -1)
    return place


def enter(s: State, lanes: Ints, rows: Ints, nth: Ints, served: Bools) -> Bools:
    """Turn complete prefills into decodes."""
    r, data = s.rules, s.data
    kinds = data.urgency[rows]
    place = empty_place(s, kinds, lanes, served)
    if (place < 0).any():
        old = served.reshape(len(r.dues), s.places, -1)
        s.add_groups()
        more = s.places - old.shape[1]
        served = np.pad(old, ((0, 0), (0, more), (0, 0))).reshape(-1, s.width)
        place = empty_place(s, kinds, lanes, served)
    slot = _empty_slot(s, lanes, nth)
    tick, prompt = s.tick[place, lanes], data.prompt[rows]
    event = last = tick + data.output[rows] + (r.lag - 1.0)
    if r.staged:
        ahead = data.hidden[rows] + r.lag
        event = np.where(ahead > 0.0, np.minimum(tick + ahead, last), last)
        s.later[lanes, slot] = last
    s.ends[lanes, slot] = event
    s.who[lanes, slot] = rows
    s.group[lanes, slot] = place
    np.minimum.at(s.due, (place, lanes), event)
    np.add.at(s.count, (place, lanes), 1.0)
    np.add.at(s.reads, (place, lanes), prompt)
    s.n += np.bincount(lanes, minlength=s.width)
    s.kv += np.bincount(lanes, prompt, s.width)
    if r.lag:
        np.add.at(s.fresh, (place, lanes), 1.0)
    if r.limited:
        s.booked -= np.bincount(lanes, np.ceil(prompt / r.block), s.width)
    served[place, lanes] = True
    return served


def _empty_slot(s: State, lanes: Ints, nth: Ints) -> Ints:
    """Find a slot for each new decode: in its lane, the n-th that is free."""
    free = s.ends[lanes] == np.inf
    slot: Ints = free.argmax(axis=1)
    again = np.flatnonzero(nth)
    slot[again] = (free[again].cumsum(axis=1) > nth[again, None]).argmax(axis=1)
    # Where none is found the answer is slot 0, which is free only for the first one.
    found = free[np.arange(lanes.size), slot]
    found[again] &= slot[again] > 0
    if found.all():
        return slot
    s.add_slots()
    return _empty_slot(s, lanes, nth)


def finish(s: State) -> None:
    """Log first tokens and take out the decodes whose last token has come."""
    group, lanes = np.nonzero(s.due <= s.tick)
    if not lanes.size:
        return
    data, now = s.data, s.clock[lanes]
    ends, mine = s.ends[lanes], s.group[lanes] == group[:, None]
    at, slot = np.nonzero(mine & (ends <= s.tick[group, lanes][:, None]))
    lane = lanes[at]
    row = s.who[lane, slot]
    if s.rules.staged:
        new = np.isnan(data.first_token[row])
        data.first_token[row[new]] = now[at[new]]
        last = s.later[lane, slot]
        over = last <= s.tick[group[at], lane]
        s.ends[lane, slot] = ends[at, slot] = last
        at, slot, lane, row = at[over], slot[over], lane[over], row[over]
    data.finish[row] = now[at]
    s.ends[lane, slot] = ends[at, slot] = np.inf
    size = data.prompt[row] + data.output[row] + (s.rules.lag - 1.0)
    gone, read = np.bincount(at, minlength=lanes.size), np.bincount(at, size, lanes.size)
    s.count[group, lanes] -= gone
    s.reads[group, lanes] -= read
    s.due[group, lanes] = np.where(mine, ends, np.inf).min(axis=1)
    np.subtract.at(s.n, lanes, gone)
    np.subtract.at(s.kv, lanes, read)


def part_groups(s: State, lanes: Ints, most: Floats) -> Bools:
    """Find the groups that hold the first decodes by mark and row; part one where it is cut."""
    mark = np.where(s.ends[lanes] < np.inf, _at_slots(s, s.mark, lanes), np.inf)
    order = np.lexsort((s.who[lanes], mark), axis=-1)
    first = np.empty(order.shape, dtype=bool)
    np.put_along_axis(first, order, np.arange(order.shape[1]) < most[:, None], axis=1)
    m = lanes.size
    while True:
        flat = s.group[lanes] * m + np.arange(m)[:, None]
        shape = s.count.shape[0], m
        chosen = np.bincount(flat[first], minlength=shape[0] * m).reshape(shape)
        cut = (chosen > 0) & (chosen < s.count[:, lanes])
        which = np.flatnonzero(cut.any(axis=0))
        if not which.size:
            return chosen > 0
        _part(s, lanes[which], cut[:, which].argmax(axis=0), first[which])


def _part(s: State, lanes: Ints, group: Ints, first: Bools) -> None:
    """Move the first members of a group in each lane to a group of their own."""
    place = empty_place(s, group // s.places, lanes)
    if (place < 0).any():
        old = s.places
        s.add_groups()
        group = group // old * s.places + group % old
        place = empty_place(s, group // s.places, lanes)
    for name in ("tick", "mark", "last"):
        sheet = getattr(s, name)
        sheet[place, lanes] = sheet[group, lanes]
    at, slot = np.nonzero(first & (s.group[lanes] == group[:, None]))
    lane = lanes[at]
    s.group[lane, slot] = place[at]
    for one in (group, place):
        mine = (s.group[lanes] == one[:, None]) & (s.ends[lanes] < np.inf)
        s.count[one, lanes] = mine.sum(axis=1)
        s.due[one, lanes] = np.where(mine, s.ends[lanes], np.inf).min(axis=1)
        last = s.later[lanes] if s.rules.staged else s.ends[lanes]
        left = np.where(mine, last, 0.0) - s.tick[one, lanes][:, None]
        output = s.data.output[s.who[lanes]]
        size = s.data.prompt[s.who[lanes]] + output + (s.rules.lag - 1.0) - left
        s.reads[one, lanes] = np.where(mine, size, 0.0).sum(axis=1)
        if s.rules.lag:
            s.fresh[one, lanes] = (mine & (left == output)).sum(axis=1)
