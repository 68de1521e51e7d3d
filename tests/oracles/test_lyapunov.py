"""Networks of agents with known answers: theory core O15, Rybko-Stolyar and Lu-Kumar."""

from __future__ import annotations

from fractions import Fraction as F

import pytest

from llmq.result import Kind
from llmq.theory.stability.lyapunov import TwoStation, cyclic_agents, two_station

RS = {"station": (1, 2, 2, 1), "successor": (1, None, 3, None), "arrivals": (1, 0, 1, 0)}


def rybko_stolyar(m1: F, m2: F) -> TwoStation:
    return two_station(mean_service=(m1, m2, m1, m2), **RS)


@pytest.mark.parametrize(
    ("m1", "m2", "epsilon"),
    [
        (F(1, 10), F(2, 5), F(1, 12)),
        (F(1, 10), F(49, 100), F(1, 147)),
        (F(11, 20), F(11, 25), F(1, 286)),
        (F(1, 10), F(51, 100), F(0)),
        (F(1, 10), F(3, 5), F(0)),
    ],
)
def test_o15_epsilon(m1: F, m2: F, epsilon: F) -> None:
    found = rybko_stolyar(m1, m2)
    assert found.epsilon == epsilon
    assert found.is_stable == (epsilon > 0)
    assert found.loads == (m1 + m2, m1 + m2)
    assert found.kind is Kind.EXACT


def test_o15_weights() -> None:
    assert {w for row in rybko_stolyar(F(1, 10), F(2, 5)).weights for w in row} == {F(0), F(1, 6)}
    found = rybko_stolyar(F(11, 20), F(11, 25))
    assert all((26 * w).denominator == 1 for row in found.weights for w in row)


# More instances of O15's programme.


def test_o15_decimals_are_the_rationals_they_say() -> None:
    assert rybko_stolyar(0.1, 0.49).epsilon == F(1, 147)  # type: ignore[arg-type]


@pytest.mark.parametrize("m2", [F(499, 1000), F(1, 2), F(501, 1000)])
def test_o15_sharp_at_the_virtual_station(m2: F) -> None:
    assert rybko_stolyar(F(1, 10), m2).is_stable == (2 * m2 < 1)


def test_o15_cyclic_agents() -> None:
    agents = cyclic_agents(768, first_hop=(32, 32), second_hop=(512, 32))
    assert agents.critical_load == F(19, 34)
    assert float(agents.critical_load) == pytest.approx(0.5588235294, rel=1e-9)
    assert agents.growth(0.9) == agents.growth(F(9, 10)) == F(153, 37)
    assert agents.growth(agents.critical_load) == 1
    assert agents.second_work == F(544, 768)


def test_o15_simulated_peaks_agree() -> None:
    """Published peaks of the simulated network: 85k, 340k and 1.4M tokens (two digits)."""
    growth = float(cyclic_agents(768, (32, 32), (512, 32)).growth(0.9))
    assert growth == pytest.approx(340 / 85, rel=0.05)
    assert growth == pytest.approx(1400 / 340, rel=0.05)


@pytest.mark.parametrize("load", [F(1, 10), F(1, 2), F(55, 100), F(57, 100), F(9, 10), F(99, 100)])
def test_o15_programme_and_virtual_station_agree(load: F) -> None:
    agents = cyclic_agents(768, first_hop=(32, 32), second_hop=(512, 32))
    assert agents.lyapunov(load).is_stable == (load < agents.critical_load)
    assert agents.lyapunov(load).is_stable == (agents.growth(load) < 1)
    assert agents.lyapunov(load).loads == (load, load)


@pytest.mark.parametrize(
    ("m", "stable"),
    [
        ((0.1, 0.45, 0.1, 0.45), True),  # virtual station 0.9
        ((0.1, 0.55, 0.1, 0.35), True),
        ((0.1, 0.55, 0.1, 0.5), False),  # 1.05, while both stations work below 0.7 of the time
        ((0.6, 0.1, 0.7, 0.1), True),  # no long second visits
        ((0.6, 0.1, 0.95, 0.1), False),  # the second station is overloaded by itself
    ],
)
def test_lu_kumar(m: tuple[float, ...], stable: bool) -> None:
    """One line, stations 1, 2, 2, 1: stable iff m2 + m4 < 1 beside the loads (known result)."""
    found = two_station((1, 2, 2, 1), m, (1, 2, 3, None), (1, 0, 0, 0))
    assert found.loads == pytest.approx((m[0] + m[3], m[1] + m[2]), rel=1e-12)
    assert found.is_stable == (max(found.loads) < 1 and m[1] + m[3] < 1) == stable
