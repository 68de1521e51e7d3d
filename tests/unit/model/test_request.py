"""Joint laws of prompt, output and reasoning tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmq.errors import InputError
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass


def test_numbers_become_laws():
    one = RequestClass(512, 128)
    assert (one.prompt.mean, one.output.mean, one.reasoning.mean) == (512, 128, 0)
    assert one.peak == 640
    assert one == RequestClass(prompt=Lengths.fixed(512), output=Lengths.fixed(128))
    assert one != RequestClass(512, 129)
    assert [x.tolist() for x in one.sample(2, rng=1)] == [[512, 512], [128, 128], [0, 0]]


def test_a_paired_class_draws_whole_rows():
    rows = np.array([[10, 5, 2], [20, 50, 0], [400, 7, 6]])
    laws = [Lengths(column, weights=[1, 2, 1]) for column in rows.T]
    one = RequestClass(*laws, paired=True)
    assert one.peak == 407  # 400 + 7, not 400 + 50
    assert RequestClass(laws[0], laws[1], 0).peak == 450
    drawn = np.stack(one.sample(4000, rng=3), axis=1)
    seen, counts = np.unique(drawn, axis=0, return_counts=True)
    assert seen.tolist() == sorted(rows.tolist())
    expected = np.array([0.25, 0.5, 0.25])
    error = 4 * np.sqrt(expected * (1 - expected) / 4000)
    assert np.all(np.abs(counts / 4000 - expected) <= error)


def test_independent_lengths_are_uncorrelated():
    one = RequestClass(Lengths.uniform(1, 1000), Lengths.uniform(1, 1000))
    p, o, _ = one.sample(20_000, rng=5)
    assert abs(np.corrcoef(p, o)[0, 1]) <= 4 / math.sqrt(20_000)


def test_any_weights_can_be_paired_without_reasoning():
    """The missing reasoning column takes the weights as they are, to the last bit."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.random(5)
        law = Lengths(np.arange(1, 6), weights)
        one = RequestClass(law, Lengths(np.arange(1, 6), weights), paired=True)
        assert np.array_equal(one.reasoning.weights, law.weights)


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.6, 1.0])
def test_correlated_lengths_against_monte_carlo(rho):
    """E[P D] under the Gaussian copula, from independent normal pairs."""
    prompt = Lengths.lognormal(mean=500, sigma=0.9, low=4, high=4096)
    output = Lengths.lognormal(mean=200, sigma=0.7, low=2, high=1024)
    one = RequestClass.correlated(prompt=prompt, output=output, correlation=rho, points=16384)
    ours = float(np.mean(one.prompt.values.astype(float) * one.output.values))
    n = 200_000
    z = np.random.default_rng(17).standard_normal((2, n))
    z[1] = rho * z[0] + math.sqrt(1 - rho**2) * z[1]
    location = {"p": math.log(500) - 0.405, "d": math.log(200) - 0.245}
    p = np.clip(np.round(np.exp(location["p"] + 0.9 * z[0])), 4, 4096)
    d = np.clip(np.round(np.exp(location["d"] + 0.7 * z[1])), 2, 1024)
    product = p * d
    error = 4 * product.std() / math.sqrt(n) + 1e-3 * ours  # the lattice's own error
    assert abs(ours - product.mean()) <= error
    assert one.prompt.mean == pytest.approx(prompt.mean, rel=2e-3)
    assert one.output.mean == pytest.approx(output.mean, rel=2e-3)


def test_full_correlation_is_the_quantile_coupling():
    law = Lengths.uniform(1, 64)
    same = RequestClass.correlated(prompt=law, output=law, correlation=1.0, points=640)
    assert np.array_equal(same.prompt.values, same.output.values)
    anti = RequestClass.correlated(prompt=law, output=law, correlation=-1.0, points=640)
    assert set((anti.prompt.values + anti.output.values).tolist()) <= {64, 65, 66}


def test_reasoning_is_part_of_the_output():
    one = RequestClass.with_reasoning(
        prompt=48, reasoning=Lengths.uniform(0, 99), answer=Lengths.uniform(1, 50), correlation=0.5
    )
    assert one.paired
    assert np.all(one.output.values > one.reasoning.values)
    assert one.output.mean == pytest.approx(49.5 + 25.5, rel=0.01)
    answer = one.output.values - one.reasoning.values
    assert answer.mean() == pytest.approx(25.5, rel=0.01)
    # Gaussian copula of uniforms: Pearson correlation is 6/pi asin(rho/2).
    seen = np.corrcoef(one.reasoning.values, answer)[0, 1]
    assert seen == pytest.approx(6 / math.pi * math.asin(0.25), abs=0.02)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RequestClass(0, 1), "prompt must be at least 1 token, got 0"),
        (lambda: RequestClass(1, 0), "output must be at least 1 token, got 0"),
        (
            lambda: RequestClass(1.5, 1),
            "RequestClass: prompt must be a Lengths or a whole number, got 1.5: Lengths.fixed, "
            ".uniform, .lognormal, .quantiles and .empirical make one",
        ),
        (
            lambda: RequestClass(8, 4, 4),
            "reasoning tokens are part of the output: at least one output token must be an "
            "answer, here the smallest answer has 0. For independent laws of reasoning and "
            "answer use RequestClass.with_reasoning(...)",
        ),
        (
            lambda: RequestClass(Lengths([1, 2]), Lengths([1, 2, 3]), paired=True),
            "paired lengths need as many prompts as outputs and reasoning",
        ),
        (
            lambda: RequestClass(Lengths([1, 2]), Lengths([1, 2], [1, 2]), paired=True),
            "paired lengths need the same weights",
        ),
        (
            lambda: RequestClass.correlated(
                prompt=Lengths.fixed(1), output=Lengths.fixed(1), correlation=1.5
            ),
            "correlation must lie in [-1, 1], got 1.5",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == words
