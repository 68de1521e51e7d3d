r"""Gaps between tokens of many SLAI engines, counted while they run; no experiment of its own.

:func:`llmq.sim._fast.slots.engine.count_late` counts gaps beyond the deadline; a percentile needs
all of them. Here the same lockstep is taken apart to look at the groups of decodes before and after
each iteration: a group that was served has its clock moved, one that merged into another or ended
is empty, and one that was parted has lost those that were served. The late gaps that the kernel
counts itself are the check (a test compares them).

Gaps go into bins of half a millisecond. In a stretch of ``k`` iterations in which nothing but
decodes run, all gaps but the first count as their mean; they differ by far less than a bin.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import llmq
from experiments.slai_setting import CLASSES, DEADLINES, Floats, Ints
from llmq.sim._dispatch import serve
from llmq.sim._fast.slots import engine as slots
from llmq.sim._fast.slots import step as slots_step
from llmq.sim._fast.slots.state import Rules, State, Sums
from llmq.sim._fast.vector.engine import LaneLog, Lanes

BIN, BINS = 0.0005, 4000
DUES = tuple(sorted(DEADLINES.values()))
# Place of a class among the deadlines.
KIND = np.array([DUES.index(DEADLINES[name]) for name in CLASSES])


def run_with_gaps(
    chip: llmq.Engine, policy: llmq.policies.SLAI, lanes: Lanes, klass: Ints
) -> tuple[LaneLog, Ints, Floats]:
    """Serve all lanes and count gaps by class and length.

    Parameters
    ----------
    chip : Engine
        The engine of every lane.
    policy : SLAI
        How each schedules.
    lanes : Lanes
        The requests.
    klass : ndarray of int, shape (lanes, n)
        Class codes.

    Returns
    -------
    LaneLog
        As of :func:`llmq.sim._fast.slots.engine.run_slots`.
    ndarray of int, shape (lanes, classes, bins)
        Gaps between two tokens; of no use in lanes that are undone.
    ndarray, shape (lanes, classes)
        Gaps beyond the deadline, as the kernel counts them.
    """
    size, n = lanes.arrival.shape
    times = [np.full(size * n, np.nan) for _ in range(3)]
    sums = Sums(
        iterations=np.zeros(size, dtype=np.int64),
        tokens=np.zeros(size, dtype=np.int64),
        kv_area=np.zeros(size),
        busy=np.zeros(size),
        clock=np.zeros(size),
        undone=np.zeros(size, dtype=bool),
        late=np.zeros((len(DUES), size)),
    )
    data = slots._requests(lanes, KIND[klass].ravel(), policy.order, times)
    state = State(data, Rules.of(chip, policy, DUES, staged=True))
    found = np.zeros((size, len(DUES), BINS), dtype=np.int64)
    while slots_step._wake(state, sums):
        slots_step._arrive(state)
        before = _Before(state)
        slots_step._iterate(state, sums)
        before.count_gaps(state, found)
    for one in times:
        one.reshape(size, n)[sums.undone] = np.nan
    end, first, finish = (one.reshape(size, n) for one in times)
    log = LaneLog(
        end,
        first,
        finish,
        sums.iterations,
        sums.tokens,
        sums.kv_area,
        sums.busy,
        sums.clock,
        sums.undone,
    )
    assert sums.late is not None
    return log, found[:, KIND], sums.late[KIND].T


class _Before:
    """Groups of decodes as they were before an iteration."""

    def __init__(self, s: State) -> None:
        self.count, self.last, self.fresh = s.count.copy(), s.last.copy(), s.fresh.copy()
        self.clock, self.iterations, self.places = s.clock.copy(), s.iterations.copy(), s.places

    def count_gaps(self, s: State, found: Ints) -> None:
        """Add the gaps of the iteration that was run since."""
        if s.places > self.places:
            for name in ("count", "last", "fresh"):
                setattr(self, name, self._widened(getattr(self, name), s.places))
        steps = np.maximum(s.iterations - self.iterations, 1.0)
        moved = (s.last == s.clock) | (s.count == 0.0)
        served = moved & (self.count > 0.0)
        many = (self.count * served).sum(axis=0)
        each, grow = (s.clock - self.clock) / steps, s.rules.per_kv * many
        first = self.clock + each - grow * ((steps - 1.0) / 2.0)
        old = self.count - self.fresh
        parted = np.where((self.count > 0.0) & ~moved, old - (s.count - s.fresh), 0.0)
        number = np.where(served, old, np.maximum(parted, 0.0))
        group, lane = np.nonzero(number)
        self._add(found, s, group, lane, (first - self.last)[group, lane], number[group, lane])
        group, lane = np.nonzero(served & (steps > 1.0))
        again = self.count[group, lane] * (steps[lane] - 1.0)
        self._add(found, s, group, lane, (each + grow / 2.0)[lane], again)

    def _widened(self, sheet: Floats, places: int) -> Floats:
        kinds = sheet.reshape(len(DUES), self.places, -1)
        more = ((0, 0), (0, places - self.places), (0, 0))
        return np.pad(kinds, more).reshape(len(DUES) * places, -1)

    @staticmethod
    def _add(found: Ints, s: State, group: Ints, lane: Ints, gap: Floats, number: Floats) -> None:
        place = np.minimum((gap / BIN).astype(np.int64), BINS - 1)
        np.add.at(found, (s.lane[lane], group // s.places, place), number.astype(np.int64))


def quantile(counts: Ints, q: float, zeros: int = 0) -> float:
    """Quantile of binned gaps, linear inside a bin.

    Parameters
    ----------
    counts : ndarray of int, shape (bins,)
        Gaps by length.
    q : float
        Between 0 and 1.
    zeros : int
        Gaps of length 0 beside them.

    Returns
    -------
    float
        Seconds; NaN without gaps.
    """
    total = int(counts.sum()) + zeros
    if not total:
        return float("nan")
    rank = q * total - zeros
    if rank <= 0:
        return 0.0
    ends = np.cumsum(counts)
    place = int(np.searchsorted(ends, rank))
    below = float(ends[place - 1]) if place else 0.0
    return float(BIN * (place + (rank - below) / counts[place]))


def reference_gaps(
    chip: llmq.Engine, policy: llmq.policies.Policy, lanes: Lanes, klass: Ints, lane: int
) -> tuple[Floats, Floats, list[npt.NDArray[np.float64]]]:
    """Run one lane in the reference engine, which evicts and keeps every token.

    Returns
    -------
    tuple
        End of prefill and first token, seconds, and the gaps of each class.
    """
    trace = llmq.Trace(
        lanes.arrival[lane],
        lanes.prompt[lane],
        lanes.output[lane],
        klass=klass[lane],
        classes=CLASSES,
    )
    rng = np.random.default_rng(0)
    log = serve(trace, (chip,), policy, choice="reference", rng=rng, tokens=True).log
    assert log.tokens is not None
    gaps = [
        np.concatenate([np.diff(log.tokens[i]) for i in np.flatnonzero(klass[lane] == code)])
        for code in range(len(CLASSES))
    ]
    return np.array(log.prefill_end), np.array(log.first_token), gaps


def binned(gaps: Floats) -> Ints:
    """Count gaps by bin."""
    return np.bincount(np.minimum((gaps / BIN).astype(np.int64), BINS - 1), minlength=BINS)
