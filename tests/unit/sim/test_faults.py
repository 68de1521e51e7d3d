"""Faults found on the simulators, by their numbers, each with the right value."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.errors import InvariantError
from llmq.sim._fast.calendar.engine import CalendarEngine
from llmq.sim._fast.slots.engine import count_late, run_slots
from llmq.sim._fast.vector.engine import Lanes
from llmq.sim._reference.audit import Audit
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim.results._log import Job, Log

SECOND = llmq.BatchTime.affine(base=1.0, per_token=0.0)


def test_b25_a_decode_that_gets_nothing_does_not_shut_new_requests_out() -> None:
    # One decode an iteration. The third comes at 2 s and is prefilled beside the first's decode.
    chip = llmq.Engine(SECOND, token_budget=4, max_seqs=4)
    arrival, prompt, output = [0.0, 0.0, 2.0], [1, 1, 1], [8, 8, 1]
    policy = policies.SLAI(tbt=0.5, below=1.0, above=1.0, decodes=1)
    trace = llmq.Trace(arrival, prompt, output)
    slow = llmq.simulate(chip, trace, policy, simulator="reference")
    assert slow.requests.prefill_end[0].tolist() == [1.0, 1.0, 3.0]
    lanes = Lanes(*(np.array([x]) for x in (arrival, prompt, output)))
    log = run_slots(chip, policy, lanes, np.zeros((1, 3), dtype=int), ("all",))
    assert not log.undone[0]
    assert log.finish.tolist() == slow.requests.finish.tolist()


@pytest.mark.parametrize("how", ["reference", "auto"])
@pytest.mark.parametrize(
    "policy",
    [
        policies.VLLM(route=policies.LeastKV()),
        policies.FCFS(),
        policies.RR(),
        policies.PASCAL(),
    ],
)
def test_b26_a_request_counts_from_the_start_of_its_first_iteration(policy, how) -> None:
    # The prompt of 900 is being computed when the second request comes.
    chip = llmq.Engine(SECOND, 4096, kv_tokens=1000, kv_block=1)
    fleet = llmq.Fleet({"two": (chip, 2)})
    trace = llmq.Trace([0.0, 0.5], [900, 10], [2, 2])
    run = llmq.simulate(fleet, trace, policy, simulator=how)
    assert run.server.tolist() == [[0, 1]]


def test_b26_every_router_counts_prompt_and_output_so_far() -> None:
    # At 2.5 s the first engine has a request with 2 + 2 tokens, the second one with 3 + 1 (KV of 3
    # and 3: the last token of each is not in it yet). m is p + k: 4 and 4, the first of equals.
    fleet = llmq.Fleet({"two": (llmq.Engine(SECOND, 4096, kv_tokens=1000, kv_block=1), 2)})
    trace = llmq.Trace([0.0, 1.0, 2.5, 2.75], [2, 3, 1, 1], [9, 9, 9, 9])
    for policy in (policies.FCFS(), policies.RR(), policies.PASCAL()):
        for how in ("reference", "auto"):
            run = llmq.simulate(fleet, trace, policy, simulator=how)
            assert run.server[0].tolist() == [0, 1, 0, 0], (policy.name, how)


def test_b11_the_clock_has_coarse_steps_where_iterations_are_tiny() -> None:
    # A request every 5e8 s, iterations of a millisecond: the clock moves in steps of 6e-8 s.
    law = llmq.BatchTime.roofline(floor=0.001, base=0.0005, per_token=1.1e-5)
    work = llmq.Workload.poisson(
        {"x": 1e-9, "y": 1e-9},
        {
            "x": llmq.RequestClass(1, llmq.Lengths.uniform(6, 21)),
            "y": llmq.RequestClass(1, 1),
        },
    )
    for policy in (policies.RR(quantum=2, token_budget=1), policies.VLLM(), policies.Sarathi()):
        for seed in range(4):
            run = llmq.simulate(
                llmq.Engine(law, 3, 2), work, policy, requests=5, replications=5, rng=seed
            )
            run.check()
    tiny = llmq.Engine(llmq.BatchTime.affine(base=1e-300, per_token=0.0))
    work = llmq.Workload.poisson(1.0, {"x": llmq.RequestClass(100, 10)})
    llmq.simulate(tiny, work, requests=50, replications=2, rng=0).check()


def test_b11_time_that_is_missing_is_still_found() -> None:
    chip = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=0.0))
    work = llmq.Workload.poisson(1.0, {"x": llmq.RequestClass(100, 10)})
    run = llmq.simulate(chip, work, requests=50, rng=0)
    run.tallies[0][0].busy /= 1000
    with pytest.raises(InvariantError, match="of priced work"):
        run.check()


# ------------------------------------------------------------------ numbers without a test (F)


def test_f_gaps_up_to_the_deadline_are_not_late() -> None:
    # Decode i takes 2 + i / 8 s: the gaps 2.125, ..., 3.125; five are longer than 2.5 s.
    law = llmq.BatchTime.affine(base=1.0, per_token=0.0, per_kv=0.125)
    one = Lanes(np.array([[0.0]]), np.array([[8]]), np.array([[10]]))
    klass = np.zeros((1, 1), dtype=int)
    chip = llmq.Engine(law, token_budget=16)
    for tbt, late in ((2.5, 5.0), (2.49, 6.0), (2.2, 8.0), (2.0, 9.0), (3.125, 0.0)):
        assert count_late(chip, policies.SLAI(tbt=tbt), one, klass, ("all",))[1] == late, tbt


def test_f_theta_changes_at_96_percent_of_the_memory() -> None:
    assert policies.SLAI().theta([0.0, 0.9, 0.95, 0.96, 1.0]).tolist() == [5, 5, 5, 10, 10]


def test_f_trail_protects_from_its_share_on() -> None:
    view = SimpleNamespace(
        output=np.array([10, 10, 10]),
        generated=np.array([4, 5, 6]),
        row=np.arange(3),
        resident=np.array([True, True, True]),
    )
    late = policies.TRAIL(protect=0.5).key(view)[0]
    assert late.tolist() == [True, False, False]


def audited(policy: policies.Policy) -> tuple[ReferenceEngine, Audit]:
    """An engine in the middle of its work, with an audit."""
    chip = llmq.Engine(SECOND, 64, 2, kv_tokens=64, kv_block=1)
    job = Job(chip, policy, [0.0] * 3, [4] * 3, [6] * 3, [0] * 3, [0] * 3, ("all",))
    audit = Audit(policy)
    server = ReferenceEngine(job, Log.empty(3), audit)
    server.queue += [0, 1, 2]
    return server, audit


def test_f_the_audit_counts_swapped_tokens() -> None:
    server, audit = audited(policies.RR(quantum=2))
    server.advance(4.5)
    server.complete()
    swapped = next(row for row in server.rows if row.host)
    audit.ended(server)
    swapped.host += 7
    with pytest.raises(InvariantError, match="holds more tokens than there are"):
        audit.ended(server)
    # As many tokens as there are, but one that nobody processed.
    swapped.host -= 8
    with pytest.raises(InvariantError, match="tokens processed"):
        audit.ended(server)


def test_f_littles_law_is_held_to_a_billionth() -> None:
    server, audit = audited(policies.RR(quantum=2))
    server.advance(math.inf)
    audit.over(server)
    server.tally.presence *= 1 + 1e-8
    with pytest.raises(InvariantError, match="request-seconds"):
        audit.over(server)


def test_f_an_iteration_that_ends_now_is_no_work() -> None:
    chip = llmq.Engine(SECOND)
    server = CalendarEngine(Job(chip, policies.VLLM(), [0.0], [8], [3], [0], [0]), Log.empty(1))
    slow = ReferenceEngine(Job(chip, policies.VLLM(), [0.0], [8], [3], [0], [0]), Log.empty(1))
    for one in (server, slow):
        one.queue.append(0)
        one.advance(1.0)
        assert one.work(1.0) == 2.0
    assert server.work(0.5) == 10.0
