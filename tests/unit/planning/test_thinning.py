"""One engine's share: every n-th arrival exactly, a random share in law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from llmq.errors import InputError
from llmq.model.arrivals import MMPP, Batch, Deterministic, Poisson, Renewal
from llmq.planning._thinning import Thinned

PROCESSES = [Poisson(6.0), Renewal(6.0, cv=2.0), Batch(6.0, size=3), MMPP((4.0, 20.0), (1.0, 3.0))]


@pytest.mark.parametrize("process", [*PROCESSES, Deterministic(6.0)], ids=repr)
@pytest.mark.parametrize("engines", [1, 2, 5])
def test_in_turn_takes_every_nth_arrival(process, engines):
    every = process.times(40 * engines, rng=3)
    mine = Thinned(process, engines).times(40, rng=3)
    assert np.array_equal(mine, every[engines - 1 :: engines])


def test_in_turn_from_poisson_is_erlang():
    share = Thinned(Poisson(6.0), engines=3)
    gaps = np.diff(share.times(4000, rng=3), prepend=0.0)
    assert stats.kstest(gaps, "gamma", args=(3, 0, 1 / 6)).pvalue > 0.01
    assert share.dispersion == pytest.approx(1 / 3)


def test_at_random_from_poisson_is_poisson():
    share = Thinned(Poisson(6.0), engines=3, in_turn=False)
    gaps = np.diff(share.times(4000, rng=3), prepend=0.0)
    assert stats.kstest(gaps, "expon", args=(0, 0.5)).pvalue > 0.01
    assert (share.rate, share.dispersion) == (2.0, pytest.approx(1.0))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("in_turn", [True, False])
def test_rate_and_dispersion_against_simulation(process, in_turn):
    """Counts in windows of 300: 4 standard errors and 6 % for the finite window."""
    share = Thinned(process, engines=4, in_turn=in_turn)
    assert share.rate == pytest.approx(process.rate / 4)
    windows, size = 1200, 300
    times = share.times(int(windows * size * 1.2), rng=23)
    seen = np.histogram(times, bins=np.arange(windows + 1) * size / share.rate)[0]
    assert times[-1] > windows * size / share.rate
    assert abs(seen.mean() - size) <= 4 * math.sqrt(share.dispersion * size / windows)
    exact = share.dispersion * size
    assert abs(seen.var(ddof=1) - exact) <= exact * (4 * math.sqrt(2 / (windows - 1)) + 0.06)


@pytest.mark.parametrize("in_turn", [True, False])
def test_rates_scale_and_paths_repeat(in_turn):
    share = Thinned(Poisson(6.0), engines=3, in_turn=in_turn)
    faster = share.at_rate(20.0)
    assert faster.rate == pytest.approx(20.0)
    assert faster.process.rate == pytest.approx(60.0)
    np.testing.assert_allclose(10 * faster.times(50, rng=1), share.times(50, rng=1), rtol=1e-12)
    assert share.times(0, rng=1).shape == (0,)


def test_all_at_once_stays_all_at_once():
    assert Thinned(Batch(math.inf), engines=3).times(4, rng=1).tolist() == [0] * 4


def test_refusals():
    with pytest.raises(InputError, match=r"^thinning needs at least 1 engine, got 0$"):
        Thinned(Poisson(1.0), engines=0)
    with pytest.raises(InputError, match=r"^rate must be positive and finite, got inf$"):
        Thinned(Poisson(1.0), engines=2).at_rate(math.inf)
