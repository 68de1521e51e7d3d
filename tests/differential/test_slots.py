"""SLAI in lockstep gives the reference's trajectory: to the last bit where times are dyadic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.sim._dispatch import Path, serve
from llmq.sim._fast.slots.engine import count_late, run_slots, runs_slots
from llmq.sim._fast.vector.engine import Lanes, run_lanes

TICK = 2.0**-20  # sums below 2**33 of them are exact
TIMES = ("prefill_end", "first_token", "finish")
SUMS = ("iterations", "tokens", "kv_area", "busy", "clock")
NAMES = ("free", "paying", "other")


@dataclass(frozen=True)
class System:
    engine: llmq.Engine
    policy: policies.SLAI
    lanes: Lanes
    klass: np.ndarray


@st.composite
def systems(draw: st.DrawFn) -> System:
    """Some lanes of one engine under SLAI, with room for the longest request."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 25))
    unit = TICK * 1024
    gap = draw(st.sampled_from([20, 100, 400, 1500]))
    arrival = rng.integers(0, gap, shape).cumsum(axis=1) * unit
    prompt, output = rng.integers(1, 41, shape), rng.integers(1, 41, shape)
    hidden = (rng.random(shape) * output).astype(int) * (rng.random(shape) < 0.5)
    thinks = draw(st.booleans())
    count = rng.integers(1, shape[1] + 1, shape[0]) if draw(st.booleans()) else None
    law = llmq.BatchTime.roofline(
        floor=draw(st.integers(0, 64)) * unit,
        base=draw(st.integers(1, 64)) * unit,
        per_token=draw(st.integers(0, 64)) * TICK * 16,
        per_kv=draw(st.integers(0, 8)) * TICK,
        per_kv_mixed=draw(st.integers(0, 8)) * TICK,
        per_work=draw(st.sampled_from([0, 2])) * TICK,
    )
    engine = llmq.Engine(
        law,
        token_budget=draw(st.sampled_from([4, 16, 32, 64])),
        max_seqs=draw(st.sampled_from([None, 2, 4, 8, 16])),
        kv_tokens=draw(st.sampled_from([None, 128, 160, 320, 640])),
        kv_block=draw(st.sampled_from([1, 4, 16])),
        conventions=draw(st.sampled_from([llmq.ENGINE, llmq.THEORY])),
    )
    policy = policies.SLAI(
        order=draw(st.sampled_from(["spf", "fcfs", "paying"])),
        tbt=draw(st.sampled_from([0.05, 0.2, 0.5])),
        deadlines={
            "free": draw(st.sampled_from([0.02, 0.1, 0.5])),
            "paying": draw(st.sampled_from([0.1, 0.2, 1.0])),
        },
        below=draw(st.sampled_from([0.0, 1.0, 5.0, math.inf])),
        above=draw(st.sampled_from([0.0, 2.0, 10.0])),
        limit=draw(st.sampled_from([0.0, 0.5, 0.8, 0.96, 1.0])),
        decodes=draw(st.sampled_from([1, 2, 4, 8, 128])),
        watermark=draw(st.sampled_from([0.0, 0.01, 0.1])),
    )
    lanes = Lanes(arrival, prompt, output, hidden if thinks else None, count)
    return System(engine, policy, lanes, rng.integers(0, len(NAMES), shape))


def reference(system: System, lane: int, *, tokens: bool = False) -> Path:
    n = system.lanes.arrival.shape[1]
    n = n if system.lanes.count is None else int(system.lanes.count[lane])
    fields = (system.lanes.arrival, system.lanes.prompt, system.lanes.output, system.lanes.hidden)
    columns = [None if x is None else x[lane, :n] for x in fields]
    trace = llmq.Trace(*columns, system.klass[lane, :n], NAMES)
    return serve(
        trace,
        (system.engine,),
        system.policy,
        choice="reference",
        rng=np.random.default_rng(0),
        tokens=tokens,
    )


def late_gaps(system: System, lane: int, path: Path) -> list[float]:
    """Count the gaps past the deadline, from the time of every token."""
    own = dict(system.policy.deadlines)
    due = [own.get(name, system.policy.tbt) for name in NAMES]
    total = [0.0] * len(NAMES)
    for i, times in enumerate(path.log.tokens or []):
        mine = due[system.klass[lane, i]]
        total[due.index(mine)] += int((np.diff(times) > mine).sum())
    return total


def check(system: System) -> int:
    """Compare all lanes; how many were compared."""
    log, late = count_late(system.engine, system.policy, system.lanes, system.klass, NAMES)
    plain = run_slots(system.engine, system.policy, system.lanes, system.klass, NAMES)
    compared = 0
    for lane in range(len(system.klass)):
        try:
            path = reference(system, lane, tokens=True)
        except llmq.PolicyError:
            assert log.undone[lane]
            continue
        tally = path.tallies[0]
        # Nobody is given up without need, and nobody who evicts is kept.
        assert log.undone[lane] == (tally.evictions > 0)
        if log.undone[lane]:
            assert np.isnan(log.finish[lane]).all()
            continue
        compared += 1
        for name in TIMES:
            mine = getattr(log, name)[lane]
            theirs = getattr(path.log, name)
            np.testing.assert_array_equal(mine[: len(theirs)], theirs, err_msg=name)
            assert np.isnan(mine[len(theirs) :]).all()
            np.testing.assert_array_equal(mine, getattr(plain, name)[lane], err_msg=name)
        for name in SUMS:
            assert getattr(log, name)[lane] == getattr(tally, name), name
        assert late[lane].tolist() == late_gaps(system, lane, path)
    return compared


@given(systems())
@settings(max_examples=40)
def test_slots_equal_reference(system: System) -> None:
    check(system)


@pytest.mark.slow
@given(systems())
@settings(max_examples=1000)
def test_slots_equal_reference_on_a_thousand_systems(system: System) -> None:
    check(system)


def example(**changes: object) -> System:
    """Eight lanes in which decodes wait, one group is parted and memory passes its limit."""
    rng = np.random.default_rng(11)
    shape = 8, 60
    arrival = rng.integers(0, 90, shape).cumsum(axis=1) * TICK * 1024
    prompt, output = rng.integers(1, 60, shape), rng.integers(1, 60, shape)
    law = llmq.BatchTime.affine(base=16 * TICK * 1024, per_token=TICK * 256, per_kv=4 * TICK)
    engine = llmq.Engine(law, token_budget=32, max_seqs=24, kv_tokens=1600, kv_block=4)
    policy = policies.SLAI(deadlines={"free": 0.5, "paying": 0.1, "other": 0.3}, limit=0.6)
    klass = rng.integers(0, 3, shape)
    return replace(System(engine, policy, Lanes(arrival, prompt, output), klass), **changes)


def test_example_is_worth_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    # The comparison would be empty if decodes never waited, no group were ever parted or merged
    # and theta never changed: a witness for each.
    from llmq.sim._fast.slots import groups as slots_groups
    from llmq.sim._fast.slots import step as slots_step

    seen = {"parted": 0, "merged": 0, "full": 0, "counted": 0}
    part, merge, held = slots_groups._part, slots_groups.merge, slots_groups.held

    def parted(*args):
        seen["parted"] += 1
        return part(*args)

    def merged(s, served):
        before = int(served.sum())
        merge(s, served)
        seen["merged"] += before - int(served.sum())
        seen["full"] += int((s.booked + s.kv / s.rules.block >= s.rules.turn).sum())

    def counted(*args):
        seen["counted"] += 1
        return held(*args)

    monkeypatch.setattr(slots_groups, "_part", parted)
    monkeypatch.setattr(slots_step, "merge", merged)
    monkeypatch.setattr(slots_step, "held", counted)
    system = example()
    assert check(system) == 8
    assert min(seen.values()) > 20
    greedy = run_lanes(system.engine, policies.Sarathi(), system.lanes)
    mine = run_slots(system.engine, system.policy, system.lanes, system.klass, NAMES)
    assert np.nanmean(mine.finish) > np.nanmean(greedy.finish)


@pytest.mark.parametrize("due", [0.5, 1.0, 2.0])
def test_marks_are_met_to_the_instant(due: float) -> None:
    law = llmq.BatchTime.affine(base=1.0, per_token=0.0)
    engine = llmq.Engine(law, token_budget=4, max_seqs=4)
    policy = policies.SLAI(tbt=due, below=0.0, above=0.0)
    shape = 1, 9
    lanes = Lanes(np.zeros(shape), np.full(shape, 4), np.full(shape, 10))
    assert check(System(engine, policy, lanes, np.zeros(shape, dtype=np.int64))) == 1


@pytest.mark.parametrize("conventions", [llmq.ENGINE, llmq.THEORY])
def test_decodes_fill_the_budget_while_somebody_waits(conventions) -> None:
    # The first iteration takes 17 s, the others 1 s: all decodes are critical, and leave no token
    # to the request that waits, until the mean batch time falls below the deadline.
    law = llmq.BatchTime.affine(base=1.0, per_token=0.0, per_work=8.0)
    engine = llmq.Engine(law, token_budget=4, conventions=conventions)
    policy = policies.SLAI(tbt=4.0, below=1.0, above=1.0)
    arrival, prompt = np.array([[0.0, 0, 0, 0, 17.5]]), np.array([[1, 1, 1, 1, 4]])
    lanes = Lanes(arrival, prompt, np.full((1, 5), 40))
    system = System(engine, policy, lanes, np.zeros((1, 5), dtype=np.int64))
    assert check(system) == 1
    log = run_slots(engine, policy, lanes, system.klass, NAMES)
    assert 20 < log.prefill_end[0, 4] - 17.5 < log.finish[0, 0] - 17.5


@pytest.mark.parametrize(("tokens", "fits"), [(16, True), (12, False)])
def test_memory_may_be_used_to_the_last_block(tokens: int, fits: bool) -> None:
    law = llmq.BatchTime.affine(base=1.0, per_token=0.0)
    engine = llmq.Engine(law, kv_tokens=tokens, kv_block=4)
    policy = policies.SLAI(watermark=0.0)
    lanes = Lanes(np.zeros((1, 2)), np.full((1, 2), 4), np.full((1, 2), 5))
    system = System(engine, policy, lanes, np.zeros((1, 2), dtype=np.int64))
    assert check(system) == fits


def test_infinite_offset_is_sarathi() -> None:
    # Every decode is critical: the other fast engine must agree where memory does not bind.
    system = example()
    engine = system.engine.with_(kv_tokens=None)
    always = policies.SLAI(order="fcfs", below=math.inf, above=math.inf)
    mine = run_slots(engine, always, system.lanes, system.klass, NAMES)
    theirs = run_lanes(engine, policies.Sarathi(), system.lanes)
    assert not mine.undone.any()
    for name in (*TIMES, *SUMS):
        assert getattr(mine, name).tolist() == getattr(theirs, name).tolist(), name


def test_real_law_agrees_to_a_billionth(data_dir) -> None:
    path = data_dir / "traces" / "openchat_sharegpt4_lengths.csv"
    lengths = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1), dtype=np.int64)
    rng = np.random.default_rng(5)
    shape = 2, 60
    rows = lengths[rng.integers(0, len(lengths), shape)]
    lanes = Lanes(rng.exponential(1 / 1.6, shape).cumsum(axis=1), rows[..., 0], rows[..., 1])
    policy = policies.SLAI(deadlines={"free": 0.5, "paying": 0.1})
    klass = (rng.random(shape) < 0.2).astype(np.int64)
    system = System(llmq.load_engine("mistral-7b/rtx6000ada"), policy, lanes, klass)
    log = run_slots(system.engine, policy, lanes, klass, NAMES)
    for lane in range(shape[0]):
        path = reference(system, lane)
        for name in TIMES:
            np.testing.assert_allclose(getattr(log, name)[lane], getattr(path.log, name), rtol=1e-9)
        assert log.iterations[lane] == path.tallies[0].iterations


def test_what_it_cannot_run_is_undone() -> None:
    system = example()
    for engine, policy in (
        (system.engine, policies.Sarathi()),
        (system.engine.with_(prefill_chunk=8), system.policy),
    ):
        assert not runs_slots(engine, policy)
        log, late = count_late(engine, policy, system.lanes, system.klass, NAMES)
        assert log.undone.all()
        assert np.isnan(late).all()
        assert np.isnan(log.finish).all()


def test_classes_must_fit() -> None:
    system = example()
    with pytest.raises(llmq.InputError, match="class codes go from 0 to 2"):
        run_slots(system.engine, system.policy, system.lanes, system.klass, NAMES[:2])
    with pytest.raises(llmq.InputError, match="klass has shape"):
        run_slots(system.engine, system.policy, system.lanes, system.klass[:1], NAMES)
