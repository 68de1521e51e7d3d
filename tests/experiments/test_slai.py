"""SLAI: the setting by hand, gaps against two other simulators, judges against doctored tables."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import (
    slai_capacity,
    slai_gaps,
    slai_parameters,
    slai_prompts,
    slai_rates,
    slai_setting,
)
from experiments.claim import Status
from experiments.table import TABLES, Table, read_table
from llmq import policies
from llmq.sim._fast.slots.engine import count_late

HEAVY = np.array([1.0, 1.5, 2.0])


def committed(name: str) -> Table:
    return read_table(TABLES / f"{name}.csv")


def doctored(table: Table, change, **where) -> Table:
    """The table with rows that fit replaced by what ``change`` says."""
    rows = []
    for row in table.rows():
        fits = all(
            abs(row[k] - v) < 1e-9 if isinstance(v, float) else row[k] == v
            for k, v in where.items()
        )
        rows.append(row | (change(row) if fits else {}))
    return Table.of(table.name, rows, about=table.about)


def judged(module, place: int, table: Table) -> Status:
    return module.CLAIMS[place].judge(table).status


def times(factor: float, *, keys=("value", "low", "high")):
    return lambda row: {key: factor * row[key] for key in keys}


def test_engine_takes_the_published_times():
    law = slai_setting.engine(0.7).law
    assert law(1) == 0.0225
    assert law(512) == pytest.approx(0.00735 + 0.0869e-3 * 512)
    # 60 decodes of 2500 tokens read 19.7 GB of keys and values.
    assert law(60, kv=150_000) - law(60) == pytest.approx(150_000 * 131_072 / 672e9)
    assert law(512, work=512 * (1024 + 256)) - law(512) == pytest.approx(3.57e-9 * 655_360)


def test_crossing_by_hand():
    loads = np.array([1.0, 2.0, 3.0])
    curves = np.array([[0.2, 0.4, 0.8], [0.6, 0.7, 0.8], [0.1, 0.2, 0.3], [0.1, 0.7, 0.2]])
    found = slai_setting.crossings(curves, 0.5, loads)
    np.testing.assert_allclose(found, [2.25, 1.0, np.inf, 1 + 4 / 6])


def test_gaps_are_cut_and_shared_by_the_loads():
    seeds = np.random.SeedSequence(3).spawn(2)
    lanes, klass = slai_setting.traffic(4000, seeds, HEAVY)
    loads = len(HEAVY)
    assert lanes.arrival.shape == (2 * loads, 4000)
    nominal = np.diff(lanes.arrival, axis=1) * np.tile(HEAVY, 2)[:, None]
    assert nominal.max() == pytest.approx(3.0)
    # The mean of an exponential cut at three is 1 - exp(-3): the true rate is 1.052396 times.
    assert 1 / nominal.mean() == pytest.approx(1.052396, rel=0.02)
    np.testing.assert_allclose(nominal[0], nominal[loads - 1])
    assert (lanes.prompt[0] == lanes.prompt[loads - 1]).all()
    assert klass.mean() == pytest.approx(0.05, abs=0.01)
    free, _ = slai_setting.traffic(4000, seeds, HEAVY, cut=False)
    assert np.diff(free.arrival, axis=1).max() > 3


@pytest.mark.parametrize("name", ["Sarathi FCFS", "SLAI SPF dynamic"])
def test_gaps_are_those_of_the_kernel_and_of_the_reference(name):
    seeds = np.random.SeedSequence(3).spawn(1)
    lanes, klass = slai_setting.traffic(60, seeds, np.array([0.6, 1.2, 1.6]))
    chip, policy = slai_setting.engine(0.5), slai_setting.POLICIES[name]
    log, counts, late = slai_gaps.run_with_gaps(chip, policy, lanes, klass)
    plain, theirs = count_late(chip, policy, lanes, klass, slai_setting.CLASSES)
    np.testing.assert_array_equal(log.prefill_end, plain.prefill_end)
    np.testing.assert_array_equal(late, theirs)
    assert not log.undone.any()
    for code, due in enumerate(slai_setting.DEADLINES.values()):
        number = ((lanes.output - 1) * (klass == code)).sum(axis=1)
        np.testing.assert_array_equal(counts[:, code].sum(axis=1), number)
        beyond = counts[:, code, round(due / slai_gaps.BIN) :].sum(axis=1)
        np.testing.assert_array_equal(beyond, late[:, code])
    lane = 2
    end, first, gaps = slai_gaps.reference_gaps(chip, policy, lanes, klass, lane)
    np.testing.assert_allclose(log.prefill_end[lane], end, rtol=1e-9)
    np.testing.assert_allclose(log.first_token[lane], first, rtol=1e-9)
    for code in (0, 1):
        exact = np.quantile(gaps[code], 0.99)
        assert slai_gaps.quantile(counts[lane, code], 0.99) == pytest.approx(exact, abs=0.002)


def test_quantile_by_hand():
    counts = slai_gaps.binned(np.array([0.0102] * 98 + [0.0302] * 2))
    assert slai_gaps.quantile(counts, 0.5) == pytest.approx(0.0102, abs=slai_gaps.BIN)
    assert slai_gaps.quantile(counts, 0.99) == pytest.approx(0.0302, abs=slai_gaps.BIN)
    # A hundred more gaps of 0: the median is 0, and 99 % leave two of two hundred above.
    assert slai_gaps.quantile(counts, 0.49, zeros=100) == 0
    assert slai_gaps.quantile(counts, 0.99, zeros=100) < 0.0107
    assert np.isnan(slai_gaps.quantile(np.zeros(4, dtype=np.int64), 0.5))


def test_budget_study_by_hand():
    # 2048 tokens in chunks of 1024: contexts 1024 and 2048, work 1024 x 512 and 1024 x 1536.
    each = 131_072 / (0.7 * 960e9)
    first = 0.00735 + 0.0869e-3 * 1024 + 3.57e-9 * 1024 * 512 + each * 1024
    second = 0.00735 + 0.0869e-3 * 1024 + 3.57e-9 * 1024 * 1536 + each * 2048
    whole, mean = slai_parameters.prefill_law(1024)
    assert whole == pytest.approx(first + second)
    assert mean == pytest.approx((first + second + 0.0225 + each * 2049) / 3)
    assert slai_parameters.prefill_run(1024, 3) == pytest.approx((whole, mean))


def test_memory_study_by_hand():
    # 108 x 128 blocks and 1940 / 16 rounded up.
    assert slai_parameters.blocks(108) == 13_824 + 122
    assert slai_parameters.blocks(108) / 14_733 == pytest.approx(0.947, abs=5e-4)


def test_decode_study_by_hand():
    each, n = 131_072 / (0.7 * 960e9), 64
    filler = 512 - n
    time = 0.00735 + 0.0869e-3 * 512 + 3.57e-9 * filler**2 / 2 + each * (n * 513 + filler)
    assert slai_parameters.batch_law(n, 0.7) == pytest.approx(time)
    assert slai_parameters.batch_run(n) == pytest.approx(time)


def test_parameters_can_fail():
    table = committed("slai_parameters")
    found = [judged(slai_parameters, i, table) for i in range(3)]
    assert found == [Status.BAND, Status.PROVED, Status.PROVED]
    off = doctored(table, times(1.2), study="budget", what="ttft", kind="printed", x=512)
    assert judged(slai_parameters, 0, off) is Status.NOT
    floor = doctored(table, times(1.2), study="budget", what="ttft", kind="printed", x=64)
    assert judged(slai_parameters, 0, floor) is Status.DIRECTION
    full = doctored(table, times(1.02), study="memory", kind="theory", x=108)
    assert judged(slai_parameters, 1, full) is Status.NOT
    slow = doctored(table, times(1.01), study="decodes", kind="simulated", x=16)
    assert judged(slai_parameters, 2, slow) is Status.NOT


def test_capacity_can_fail():
    table = committed("slai_capacity")
    same = {"value": 0.26, "low": 0.25, "high": 0.27}
    for place, what in ((0, "gain_median"), (1, "gain_both"), (2, "gain_first_token")):
        for value, status in ((0.26, Status.BAND), (0.5, Status.DIRECTION), (-0.1, Status.NOT)):
            cells = same | {"value": value}
            other = doctored(table, lambda row, cells=cells: cells, what=what)
            assert judged(slai_capacity, place, other) is status
    lost = doctored(table, lambda row: {"value": np.nan}, what="gain_median")
    assert judged(slai_capacity, 0, lost) is Status.NOT
    small = doctored(table, lambda row: {"value": 0.1, "low": 0.05, "high": 0.15}, what="cut")
    assert judged(slai_capacity, 3, small) is Status.DIRECTION
    worse = doctored(table, lambda row: {"value": -0.1, "low": -0.2, "high": 0.0}, what="cut")
    assert judged(slai_capacity, 3, worse) is Status.NOT
    turned = doctored(table, times(20.0), what="ttft", policy="SLAI SPF dynamic")
    assert judged(slai_capacity, 4, turned) is Status.NOT


def test_the_origin_of_the_gain_can_fail():
    table = committed("slai_capacity")
    (claim,) = (c for c in slai_capacity.CLAIMS if c.id == "SLAI-CAPACITY-ORIGIN")
    quick, order = slai_capacity.QUICK, "Sarathi SPF"
    assert claim.judge(table).status is Status.BAND
    for where, change, status in (
        # The order brings nothing for sure.
        ({"what": "gain_median", "policy": order}, {"low": -0.01}, Status.DIRECTION),
        # Free users at 0.2 s gain something beside the order, or lose.
        ({"what": "over_order", "policy": quick}, {"value": 0.021}, Status.DIRECTION),
        ({"what": "over_order", "policy": quick}, {"value": -0.021}, Status.DIRECTION),
        # Five batches do not reach 0.2 s, so not every decode is critical.
        ({"what": "batch", "policy": quick}, {"value": 0.039}, Status.DIRECTION),
        # Free users at 0.2 s carry as much as at 0.5 s, or those at 0.5 s no more than the order.
        ({"what": "over_order", "policy": quick}, {"high": 0.2}, Status.NOT),
        ({"what": "over_order", "policy": "SLAI SPF dynamic"}, {"low": 0.0}, Status.NOT),
    ):
        wrong = doctored(table, lambda row, change=change: change, **where)
        assert claim.judge(wrong).status is status, (where, change)
    with pytest.raises(LookupError, match="a policy is missing"):
        claim.judge(table.where(policy=[order, "SLAI SPF dynamic"]))


def test_the_offset_is_interpolated_at_the_capacity():
    cells = {"policy": "p", "efficiency": 0.6, "n": 2}
    rows = [
        cells | {"what": "batch", "load": load, "value": value}
        for load, value in ((1.0, 0.04), (1.2, 0.06), (1.4, 9.0))
    ]
    rows[2]["n"] = 1  # a path is left out
    rows.append(cells | {"what": "capacity_median", "load": np.nan, "value": 1.15})
    # Three quarters of the way from 0.04 s to 0.06 s, five times.
    assert slai_capacity.offset(Table.of("t", rows), "p", 0.6) == pytest.approx(5 * 0.055)


@pytest.mark.parametrize(("deadline", "alike"), [(0.1125, True), (0.5, False)])
def test_where_the_offset_reaches_the_deadline_slai_is_sarathi_in_its_order(deadline, alike):
    # No batch is shorter than 22.5 ms: five of them are 0.1125 s, and every decode is critical.
    lanes, klass = slai_setting.traffic(150, np.random.SeedSequence(5).spawn(2), HEAVY)
    chip = slai_setting.engine(0.6)
    both = {"free": deadline, "paying": 0.1}
    logs = [
        count_late(chip, policy, lanes, klass, slai_setting.CLASSES)[0]
        for policy in (policies.SLAI(deadlines=both), slai_setting.POLICIES["Sarathi SPF"])
    ]
    for name in ("prefill_end", "first_token", "finish"):
        mine, theirs = (getattr(log, name) for log in logs)
        assert np.isfinite(mine).all()
        assert np.array_equal(mine, theirs) is alike


def test_the_readme_tells_the_four_numbers_of_the_table():
    table = committed("slai_capacity")
    said = " ".join((TABLES.parents[1] / "README.md").read_text(encoding="utf-8").split())
    dynamic, order, quick = "SLAI SPF dynamic", "Sarathi SPF", slai_capacity.QUICK
    for policy, what, words in (
        (dynamic, "gain_median", "% in the authors' metric"),
        (dynamic, "gain_first_token", "% to the first token"),
        (order, "gain_median", "% by the order alone"),
        (quick, "gain_median", "% with free users at 0.2 s"),
    ):
        gains = 100 * table.where(policy=policy, what=what)["value"]
        ends = sorted({f"{gains.min():.0f}", f"{gains.max():.0f}"}, key=int)
        assert f"+{' to +'.join(ends)} {words}" in said, words


def test_a_lane_is_measured_as_the_reference_does():
    lanes, klass = slai_setting.traffic(60, np.random.SeedSequence(8).spawn(1), HEAVY)
    chip, name = slai_setting.engine(0.6), "SLAI SPF dynamic"
    curve = slai_capacity.measure(name, chip, lanes, klass, HEAVY)
    made, first, share = slai_capacity.evicting(name, chip, lanes, klass, 2)
    assert curve.ttft[0, 2] == pytest.approx(np.median(made), rel=1e-9)
    assert curve.first_token[0, 2] == pytest.approx(np.median(first), rel=1e-9)
    assert curve.late[0, 2] == pytest.approx(share)


def test_rates_can_fail():
    table = committed("slai_rates")
    found = [judged(slai_rates, i, table) for i in range(4)]
    dynamic = {"policy": "SLAI SPF dynamic", "metric_set": "authors"}
    late = doctored(table, times(3.0), metric="tbt_p99", user="free", **dynamic)
    assert judged(slai_rates, 0, late) is Status.NOT
    kept = doctored(table, times(0.3), metric="tbt_p99", user="paying", **dynamic)
    assert judged(slai_rates, 0, kept) is Status.BAND
    steady = doctored(table, times(0.01), metric="ttft_p99", user="free", **dynamic)
    assert judged(slai_rates, 1, steady) is Status.NOT
    first = {"metric": "ttft_mean", "user": "paying", "policy": "SLAI paying first"}
    unfair = doctored(table, times(50.0), **first)
    assert judged(slai_rates, 2, unfair) is Status.NOT
    same = doctored(table, times(0.5), metric="ttft_median", user="free", metric_set="correct")
    assert judged(slai_rates, 3, same) is Status.NOT
    assert found == [Status.DIRECTION] * 4


def test_prompts_can_fail():
    table = committed("slai_prompts")
    keys = ("ttft", "low", "high")
    longest = float(table["prompt"].max())
    for place, policy in enumerate(("SLAI SPF dynamic", "Sarathi SPF")):
        own = {"policy": policy, "metric_set": "authors"}
        slow = doctored(table, times(20.0, keys=keys), prompt=256.0, **own)
        assert judged(slai_prompts, place, slow) is Status.NOT
        fast = doctored(table, times(0.01, keys=keys), **own)
        assert judged(slai_prompts, place, fast) is Status.NOT
        late = {"ttft": 9.0, "low": 8.0, "high": 10.0}
        paid = doctored(table, lambda row, late=late: late, prompt=longest, **own)
        assert judged(slai_prompts, place, paid) is Status.VERIFIED


def test_committed_capacities_fit_together():
    rows = committed("slai_capacity")
    for name in slai_capacity.FOUR:
        own = {w: rows.where(policy=name, what=f"capacity_{w}") for w in ("median", "both")}
        assert (own["both"]["value"] <= own["median"]["value"] + 1e-9).all()
        # More bandwidth carries more.
        assert (np.diff(own["median"]["value"]) > 0).all()
    base = rows.where(policy="Sarathi FCFS", what="gain_median")
    assert (base["value"] == 0).all()


def test_a10_the_vllm_of_the_authors_does_not_cut_prompts():
    # The default is vLLM v1, which does.
    assert slai_rates.OLD.blocks.budget.whole
