"""The two halves of an iteration boundary: a stretch ends, the next one begins."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmq.policies._pascal_route import GRACE
from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.ranked.deal import deal
from llmq.sim._fast.ranked.rules import BIG
from llmq.sim._fast.ranked.state import LOW, QUANTA, STAMP, State, Tokens

__all__ = ["begin", "complete"]


def complete(s: State, lanes: Ints) -> tuple[Ints, Ints]:
    """End the stretches of lanes."""
    k, sums = s.planned[lanes], s.sums
    inc = s.run[lanes] * k[:, None].astype(np.int32)
    left = s.left[lanes] - inc
    s.left[lanes] = left
    s.size[lanes] += inc
    if s.rules.moves:
        s.think[lanes] -= inc
    batch, due = s.batch[lanes], s.due[lanes]
    made = k * batch
    sums.iterations[lanes] += k
    sums.tokens[lanes] += s.tokens[lanes] + (made - batch)
    sums.kv_area[lanes] += k * s.kv[lanes] + made * (k - 1) // 2
    sums.busy[lanes] += due - s.law[0, lanes]
    sums.clock[lanes] = due
    filling = s.filling[lanes]
    s.held[lanes] += filling + made
    s.waiting[lanes] -= filling
    # Without a stretch nothing has happened since.
    s.planned[lanes], s.law[1, lanes] = 0, np.inf
    at, slot = np.divmod((left == 0).ravel().nonzero()[0], left.shape[1])
    return _turn(s, lanes[at], slot)


def _turn(s: State, lanes: Ints, slots: Ints) -> tuple[Ints, Ints]:
    """Let requests end, change their queue or their rank."""
    data, q = s.data, s.req[lanes, slots]
    time, size = s.due[lanes], s.size[lanes, slots]
    prompt, output, hidden = data.lengths[:, q]
    made = size - prompt
    over, ends = made == hidden, made == output
    done = ends.nonzero()[0]
    if done.size:
        gone, lane = q[done], lanes[done]
        data.finish[gone] = time[done]
        late = made[done] - hidden[done] - data.summed[gone]
        data.stalled[gone] += data.delay[gone] * late
        np.subtract.at(s.held, lane, size[done])
        s.clear(lane, slots[done])
        stay = (~ends).nonzero()[0]
        lanes, slots, q, time, made, over = (x[stay] for x in (lanes, slots, q, time, made, over))
        prompt, output, hidden = prompt[stay], output[stay], hidden[stay]
    low, level = s.rank(prompt, hidden, made)
    # A row that only leaves its reasoning keeps its rank under round robin.
    marked = level % s.rules.quantum == 0
    key = s.keyed(q, low, level, 2 * s.turns[lanes] + 1)
    if s.rules.phases:
        np.subtract.at(s.high, lanes, low & (s.key[lanes, slots] < LOW))
    s.key[lanes[marked], slots[marked]] = key[marked]
    s.left[lanes, slots] = s.until_turn(prompt, hidden, output, made, low, level)
    some = over.nonzero()[0]
    lanes, slots, time = lanes[some], slots[some], time[some]
    if some.size:
        data.boundary[q[some]] = time
        s.think[lanes, slots] = BIG
        s.opens[lanes, slots] = True
        s.start[lanes, slots] = time + GRACE
        np.minimum.at(s.safe, lanes, time + GRACE)
    return lanes, slots


class _Joins(NamedTuple):
    """Rows that join a batch: place of the lane, slot, request, tokens, whether it is a prompt."""

    at: Ints
    slot: Ints
    q: Ints
    size: Tokens
    fills: Bools


def begin(s: State, lanes: Ints) -> None:
    """Plan and start the next stretch of lanes."""
    time, rules = s.due[lanes], s.rules
    landed = _land(s, lanes, time) if rules.moves else None
    s.turns[lanes] += 1
    size, ran = s.size[lanes], s.run[lanes]
    need = size + 1 if rules.block == 1 else (size + rules.block) // rules.block
    run = need > 0
    total, rows = need.sum(axis=1), run.sum(axis=1)
    tight = ((total > rules.total) | (rows > rules.slots)).nonzero()[0]
    if tight.size:
        chosen = deal(rules, s.key[lanes[tight]], ran[tight], need[tight])
        run[tight], total[tight], rows[tight] = chosen
    kv = total - rows if rules.block == 1 else (size * run).sum(axis=1)
    s.run[lanes], s.batch[lanes], s.kv[lanes] = run, rows, kv
    joins = _first(s, lanes, run, ran, size)
    if landed is not None:
        s.landed[landed] = False
    end = _laws(s, lanes, time, rows, kv)
    _stalls(s, lanes, run, size, joins, end)
    _opening(s, lanes, run, time, end)
    _plan(s, lanes, run, rows, rules.total - total, need)


def _land(s: State, lanes: Ints, time: Floats) -> tuple[Ints, Ints] | None:
    """Take in the rows that have come from other engines; their lanes and slots."""
    some = (s.landing[lanes] <= time).nonzero()[0]
    if not some.size:
        return None
    to, now = lanes[some], time[some]
    at, slot = np.divmod((s.ready[to] <= now[:, None]).ravel().nonzero()[0], s.width)
    lane = to[at]
    q = s.req[lane, slot]
    prompt, output, hidden = s.data.lengths[:, q]
    low, level = s.rank(prompt, hidden, hidden)
    # A row queues here from the instant at which it came, not from this boundary.
    came = s.ready[lane, slot]
    s.key[lane, slot] = s.keyed(q, low, level, 2 * s.turns[lane] + (came == now[at]))
    before = came < now[at]
    if before.any():
        _in_turn(s, lane[before], slot[before], came[before])
    s.size[lane, slot] = s.seen[lane, slot] = prompt + hidden
    s.left[lane, slot] = s.until_turn(prompt, hidden, output, hidden, low, level)
    s.opens[lane, slot] = s.landed[lane, slot] = True
    s.ready[lane, slot] = np.inf
    s.landing[to] = s.ready[to].min(axis=1)
    return lane, slot


def _in_turn(s: State, lanes: Ints, slots: Ints, came: Floats) -> None:
    """Rank arrivals and landed rows that came to lanes during one iteration by their times."""
    to = np.unique(lanes)
    key = s.key[to]
    stamp = (key >> STAMP) & ((1 << (QUANTA - STAMP)) - 1)
    at, slot = np.divmod((stamp == 2 * s.turns[to][:, None]).ravel().nonzero()[0], s.width)
    q = s.req[to[at], slot]
    since = np.empty(key.shape)
    since[at, slot] = s.data.arrival[q]
    since[np.searchsorted(to, lanes), slots] = came
    order = np.lexsort((q, since[at, slot], at))
    at, slot = at[order], slot[order]
    place = np.arange(len(at)) - np.searchsorted(at, at)
    s.key[to[at], slot] = (key[at, slot] >> STAMP << STAMP) + place + 1


def _first(s: State, lanes: Ints, run: Bools, ran: Bools, size: Tokens) -> _Joins:
    """Count what the first iteration has beside decodes: prompts and swaps."""
    change = (run != ran).ravel().nonzero()[0]
    at, slot = np.divmod(change, run.shape[1])
    lane, many = lanes[at], len(lanes)
    q, comes, tokens = s.req[lane, slot], run.ravel()[change], size.ravel()[change]
    fills = comes & (tokens == s.data.lengths[0, q])
    # KV lacks the token made last; what has just landed need not be fetched.
    swaps = ~fills * (tokens - 1)
    if s.rules.moves:
        swaps *= ~(comes & s.landed[lane, slot])
    swapped = np.bincount(at, swaps, many)
    s.sums.evictions[lanes] += np.bincount(at[~comes], minlength=many)
    s.sums.swapped[lanes] += swapped.astype(np.int64)
    prompts, at_fills = tokens[fills], at[fills]
    filling = np.bincount(at_fills, prompts, many).astype(np.int64)
    fills_ = np.bincount(at_fills, minlength=many)
    s.filling[lanes], s.fills[lanes] = filling, fills_
    s.tokens[lanes] = s.batch[lanes] + filling - fills_
    extra = s.rules.per_swap * swapped
    if s.rules.per_work:
        extra += s.rules.per_work * np.bincount(at_fills, prompts * (prompts / 2), many)
    s.law[1, lanes] = extra
    join = comes.nonzero()[0]
    return _Joins(at[join], slot[join], q[join], tokens[join], fills[join])


def _laws(s: State, lanes: Ints, time: Floats, batch: Ints, kv: Ints) -> Floats:
    """Set the times of the stretch; when its first iteration ends."""
    rules, tokens = s.rules, s.tokens[lanes]
    over = tokens > rules.budget
    if over.any():
        s.undone[lanes[over] // s.engines] = True
    last = len(rules.curve) - 1
    rate = np.where(s.fills[lanes] > 0, rules.per_kv_mixed, rules.per_kv)
    head = s.law[1, lanes] + (rules.curve[np.minimum(tokens, last)] + rate * kv)
    idle = batch == 0
    head[idle] = np.inf
    step = rules.curve[np.minimum(batch, last)] + rules.per_kv * (kv + batch)
    s.law[:, lanes] = time, head, step + idle, rules.per_kv / 2 * batch
    return np.asarray(time + head)


def _stalls(s: State, lanes: Ints, run: Bools, size: Tokens, joins: _Joins, end: Floats) -> None:
    """Write down ends of prefills; see whose reader waits for the first iteration."""
    data, tau = s.data, s.rules.tau
    at, slot, q, tokens, fills = joins
    data.prefill_end[q[fills]] = end[at[fills]]
    late = (s.law[1, lanes] > tau) & (s.batch[lanes] > 0)
    if late.any():
        # Where it is slow, all readers of the lane; elsewhere those of the rows that join.
        more, other = np.divmod((run & late[:, None]).ravel().nonzero()[0], run.shape[1])
        rest = (~late[at]).nonzero()[0]
        at, slot = np.append(at[rest], more), np.append(slot[rest], other)
        q, tokens = s.req[lanes[at], slot], size[at, slot]
    prompt, _, hidden = data.lengths[:, q]
    answered = tokens - prompt - hidden
    some = (answered > 0).nonzero()[0]
    if not some.size:
        return
    q, answered = q[some], answered[some]
    delay = end[at[some]] - data.first_token[q] - answered * tau
    more = delay > data.delay[q]
    q, delay, answered = q[more], delay[more], answered[more]
    data.stalled[q] += data.delay[q] * (answered - data.summed[q])
    data.summed[q], data.delay[q] = answered, delay


def _opening(s: State, lanes: Ints, run: Bools, time: Floats, end: Floats) -> None:
    """Write down first visible tokens."""
    at, slot = np.divmod((run & s.opens[lanes]).ravel().nonzero()[0], run.shape[1])
    if not at.size:
        return
    lane, data = lanes[at], s.data
    q, first = s.req[lane, slot], end[at]
    data.first_token[q] = first
    thinks = data.lengths[2, q] > 0
    data.resumed[q[thinks]] = time[at[thinks]]
    s.start[lane, slot] = start = np.minimum(s.start[lane, slot], first)
    s.opens[lane, slot] = False
    np.minimum.at(s.safe, lane, start)


def _plan(s: State, lanes: Ints, run: Bools, batch: Ints, free: Ints, need: Tokens) -> None:
    """Find how many iterations nothing can change, and when the first may end a reasoning."""
    rules, idle = s.rules, batch == 0
    rows = np.maximum(batch, 1)
    steps = np.maximum(s.left[lanes], ~run * np.int32(BIG)).min(axis=1).astype(np.int64)
    if rules.total < BIG:
        sure = 1 + rules.block * (free // rows)
        if rules.block == 1:
            steps = np.minimum(steps, sure)
        else:
            hit = ((steps > sure) & ~idle).nonzero()[0]
            sure[hit] += _slack(s, lanes[hit], run[hit], need[hit], free[hit] % rows[hit])
            steps = np.minimum(steps, sure)
    # Where tokens come more slowly than they are read each must be looked at.
    _, _, step, slope = s.law[:, lanes]
    gap = rules.tau - step
    slow = (gap < 2 * slope * np.maximum(steps - 2, 0)).nonzero()[0]
    if slow.size:
        most = 2 + np.maximum(gap[slow], 0) // (2 * np.maximum(slope[slow], 1e-300))
        most = np.where(gap[slow] < 0, 1, np.minimum(most, BIG)).astype(np.int64)
        steps[slow] = np.minimum(steps[slow], most)
    steps[idle] = 0
    s.planned[lanes] = steps
    s.due[lanes] = s.after(lanes, steps)
    if not rules.moves:
        s.due[lanes[idle]] = np.inf
        return
    landing = s.landing[lanes]
    s.due[lanes[idle]] = landing[idle]
    soon = (landing < np.inf).nonzero()[0]
    if soon.size:
        s.cut(lanes[soon], landing[soon])
    steps = s.planned[lanes].astype(np.int32)
    ahead = (s.think[lanes] - run * steps[:, None]).min(axis=1)
    wait = s.due[lanes] + ahead * s.fastest
    s.cross[lanes] = np.where(ahead < BIG // 2, wait, np.inf)


def _slack(s: State, lanes: Ints, run: Bools, need: Tokens, left: Ints) -> Ints:
    """Count the iterations until blocks that do not go round are used up."""
    block = s.rules.block
    lack = np.where(run, need * block - s.size[lanes] - 1, block)
    lack.sort(axis=1)
    return np.asarray(lack[np.arange(len(lanes)), left].astype(np.int64))
