"""Routers of many replications at once: where arrivals go, where requests go on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmq.policies._pascal_route import PascalRoute, answer_choice, new_choice, stays
from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.ranked.rules import BIG
from llmq.sim._fast.ranked.state import LOW, QUANTA, State

__all__ = ["Asked", "ask"]


class Asked(NamedTuple):
    """Requests for which a router is asked, at most one of each replication."""

    q: Ints  # the requests
    time: Floats  # seconds; no lane of the replication is beyond it
    # lane, slot: where a request is that has ended its reasoning; -1 for an arrival
    lane: Ints
    slot: Ints


class _Look(NamedTuple):
    """What a router sees: lanes, iterations that have ended, whether all answers are in time."""

    lanes: Ints
    done: Ints
    good: Bools


def ask(s: State, asked: Asked, busy: Floats) -> None:
    """Place arrivals and let requests whose reasoning has ended go on."""
    q, time, lane, slot = asked
    lanes = (q // s.data.count)[:, None] * s.engines + np.arange(s.engines)
    done = s.ended(lanes, time[:, None])
    route = s.rules.route
    good = _in_time(s, route, lanes, done, time) if route else np.empty(0, bool)
    new = lane < 0
    if new.all():
        to, when = _place(s, q, _Look(lanes, done, good)), time
        coming = q
    elif route is not None:
        a, b = new.nonzero()[0], (~new).nonzero()[0]
        first = _place(s, q[a], _Look(lanes[a], done[a], good[a]))
        go, second = _move(s, lane[b], slot[b], _Look(lanes[b], done[b], good[b]))
        b = b[go]
        ready, start = _leave(s, lane[b], slot[b], second, time[b], busy)
        to, when = np.concatenate((first, second)), np.concatenate((time[a], ready))
        coming = q[a]
    s.cut(to, when)
    place = s.slot(to)
    n = len(coming)
    _arrive(s, coming, to[:n], place[:n], when[:n])
    if n < len(to):
        _fly(s, q[b], to[n:], place[n:], ready, start)


def _in_time(s: State, route: PascalRoute, lanes: Ints, done: Ints, time: Floats) -> Bools:
    """Whether all answers are in time, for lanes of shape (replications, engines)."""
    good = s.safe[lanes] > (time + 1e-9 * (1 + time))[:, None]
    bad = (~good).ravel().nonzero()[0]
    if bad.size:
        lane, step, now = lanes.ravel()[bad], done.ravel()[bad], time[bad // s.engines]
        slot, req, size = s.late[:, lane]
        made = s.size[lane, slot] + step * s.run[lane, slot]
        rest = ((s.req[lane, slot] != req) | (made != size)).nonzero()[0]
        if rest.size:
            good.ravel()[bad[rest]] = _read(s, route.tau, lane[rest], step[rest], now[rest])
    return np.asarray(good)


def _read(s: State, tau: float, lanes: Ints, steps: Ints, time: Floats) -> Bools:
    """Look at every answer of lanes; remember one that is late, and until when none can be."""
    size = s.size[lanes] + s.run[lanes] * steps[:, None].astype(np.int32)
    made, start = size - s.seen[lanes], s.start[lanes]
    late = (time[:, None] - start) / tau >= made
    slot, here = late.argmax(axis=1), np.arange(len(lanes))
    bad = late[here, slot]
    s.late[:, lanes] = slot, np.where(bad, s.req[lanes, slot], -2), size[here, slot]
    s.safe[lanes] = (start + tau * made).min(axis=1)
    return np.asarray(~bad)


def _place(s: State, q: Ints, look: _Look) -> Ints:
    """Choose the lanes of arrivals."""
    lanes, done, good = look
    route = s.rules.route
    # Prompts count from the start of their prefill on: what has started, not only what is there.
    filling = (s.planned[lanes] > 0) * s.filling[lanes]
    held = s.held[lanes] + done * s.batch[lanes] + filling
    if route is None:
        to = np.argmin(held, axis=1)
    else:
        if route.count_waiting:
            held += s.waiting[lanes] - filling
        to = new_choice(good, held)
    s.data.server[q] = to
    return np.asarray(lanes[:, 0] + to)


def _move(s: State, lane: Ints, slot: Ints, look: _Look) -> tuple[Ints, Ints]:
    """Choose who goes on elsewhere, and the lanes they go to."""
    lanes, done, good = look
    route, here = s.rules.route, lane % s.engines
    assert route is not None
    high = s.high[lanes]
    fresh = np.zeros_like(high)
    if not good.any(axis=1).all():
        key = s.key[lanes]
        first = (key >= LOW) & (key < LOW + (1 << QUANTA))
        fresh = (first | (s.ready[lanes] < np.inf)).sum(axis=2)
        fresh[np.arange(len(lane)), here] -= 1
    target = answer_choice(good, high, fresh, here)
    go = (target != here).nonzero()[0]
    if route.adaptive and go.size:
        to, steps = lanes[go, target[go]], done[go, target[go]]
        go = go[~stays(*_room(s, route, lane[go], slot[go], to, steps))]
    return go, lanes[go, target[go]]


def _room(
    s: State, route: PascalRoute, lanes: Ints, slots: Ints, to: Ints, steps: Ints
) -> tuple[Bools, Bools]:
    """Whether there is room for requests where they are and where they would go."""
    rules, n = s.rules, len(lanes)
    both = np.concatenate((lanes, to))
    run, size = s.run[both], s.size[both]
    size[n:] += run[n:] * steps[:, None].astype(np.int32)
    keep = run | (s.key[both] < LOW) if route.room == "high_aware" else run
    keep[np.arange(n), slots] = False
    need = (size + rules.block) // rules.block
    left = rules.total - (need * keep).sum(axis=1)
    own = (s.size[lanes, slots] + rules.block) // rules.block
    fits = (left >= np.concatenate((own, own))) & (keep.sum(axis=1) < rules.slots)
    return fits[:n], fits[n:]


def _leave(
    s: State, lanes: Ints, slots: Ints, to: Ints, time: Floats, busy: Floats
) -> tuple[Floats, Floats]:
    """Take requests from their lanes; when they will be there and from when they are read."""
    size = s.size[lanes, slots].astype(np.int64)
    start, q = s.start[lanes, slots], s.req[lanes, slots]
    s.clear(lanes, slots)
    s.opens[lanes, slots] = False
    ready = np.maximum(time, np.maximum(busy[0, lanes], busy[1, to])) + (size - 1) / s.rules.link
    busy[0, lanes] = busy[1, to] = ready
    s.held[lanes] -= size
    s.held[to] += size
    s.sums.moved[to] += size - 1
    s.data.transfer[q] = ready - time
    return ready, start


def _fly(s: State, q: Ints, to: Ints, slot: Ints, ready: Floats, start: Floats) -> None:
    """Let requests be on their way."""
    s.req[to, slot], s.ready[to, slot], s.start[to, slot] = q, ready, start
    # On its way it has answered nothing: size less `seen` is 0.
    s.seen[to, slot] = -s.rules.block
    s.landing[to] = np.minimum(s.landing[to], ready)
    s.safe[to] = np.minimum(s.safe[to], start)


def _arrive(s: State, q: Ints, lane: Ints, slot: Ints, time: Floats) -> None:
    """Let requests wait."""
    prompt, output, hidden = s.data.lengths[:, q]
    made = np.zeros_like(q)
    low, level = s.rank(prompt, hidden, made)
    stamp = 2 * s.turns[lane] + (s.due[lane] == time)
    s.req[lane, slot], s.key[lane, slot] = q, s.keyed(q, low, level, stamp)
    s.size[lane, slot] = prompt
    s.left[lane, slot] = s.until_turn(prompt, hidden, output, made, low, level)
    s.opens[lane, slot] = hidden == 0
    s.seen[lane, slot] = prompt + hidden
    s.think[lane, slot] = np.where(hidden > 0, hidden, BIG)
    s.waiting[lane] += prompt
    s.high[lane] += ~low
