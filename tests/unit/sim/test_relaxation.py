"""Paths as long as the relaxation time asks for, and intervals that hold near saturation."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import llmq
from experiments.speed import capacity_case
from llmq import policies
from llmq.sim.results._clusters import ratio_error, tails
from llmq.sim.results._relaxation import Relaxation, unit
from llmq.sim.results._stability import judge, slopes
from llmq.sim.results._stats import Metric, share

QUEUE = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)
ONE = llmq.RequestClass(1, 1)


def work(load: float) -> llmq.Workload:
    return llmq.Workload.poisson(load, {"x": ONE})


@pytest.mark.parametrize(
    ("load", "paths", "requests"),
    [(0.95, 64, 1000), (0.95, 8, 500), (0.99, 64, 1000), (0.95, 1, 4000)],
)
def test_b13_short_paths_near_saturation_are_undecided(load, paths, requests):
    """B13: these runs were "stable" with tight intervals that held the mean in 0 to 73 %."""
    run = llmq.simulate(QUEUE, work(load), replications=paths, requests=requests, rng=1)
    assert run.verdict.status == "undecided"
    assert run.verdict.needed > requests
    assert f"{paths} x {run.verdict.needed} may decide" in run.verdict.sentence
    assert "CPU-seconds" in str(run.verdict)
    assert math.isinf(run.ttft.half_width)
    assert math.isinf(run.ttft.quantile(0.99).half_width)
    assert run.attainment(llmq.SLO(ttft=30.0)).low == 0.0
    # The value of this finite run is a fact, and has its interval.
    assert math.isfinite(run.metric("ttft", allow_unstable=True).half_width)
    assert run.verdict.needed == Relaxation(unit(load, 1.0), dispersion=1.0).length(paths)


def test_b13_a_summary_obeys_the_same_rules():
    """B13: sketches as well."""
    short = llmq.simulate(QUEUE, work(0.95), replications=64, requests=500, rng=1, record="summary")
    assert short.verdict.short
    assert math.isinf(short.ttft.half_width)
    assert math.isinf(short.ttft.quantile(0.99).half_width)
    assert math.isfinite(short.metric("ttft", allow_unstable=True).half_width)
    long = llmq.simulate(QUEUE, work(0.5), replications=40, requests=400, rng=1)
    same = llmq.simulate(QUEUE, work(0.5), replications=40, requests=400, rng=1, record="summary")
    for q in (0.5, 0.99):
        one, two = long.ttft.quantile(q), same.ttft.quantile(q)
        assert two.half_width == pytest.approx(one.half_width, rel=0.15, abs=0.02)


def test_b13_precision_lengthens_until_the_number_may_be_printed():
    """B13: precision=0.15 at load 0.9, where the default is undecided."""
    assert llmq.simulate(QUEUE, work(0.9), rng=3).verdict.short
    run = llmq.simulate(QUEUE, work(0.9), rng=3, precision=0.15)
    assert run.verdict.status == "stable"
    assert run.ttft.half_width < 0.15 * run.ttft.mean
    assert run.ttft.low < 5.5 < run.ttft.high  # 1 + 0.9 / 0.2
    cut = llmq.simulate(QUEUE, work(0.98), rng=3, precision=0.05, maximum=20_000)
    assert cut.verdict.status == "undecided"
    assert "within maximum=20000 requests" in cut.assumptions[-1]
    with pytest.raises(llmq.InputError, match="precision must be"):
        llmq.simulate(QUEUE, work(0.5), precision=0.0)


def test_b24_the_interval_is_one_of_the_pooled_quantile():
    """B24: a quantile of quantiles is not the pooled one, and its interval misses it."""
    # One path of 20 has all the long stays: the pooled 95 % point is where they begin, and the
    # mean of the 20 quantiles is far below it.
    values = np.ones((20, 100))
    values[0] = 10.0
    values[1:, 0] = 3.0
    found = Metric("x", values).quantile(0.95)
    assert found.low <= found.mean == np.quantile(values, 0.95) <= found.high
    most, least = tails(0.01, np.r_[np.zeros(30), np.full(10, 8.0)], np.full(40, 200.0), path=False)
    # Symmetric in the logarithm of the odds, at the error over clusters.
    odds = [p / (1 - p) for p in (most, 0.01, least)]
    assert odds[0] / odds[1] == pytest.approx(odds[1] / odds[2])
    error = ratio_error(np.r_[np.zeros(30), np.full(10, 8.0)], np.full(40, 200.0), path=False)
    assert math.log(odds[0] / odds[1]) == pytest.approx(2.02269 * error / (0.01 * 0.99), rel=1e-4)


def test_b22_slots_that_still_fill_are_not_overload():
    """B22: load 0.8, 64 x 500 requests were called overloaded."""
    work, chip = capacity_case()
    traffic = work.at_rate(7.8612)
    run = llmq.simulate(chip, traffic, policies.Sarathi(), replications=64, requests=500, rng=1005)
    assert run.verdict.status == "undecided"
    assert run.verdict.needed > 20 * 500 // 4


def test_a_backlog_that_grows_like_a_queue_at_load_one_is_no_overload():
    arrival = np.arange(1.0, 1001.0)[None].repeat(8, axis=0)
    relax = Relaxation(look=1.0, dispersion=1.0)
    assert relax.critical(1000) == pytest.approx(0.2929 * math.sqrt(2000 / math.pi), rel=1e-3)
    slow = judge(slopes(arrival, arrival * 1.015), (0.9, 0.9), relax)
    fast = judge(slopes(arrival, arrival * 1.2), (0.9, 0.9), relax)
    assert (slow.status == "overloaded", fast.status) == (False, "overloaded")


def test_b12_no_nan_in_a_verdict():
    """B12: gaps with cv 173.81; no NaN, no warning of NumPy, no interval."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        traffic = llmq.Workload.renewal(5.0, {"x": ONE}, cv=173.81)
        run = llmq.simulate(QUEUE, traffic.at_rate(0.5), rng=1)
    assert run.verdict.status == "undecided"
    numbers = run.verdict.load, run.verdict.growth.mean, run.verdict.growth.half_width
    assert not any(math.isnan(number) for number in numbers)
    assert "nan" not in run.verdict.sentence


def test_b7_a_batch_is_neither_overloaded_nor_nan():
    """B7: all requests at once; vLLM's goodput is over the time to the last token."""
    trace = llmq.Trace(np.zeros(8), [1] * 8, [1] * 8)
    run = llmq.simulate(QUEUE, trace)
    assert run.verdict.status == "undecided"
    assert "batch" in run.verdict.sentence
    slo = llmq.SLO(ttft=4.0)
    assert run.goodput(slo).mean == run.goodput(slo, dialect="vllm").mean == 4 / 8
    # Four times capacity: 4 requests a second arrive, one is served.
    rush = llmq.simulate(QUEUE, llmq.Trace(np.arange(400) / 4, [1] * 400, [1] * 400))
    assert rush.goodput(llmq.SLO(ttft=1e9), dialect="vllm").mean == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(llmq.InputError, match="as llmq or vllm do"):
        rush.goodput(slo, dialect="guidellm")


def test_b2_the_start_of_a_closed_loop_is_dropped():
    """B2: 64 users, 400 requests: the p99 was that of the start."""
    users = llmq.Workload.closed(64, {"x": llmq.RequestClass(512, llmq.Lengths.uniform(16, 48))})
    chip = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64)
    short = llmq.simulate(chip, users, policies.Sarathi(), requests=400, rng=0)
    assert short.verdict.status == "undecided"
    assert "too few" in short.verdict.sentence
    assert math.isinf(short.ttft.quantile(0.99).half_width)
    long = llmq.simulate(chip, users, policies.Sarathi(), requests=1500, rng=0)
    assert long.verdict.status == "stable"
    assert long.measured[0] >= 3 * 64
    begin = long.requests.first_token[0, :64] - long.requests.arrival[0, :64]
    assert long.ttft.quantile(0.99).mean < 0.7 * begin.max()


def test_b3_users_think_for_times_that_differ():
    """B3: equal users with a fixed think time stay in step: 1.58 s against 0.073 s."""
    chip = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64)
    mix = {"x": llmq.RequestClass(512, 16)}
    loose = llmq.Workload.closed(60, mix, think=30.0)
    assert loose.arrivals.cv == 1.0
    step = llmq.Workload.closed(60, mix, think=30.0, think_cv=0.0)
    found = [
        llmq.simulate(chip, one, policies.Sarathi(), requests=900, rng=1) for one in (loose, step)
    ]
    assert found[0].ttft.mean < 0.2 < found[1].ttft.mean
    assert any("stay in step" in note for note in found[1].assumptions)
    assert not any("stay in step" in note for note in found[0].assumptions)


def test_f_a_target_that_is_just_met_is_met():
    """F: attainment with <= : the latency equals the target."""
    trace = llmq.Trace(np.arange(4) * 4.0 + 4.0, [1] * 4, [1] * 4)
    run = llmq.simulate(QUEUE, trace)
    assert run.attainment(llmq.SLO(ttft=1.0)).value == 1.0
    assert run.attainment(llmq.SLO(ttft=0.999)).value == 0.0


def test_f_utilisation_counts_from_the_first_arrival():
    """F: a trace that begins late was idle before nobody came."""
    run = llmq.simulate(QUEUE, llmq.Trace([64.0, 66.0], [1, 1], [1, 1]))
    assert run.utilisation == pytest.approx(2 / 3)


def test_f_correlation_of_batches_is_capped():
    """F: a cap of 0.9, so at most sqrt(19) times as wide."""
    climbing = np.repeat([0.0, 1.0], 500) + np.linspace(0, 1e-3, 1000)
    ones = np.ones(1000)
    wide = ratio_error(climbing, ones, path=True) / ratio_error(climbing, ones, path=False)
    assert wide == pytest.approx(math.sqrt(19), rel=1e-9)


def test_a_share_near_saturation_knows_bursts():
    good = np.ones((8, 500), dtype=bool)
    assert share(good).low > share(good, look=100.0).low
    # Bursts of 150 are Poisson: none of 4000 in one of 40 runs where log(40) are expected.
    assert share(good, look=100.0).low == pytest.approx(1 - math.log(40) * 150 / 4000)
