"""Agents against ``simulate``, the simulators of a station against each other, and a naive loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.model.agents import Agent, AgentTrace, AgentWorkload, Call, call_class
from llmq.policies.priority import Priority
from llmq.sim.agents import simulate_agents
from llmq.sim.agents._window import can_window

# Dyadic coefficients: sums of times are exact, so all simulators must agree to the last bit.
LAWS = {
    "unit": llmq.BatchTime.affine(base=1.0, per_token=0.0),
    "sloped": llmq.BatchTime.affine(base=0.5, per_token=0.03125, per_kv=0.0009765625),
}
EVENTS = ("release", "prefill_end", "first_token", "finish")
SUMS = ("iterations", "tokens", "kv_area", "busy", "clock")
CHOICES = {"quantum": 4, "tbt": 0.2, "max_output": 32, "tile": 8}


@pytest.mark.parametrize("kind", policies.ALL, ids=lambda kind: kind.name)
def test_agents_of_one_call_are_requests(kind):
    fields = {name: x for name, x in CHOICES.items() if name in kind.__slots__}
    policy = kind(**fields)
    chip = llmq.Engine(
        llmq.BatchTime.affine(base=0.01, per_token=1e-4, per_kv=1e-7),
        token_budget=64,
        max_seqs=8,
        kv_tokens=1280,
    )
    mix = {
        "x": llmq.RequestClass(llmq.Lengths.uniform(2, 60), llmq.Lengths.uniform(1, 30)),
        "y": llmq.RequestClass(20, llmq.Lengths.uniform(1, 9)),
    }
    rates = {"x": 8.0, "y": 5.0}
    agents = {name: Agent({name: Call("only", one)}) for name, one in mix.items()}
    work = AgentWorkload.poisson(rates, agents)
    options = {"rng": 11, "replications": 2, "simulator": "reference"}
    run = simulate_agents({"only": chip}, work, policy, agents=150, **options)
    asked = llmq.simulate(chip, llmq.Workload.poisson(rates, mix), policy, requests=150, **options)
    run.check()
    assert np.array_equal(run.arrival, asked.requests.arrival)
    for name in EVENTS[1:]:
        assert np.array_equal(getattr(run, name)[:, :, 0], getattr(asked.requests, name)), name
    assert [row[0] for row in run.tallies] == [row[0] for row in asked.tallies]
    # Requests are measured by the relaxation time of their engine; agents have no such law (yet):
    # a tenth of the path and MSER-5. So the windows differ, the loads and all sojourns do not.
    assert run.verdict.load == asked.verdict.load
    times = asked.requests
    assert np.array_equal(run.finish[:, :, 0] - run.arrival, times.finish - times.arrival)


def test_agents_of_one_call_are_requests_in_the_calendar_too():
    # Dyadic times: iterations one by one and jumps over many have the same sums.
    chip = llmq.Engine(LAWS["sloped"], token_budget=32)
    trace = llmq.Trace(np.arange(200) * 2.5, np.arange(200) % 37 + 3, np.arange(200) % 11 + 1)
    agents = {"x": Agent.chain(("only", llmq.RequestClass(1, 1)))}
    drawn = AgentTrace.draw(agents, trace.arrival, trace.klass)
    same = dataclasses.replace(
        drawn, prompt=trace.prompt[:, None].copy(), output=trace.output[:, None].copy()
    )
    run = simulate_agents({"only": chip}, same, simulator="calendar")
    asked = llmq.simulate(chip, trace, simulator="calendar")
    for name in EVENTS[1:]:
        assert np.array_equal(getattr(run, name)[:, :, 0], getattr(asked.requests, name)), name
    assert [getattr(run.tallies[0][0], name) for name in SUMS] == [
        getattr(asked.tallies[0][0], name) for name in SUMS
    ]


@st.composite
def networks(draw, *, law=None):
    """Up to three kinds of agents on up to three stations, on a grid of times."""
    stations = "abc"[: draw(st.integers(1, 3))]
    agents = {}
    for name in "xyz"[: draw(st.integers(1, 3))]:
        calls: dict[str, Call] = {}
        for c in range(draw(st.integers(1, 4))):
            after = draw(st.sets(st.sampled_from(sorted(calls)), max_size=2)) if calls else ()
            hop = llmq.RequestClass(draw(st.integers(1, 12)), draw(st.integers(1, 6)))
            pause = draw(st.sampled_from([0.0, 0.0, 1.0, 3.0]))
            calls[f"c{c}"] = Call(draw(st.sampled_from(stations)), hop, tuple(sorted(after)), pause)
        agents[name] = Agent(calls)
    n = draw(st.integers(1, 25))
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 2, 9]), min_size=n, max_size=n))
    kinds = draw(st.lists(st.integers(0, len(agents) - 1), min_size=n, max_size=n))
    trace = AgentTrace.draw(agents, np.cumsum(gaps), kinds)
    engines = {}
    for station in stations:
        chosen = law or draw(st.sampled_from(sorted(LAWS)))
        engines[station] = llmq.Engine(
            LAWS[chosen],
            token_budget=draw(st.integers(12, 24)),
            conventions=draw(st.sampled_from([llmq.ENGINE, llmq.THEORY])),
            prefill_chunk=draw(st.sampled_from([None, 3])) if law is None else None,
            max_seqs=draw(st.sampled_from([None, 16])) if law is None else None,
        )
    return engines, trace


def orders(agents):
    """Policies that the window knows."""
    return (
        policies.Sarathi(),
        policies.Orca(),
        Priority.exit_first(agents),
        Priority.entry_first(agents),
    )


@given(networks(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_simulators_of_a_station_give_one_trajectory(network, which):
    engines, trace = network
    policy = orders(trace.agents)[which]
    slow = simulate_agents(engines, trace, policy, simulator="reference")
    slow.check()
    assert all(can_window(policy, one) for one in engines.values())
    ways = ["window", "auto"]
    # Slots of the theory are places of a batch: there decodes need not advance together.
    ways += ["calendar"] if which < 2 and all(e.max_seqs is None for e in engines.values()) else []
    for way in ways:
        fast = simulate_agents(engines, trace, policy, simulator=way)
        for name in EVENTS:
            assert np.array_equal(getattr(fast, name), getattr(slow, name), equal_nan=True), name
        for mine, theirs in zip(fast.tallies[0], slow.tallies[0], strict=True):
            assert [getattr(mine, x) for x in SUMS] == [getattr(theirs, x) for x in SUMS]
        for station in engines:
            for mine, theirs in zip(fast.backlog(station), slow.backlog(station), strict=True):
                assert np.array_equal(mine, theirs)


def naive(engines, trace, rank):
    """Time step by time step on iterations of one second: when each call ends.

    Each station keeps its calls in the order in which they came; ``rank`` puts classes first.
    """
    n, kinds = len(trace), list(trace.agents.items())
    end: dict[tuple[int, int], float] = {}
    here = {station: [] for station in engines}
    sent: set[tuple[int, int]] = set()
    total = int(trace.made.sum())
    for now in range(10_000):
        if len(end) == total:
            return end
        for i in range(n):
            name, agent = kinds[trace.klass[i]]
            names = list(agent.calls)
            for c, call in enumerate(agent.calls.values()):
                before = [end.get((i, names.index(b)), np.inf) for b in call.after]
                ready = max([float(trace.arrival[i]), *before]) + trace.pause[i, c]
                if (i, c) not in sent and ready <= now:
                    sent.add((i, c))
                    extra = engines[call.station].conventions.lag
                    row = {
                        "id": (i, c),
                        "class": call_class(name, names[c]),
                        "came": (ready, i, c),
                        "prompt": call.request.prompt.low,
                        "wait": extra,
                        "decodes": call.request.output.low - 1 + extra,
                    }
                    row["new"] = True
                    here[call.station].append(row)
        for station, rows in here.items():
            left = engines[station].token_budget
            group = {True: 2, False: 1}
            rows.sort(
                key=lambda r: (
                    rank(r["class"]),
                    0 if not r["prompt"] else group[r["new"]],
                    r["came"],
                )
            )
            for row in rows:
                take = min(row["prompt"] or 1, left)
                left -= take
                row["took"] = take
            for row in list(rows):
                if not row["took"]:
                    continue
                if row["prompt"]:
                    row["prompt"] -= row["took"]
                    row["new"] = False
                else:
                    row["decodes"] -= 1
                if not row["prompt"] and not row["decodes"]:
                    end[row["id"]] = now + 1.0
                    rows.remove(row)
    raise AssertionError("agents never end")


@given(networks(law="unit"), st.sampled_from(["sarathi", "exit", "entry"]))
@settings(max_examples=60, deadline=None)
def test_a_naive_loop_ends_every_call_at_the_same_time(network, which):
    engines, trace = network
    agents = trace.agents
    policy = {
        "sarathi": policies.Sarathi(),
        "exit": Priority.exit_first(agents),
        "entry": Priority.entry_first(agents),
    }[which]
    classes = getattr(policy, "classes", ())
    run = simulate_agents(engines, trace, policy)
    found = naive(engines, trace, lambda name: classes.index(name) if classes else 0)
    for (i, c), time in found.items():
        assert run.finish[0, i, c] == time
