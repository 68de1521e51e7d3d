"""Tiles, waves and exclusive phases with known values: theory core O5 and O23."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq.errors import InputError
from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.region import stability_region
from llmq.theory.region.tiling import exclusive_cycle, waves

# O5: exclusive batching; milliseconds.
DAI = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)


def test_o5_exclusive_batching() -> None:
    engine, request = Engine(DAI, 512, conventions=THEORY), RequestClass(128, 112)
    cycle = exclusive_cycle(engine, request)
    assert cycle.exact_time == F(134_729, 25)
    assert cycle.time == pytest.approx(5389.16, rel=1e-12)
    exact = DAI.exact()
    assert cycle.exact_time == exact(512) + 112 * exact(4)
    assert (cycle.requests, cycle.batches) == (4, ((512, 4),))
    assert 1e3 * cycle.rate == pytest.approx(0.7422307001, rel=1e-9)
    assert cycle.exact_rate == F(100, 134_729)
    region = stability_region(engine, {"x": request})
    assert 1e3 * region.margin({"x": 1.0}) == pytest.approx(13.9287890659, rel=1e-10)
    ratio = cycle.exact_rate * region.load({"x": 1}, exact=True)
    assert ratio == F(100, 134_729) * 240 * F(3829, 12_800)
    assert float(ratio) == pytest.approx(0.0532875253, rel=1e-9)
    assert llmq.tiling.exclusive_cycle(engine, request) == cycle


def saturated(engine: Engine, s: int, d: int, most: int, iterations: int) -> tuple[F, int]:
    """Row by row: a queue that never empties under the rule; time and finished requests."""
    law, time, finished = engine.law.exact(), F(0), 0
    rows: list[list[int]] = []  # prompt tokens done, decodes done
    for _ in range(iterations):
        ready = [row for row in rows if row[0] == s]
        if ready:
            for row in ready:
                row[1] += 1
            time += law(len(ready), sum(s + row[1] for row in ready))
        else:
            used = kv = 0
            work = F(0)
            while used < engine.token_budget and len(rows) <= most:
                if not rows or rows[-1][0] == s:
                    if len(rows) == most:
                        break
                    rows.append([0, 0])
                row = rows[-1]
                step = min(s - row[0], engine.token_budget - used)
                work += F((row[0] + step) ** 2 - row[0] ** 2, 2)
                row[0], used = row[0] + step, used + step
                kv += row[0]
            time += law(used, kv, work, mixed=True)
        finished += sum(row[0] == s and row[1] == d for row in rows)
        rows = [row for row in rows if row[0] < s or row[1] < d]
    return time, finished


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 30), st.integers(1, 6) | st.none())
@settings(max_examples=25)
def test_o5_cycle_against_a_run_row_by_row(s: int, o: int, budget: int, slots: int | None) -> None:
    """Over many periods the run has the rate of the cycle, up to one period."""
    law = BatchTime.affine(base=1, per_token=0.25, per_kv=0.125, per_work=0.5)
    for rules in (THEORY, ENGINE):
        engine = Engine(law, budget, max_seqs=slots, conventions=rules)
        cycle = exclusive_cycle(engine, RequestClass(s, o))
        d = o - 1 + rules.lag
        time, finished = saturated(engine, s, d, min(slots or budget, budget), 1000)
        lag = abs(finished * cycle.exact_time - time * cycle.requests)
        assert lag <= 3 * cycle.exact_time * cycle.requests
        assert finished >= 8 * cycle.requests


@pytest.mark.parametrize("how", ["calendar", "reference"])
def test_o5_fastertransformer_runs_the_cycle(how: str) -> None:
    """A queue of 48 requests is twelve saturated cycles of 5389.16 ms, whoever simulates."""
    engine = Engine(DAI, 512, conventions=THEORY)
    queue = llmq.Trace([0.0] * 48, [128] * 48, [112] * 48)
    run = llmq.simulate(engine, queue, llmq.policies.FasterTransformer(), simulator=how)
    ends = np.sort(run.requests.finish[0])
    cycle = exclusive_cycle(engine, RequestClass(128, 112))
    assert run.n_iterations.tolist() == [12 * 113]
    assert ends == pytest.approx(np.repeat(5389.16 * np.arange(1, 13), 4), rel=1e-12)
    assert cycle.time == 5389.16
    # Critical rate: with equal gaps the queue drains 1 % below it and grows 1 % above it.
    for factor, grows in ((0.99, False), (1.01, True)):
        gap = 1 / (factor * cycle.rate)
        trace = llmq.Trace(gap * np.arange(800), [128] * 800, [112] * 800)
        times = llmq.simulate(engine, trace, llmq.policies.FasterTransformer()).requests
        stay = times.finish[0] - times.arrival[0]
        late = stay[700:].mean() - stay[300:400].mean()
        assert late > 3 * gap if grows else late < 0.01 * gap, (factor, late / gap)


def test_o5_needs_equal_requests_that_fit() -> None:
    engine = Engine(DAI, 512, kv_tokens=1024, conventions=THEORY)
    with pytest.raises(InputError, match="between 1 and 9"):
        exclusive_cycle(engine, RequestClass(Lengths.empirical([1, 9]), 4))
    with pytest.raises(InputError, match="does not fit"):
        exclusive_cycle(engine, RequestClass(1000, 100))
    # Memory for two of 240 tokens (in blocks of 16): half the batch.
    few = exclusive_cycle(engine.with_(kv_tokens=480), RequestClass(128, 112))
    assert (few.requests, few.batches) == (2, ((256, 2),))


# O23: waves.


@pytest.mark.parametrize(
    ("shape", "tile", "tiles", "rounds", "efficiency"),
    [
        ((1792, 1792), (256, 128), 98, 1, F(49, 54)),
        ((1793, 1793), (256, 128), 120, 2, F(1793**2, 2 * 108 * 256 * 128)),
        ((129, 14_336), (128, 256), 112, 2, F(129 * 14_336, 2 * 108 * 128 * 256)),
        ((128, 14_336), (128, 256), 56, 1, F(14, 27)),
    ],
)
def test_o23_waves(
    shape: tuple[int, int], tile: tuple[int, int], tiles: int, rounds: int, efficiency: F
) -> None:
    found = waves(*shape, tile=tile, processors=108)
    assert (found.tiles, found.waves, found.exact_efficiency) == (tiles, rounds, efficiency)


def test_o23_decimals() -> None:
    assert waves(1793, 1793, (256, 128), 108).efficiency == pytest.approx(0.4542102107, rel=1e-9)
    assert waves(129, 14_336, (128, 256), 108).efficiency == pytest.approx(0.2612847222, rel=1e-9)
    with pytest.raises(InputError, match="processors must be at least 1, got 0"):
        waves(1, 1, (1, 1), 0)


@given(*[st.integers(1, 300)] * 4, st.integers(1, 9))
def test_o23_waves_by_counting(m: int, n: int, high: int, wide: int, processors: int) -> None:
    tiles = len(range(0, m, high)) * len(range(0, n, wide))
    found = waves(m, n, (high, wide), processors)
    assert (found.tiles, found.waves) == (tiles, len(range(0, tiles, processors)))
    assert found.exact_efficiency * found.waves * processors * high * wide == m * n
