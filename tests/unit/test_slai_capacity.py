"""The experiment SLAI against Sarathi: its parts by hand, and its direction in the small."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import slai_capacity as study
from llmq.sim.slots import count_late


def test_engine_takes_the_published_times():
    law = study.engine(0.7).law
    assert law(1) == 0.0225
    assert law(512) == pytest.approx(0.00735 + 0.0869e-3 * 512)
    # 60 decodes of 2500 tokens read 19.7 GB of keys and values.
    assert law(60, kv=150_000) - law(60) == pytest.approx(150_000 * 131_072 / 672e9)
    assert law(512, work=512 * (1024 + 256)) - law(512) == pytest.approx(3.57e-9 * 655_360)


def test_crossing_by_hand():
    loads = np.array([1.0, 2.0, 3.0])
    curves = np.array([[0.2, 0.4, 0.8], [0.6, 0.7, 0.8], [0.1, 0.2, 0.3], [0.1, 0.7, 0.2]])
    found = study.crossings(curves, 0.5, loads)
    np.testing.assert_allclose(found, [2.25, 1.0, np.inf, 1 + 4 / 6])


def test_gaps_are_cut_and_shared_by_the_loads():
    seeds = np.random.SeedSequence(3).spawn(2)
    lanes, klass = study.traffic(4000, seeds, None)
    loads = len(study.LOADS)
    assert lanes.arrival.shape == (2 * loads, 4000)
    nominal = np.diff(lanes.arrival, axis=1) * np.tile(study.LOADS, 2)[:, None]
    assert nominal.max() == pytest.approx(3.0)
    # The mean of an exponential cut at three is 1 - exp(-3).
    assert 1 / nominal.mean() == pytest.approx(1.0524, rel=0.02)
    np.testing.assert_allclose(nominal[0], nominal[loads - 1])
    assert (lanes.prompt[0] == lanes.prompt[loads - 1]).all()
    assert klass.mean() == pytest.approx(0.05, abs=0.01)
    free, _ = study.traffic(4000, seeds, None, cut=False)
    assert np.diff(free.arrival, axis=1).max() > 3


@pytest.fixture(scope="module")
def small():
    return study.compute(scale=1 / 12, rng=5, efficiencies=(0.45, 0.6))


def test_slai_carries_more(small):
    # 250 requests, 5 seeds: the direction, not the figure.
    curves = small[0.45]
    base = curves["Sarathi FCFS"].capacity()
    gains = [(curve.capacity() / base).mean() - 1 for curve in curves.values()]
    assert gains[0] == 0
    assert 0 < gains[1] < gains[2] < gains[3]
    assert 0.1 < gains[3] < 0.6


def test_short_prompts_gain_and_long_ones_pay(small):
    heavy = study.LOADS.tolist().index(1.9)
    for curves in small.values():
        medians = [curve.ttft[:, heavy].mean() for curve in curves.values()]
        assert medians == sorted(medians, reverse=True)
        tails = [curve.tail[:, heavy].mean() for curve in curves.values()]
        assert tails[3] > tails[0]


def test_more_bandwidth_carries_more(small):
    for name in study.POLICIES:
        capacities = [curves[name].capacity().mean() for curves in small.values()]
        assert capacities == sorted(capacities)


def test_token_deadline_only_lowers_the_capacity(small):
    for curves in small.values():
        for curve in curves.values():
            assert (curve.capacity_with_gaps() <= curve.capacity()).all()
            left_out = np.isnan(curve.ttft)
            assert (curve.evicting | ~left_out).all()
            assert ((curve.late >= 0) & (curve.late <= 1) | left_out).all()
            assert ((curve.first_token > curve.ttft) | left_out).all()


def test_report_names_what_is_outside(small):
    lines = study.report({0.6: small[0.6]})
    assert lines[0] == "KV bandwidth efficiency 0.6, 5 seeds"
    # Far from the band: a report that always says "inside" fails here.
    curves = dict(small[0.6])
    curves["SLAI SPF dynamic"] = curves["Sarathi FCFS"]
    assert any("OUTSIDE" in line for line in study.report({0.6: curves}))


def test_a_path_of_the_study_is_that_of_the_reference():
    lanes, klass = study.traffic(60, np.random.SeedSequence(8).spawn(1), None)
    chip, policy = study.engine(0.6), study.POLICIES["SLAI SPF dynamic"]
    log, late = count_late(chip, policy, lanes, klass, study.CLASSES)
    lane = len(study.LOADS) - 1
    made, first, share = study.evicting("SLAI SPF dynamic", chip, lanes, klass, lane)
    arrival = lanes.arrival[lane]
    np.testing.assert_allclose(log.prefill_end[lane] - arrival, made, rtol=1e-9)
    np.testing.assert_allclose(log.first_token[lane] - arrival, first, rtol=1e-9)
    assert share * (lanes.output * klass)[lane].sum() == pytest.approx(late[lane, 1])
