"""RAD: numbers of the notes by hand, and judges that say no to doctored tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments import rad_cycles, rad_region, rad_split, rad_tiling
from experiments.claim import Status
from experiments.table import TABLES, Table, read_table


def committed(name: str) -> Table:
    return read_table(TABLES / f"{name}.csv")


def doctored(table: Table, column: str, change, **where) -> Table:
    """The table with a column changed in the rows that fit."""
    rows = [
        row | {column: change(row[column])} if row.items() >= where.items() else row
        for row in table.rows()
    ]
    return Table.of(table.name, rows, about=table.about)


def judged(module, place: int, table: Table) -> Status:
    return module.CLAIMS[place].judge(table).status


def test_batch_times_of_the_notes():
    assert float(rad_tiling.LAW(128)) == pytest.approx(0.004640, rel=1e-12)
    assert float(rad_tiling.LAW(129)) == pytest.approx(0.008645, rel=1e-12)
    assert rad_tiling.efficiency(129, 0.008645) == pytest.approx(0.54092, abs=5e-6)
    # A request of (256, 128) takes three full tiles; a node serves 71.8391 of them a second.
    each = 384 * float(rad_tiling.LAW(128)) / 128
    assert each == pytest.approx(0.013920, rel=1e-12)
    assert 1 / each == pytest.approx(71.8391, abs=5e-5)


def test_the_simulator_prefills_in_one_iteration():
    assert rad_tiling.alone(129) == pytest.approx(0.008645, rel=1e-12)


def test_staircase_can_fail():
    table = committed("rad_tiling")
    assert [judged(rad_tiling, i, table) for i in (0, 1)] == [Status.PROVED, Status.PROVED]
    for kind in ("theory", "simulated"):
        late = doctored(table, "time", lambda x: 1.001 * x, tokens=129, kind=kind)
        assert judged(rad_tiling, 0, late) is Status.NOT
    off = doctored(table, "time", lambda x: 1.001 * x, tokens=576, kind="simulated")
    assert judged(rad_tiling, 1, off) is Status.NOT
    better = doctored(table, "efficiency", lambda x: 1.01, tokens=640, kind="theory")
    assert judged(rad_tiling, 1, better) is Status.NOT
    nothing = table.where(kind="theory")
    assert judged(rad_tiling, 0, nothing) is Status.NOT


def test_corners_are_those_of_theorem_1():
    # 36.25 us per token in a full tile of 16: 64 tokens and 144.
    for mix in rad_region.MIXES.values():
        top = rad_region.corner(mix)
        assert top["short"] == pytest.approx(1 / (64 * 36.25e-6))
        assert top["long"] == pytest.approx(1 / (144 * 36.25e-6))


def test_fastertransformer_by_hand():
    # Long prompts: one prompt is a budget of 128, 8 tiles; then 16 decodes alone, a tile each.
    cycle = 8 * 16 * 36.25e-6 + 16 * (0.0005 + 5e-6)
    exact = (1 / cycle) / rad_region.corner(rad_region.MIXES["aligned"])["long"]
    rows = committed("rad_region").where(policy="FasterTransformer", mix="aligned", share=0.0)
    assert rows["low"][0] - 1e-4 <= exact <= rows["high"][0] + 1e-4


def test_ragged_prompts_cost_rad_a_tile():
    # 24 tokens take two tiles; 40 decodes in full tiles.
    per_request = 2 * 0.0005 + 24 * 5e-6 + 40 * 36.25e-6
    exact = 64 * 36.25e-6 / per_request
    rows = committed("rad_region").where(policy="RAD", mix="ragged", share=1.0)
    assert rows["reached"][0] == pytest.approx(exact, rel=5e-4)


def test_region_can_fail():
    table = committed("rad_region")
    assert {judged(rad_region, i, table) for i in range(3)} == {Status.VERIFIED}
    outside = doctored(table, "reached", lambda x: 1.03, policy="Sarathi", mix="ragged", share=0.5)
    assert judged(rad_region, 0, outside) is Status.NOT
    lazy = doctored(table, "reached", lambda x: 0.95, policy="RAD", mix="aligned", share=0.5)
    assert judged(rad_region, 1, lazy) is Status.NOT
    for policy in ("FasterTransformer", "RAD", "vLLM"):
        good = doctored(table, "reached", lambda x: 1.0, policy=policy, mix="ragged", share=0.5)
        assert judged(rad_region, 2, good) is Status.NOT


def test_a_path_below_the_bound_is_measured_right():
    # One class of prompts alone under Sarathi: 8 tiles and 16 decodes, all in full batches.
    values = rad_region.reached(
        rad_region.POLICIES["Sarathi"],
        rad_region.MIXES["aligned"],
        0.0,
        600,
        np.random.SeedSequence(4),
    )
    assert values == pytest.approx(1.0, abs=0.01)


def test_split_laws_by_hand():
    each = 320 * 36.25e-6
    rates = rad_split.laws(0.25)
    assert rates["dynamic"] == pytest.approx(4 / each)
    assert rates["1 + 3"] == pytest.approx(4 / each)
    assert rates["2 + 2"] == pytest.approx(2 / (0.75 * each))
    assert rates["3 + 1"] == pytest.approx(1 / (0.75 * each))
    # A third of prefill is where 1 + 3 and 2 + 2 carry the same: three quarters of dynamic.
    third = rad_split.laws(1 / 3)
    assert third["1 + 3"] == pytest.approx(third["2 + 2"]) == pytest.approx(0.75 * third["dynamic"])


def test_saturated_engine_by_hand():
    # Prompts of 64 fill the budget of 64: one iteration each.
    n = 90
    rate = rad_split.saturated(np.full(n, 64), np.ones(n, dtype=np.int64))
    assert rate == pytest.approx(1 / (64 * 36.25e-6), rel=1e-9)


def test_split_can_fail():
    table = committed("rad_split")
    assert [judged(rad_split, i, table) for i in (0, 1)] == [Status.PROVED, Status.VERIFIED]
    better = doctored(table, "of_dynamic", lambda x: x + 0.2, allocation="1 + 3", kind="theory")
    assert judged(rad_split, 0, better) is Status.NOT
    worse = doctored(table, "of_dynamic", lambda x: x - 0.1, allocation="best split")
    assert judged(rad_split, 0, worse) is Status.NOT
    off = doctored(table, "of_dynamic", lambda x: x + 0.05, allocation="dynamic", kind="simulated")
    assert judged(rad_split, 1, off) is Status.NOT


def test_cycle_by_hand():
    # N = 1: two prefill tiles, then 24 decodes alone.
    alone = 2 * 16 * 36.25e-6 + 24 * (0.0005 + 5e-6)
    assert rad_cycles.exact_below_tile(1) == pytest.approx(1 / alone)
    assert rad_cycles.bound(math.inf, 24) == pytest.approx(rad_cycles.FULL)
    assert rad_cycles.bound(4, 24) < rad_cycles.exact_below_tile(4) < rad_cycles.FULL


def test_cycles_can_fail():
    table = committed("rad_cycles")
    assert [judged(rad_cycles, i, table) for i in (0, 1)] == [Status.PROVED, Status.VERIFIED]
    fast = doctored(table, "of_full", lambda x: 1.01 * x, what="cycle", cycle="4")
    assert judged(rad_cycles, 0, fast) is Status.NOT
    short = doctored(table, "of_full", lambda x: 0.99, what="cycle", cycle="inf")
    assert judged(rad_cycles, 0, short) is Status.NOT
    slow = doctored(table, "of_full", lambda x: 0.7 * x, kind="simulated", cycle="32")
    assert judged(rad_cycles, 1, slow) is Status.NOT
    never = doctored(table, "of_full", lambda x: 0.9, kind="simulated", cycle="inf")
    assert judged(rad_cycles, 1, never) is Status.NOT
