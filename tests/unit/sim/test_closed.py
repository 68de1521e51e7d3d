"""Closed clients: exact throughputs, Little's law, a queue with a known answer, another loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.errors import InputError
from llmq.model.closed import Closed
from llmq.model.trace import Trace
from llmq.policies.contract.routers import LeastWork, ShortestQueue
from llmq.sim._closed import follow

ONE = llmq.BatchTime.affine(base=1.0, per_token=0.0)
SLOPED = llmq.BatchTime.affine(base=0.5, per_token=0.0625, per_kv=0.00390625)


def geometric(mean):
    """A geometric law by its quantiles."""
    share = (np.arange(2000) + 0.5) / 2000
    return llmq.Lengths.empirical(np.ceil(np.log1p(-share) / np.log1p(-1 / mean)).astype(int))


def closed(users, output=4, prompt=8, **think):
    think.setdefault("think_cv", 0.0)  # fixed pauses can be reckoned by hand
    return llmq.Workload.closed(users, {"a": llmq.RequestClass(prompt, output)}, **think)


@pytest.mark.parametrize("simulator", ["calendar", "reference"])
@pytest.mark.parametrize("users", [1, 3, 8])
def test_constant_iterations_give_the_exact_throughput(users, simulator):
    # The prompt ends with the first token, so a request takes 4 iterations of 1 s; all advance
    # together.
    chip = llmq.Engine(ONE, token_budget=512)
    run = llmq.simulate(chip, closed(users), requests=10 * users, simulator=simulator, warmup=0)
    assert np.all(run.requests.finish - run.requests.arrival == 4.0)
    assert run.requests.finish.max() == 40.0  # 10 users' requests in 40 s: X = users / 4
    assert run.n_iterations[0] == 40


@pytest.mark.parametrize("simulator", ["calendar", "reference"])
def test_one_user_has_the_unloaded_latency(simulator):
    chip = llmq.Engine(SLOPED, token_budget=512)
    alone = llmq.simulate(chip, Trace([0.0], [100], [7]), simulator=simulator).requests
    run = llmq.simulate(
        chip, closed(1, 7, 100, think=2.0), requests=5, simulator=simulator
    ).requests
    stay = float(alone.finish[0, 0])
    assert run.arrival[0] == pytest.approx([2.0 + i * (stay + 2.0) for i in range(5)], rel=1e-12)
    assert run.finish - run.arrival == pytest.approx(np.full((1, 5), stay), rel=1e-12)


@pytest.mark.parametrize("users", [1, 5, 40])
def test_without_pauses_everybody_is_always_present(users):
    chip = llmq.Engine(SLOPED, token_budget=64, max_seqs=8)
    mix = {"a": llmq.RequestClass(geometric(90), geometric(30))}
    run = llmq.simulate(chip, llmq.Workload.closed(users, mix), requests=300, rng=5, warmup=0)
    times = run.requests
    end = times.arrival[0, -1]  # up to here nobody has left
    area = np.sum(np.minimum(times.finish, end) - times.arrival)
    assert area == pytest.approx(users * end, rel=1e-12)
    present = np.searchsorted(np.sort(times.finish[0]), times.arrival[0], side="right")
    assert np.max(np.arange(1, 301) - present) == users


def test_littles_law_with_pauses():
    chip = llmq.Engine(SLOPED, token_budget=64, max_seqs=8)
    mix = {"a": llmq.RequestClass(geometric(90), geometric(30))}
    work = llmq.Workload.closed(12, mix, think=30.0, think_cv=1.0)
    run = llmq.simulate(chip, work, replications=6, requests=600, rng=5)
    first, stop = run.measured
    arrival = run.requests.arrival
    rate = (stop - 1 - first) / (arrival[:, stop - 1] - arrival[:, first])
    stay = run.e2e.estimate
    assert rate.mean() * (stay.mean + 30.0) == pytest.approx(12, rel=0.02)


def test_machine_repair_has_its_known_throughput():
    # One slot, geometric service of mean 100 x 0.02 s (nearly exponential), exponential pauses:
    # M/M/1//N by mean value analysis.
    chip = llmq.Engine(llmq.BatchTime.affine(base=0.02, per_token=0.0), max_seqs=1)
    mix = {"a": llmq.RequestClass(1, geometric(100))}
    queue, service, think, users = 0.0, 2.0, 5.0, 4
    for n in range(1, users + 1):
        stay = service * (1 + queue)
        rate = n / (think + stay)
        queue = rate * stay
    work = llmq.Workload.closed(users, mix, think=think, think_cv=1.0)
    run = llmq.simulate(chip, work, replications=12, requests=400, rng=3)
    found = run.e2e.estimate
    error = found.half_width / 2.2  # 97.5 % point of Student's t with 11 degrees
    assert abs(found.mean - stay) < 4 * error + 0.01 * stay  # geometric for exponential: 0.5 %
    assert found.half_width < 0.08 * stay


def test_throughput_keeps_the_asymptotic_bounds_and_reaches_them():
    chip = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=0.0), max_seqs=4)
    # Four slots of 0.5 s each: at most 8 req/s; alone 0.5 s.
    for users in (1, 2, 4, 8, 32):
        run = llmq.simulate(chip, closed(users, 50, think=0.25), requests=60 * users, rng=1)
        times = run.requests
        rate = 60 * users / times.finish.max()
        bound = min(users / 0.75, 8.0)
        assert rate <= bound * (1 + 1e-9)
        if users in (1, 2, 4, 32):  # nobody waits, or the slots are always busy
            assert rate >= 0.95 * bound


# --- another loop -----------------------------------------------------------------------------


def naive(prompt, output, users, budget, slots, law, pause):
    """Iterations of decodes first, then chunks in order of arrival; users send when answered."""
    n = len(prompt)
    ready = [pause] * min(users, n)
    sent, answered = [], [None] * n
    rows, waiting, clock = [], [], 0.0
    while None in answered:
        if not rows and not waiting:
            clock = max(clock, min(ready))
        for t in sorted(t for t in ready if t <= clock):
            ready.remove(t)
            if len(sent) < n:
                waiting.append([len(sent), 0, 0])
                sent.append(t)
        left, kv, took = budget, 0, []
        for row in [r for r in rows if r[2]]:
            took.append((row, 1))
            left, kv = left - 1, kv + row[1] + 1
        for row in [r for r in rows if not r[2]]:
            x = min(left, prompt[row[0]] - row[1])
            if x:
                took.append((row, x))
                left, kv = left - x, kv + row[1] + x
        while waiting and left and len(rows) < slots:
            row = waiting.pop(0)
            rows.append(row)
            x = min(left, prompt[row[0]])
            took.append((row, x))
            left, kv = left - x, kv + x
        clock += law(budget - left, kv)
        for row, x in took:
            row[1] += x
            if row[1] >= prompt[row[0]]:
                row[2] += 1
            if row[2] == output[row[0]]:
                rows.remove(row)
                answered[row[0]] = clock
                ready.append(clock + pause)
    return sent, answered


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=14),
    st.integers(1, 6),
    st.integers(4, 24),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 7.25]),
    st.sampled_from(["calendar", "reference"]),
)
def test_against_another_loop(sizes, users, budget, slots, pause, simulator):
    slots = min(slots, budget)
    prompt, output = (list(x) for x in zip(*sizes, strict=True))
    chip = llmq.Engine(SLOPED, token_budget=budget, max_seqs=slots)
    lengths = Trace([0.0] * len(sizes), prompt, output)
    trace, path = follow(
        lengths, users, (chip,), policies.Sarathi(), pauses=pause, choice=simulator
    )
    sent, answered = naive(prompt, output, users, budget, slots, SLOPED, pause)
    assert trace.arrival.tolist() == sent  # dyadic numbers: to the last bit
    assert path.log.finish == answered


# --- fleets, policies, seeds --------------------------------------------------------------------


@pytest.mark.parametrize("route", [policies.Sarathi().route, LeastWork()])
@pytest.mark.parametrize("kind", [policies.Sarathi, policies.VLLM])
def test_both_simulators_follow_the_same_path_through_a_fleet(kind, route):
    chip = llmq.Engine(SLOPED, token_budget=2048, max_seqs=4, kv_tokens=2048)
    fleet = llmq.Fleet({"a": (chip, 2), "b": (chip.with_(max_seqs=2), 1)})
    mix = {"a": llmq.RequestClass(llmq.Lengths.uniform(8, 300), llmq.Lengths.uniform(1, 60))}
    work = llmq.Workload.closed(9, mix, think=2.0, think_cv=1.0)
    runs = [
        llmq.simulate(fleet, work, kind(route=route), requests=150, rng=11, simulator=engine)
        for engine in ("calendar", "reference")
    ]
    for name in ("arrival", "first_token", "finish"):
        one, two = (getattr(run.requests, name) for run in runs)
        assert one == pytest.approx(two, rel=1e-9)
    assert np.array_equal(runs[0].server, runs[1].server)
    assert len(np.unique(runs[0].server)) == 3


def test_users_join_the_shortest_queue():
    chip = llmq.Engine(ONE, max_seqs=1)
    fleet = llmq.Fleet({"a": (chip, 3)})
    run = llmq.simulate(
        fleet, closed(3, output=5), policies.Sarathi(route=ShortestQueue()), requests=30
    )
    assert np.all(run.requests.finish - run.requests.arrival == 5.0)  # never two in one queue


def test_policies_meet_the_same_requests():
    mix = {"a": llmq.RequestClass(geometric(90), geometric(30))}
    work = llmq.Workload.closed(6, mix, think=1.0, think_cv=1.0)
    chip = llmq.Engine(SLOPED, token_budget=4096, max_seqs=4)
    v0 = policies.VLLM(version="v0", token_budget=8192)
    some = [
        llmq.simulate(chip, work, p, requests=80, replications=3, rng=4)
        for p in (policies.Sarathi(), v0, policies.Sarathi())
    ]
    assert np.array_equal(some[0].prompt, some[1].prompt)
    assert np.array_equal(some[0].requests.output, some[1].requests.output)
    assert not np.array_equal(some[0].requests.finish, some[1].requests.finish)
    assert np.array_equal(some[0].requests.finish, some[2].requests.finish)
    assert not np.array_equal(some[0].prompt[0], some[0].prompt[1])


def test_many_replications_and_summaries_do_not_take_the_lockstep():
    work = closed(3, 8, think=1.0, think_cv=1.0)
    chip = llmq.Engine(SLOPED)
    run = llmq.simulate(chip, work, replications=64, requests=40, rng=2)
    short = llmq.simulate(chip, work, replications=64, requests=40, rng=2, record="summary")
    assert short.metric("e2e").mean == pytest.approx(run.e2e.mean, rel=1e-9)
    assert short.verdict.status == run.verdict.status == "stable"


# --- what a closed loop is not --------------------------------------------------------------------


def test_never_overloaded_and_busier_with_more_users():
    chip = llmq.Engine(SLOPED, token_budget=256, max_seqs=16)
    loads = []
    for users in (1, 8, 64):
        run = llmq.simulate(chip, closed(users, 32, 64), requests=600, rng=1)
        assert run.verdict.status == "stable"
        assert f"{users} users" in run.verdict.sentence
        loads.append(run.verdict.load)
    assert 0 < loads[0] < loads[1] < loads[2] <= 1.001
    assert loads[2] > 0.9


def test_too_few_requests_to_measure_a_throughput():
    run = llmq.simulate(llmq.Engine(SLOPED), closed(20), requests=10)
    assert run.verdict.status == "undecided"
    assert (run.verdict.load, run.verdict.load_inner) == (0.0, np.inf)  # any throughput
    assert run.verdict.needed == 182  # three rounds and two dropped, 100 measured, one drained
    assert "too few requests" in run.verdict.sentence


def test_it_has_no_rate():
    work = closed(4)
    for ask in (
        lambda: work.rate,
        lambda: work.rates,
        lambda: work.at_rate(2.0),
        lambda: work.sample(5),
        lambda: work.arrivals.dispersion,
        lambda: llmq.plan_capacity(work, llmq.SLO(ttft=1.0), llmq.Engine(ONE)),
    ):
        with pytest.raises(InputError, match="closed loop of 4 users"):
            ask()
    assert not llmq.Workload.poisson(1.0, work.mix).is_closed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "users"),
        ((1.5,), "users"),
        ((True,), "users"),
        ((2, -1.0), "think"),
        ((2, float("inf")), "think"),
        ((2, 1.0, -0.5), "cv"),
    ],
)
def test_bad_clients(arguments, words):
    with pytest.raises(InputError, match=words):
        Closed(*arguments)


def test_what_cannot_run_is_refused():
    chip = llmq.Engine(SLOPED)
    with pytest.raises(InputError, match="closed clients"):
        llmq.simulate(chip, closed(2), simulator="vector")
    with pytest.raises(InputError, match="cannot run"):
        llmq.simulate(chip, closed(2), policies.SLAI(), simulator="calendar")
    with pytest.raises(InputError, match="moves requests"):
        llmq.simulate(chip, closed(2), policies.PASCAL())


def test_pauses():
    draw = Closed(3, think=2.0, cv=0.5).pauses(20_000, 7)
    assert draw.mean() == pytest.approx(2.0, rel=0.02)
    assert draw.std() / draw.mean() == pytest.approx(0.5, rel=0.03)
    assert np.all(Closed(3).pauses(4, 7) == 0)
