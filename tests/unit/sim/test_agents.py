"""Agents: what is refused, loads by hand, schedules by hand, Little's law, Dai et al. 5.4."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmq
from llmq.errors import InputError, InvariantError, UnstableError
from llmq.model.agents import Agent, AgentTrace, AgentWorkload, Call
from llmq.model.arrivals import Deterministic
from llmq.model.closed import Closed
from llmq.policies import Sarathi
from llmq.policies.priority import Priority
from llmq.result import Kind, from_json, to_json
from llmq.sim.agents import peaks, simulate_agents
from llmq.theory.stability.agents import agent_load, every_policy, is_feed_forward, station_mix
from llmq.theory.stability.agents_case import AgentCase, exit_priority_case

COUNTEREXAMPLES = Path(__file__).parents[3] / "docs" / "counterexamples" / "agents"
ONE = llmq.BatchTime.affine(base=1.0, per_token=0.0)
HOP = llmq.RequestClass(2, 1)


def unit(budget, conventions=llmq.ENGINE):
    return llmq.Engine(ONE, token_budget=budget, conventions=conventions)


TWO = {"a": unit(4), "b": unit(4)}
BOTH = {"x": Agent.chain(("a", HOP), ("b", HOP))}
TILED = llmq.BatchTime.tiled(base=1, per_tile=9, tile=4)


def tree(pause=0.0):
    """One call, two at the same time, and one that needs both."""
    return Agent(
        {
            "plan": Call("a", HOP),
            "left": Call("b", HOP, after=("plan",)),
            "right": Call("b", HOP, after=("plan",)),
            "write": Call("a", HOP, after=("left", "right"), pause=pause),
        }
    )


# ---------------------------------------------------------------------------------- the model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Agent({}), "at least one call"),
        (lambda: Agent({"x": HOP}), r"calls\['x'\] must be a Call"),
        (lambda: Call("a", (2, 1)), "request must be a RequestClass"),
        (lambda: Call("a", HOP, after="plan"), r"write \('plan',\)"),
        (lambda: Call("a", HOP, pause=-1.0), "pause must be >= 0 and finite, got -1"),
        (lambda: Call("a", HOP, pause_cv=float("nan")), "pause_cv must be >= 0"),
        (lambda: Agent({"x": Call("a", HOP, ("plam",)), "plan": Call("a", HOP)}), "mean 'plan'"),
        (lambda: Agent({"x": Call("a", HOP, ("x",))}), "none can start: x -> x"),
        (
            lambda: Agent(
                {
                    "x": Call("a", HOP, ("z",)),
                    "y": Call("a", HOP, ("x",)),
                    "z": Call("a", HOP, ("y",)),
                }
            ),
            "wait for each other and none can start: x -> y -> z -> x",
        ),
        (
            lambda: Agent(
                {
                    "s": Call("a", HOP),
                    "x": Call("a", HOP, ("s", "y")),
                    "y": Call("a", HOP, ("x",)),
                }
            ),
            "wait for each other: x -> y -> x",
        ),
        (lambda: AgentWorkload.poisson(1.0, {}), "at least one kind of agent"),
        (lambda: AgentWorkload.poisson(1.0, {"t": HOP}), r"agents\['t'\] must be an Agent"),
        (lambda: AgentWorkload.poisson(-1.0, {"t": tree()}), "rate must be positive"),
        (lambda: AgentWorkload.poisson({"tee": 1.0}, {"tree": tree()}), "did you mean 'tree'"),
        (lambda: AgentWorkload(Closed(3), {"t": tree()}, {"t": 1.0}), "closed clients"),
        (lambda: AgentTrace.draw({"t": tree()}, [], []), "at least one agent"),
        (lambda: AgentTrace.draw({"t": tree()}, [1.0, 0.0], [0, 0]), "agent 1 does not"),
        (lambda: AgentTrace.draw({"t": tree()}, [0.0], ["u"]), "no kind of agent 'u'"),
        (lambda: AgentTrace.draw({"t": tree()}, [0.0], [1]), "a code from 0 to 0"),
        (lambda: AgentTrace.clockwork({"t": tree()}, {"u": 1.0}, 3.0), "no kind of agent 'u'"),
        (lambda: AgentTrace.clockwork({"t": tree()}, {"t": 1.0}, 0.0), "span must be positive"),
        (lambda: AgentTrace.clockwork({"t": tree()}, {"t": -1.0}, 2.0), "rate of 't' must be >= 0"),
        (lambda: Priority("ab"), "classes must be a tuple"),
        (lambda: Priority(("a", "a")), "each once"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_shapes_of_agents():
    chain = Agent.chain(("a", HOP), ("b", HOP), ("a", HOP), pause=0.5)
    assert chain.is_chain
    assert chain.stations == ("a", "b")
    assert chain.remaining == {"1": 3, "2": 2, "3": 1}
    assert [call.pause for call in chain.calls.values()] == [0.0, 0.5, 0.5]
    assert not tree().is_chain
    assert tree().successors["plan"] == ("left", "right")
    # plan, then write at once or after a look: the longest way counts.
    look = {
        "plan": Call("a", HOP),
        "look": Call("b", HOP, ("plan",)),
        "write": Call("a", HOP, ("plan", "look")),
    }
    assert Agent(look).remaining == {"plan": 3, "look": 2, "write": 1}
    two_roots = Agent({"x": Call("a", HOP), "y": Call("a", HOP)})
    assert not two_roots.is_chain
    assert Call("a", HOP, ("x", "x")).after == ("x",)
    assert not is_feed_forward({"t": tree()})  # back to a
    forward = Agent({**tree().calls, "write": Call("c", HOP, ("left", "right"))})
    assert is_feed_forward({"t": forward})
    assert is_feed_forward({"x": Agent.chain(("a", HOP), ("a", HOP), ("b", HOP))})


def test_agents_of_one_call_are_the_requests_of_a_workload():
    kinds = {
        "x": llmq.RequestClass(llmq.Lengths.uniform(3, 9), llmq.Lengths.uniform(1, 5)),
        "y": llmq.RequestClass(7, llmq.Lengths.uniform(1, 50)),
    }
    agents = {name: Agent.chain(("s", kind)) for name, kind in kinds.items()}
    drawn = AgentWorkload.poisson({"x": 2.0, "y": 1.0}, agents).sample(200, rng=5)
    asked = llmq.Workload.poisson({"x": 2.0, "y": 1.0}, kinds).sample(200, rng=5)
    for name in ("arrival", "klass"):
        assert np.array_equal(getattr(drawn, name), getattr(asked, name))
    for name in ("prompt", "output", "reasoning"):
        assert np.array_equal(getattr(drawn, name)[:, 0], getattr(asked, name))


def test_what_a_workload_draws():
    agents = {"tree": tree(), "one": Agent.chain(("a", HOP), ("b", HOP))}
    work = AgentWorkload.poisson(4.0, agents, {"tree": 3.0, "one": 1.0})
    assert work.rates == {"tree": 3.0, "one": 1.0}
    assert work.at_rate(8.0).rates == {"tree": 6.0, "one": 2.0}
    trace = work.sample(4000, rng=1)
    assert trace.rates["tree"] == pytest.approx(3.0, rel=0.06)
    assert np.array_equal(trace.made.sum(axis=1), np.where(trace.klass == 0, 4, 2))
    assert np.all(trace.prompt[trace.made] == 2)
    assert np.all(trace.prompt[~trace.made] == 0)
    wild = Agent({"x": Call("a", HOP, pause=2.0, pause_cv=1.0), "y": Call("a", HOP, pause=2.0)})
    drawn = AgentWorkload.poisson(1.0, {"w": wild}).sample(4000, rng=1)
    assert np.all(drawn.pause[:, 1] == 2.0)
    assert drawn.pause[:, 0].mean() == pytest.approx(2.0, rel=4 / 4000**0.5)
    assert drawn.pause[:, 0].std() == pytest.approx(2.0, rel=0.1)


def test_clockwork_has_no_noise():
    agents = {"x": Agent.chain(("a", HOP)), "y": Agent.chain(("b", HOP))}
    trace = AgentTrace.clockwork(agents, {"x": 2.0, "y": 1.0}, 2.0, first={"y": 2})
    assert trace.arrival.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0]
    assert trace.klass.tolist() == [1, 1, 0, 0, 1, 0, 0, 1]
    assert "8 agents (x, y) in 2 s, 8 calls" in repr(trace)


# --------------------------------------------------------------------------------- the theory


def test_loads_by_hand():
    # Full iterations of 10 tokens in 1 s. A call of 2 + 1 tokens takes 2 under the engine
    # convention (its first token comes with the prompt). Tree: 2 calls at a, 2 at b, 4 tokens each.
    agents = {"tree": tree(), "there": Agent.chain(("b", llmq.RequestClass(12, 4)))}
    found = agent_load(agents, {"a": unit(10), "b": unit(10)}, {"tree": 0.5, "there": 0.4})
    assert found.stations["a"] == pytest.approx((0.2, 0.2), rel=1e-12)
    assert found.stations["b"] == pytest.approx((0.2 + 0.4 * 1.5,) * 2, rel=1e-12)
    assert (found.bottleneck, found.binding, found.kind) == ("b", "tokens", Kind.EXACT)
    assert found.margin == pytest.approx(1.25)
    assert not found.feed_forward
    assert str(found) == "load 0.8 at b (tokens binds); a 0.2, b 0.8"
    assert station_mix(agents, "b").keys() == {"tree.left", "tree.right", "there.1"}


def test_a_station_that_nobody_visits_has_no_load():
    found = agent_load({"x": Agent.chain(("a", HOP))}, {"a": unit(4), "b": unit(4)}, {"x": 1.0})
    assert found.stations == {"a": (0.5, 0.5), "b": (0.0, 0.0)}
    nothing = agent_load({"x": Agent.chain(("a", HOP))}, {"a": unit(4)}, {"x": 0.0})
    assert (nothing.load, nothing.binding, nothing.margin) == (0.0, "nothing", float("inf"))


def test_a_bracket_stays_a_bracket():
    small = llmq.Engine(ONE, token_budget=64, max_seqs=5, kv_tokens=240)
    agents = {"x": Agent.chain(("a", llmq.RequestClass(40, 20)), ("b", HOP))}
    found = agent_load(agents, {"a": small, "b": unit(64)}, {"x": 0.1})
    assert found.kind is Kind.OUTER_BOUND
    mix = station_mix(agents, "a")
    assert found.stations["a"] == llmq.stability_region(small, mix).load_bracket({"x.1": 0.1})
    assert found.load < found.load_inner


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.integers(1, 9)),
        min_size=1,
        max_size=6,
    ),
    st.floats(0.01, 2),
)
def test_the_load_is_the_work_of_every_call_once(hops, rate):
    agent = Agent.chain(*((s, llmq.RequestClass(p, o)) for s, p, o in hops))
    found = agent_load({"x": agent}, {"a": unit(8), "b": unit(5)}, {"x": rate})
    for station, budget in (("a", 8), ("b", 5)):
        tokens = sum(p + o - 1 for s, p, o in hops if s == station)
        assert found.stations[station][0] == pytest.approx(rate * tokens / budget, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: agent_load({"x": Agent.chain(("c", HOP))}, TWO, {"x": 1}), "'x.1' goes to"),
        (lambda: agent_load({"x": tree()}, TWO, {"y": 1}), "unknown class"),
        (lambda: agent_load({"x": tree()}, TWO, {"x": -1}), ">= 0"),
        (lambda: every_policy({"x": tree()}, TWO, {"x": 0.1}), "forks"),
        (
            lambda: every_policy({"x": Agent.chain(("a", HOP))}, TWO, {"x": 0.1}),
            "for two stations, got 1",
        ),
        (
            lambda: every_policy(BOTH, TWO | {"b": unit(4).with_(kv_tokens=64)}, {"x": 0.1}),
            "station 'b': the programme is for engines without limits",
        ),
        (
            lambda: every_policy(BOTH, TWO | {"b": llmq.Engine(TILED, 5)}, {"x": 0.01}),
            "a batch of 4 tokens serves more per second than a full one of 5",
        ),
    ],
)
def test_what_the_theory_does_not_cover_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


@pytest.mark.parametrize(
    ("budget", "first", "second", "epsilon"),
    [
        (20, (1, 1), (7, 1), Fraction(1, 12)),
        (100, (5, 5), (48, 1), Fraction(1, 147)),
        (100, (50, 5), (40, 4), Fraction(1, 286)),
        (100, (5, 5), (50, 1), Fraction(0)),
    ],
)
def test_the_programme_gives_the_values_of_o15(budget, first, second, epsilon):
    hops = llmq.RequestClass(*first), llmq.RequestClass(*second)
    agents = {x + y: Agent.chain((x, hops[0]), (y, hops[1])) for x, y in ("ab", "ba")}
    chips = dict.fromkeys("ab", unit(budget, llmq.THEORY))
    found = every_policy(agents, chips, dict.fromkeys(agents, 1))
    assert found.epsilon == epsilon
    assert found.classes == ("ab.1", "ab.2", "ba.1", "ba.2")


def test_dais_case_is_exact_and_can_be_kept():
    case = exit_priority_case()
    assert (case.growth, case.critical_load) == (Fraction(153, 37), Fraction(19, 34))
    assert agent_load(case.agents, case.engines, case.rates).stations["b"] == pytest.approx(
        (0.9, 0.9), rel=1e-12
    )
    assert case.lyapunov.epsilon == 0  # some work-conserving policy is not stable
    below = exit_priority_case(load=Fraction(19, 34) - Fraction(1, 100))
    assert below.growth < 1
    assert below.lyapunov.epsilon > 0  # every one is
    text = to_json(case, indent=1)
    assert (COUNTEREXAMPLES / "exit-priority.json").read_text(encoding="utf-8") == text + "\n"
    again = from_json(AgentCase, text)
    assert to_json(again, indent=1) == text
    assert (again.growth, again.rates, again.agents) == (case.growth, case.rates, case.agents)


def test_conventions_change_the_case():
    # One token less for each hop: rho at the same rate, and the growth, follow from 63 and 543.
    case = exit_priority_case()
    chips = {name: one.with_(conventions=llmq.ENGINE) for name, one in case.engines.items()}
    found = agent_load(case.agents, chips, case.rates)
    assert found.load == pytest.approx(0.9 * (63 + 543) / 608, rel=1e-12)


# -------------------------------------------------------------------------- schedules by hand


def ends(engines, agents, arrival, klass, policy=None, **options):
    trace = AgentTrace.draw(agents, arrival, klass)
    run = simulate_agents(engines, trace, policy, **options)
    run.check()
    return run


@pytest.mark.parametrize("engine", ["auto", "calendar", "window", "reference"])
def test_a_chain_by_hand(engine):
    # Budget 4, iterations of 1 s. Station a:
    #   [0,1] agent 0 prompt 4                    [3,4] agent 1 decode, agent 2 prompt 3 -> 1 ends
    #   [1,2] agent 0 decode, agent 1 prompt 3    [4,5] agent 2 prompt 1
    #   -> agent 0 ends at 2                      [5,6] agent 2 decode -> ends
    #   [2,3] agent 1 prompt 1
    # Station b serves each at once: 2-3, 4-5, 6-7.
    agents = {"x": Agent.chain(("a", llmq.RequestClass(4, 2)), ("b", HOP))}
    chips = {"a": unit(4), "b": unit(4)}
    run = ends(chips, agents, [0.0, 0.0, 2.5], [0] * 3, simulator=engine)
    assert run.finish[0].tolist() == [[2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert run.prefill_end[0, :, 0].tolist() == [1.0, 3.0, 5.0]
    assert run.release[0, :, 1].tolist() == [2.0, 4.0, 6.0]
    assert run.e2e.values.tolist() == [[3.0, 5.0, 4.5]]
    assert run.metric("ttft", agent="x", call="1").values.tolist() == [[1.0, 3.0, 2.5]]
    assert run.metric("tpot", agent="x", call="1").values.tolist() == [[1.0, 1.0, 1.0]]
    # Station a owes 10 tokens at 0, 6 at 1, 2 at 2, 1 + 5 new ones from 2.5, 5 at 3, ...
    time, tokens = run.backlog("a")
    assert time.tolist() == [0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0]
    assert tokens.tolist() == [10.0, 6.0, 2.0, 7.0, 6.0, 2.0, 1.0, 0.0]
    time, tokens = run.backlog("b", future=True)
    assert dict(zip(time, tokens, strict=True)) == {
        0.0: 4.0,
        2.5: 6.0,
        3.0: 4.0,
        5.0: 2.0,
        7.0: 0.0,
    }
    time, count = run.queue("x", "2")
    assert time.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert count.tolist() == [1.0, 0.0] * 3
    assert run.present()[1].tolist() == [2.0, 3.0, 2.0, 1.0, 0.0]
    assert run.utilisation == pytest.approx({"a": 6 / 7, "b": 3 / 7})


@pytest.mark.parametrize("engine", ["auto", "calendar", "window", "reference"])
def test_a_fork_and_a_join_by_hand(engine):
    # Budget 2, so a call an iteration. a: plan 0 [0,1], plan 1 [1,2]. b: left 0 [1,2], right 0
    # [2,3], left 1 [3,4], right 1 [4,5]. Half a second later a writes: [3.5,4.5] and [5.5,6.5].
    agents = {"t": tree(pause=0.5)}
    run = ends({"a": unit(2), "b": unit(2)}, agents, [0.0, 0.0], ["t", "t"], simulator=engine)
    assert run.finish[0].tolist() == [[1.0, 2.0, 3.0, 4.5], [2.0, 4.0, 5.0, 6.5]]
    assert run.release[0].tolist() == [[0.0, 1.0, 1.0, 3.5], [0.0, 2.0, 2.0, 5.5]]
    assert run.end.tolist() == [[4.5, 6.5]]


@pytest.mark.parametrize("engine", ["calendar", "reference"])
def test_a_join_waits_for_the_slowest_by_hand(engine):
    # plan [0,1] at a; left [1,4] at b, whose iterations take 3 s; right [2,3] at c after a second's
    # pause, so it starts later and ends earlier; write at 4.
    chips = {
        "a": unit(2),
        "b": llmq.Engine(llmq.BatchTime.affine(base=3.0, per_token=0.0), 2),
        "c": unit(2),
    }
    calls = {**tree().calls, "right": Call("c", HOP, after=("plan",), pause=1.0)}
    run = ends(chips, {"t": Agent(calls)}, [0.0], [0], simulator=engine)
    assert run.finish[0].tolist() == [[1.0, 4.0, 3.0, 5.0]]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Calls: 0.1 [0,1] in any case. Exit first: 0.2, 1.1, 1.2, 2.1, 2.2.
        (lambda a: Priority.exit_first(a), [2.0, 4.0, 6.0]),
        # Entry first: 1.1, 2.1 (came at 1.5), 0.2, 1.2, 2.2.
        (lambda a: Priority.entry_first(a), [4.0, 5.0, 6.0]),
        # First come first served: 1.1, 0.2 (sent at 1), 2.1 (1.5), 1.2 (2), 2.2.
        (lambda a: Sarathi(), [3.0, 5.0, 6.0]),
        (lambda a: Priority(), [3.0, 5.0, 6.0]),
    ],
)
def test_orders_by_hand(policy, expected):
    agents = {"x": Agent.chain(("a", HOP), ("a", HOP))}
    run = ends({"a": unit(2)}, agents, [0.0, 0.0, 1.5], [0] * 3, policy(agents))
    assert run.end[0].tolist() == expected


def test_the_lower_class_fills_what_the_higher_leaves():
    # Budget 4. high decodes (1 token), so low takes 3 of its 6 prompt tokens beside it.
    agents = {
        "high": Agent.chain(("a", llmq.RequestClass(4, 3))),
        "low": Agent.chain(("a", llmq.RequestClass(6, 1))),
    }
    run = ends({"a": unit(4)}, agents, [0.0, 0.0], ["low", "high"], Priority(("high.1",)))
    # [0,1] high's prompt, [1,2] and [2,3] its decodes with 3 + 3 tokens of low.
    assert run.end[0].tolist() == [3.0, 3.0]


def test_a_policy_for_each_station():
    agents = {"x": Agent.chain(("a", HOP), ("a", HOP), ("b", HOP))}
    chips = {"a": unit(2), "b": unit(2)}
    both = {"a": Priority.exit_first(agents), "b": Sarathi(token_budget=64)}
    run = ends(chips, agents, [0.0, 0.0], [0, 0], both)
    assert run.policies == {"a": "priority", "b": "sarathi"}
    assert run.engines["b"].token_budget == 64
    assert run.end[0].tolist() == [3.0, 5.0]


def test_a_call_sent_at_a_boundary_takes_part():
    # b is busy [0,1], [1,2] with its own agent; the call sent to it at 1 starts at 1, beside it.
    agents = {
        "x": Agent.chain(("a", HOP), ("b", HOP)),
        "y": Agent.chain(("b", llmq.RequestClass(2, 3))),
    }
    for engine in ("calendar", "reference"):
        run = ends({"a": unit(4), "b": unit(4)}, agents, [0.0, 0.0], ["x", "y"], simulator=engine)
        assert run.end[0].tolist() == [2.0, 3.0]


# ------------------------------------------------------------------------- what is said of runs


def stream(rate, kinds, **options):
    chips = {"a": unit(16), "b": unit(16)}
    return simulate_agents(chips, AgentWorkload.poisson(rate, kinds), rng=3, **options)


@pytest.mark.parametrize("engine", ["window", "reference"])
def test_littles_law_for_agents(engine):
    hop = llmq.RequestClass(llmq.Lengths.uniform(2, 9), llmq.Lengths.uniform(1, 6))
    agents = {"x": Agent.chain(("a", hop), ("b", hop), ("a", hop), pause=0.75)}
    run = stream(0.5, agents, agents=400, simulator=engine)
    run.check()
    time, count = run.present()
    area = float(np.sum(np.diff(time) * count[:-1]))
    stay = float((run.end - run.arrival).sum())
    assert area == pytest.approx(stay, rel=1e-12)
    # In a chain an agent is in a call or in a pause; stations sum the first while they run.
    counted = sum(tally.presence for tally in run.tallies[0])
    assert counted + float(run.pause.sum()) == pytest.approx(stay, rel=1e-12)


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_work_conserving_policies_carry_what_the_loads_allow(shape):
    long = llmq.RequestClass(24, 8)
    agents = {
        "chain": {"x": Agent.chain(("a", long), ("b", long))},
        "tree": {
            "x": Agent(
                {
                    "plan": Call("a", long),
                    "left": Call("b", llmq.RequestClass(10, 6), ("plan",)),
                    "right": Call("b", llmq.RequestClass(12, 5), ("plan",)),
                    "more": Call("b", llmq.RequestClass(1, 1), ("left", "right")),
                }
            )
        },
    }[shape]
    assert is_feed_forward(agents)
    full = 1 / agent_load(agents, {"a": unit(16), "b": unit(16)}, {"x": 1.0}).load
    calm = stream(0.9 * full, agents, replications=6, agents=3000)
    assert calm.verdict.status == "stable"
    calm.check()
    loud = stream(1.05 * full, agents, replications=6, agents=3000)
    assert loud.verdict.status == "overloaded"
    with pytest.raises(UnstableError, match=r"mean E2E does not exist: load 1\.05 > 1"):
        _ = loud.e2e
    # The bottleneck answers at most 1 / 1.05 of the agents, whatever the policy does.
    most = 1.05 * full * (1 - 1 / 1.05)
    assert loud.verdict.growth.low < most < loud.verdict.growth.high
    assert loud.metric(allow_unstable=True).mean > 3 * calm.e2e.mean
    assert "overloaded, load 1.05" in repr(loud)
    assert "stable, load 0.9" in repr(calm)


def test_workers_do_not_change_the_result():
    agents = {"x": Agent.chain(("a", HOP), ("b", HOP))}
    seen = []
    one = stream(2.0, agents, replications=3, agents=50)
    two = stream(
        2.0,
        agents,
        replications=3,
        agents=50,
        workers=map,
        progress=lambda *done: seen.append(done),
    )
    assert np.array_equal(one.finish, two.finish)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert not np.array_equal(one.finish[0], one.finish[1])


def test_b6_an_interrupt_is_passed_on():
    def stop(done, n):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(2.0, BOTH, replications=5, agents=30, progress=stop)


def test_windows_of_measurement():
    agents = {"x": Agent.chain(("a", HOP), ("b", HOP))}
    run = stream(2.0, agents, agents=300, replications=2)
    assert run.measured[0] >= 30
    assert stream(2.0, agents, agents=50, warmup=7).measured == (7, 50)
    kinds = {"x": agents["x"], "y": Agent.chain(("a", HOP))}
    mixed = stream(2.0, kinds, agents=300, replications=2)
    assert mixed.metric(agent="y").mean < mixed.metric(agent="x").mean
    assert np.isnan(mixed.metric("ttft", agent="x", call="2").values).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c, w: simulate_agents(c, "work"), "must be an AgentWorkload"),
        (lambda c, w: simulate_agents(c, w, replications=0), "replications must be at least 1"),
        (lambda c, w: simulate_agents(c, w, agents=0), "agents must be at least 1"),
        (lambda c, w: simulate_agents(c, w.sample(3, 1), replications=2), "a trace is one path"),
        (lambda c, w: simulate_agents(c, w, simulator="vector"), "simulator must be 'auto' or"),
        (lambda c, w: simulate_agents({"a": c["a"]}, w), "unknown station 'b'"),
        (lambda c, w: simulate_agents(c, w, {"a": Sarathi()}), "station 'b' has no policy"),
        (lambda c, w: simulate_agents(c, w, {"c": Sarathi()}), "policy for unknown station 'c'"),
        (
            lambda c, w: simulate_agents(c | {"a": c["a"].with_(prefix_cache=True)}, w),
            "station 'a' finds cached blocks again",
        ),
        (lambda c, w: simulate_agents(c, w, warmup=2000), "leave at least one of the 2000"),
        (lambda c, w: simulate_agents(c, w, warmup="none", agents=9), "number of agents or 'auto'"),
        (lambda c, w: simulate_agents(c, w, agents=9).metric("itl"), "no metric 'itl'"),
        (lambda c, w: simulate_agents(c, w, agents=9).metric("ttft"), "name agent= and call="),
        (lambda c, w: simulate_agents(c, w, agents=9).metric(call="1"), "Name agent= too"),
        (lambda c, w: simulate_agents(c, w, agents=9).metric(agent="z"), "no kind of agent 'z'"),
        (
            lambda c, w: simulate_agents(c, w, agents=9).metric(agent="x", call="3"),
            "makes no call '3'",
        ),
        (lambda c, w: simulate_agents(c, w, agents=9).backlog("c"), "no station 'c'"),
        (lambda c, w: simulate_agents(c, w, agents=9).present(replication=1), "from 0 to 0, got 1"),
    ],
)
def test_unusable_arguments_of_a_simulation(call, words):
    chips = {"a": unit(16), "b": unit(16)}
    work = AgentWorkload(Deterministic(0.5), {"x": Agent.chain(("a", HOP), ("b", HOP))}, {"x": 1.0})
    with pytest.raises(InputError, match=words):
        call(chips, work)


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("release", 0.25, "was not sent when it was ready"),
        ("finish", -5.0, "events out of order"),
        ("prompt", 1, "processed"),
    ],
)
def test_the_check_sees(field, change, words):
    agents = {"x": Agent.chain(("a", HOP), ("b", HOP))}
    run = ends({"a": unit(2), "b": unit(2)}, agents, [0.0, 0.0], [0, 0])
    table = getattr(run, field).copy()
    table[0, 1, 1] += change
    object.__setattr__(run, field, table)
    with pytest.raises(InvariantError, match=words):
        run.check()


def test_peaks():
    time = np.arange(9.0)
    level = np.array([1.0, 9.0, 8.0, 2.0, 3.0, 9.0, 36.0, 8.0, 40.0])
    when, high = peaks(time, level)
    assert (when.tolist(), high.tolist()) == ([1.0, 6.0], [9.0, 36.0])
    assert peaks(time, level, fall=0.1)[0].tolist() == []
    with pytest.raises(InputError, match="share of a peak"):
        peaks(time, level, fall=1.5)


# ------------------------------------------------------------------------ Dai et al. section 5.4


DAI = 768, (32, 32), (512, 32)


def swing(load, waiting, span, make, hops=DAI):
    """Dai's network from a queue of first hops at station a, without noise."""
    case = exit_priority_case(*hops, load=load)
    rates = {name: float(rate) for name, rate in case.rates.items()}
    trace = AgentTrace.clockwork(case.agents, rates, span, first={"ab": waiting})
    run = simulate_agents(case.engines, trace, make(case.agents))
    heights = []
    for station in case.engines:
        time, tokens = run.backlog(station)
        # Neither the queue at the start nor the work of some iterations is a swing.
        pairs = zip(*peaks(time, tokens), strict=True)
        heights += [(t, x) for t, x in pairs if 1.0 < t <= span and x > 15 * hops[0]]
    return case, run, [x for _, x in sorted(heights)]


def test_exit_priority_swings_as_the_theory_says():
    # 85 thousand, 340 thousand and 1.4 million tokens in the paper's figure.
    case, run, high = swing(Fraction(9, 10), 150, 4000.0, Priority.exit_first)
    run.check()
    assert len(high) == 3
    assert high == pytest.approx([85e3, 340e3, 1.4e6], rel=0.04)
    # A queue Q is drained by the other station in T = Q m2 / (1 - rate m2) iterations in the fluid,
    # where calls take no time by themselves; here they take 33 iterations, a share 33 / T.
    work = Fraction(544, 768)
    rate, queue = case.rates["ab"], Fraction(150)
    for low, tall in itertools.pairwise(high):
        drain = queue * work / (1 - rate * work)
        assert tall / low == pytest.approx(float(case.growth), rel=33 / float(drain))
        queue = rate * drain
    assert high[2] / high[1] == pytest.approx(153 / 37, rel=0.015)
    assert run.verdict.status == "overloaded"
    assert "this policy does not carry it" in run.verdict.sentence


@pytest.mark.parametrize(
    ("hops", "load", "took"),
    [((60, (5, 1), (41, 1)), Fraction(9, 10), 2), ((50, (3, 2), (30, 5)), Fraction(4, 5), 3)],
)
def test_short_calls_come_nearer_to_the_theory(hops, load, took):
    case, _, high = swing(load, 100, 1800.0, Priority.exit_first, hops)
    assert len(high) == 3
    work, growth = Fraction(sum(hops[2]), hops[0]), float(case.growth)
    queue = Fraction(100)
    for low, tall in itertools.pairwise(high):
        drain = queue * work / (1 - case.rates["ab"] * work)
        # A first hop takes so many iterations: the drain ends earlier, and so its arrivals too.
        assert tall / low == pytest.approx(growth, rel=(1 + growth) * took / float(drain))
        queue = case.rates["ab"] * drain


def test_the_lyapunov_function_bounds_the_time_to_drain_and_exit_first_takes_it():
    # From 200 first hops V falls by epsilon a second under every work-conserving policy. Each
    # station may put either class first; or both are served in the order of arrival.
    case = exit_priority_case(60, (5, 1), (41, 1), load=Fraction(1, 2))
    place = case.lyapunov.classes.index("ab.1")
    height = max(200 * row[place] for row in case.lyapunov.weights)
    bound = float(height / case.lyapunov.epsilon)
    assert bound == 1120.0
    rates = {name: float(rate) for name, rate in case.rates.items()}
    trace = AgentTrace.clockwork(case.agents, rates, bound + 100, first={"ab": 200})
    drained = {}
    for order in [(), *((a, b) for a in ("ab.1", "ba.2") for b in ("ba.1", "ab.2"))]:
        time, present = simulate_agents(case.engines, trace, Priority(order)).present()
        # 5 agents are present when nobody waits: 1.25 a second, each for 4 iterations.
        drained[order] = float(time[(present > 10) & (time <= bound + 100)].max())
    assert max(drained.values()) < bound
    slowest = max(drained, key=lambda order: drained[order])
    assert set(slowest) == {"ab.2", "ba.2"}
    assert drained[slowest] > 0.95 * bound
    assert drained[("ab.1", "ba.1")] < 0.3 * bound


def test_below_the_critical_load_the_same_swings_die_out():
    case, _, high = swing(Fraction(1, 2), 300, 1500.0, Priority.exit_first)
    assert float(case.growth) == pytest.approx(17 / 21)
    assert len(high) >= 3
    drain = 300 * 544 / 768 / (1 - float(case.rates["ab"]) * 544 / 768)
    ratios = [tall / low for low, tall in itertools.pairwise(high)]
    assert ratios[0] == pytest.approx(17 / 21, rel=33 / drain)
    assert max(ratios) < 1


@pytest.mark.parametrize("make", [Priority.entry_first, lambda agents: Sarathi()])
def test_the_reverse_and_first_come_first_served_calm_down(make):
    _, run, high = swing(Fraction(9, 10), 150, 2000.0, make)
    run.check()
    assert len(high) == 1  # the second hops of the queue that it starts with
    for station in "ab":
        time, tokens = run.backlog(station)
        # A tenth of 768 tokens a second is spare: 150 calls of 544 tokens are gone after 1,063 s.
        assert tokens[time > 1200.0].max() < 12_000.0
    assert run.verdict.status == "stable"


def test_b13_agents_obey_the_relaxation_time_as_requests_do():
    """B13's kind: two queues in a row at load 0.95, 8 x 500 agents, were "stable" (12.4 s)."""
    one = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)
    hop = llmq.RequestClass(1, 1)
    pair = {"a": Agent.chain(("x", hop), ("y", hop))}

    def run(load: float, agents: int):
        return simulate_agents(
            {"x": one, "y": one},
            AgentWorkload.poisson(load, pair),
            replications=8,
            agents=agents,
            rng=1,
        )

    short = run(0.95, 500)
    assert short.verdict.status == "undecided"
    # 100 looks and the warm-up of requests at this load, and the stay of an agent beside them.
    assert short.look == pytest.approx(0.95**2 / 0.05**2 + 2)
    assert 6000 < short.verdict.needed < 6100
    assert short.measured[0] == 250
    assert math.isinf(short.e2e.half_width)
    assert math.isfinite(short.metric("e2e", allow_unstable=True).half_width)
    # The second queue is never waited in: 2 s of service and the wait of M/D/1, 0.5 s.
    calm = run(0.5, 600)
    assert calm.verdict.status == "stable"
    assert calm.e2e.low < 2.5 < calm.e2e.high
