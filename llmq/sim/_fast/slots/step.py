r"""One lockstep of many SLAI engines: each lane runs its next iteration, or a stretch of them.

A group of decodes is critical when ``now >= mark``. Critical groups are served first, then the
started prefill, then requests of the queue, then the other groups: all of them where the iteration
has room, none where it has none; in between (rare) one group is parted by row.

While nothing is prefilled and all decodes fit, marks do not matter, and ``k`` iterations take
:math:`k t_1 + e n k (k - 1) / 2` up to the next arrival, event of a decode or end of memory; the
marks are those of the last one.

KV blocks are bounded by the number of decodes and their tokens, and counted slot by slot where the
bounds do not decide an admission, an eviction or theta. Lanes that evict are given up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.slots.groups import enter, finish, held, merge, part_groups
from llmq.sim._fast.slots.state import NEVER, State, Sums

__all__ = ["run"]

# Jumps to an arrival are cut short by this share of their length: one iteration too few costs one
# more jump, one too many would be wrong.
SHORT = 1e-9
# Done lanes are carried along until they are this share of all.
CROWD = 1 / 8


@dataclass(slots=True)
class _Plan:
    """What the prefills of an iteration take, lane by lane."""

    taken: Floats  # critical decodes that are served
    tokens: Floats
    held: Floats  # KV tokens of the prefills
    work: Floats
    blocked: Bools  # a request waits for a slot or memory that only a finish gives
    ended: list[tuple[Ints, Ints]]  # complete prefills: lanes, requests


def run(s: State, sums: Sums) -> None:
    """Run all lanes to the end."""
    while _wake(s, sums):
        _arrive(s)
        _iterate(s, sums)


def _wake(s: State, sums: Sums) -> bool:
    """Jump over empty time and drop lanes that are done; whether some are left."""
    empty = np.flatnonzero((s.n == 0.0) & (s.part < 0) & (s.head < 0))
    if empty.size:
        coming = s.next[empty]
        done = coming >= NEVER
        if np.count_nonzero(done) > CROWD * (s.width - 1):
            gone = np.zeros(s.width, dtype=bool)
            gone[empty[done]] = True
            s.retire(gone, sums)
            return _wake(s, sums)
        empty, coming = empty[~done], coming[~done]
        s.clock[empty] = np.maximum(s.clock[empty], coming)
    return s.width > 0


def _arrive(s: State) -> None:
    """Take in the requests that have come."""
    lanes = np.flatnonzero(s.next <= s.clock)
    while lanes.size:
        rows = s.come[lanes]
        first = s.head[lanes] < 0
        s.head[lanes[first]] = rows[first]
        later = ~first
        for lane, row in zip(lanes[later].tolist(), rows[later].tolist(), strict=True):
            s.push(lane, row)
        rows += 1
        s.come[lanes] = rows
        coming = s.data.arrival.take(rows, mode="clip")
        coming[rows == s.stop[lanes]] = NEVER
        s.next[lanes] = coming
        lanes = lanes[coming <= s.clock[lanes]]


def _iterate(s: State, sums: Sums) -> None:
    """Run one iteration in each lane, or a stretch in which only decodes run."""
    r = s.rules
    critical, capped = _critical(s)
    plan = _fill(s, critical)
    left = r.budget - plan.taken - plan.tokens
    room = np.minimum(left, r.most - plan.taken)
    alone = plan.tokens == 0.0
    if r.one_slot:
        room = np.minimum(room, r.slots - plan.taken - ~alone)
    rest = s.n - plan.taken
    every = rest <= room
    some = np.flatnonzero(~every & (room > 0.0))
    if some.size:
        chosen = part_groups(s, some, (plan.taken + room)[some])
        critical = s.mark <= s.clock
        if capped.size:
            critical[:, capped] = part_groups(s, capped, plan.taken[capped])
    served = (critical | every) & (s.count > 0.0)
    if some.size:
        served[:, some] = chosen
    steps, bad = _advance(s, served, plan, alone, every, sums)
    merge(s, served)
    if plan.ended:
        lanes, rows = (np.concatenate(x) for x in zip(*plan.ended, strict=True))
        # Whoever completes a second prefill in an iteration has completed a first one.
        nth = np.repeat(np.arange(len(plan.ended)), [len(x) for x, _ in plan.ended])
        _log_prefill(s, lanes, rows)
        served = enter(s, lanes, rows, nth, served)
    finish(s)
    _mark(s, served)
    bad |= (steps == 0.0) & (s.head >= 0)
    if bad.any():
        s.undo(np.flatnonzero(bad), sums)


def _critical(s: State) -> tuple[Bools, Ints]:
    """Find the critical decodes that are served, and lanes in which some must wait for others."""
    r = s.rules
    critical = s.mark <= s.clock
    most = min(r.budget, r.most, r.slots) if r.one_slot else min(r.budget, r.most)
    capped = np.flatnonzero((s.count * critical).sum(axis=0) > most)
    if capped.size:
        chosen = part_groups(s, capped, np.full(capped.size, float(most)))
        critical = s.mark <= s.clock
        critical[:, capped] = chosen
    return critical, capped


def _bound(s: State, lanes: Ints | slice = slice(None)) -> Floats:
    """Bound the used KV blocks from above."""
    block = s.rules.block
    return s.booked[lanes] + (s.kv[lanes] + (block - 1.0) * s.n[lanes]) // block


def _fill(s: State, critical: Bools) -> _Plan:
    """Give the started prefill and requests of the queue what the critical decodes leave."""
    r, width = s.rules, s.width
    taken = (s.count * critical).sum(axis=0)
    tokens, reads, work = np.zeros((3, width))
    plan = _Plan(taken, tokens, reads, work, np.zeros(width, dtype=bool), [])
    started = s.part >= 0
    able = (started | (s.head >= 0)) & (taken < r.budget)
    if r.one_slot:
        able &= taken < r.slots
    here = np.flatnonzero(able)
    resident = s.n + started
    fresh = ~started[here]
    if fresh.any():
        fits = ~fresh
        fits[fresh] = _admit(s, here[fresh], critical, plan, resident)
        here = here[fits]
    while here.size:
        row = s.part[here]
        give = s.data.prompt[row] - s.have[here]
        left = r.budget - taken[here] - tokens[here]
        whole = give <= left
        give = np.minimum(give, left)
        have = s.have[here] + give
        tokens[here] += give
        reads[here] += have
        work[here] += give * (have - give / 2.0)
        s.have[here] = np.where(whole, 0.0, have)
        more = whole & (give < left)
        here, row, more = here[whole], row[whole], more[whole]
        s.part[here] = -1
        plan.ended.append((here, row))
        here = here[more & (s.head[here] >= 0)]
        if here.size:
            here = here[_admit(s, here, critical, plan, resident)]
    return plan


def _admit(s: State, lanes: Ints, critical: Bools, plan: _Plan, resident: Floats) -> Bools:
    """Start the first request of each queue if slots and memory allow it."""
    r = s.rules
    fits = np.ones(lanes.size, dtype=bool)
    if not r.one_slot:
        slot = resident[lanes] < r.slots
        plan.blocked[lanes[~slot]] = True
        fits &= slot
    if r.limited:
        need = np.ceil(s.data.prompt[s.head[lanes]] / r.block)
        space = r.total - r.margin - need - plan.taken[lanes]
        tight = np.flatnonzero(fits & (space < _bound(s, lanes)))
        if tight.size:
            at = lanes[tight]
            used, more = held(s, at, critical)
            ok = need[tight] + r.margin <= r.total - s.booked[at] - used - more
            plan.blocked[at[~ok]] = True
            fits[tight] = ok
        s.booked[lanes] += need * fits
    come = lanes[fits]
    s.part[come] = s.head[come]
    resident[come] += 1.0
    s.pop(come)
    return fits


def _advance(
    s: State, served: Bools, plan: _Plan, alone: Bools, every: Bools, sums: Sums
) -> tuple[Floats, Bools]:
    """Move clocks, ticks and tokens; the iterations that were run, and lanes to give up."""
    r = s.rules
    m, reads = (s.count * served).sum(axis=0), (s.reads * served).sum(axis=0)
    size = plan.tokens + m
    steps = (size > 0.0).astype(np.float64)
    jump = alone & every & (m > 0.0) & (s.part < 0) & ((s.head < 0) | plan.blocked)
    curve = r.curve.take(size.astype(np.int64))
    if jump.any():
        slope = r.per_kv / 2.0 * m
        base = curve + r.per_kv * reads + slope
        gap = s.next - s.clock
        root = base + np.sqrt(base * base + slope * gap * 4.0)
        far = np.ceil(gap * (2.0 * (1.0 - SHORT)) / np.where(jump, root, 1.0))
        far = np.minimum(np.maximum(far, 1.0), (s.due - s.tick).min(axis=0))
        steps = np.where(jump, far, steps)
    steps, bad = _within_memory(s, served, m, steps)
    area = reads + m * ((steps + 1.0) / 2.0) + plan.held
    rate = np.where(alone, r.per_kv, r.per_kv_mixed)
    each = curve + rate * area + r.per_work * plan.work
    if sums.late is not None:
        first = s.clock + (each - rate * m * ((steps - 1.0) / 2.0))
        _count_late(s, served, sums.late, first, rate * m, steps)
    s.clock += steps * each
    s.busy += steps * each
    s.iterations += steps
    s.tokens += steps * size
    s.area += steps * area
    grown = served * steps
    s.tick += grown
    s.reads += grown * s.count
    s.kv += m * steps
    return steps, bad


def _within_memory(s: State, served: Bools, m: Floats, steps: Floats) -> tuple[Floats, Bools]:
    """Cut stretches to the blocks that are free; where not even one iteration fits: give up."""
    r, bad = s.rules, np.zeros(s.width, dtype=bool)
    if not r.limited:
        return steps, bad
    free = r.total - _bound(s)
    tight = np.flatnonzero(m * np.ceil(steps / r.block) > free)
    if tight.size:
        used, more = held(s, tight, served)
        spare = r.total - s.booked[tight] - used
        safe = np.maximum(spare // np.maximum(m[tight], 1.0) * r.block, 1.0)
        steps[tight] = np.minimum(steps[tight], safe)
        bad[tight] = more > spare
    return steps, bad


def _count_late(
    s: State, served: Bools, late: Floats, first: Floats, grow: Floats, steps: Floats
) -> None:
    """Count the gaps between tokens that are longer than the deadline."""
    # ``first`` is the end of the first iteration, and each takes ``grow`` more than the one
    # before.
    g = s.places
    follow = (first - s.clock) + np.where(steps > 1.0, grow, 0.0)
    for kind, due in enumerate(s.rules.dues):
        mine = slice(kind * g, kind * g + g)
        count = s.count[mine] * served[mine]
        gaps = ((first - s.last[mine] > due) * (count - s.fresh[mine] * served[mine])).sum(axis=0)
        if (more := np.flatnonzero((steps > 1.0) & (follow + grow * (steps - 2.0) > due))).size:
            short = np.zeros(more.size)
            climb = grow[more] > 0.0
            # Gaps follow, follow + grow, ...: those up to the deadline are not late.
            gap = due - follow[more][climb]
            short[climb] = np.maximum(np.floor(gap / grow[more][climb]) + 1.0, 0.0)
            gaps[more] += count.sum(axis=0)[more] * (steps[more] - 1.0 - short)
        late[kind, s.lane] += gaps
    s.fresh[served] = 0.0


def _log_prefill(s: State, lanes: Ints, rows: Ints) -> None:
    now, data = s.clock[lanes], s.data
    data.prefill_end[rows] = now
    if s.rules.staged and not s.rules.lag:
        plain = data.hidden[rows] == 0.0
        data.first_token[rows[plain]] = now[plain]


def _mark(s: State, served: Bools) -> None:
    """Write the marks of the groups that were served."""
    r, g = s.rules, s.places
    theta: float | Floats = r.below
    if r.turn == 0.0:
        theta = r.above
    elif r.turn < np.inf and r.above != r.below:
        high = _bound(s)
        full = high >= r.turn
        unsure = np.flatnonzero(full & (s.booked + np.ceil(s.kv / r.block) < r.turn))
        if unsure.size:
            full[unsure] = s.booked[unsure] + held(s, unsure)[0] >= r.turn
        theta = np.where(full, r.above, r.below)
    back = theta * (s.busy / np.maximum(s.iterations, 1.0))
    for kind, due in enumerate(r.dues):
        mine = slice(kind * g, kind * g + g)
        np.copyto(s.mark[mine], s.clock + due - back, where=served[mine])
        np.copyto(s.last[mine], s.clock, where=served[mine])
