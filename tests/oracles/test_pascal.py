"""PASCAL's exact schedules and rules (the worked cases of its dossier, unit iteration time)."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.policies._pascal_route import answer_choice, in_time, new_choice, stays

UNIT = llmq.BatchTime.affine(base=1.0, per_token=0.0)


def run(policy, jobs, *, engines=1, slots=1, link=math.inf):
    """Jobs are (arrival, reasoning, answer); one prompt token, memory is slots."""
    arrival, hidden, answer = (list(column) for column in zip(*jobs, strict=True))
    output = [r + a for r, a in zip(hidden, answer, strict=True)]
    trace = llmq.Trace(arrival, [1] * len(jobs), output, hidden)
    chip = llmq.Engine(UNIT, max_seqs=slots, token_budget=4096)
    fleet = llmq.Fleet({"all": (chip, engines)}, link=link)
    done = llmq.simulate(fleet, trace, policy, record="tokens", simulator="reference")
    done.check()
    return done


def ttft(done):
    return (done.requests.first_token - done.requests.arrival)[0].tolist()


def finish(done):
    return done.requests.finish[0].tolist()


def tokens(done, i):
    """Iterations (by their start) in which request i made a token."""
    times, offsets = done.requests.token_times, done.requests.token_offsets
    return (times[offsets[i] : offsets[i + 1]] - 1).tolist()


def pascal(**fields):
    # Readers so slow that every answer is in time.
    return policies.PASCAL(**{"quantum": 4, "tau": 100.0, **fields})


S1 = [(0.0, 0, 8), (1.0, 0, 8), (2.0, 0, 8)]


def test_s1_figure_2_of_the_paper():
    fcfs = run(policies.FCFS(), S1, slots=2)
    assert ttft(fcfs) == [1, 1, 7]
    assert finish(fcfs) == [8, 9, 16]
    for policy in (policies.RR(quantum=4), pascal()):
        done = run(policy, S1, slots=2)
        assert ttft(done) == [1, 1, 3]
        assert finish(done) == [9, 12, 13]
        assert tokens(done, 0) == [0, 1, 2, 3, 5, 6, 7, 8]
        assert tokens(done, 1) == [1, 2, 3, 4, 8, 9, 10, 11]
        assert tokens(done, 2) == [4, 5, 6, 7, 9, 10, 11, 12]


def test_s3_priority_inversion_of_round_robin():
    jobs = [(0.0, 6, 2), (1.0, 1, 5)]
    assert ttft(run(policies.FCFS(), jobs)) == [7, 9]
    rr = run(policies.RR(quantum=2), jobs)
    assert ttft(rr) == [13, 3]
    assert tokens(rr, 0) == [0, 1, 4, 5, 8, 9, 12, 13]
    done = run(pascal(quantum=2), jobs)
    assert ttft(done) == [10, 7]
    assert finish(done) == [11, 14]
    assert tokens(done, 0) == [0, 1, 3, 4, 5, 6, 9, 10]


S4 = [(0.0, 2, 4), (1.0, 5, 2), (2.0, 4, 2)]


@pytest.mark.parametrize(
    ("policy", "link", "first", "last"),
    [
        (policies.FCFS(), math.inf, [3, 6, 11], [6, 8, 14]),
        (policies.RR(quantum=4), math.inf, [3, 10, 11], [6, 12, 14]),
        (pascal(), math.inf, [3, 10, 8], [6, 12, 11]),
        (pascal(migrate=False), math.inf, [3, 12, 9], [6, 14, 12]),
    ],
    ids=["fcfs", "rr", "pascal", "no migration"],
)
def test_s4_migration_pays(policy, link, first, last):
    done = run(policy, S4, engines=2, link=link)
    assert ttft(done) == first
    assert finish(done) == last


def test_s4_with_a_transfer_of_one_iteration():
    # C holds 1 + 4 tokens less the one just made: 4 KV tokens at 4 tokens per second.
    done = run(pascal(), S4, engines=2, link=4.0)
    assert ttft(done) == [3, 10, 9]
    assert finish(done) == [6, 12, 12]
    assert sum(t.moved for t in done.tallies[0]) == 4


S5 = [(0.0, 1, 9), (1.0, 4, 3), (2.0, 7, 1), (3.0, 1, 7)]


def test_s5_the_adaptive_override():
    for policy in (pascal(), policies.FCFS(), policies.RR(quantum=4), pascal(migrate=False)):
        done = run(policy, S5, engines=2, slots=2)
        assert done.server[0].tolist() == [0, 1, 1, 0]
        assert ttft(done) == [2, 5, 8, 2]
        assert finish(done) == [10, 8, 10, 11]
    done = run(pascal(adaptive=False), S5, engines=2, slots=2)
    assert ttft(done) == [2, 5, 8, 2]
    assert finish(done) == [13, 8, 10, 11]
    assert tokens(done, 0) == [0, 1, 2, 3, 4, 8, 9, 10, 11, 12]


def test_s7_algorithm_1():
    assert new_choice([True, True, True], [500, 300, 400]) == 1
    assert new_choice([True, False, True], [500, 300, 400]) == 2
    assert new_choice([False, False, False], [500, 300, 400]) == 1


def test_s7_algorithm_2():
    yes, no = True, False
    assert answer_choice([yes] * 3, [2, 1, 0], [0, 0, 9], 0) == 2
    assert answer_choice([no, yes, no], [0, 3, 0], [0, 0, 0], 0) == 1
    assert answer_choice([no] * 3, [2, 1, 0], [0, 0, 4], 0) == 1
    assert answer_choice([yes, yes], [1, 1], [0, 0], 1) == 1


def test_s7_many_replications_at_once():
    healthy = np.array([[True, True, True], [False, True, False], [False, False, False]])
    reasoning, fresh = np.array([[2, 1, 0], [0, 3, 0], [2, 1, 0]]), np.array([[0, 0, 9]] * 3)
    fresh[2] = 0, 0, 4
    assert answer_choice(healthy, reasoning, fresh, np.zeros(3, int)).tolist() == [2, 1, 1]


def test_s7_override():
    cases = [(True, False), (True, True), (False, False), (False, True)]
    assert [bool(stays(*case)) for case in cases] == [True, False, False, False]


@pytest.mark.parametrize(
    ("first", "now", "made", "good"),
    [
        (10.2, 10.75, 5, False),
        (10.2, 10.75, 6, True),
        (math.nan, 10.2, 0, True),
        (math.nan, 10.3, 0, False),
    ],
)
def test_s7_answers_in_time(first, now, made, good):
    class Row:
        boundary, answering = np.array([10.0]), np.array([True])
        generated, thought = np.array([7 + made]), np.array([7])

    Row.first = np.array([first])
    assert in_time(Row, now, 0.1) == good
