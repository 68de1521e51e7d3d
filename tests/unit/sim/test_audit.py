"""Policies that break a rule are named; ``check=True`` looks at every iteration again."""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.errors import InvariantError
from llmq.policies.contract.blocks import Blocks, Budget
from llmq.policies.contract.fill import plan
from llmq.policies.contract.view import Batch, View
from llmq.sim._reference import engine as reference
from llmq.sim._reference.audit import Audit
from llmq.sim.results._log import Job, Log

LAW = llmq.BatchTime.affine(base=0.01, per_token=1e-4)
CHIP = llmq.Engine(LAW, token_budget=64, max_seqs=8, kv_tokens=640, kv_block=16)
TRACE = llmq.Trace([0.0, 0.0, 0.1, 0.2, 0.2], [40, 60, 20, 33, 5], [10, 3, 30, 8, 1])
WORK = llmq.Workload.poisson(2.0, {"x": llmq.RequestClass(20, 5)})


@dataclass(frozen=True)
class Rigged:
    """A policy made of any blocks; each test says what is wrong with them."""

    make: Callable[[Rigged], Blocks]
    token_budget: int | None = None
    notes: list[int] = field(default_factory=list)
    name: ClassVar[str] = "rigged"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    @property
    def blocks(self) -> Blocks:
        return self.make(self)


def refused(policy: policies.Policy, message: str, chip=CHIP, work=TRACE, **options) -> None:
    with pytest.raises(llmq.PolicyError, match=message) as caught:
        llmq.simulate(chip, work, policy, **options)
    for name in ("policy", "replication", "iteration", "time", "rule"):
        assert name in caught.value.fields, name
    assert caught.value.policy == policy.name
    assert str(caught.value.rule) in str(caught.value)


# ------------------------------------------------------------------------------ where it happened


def late(policy: Rigged) -> Blocks:
    # Nobody may run from the fourth second on, and no wake-up time is named.
    return Blocks(gate=lambda view: (np.full(view.row.shape, view.time < 4), None))


def test_an_error_says_policy_replication_iteration_time_and_rule() -> None:
    with pytest.raises(llmq.PolicyError) as caught:
        llmq.simulate(CHIP, WORK, Rigged(late), replications=3, requests=40, rng=1)
    error = caught.value
    assert error.replication == 0
    assert error.time >= 4.0
    assert error.iteration > 0
    assert re.fullmatch(
        rf"rigged, iteration {error.iteration} \(t = [\d.]+ s\): lets none of the \d+ "
        r"requests? present run and names no wake-up time: .*\(replication 0\)",
        str(error),
    )
    assert pickle.loads(pickle.dumps(error)).fields == error.fields


def test_the_replication_is_that_of_the_whole_run() -> None:
    # Only long paths reach the fourth second: the first that does is named.
    long = [r for r in range(8) if last(r) > 4.0]
    assert 0 not in long
    assert long
    with pytest.raises(llmq.PolicyError, match=rf"\(replication {long[0]}\)") as caught:
        llmq.simulate(CHIP, WORK, Rigged(late), replications=8, requests=6, rng=SEED)
    assert caught.value.replication == long[0]


SEED = 10


def last(replication: int) -> float:
    run = llmq.simulate(CHIP, WORK, replications=8, requests=6, rng=SEED)
    return float(run.requests.arrival[replication, -1])


# ---------------------------------------------------------------------------------- rigged plans


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            lambda b: b._replace(rows=(5,), tokens=(1,), reserve=(1,)),
            "row 5 is none of the 5 present: it has finished or never came",
        ),
        (lambda b: b._replace(rows=(-1,), tokens=(1,), reserve=(1,)), "row -1 is none of the"),
        (lambda b: b._replace(evict=(7,)), "row 7 is none of the 5 present"),
        (lambda b: b._replace(evict=(4, 4)), "a row is evicted twice in one iteration"),
        (lambda b: b._replace(tokens=b.tokens[:-1]), "do not go together"),
        (lambda b: Batch((), (), (), wake=float("nan")), "asks to be woken at nan s"),
        (lambda b: Batch((), (), (), wake=-1.0), "asks to be woken at -1 s, which has passed"),
    ],
)
def test_plans_that_name_nobody_are_refused(monkeypatch, change, rule: str) -> None:
    def bad(view: View, blocks: Blocks, chunk: int) -> Batch:
        batch = plan(view, blocks, chunk)
        return change(batch) if len(view.row) == 5 else batch

    monkeypatch.setattr(reference, "plan", bad)
    trace = llmq.Trace([0.0] * 5, [8] * 5, [4] * 5)
    only = {"simulator": "reference"}  # the one whose plans are changed here
    refused(Rigged(lambda _: Blocks()), re.escape(rule), work=trace, **only)


def test_a_finished_row_is_none_of_those_present(monkeypatch) -> None:
    # Serves the rows of the first plan for ever: the short request has left by then.
    first: list[Batch] = []

    def stale(view: View, blocks: Blocks, chunk: int) -> Batch:
        batch = plan(view, blocks, chunk)
        first.append(batch)
        return (
            batch._replace(rows=first[0].rows, tokens=(1, 1), reserve=(3, 3))
            if len(first) > 1
            else batch
        )

    monkeypatch.setattr(reference, "plan", stale)
    refused(
        Rigged(lambda _: Blocks()),
        "row 1 is none of the 1 present: it has finished",
        simulator="reference",
        work=llmq.Trace([0.0, 0.0], [8, 8], [9, 1]),
    )


# ------------------------------------------------------------------------------- hidden lengths


@pytest.mark.parametrize(
    "make",
    [
        lambda _: Blocks(key=lambda view: (view.output, view.row)),
        lambda _: Blocks(key=lambda view: (view.output - view.generated, view.row)),
        lambda _: Blocks(gate=lambda view: (view.output > 3, None)),
        lambda _: Blocks(budget=Budget(tokens=lambda view: int(view.output.sum()))),
        lambda _: Blocks(budget=Budget(ranked=True), key=lambda view: (view.output[:],)),
    ],
    ids=["column", "arithmetic", "gate", "method", "ranked"],
)
def test_reading_the_output_without_saying_so(make) -> None:
    refused(Rigged(make), r"reads view\.output, which is hidden unless .* in sees")


def test_declared_output_may_be_read_and_other_mistakes_keep_their_name() -> None:
    @dataclass(frozen=True)
    class Oracle(Rigged):
        sees: ClassVar[frozenset[str]] = frozenset({"output"})

    run = llmq.simulate(CHIP, TRACE, Oracle(lambda _: Blocks(key=lambda v: (v.output, v.row))))
    assert np.isfinite(run.requests.finish).all()
    with pytest.raises(AttributeError, match="outptu"):
        llmq.simulate(CHIP, TRACE, Rigged(lambda _: Blocks(key=lambda v: (v.outptu,))))


# ----------------------------------------------------------------------------- never for ever


def test_waiting_again_and_again_is_ended() -> None:
    def sleepy(_: Rigged) -> Blocks:
        return Blocks(gate=lambda view: (np.zeros(view.row.shape, bool), view.time + 1.0))

    refused(Rigged(sleepy), "served nobody 10000 times in a row, 5 requests present")


def test_evicting_for_ever_is_ended() -> None:
    # Memory for one: each iteration prefers the other request, whose first chunk is then lost.
    def turns(_: Rigged) -> Blocks:
        return Blocks(
            budget=Budget(ranked=True),
            key=lambda view: ((view.row + view.iterations) % 2, view.row),
        )

    chip = CHIP.with_(kv_tokens=160, token_budget=32)
    refused(
        Rigged(turns),
        r"no request got a token in \d+ iterations: evicted again before",
        chip=chip,
        work=llmq.Trace([0.0, 0.0], [100, 100], [5, 5]),
    )


def test_evicting_nothing_is_waiting(monkeypatch) -> None:
    monkeypatch.setattr(
        reference, "plan", lambda view, blocks, chunk: Batch((), (), (), evict=(0,))
    )
    refused(
        Rigged(lambda _: Blocks()),
        "waits with 5 requests present and names no wake-up time",
        simulator="reference",
    )


def test_long_prefills_in_small_pieces_are_no_circle() -> None:
    chip = CHIP.with_(kv_tokens=None, token_budget=1)
    run = llmq.simulate(chip, llmq.Trace([0.0], [12_000], [2]), simulator="reference")
    assert run.n_iterations[0] == 12_001


# -------------------------------------------------------------------------------- hidden state


def counts(policy: Rigged) -> Blocks:
    """Later calls see the notes of earlier ones."""

    def key(view: View):
        policy.notes.append(1)
        return (view.row * (1 if len(policy.notes) % 2 else -1),)

    return Blocks(key=key)


def grows(policy: Rigged) -> Blocks:
    """Changes its mind only after thirty calls, and then for good: two calls in a row agree."""

    def key(view: View):
        policy.notes.append(1)
        return (view.row * (1 if len(policy.notes) < 31 else -1),)

    return Blocks(key=key)


def tosses(_: Rigged) -> Blocks:
    rng = np.random.default_rng(1)
    return Blocks(key=lambda view: (rng.random(len(view.row)),))


def marks(policy: Rigged) -> Blocks:
    def mark(view: View):
        policy.notes.append(1)
        return np.full(view.row.shape, float(len(policy.notes)))

    return Blocks(mark=mark)


@pytest.mark.parametrize("make", [counts, grows, tosses], ids=lambda f: f.__name__)
def test_hidden_state_is_found(make) -> None:
    llmq.simulate(CHIP, TRACE, Rigged(make))  # nothing can be seen from one call at a time
    refused(Rigged(make), "another plan: it keeps hidden state between calls", check=True)


def test_hidden_state_in_marks_is_found() -> None:
    refused(Rigged(marks), "a second call with the same view gives other marks", check=True)


def test_a_policy_that_cannot_be_copied_is_refused() -> None:
    policy = Rigged(lambda _: Blocks())  # a lambda has no name to be found by
    refused(policy, "cannot be copied, a policy is a frozen value", check=True)


# ----------------------------------------------------------------------------- looking again


@pytest.mark.parametrize("kind", policies.ALL, ids=lambda kind: kind.name)
def test_every_policy_passes_with_the_same_trajectory(kind) -> None:
    small = {"quantum": 4, "tbt": 0.2, "max_output": 64}
    policy = kind(token_budget=None, **{k: v for k, v in small.items() if k in kind.__slots__})
    chip = CHIP.with_(kv_tokens=160, token_budget=128)
    trace = llmq.Trace([0.0, 0.0, 0.1, 0.2, 0.2], [40, 60, 20, 33, 5], [40, 3, 60, 8, 1])
    plain = llmq.simulate(chip, trace, policy, simulator="reference")
    seen = llmq.simulate(chip, trace, policy, check=True)
    assert (plain.requests.finish == seen.requests.finish).all()
    assert plain.checks == 0
    assert seen.checks >= 14 * seen.n_iterations.sum()


def test_evictions_and_many_engines_pass() -> None:
    chip = llmq.Engine(LAW, token_budget=64, max_seqs=8, kv_tokens=160, kv_block=4)
    fleet = llmq.Fleet({"a": (chip, 2)})
    traffic = llmq.Workload.poisson(60.0, {"x": llmq.RequestClass(40, 30)})
    policy = policies.Sarathi(watermark=0.0, route=policies.LeastWork())
    run = llmq.simulate(fleet, traffic, policy, replications=2, requests=40, rng=1, check=True)
    assert run.evictions > 0
    both = llmq.simulate(
        fleet, traffic, policy, replications=2, requests=40, rng=1, check=True, workers=2
    )
    assert run.checks == both.checks > 0


FAULTS = [
    (lambda s: setattr(s, "free", s.free + 1), "free and held KV blocks do not make the total"),
    (lambda s: setattr(s, "free", -1), "more KV blocks are held than there are"),
    (lambda s: setattr(s.rows[0], "kv", 4000), "tokens without a KV block"),
    (lambda s: setattr(s.rows[0], "generated", 99), "a request holds more tokens than there are"),
    (lambda s: setattr(s, "clock", -5.0), "time went back"),
    (lambda s: setattr(s.tally, "tokens", 0), "0 tokens processed"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_a_fault_of_the_engine_is_found(fault, message: str) -> None:
    job = Job(CHIP, policies.Sarathi(), [0.0], [8], [9], [0], [0], ("x",))
    server = reference.ReferenceEngine(job, Log.empty(1), Audit(job.policy))
    server.queue.append(0)
    server.advance(0.05)
    fault(server)
    with pytest.raises(InvariantError, match=message) as caught:
        server.audit.ended(server)
    assert caught.value.iteration == server.tally.iterations


def test_request_seconds_that_do_not_add_up_are_found() -> None:
    job = Job(CHIP, policies.Sarathi(), [0.0], [8], [9], [0], [0], ("x",))
    server = reference.ReferenceEngine(job, Log.empty(1), Audit(job.policy))
    server.queue.append(0)
    server.advance(0.05)
    server.tally.presence += 0.001
    with pytest.raises(InvariantError, match="request-seconds were summed, the requests spent"):
        server.advance(float("inf"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulator": "calendar"}, "check=True looks at the reference simulator"),
        ({"simulator": "vector"}, "got simulator='vector': leave out one"),
        ({"record": "summary"}, "check=True reports how much was checked"),
    ],
)
def test_what_cannot_be_checked(options, message: str) -> None:
    with pytest.raises(llmq.InputError, match=re.escape(message)):
        llmq.simulate(CHIP, WORK, check=True, requests=10, **options)


def test_ask_once_per_look(monkeypatch) -> None:
    # Four plans an iteration with an audit, one without.
    for check, times in ((False, 1), (True, 4)):
        calls = itertools.count()

        def spy(view: View, blocks: Blocks, chunk: int, calls=calls) -> Batch:
            next(calls)
            return plan(view, blocks, chunk)

        monkeypatch.setattr(reference, "plan", spy)
        run = llmq.simulate(CHIP, TRACE, simulator="reference", check=check)
        assert next(calls) == times * run.n_iterations[0]
