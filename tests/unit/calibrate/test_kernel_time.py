"""Iterations timed from their whole composition: sums, spread of contexts, evictions with hits."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.calibrate._compose import Kernels, Steps
from llmq.calibrate.catalogue._kernel_time import KernelTime
from llmq.errors import FormatError
from llmq.io.profiles._skew import read_spread
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.kernel import KernelEngine
from llmq.sim.results._log import Job, Log

LAW = llmq.BatchTime.affine(base=0.5, per_token=0.0625, per_kv=0.00390625)


def dense(n):
    return 1.0 + 0.01 * np.asarray(n)


def head(r):
    return 0.001 * np.asarray(r)


def attention(s: Steps):
    return 1e-5 * s.decodes * s.context + 1e-6 * s.chunk * (s.cached + s.chunk / 2)


def test_an_iteration_is_the_sum_of_its_parts():
    time = KernelTime(Kernels(dense, head, attention))
    # 300 tokens of prompts, two decodes with 100 and 300 tokens; the larger chunk comes first,
    # and the order in which they are given does not matter.
    parts = 1.0 + 0.01 * 302 + 0.001 * 3 + 1e-5 * 400
    work = 1e-6 * (200 * (50 + 100) + 100 * 50)
    for chunks in ([(200, 50), (100, 0)], [(100, 0), (200, 50)]):
        assert time(chunks, [100, 300], 3) == pytest.approx(parts + work, rel=1e-12)
    assert time([], [7], 1) == pytest.approx(1.0 + 0.01 + 0.001 + 7e-5, rel=1e-12)
    # A chunk that is not the last one emits nothing: no head.
    assert time([(64, 0)], [], 0) == pytest.approx(1.0 + 0.64 + 1e-6 * 64 * 32, rel=1e-12)
    assert KernelTime(Kernels(dense, head, attention), overhead=0.5)([], [7], 1) == pytest.approx(
        1.5 + 0.01 + 0.001 + 7e-5, rel=1e-12
    )
    assert math.isnan(KernelTime(Kernels(dense, head, attention), tokens=64)([(65, 0)], [], 1))


def test_unequal_contexts_go_a_share_of_the_way_to_the_largest():
    asked = []

    def spread(chunk, decodes, short, mean, longest):
        asked.append((chunk, decodes, short, mean, longest))
        return 0.25

    time = KernelTime(Kernels(dense, head, attention, spread))
    mean, largest = 1e-5 * 4 * 250, 1e-5 * 4 * 700
    want = 1.04 + 0.004 + mean + 0.25 * (largest - mean)
    assert time([], [100, 100, 100, 700], 4) == pytest.approx(want, rel=1e-12)
    assert asked == [(0, 4, 100, 250.0, 700)]
    assert time([], [400], 1) == pytest.approx(1.01 + 0.001 + 4e-3, rel=1e-12)  # nobody to differ
    assert len(asked) == 1


SKEW = """regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us,alpha
pure,64,1,0.0156,4.0,0,0,128,512,134,100,400,130,0.1
pure,64,1,0.0156,4.0,0,0,256,1024,268,200,600,280,0.2
pure,64,32,0.5,4.0,0,0,256,1024,640,300,500,310,0.05
mixed,64,1,0.0156,4.0,256,0,256,1024,268,200,600,320,0.3
"""


def test_the_share_is_looked_up_by_bucket(tmp_path):
    path = tmp_path / "skew.csv"
    path.write_text(SKEW)
    spread = read_spread(path)
    assert spread(0, 64, 128, 134, 512) == pytest.approx(0.1)
    assert spread(0, 70, 250, 262, 900) == pytest.approx(0.2)  # nearest powers of two
    assert spread(0, 60, 256, 640, 1024) == pytest.approx(0.05)
    assert spread(200, 60, 256, 268, 1024) == pytest.approx(0.3)
    # No such place of the mean: all rows of 64 decodes without prefill, by least squares.
    rows = np.array([[300, 30], [400, 80], [200, 10]])
    want = (rows[:, 0] @ rows[:, 1]) / (rows[:, 0] @ rows[:, 0])
    assert spread(0, 64, 256, 1000, 1024) == pytest.approx(want)
    assert spread(0, 64, 300, 300, 300) == 0.0
    path.write_text(SKEW.replace("130,0.1", "x,0.1"))
    with pytest.raises(FormatError, match=r"line 2, column t_skew_us.*found 'x'"):
        read_spread(path)


# --- the engine ---------------------------------------------------------------------------------


def timed(chunks, contexts, emitting):
    tokens = sum(p for p, _ in chunks) + len(contexts)
    return LAW(tokens, sum(p + c for p, c in chunks) + sum(contexts), mixed=bool(chunks))


def run(kind, trace, engine, **options):
    columns = (x.tolist() for x in (trace.arrival, trace.prompt, trace.output, trace.reasoning))
    log = Log.empty(len(trace))
    job = Job(engine, policies.Sarathi(watermark=0.0), *columns, trace.klass.tolist(), ("all",))
    server = kind(job, log, **options)
    server.queue.extend(range(len(trace)))
    server.advance(math.inf)
    return server, log


def some_trace(n=60, seed=3):
    draw = np.random.default_rng(seed)
    return llmq.Trace(
        np.cumsum(draw.exponential(3.0, n)), draw.integers(1, 300, n), draw.integers(1, 80, n)
    )


@pytest.mark.parametrize("kv_tokens", [None, 700])
def test_a_timer_that_is_the_law_gives_the_reference_run(kv_tokens):
    # The law as a function of the whole iteration, dyadic: the same times to the last bit.
    slow = llmq.BatchTime.affine(base=7.0, per_token=1.0)
    engine = llmq.Engine(LAW, token_budget=128, max_seqs=8, kv_tokens=kv_tokens)
    trace = some_trace()
    trace = llmq.Trace(np.round(trace.arrival * 256) / 256, trace.prompt, trace.output)
    plain, want = run(ReferenceEngine, trace, engine)
    server, log = run(KernelEngine, trace, engine.with_(law=slow), timer=timed)
    assert log.finish == want.finish
    assert log.first_token == want.first_token
    assert server.tally.busy == plain.tally.busy
    assert server.tally.evictions == plain.tally.evictions
    assert (plain.tally.evictions > 0) == (kv_tokens is not None)
    assert server.outside == 0


def test_the_law_answers_where_the_timer_does_not_know():
    engine = llmq.Engine(LAW, token_budget=128)
    trace = some_trace(10)
    plain, want = run(ReferenceEngine, trace, engine)
    server, log = run(KernelEngine, trace, engine, timer=lambda *_: math.nan)
    assert log.finish == want.finish
    assert server.outside == plain.tally.iterations


def test_an_evicted_request_finds_the_blocks_nobody_took():
    # Blocks of 4, six of them. The first prompt (8 tokens) takes two, the second (12) three. The
    # first decode takes the sixth block, the second request wants a seventh and goes.
    law = llmq.BatchTime.affine(base=1.0, per_token=0.0)
    engine = llmq.Engine(law, token_budget=64, kv_tokens=24, kv_block=4)
    trace = llmq.Trace([0.0, 0.0], [8, 12], [9, 3])
    seen = []

    def timer(chunks, contexts, emitting):
        seen.append((list(chunks), list(contexts)))
        return 1.0

    server, log = run(KernelEngine, trace, engine, timer=timer, prefix_hits=True)
    assert server.tally.evictions == 1
    # Its three full blocks are free. The first request takes the last of them for its 13th token;
    # when it has ended, the other two (8 tokens) are hits and 5 tokens are computed anew.
    again = [chunks for chunks, _ in seen if chunks and chunks[0][1] > 0]
    assert again == [[(5, 8)]]
    cold, late = run(KernelEngine, trace, engine, timer=lambda *_: 1.0)
    assert cold.tally.evictions == 1
    assert log.finish == late.finish  # an iteration takes 1 s however much is computed


def test_hits_save_work_and_never_lose_a_token():
    engine = llmq.Engine(LAW, token_budget=128, max_seqs=8, kv_tokens=704)
    trace = some_trace(80, seed=5)
    computed = {}
    for hits in (False, True):
        total = []

        def timer(chunks, contexts, emitting, total=total):
            total.append(sum(p for p, _ in chunks) + len(contexts))
            return timed(chunks, contexts, emitting)

        server, log = run(KernelEngine, trace, engine, timer=timer, prefix_hits=hits)
        assert not any(math.isnan(t) for t in log.finish)
        assert server.free == engine.kv_blocks
        if hits:
            blocks = sum(count for _, count in server.queued)
            server._settle()
            assert sum(count for _, count in server.queued) == engine.kv_blocks
            assert blocks <= engine.kv_blocks
            assert not server.kept
        computed[hits] = sum(total)
        least = int((trace.prompt + trace.output - 1).sum())
        assert computed[hits] >= least
        assert server.tally.evictions > 3
    assert computed[True] < computed[False]


def test_without_evictions_hits_change_nothing():
    engine = llmq.Engine(LAW, token_budget=128, max_seqs=8, kv_tokens=100_000)
    trace = some_trace(30)
    logs = [run(KernelEngine, trace, engine, timer=timed, prefix_hits=h)[1] for h in (False, True)]
    assert logs[0].finish == logs[1].finish
