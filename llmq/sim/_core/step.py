"""One step of all lanes: arrive, mark, plan, move memory, advance, emit.

A lane whose rows all decode and are all served runs several iterations in one step: nothing that a
plan depends on changes before somebody arrives, ends, leaves its reasoning or needs a block that is
not there. A policy with a gate or marks of its own says how far that holds (``trigger``).
"""

from __future__ import annotations

import numpy as np

from llmq.policies.contract.blocks import Blocks, everyone, until_next_event
from llmq.policies.contract.view import Bools, Floats, Ints, View
from llmq.sim._core.asked import asked
from llmq.sim._core.fill import Plan, fill, to_blocks
from llmq.sim._core.ranked import deal
from llmq.sim._core.state import FAR, State

__all__ = ["run"]

# Jumps to an arrival are cut short by this share of their length: one iteration too few costs one
# more step, one too many would be wrong.
SHORT = 1e-9
# Boundaries in a row at which nobody is served, iterations after which a lane must have moved on.
WAITS, LOOK = 10_000, 1 << 13


def run(s: State, blocks: Blocks) -> None:
    """Serve all lanes to the last token."""
    curve = _curve(s)
    plain = blocks.gate is everyone and blocks.mark is None and not callable(blocks.budget.tokens)
    jumps = plain or blocks.trigger is not until_next_event
    seen = _progress(s)
    while s.retire():
        _wake(s)
        s.arrive()
        s.started[~(s.held > 0).any(axis=1)] = 0
        view = s.view()
        if blocks.mark is not None:
            new = np.broadcast_to(asked(s, view, "mark", blocks), s.mark.shape)
            np.copyto(s.mark, new, where=s.served)
        plan = deal(s, view, blocks) if blocks.budget.ranked else fill(s, view, blocks)
        took = plan.tokens > 0
        busy = np.asarray(took.any(axis=1))
        swapped = _evict(s, plan, blocks.swap)
        _hold(s, plan, busy, swapped)
        _advance(s, view, blocks, plan, took, busy, swapped, curve, jumps)
        s.steps += 1
        if s.steps % LOOK == 0:
            # Evicted again and again before anybody gets a token.
            now = _progress(s)
            stuck = [lane for lane, made in now.items() if seen.get(lane) == made]
            s.give_up(np.flatnonzero(np.isin(s.lane, stuck)))
            seen = now


def _progress(s: State) -> dict[int, tuple[int, int, int]]:
    """Count what has been made so far in each lane in which somebody is."""
    made, here = s.generated.sum(axis=1), s.present.sum(axis=1)
    columns = s.lane.tolist(), s.next.tolist(), here.tolist(), made.tolist()
    return {lane: (n, k, m) for lane, n, k, m in zip(*columns, strict=True) if k}


def _curve(s: State) -> Floats:
    """Seconds of an iteration by its tokens, attention aside."""
    most = int(min(s.engine.token_budget, s.data.prompt.sum() + len(s.data.prompt)))
    return np.asarray(s.engine.law.curve(np.arange(most + 1)), float)


def _wake(s: State) -> None:
    """Jump over time in which nobody is there, or nobody may run."""
    here = s.present.any(axis=1)
    until = np.where(here, np.minimum(s.coming, s.wake), s.coming)
    lost = here & np.isinf(until) & (until > 0)
    if lost.any():
        s.give_up(np.flatnonzero(lost))
    # A lane that is done stays where it is.
    s.clock = np.where(np.isinf(until), s.clock, np.maximum(s.clock, until))
    s.wake[:] = -np.inf


def _evict(s: State, plan: Plan, swap: bool) -> Ints:
    """Take the memory of those that leave; KV tokens that move to the host, by lane."""
    swapped = np.zeros(s.width, np.int64)
    lanes, slots = plan.evict
    if lanes.size:
        kv = s.kv[lanes, slots]
        s.evictions += np.bincount(lanes, minlength=s.width)
        many = np.bincount(lanes, kv, s.width).astype(np.int64)
        s.kv[lanes, slots] = s.held[lanes, slots] = 0
        if swap:
            s.host[lanes, slots] += kv
            swapped = many
        else:
            s.missing[lanes, slots] += kv
            s.recomputed += many
    return swapped


def _hold(s: State, plan: Plan, busy: Bools, swapped: Ints) -> None:
    """Let lanes in which nobody runs wait."""
    s.waits = np.where(busy, 0, s.waits + 1)
    idle = np.flatnonzero(~busy & s.present.any(axis=1))
    if not idle.size:
        return
    moved = np.isin(idle, plan.evict[0])
    s.wake[idle] = np.where(moved, -np.inf, plan.wake[idle])
    bad = (~moved & ~(s.wake[idle] > s.clock[idle])) | (s.waits[idle] > WAITS)
    if bad.any():
        s.give_up(idle[bad])


def _advance(
    s: State,
    view: View,
    blocks: Blocks,
    plan: Plan,
    took: Bools,
    busy: Bools,
    swapped: Ints,
    curve: Floats,
    jumps: bool,
) -> None:
    """Run the iteration that was planned, or several, in each lane."""
    law, tokens, decoding = s.engine.law, plan.tokens, view.decoding
    comes = took & (s.host > 0)
    if comes.any():
        back = s.host * comes
        swapped = swapped + back.sum(axis=1)
        s.kv += back
        s.host -= back
    s.started += (took & (s.held == 0)).sum(axis=1)
    np.copyto(s.held, plan.held, where=took)
    if s.thinks:
        _resume(s, took)
    size = tokens.sum(axis=1)
    reads = (s.kv * took).sum(axis=1) + size
    fills = took & ~decoding
    prefill = fills.any(axis=1)
    steps = np.ones(s.width, np.int64)
    if jumps:
        free = plan.moot & busy & ~prefill & (s.present == took).all(axis=1) & (swapped == 0)
        if free.any():
            steps = _stretch(s, view, blocks, free, size, reads, curve)
    each = curve[size] + np.where(prefill, law.per_kv_mixed, law.per_kv) * reads
    if law.per_work and prefill.any():
        each += law.per_work * (tokens * (s.kv + tokens / 2) * fills).sum(axis=1)
    each += s.engine.per_swap * swapped
    grow = steps * (steps - 1) // 2 * size
    seconds = np.where(busy, steps * each + law.per_kv * grow, 0.0)
    steps = steps * busy
    s.clock += seconds
    s.busy += seconds
    s.iterations += steps
    s.tokens += steps * size
    s.area += steps * reads + grow * busy
    s.swapped += swapped * busy
    s.prefilled = np.where(busy, prefill, s.prefilled)
    _emit(s, plan, took, decoding, steps, int(blocks.budget.ranked))


def _resume(s: State, took: Bools) -> None:
    """Write down who is served for the first time after its reasoning."""
    lanes, slots = np.nonzero(s.opens & took)
    if lanes.size:
        place = s.lane[lanes] * s.data.n + s.row[lanes, slots]
        s.data.times["resumed"][place] = s.clock[lanes]
        s.opens[lanes, slots] = False


def _stretch(
    s: State, view: View, blocks: Blocks, free: Bools, size: Ints, reads: Ints, curve: Floats
) -> Ints:
    """Count the iterations in which nothing changes, at least one."""
    law = s.engine.law
    most = s.left.min(axis=1)
    if blocks.trigger is not until_next_event:
        own = np.asarray(asked(s, view, "trigger", blocks), float).reshape(-1)
        most = np.minimum(most, np.minimum(np.broadcast_to(own, most.shape), FAR).astype(np.int64))
    if s.total < np.inf:
        # Blocks after the first iteration; each row needs one more every `block` tokens.
        spare = (s.total - s.held.sum(axis=1)).astype(np.int64)
        most = np.minimum(most, 1 + spare // np.maximum(size, 1) * view.block)
    # k iterations take k b + slope k^2: the first that ends at the next arrival or after it.
    slope = law.per_kv / 2 * size
    base = curve[size] + law.per_kv * reads - slope
    gap = s.coming - s.clock
    root = base + np.sqrt(base * base + 4 * slope * np.minimum(gap, 1e300))
    near = np.minimum(np.ceil(2 * (1 - SHORT) * gap / root), FAR).astype(np.int64)
    return np.where(free, np.maximum(np.minimum(most, near), 1), 1)


def _emit(s: State, plan: Plan, took: Bools, decoding: Bools, steps: Ints, ahead: int) -> None:
    """Move tokens; rows with nothing left to process give one, or as many as iterations ran."""
    many, tokens = steps[:, None], plan.tokens
    longer = steps > 1
    s.served = took
    s.kv += tokens * many
    s.missing -= tokens
    whole = took & (s.missing <= 0)
    # Under the other convention the end of a prefill gives no token.
    emits = whole & decoding if s.lag else whole
    made = emits * many
    s.generated += made
    s.left -= made
    s.missing += emits
    if longer.any():
        lanes = np.flatnonzero(longer)
        need = to_blocks(s.kv[lanes] + ahead, s.engine.kv_block)
        s.held[lanes] = np.maximum(s.held[lanes], need * took[lanes])
    ends = whole & ~decoding
    lanes, slots = np.nonzero(ends) if ends.any() else (_NONE, _NONE)
    if lanes.size:
        lanes, slots = _prefilled(s, plan, lanes, slots)
    over = np.nonzero(s.left == 0)
    if over[0].size:
        _events(s, *over)
    # Whoever has come by now is before those who queue again.
    s.arrive()
    if lanes.size:
        nth = np.arange(len(lanes)) - np.searchsorted(lanes, lanes)
        s.queued[lanes, slots] = s.stamp[lanes] + nth + 1
        s.stamp += np.bincount(lanes, minlength=s.width)


_NONE = np.zeros(0, np.int64)


def _prefilled(s: State, plan: Plan, lanes: Ints, slots: Ints) -> tuple[Ints, Ints]:
    """Write down ends of prefills; the rows that go on, in the order of the plan."""
    place = s.lane[lanes] * s.data.n + s.row[lanes, slots]
    log = s.data.times["prefill_end"]
    first = np.isnan(log[place])
    log[place[first]] = s.clock[lanes[first]]
    stay = (s.generated[lanes, slots] < s.output[lanes, slots]).nonzero()[0]
    lanes, slots = lanes[stay], slots[stay]
    if plan.rank is None:
        return lanes, slots
    order = np.lexsort((plan.rank[lanes, slots], lanes))
    return lanes[order], slots[order]


def _events(s: State, lanes: Ints, slots: Ints) -> None:
    """Let rows end their reasoning, give their first visible token, or finish."""
    data, times = s.data, s.data.times
    place, now = s.lane[lanes] * data.n + s.row[lanes, slots], s.clock[lanes]
    made, hidden = s.generated[lanes, slots], s.hidden[lanes, slots]
    output = s.output[lanes, slots]
    over = (made == hidden).nonzero()[0]
    if over.size:
        times["boundary"][place[over]] = now[over]
        s.boundary[lanes[over], slots[over]] = now[over]
        s.opens[lanes[over], slots[over]] = True
    first = (made == hidden + 1).nonzero()[0]
    times["first_token"][place[first]] = now[first]
    s.first[lanes[first], slots[first]] = now[first]
    s.left[lanes, slots] = np.where(made == hidden, 1, output - made)
    done = (made == output).nonzero()[0]
    times["finish"][place[done]] = now[done]
    s.clear(lanes[done], slots[done])
