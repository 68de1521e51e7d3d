"""Arrival processes: exact paths, rates and dispersion against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmq.errors import InputError
from llmq.model.arrivals import MMPP, Batch, CappedPoisson, Deterministic, Poisson, Renewal

RANDOM = [
    Poisson(6.0),
    Renewal(2.0, cv=0.3),
    Renewal(2.0, cv=2.0),
    CappedPoisson(6.0, cap=2.0),
    Batch(4.0, size=4),
    MMPP((0.4, 2.0), (0.1, 0.3)),
    MMPP((8.0, 0.0), (0.5, 1.5)),
]
ALL = [*RANDOM, Deterministic(3.0)]


def counts(process, window, n_windows, rng):
    """Arrivals in consecutive windows."""
    horizon = window * n_windows
    n = int(horizon * process.rate * 1.3 + 2000)
    times = process.times(n, rng)
    assert times[-1] > horizon
    return np.histogram(times, bins=np.arange(n_windows + 1) * window)[0]


def test_a_clock():
    assert Deterministic(4.0).times(3).tolist() == [0.25, 0.5, 0.75]
    for cv in (0, 1e-308, 1e-101):
        assert Renewal(4.0, cv).times(3, rng=1).tolist() == [0.25, 0.5, 0.75]
    assert Renewal(4.0, cv=1e-99).times(3, rng=1) == pytest.approx([0.25, 0.5, 0.75], rel=1e-12)
    assert (Deterministic(4.0).dispersion, Renewal(4.0, cv=0).dispersion) == (0, 0)


def test_groups_come_together():
    times = Batch(6.0, size=3).times(8, rng=2)
    assert times[0] == times[1] == times[2] < times[3] == times[5] < times[6] == times[7]
    assert Batch(6.0, size=1).times(5, rng=2).tolist() == Poisson(6.0).times(5, rng=2).tolist()
    assert Batch(math.inf, size=3).times(4, rng=2).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("process", ALL, ids=repr)
def test_times_ascend_and_repeat(process):
    times = process.times(500, rng=3)
    assert times.shape == (500,)
    assert times[0] >= 0
    assert np.all(np.diff(times) >= 0)
    assert np.array_equal(times, process.times(500, rng=3))
    assert process.times(0, rng=3).shape == (0,)


@pytest.mark.parametrize("process", ALL, ids=repr)
def test_another_rate_scales_time(process):
    faster = process.at_rate(10 * process.rate)
    assert faster.rate == pytest.approx(10 * process.rate)
    assert faster.dispersion == pytest.approx(process.dispersion)
    np.testing.assert_allclose(10 * faster.times(200, rng=4), process.times(200, rng=4), rtol=1e-9)


@pytest.mark.parametrize("process", RANDOM, ids=repr)
def test_rate_and_dispersion_against_simulation(process):
    """Counts in long windows: mean rate * T, variance dispersion * rate * T; 4 standard errors.

    In a window of 400 events and more the finite-window correction of every process here is
    below 6 % of its dispersion, which is added to the interval.
    """
    window, n = 400 / process.rate, 1500
    seen = counts(process, window, n, rng=29)
    mean, variance = seen.mean(), seen.var(ddof=1)
    assert abs(mean - 400) <= 4 * math.sqrt(process.dispersion * 400 / n)
    exact = process.dispersion * 400
    assert abs(variance - exact) <= exact * (4 * math.sqrt(2 / (n - 1)) + 0.06)


@pytest.mark.parametrize(
    ("process", "dispersion"),
    [
        (Poisson(5.0), 1.0),
        (Renewal(5.0, cv=3.0), 9.0),
        (Batch(5.0, size=7), 7.0),
        (MMPP((0.4, 2.0), (0.1, 0.3)), 1 + 2 * 0.03 * 2.56 / (0.16 * 0.32)),
        (MMPP((3.0, 3.0), (0.1, 0.3)), 1.0),  # one rate: Poisson
    ],
)
def test_dispersion_by_hand(process, dispersion):
    assert process.dispersion == pytest.approx(dispersion, rel=1e-12)


def test_mmpp_rate_is_the_stationary_mean():
    assert MMPP((0.4, 2.0), (0.1, 0.3)).rate == pytest.approx((0.4 * 0.3 + 2.0 * 0.1) / 0.4)


def test_mmpp_starts_in_its_stationary_state():
    """The first arrival of an on-off process comes late as often as the long-run law says."""
    process = MMPP((50.0, 0.0), (1.0, 3.0))  # off for a quarter of the time
    n = 2000
    streams = np.random.SeedSequence(5).spawn(n)
    late = np.mean([process.times(1, stream)[0] > 0.2 for stream in streams])
    # Off at 0 and still off at 0.2 - (a first arrival, about 1/50 s after the switch).
    low, high = 0.25 * math.exp(-3 * 0.2), 0.25 * math.exp(-3 * 0.12)
    slack = 4 * math.sqrt(0.2 * 0.8 / n)
    assert low - slack <= late <= high + slack


def test_poisson_gaps_are_exponential():
    from scipy import stats

    gaps = np.diff(Poisson(2.0).times(5000, rng=31), prepend=0.0)
    assert stats.kstest(gaps, "expon", args=(0, 0.5)).pvalue > 0.01


def test_capped_gaps():
    # Cut at 3 / qps: mean (1 - e^-3) / qps, rate 1.052396 qps (rad_slai.md 9.3, test 9).
    capped = CappedPoisson(2.0)
    assert capped.rate == pytest.approx(1.052396 * 2, rel=1e-6)
    gaps = np.diff(capped.times(20_000, rng=32), prepend=0.0)
    free = np.diff(Poisson(2.0).times(20_000, rng=32), prepend=0.0)
    np.testing.assert_allclose(gaps, np.minimum(free, 1.5), rtol=0, atol=1e-9)
    mean = -math.expm1(-3) / 2
    assert abs(gaps.mean() - mean) <= 4 * gaps.std() / math.sqrt(20_000)
    # Variance of the cut gap over its squared mean, by numerical integration of the tail.
    x = np.linspace(0, 1.5, 200_001)
    second = 2 * np.trapezoid(x * np.exp(-2 * x), x)
    assert capped.dispersion == pytest.approx(second / mean**2 - 1, rel=1e-8)
    assert CappedPoisson(2.0, cap=50.0).dispersion == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(("field", "value"), [("nominal", 0), ("cap", -1), ("cap", math.inf)])
def test_bad_caps(field, value):
    with pytest.raises(InputError) as caught:
        CappedPoisson(**{"nominal": 1.0, field: value})
    assert str(caught.value) == f"{field} must be positive and finite, got {value}"


def test_renewal_gaps_are_gamma():
    from scipy import stats

    gaps = np.diff(Renewal(2.0, cv=2.0).times(5000, rng=31), prepend=0.0)
    assert stats.kstest(gaps, "gamma", args=(0.25, 0, 2.0)).pvalue > 0.01


@pytest.mark.parametrize("kind", [Poisson, Deterministic])
@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_bad_rates(kind, rate):
    with pytest.raises(InputError) as caught:
        kind(rate)
    assert str(caught.value) == f"rate must be positive and finite, got {rate}"


@pytest.mark.parametrize("cv", [-1, math.inf, math.nan])
def test_bad_cv(cv):
    with pytest.raises(InputError) as caught:
        Renewal(1.0, cv=cv)
    assert str(caught.value) == f"cv must be >= 0 and finite, got {cv}"


@pytest.mark.parametrize(("rate", "size"), [(0, 1), (math.nan, 1), (1, 0)])
def test_bad_batches(rate, size):
    with pytest.raises(InputError) as caught:
        Batch(rate, size)
    assert str(caught.value) == (
        f"batch arrivals need rate > 0 and whole size >= 1, got {rate}, {size}"
    )


@pytest.mark.parametrize(
    ("rates", "switch"),
    [
        ((0, 0), (1, 1)),
        ((-1, 2), (1, 1)),
        ((1, 2), (0, 1)),
        ((1, 2), (1, -1)),
        ((1.0, math.nan), (1, 1)),
        ((1.0, math.inf), (1, 1)),
        ((1.0, 2.0), (1, math.nan)),
        ((1.0, 2.0), (1, math.inf)),
    ],
)
def test_bad_mmpp(rates, switch):
    with pytest.raises(InputError) as caught:
        MMPP(rates, switch)
    assert str(caught.value) == (
        "MMPP needs finite rates >= 0, not both 0, and finite switching rates > 0, "
        f"got {rates} and {switch}"
    )


def test_mmpp_has_two_states():
    with pytest.raises(InputError, match=r"^MMPP: rates must be a tuple of 2, got "):
        MMPP((1.0, 2.0, 3.0), (1.0, 1.0))
