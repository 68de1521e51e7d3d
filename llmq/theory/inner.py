r"""Loads that a paced schedule carries: the inner side of the bracket around the region.

The bound of :mod:`llmq.theory.facets` holds for every policy, but requests are whole: a batch
cannot always be filled to the last token, slot and KV token. Take a fixed chunk ``ch`` and start
requests at the pace of their rates, spread evenly over the iterations; a started request is served
in every iteration, ``ceil(s / ch)`` chunks and then its decodes. Around their means the tokens of a
batch vary by less than one chunk, the slots by less than one request and the KV by less than one
peak, so a fluid schedule that leaves these margins free fits:

.. math:: N \ge \max\Big(\frac{\lambda\cdot v}{b - (ch - 1)}, \frac{\lambda\cdot k}{k_{max} - 1},
          \frac{\lambda\cdot (g + (blk - 1) k)}{M - peak}\Big).

Memory is charged in whole blocks of ``blk`` tokens (``M`` and the peak rounded to blocks), KV is
read at the larger of the two rates. For an affine law ``b`` is the budget and the engine time is
``c N + a B`` exactly. For another curve batches are kept at or below a cap ``b`` (any up to the
budget; full tiles are the natural ones) and each is charged ``f(b)``, at least its time. The best
chunk and cap count: each gives an achievable load. Serving one request at a time is one more
schedule; it makes the inner region non-empty whenever a request fits.

Status: for one request at a time this is the classical single-server queue. For one class of fixed
lengths the margins bound a staggered sum by its mean plus half its variation. For mixes it is
*tested, not proved* (lemma U2 of the theory core); results say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.theory.demand import Demand, demand
from llmq.theory.envelope import corners

__all__ = ["InnerBound", "Schedule", "inner_bound"]

Floats = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Demand of the classes under one chunk size.

    Parameters
    ----------
    chunk : int
        Most prompt tokens of a request in an iteration.
    tokens : tuple of float
        Tokens of a request.
    slots : tuple of float
        Slot-iterations.
    area : tuple of float
        KV tokens times iterations, in whole blocks.
    attention : tuple of float
        Seconds of attention.
    """

    chunk: int
    tokens: Floats
    slots: Floats
    area: Floats
    attention: Floats


@dataclass(frozen=True, slots=True)
class InnerBound:
    """Fraction of the capacity that paced schedules need; below 1 they are enough.

    Parameters
    ----------
    engine : Engine
        The engine.
    schedules : tuple of Schedule
        One for each chunk size that is tried.
    serial : tuple of float
        Seconds of a request that is served alone.
    peaks : tuple of int
        Most KV that a request of each class holds, in whole blocks, tokens.
    caps : tuple of int
        Batch sizes at which a curve that is not affine is evaluated.
    times : tuple of float
        Seconds of a batch of each of these sizes.
    """

    engine: Engine
    schedules: tuple[Schedule, ...]
    serial: Floats
    peaks: tuple[int, ...]
    caps: tuple[int, ...]
    times: Floats

    def load(self, rates: Sequence[float]) -> float:
        """Return the load of the best schedule.

        Parameters
        ----------
        rates : sequence of float, shape (n_classes,)
            Requests per second on one engine.

        Returns
        -------
        float
            Fraction of the engine's time; at or above 1 this bound says nothing.
        """
        if not any(rates):
            return 0.0
        engine = self.engine
        peak = max(p for p, rate in zip(self.peaks, rates, strict=True) if rate)
        room = engine.kv_blocks * engine.kv_block - peak
        free = math.inf if engine.max_seqs is None else engine.max_seqs - 1
        loads = [_dot(self.serial, rates)]
        if room > 0 and free > 0:
            for s in self.schedules:
                needed = max(_dot(s.slots, rates) / free, _dot(s.area, rates) / room)
                loads.append(
                    self._token_time(s.chunk, _dot(s.tokens, rates), needed)
                    + _dot(s.attention, rates)
                )
        return min(loads)

    def _token_time(self, chunk: int, tokens: float, iterations: float) -> float:
        """Least token time per second of schedules that use at least so many iterations."""
        law, budget = self.engine.law, self.engine.token_budget
        if law.form == "affine" and law.tile == 1:
            count = max(iterations, tokens / (budget - chunk + 1))
            return law.base * count + law.per_token * tokens
        caps, times = np.asarray(self.caps), np.asarray(self.times)
        usable = caps >= chunk
        caps, times = caps[usable], times[usable]
        # Beside the fixed caps: the smallest one at which the other limits bind.
        if iterations * (budget - chunk + 1) > tokens:
            own = max(chunk, math.ceil(tokens / iterations) + chunk - 1)
            caps, times = np.append(caps, own), np.append(times, law.token_time(own))
        return float(np.min(times * np.maximum(iterations, tokens / (caps - chunk + 1))))


def inner_bound(engine: Engine, mix: Mapping[str, RequestClass]) -> InnerBound:
    """Return the loads that paced schedules of an engine carry.

    Parameters
    ----------
    engine : Engine
        The engine.
    mix : mapping of str to RequestClass
        Classes, each of which fits the memory.

    Returns
    -------
    InnerBound
        The bound.
    """
    sizes = sorted({2**i for i in range(engine.chunk.bit_length())} | {engine.chunk})
    cuts = [[demand(request, engine, chunk=size) for request in mix.values()] for size in sizes]
    schedules = tuple(_schedule(engine, size, d) for size, d in zip(sizes, cuts, strict=True))
    law, block = engine.law, engine.kv_block
    alone = zip(cuts[-1], schedules[-1].attention, strict=True)
    chunk_time, step_time = law.token_time(engine.chunk), law.token_time(1)
    caps = _caps(engine)
    return InnerBound(
        engine,
        schedules,
        tuple(float(d.chunks) * chunk_time + float(d.decodes) * step_time + t for d, t in alone),
        tuple(-(-d.peak // block) * block for d in cuts[-1]),
        caps,
        tuple(law.curve(caps).tolist()),
    )


def _schedule(engine: Engine, chunk: int, demands: Sequence[Demand]) -> Schedule:
    law = engine.law
    read = max(law.per_kv, law.per_kv_mixed)
    return Schedule(
        chunk,
        tuple(float(d.tokens) for d in demands),
        tuple(float(d.slots) for d in demands),
        tuple(float(d.area) + (engine.kv_block - 1) * float(d.slots) for d in demands),
        tuple(read * float(d.area) + law.per_work * float(d.work) for d in demands),
    )


def _caps(engine: Engine) -> tuple[int, ...]:
    """Vertices of the curve and about fifty sizes between, at full tiles."""
    law, budget = engine.law, engine.token_budget
    if law.form == "affine" and law.tile == 1:
        return ()
    grid = np.geomspace(1, budget, 48) / law.tile
    sizes = np.concatenate((corners(law, budget), np.ceil(grid) * law.tile)).astype(np.int64)
    full = budget // law.tile * law.tile
    return tuple(np.unique(np.append(sizes[sizes <= budget], max(full, 1))).tolist())


def _dot(weights: Sequence[float], rates: Sequence[float]) -> float:
    return sum(w * r for w, r in zip(weights, rates, strict=True))
