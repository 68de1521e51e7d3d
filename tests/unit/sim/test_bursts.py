"""What a queue must show: least errors of means and shares, and bursts of rare cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmq
from llmq.cli._traffic import interval
from llmq.model.conventions import THEORY
from llmq.sim.results._clusters import burst_share, burstiness, company, queue_error, tails, wilson
from llmq.sim.results._stats import Metric, share
from llmq.theory.needs.demand import demand
from llmq.theory.region._bounds import outer_facets, request_prices


def test_b24_the_variance_of_a_share_beyond_a_level() -> None:
    """B24: 2 l (1 - p log(1/p) / (1 - p)), the asymptotic variance of reflected Brownian motion."""
    for p in (0.5, 0.1, 0.01):
        # A motion with drift -1 and variance 2 has the law exp(-x); Poisson's equation gives
        # 2 * integral of g'^2 exp(-x), g' = p (e^x - 1) below the level a, 1 - p above it.
        a = -math.log(p)
        below = p * p * (math.expm1(a) - 2 * a + 1 - math.exp(-a))
        variance = 2 * (below + (1 - p) ** 2 * p)
        # A mean has the variance 4 on this scale, and 2 looks by definition.
        assert burstiness(p, 1.0) == pytest.approx(variance / (p * (1 - p)) / 2, rel=1e-9)


def test_b24_no_burst_seen() -> None:
    """B24: bursts of 150 are Poisson; none among 10,000 has 2.5 % where 3.69 are expected."""
    low, high = burst_share(0.0, 10_000, 100.0)
    assert (low, high) == (0.0, pytest.approx(math.log(40) * 150 / 10_000, rel=1e-9))


def test_b24_no_request_has_the_metric() -> None:
    """One decode and no second token: requests decode together, and none has a TPOT."""
    law = llmq.BatchTime.affine(base=0.01, per_token=1e-4)
    engine = llmq.Engine(law, token_budget=256, max_seqs=64, conventions=THEORY)
    work = llmq.Workload.poisson(40.0, {"x": llmq.RequestClass(32, 1)})
    run = llmq.simulate(engine, work, llmq.policies.Sarathi(), replications=2, requests=800, rng=1)
    found = run.attainment(llmq.SLO(ttft=1.0, tpot=0.1), klass="x")
    assert dict(found.by_metric) == {"ttft": 1.0, "tpot": 1.0}
    assert math.isnan(run.metric("tpot", allow_unstable=True).quantile(0.5).mean)


def test_b24_ends_of_a_share_are_shares() -> None:
    assert burst_share(10.0, 30, 50.0)[1] == 1.0
    assert tails(0.4, np.full(3, 4.0), np.full(3, 10.0), path=False, look=30.0)[0] == 1.0
    assert burstiness(1.0, 5.0) == 0.0
    assert queue_error([np.repeat([1.0, -1.0], 50)], 0.5) > 0
    assert company([np.repeat([1.0, -1.0], 50)], 0.0) == 0.0


def test_b24_few_bursts_know_that_they_are_few() -> None:
    for hits in (20.0, 100.0, 300.0):
        low, high = burst_share(hits, 10_000, 100.0)
        simple = wilson(hits / 10_000, 10_000)
        assert low < simple[0] < hits / 10_000 < simple[1] < high
    # Very many bursts: normal, with three looks as excess variance.
    low, high = burst_share(100_000.0, 10_000_000, 50.0)
    assert (high - low) / 2 == pytest.approx(
        1.96 * math.sqrt(burstiness(0.01, 75.0) * 0.01 * 0.99 / 1e7), rel=1e-2
    )


def test_b13_an_error_of_a_mean_is_not_below_the_queues() -> None:
    """B13: four paths that happen to agree say less than 2 l s^2 / n, of looks twice as long."""
    rng = np.random.default_rng(3)
    wave = np.repeat(rng.exponential(size=(1, 50)), 40, axis=1)
    alike = np.tile(wave, (4, 1))
    error = queue_error(list(alike), 40.0)
    assert error == pytest.approx(math.sqrt(4 * 40 * alike.var() / alike.size), rel=0.05)
    assert Metric("ttft", alike, look=40.0).half_width == pytest.approx(1.959964 * error)
    assert Metric("ttft", alike).half_width < 1e-9
    # Lengths that differ from request to request are no queue.
    noise = rng.exponential(size=(4, 2000))
    assert queue_error(list(noise), 40.0) < 0.35 * math.sqrt(4 * 40 / noise.size)


def test_b24_the_error_of_a_quantile_is_that_of_theory() -> None:
    """B24: many bursts beyond it are normal; of few, the law of their sum is skewed."""
    beyond, count = np.full(8, 10.0), np.full(8, 1000.0)
    most, least = tails(0.01, beyond, count * 1000, path=False, look=30.0)
    variance = burstiness(0.01, 45.0) * 0.01 * 0.99 / 8e6
    assert (most - least) / 2 == pytest.approx(1.959964 * math.sqrt(variance), rel=2e-3)
    # 160 cases in 5.7 bursts of 28.
    most, least = tails(0.01, beyond, count * 2, path=False, look=20.0)
    rng, burst = np.random.default_rng(2), burstiness(0.01, 30.0) * 0.99 / 2
    sums = [rng.exponential(burst, k).sum() for k in rng.poisson(160 / burst, 100_000)]
    low, high = np.quantile(sums, (0.025, 0.975)) / 16_000
    assert (least, most) == (pytest.approx(low, rel=0.03), pytest.approx(high, rel=0.02))


def together(rng: np.random.Generator, rows: int, n: int, m: int) -> list[np.ndarray]:
    """Numbers at work of a server for everybody, services of ``m``: moving sums of ``m``."""
    return list(
        np.lib.stride_tricks.sliding_window_view(rng.normal(size=(rows, n + m - 1)), m, axis=1).sum(
            axis=2
        )
    )


@pytest.mark.parametrize("m", [6, 20])
def test_b24_what_neighbours_share_shows_in_their_ranks(m: int) -> None:
    """B24: autocorrelation 1 - k/m, a mean residual service of m/2: 5 m / 6 over windows of 2 m."""
    rows = together(np.random.default_rng(5), 4, 60_000, m)
    exact = sum((1 - abs(k) / (2 * m)) * max(0, 1 - abs(k) / m) for k in range(-2 * m, 2 * m))
    # Ranks of normal values have the correlation 6 / pi asin(r / 2), a little less than r.
    ranked = sum(
        (1 - abs(k) / (2 * m)) * 6 / math.pi * math.asin(max(0, 1 - abs(k) / m) / 2)
        for k in range(-2 * m, 2 * m)
    )
    assert exact == pytest.approx(5 * m / 6, rel=0.02)
    assert company(rows, m / 2) == pytest.approx(ranked, rel=0.04)
    # Any growing function of the values has the same ranks; independent values share nothing.
    assert company([np.exp(row) for row in rows], m / 2) == company(rows, m / 2)
    assert company(together(np.random.default_rng(5), 4, 60_000, 1), m / 2) == pytest.approx(
        1, rel=0.05
    )


def test_b24_ranks_of_equal_values_are_their_middle() -> None:
    rows = [np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])]
    # Ranks 2 and 6 about 4: windows of 4 add up to 0, of 2 to -4 and 4 (first row), 0 and 0.
    assert company(rows, 1.0) == 0.0
    assert company(rows, 0.5) == pytest.approx((16 + 16) / 4 / 2 / 4)
    assert company(rows, 5.0) == 0.0


def test_b24_a_quantile_knows_what_neighbours_share() -> None:
    """B24: eight paths of 1,200; what it adds holds the 99 % point in 100 instead of 96 %."""
    rng, m, level = np.random.default_rng(11), 20, 0.99
    truth, held = 2.326347874 * math.sqrt(m), [0, 0]
    wide: list[list[float]] = [[], []]
    for _ in range(500):
        values = np.array(together(rng, 8, 1200, m))
        for i, crowd in enumerate((0.0, m / 2)):
            one = Metric("ttft", values, look=1.0, crowd=crowd).quantile(level)
            held[i] += abs(one.mean - truth) <= one.half_width
            wide[i].append(one.half_width)
    assert held[0] < 0.97 * 500 < 0.99 * 500 < held[1]
    assert np.median(wide[1]) < 2 * np.median(wide[0])


def test_b24_a_run_knows_its_crowd() -> None:
    """B24: requests per second times E S^2 / (2 E S), of the measured requests; none of a trace."""
    law = llmq.BatchTime.affine(base=0.01, per_token=1e-4)
    engine = llmq.Engine(law, token_budget=256, max_seqs=64)
    mix = {"x": llmq.RequestClass(32, llmq.Lengths.empirical([4, 40]))}
    work = llmq.Workload.poisson(40.0, mix)
    run = llmq.simulate(engine, work, llmq.policies.Sarathi(), replications=2, requests=2000, rng=1)
    first, last = run.measured
    stays, spans = [], 0.0
    for row in range(2):
        times = run.requests
        spans += float(times.arrival[row, last - 1] - times.arrival[row, first])
        stays += [
            float(times.finish[row, i] - times.prefill_end[row, i]) for i in range(first, last)
        ]
    rate = len(stays) / spans
    residual = sum(s * s for s in stays) / (2 * sum(stays))
    assert run.metric("ttft").crowd == pytest.approx(rate * residual)
    assert run.metric("tpot", klass="x").crowd == pytest.approx(rate * residual)
    # Misses come in bursts of those who decode together: the share of each target knows it.
    tpot = run.metric("tpot").values
    alike = company([row[~np.isnan(row)] for row in tpot], rate * residual)
    assert alike / 2 > run.look
    worst = float(np.nanmax(tpot))
    found = run.attainment(llmq.SLO(ttft=99.0, tpot=worst))
    ttft = company(list(run.metric("ttft").values), rate * residual)
    exact = share(np.isnan(tpot) | (tpot <= worst), look=max(run.look, alike / 2, ttft / 2))
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.low < share(np.isnan(tpot) | (tpot <= worst), look=run.look).low
    trace = llmq.simulate(engine, work.sample(50, rng=1), llmq.policies.Sarathi())
    assert trace.metric("ttft").crowd == 0.0


def test_prices_of_requests_are_those_of_their_class() -> None:
    law = llmq.BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    engine = llmq.Engine(law, token_budget=512, max_seqs=128, kv_tokens=235_728)
    rng = np.random.default_rng(1)
    prompt, output = rng.integers(1, 3000, 50), rng.integers(1, 400, 50)
    laws = llmq.Lengths.empirical(prompt), llmq.Lengths.empirical(output)
    one = llmq.RequestClass(*laws, paired=True)
    facets = outer_facets(engine, [demand(one, engine)])
    prices = request_prices(engine, prompt, output)
    assert prices.mean(axis=1) == pytest.approx([f.weights[0] for f in facets], rel=1e-12)


def test_a_region_that_is_known_is_the_same_for_another_count() -> None:
    law = llmq.BatchTime.affine(base=0.01, per_token=1e-4)
    engine = llmq.Engine(law, token_budget=256, max_seqs=64)
    mix = {"a": llmq.RequestClass(512, 64), "b": llmq.RequestClass(64, 8)}
    rates = {"a": 1.0, "b": 2.0}
    one = llmq.stability_region(engine, mix)
    many = llmq.stability_region(llmq.Fleet({"pool": (engine, 4)}), mix)
    assert many.load_bracket(rates)[0] == pytest.approx(one.load_bracket(rates)[0] / 4)
    assert (many.engines, many.pool, one.engines) == (4, "pool", 1)
    # The same lengths under other names, or other lengths under the same, are other regions.
    other = llmq.stability_region(engine, {"a": mix["b"], "b": mix["a"]})
    assert other.load(rates) != pytest.approx(one.load(rates))
    assert other.load({"a": 2.0, "b": 1.0}) == pytest.approx(one.load(rates))


def test_b24_a_quantile_without_an_interval_says_what_it_takes() -> None:
    """B24: log(40) bursts of 28 beyond the 99 % point are 10,000 requests."""
    values = np.random.default_rng(1).exponential(size=(8, 500))
    one = Metric("x", values, look=20.0).quantile(0.99)
    assert one.half_width == math.inf
    assert one.method.endswith("; an interval takes about 10000 requests")
    assert interval(one).endswith("s (no interval: that takes about 10000 requests)")
    enough = Metric("x", np.tile(values, 3), look=20.0).quantile(0.99)
    assert math.isfinite(enough.half_width)
    assert "takes" not in enough.method
    # Clusters of one look each may still differ too much: more requests are not known to help.
    lone = Metric("x", np.repeat(values[:3], 4, axis=1)).quantile(0.9999)
    assert lone.half_width == math.inf
