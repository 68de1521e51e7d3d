"""What a queue must show: least errors of means and shares, and bursts of rare cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmq
from llmq.sim.clusters import burst_share, burstiness, queue_error, tails, wilson
from llmq.sim.stats import Metric
from llmq.theory.bounds import outer_facets, request_prices
from llmq.theory.demand import demand


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
    """B24: bursts of 50 are Poisson; none among 10,000 has 2.5 % where 3.69 bursts are expected."""
    low, high = burst_share(0.0, 10_000, 100.0)
    assert (low, high) == (0.0, pytest.approx(math.log(40) * 50 / 10_000, rel=1e-9))


def test_b24_few_bursts_know_that_they_are_few() -> None:
    for hits in (20.0, 100.0, 300.0):
        low, high = burst_share(hits, 10_000, 100.0)
        simple = wilson(hits / 10_000, 10_000)
        assert low < simple[0] < hits / 10_000 < simple[1] < high
    # Very many bursts: normal, with twice the look as excess variance.
    low, high = burst_share(100_000.0, 10_000_000, 50.0)
    assert (high - low) / 2 == pytest.approx(
        1.96 * math.sqrt(burstiness(0.01, 50.0) * 0.01 * 0.99 / 1e7), rel=1e-2
    )


def test_b13_an_error_of_a_mean_is_not_below_the_queues() -> None:
    """B13: four paths that happen to agree say less than 2 l s^2 / n."""
    rng = np.random.default_rng(3)
    wave = np.repeat(rng.exponential(size=(1, 50)), 40, axis=1)
    alike = np.tile(wave, (4, 1))
    error = queue_error(list(alike), 40.0)
    assert error == pytest.approx(math.sqrt(2 * 40 * alike.var() / alike.size), rel=0.05)
    assert Metric("ttft", alike, look=40.0).half_width == pytest.approx(1.959964 * error)
    assert Metric("ttft", alike).half_width < 1e-9
    # Lengths that differ from request to request are no queue.
    noise = rng.exponential(size=(4, 2000))
    assert queue_error(list(noise), 40.0) < 0.35 * math.sqrt(2 * 40 / noise.size)


def test_b24_the_error_of_a_quantile_is_one_and_a_half_times_that_of_theory() -> None:
    beyond, count = np.full(8, 10.0), np.full(8, 1000.0)
    most, least = tails(0.01, beyond, count, path=False, look=30.0)
    step = math.log(most / (1 - most)) - math.log(0.01 / 0.99)
    variance = 1.5 * burstiness(0.01, 30.0) * 0.01 * 0.99 / 8000
    assert step == pytest.approx(1.959964 * math.sqrt(variance) / (0.01 * 0.99), rel=1e-6)
    assert least < 0.01 < most


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
