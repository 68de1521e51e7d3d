"""Ranked policies in lockstep give the trajectory of the reference, and its readers' experience."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.errors import InputError
from llmq.sim._fast.ranked.engine import RankedLog, run_ranked, runs_ranked
from llmq.sim.results._reading import qoe

# Multiples of 2**-20 s add exactly.
TICK = 2.0**-20
UNIT = TICK * 1024
TIMES = ("prefill_end", "first_token", "finish", "boundary", "resumed")
SUMS = ("iterations", "tokens", "kv_area", "busy", "evictions", "swapped", "moved", "clock")


@dataclass(frozen=True)
class System:
    engine: llmq.Engine
    engines: int
    policy: policies.Policy
    traces: tuple[llmq.Trace, ...]
    link: float
    tau: float


def _law(draw: st.DrawFn) -> llmq.BatchTime:
    attention = {
        "per_kv": draw(st.sampled_from([0, 1, 8])) * TICK,
        "per_kv_mixed": draw(st.integers(0, 8)) * TICK,
        "per_work": draw(st.sampled_from([0, 2])) * TICK,
    }
    base = draw(st.sampled_from([8, 16])) * UNIT
    if draw(st.booleans()):
        return llmq.BatchTime.affine(
            base=base, per_token=draw(st.sampled_from([0, 1, 16])) * TICK * 16, **attention
        )
    return llmq.BatchTime.tiled(base=base, per_tile=4 * UNIT, tile=4, **attention)


def _policy(draw: st.DrawFn) -> policies.Policy:
    quantum = draw(st.sampled_from([1, 2, 4, 8, 500]))
    name = draw(st.sampled_from(["fcfs", "rr", "pascal", "pascal", "pascal", "pascal"]))
    if name == "fcfs":
        return policies.FCFS()
    if name == "rr":
        return policies.RR(quantum=quantum)
    return policies.PASCAL(
        quantum=quantum,
        demote=draw(st.sampled_from([3, 12, 30, 5000])),
        migrate=draw(st.sampled_from([True, True, False])),
        adaptive=draw(st.booleans()),
        # An iteration takes 8 units and more: readers from impatient to slow.
        tau=draw(st.sampled_from([8, 16, 64, 4096])) * UNIT,
    )


def _trace(draw: st.DrawFn, n: int) -> llmq.Trace:
    def ints(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    prompt, output = ints(1, 12), ints(1, 30)
    share = ints(0, 4)
    hidden = [0 if s == 0 else (o - 1) * s // 4 for s, o in zip(share, output, strict=True)]
    # Arrivals often fall on each other and on the ends of iterations.
    gaps = draw(st.lists(st.sampled_from([0, 0, 8, 16, 17, 40, 130]), min_size=n, max_size=n))
    return llmq.Trace(np.cumsum(gaps) * UNIT, prompt, output, hidden)


@st.composite
def ranked(draw: st.DrawFn, replications: int = 2) -> System:
    """Equal engines with little memory, a ranked policy, some replications."""
    policy = _policy(draw)
    engine = llmq.Engine(
        _law(draw),
        token_budget=policy.token_budget,
        max_seqs=draw(st.sampled_from([None, 1, 2, 3, 5])),
        kv_tokens=draw(st.sampled_from([None, 48, 64, 96, 160])),
        kv_block=draw(st.sampled_from([1, 1, 4, 5, 16])),
        per_swap=draw(st.sampled_from([0, 1, 64, 64])) * TICK,
    )
    n = draw(st.integers(1, 18))
    return System(
        engine,
        draw(st.sampled_from([1, 2, 2, 3, 4])),
        policy,
        tuple(_trace(draw, n) for _ in range(draw(st.integers(1, replications)))),
        draw(st.sampled_from([math.inf, 2.0**5, 2.0**9])),
        draw(st.sampled_from([8, 16, 64])) * UNIT,
    )


def lockstep(system: System) -> RankedLog:
    columns = (
        np.stack([getattr(t, name) for t in system.traces])
        for name in ("arrival", "prompt", "output", "reasoning")
    )
    fleet = [system.engine] * system.engines
    return run_ranked(fleet, system.policy, *columns, system.link, tau=system.tau)


def check(system: System) -> RankedLog:
    """Compare each replication with the reference, to the last bit."""
    log = lockstep(system)
    fleet = llmq.Fleet({"all": (system.engine, system.engines)}, link=system.link)
    for rep, trace in enumerate(system.traces):
        need = -(-int((trace.prompt + trace.output).max()) // system.engine.kv_block)
        assert log.undone[rep] == (need > system.engine.kv_blocks)
        if log.undone[rep]:
            assert np.isnan(log.finish[rep]).all()
            continue
        slow = llmq.simulate(fleet, trace, system.policy, simulator="reference", record="tokens")
        assert log.server[rep].tolist() == slow.server[0].tolist()
        for name in TIMES:
            mine, theirs = getattr(log, name)[rep], getattr(slow.requests, name)
            theirs = np.full(len(trace), np.nan) if theirs is None else theirs[0]
            np.testing.assert_array_equal(mine, theirs, name)
        for name in SUMS:
            theirs = [getattr(tally, name) for tally in slow.tallies[0]]
            assert getattr(log, name)[rep].tolist() == theirs, name
        expected = qoe(slow.requests, system.tau)[0]
        np.testing.assert_allclose(log.qoe[rep], expected, rtol=1e-12, atol=1e-12)
    return log


@given(ranked())
@settings(max_examples=24)
def test_lockstep_equals_the_reference(system) -> None:
    check(system)


@pytest.mark.slow
@given(ranked())
@settings(max_examples=1000)
def test_lockstep_equals_the_reference_in_a_thousand_systems(system) -> None:
    check(system)


# ------------------------------------------------------------ worked schedules, unit iterations

FLAT = llmq.BatchTime.affine(base=1.0, per_token=0.0)
S1 = [(0.0, 0, 8), (1.0, 0, 8), (2.0, 0, 8)]
S3 = [(0.0, 6, 2), (1.0, 1, 5)]
S4 = [(0.0, 2, 4), (1.0, 5, 2), (2.0, 4, 2)]
S5 = [(0.0, 1, 9), (1.0, 4, 3), (2.0, 7, 1), (3.0, 1, 7)]


def schedule(policy, jobs, *, engines=1, slots=1, link=math.inf, tau=1.0) -> RankedLog:
    """Jobs are (arrival, reasoning, answer); one prompt token, memory is slots."""
    arrival, hidden, answer = (np.array([column]) for column in zip(*jobs, strict=True))
    chip = llmq.Engine(FLAT, max_seqs=slots, token_budget=4096)
    ones = np.ones_like(hidden)
    fleet = [chip] * engines
    return run_ranked(fleet, policy, arrival, ones, hidden + answer, hidden, link, tau=tau)


def pascal(**fields) -> policies.PASCAL:
    # Readers so slow that every answer is in time.
    return policies.PASCAL(**{"quantum": 4, "tau": 100.0, **fields})


@pytest.mark.parametrize(
    ("policy", "jobs", "room", "first", "last"),
    [
        (policies.FCFS(), S1, (1, 2), [1, 2, 9], [8, 9, 16]),
        (policies.RR(quantum=4), S1, (1, 2), [1, 2, 5], [9, 12, 13]),
        (pascal(), S1, (1, 2), [1, 2, 5], [9, 12, 13]),
        (policies.FCFS(), S3, (1, 1), [7, 10], [8, 14]),
        (policies.RR(quantum=2), S3, (1, 1), [13, 4], [14, 12]),
        (pascal(quantum=2), S3, (1, 1), [10, 8], [11, 14]),
        (policies.FCFS(), S4, (2, 1), [3, 7, 13], [6, 8, 14]),
        (policies.RR(quantum=4), S4, (2, 1), [3, 11, 13], [6, 12, 14]),
        (pascal(), S4, (2, 1), [3, 11, 10], [6, 12, 11]),
        (pascal(migrate=False), S4, (2, 1), [3, 13, 11], [6, 14, 12]),
        (policies.FCFS(), S5, (2, 2), [2, 6, 10, 5], [10, 8, 10, 11]),
        (policies.RR(quantum=4), S5, (2, 2), [2, 6, 10, 5], [10, 8, 10, 11]),
        (pascal(), S5, (2, 2), [2, 6, 10, 5], [10, 8, 10, 11]),
        (pascal(migrate=False), S5, (2, 2), [2, 6, 10, 5], [10, 8, 10, 11]),
        (pascal(adaptive=False), S5, (2, 2), [2, 6, 10, 5], [13, 8, 10, 11]),
    ],
)
def test_worked_schedules(policy, jobs, room, first, last) -> None:
    log = schedule(policy, jobs, engines=room[0], slots=room[1])
    assert log.first_token[0].tolist() == first
    assert log.finish[0].tolist() == last


def test_s4_with_a_transfer_of_one_iteration() -> None:
    # C leaves with four KV tokens, at four tokens per second.
    log = schedule(pascal(), S4, engines=2, link=4.0)
    assert log.first_token[0].tolist() == [3, 11, 11]
    assert log.finish[0].tolist() == [6, 12, 12]
    assert log.moved[0].tolist() == [4, 0]


def test_s5_what_the_reader_of_the_paused_answer_sees() -> None:
    # Answer tokens at 2,3,4,5,9,...,13: 48/63 for a reader of one per second, none of it for two.
    paused = schedule(pascal(adaptive=False), S5, engines=2, slots=2)
    np.testing.assert_allclose(paused.qoe[0], [48 / 63, 1, 1, 1], rtol=1e-15)
    slow = schedule(pascal(adaptive=False), S5, engines=2, slots=2, tau=2.0)
    assert slow.qoe[0].tolist() == [1, 1, 1, 1]


# ------------------------------------------------------------------------------- the rest

LINK = 12.5e9 / 262_144


def cluster(policy, *, engines=3, requests=200, kv_tokens=20_000, block=16):
    """A small cluster of PASCAL's own model, beyond its capacity."""
    chip = llmq.load_engine("deepseek-r1-distill-qwen-32b/h100").with_(
        kv_tokens=kv_tokens, kv_block=block, token_budget=policy.token_budget, per_swap=5.24e-6
    )
    trace = llmq.load_workload("reasoning-alpaca", rate=6.0).sample(requests, 3)
    return System(chip, engines, policy, (trace,), LINK, 0.1)


@pytest.mark.parametrize("block", [1, 16])
def test_general_times_agree_to_a_billionth(block) -> None:
    # Rounding differs, the trajectory does not.
    system = cluster(policies.PASCAL(), block=block)
    log = lockstep(system)
    fleet = llmq.Fleet({"all": (system.engine, system.engines)}, link=system.link)
    slow = llmq.simulate(
        fleet, system.traces[0], system.policy, simulator="reference", record="tokens"
    )
    assert log.server[0].tolist() == slow.server[0].tolist()
    for name in TIMES:
        theirs = getattr(slow.requests, name)[0]
        np.testing.assert_allclose(getattr(log, name)[0], theirs, rtol=1e-9, atol=1e-9)
    for name in ("iterations", "tokens", "kv_area", "evictions", "swapped", "moved"):
        theirs = [getattr(tally, name) for tally in slow.tallies[0]]
        assert getattr(log, name)[0].tolist() == theirs, name
    # Memory binds and requests move, or there would be little to compare.
    assert log.evictions.sum() > 50
    assert log.moved.sum() > 0
    np.testing.assert_allclose(log.qoe[0], qoe(slow.requests)[0], rtol=1e-9)
    assert (log.qoe[0] < 0.95).any()


@pytest.mark.parametrize("policy", [policies.FCFS(), policies.RR(), policies.PASCAL()])
def test_every_token_is_made_once(policy) -> None:
    system = cluster(policy, requests=400)
    log, trace = lockstep(system), system.traces[0]
    assert np.isfinite(log.finish).all()
    assert log.tokens.sum() == (trace.prompt + trace.output - 1).sum()
    grown = trace.prompt + (trace.output - 1) / 2
    assert log.kv_area.sum() == (trace.output * grown).sum()
    assert (log.busy <= log.clock).all()
    assert ((log.qoe >= 0) & (log.qoe <= 1)).all()
    order = np.stack([trace.arrival, log.prefill_end[0], log.first_token[0], log.finish[0]])
    assert (np.diff(order, axis=0) >= 0).all()


def test_a_replication_runs_as_if_it_were_alone() -> None:
    system = cluster(policies.PASCAL())
    trace = system.traces[0]
    both = lockstep(replace(system, traces=(trace.scaled(rate=3.0), trace)))
    alone = lockstep(system)
    for name in (*TIMES, "qoe", "server", *SUMS):
        assert getattr(both, name)[1].tolist() == getattr(alone, name)[0].tolist(), name


def test_a_request_that_never_fits_is_left_to_the_reference() -> None:
    chip = llmq.Engine(FLAT, kv_tokens=32, kv_block=1, token_budget=64)
    ones = np.ones((2, 2), int)
    output = np.array([[31, 4], [32, 4]])
    log = run_ranked([chip], policies.RR(), 0.0 * ones, ones, output, 0 * ones)
    assert log.undone.tolist() == [False, True]
    assert np.isfinite(log.finish[0]).all()
    assert np.isnan(log.finish[1]).all()


def test_more_prompt_tokens_than_one_iteration_takes_are_left_to_the_reference() -> None:
    chip = llmq.Engine(FLAT, token_budget=16)
    ones = np.ones((2, 2), int)
    log = run_ranked(
        [chip],
        policies.FCFS(token_budget=None),
        0.0 * ones,
        np.array([[8, 8], [8, 9]]),
        ones,
        0 * ones,
    )
    assert log.undone.tolist() == [False, True]


def test_who_can_run() -> None:
    chip = llmq.Engine(FLAT)
    assert runs_ranked([chip] * 3, policies.PASCAL(migrate=False))
    assert runs_ranked([chip], policies.RR(route=policies.RoundRobin()))
    assert not runs_ranked([chip] * 2, policies.RR(route=policies.RoundRobin()))
    assert not runs_ranked([chip, chip.with_(max_seqs=2)], policies.PASCAL())
    assert not runs_ranked([chip.with_(conventions=llmq.THEORY)], policies.FCFS())
    assert not runs_ranked([chip], policies.Sarathi())
    ones = np.ones((1, 1), int)
    with pytest.raises(InputError, match="engine='reference'"):
        run_ranked([chip], policies.Sarathi(), 1.0 * ones, ones, ones, 0 * ones)


@pytest.mark.parametrize(("tau", "engine"), [(4.0, 1), (4.0 + TICK, 0)])
def test_an_answer_is_late_from_the_instant_its_next_token_is_due(tau, engine) -> None:
    # One slot each. The first answers once, at 1; the second makes the other engine heavier; the
    # third reasons and pauses the first. The last comes at 5, four seconds after that token.
    trace = llmq.Trace([0.0, 0.25, 0.5, 5.0], [1, 20, 1, 1], [9, 16, 10, 2], [0, 15, 9, 1])
    chip = llmq.Engine(FLAT, max_seqs=1, token_budget=2**20)
    log = check(System(chip, 2, pascal(tau=tau), (trace,), math.inf, 1.0))
    assert log.server[0].tolist() == [0, 1, 0, engine]
