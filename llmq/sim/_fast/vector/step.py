r"""One lockstep: each lane does what its engine does next, all lanes at once.

A lane goes from event to event as the calendar does. In one lockstep it may

1. jump to its next arrival if it is empty (:func:`wake`),
2. run iterations that a single prompt fills, in closed form (:func:`burst`),
3. run one iteration in which prefills end or share (:func:`fill`),
4. run decode-only iterations up to the next arrival, the next event of a decode or the end of
   memory (:func:`leap`): ``k`` of them take :math:`k t_1 + e n k (k - 1) / 2`,
5. take out a decode that is done (:func:`finish`); with two at one tick the second one waits for
   the next lockstep, and nothing else happens to the lane before.

Lanes that meet an eviction or another thing that only a scalar engine does are given up.
"""

from __future__ import annotations

import numpy as np

from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.vector.memory import admit, blocks_of, keep_limit, set_limit
from llmq.sim._fast.vector.state import NEVER, State, Sums

__all__ = ["run"]

# Jumps to an arrival are cut short by this share of their length: one iteration too few costs one
# more jump, one too many would be wrong.
SHORT = 1e-9
NOBODY = np.zeros(0, dtype=np.int64)
# Done lanes are carried along until they are this share of all.
CROWD = 1 / 8


def places(mask: Bools) -> Ints:
    """Return where a mask holds."""
    return mask.nonzero()[0]


def run(s: State, sums: Sums) -> None:
    """Run all lanes to the end."""
    r = s.rules
    while wake(s, sums):
        s.look()
        short = keep_limit(s) if r.grows else NOBODY
        # Where prefill shares the iteration, the next one decodes whatever else it does.
        if r.mixed and short.size:
            s.undo(short, sums)
        took = prefill(s, sums)
        short = set_limit(s) if r.grows else NOBODY
        if r.mixed and short.size:
            s.undo(short, sums)
        leap(s, took, sums)
        finish(s)


def wake(s: State, sums: Sums) -> bool:
    """Jump over the time in which a lane is empty, and drop lanes that are done."""
    empty = places((s.next > s.clock) & (s.decodes == 0.0))
    if empty.size:
        coming = s.next[empty]
        done = coming >= NEVER
        if np.count_nonzero(done) > CROWD * (s.width - 1):
            s.retire((s.next >= NEVER) & (s.decodes == 0.0), sums)
            return wake(s, sums)
        empty, coming = empty[~done], coming[~done]
        s.idle[empty] += coming - s.clock[empty]
        s.clock[empty] = coming
    return s.width > 0


def prefill(s: State, sums: Sums) -> Bools:
    """Run prefill iterations where a request waits or is half done."""
    r, took = s.rules, np.zeros(s.width, dtype=bool)
    lanes = places((s.next <= s.clock) & (s.decodes < r.gate) & (s.due > s.tick))
    if r.picky and lanes.size:
        left = r.budget - s.decodes[lanes] * r.mixed
        fits = admit(s, lanes, left, ahead=int(r.mixed))
        stuck = lanes[~fits & (s.decodes[lanes] == 0.0)]
        if stuck.size:
            s.undo(stuck, sums)
        lanes = lanes[fits]
    if lanes.size:
        took[lanes] = True
        if not (r.whole or r.splits):
            lanes = burst(s, lanes)
        fill(s, lanes, sums)
    return took


def burst(s: State, lanes: Ints) -> Ints:
    r"""Run the iterations that the first prompt fills alone: all but its last piece."""
    # Each holds ``c`` prompt tokens and, in mixed iterations, ``n`` decodes, so the KV tokens
    # that are read grow by ``c + n`` from one to the next.
    r, rest = s.rules, s.data.prompt[s.head[lanes]] - s.have[lanes]
    beside = s.decodes[lanes] if r.mixed else np.zeros(lanes.size)
    piece = np.minimum(r.budget - beside, r.chunk)
    long = places(rest > piece)
    if not long.size:
        return lanes
    at, piece, beside, rest = lanes[long], piece[long], beside[long], rest[long]
    steps = np.ceil(rest / piece) - 1.0
    have = s.have[at]
    held = have
    if r.mixed:
        steps = np.minimum(steps, s.limit[at] - s.tick[at])
        held = have + s.kv[at]
        s.kv[at] += steps * beside
        s.tick[at] += steps
    else:
        s.alone[at] += steps
    tokens = piece + beside
    area = steps * held + tokens * (steps * (steps + 1.0) / 2.0)
    after = have + steps * piece
    span = steps * r.curve[tokens.astype(np.int64)] + r.per_kv_mixed * area
    if r.per_work:
        span += r.per_work * ((after * after - have * have) / 2.0)
    s.clock[at] += span
    s.have[at] = after
    s.served[at] += steps * tokens
    s.area[at] += area
    return lanes[s.limit[lanes] > s.tick[lanes]] if r.mixed else lanes


def fill(s: State, lanes: Ints, sums: Sums) -> None:
    """Run one iteration: prompts in the order of arrival while tokens last."""
    r = s.rules
    left, held = np.full(lanes.size, float(r.budget)), np.zeros(lanes.size)
    work, ended = np.zeros(lanes.size), []
    if r.mixed:
        beside = s.decodes[lanes]
        left -= beside
        held = s.kv[lanes] + beside
        s.kv[lanes] = held
        s.tick[lanes] += 1.0
    else:
        s.alone[lanes] += 1.0
    here, at, turn = lanes, np.arange(lanes.size), 0
    while here.size:
        turn += 1
        row, have = s.head[here], s.have[here]
        want = s.data.prompt[row] - have
        give = np.minimum(want, left[at])
        if r.splits:
            give = np.minimum(give, _chunk(s, here, turn) if r.alone else r.chunk)
        have += give
        left[at] -= give
        held[at] += have
        if r.per_work:
            work[at] += give * (have - give / 2.0)
        if turn > 1 or r.splits:  # the first prompt had its other pieces in a burst
            s.have[here] = have
            if r.splits:
                _give_up_on_two(s, here[(give < want) & (left[at] > 0.0)], sums)
            whole = places(give == want)
            here, at, row = here[whole], at[whole], row[whole]
        ended.append((here, row))
        _enter(s, here, row)
        if turn >= r.rows:
            break
        more = (s.next[here] <= s.clock[here]) & (left[at] > 0.0)
        if not r.one_slot:
            more &= s.decodes[here] < r.slots
        again = places(more)
        here, at = here[again], at[again]
        if r.picky and here.size:
            fits = places(admit(s, here, left[at], ahead=0))
            here, at = here[fits], at[fits]
    tokens = r.budget - left
    span = r.curve[tokens.astype(np.int64)] + r.per_kv_mixed * held
    if r.per_work:
        span += r.per_work * work
    s.clock[lanes] += span
    s.served[lanes] += tokens
    s.area[lanes] += held
    for there, row in ended:
        _log_prefill(s, there, row)


def _chunk(s: State, lanes: Ints, turn: int) -> Floats:
    """Cut the prompts of lanes to a chunk, but not a prompt that is alone there."""
    more = s.head[lanes] + 1
    coming = s.data.arrival.take(more, mode="clip") <= s.clock[lanes]
    others = (coming & (more < s.stop[lanes])) | (s.decodes[lanes] > 0.0) | (turn > 1)
    return np.where(others, s.rules.chunk, s.rules.budget)


def _enter(s: State, lanes: Ints, row: Ints) -> None:
    """Turn complete prefills into decodes and look at the next request of each lane."""
    r, data = s.rules, s.data
    s.claim()
    prompt, tick = data.prompt[row], s.tick[lanes]
    last = tick + data.output[row] - (1 - r.lag)
    event = np.minimum(last, _first(s, tick, row)) if r.staged else last
    slot = s.top[lanes]
    flat = s.base[lanes] + slot
    s.top[lanes] = s.flat_who[flat]
    s.flat_who[flat] = row
    s.flat_ends[flat] = event
    if r.staged:
        s.flat_later[flat] = last
    sooner = places(event < s.due[lanes])
    if sooner.size:
        s.due[lanes[sooner]] = event[sooner]
        s.slot[lanes[sooner]] = slot[sooner]
    s.decodes[lanes] += 1.0
    s.kv[lanes] += prompt
    if r.grows:
        s.booked[lanes] = 0.0
        s.flat_growth[_residue(s, lanes, tick - prompt)] += 1.0
    s.have[lanes] = 0.0
    row = row + 1
    s.head[lanes] = row
    coming = s.data.arrival.take(row, mode="clip")
    coming[row == s.stop[lanes]] = NEVER
    s.next[lanes] = coming


def _first(s: State, tick: Floats, row: Ints) -> Floats:
    """Tick of the first visible token; infinite where the end of the prefill makes it."""
    ahead = s.data.hidden[row] + s.rules.lag
    return np.where(ahead > 0.0, tick + ahead, np.inf)


def _residue(s: State, lanes: Ints, tick: Floats) -> Ints:
    """Flat place in ``growth`` of a tick at which a decode takes a new block."""
    block = s.rules.block
    return lanes * int(block) + (tick - block * np.floor(tick / block)).astype(np.int64)


def _log_prefill(s: State, lanes: Ints, row: Ints) -> None:
    now = s.clock[lanes]
    s.data.prefill_end[row] = now
    if s.rules.staged and not s.rules.lag:
        plain = s.data.hidden[row] == 0.0
        s.data.first_token[row[plain]] = now[plain]


def _give_up_on_two(s: State, lanes: Ints, sums: Sums) -> None:
    """Give up lanes in which a second prompt would be cut as well."""
    after = s.head[lanes] + 1
    coming = s.data.arrival.take(after, mode="clip") <= s.clock[lanes]
    two = lanes[coming & (after < s.stop[lanes])]
    if two.size:
        s.undo(two, sums)


def leap(s: State, took: Bools, sums: Sums) -> None:
    """Run decode-only iterations in lanes in which nobody can start a prefill."""
    r = s.rules
    gap = s.next - s.clock
    waits = gap <= 0.0
    go = (s.decodes > 0.0) & ~(took & waits & (s.decodes < r.gate))
    if r.overflows or r.grows:
        _give_up_before(s, go, sums)
    n = s.decodes
    slope = (r.per_kv / 2.0) * n
    # k iterations take k * (base + slope * k) seconds.
    base = r.curve.take(n.astype(np.int64), mode="clip") + r.per_kv * s.kv + slope
    gap = np.where(waits, NEVER, gap)
    root = base + np.sqrt(base * base + slope * gap * 4.0)
    steps = np.maximum(np.ceil(gap * (2.0 * (1.0 - SHORT)) / root), 1.0)
    steps = np.minimum(steps, s.limit - s.tick) * go
    tokens = steps * n
    s.clock += steps * (base + slope * steps)
    s.area += steps * s.kv + tokens * ((steps + 1.0) / 2.0)
    s.kv += tokens
    s.tick += steps
    s.served += tokens


def _give_up_before(s: State, go: Bools, sums: Sums) -> None:
    """Give up lanes whose decodes do not fit in one iteration or in memory."""
    most = min(s.rules.budget, s.rules.slots)
    bad = places(go & (s.due > s.tick) & ((s.decodes > most) | (s.limit <= s.tick)))
    if bad.size:
        s.undo(bad, sums)
        go[bad] = False


def finish(s: State) -> None:
    """Take out the decodes whose last token has come."""
    r, data = s.rules, s.data
    lanes = places(s.due <= s.tick)
    if not lanes.size:
        return
    slot = s.slot[lanes]
    flat = s.base[lanes] + slot
    row, now = s.flat_who[flat], s.clock[lanes]
    if r.staged:
        new = np.isnan(data.first_token[row])
        data.first_token[row[new]] = now[new]
        last = s.flat_later[flat]
        over = last <= s.tick[lanes]
        s.flat_ends[flat] = last
        lanes, slot, flat, row, now = lanes[over], slot[over], flat[over], row[over], now[over]
    data.finish[row] = now
    s.flat_ends[flat] = np.inf
    s.flat_who[flat] = s.top[lanes]
    s.top[lanes] = slot
    s.decodes[lanes] -= 1.0
    size = data.prompt[row] + data.output[row] + (r.lag - 1.0)
    s.kv[lanes] -= size
    if r.grows:
        s.flat_growth[_residue(s, lanes, s.tick[lanes] - size)] -= 1.0
    elif r.keeps:
        s.booked[lanes] -= blocks_of(s, row)
