"""vLLM v1 on the fast simulators: the trajectory of the reference, and where they hand over."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._fast.vector.engine import Lanes, run_lanes

TICK = 2.0**-20
TIMES = ("prefill_end", "first_token", "finish", "boundary", "resumed")
SUMS = ("iterations", "tokens", "kv_area", "busy", "evictions", "recomputed", "clock", "last")
SECOND = llmq.BatchTime.affine(base=1.0, per_token=0.0)


def drawn(seed: int):
    """A small system with little memory; all times are dyadic."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 26))
    prompt, output = rng.integers(1, 41, n), rng.integers(1, 41, n)
    hidden = np.where(rng.random(n) < 0.3, (rng.random(n) * output).astype(int), 0)
    arrival = np.cumsum(rng.integers(0, rng.choice([6, 61, 401]), n)) * TICK * 1024
    rates = {name: int(rng.integers(0, 9)) * TICK for name in ("per_kv", "per_kv_mixed")}
    law = llmq.BatchTime.affine(
        base=int(rng.integers(1, 65)) * TICK * 1024,
        per_token=int(rng.integers(0, 65)) * TICK * 16,
        per_work=int(rng.choice([0, 2])) * TICK,
        **rates,
    )
    block, budget = int(rng.choice([1, 4, 16])), int(rng.choice([6, 16, 32, 64]))
    least = -(-int((prompt + output).max()) // block)
    memory = None if rng.random() < 0.2 else block * int(least + rng.integers(0, 40))
    chunk = None if rng.random() < 0.6 else min(budget, int(rng.choice([3, 8])))
    chip = llmq.Engine(
        law,
        budget,
        (None, 1, 4, 8, 16)[rng.integers(5)],
        kv_tokens=memory,
        kv_block=block,
        prefill_chunk=chunk,
        conventions=llmq.ENGINE if rng.random() < 0.7 else llmq.THEORY,
    )
    policy = policies.VLLM(whole_must_fit=bool(rng.random() < 0.7))
    return chip, llmq.Trace(arrival, prompt, output, hidden), policy


def compared(seed: int) -> Counter[str]:
    """Run one system with every simulator; what was seen."""
    chip, trace, policy = drawn(seed)
    slow = llmq.simulate(chip, trace, policy, simulator="reference")
    seen = Counter(systems=1, evicting=slow.evictions > 0)
    tally = slow.tallies[0][0]
    try:
        fast = llmq.simulate(chip, trace, policy, simulator="calendar")
    except NotTogetherError:
        # Only where chunks are smaller than the budget may a prompt stand before a decode.
        assert chip.chunk < chip.token_budget or chip.conventions is llmq.THEORY
        seen["handed over"] += 1
    else:
        for name in TIMES:
            mine, theirs = getattr(fast.requests, name), getattr(slow.requests, name)
            np.testing.assert_array_equal(mine, theirs, err_msg=f"{seed} {name}")
        for name in SUMS:
            assert getattr(fast.tallies[0][0], name) == getattr(tally, name), (seed, name)
        seen["calendar"] += 1
        seen["evicted on the calendar"] += slow.evictions > 0
    columns = (trace.arrival, trace.prompt, trace.output, trace.reasoning)
    lane = run_lanes(chip, policy, Lanes(*(column[None] for column in columns)))
    if not lane.undone[0]:
        for name in TIMES[:3]:
            np.testing.assert_array_equal(getattr(lane, name), getattr(slow.requests, name))
        for name in ("iterations", "tokens", "kv_area", "busy", "clock"):
            assert getattr(lane, name)[0] == getattr(tally, name), (seed, name)
        seen["lanes"] += 1
    return seen


def test_the_fast_simulators_equal_the_reference() -> None:
    seen = sum((compared(seed) for seed in range(60)), Counter())
    assert min(seen["evicted on the calendar"], seen["lanes"], seen["handed over"]) > 3, seen


@pytest.mark.slow
def test_the_fast_simulators_equal_the_reference_on_1200_systems() -> None:
    seen = sum((compared(seed) for seed in range(60, 1260)), Counter())
    assert seen["systems"] == 1200
    assert seen["evicted on the calendar"] > 300, seen
    assert min(seen["lanes"], seen["handed over"]) > 100, seen


BOTH = pytest.mark.parametrize("how", ["reference", "calendar"])


@BOTH
def test_a_prefill_without_blocks_evicts_itself(how) -> None:
    # 20 blocks of one token, 4 tokens an iteration. A (1 + 14) decodes from 1 s on. B (16 + 1)
    # comes then, fits beside A's 2 tokens, and takes 3 with each iteration. At 5 s A has 5 tokens
    # and B 12; 6 + 15 do not fit: B leaves, and computes all again when A has ended.
    chip = llmq.Engine(SECOND, token_budget=4, kv_tokens=20, kv_block=1)
    trace = llmq.Trace([0.0, 1.0], [1, 16], [14, 1])
    run = llmq.simulate(chip, trace, policies.VLLM(), simulator=how)
    assert run.evictions == 1
    tally = run.tallies[0][0]
    assert tally.recomputed == tally.tokens - (1 + 13 + 16)
    assert run.requests.finish[0].tolist() == [14.0, 18.0]


@BOTH
def test_a10_a_prompt_that_is_alone_is_not_cut(how) -> None:
    """vLLM 0.32, v1/core/sched/scheduler.py: no threshold unless num_running + num_waiting > 1."""
    chip = llmq.Engine(SECOND, token_budget=32, prefill_chunk=4)
    policy = policies.VLLM()
    alone = llmq.simulate(chip, llmq.Trace([0.0], [16], [1]), policy, simulator=how)
    assert alone.requests.finish[0].tolist() == [1.0]
    # Beside another request it is cut: 4 and 4, and the other 8 when that one has ended.
    two = llmq.simulate(chip, llmq.Trace([0.0] * 2, [16, 2], [1, 2]), policy, simulator=how)
    assert two.requests.finish[0].tolist() == [3.0, 2.0]
    # One that comes later cuts it from the next boundary on, as does one that waits for a slot.
    late = llmq.Trace([0.0, 0.5], [40, 9], [1, 1])
    for slots, ends in ((None, [3.0, 4.0]), (1, [3.0, 4.0])):
        run = llmq.simulate(chip.with_(max_seqs=slots), late, policy, simulator=how)
        assert run.requests.finish[0].tolist() == ends
    # Sarathi cuts it always.
    run = llmq.simulate(chip, llmq.Trace([0.0], [16], [1]), policies.Sarathi(), simulator=how)
    assert run.requests.finish[0].tolist() == [4.0]
