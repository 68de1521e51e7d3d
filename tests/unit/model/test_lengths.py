"""Length laws against exact sums, SciPy's distributions and numeric integration."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import integrate, stats

from llmq.errors import InputError
from llmq.model.lengths import Lengths


def test_fixed():
    law = Lengths.fixed(128)
    assert (law.mean, law.second_moment, law.low, law.high) == (128.0, 16384.0, 128, 128)
    assert law.is_fixed
    assert law.exact_moment(2) == 16384
    assert str(law) == "fixed 128 (mean 128 tokens)"


@pytest.mark.parametrize(("low", "high"), [(1, 4), (0, 9), (7, 7), (3, 1000)])
def test_uniform_moments_are_the_closed_form(low, high):
    law, n = Lengths.uniform(low, high), high - low + 1
    variance = Fraction(n * n - 1, 12)
    assert law.exact_moment(1) == Fraction(low + high, 2)
    assert law.exact_moment(2) - law.exact_moment(1) ** 2 == variance
    assert law.mean == pytest.approx(float(law.exact_moment(1)), rel=1e-15)
    assert law.second_moment == pytest.approx(float(law.exact_moment(2)), rel=1e-15)


@pytest.mark.parametrize(
    ("mean", "sigma", "low", "high"),
    [(500, 0.9, 4, 2048), (50, 0.3, 1, 400), (20, 1.5, 0, 100), (8, 0.5, 6, 9)],
)
def test_lognormal_against_scipy(mean, sigma, low, high):
    """Weights are differences of SciPy's distribution function; moments integrate its density."""
    law = Lengths.lognormal(mean=mean, sigma=sigma, low=low, high=high)
    ours = stats.lognorm(s=sigma, scale=mean * math.exp(-(sigma**2) / 2))
    assert ours.mean() == pytest.approx(mean)
    inside = np.arange(low + 1, high)
    expected = ours.cdf(inside + 0.5) - ours.cdf(inside - 0.5)
    found = {int(k): float(w) for k, w in zip(law.values, law.weights, strict=True)}
    np.testing.assert_allclose([found.get(int(k), 0.0) for k in inside], expected, atol=1e-13)
    assert found[low] == pytest.approx(ours.cdf(low + 0.5))
    assert found[high] == pytest.approx(ours.sf(high - 0.5))
    for order, moment in ((1, law.mean), (2, law.second_moment)):
        body, _ = integrate.quad(
            lambda x, order=order: float(np.clip(x, low, high)) ** order * ours.pdf(x),
            0,
            40 * high,
            limit=400,
            points=[low, high],
            epsabs=1e-8,
        )
        # Rounding to whole tokens moves a moment by less than 1/2 token a value.
        slack = 0.5 if order == 1 else law.mean + 0.25
        assert abs(moment - body - high**order * ours.sf(40 * high)) < slack


def test_lognormal_rounding_bias_is_small():
    """Where the density is smooth, rounding hardly moves the clipped mean."""
    law = Lengths.lognormal(mean=500, sigma=0.9, low=4, high=2048)
    ours = stats.lognorm(s=0.9, scale=500 * math.exp(-0.405))
    body, _ = integrate.quad(lambda x: x * ours.pdf(x), 4, 2048, limit=400)
    mean = 4 * ours.cdf(4) + body + 2048 * ours.sf(2048)
    assert law.mean == pytest.approx(mean, abs=1e-3)
    assert law.mean == pytest.approx(478.75, abs=0.01)


def test_quantile_table_moments():
    """Piecewise linear, so the mean of each piece is its middle."""
    table = {0: 1, 0.25: 40, 0.5: 100, 0.9: 700, 1: 2000}
    law = Lengths.quantiles(table)
    p, x = np.array(list(table)), np.array(list(table.values()), float)
    share, left, right = np.diff(p), x[:-1], x[1:]
    assert law.mean == pytest.approx(share @ ((left + right) / 2), abs=0.02)
    second = share @ ((left * left + left * right + right * right) / 3)
    assert law.second_moment == pytest.approx(second + 1 / 12, rel=1e-4)
    assert (law.low, law.high) == (1, 2000)
    for q, tokens in table.items():
        assert law.quantile(q) == pytest.approx(tokens, abs=1)


def test_flat_pieces_of_a_quantile_table_are_atoms():
    law = Lengths.quantiles({0: 10, 0.5: 10, 1: 20})
    weights = dict(zip(law.values.tolist(), law.weights.tolist(), strict=True))
    assert weights[10] == pytest.approx(0.525)  # half of the mass, and 1/20 of the other half
    assert weights[20] == pytest.approx(0.025)
    assert all(weights[k] == pytest.approx(0.05) for k in range(11, 20))
    assert Lengths.quantiles({0: 5, 1: 5}).is_fixed
    top = Lengths.quantiles({0: 0, 0.5: 8, 1: 8})
    assert top.weights[-1] == pytest.approx(0.5 + 0.5 / 16)


def test_expectation_of_a_function():
    law = Lengths([2, 3, 5], weights=[1, 1, 2])
    assert law.weights.tolist() == [0.25, 0.25, 0.5]
    assert law.expect(lambda x: np.ceil(x / 2)) == 0.25 * 1 + 0.25 * 2 + 0.5 * 3
    assert law.exact_moment(1) is None
    assert Lengths([5, 2, 2]).exact_moment(1) == 3


@pytest.mark.parametrize(
    ("q", "tokens"), [(0.0, 1), (0.2, 1), (0.21, 2), (0.5, 3), (0.6, 3), (0.61, 4), (1.0, 5)]
)
def test_quantile_is_the_smallest_count_that_a_share_does_not_exceed(q, tokens):
    assert Lengths([5, 3, 1, 2, 4]).quantile(q) == tokens
    assert Lengths([5, 3, 1, 2, 4], weights=[7, 7, 7, 7, 7]).quantile(q) == tokens


@pytest.mark.parametrize("q", [-0.1, 50, math.nan])
def test_a_percentage_is_not_a_share(q):
    with pytest.raises(InputError) as caught:
        Lengths.fixed(3).quantile(q)
    assert str(caught.value) == f"q must lie between 0 and 1 (0.99 for p99), got {q}"


@pytest.mark.parametrize(
    "law",
    [
        Lengths.uniform(1, 6),
        Lengths([10, 20, 400], weights=[0.7, 0.2, 0.1]),
        Lengths.lognormal(mean=30, sigma=0.8, high=300),
        Lengths.empirical([3, 3, 9, 1]),
    ],
    ids=str,
)
def test_samples_have_the_law(law):
    n = 40_000
    sample = law.sample(n, rng=11)
    assert sample.dtype == np.int64
    sd = math.sqrt(law.second_moment - law.mean**2)
    assert abs(sample.mean() - law.mean) <= 4 * sd / math.sqrt(n)
    share = float((sample <= law.quantile(0.5)).mean())
    exact = law.expect(lambda x: x <= law.quantile(0.5))
    assert abs(share - exact) <= 4 * math.sqrt(exact * (1 - exact) / n)
    assert np.array_equal(sample, law.sample(n, rng=11))


def test_zero_weight_is_never_drawn():
    law = Lengths([1, 2, 3], weights=[0, 1, 0])
    assert set(law.sample(1000, rng=1).tolist()) == {2}


def test_normalising_twice_changes_nothing():
    rng = np.random.default_rng(0)
    for _ in range(200):
        law = Lengths(np.arange(5), rng.random(5))
        assert Lengths(law.values, law.weights) == law


def test_equality_looks_at_values_and_weights():
    assert Lengths([1, 2]) == Lengths.empirical([1, 2])
    assert Lengths([1, 2]) != Lengths([1, 3])
    assert Lengths([1, 2]) != Lengths([1, 2], weights=[1, 2])
    assert Lengths([1, 2], [1, 3]) != Lengths([1, 2], [1, 2])
    assert Lengths([1, 2], [1, 3]) == Lengths([1, 2], [0.25, 0.75])
    assert (Lengths([1]) == 1) is False


def test_arrays_are_copied_and_locked():
    mine, weights = np.array([1, 2]), np.array([1.0, 3.0])
    law = Lengths(mine, weights)
    mine[0], weights[0] = 9, 9
    assert law.values.tolist() == [1, 2]
    assert law.weights.tolist() == [0.25, 0.75]
    for array in (law.values, law.weights):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Lengths([]), "lengths need at least one value in one dimension, got (0,)"),
        (lambda: Lengths([[1]]), "lengths need at least one value in one dimension, got (1, 1)"),
        (lambda: Lengths(["a"]), "Lengths: values must be an array or list of numbers, got ['a']"),
        (lambda: Lengths([np.inf]), "lengths must be finite numbers of tokens, got [inf]"),
        (lambda: Lengths([1, 4.5]), "a length must be a whole number of tokens >= 0, got 4.5"),
        (lambda: Lengths([1, -2]), "a length must be a whole number of tokens >= 0, got -2"),
        (lambda: Lengths.uniform(5, 4), "uniform lengths need 0 <= low <= high, got 5, 4"),
        (
            lambda: Lengths.lognormal(mean=0, sigma=1, high=9),
            "lognormal lengths need mean > 0, sigma > 0 and 0 <= low <= high, "
            "got mean=0, sigma=1, low=1, high=9",
        ),
        (
            lambda: Lengths.quantiles({0: 1, 0.5: 9}),
            "a quantile table must give tokens at probabilities from 0 to 1, both included, "
            "never decreasing; got probabilities [0.0, 0.5] and tokens [1.0, 9.0]",
        ),
        (
            lambda: Lengths.quantiles({0: 9, 1: 1}),
            "a quantile table must give tokens at probabilities from 0 to 1, both included, "
            "never decreasing; got probabilities [0.0, 1.0] and tokens [9.0, 1.0]",
        ),
        (
            lambda: Lengths.quantiles({0: 1, 1: math.nan}),
            "a quantile table must give tokens at probabilities from 0 to 1, both included, "
            "never decreasing; got probabilities [0.0, 1.0] and tokens [1.0, nan]",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == words


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, math.nan], [1, math.inf]])
def test_bad_weights(weights):
    with pytest.raises(InputError) as caught:
        Lengths([1, 2], weights)
    assert str(caught.value) == "weights of lengths must be >= 0, one for each value, not all 0"
