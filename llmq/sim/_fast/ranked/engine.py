"""Policies that deal out memory anew in each iteration, in many replications at once.

For PASCAL, round robin and FCFS with swap on a fleet of equal engines. Nothing changes in a batch
until somebody arrives or lands, ends, leaves its reasoning, is demoted or ends a quantum, or until
memory runs short, so an engine goes from one of these to the next in a *stretch* whose times are
known in closed form. What happens elsewhere cuts a stretch short: an arrival, a request that lands.

Engines of one replication meet where a router looks at all of them: at an arrival and at the end
of a reasoning. Before the first instant at which that can happen each goes on by itself, so in one
step all engines of all replications advance that may. At such an instant the order is that of
:mod:`llmq.sim._dispatcher`: iterations end, requests whose reasoning is over are sent on, arrivals
are placed, iterations start. The trajectory is that of :mod:`llmq.sim._reference.engine`.

QoE (:mod:`llmq.sim.results._reading`) needs no token times: as long as tokens come faster than they
are read the reader's delay stays, so it is looked at where a pause ends or an iteration is slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.policies._pascal_route import PascalRoute
from llmq.policies.contract.blocks import Policy
from llmq.policies.contract.routers import LeastKV
from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.policies.pascal import PASCAL
from llmq.policies.ranked import FCFS, RR
from llmq.sim._fast.ranked.route import Asked, ask
from llmq.sim._fast.ranked.rules import Requests, Rules
from llmq.sim._fast.ranked.state import QUANTA, STAMP, State
from llmq.sim._fast.ranked.step import begin, complete

__all__ = ["RankedLog", "run_ranked", "runs_ranked"]


@dataclass(frozen=True, slots=True, eq=False)
class RankedLog:
    """What happened in each replication."""

    # prefill_end, first_token, finish, boundary, resumed: seconds; NaN where it did not
    # happen and in replications that are undone; shape (replications, n)
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    boundary: Floats
    resumed: Floats
    # seconds that the KV of a request took to another engine; NaN for one that stayed; shape
    # (replications, n)
    transfer: Floats
    server: Ints  # engine that each request arrived at; shape (replications, n)
    qoe: Floats  # quality of experience, from the first visible token on; shape (replications, n)
    # iterations, tokens, evictions, swapped, moved: sums, as in
    # :class:`llmq.sim.results._log.Tally`; shape (replications, engines)
    iterations: Ints
    tokens: Ints
    evictions: Ints
    swapped: Ints
    moved: Ints
    # kv_area, busy, clock: sums and the end of the last iteration, seconds; shape
    # (replications, engines)
    kv_area: Floats
    busy: Floats
    clock: Floats
    # to be run by the reference; their other entries mean nothing; shape (replications,)
    undone: Bools


def runs_ranked(engines: Sequence[Engine], policy: Policy) -> bool:
    """Whether these engines and this policy can be run here at all.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> runs_ranked([engine] * 2, RR()), runs_ranked([engine, engine.with_(max_seqs=4)], RR())
    (True, False)
    """
    # A subclass may decide otherwise, so the type itself counts.
    known = type(policy) in (FCFS, RR, PASCAL) and len(set(engines)) == 1
    route = policy.blocks.route
    routed = type(route) in (LeastKV, PascalRoute) or len(engines) == 1
    if isinstance(route, PascalRoute) and type(policy) is not PASCAL:
        routed = False
    return known and routed and not engines[0].conventions.lag


def run_ranked(
    engines: Sequence[Engine],
    policy: Policy,
    arrival: npt.NDArray[np.floating],
    prompt: npt.NDArray[np.integer],
    output: npt.NDArray[np.integer],
    hidden: npt.NDArray[np.integer],
    link: float = math.inf,
    *,
    tau: float = 0.1,
) -> RankedLog:
    """Serve all replications to the last token.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), max_seqs=2, token_budget=64)
    >>> ones = np.ones((1, 3), int)
    >>> log = run_ranked([engine], RR(quantum=4), np.array([[0.0, 1.0, 2.0]]), ones, 8 * ones,
    ...     0 * ones)
    >>> log.finish
    array([[ 9., 12., 13.]])
    """
    if not runs_ranked(engines, policy):
        raise InputError(
            f"these engines with policy {policy.name!r} cannot run in lockstep: "
            "use engine='reference'"
        )
    size, n = arrival.shape
    most = int(prompt.sum(axis=1).max(initial=0))
    rules = Rules.of(engines[0], policy, tau=tau, link=link, most=most)
    lengths = np.stack([x.ravel() for x in (prompt, output, hidden)]).astype(np.int64)
    data = Requests(n, np.ascontiguousarray(arrival, np.float64).ravel(), lengths)
    state = State(data, rules, size, len(engines))
    state.undone |= _beyond(rules, data, size)
    _run(state, size)
    return _log(state, size)


def _beyond(rules: Rules, data: Requests, size: int) -> Bools:
    """Replications with requests that never fit, or with numbers that do not fit in a key."""
    shape = size, data.count
    prompt, output, _ = data.lengths
    need = -(-(prompt + output) // rules.block)
    quanta = output // rules.quantum >= 1 << (62 - QUANTA)
    never = (need > rules.total) | (prompt > rules.budget) | quanta
    return np.asarray(never.reshape(shape).any(axis=1) | (data.count >= (1 << STAMP) - 1))


def _run(s: State, size: int) -> None:
    """Step by step until everybody has left."""
    engines, n = s.engines, s.data.count
    # The request that comes next in each replication; a column of infinity ends a row.
    arrival = np.full((size, n + 1), np.inf)
    arrival[:, :n] = s.data.arrival.reshape(size, n)
    arrival[s.undone] = np.inf
    following = np.zeros(size, np.int64)
    busy, coming = np.zeros((2, size * engines)), arrival[:, 0].copy()
    due, cross = s.due.reshape(size, engines), s.cross.reshape(size, engines)
    idle = s.planned.reshape(size, engines)
    # Requests that have ended their reasoning at this instant: request, lane, slot.
    crossed = np.zeros((3, 0), np.int64)
    for _ in range((1 << (QUANTA - STAMP - 1)) - 1):
        # Before anybody looks at all engines of a replication each goes on by itself.
        alone = (due < _meet(s, coming, cross)[:, None]).ravel().nonzero()[0]
        if alone.size:
            complete(s, alone[s.planned[alone] > 0])
            begin(s, alone)
        meet = _meet(s, coming, cross)
        together = (meet < np.inf) & (meet <= due.min(axis=1))
        if not together.any():
            if not alone.size:
                return
            continue
        limit = np.where(together, meet, -np.inf)[:, None]
        lanes = ((due <= limit) & (idle > 0)).ravel().nonzero()[0]
        over = complete(s, lanes)
        come = together & (coming == meet)
        if s.rules.moves and (crossed.size or over[0].size):
            crossed = np.concatenate((crossed, (s.req[over], *over)), axis=1)
            moving, crossed = _next(crossed, n)
            come[moving[0] // n] = False
        else:
            moving = crossed
        new = come.nonzero()[0]
        if new.size or moving.size:
            none = np.full(len(new), -1)
            q, lane, slot = np.concatenate(((new * n + following[new], none, none), moving), axis=1)
            ask(s, Asked(q, np.append(meet[new], s.due[moving[1]]), lane, slot), busy)
            following[new] += 1
            coming[new] = arrival[new, following[new]]
        # Iterations start where nobody is left to be asked for at this instant.
        free = coming > meet
        free[crossed[0] // n] = False
        lanes = ((due <= limit) & (idle == 0) & free[:, None]).ravel().nonzero()[0]
        begin(s, lanes)
    # Turns no longer fit in a key.
    s.undone[:] = True


def _meet(s: State, coming: Floats, cross: Floats) -> Floats:
    """When somebody next looks at all engines of a replication, at the earliest."""
    return np.minimum(coming, cross.min(axis=1)) if s.rules.moves else coming.copy()


def _next(crossed: Ints, n: int) -> tuple[Ints, Ints]:
    """Take the first request of each replication; those, and the others."""
    crossed = crossed[:, np.argsort(crossed[0])]
    rep = crossed[0] // n
    first = np.ones(len(rep), bool)
    first[1:] = rep[1:] != rep[:-1]
    return crossed[:, first], crossed[:, ~first]


def _log(s: State, size: int) -> RankedLog:
    data, sums, shape = s.data, s.sums, (size, s.data.count)
    answers = data.lengths[1] - data.lengths[2]
    whole = s.rules.tau * answers * (answers - 1) / 2 + answers * data.delay
    qoe = np.where(whole > 0, 1 - data.stalled / np.where(whole > 0, whole, 1.0), 1.0)
    qoe[np.isnan(data.finish)] = np.nan
    times = {
        name: getattr(data, name).reshape(shape)
        for name in ("prefill_end", "first_token", "finish", "boundary", "resumed", "transfer")
    }
    times["qoe"] = qoe.reshape(shape)
    for column in times.values():
        column[s.undone] = np.nan
    names = ("iterations", "tokens", "evictions", "swapped", "moved", "kv_area", "busy", "clock")
    totals = {name: getattr(sums, name).reshape(size, s.engines) for name in names}
    return RankedLog(server=data.server.reshape(shape), undone=s.undone, **times, **totals)
