"""The fluid model with known values: theory core 2.6, O1, O7, O12 and policies 6.2."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest

from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory import fluid

CHAT = {"x": RequestClass(512, 128)}
SMALL = Engine(BatchTime.affine(base=0.012, per_token=1e-4), 1024, conventions=THEORY)


def small(stages: int = 8) -> fluid.FluidModel:
    return fluid.fluid_model(SMALL, CHAT, {"x": 8.0}, stages=stages)


# Theory core 2.6: lambda = 8, s = 512, o = 128, c = 12 ms, a = 0.1 ms, budget 1024, K = 8.


def test_equilibrium_of_the_chunked_prefill_engine() -> None:
    rest = small().equilibrium()
    assert rest.iteration == pytest.approx(0.0245901639, rel=1e-8)
    assert rest.decoding["x"] == pytest.approx(25.1803278689, rel=1e-10)
    assert rest.prefill["x"] == pytest.approx(100.7213114754, rel=1e-10)
    assert rest.tokens == pytest.approx(rest.decoding["x"] + rest.prefill["x"], rel=1e-14)
    assert rest.iteration == pytest.approx(0.012 / (1 - 8 * 640e-4), rel=1e-14)


def test_the_slowest_mode() -> None:
    spectrum = small().spectrum()
    assert all(type(value) is complex for value in spectrum)
    assert spectrum[0].real == pytest.approx(-0.704, abs=5e-4)
    assert list(spectrum) == sorted(spectrum, key=lambda value: -value.real)
    assert small().relaxation_time() == pytest.approx(1 / 0.704, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_reached_from_random_starts(seed: int) -> None:
    model, rng = small(), np.random.default_rng(seed)
    start = np.concatenate((rng.uniform(0, 50, 1), rng.uniform(0, 2000, 1), rng.uniform(0, 40, 8)))
    last = model.trajectory(start, 40.0).state
    assert last == pytest.approx(model.equilibrium().state, abs=1e-5)


# O12: decodes alone.


def test_o12_fluid_point_and_relaxation() -> None:
    point = fluid.decode_point(rate=2, mean_output=200, base=0.012, per_token=0.0005)
    assert (point.mean, point.relaxation, point.load) == (6, F(15, 4), F(1, 5))
    # The stochastic engine (negative binomial) holds rho_a / (1 - rho_a) more: 6.25.
    assert point.mean + point.load / (1 - point.load) == F(25, 4)


def test_o12_is_the_engine_with_a_prompt_of_almost_nothing() -> None:
    engine = Engine(BatchTime.affine(base=0.012, per_token=0.0005), 4096, conventions=THEORY)
    model = fluid.fluid_model(engine, {"x": RequestClass(1, 200)}, {"x": 2.0}, stages=1)
    # One prompt token in 201 raises the load of the tokens from 0.2 to 0.201.
    assert model.equilibrium().decoding["x"] == pytest.approx(4.8 / (1 - 0.201), rel=1e-12)
    assert model.relaxation_time() == pytest.approx(3.75, rel=0.01)


# O1: overload of Dai's engine at 1.1 of its capacity.


def test_o1_overload_slope() -> None:
    engine = Engine(
        BatchTime.tiled(base=11.28e-3, per_tile=35.47e-3, tile=128), 512, conventions=THEORY
    )
    capacity = 16.7145468791
    slope = fluid.fluid_model(
        engine, {"x": RequestClass(100, 100)}, {"x": 1.1 * capacity}
    ).overload_slope()
    assert slope.load == pytest.approx(1.1, rel=1e-10)
    assert slope.tokens == pytest.approx(334.2909376, rel=1e-9)
    assert slope.requests["x"] == pytest.approx(0.1 * capacity, rel=1e-9)


# O7: WAIT.


def test_o7_wait_equilibrium() -> None:
    mix = {"a": RequestClass(100, 50), "b": RequestClass(200, 100)}
    rest = fluid.wait_equilibrium(mix, {"a": 8, "b": 4}, d0=1 / 100, d1=1e-7)
    assert rest.area_rate == 152_000
    assert rest.memory == F(1_900_000, 1231)
    assert rest.interval == F(25, 2462)
    assert rest.counts == {"a": 8 * F(25, 2462), "b": 4 * F(25, 2462)}
    assert float(rest.counts["a"]) == pytest.approx(0.0812347684809, rel=1e-12)
    assert rest.throughput == 800


def test_o7_wait_is_a_fixed_point_stage_by_stage() -> None:
    mix = {"a": RequestClass(100, 50), "b": RequestClass(200, 100)}
    rest = fluid.wait_equilibrium(mix, {"a": 8, "b": 4}, d0=F(1, 100), d1=F(1, 10**7))
    held = sum(
        rest.counts[name] * (kind.prompt.low + stage)
        for name, kind in mix.items()
        for stage in range(kind.output.low + 1)
    )
    assert held == rest.memory
    assert F(1, 100) + F(1, 10**7) * held == rest.interval


def test_o7_nested_wait_exponent() -> None:
    theta = fluid.nested_wait_exponent(40, 20, 0.4)
    assert theta == pytest.approx(0.81093021621633, rel=1e-13)
    assert fluid.hoeffding_exponent(40, 20, 0.4) == F(4, 5)
    assert np.exp(-20 * theta) * (0.6 + 0.4 * np.exp(theta)) ** 40 == pytest.approx(1, rel=1e-11)


def test_wait_of_the_policy_notes() -> None:
    """policies 6, item 2: l = 20, l' = 19, lambda = 60, d0 = 10 ms, d1 = 20 us."""
    rest = fluid.wait_equilibrium({"x": RequestClass(20, 19)}, {"x": 60}, d0=0.01, d1=2e-5)
    assert rest.area_rate == 60 * 590
    assert F(2, 10**5) * rest.area_rate == F("0.708")
    assert float(rest.interval) == pytest.approx(0.0342466, abs=5e-8)
    assert float(rest.counts["x"]) == pytest.approx(2.054795, abs=5e-7)
    assert float(rest.memory) == pytest.approx(1212.33, abs=5e-3)


def test_nested_shares_of_the_policy_notes() -> None:
    mix = {"a": RequestClass(5, 2), "b": RequestClass(5, 4), "c": RequestClass(5, 9)}
    rates = {"a": 5, "b": 3, "c": 2}
    plan = fluid.nested_wait(mix, rates, (20, 12, 6), 0.01, 1e-7, horizon=3600, overflow=0.01)
    assert plan.shares == (F(1, 2), F(2, 5))
