"""Papers on theory: exact values, models by hand, and judges that see a doctored table."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from fractions import Fraction as F

import numpy as np
import pytest

import llmq
from experiments import (
    dai_agents,
    dai_rate,
    dai_region,
    inoue_batching,
    past_future,
    trail_soap,
    wait_cascade,
    wait_equilibrium,
    wait_model,
    wait_thresholds,
    yang_clipping,
)
from experiments.claim import Status
from experiments.table import TABLES, Table, read_table

Row = dict


def found(module: object, table: Table) -> dict[str, Status]:
    return {claim.id: claim.judge(table).status for claim in module.CLAIMS}


def doctored(table: Table, change: Callable[[Row], object], **where: object) -> Table:
    """The table with some rows changed in place."""
    rows = list(table.rows())
    hit = 0
    for row in rows:
        if all(row[key] == value for key, value in where.items()):
            change(row)
            hit += 1
    assert hit, "nothing to doctor"
    return Table.of(table.name, rows, about=table.about)


def times(key: str, factor: float) -> Callable[[Row], object]:
    return lambda row: row.update({key: row[key] * factor})


def shift(*keys: str, by: float) -> Callable[[Row], object]:
    return lambda row: row.update({key: row[key] + by for key in keys})


def committed(name: str) -> Table:
    return read_table(TABLES / f"{name}.csv")


# ------------------------------------------------------------------------------ Dai et al.


@pytest.mark.parametrize(
    ("budget", "points"),
    [
        (
            512,
            [
                (0, F(400, 187)),
                (F(116, 187), F(36, 17)),
                (F(41300, 15316), F(9900, 15316)),
                (F(12800, 3829), 0),
            ],
        ),
        (
            1024,
            [
                (0, F(400, 187)),
                (F(116, 187), F(36, 17)),
                (F(92500, 29504), F(9900, 29504)),
                (F(1600, 461), 0),
            ],
        ),
    ],
)
def test_vertices_of_the_batch_size_limit(budget: int, points: list) -> None:
    assert dai_region.vertices(budget) == [(1000 * x, 1000 * y) for x, y in points]


def test_growth_counts_what_stays() -> None:
    steady = np.array([5, 6] * 100)
    assert dai_region.growth(steady) == 0
    assert dai_region.growth(np.arange(400) * 0.25) == 0.25
    assert dai_region.growth(np.arange(400)) == 1


def test_requests_at_the_start_are_seen_at_once() -> None:
    # One slot batch of 128 tokens: 64 + 64 tokens of a request in 1 + 64 iterations.
    counts = dai_region.present("sarathi-128", (64, 64), 100.0, 12, 10)
    assert counts.tolist() == [10] * 10 + [1, 1]


def test_dai_region_can_fail() -> None:
    table = committed("dai_region")
    assert found(dai_region, table) == {"DAI-C": Status.PROVED, "DAI-FIVE": Status.VERIFIED}
    moved = doctored(table, times("x", 1.01), part="region", n=1024)
    assert found(dai_region, moved)["DAI-C"] is Status.NOT
    loaded = doctored(table, times("load", 1.01), part="vertex")
    assert found(dai_region, loaded)["DAI-C"] is Status.NOT
    for policy, y in (("sarathi-1024", 0.0), ("sarathi-128", 0.1)):
        other = doctored(table, lambda row, y=y: row.update(y=y), part="growth", policy=policy)
        assert found(dai_region, other)["DAI-FIVE"] is Status.NOT


def test_edges_lie_in_the_region_and_the_better_budget_depends_on_the_mix() -> None:
    edges = committed("dai_region").where(part="edge")
    assert edges["high"].max() <= 1.02
    load = {
        (row["policy"], round(128 * row["x"] / (row["x"] + row["y"]))): row["load"]
        for row in edges.rows()
    }
    assert load["sarathi-128", 29] > 0.94 > 0.9 > load["sarathi-1024", 29]
    assert load["sarathi-128", 116] < 0.85 < 0.9 < load["sarathi-1024", 116]
    assert all(load["fastertransformer-1024", s] < 0.7 for s in (29, 64, 116))


def test_dai_rate_can_fail() -> None:
    table = committed("dai_rate")
    assert float(dai_rate.CRITICAL) == pytest.approx(16.7145468791, rel=1e-11)
    good = {"DAI-RATE": Status.PROVED, "DAI-SLOPE": Status.VERIFIED, "DAI-STABLE": Status.VERIFIED}
    assert found(dai_rate, table) == good
    best = doctored(table, times("y", 1.2), part="curve", x=384)
    assert found(dai_rate, best)["DAI-RATE"] is Status.NOT
    for name in ("poisson", "even"):
        steep = doctored(table, shift("y", "low", "high", by=0.02), name=name, x=1.1)
        assert found(dai_rate, steep)["DAI-SLOPE"] is Status.NOT
        grows = doctored(table, shift("y", "low", "high", by=0.05), name=name, x=0.8)
        assert found(dai_rate, grows)["DAI-STABLE"] is Status.NOT


def test_dai_agents_can_fail() -> None:
    table = committed("dai_agents")
    assert found(dai_agents, table) == {
        "DAI-SWING": Status.BAND,
        "DAI-REVERSE": Status.DIRECTION,
    }
    tops = table.where(part="peak", kind="simulated", name="exit first")["y"]
    assert tops == pytest.approx([85e3, 340e3, 1.4e6], rel=0.04)
    low = doctored(table, times("y", 0.9), kind="simulated", part="peak", y=tops[-1])
    assert found(dai_agents, low)["DAI-SWING"] is Status.NOT
    none = table.where(part="path")
    assert found(dai_agents, none)["DAI-SWING"] is Status.NOT
    calm = doctored(table, lambda row: row.update(y=100.0 + row["x"]), name="entry first")
    assert found(dai_agents, calm)["DAI-REVERSE"] is Status.NOT


# ------------------------------------------------------------------------------------ WAIT


def test_wait_by_hand() -> None:
    # Iterations of one second, two stages, threshold 2: nobody moves until the next two wait.
    kind = wait_model.Type(prompt=1, output=1, rate=1.0)
    came, code = np.array([0.0, 1.0, 2.0, 3.0]), np.zeros(4, dtype=int)
    run = wait_model.serve([kind], came, code, (1.0, 0.0), "wait", (2,))
    assert run.start.tolist() == [1.0, 3.0, 4.0]
    assert run.finish.tolist() == [4.0, 4.0, 5.0, 5.0]
    assert run.kv.tolist() == [2.0, 6.0, 4.0]  # (1 + 1), then two rows with 2 and two with 1
    assert run.held.tolist() == run.kv.tolist()


def test_types_wait_for_themselves_and_their_memory_is_held() -> None:
    kinds = [wait_model.Type(1, 1, 1.0), wait_model.Type(10, 1, 1.0)]
    came, code = np.array([0.0, 0.0, 5.0, 50.0]), np.array([0, 1, 0, 0])
    run = wait_model.serve(kinds, came, code, (1.0, 0.1), "wait", (1, 1), until=20.0)
    # Both start at 0; at 2.1 nobody waits until 5; then type 0 moves alone.
    assert run.start.tolist() == [0.0, 5.0]
    assert run.kv.tolist() == [11.0, 3.0]
    assert run.held.tolist() == [11.0, 14.0]
    assert run.finish[0] == pytest.approx(5 + 1.3)
    assert np.isnan(run.finish[1:]).all()


def test_first_come_first_served_by_hand_evicts_the_latest() -> None:
    kind = wait_model.Type(prompt=2, output=2, rate=1.0)
    came, code = np.zeros(2), np.zeros(2, dtype=int)
    # Room for 2 + 2, not for 3 + 3: the second goes. It fits beside 3, not beside 4, goes again,
    # and starts for good when the first has ended.
    run = wait_model.serve([kind], came, code, (1.0, 0.0), "fcfs", (), 5)
    assert run.evictions == 2
    assert run.finish.tolist() == [3.0, 6.0]
    kept = wait_model.serve([kind], came, code, (1.0, 0.0), "reserve", (), 5)
    assert (kept.evictions, kept.finish.tolist()) == (0, [3.0, 6.0])


def test_without_a_limit_first_come_first_served_is_that_of_llmq() -> None:
    kinds = wait_equilibrium.types(0.3)
    came, code = wait_model.arrivals(kinds, 4.0, np.random.default_rng(3))
    mine = wait_model.serve(kinds, came, code, wait_equilibrium.LAW, "fcfs")
    base, read = wait_equilibrium.LAW
    chip = llmq.Engine(
        llmq.BatchTime.affine(base=base, per_token=0.0, per_kv=read),
        token_budget=10**6,
        conventions=llmq.THEORY,
    )
    prompt = np.array([kind.prompt for kind in kinds])[code]
    output = np.array([kind.output for kind in kinds])[code]
    theirs = llmq.simulate(chip, llmq.Trace(came, prompt, output)).requests.finish[0]
    np.testing.assert_allclose(mine.finish, theirs, rtol=1e-12)


def test_the_fluid_comes_to_the_equilibrium() -> None:
    _, kv = wait_model.fluid(wait_equilibrium.types(0.5), wait_equilibrium.LAW, 30.0)
    assert kv[-1] == pytest.approx(wait_equilibrium.memory(0.5), rel=1e-6)
    assert wait_equilibrium.memory() == pytest.approx(316_666.6667, rel=1e-9)


def test_thresholds_in_the_fluid() -> None:
    star = wait_thresholds.equilibrium()
    assert star == pytest.approx([50 / 3, 25 / 3])
    assert wait_thresholds.held(star) == pytest.approx(wait_thresholds.STAR)
    assert np.isnan(wait_thresholds.fluid_latency([0.9 * n for n in star]))
    twice = wait_thresholds.fluid_latency([2 * n for n in star])
    # (n - 1) / (2 rate) + l' n / rate + an iteration; n / rate = 1/12 s at twice n*.
    step = 0.01 + 1e-7 * 2 * wait_thresholds.STAR
    first = (100 / 3 - 1) / 800 + 50 / 12 + step
    second = (50 / 3 - 1) / 400 + 100 / 12 + step
    assert twice == pytest.approx((2 * first + second) / 3)


def test_wait_equilibrium_can_fail() -> None:
    table = committed("wait_equilibrium")
    good = {"WAIT-FLUID": Status.PROVED, "WAIT-APPROACH": Status.BAND}
    assert found(wait_equilibrium, table) == good
    for name in ("memory", "interval", "nested exponent"):
        wrong = doctored(table, times("y", 1.001), part="exact", name=name)
        assert found(wait_equilibrium, wrong)["WAIT-FLUID"] is Status.NOT
    wrong = doctored(table, times("y", 1.1), part="curve", kind="simulated")
    assert found(wait_equilibrium, wrong)["WAIT-APPROACH"] is Status.NOT


def test_wait_thresholds_can_fail() -> None:
    table = committed("wait_thresholds")
    assert found(wait_thresholds, table) == {
        "WAIT-KEEPS": Status.VERIFIED,
        "WAIT-MEMORY": Status.VERIFIED,
        "WAIT-DELAY": Status.BAND,
    }
    for change in (times("y", 0.97), lambda row: row.update(evictions=float("inf"))):
        less = doctored(table, change, part="memory", name="wait", x=1.2)
        assert found(wait_thresholds, less)["WAIT-KEEPS"] is Status.NOT
    more = doctored(table, times("y", 1.1), part="memory", kind="simulated", x=0.6)
    assert found(wait_thresholds, more)["WAIT-MEMORY"] is Status.NOT
    slow = doctored(table, times("y", 1.2), part="threshold", kind="simulated", name="latency")
    assert found(wait_thresholds, slow)["WAIT-DELAY"] is Status.NOT


def test_wait_cascade_can_fail() -> None:
    table = committed("wait_cascade")
    assert found(wait_cascade, table) == {"WAIT-FCFS": Status.VERIFIED}
    full = doctored(table, lambda row: row.update(y=39_700.0), part="late", name="fcfs")
    assert found(wait_cascade, full)["WAIT-FCFS"] is Status.NOT
    worse = doctored(table, lambda row: row.update(y=20_000.0), part="late", name="wait")
    assert found(wait_cascade, worse)["WAIT-FCFS"] is Status.NOT
    vague = doctored(table, times("low", 0.8), part="late", name="fcfs")
    assert found(wait_cascade, vague)["WAIT-FCFS"] is Status.NOT


# ----------------------------------------------------------------------------------- TRAIL


def test_sizes_by_hand() -> None:
    # The long job is preempted at 1 by the short one, unless its age is past c times 4.
    arrival, size = [0.0, 1.0], [4.0, 1.0]
    assert trail_soap.sojourns(arrival, size, size, 1.0).tolist() == [5.0, 1.0]
    assert trail_soap.sojourns(arrival, size, size, 0.2).tolist() == [4.0, 4.0]
    assert trail_soap.sojourns(arrival, size, size, 0.0).tolist() == [4.0, 4.0]
    # A wrong prediction: the long job looks as short as 0.5 and is never preempted.
    assert trail_soap.sojourns(arrival, size, [0.5, 1.0], 1.0).tolist() == [4.0, 4.0]
    # Two wait: the shorter prediction first.
    got = trail_soap.sojourns([0.0, 1.0, 2.0], [4.0, 3.0, 1.0], [4.0, 3.0, 1.0], 0.0)
    assert got.tolist() == [4.0, 7.0, 3.0]


def test_trail_can_fail() -> None:
    table = committed("trail_soap")
    assert found(trail_soap, table) == {
        "TRAIL-SOAP": Status.VERIFIED,
        "TRAIL-VALUES": Status.PROVED,
        "TRAIL-PRINTED": Status.BAND,
    }
    spjf = {"kind": "simulated", "name": "SPJF", "load": 0.5}
    far = doctored(table, shift("sojourn", "low", "high", by=0.1), **spjf)
    assert found(trail_soap, far)["TRAIL-SOAP"] is Status.NOT
    far = doctored(table, times("sojourn", 1.0001), kind="theory", name="SRPT", load=0.7)
    assert found(trail_soap, far)["TRAIL-VALUES"] is Status.NOT
    far = doctored(table, times("sojourn", 1.002), kind="printed", name="SPRPT", load=0.9)
    assert found(trail_soap, far)["TRAIL-PRINTED"] is Status.NOT


# ----------------------------------------------------------------------------- Past-Future


def test_peak_by_hand_and_by_brute_force() -> None:
    assert past_future.peak([5, 3], [2, 1]) == past_future.brute([5, 3], [2, 1]) == 10
    assert past_future.peak([5, 3], [9, 1]) == 14  # alone at its end
    assert past_future.peak([], []) == past_future.brute([], []) == 0
    draw = random.Random(3)
    for _ in range(200):
        n = draw.randint(1, 12)
        held = [draw.randint(1, 50) for _ in range(n)]
        left = [draw.randint(0, 40) for _ in range(n)]
        assert past_future.peak(held, left) == past_future.brute(held, left)
    assert past_future.confirmed([5, 3], [2, 1], 10)
    assert not past_future.confirmed([5, 3], [2, 1], 11)
    assert not past_future.confirmed([5, 3], [2, 1], 9)


def test_predictions_are_conditional_on_what_is_generated() -> None:
    rows = past_future.Batch([10] * 3, [0, 4, 9], [0] * 3)
    draw = np.random.default_rng(5)
    seen = [set(), set(), set()]
    for _ in range(60):
        lists = past_future.past_future(rows, deque([9, 3, 5]), draw)
        assert len(lists) == 5
        for left in lists:
            for values, value in zip(seen, left.tolist(), strict=True):
                values.add(value)
    assert seen == [{3, 5, 9}, {1, 5}, {past_future.LIMIT - 9}]
    (left,) = past_future.past_future(rows, deque(), draw)
    assert left.tolist() == [1024, 1020, 1015]


def test_past_future_can_fail() -> None:
    table = committed("past_future")
    assert found(past_future, table) == {"PF-PEAK": Status.VERIFIED, "PF-RULE": Status.DIRECTION}
    for name in ("formula", "simulator"):
        wrong = doctored(table, lambda row: row.update(y=1), part="wrong", name=name)
        assert found(past_future, wrong)["PF-PEAK"] is Status.NOT
    evicts = doctored(table, lambda row: row.update(x=20.0), part="rule", name="Past-Future")
    assert found(past_future, evicts)["PF-RULE"] is Status.NOT
    slow = doctored(table, times("low", 0.4), part="rule", name="Past-Future")
    assert found(past_future, slow)["PF-RULE"] is Status.NOT


# --------------------------------------------------------------------------- Inoue and Yang


def test_inoue_can_fail() -> None:
    assert inoue_batching.bounds(0.5) == pytest.approx((21.1585687529, 5.9018666667), rel=1e-10)
    table = committed("inoue_batching")
    assert found(inoue_batching, table) == {
        "INOUE-DELAY": Status.VERIFIED,
        "INOUE-BOUND": Status.VERIFIED,
        "INOUE-BUSY": Status.BAND,
    }
    at = {"part": "delay", "kind": "simulated", "load": 0.3}
    far = doctored(table, shift("y", "low", "high", by=0.1), **at)
    assert found(inoue_batching, far)["INOUE-DELAY"] is Status.NOT
    under = doctored(table, times("y", 0.99), part="delay", name="phi1")
    assert found(inoue_batching, under)["INOUE-BOUND"] is Status.NOT
    idle = doctored(table, times("y", 0.9), part="utilisation", kind="simulated")
    assert found(inoue_batching, idle)["INOUE-BUSY"] is Status.NOT


def test_yang_can_fail() -> None:
    assert yang_clipping.law(1600).wait == pytest.approx(22.34004317, rel=1e-9)
    assert yang_clipping.law(3000).wait == pytest.approx(55.36513473, rel=1e-9)
    assert yang_clipping.lengths(1600).weights[-1] == pytest.approx(0.295025389, rel=1e-8)
    table = committed("yang_clipping")
    good = {"YANG-CLIP": Status.BAND, "YANG-WAIT": Status.VERIFIED}
    assert found(yang_clipping, table) == good
    other = doctored(table, times("wait", 1.001), kind="printed", limit=1600)
    assert found(yang_clipping, other)["YANG-CLIP"] is Status.NOT
    far = doctored(table, shift("wait", "low", "high", by=3.0), kind="simulated", limit=1600)
    assert found(yang_clipping, far)["YANG-WAIT"] is Status.NOT
