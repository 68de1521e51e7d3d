"""MaxWeight by totals gives the trajectory of the reference, token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq.optimality.networks import draw_network
from llmq.policies import MaxWeight, Random, Sarathi, ShortestQueue
from llmq.sim import _dispatch as dispatch
from llmq.sim._fast.pressure import fits

SUMS = ("iterations", "tokens", "kv_area", "clock", "last")


def trace_of(network, load: float, requests: int, first: int, seed: int) -> llmq.Trace:
    run = llmq.simulate(network.engine, network.at(load, first=first), requests=requests, rng=seed)
    columns = run.requests.arrival, run.prompt, run.requests.output
    return llmq.Trace(*(column[0] for column in columns))


def agree(engine, trace, policy=None, **fields) -> None:
    fast, slow = (
        llmq.simulate(
            engine, trace, policy or MaxWeight(), record="tokens", simulator=name, rng=1, **fields
        )
        for name in ("auto", "reference")
    )
    for name in ("prefill_end", "first_token", "finish", "token_times"):
        assert getattr(fast.requests, name).tolist() == getattr(slow.requests, name).tolist(), name
    for mine, theirs in zip(fast.tallies[0], slow.tallies[0], strict=True):
        for name in SUMS:
            assert getattr(mine, name) == getattr(theirs, name), name
        assert mine.busy == pytest.approx(theirs.busy, rel=1e-12)
        assert mine.presence == pytest.approx(theirs.presence, rel=1e-9)
    fast.check()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many engines the fast one stood for."""
    made: list[int] = []

    class Counted(dispatch.PressureEngine):
        def __init__(self, job, log) -> None:
            made.append(1)
            super().__init__(job, log)

    monkeypatch.setattr(dispatch, "PressureEngine", Counted)
    return made


@settings(max_examples=25)
@given(
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from([llmq.ENGINE, llmq.THEORY]),
    st.sampled_from([0.6, 0.95, 1.2]),
    st.integers(0, 60),
    st.sampled_from([None, 7, 256]),
)
def test_the_trajectory_is_that_of_the_reference(number, odd, conventions, load, first, budget):
    network = draw_network(number, mismatched=odd)
    trace = trace_of(network, load, 80, first, number)
    engine = network.engine.with_(conventions=conventions)
    agree(engine, trace, MaxWeight(token_budget=budget))


def test_a_fleet_with_a_router_that_does_not_look(used):
    network = draw_network(3)
    trace = trace_of(network, 1.5, 120, 10, 3)
    fleet = llmq.Fleet({"a": (network.engine, 2)})
    agree(fleet, trace, MaxWeight(route=Random()))
    assert len(used) == 2
    agree(fleet, trace, MaxWeight(route=ShortestQueue()))
    assert len(used) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"max_seqs": 8},
        {"kv_tokens": 4096},
        {"prefill_chunk": 3},
        {"law": llmq.BatchTime.affine(base=1.0, per_token=0.1, per_kv=1e-3)},
        {"law": llmq.BatchTime.affine(base=1.0, per_token=0.1, per_work=1e-3)},
    ],
)
def test_what_binds_beside_the_budget_is_left_to_the_reference(changes, used):
    network = draw_network(3)
    trace = trace_of(network, 0.8, 40, 5, 3)
    engine = network.engine.with_(**changes)
    assert not fits(MaxWeight(), (engine,), trace)
    agree(engine, trace)
    assert not used


def test_who_is_run():
    network = draw_network(3)
    trace = trace_of(network, 0.8, 10, 5, 3)
    assert fits(MaxWeight(), (network.engine,), trace)
    assert not fits(Sarathi(), (network.engine,), trace)
    hidden = replace(trace, reasoning=trace.output - 1)
    assert not fits(MaxWeight(), (network.engine,), hidden)


def test_outstanding_work():
    from llmq.sim._fast.pressure import PressureEngine
    from llmq.sim.results._log import Job, Log

    # 8 + 2 decodes and 4 + 0: the token that ends a prompt is no work of its own.
    engine = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), 8)
    for conventions, work in ((llmq.ENGINE, 14.0), (llmq.THEORY, 16.0)):
        job = Job(
            engine.with_(conventions=conventions),
            MaxWeight(),
            [0.0, 9.0],
            [8, 4],
            [3, 1],
            [0, 0],
            [0, 0],
        )
        server = PressureEngine(job, Log.empty(2))
        server.queue.extend([0, 1])
        assert server.work(0.0) == work
        server.advance(float("inf"))
        assert server.work(20.0) == 0
