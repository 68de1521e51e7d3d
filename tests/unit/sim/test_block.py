"""Blocks of replications: whoever runs them, in whatever pieces, gives the same run."""

from __future__ import annotations

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.sim import _collect as collect
from llmq.sim._collect import PILOT
from llmq.sim._parallel.workers import mapped

LAW = llmq.BatchTime.affine(base=0.01, per_token=1e-4, per_kv=1e-7)
CHIP = llmq.Engine(LAW, token_budget=256, max_seqs=32)
MIX = {
    "short": llmq.RequestClass(llmq.Lengths.uniform(1, 300), llmq.Lengths.uniform(1, 40)),
    "long": llmq.RequestClass(llmq.Lengths.uniform(200, 600), llmq.Lengths.uniform(1, 90)),
}
WORK = llmq.Workload.poisson(8.0, MIX)
EVENTS = ("arrival", "prefill_end", "first_token", "finish")


def simulate(**options):
    system = options.pop("system", CHIP)
    fields = {"replications": 70, "requests": 80, "rng": 5, **options}
    return llmq.simulate(system, WORK, **fields)


def same(first, second, *, rtol=0.0):
    for name in EVENTS:
        a, b = getattr(first.requests, name), getattr(second.requests, name)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    np.testing.assert_array_equal(first.n_iterations, second.n_iterations)
    np.testing.assert_array_equal(first.server, second.server)
    np.testing.assert_array_equal(first.klass, second.klass)


@pytest.fixture(scope="module")
def alone():
    return simulate()


def test_many_lanes_run_in_lockstep_and_agree_with_the_calendar(alone):
    same(alone, simulate(simulator="vector"))
    same(alone, simulate(simulator="calendar"), rtol=1e-9)
    alone.check()


def test_workers_change_nothing(alone):
    same(alone, simulate(workers=2))
    same(alone, simulate(workers=map))


def test_blocks_change_nothing(alone, monkeypatch):
    monkeypatch.setattr(collect, "BLOCK", 800)
    same(alone, simulate())


def test_replications_share_no_draws(alone):
    # A replication is what it is alone: the tenth child of the seed, wherever it runs.
    seed = np.random.SeedSequence(5).spawn(70)[9]
    trace = WORK.sample(80, seed.spawn(2)[0])
    np.testing.assert_array_equal(alone.requests.arrival[9], trace.arrival)
    np.testing.assert_array_equal(alone.prompt[9], trace.prompt)
    gaps = np.diff(alone.requests.arrival, axis=1)
    assert len(np.unique(gaps)) == gaps.size
    related = np.corrcoef(gaps) - np.eye(len(gaps))
    # 2415 pairs of 79 gaps: the largest correlation of independent rows is about 0.45.
    assert np.abs(related).max() < 0.6


@pytest.mark.parametrize("route", [policies.RoundRobin(), policies.Random()])
def test_every_engine_of_a_fleet_is_a_lane(route):
    fleet = llmq.Fleet({"fast": (CHIP, 2), "slow": (CHIP.with_(law=LAW.scaled(2)), 1)})
    policy = policies.Sarathi(route=route)
    many = simulate(system=fleet, policy=policy, simulator="vector")
    same(many, simulate(system=fleet, policy=policy, simulator="calendar"), rtol=1e-9)
    many.check()


def test_lanes_that_evict_are_run_again_by_the_calendar():
    tight = CHIP.with_(kv_tokens=800)
    many = simulate(system=tight)
    assert many.evictions > 100
    same(many, simulate(system=tight, simulator="calendar"), rtol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": policies.SLAI()},
        {"policy": policies.Sarathi(route=policies.LeastWork())},
        {"record": "tokens"},
    ],
)
def test_the_lockstep_says_what_it_cannot_run(options):
    if "policy" in options and options["policy"].name == "slai":
        options = {**options, "record": "tokens"}
    with pytest.raises(llmq.InputError, match="simulator 'vector' cannot run"):
        simulate(simulator="vector", **options)


@pytest.mark.parametrize("record", ["requests", "summary"])
@pytest.mark.parametrize("after", [0, 3])
def test_b6_an_interrupt_is_passed_on_and_no_part_is_a_result(after, record):
    def tired(function, tasks):
        for i, task in enumerate(tasks):
            if i == after:
                raise KeyboardInterrupt
            yield function(task)

    with pytest.raises(KeyboardInterrupt):
        simulate(workers=tired, simulator="calendar", replications=PILOT + 8, record=record)


def test_b6_an_interrupt_of_the_progress_is_passed_on():
    def stop(done, n):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(simulator="calendar", replications=5, progress=stop, workers=map)


def test_progress_counts_replications():
    seen = []
    simulate(replications=3, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_workers_that_are_none():
    with pytest.raises(llmq.InputError, match="at least 1, got 0"):
        list(mapped(0, abs, [1, 2]))
    with pytest.raises(llmq.InputError, match="a number, a function like map or a dask client"):
        list(mapped("many", abs, [1, 2]))


def test_a_summary_is_the_run_without_its_requests(alone):
    short = simulate(record="summary")
    whole = simulate(warmup=short.measured[0])
    for name in ("ttft", "tpot", "e2e"):
        for klass in (None, "long"):
            brief, full = short.metric(name, klass=klass), whole.metric(name, klass=klass).values
            # The end of the window is decided on the first replications.
            full = full[:, : short.measured[1] - short.measured[0]]
            assert brief.mean == pytest.approx(np.nanmean(full), rel=1e-12)
            for q in (0.5, 0.99):
                assert brief.quantile(q).mean == pytest.approx(np.nanquantile(full, q), rel=0.02)
    assert short.iterations == whole.n_iterations.sum()
    assert short.verdict.status == whole.verdict.status
    assert short.ttft.n == 70


def test_a_summary_does_not_depend_on_the_workers():
    first, second = simulate(record="summary"), simulate(record="summary", workers=2)
    for key, one in first.sketches.items():
        np.testing.assert_array_equal(one.counts, second.sketches[key].counts)
        np.testing.assert_array_equal(one.sums, second.sketches[key].sums)


def test_a_summary_says_what_it_does_not_know():
    short = simulate(record="summary", replications=2)
    with pytest.raises(llmq.InputError, match="record='requests' keeps the requests"):
        short.metric("qoe")
    over = llmq.simulate(CHIP, WORK.at_rate(100.0), requests=400, rng=1, record="summary")
    assert over.verdict.status == "overloaded"
    with pytest.raises(llmq.UnstableError, match="does not exist"):
        over.metric("ttft")
    assert over.metric("ttft", allow_unstable=True).mean > 1


THINK = llmq.Workload.poisson(
    30.0, {"r": llmq.RequestClass(8, llmq.Lengths.uniform(30, 60), llmq.Lengths.uniform(5, 25))}
)


@pytest.mark.parametrize(
    "policy",
    [policies.SLAI(deadlines={"short": 0.05}), policies.SLAI(order="fcfs"), policies.Sarathi()],
    ids=["slai", "slai fcfs", "sarathi"],
)
def test_lockstep_of_single_engines_is_the_reference(policy):
    fields = {"policy": policy, "replications": 5, "requests": 60}
    many = simulate(**fields, simulator="vector")
    same(many, simulate(**fields, simulator="reference"), rtol=1e-9)
    many.check()


@pytest.mark.parametrize(
    "policy",
    [policies.PASCAL(quantum=8), policies.RR(quantum=8), policies.FCFS()],
    ids=lambda policy: policy.name,
)
def test_lockstep_of_fleets_that_swap_and_move_is_the_reference(policy):
    fleet = llmq.Fleet({"all": (CHIP.with_(max_seqs=3, kv_tokens=160, per_swap=1e-6), 3)}, link=1e5)
    fields = {"replications": 4, "requests": 60, "rng": 2}
    many = llmq.simulate(fleet, THINK, policy, simulator="vector", **fields)
    slow = llmq.simulate(fleet, THINK, policy, simulator="reference", record="tokens", **fields)
    same(many, slow, rtol=1e-9)
    many.check()
    assert many.evictions > 0
    for name in ("qoe", "blocking", "reasoning"):
        mine, theirs = (run.metric(name, allow_unstable=True).values for run in (many, slow))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_a_class_that_does_not_occur_in_a_trace():
    trace = llmq.Trace([0.0, 1.0, 2.0], [8] * 3, [4] * 3, klass=["b"] * 3, classes=("a", "b"))
    fleet = llmq.Fleet({"x": (CHIP, 1), "y": (CHIP, 1)}, eligible={"b": ("y",)})
    run = llmq.simulate(fleet, trace)
    assert run.metric("ttft", klass="b").observations == 3
    assert set(run.server.ravel()) == {1}
