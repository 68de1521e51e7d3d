"""All simulators give one trajectory: to the last bit where times are dyadic rationals."""

from __future__ import annotations

import math
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings

import llmq
from experiments import speed
from llmq import policies
from llmq.sim._fast.calendar.jump import NotTogetherError

_spec = util.spec_from_file_location("strategies", Path(__file__).with_name("strategies.py"))
assert _spec is not None
assert _spec.loader is not None
strategies = util.module_from_spec(_spec)
_spec.loader.exec_module(strategies)
systems = strategies.systems

TIMES = ("prefill_end", "boundary", "resumed", "first_token", "finish")
SUMS = ("iterations", "tokens", "kv_area", "busy", "evictions", "recomputed")


def _check_equal(system, engines: int) -> None:
    fleet = llmq.Fleet({"all": (system.engine, engines)})
    slow = llmq.simulate(fleet, system.trace, system.policy, simulator="reference")
    try:
        fast = llmq.simulate(fleet, system.trace, system.policy, simulator="calendar")
    except NotTogetherError:
        assume(False)
    for name in TIMES:
        np.testing.assert_array_equal(
            getattr(slow.requests, name), getattr(fast.requests, name), strict=True, err_msg=name
        )
    assert slow.server.tolist() == fast.server.tolist()
    for mine, theirs in zip(slow.tallies[0], fast.tallies[0], strict=True):
        for name in SUMS:
            assert getattr(mine, name) == getattr(theirs, name), name
    slow.check()
    # Little's law, with the time integral summed iteration by iteration.
    presence = sum(tally.presence for tally in slow.tallies[0])
    stays = slow.requests.finish - slow.requests.arrival
    assert presence == math.fsum(stays[0])


@given(systems())
@settings(max_examples=60)
def test_calendar_equals_reference(system) -> None:
    _check_equal(system, engines=1)


@given(systems())
@settings(max_examples=20)
def test_calendar_equals_reference_in_a_fleet(system) -> None:
    _check_equal(system, engines=3)


@pytest.mark.slow
@given(systems())
@settings(max_examples=1000)
def test_calendar_equals_reference_on_a_thousand_systems(system) -> None:
    _check_equal(system, engines=1)


@pytest.mark.slow
@given(systems())
@settings(max_examples=300)
def test_calendar_equals_reference_in_many_fleets(system) -> None:
    _check_equal(system, engines=3)


def test_general_times_agree_to_a_billionth(data_dir) -> None:
    # A real trace, a calibrated law: rounding differs, the trajectory does not.
    trace = llmq.read_trace(data_dir / "bench" / "w1k.csv")
    for name in ("llama-3.1-8b/h100", "mistral-7b/rtx6000ada"):
        chip = llmq.load_engine(name)
        slow = llmq.simulate(chip, trace, simulator="reference")
        fast = llmq.simulate(chip, trace, simulator="calendar")
        for event in ("prefill_end", "first_token", "finish"):
            a, b = getattr(slow.requests, event), getattr(fast.requests, event)
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        assert slow.n_iterations == fast.n_iterations


@pytest.mark.parametrize("workload", range(6))
def test_e6_the_plain_loop_of_the_benchmark_agrees(data_dir, workload) -> None:
    # Independent code: each yardstick of experiments/speed.py does the work it is compared with.
    _, chip, lanes = list(speed.yardsticks(data_dir, short=True))[workload]
    mine = speed.plain(chip, lanes)()
    for lane, (first, finish) in enumerate(mine):
        columns = (getattr(lanes, name)[lane] for name in ("arrival", "prompt", "output"))
        trace = llmq.Trace(*(list(column) for column in columns))
        run = llmq.simulate(chip, trace, llmq.policies.Sarathi(), simulator="calendar")
        np.testing.assert_allclose(run.requests.first_token[0], first, rtol=1e-9)
        np.testing.assert_allclose(run.requests.finish[0], finish, rtol=1e-9)


def test_more_decodes_than_slots_fall_back_to_the_reference() -> None:
    # One slot for all prefills: they can end together and then need a slot each.
    chip = llmq.Engine(
        llmq.BatchTime.affine(base=1.0, per_token=0.0),
        token_budget=64,
        max_seqs=4,
        conventions=llmq.THEORY,
    )
    trace = llmq.Trace([0.0] * 12, [2] * 12, [30] * 12)
    with pytest.raises(NotTogetherError, match="do not fit in one iteration"):
        llmq.simulate(chip, trace, simulator="calendar")
    auto = llmq.simulate(chip, trace)
    slow = llmq.simulate(chip, trace, simulator="reference")
    assert auto.requests.finish.tolist() == slow.requests.finish.tolist()


def test_memory_is_under_pressure_in_some_of_the_random_systems() -> None:
    # The comparison above would be empty without evictions: a witness.
    chip = llmq.Engine(
        llmq.BatchTime.affine(base=1.0, per_token=0.0), kv_tokens=128, kv_block=4, max_seqs=16
    )
    trace = llmq.Trace([0.0] * 8, [20] * 8, [40] * 8)
    run = llmq.simulate(chip, trace, policies.Sarathi(watermark=0.0))
    slow = llmq.simulate(chip, trace, policies.Sarathi(watermark=0.0), simulator="reference")
    assert run.evictions == slow.evictions > 5
    assert run.requests.finish.tolist() == slow.requests.finish.tolist()


def test_memory_that_is_first_counted_at_an_admission() -> None:
    # Found by the random systems: whoever counts late must count the decodes that grow now too.
    tick = strategies.TICK
    unit, rates = 1024 * tick, {"per_kv": 2 * tick, "per_kv_mixed": 0.0}
    law = llmq.BatchTime.tiled(base=unit, per_tile=unit, tile=4, **rates)
    chip = llmq.Engine(law, token_budget=16, kv_tokens=160, kv_block=1)
    arrival = np.array([0, 6, 35, 68, 95, 111, 149, 185, 191]) * unit
    prompt, output = [6, 29, 33, 27, 16, 38, 36, 6, 37], [6, 29, 33, 27, 16, 38, 36, 29, 37]
    system = strategies.System(
        chip, llmq.Trace(arrival, prompt, output), policies.Sarathi(watermark=0.0)
    )
    _check_equal(system, engines=1)
    assert llmq.simulate(chip, system.trace, system.policy).evictions == 2


def test_a_row_that_came_back_holds_the_block_of_its_next_token() -> None:
    """Phases that exclude each other: the calendar hands over, it does not count one block less.

    The second and third row need 33 tokens in 3 blocks of 16; the third is evicted, comes back in
    tiles of 4, and with 32 of its 33 tokens it decodes. Its third block is not free for the last.
    """
    law = llmq.BatchTime.affine(base=13 / 1024, per_token=0.0)
    chip = llmq.Engine(law, token_budget=16, kv_tokens=128, kv_block=16)
    later = 287 / 1024
    trace = llmq.Trace([0.0] + [later] * 18, [1, 23, 23, *[1] * 15, 33], [33, 12, 11, *[1] * 16])
    policy = policies.RAD(tile=4, watermark=0.0)
    slow = llmq.simulate(chip, trace, policy, simulator="reference", check=True)
    assert slow.evictions == 1
    # 69 iterations until both end, then 9 tiles for the last prompt of 33.
    assert slow.requests.prefill_end[0, -1] == 78 * 13 / 1024
    with pytest.raises(NotTogetherError, match="holds a block it does not fill"):
        llmq.simulate(chip, trace, policy, simulator="calendar")
    either = llmq.simulate(chip, trace, policy)
    np.testing.assert_array_equal(slow.requests.finish, either.requests.finish)
