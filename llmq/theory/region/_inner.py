r"""Loads that explicit schedules carry: the inner side of the bracket around the region.

The bound of :mod:`llmq.theory.needs._facets` holds for every policy, but requests are whole: a
batch cannot always be filled to the last token, slot and block. Two schedules leave the room they
need.

**Paced mix** (classes of fixed lengths). With chunks of ``ch`` tokens a started request runs in
every iteration: full chunks, the remainder, then its decodes. Class ``j`` is started at the
iterations :math:`\lfloor (i + \theta_j) / x_j \rfloor`. A window of ``m`` iterations holds fewer
than :math:`x_j m + 1` of these, and tokens, slots and blocks of a request rise at most once and
fall at most once with its age, so (layer by layer) each total stays below its mean plus the sum of
the largest values :math:`\min(ch, s_j)`, 1 and ``peak_j``. Totals are whole, hence they fit if

.. math:: N \ge \max\Big(\frac{\lambda\cdot v}{b - \sum_j \min(ch, s_j) + 1},
          \frac{\lambda\cdot k}{k_{max} - J + 1},
          \frac{\lambda\cdot (g + (blk - 1) k)}{M - \sum_j peak_j + blk}\Big)

with ``x_j`` just above :math:`\lambda_j / N`. Memory and peaks are in whole blocks of ``blk``
tokens. Batches stay at or below a cap ``b``, any up to the budget; they cost at most ``f(b)`` each,
and ``c N + a B`` together where the line ``c + a n`` lies above the curve up to ``b`` (the curve
itself if it is affine). KV is read at the larger of the two rates.

**Gangs** (any lengths). Collect requests for a long time, sort them by their lengths and run one
kind after the other, paced as above with ``J = 1``, or one at a time where that is faster. Draining
between kinds is negligible in the limit, so the load is :math:`\sum_j \lambda_j E[w_j]` with the
best time ``w`` for each kind. Where one resource binds for all kinds nothing is lost by sorting.
More than 1600 kinds are rounded up to fewer.

**One phase.** An engine that only prefills or only decodes runs the same two schedules with what a
request brings there: the prompt's chunks, or one token, one slot and ``s + j`` KV tokens in decode
``j``. Tokens, slots and blocks still rise at most once and fall at most once with the age, so the
paced totals hold. Pools in a row are then stable if each has a load below 1: what leaves a stable
station is stationary and ergodic with the rate that comes in, the link serves it in order, and the
next pool carries any stationary ergodic arrivals below its load of 1. KV that waits between the
pools takes no memory of either.

The smallest load over chunks, caps and the two schedules counts. Status: prose proof above (any
stationary ergodic arrivals: each kind is served at more than its rate); the paced totals are also
tested. Both need to know the output lengths. The margins of theory core 2.4, one peak and one slot
for any mix, are smaller; a paced mix of several classes does not always fit into those (lemma U2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.theory.needs._envelope import corners
from llmq.theory.needs._hardware import Limits, tried
from llmq.theory.needs._held import prefill_area
from llmq.theory.needs.demand import phase_peak

__all__ = ["InnerBound", "Schedule", "inner_bound"]

Floats = tuple[float, ...]
Cap = tuple[int, float, float, float]
Array: TypeAlias = npt.NDArray[Any]
_KINDS = 40  # of prompts and of outputs


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a request of each class asks of a paced mix with one chunk size."""

    largest: Floats  # most tokens of a request in one iteration
    slots: Floats  # slot-iterations
    area: Floats  # KV tokens times iterations, in whole blocks
    attention: Floats  # seconds of attention


@dataclass(frozen=True, slots=True)
class InnerBound:
    """Fraction of the capacity that explicit schedules need; below 1 they are enough."""

    engine: Engine  # the engine
    gang: Floats  # seconds of a request of each class, run beside others of its kind
    # whether all requests of a class are alike, so that it can join a paced mix
    fixed: tuple[bool, ...]
    tokens: Floats  # tokens of a request of each class
    peaks: tuple[int, ...]  # most KV that a request of each class holds, in whole blocks, tokens
    # one for each chunk size that is tried; zeros for classes that are not fixed
    schedules: tuple[Schedule, ...]
    # batch sizes, the seconds of such a batch, and intercept and slope of a line above the
    # curve up to there
    caps: tuple[Cap, ...]
    others: tuple[InnerBound, ...] = ()  # of the same engine at other settings; the best counts

    def load(self, rates: Sequence[float]) -> float:
        """Return the load of the best schedule."""
        return min(self._own(rates), *(other.load(rates) for other in self.others), math.inf)

    def _own(self, rates: Sequence[float]) -> float:
        """Load at these settings."""
        served = [j for j, rate in enumerate(rates) if rate > 0]
        best = _dot(self.gang, rates)
        if len(served) < 2 or not all(self.fixed[j] for j in served):
            return best
        engine = self.engine
        room = engine.kv_room - sum(self.peaks[j] for j in served)
        free = math.inf if engine.max_seqs is None else engine.max_seqs - len(served) + 1
        if room < 0 or free < 1:
            return best
        room += engine.kv_block
        tokens = _dot(self.tokens, rates)
        for s in self.schedules:
            margin = sum(s.largest[j] for j in served) - 1
            needed = max(_dot(s.slots, rates) / free, _dot(s.area, rates) / room)
            time = self._token_time(tokens, needed, margin) + _dot(s.attention, rates)
            best = min(best, time)
        return best

    def _token_time(self, tokens: float, needed: float, margin: float) -> float:
        if margin >= self.engine.token_budget:
            return math.inf
        inputs = (np.asarray([x]) for x in (tokens, needed, margin))
        return float(_token_time(self.engine, self.caps, *inputs)[0])


def inner_bound(
    engine: Engine,
    mix: Mapping[str, RequestClass],
    limits: Limits = "settings",
    phases: str = "both",
) -> InnerBound:
    """Return the loads that explicit schedules of an engine carry."""
    if limits == "hardware":
        free = inner_bound(tried(engine), mix, phases=phases)
        return replace(free, others=(inner_bound(engine, mix, phases=phases),))
    sizes = sorted({2**i for i in range(engine.chunk.bit_length())} | {engine.chunk})
    caps = _caps(engine)
    kinds = [_kinds(request, engine.conventions.lag) for request in mix.values()]
    loads = [_work(prompt, steps, phases) for prompt, steps, _ in kinds]
    cuts = [_cut(engine, sizes, *load) for load in loads]
    fixed = tuple(len(share) == 1 for _, _, share in kinds)
    columns = [cut[:, :, 0].T * alike for cut, alike in zip(cuts, fixed, strict=True)]
    return InnerBound(
        engine,
        tuple(
            float(_alone(engine, caps, *load, cut) @ share)
            for load, (_, _, share), cut in zip(loads, kinds, cuts, strict=True)
        ),
        fixed,
        tuple(
            float((prompt + steps) @ share)
            for (prompt, steps, _), (_, _, share) in zip(loads, kinds, strict=True)
        ),
        tuple(_whole_blocks(engine, request, phases) for request in mix.values()),
        tuple(
            Schedule(*(tuple(float(column[i, f]) for column in columns) for f in range(4)))
            for i in range(len(sizes))
        ),
        caps,
    )


def _whole_blocks(engine: Engine, request: RequestClass, phases: str) -> int:
    peak = phase_peak(request, engine, phases)
    return -(-peak // engine.kv_block) * engine.kv_block


def _kinds(request: RequestClass, lag: int) -> tuple[Array, Array, Array]:
    """Prompt, decodes and probability of each kind; many kinds are rounded up to fewer."""
    p: Array
    if request.paired:
        s, o, p = request.prompt.values, request.output.values, request.prompt.probabilities
        if len(s) > _KINDS**2:
            (prompt, i), (output, j) = _round_up(s, p), _round_up(o, p)
            share = np.bincount(i * len(output) + j, weights=p)
            i, j = divmod(np.flatnonzero(share), len(output))
            s, o, p = prompt[i], output[j], share[share > 0]
        else:
            # One number for each pair: sorting rows of pairs is ten times slower.
            width = int(o.max()) + 1
            keys, where = np.unique(s * width + o, return_inverse=True)
            (s, o), p = divmod(keys, width), np.bincount(where, weights=p)
    else:
        marginals = []
        for law in (request.prompt, request.output):
            p = law.probabilities
            if len(law.values) > _KINDS:
                value, where = _round_up(law.values, p)
            else:
                value, where = np.unique(law.values, return_inverse=True)
            marginals.append((value, np.bincount(where.ravel(), weights=p)))
        (prompt, p), (output, q) = marginals
        s, o = np.repeat(prompt, len(output)), np.tile(output, len(prompt))
        p = np.outer(p, q).ravel()
    return s.astype(float), o.astype(float) - 1 + lag, p


def _round_up(values: Array, weights: Array) -> tuple[Array, Array]:
    """Group values: the largest of each group, ascending, and the group of each value."""
    top = int(values.max())
    # Counting is many times faster than sorting where lengths repeat.
    if top < len(values):
        value, weight = np.arange(top + 1), np.bincount(values, weights)
    else:
        order = np.argsort(values, kind="stable")
        value, weight = values[order], weights[order]
    square = weight * value.astype(float) ** 2
    # Half the groups by probability, half by second moment: area lies in the long requests.
    reached = np.cumsum(weight / weight.sum() + square / max(square.sum(), 1.0)) / 2
    ends = np.searchsorted(reached, np.arange(1, _KINDS) / _KINDS)
    tops = np.unique(np.append(value[np.minimum(ends, len(value) - 1)], value[-1]))
    if top < len(values):
        return tops, np.searchsorted(tops, value)[values]
    return tops, np.searchsorted(tops, values)


def _work(prompt: Array, steps: Array, phases: str) -> tuple[Array, Array, Array]:
    """Prompt tokens and decodes of an engine of some phases, and the KV that it receives."""
    if phases == "decode":
        # Whoever has no decode does not come, so nothing is received.
        return prompt * 0, steps, prompt * (steps > 0)
    return prompt, steps * (phases == "both"), prompt * 0


def _cut(
    engine: Engine, sizes: Sequence[int], prompt: Array, steps: Array, received: Array
) -> Array:
    """Largest, slots, area and attention, shape (4, n_sizes, n_kinds)."""
    law, read = engine.law, max(engine.law.per_kv, engine.law.per_kv_mixed)
    rows = []
    for size in sizes:
        slots = np.ceil(prompt / size) + steps
        area = prefill_area(prompt, size, engine.conventions.area)[0]
        area = area + steps * (prompt + received) + steps * (steps + 1) / 2
        attention = read * area + law.per_work * prompt**2 / 2
        largest = np.maximum(np.minimum(prompt, size), np.minimum(steps, 1))
        rows.append((largest, slots, area + (engine.kv_block - 1) * slots, attention))
    return np.swapaxes(np.asarray(rows), 0, 1)


def _alone(
    engine: Engine,
    caps: Sequence[Cap],
    prompt: Array,
    steps: Array,
    received: Array,
    cut: Array,
) -> Array:
    """Least seconds of a request that runs beside others of its kind, or by itself."""
    law, block = engine.law, engine.kv_block
    largest, slots, area, attention = cut
    needed = slots / (engine.max_seqs or math.inf)
    if engine.kv_tokens is not None:
        peak = np.ceil((prompt + steps + received) / block) * block
        needed = np.maximum(needed, area / (engine.kv_room - peak + block))
    tokens = np.broadcast_to(prompt + steps, slots.shape)
    paced = _token_time(engine, caps, tokens, needed, largest - 1) + attention
    step_time = law.token_time(1)
    serial = (slots[-1] - steps) * law.curve(largest[-1]) + steps * step_time + attention[-1]
    return np.asarray(np.minimum(paced.min(axis=0), serial))


def _token_time(
    engine: Engine, caps: Sequence[Cap], tokens: Array, needed: Array, margin: Array
) -> Array:
    """Least token time of ``needed`` batches or more that keep ``margin`` tokens free."""
    # Cap by cap: all at once the tables are larger than the caches, and three times as slow.
    best = np.full(np.broadcast_shapes(tokens.shape, needed.shape, margin.shape), np.inf)
    for most, time, intercept, slope in caps:
        room = most - margin
        count = np.maximum(needed, tokens / np.where(room > 0, room, 1.0))
        cost = np.minimum(time * count, intercept * count + slope * tokens)
        best = np.minimum(best, np.where(room > 0, cost, np.inf))
    # The smallest cap at which the other limits bind; the budget where they never do.
    full = np.maximum(needed, tokens / (engine.token_budget - margin))
    some = tokens > 0  # nothing to compute takes no time
    own = np.ceil(np.divide(tokens, full, out=np.ones_like(full), where=some)) + margin
    own = np.where(some, np.minimum(own, engine.token_budget), margin + 1)
    cost = engine.law.curve(own) * np.maximum(full, tokens / (own - margin))
    return np.asarray(np.where(some, np.minimum(best, cost), 0.0))


def _caps(engine: Engine) -> tuple[Cap, ...]:
    """Batch sizes to stay below, each with its time and a line above the curve up to there."""
    law, budget = engine.law, engine.token_budget
    if law.form == "affine" and law.tile == 1:
        return ((budget, law.token_time(budget), law.base, law.per_token),)
    grid = np.ceil(np.geomspace(1, budget, 40) / law.tile) * law.tile
    full = max(budget // law.tile * law.tile, 1)
    sizes = np.concatenate((corners(law, budget), grid, [full])).astype(np.int64)
    sizes = np.unique(sizes[sizes <= budget])
    # Between two neighbours of these the curve is convex, so a line above them is above it.
    starts = np.arange(law.tile + 1, budget + 1, law.tile) if law.tile > 1 else sizes[:0]
    marks = np.unique(np.concatenate((sizes, starts, starts - 1, np.asarray(law.tokens, int))))
    marks = marks[marks <= budget]
    heights = law.curve(marks)
    return tuple(_line(int(n), marks, heights) for n in sizes)


def _line(cap: int, marks: Array, heights: Array) -> Cap:
    x, y = marks[marks <= cap], heights[marks <= cap]
    slope = (y[-1] - y[0]) / max(x[-1] - x[0], 1)
    # Not below 0 at 0 either: an iteration without tokens takes no time.
    intercept = max(0.0, float(np.max(y - slope * x)))
    return cap, float(y[-1]), intercept, float(slope)


def _dot(weights: Sequence[float], rates: Sequence[float]) -> float:
    return float(sum(w * r for w, r in zip(weights, rates, strict=True)))
