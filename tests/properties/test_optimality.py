"""Throughput optimality as a property: who carries load 0.9, and that nobody carries 1.05.

The sequential test errs with probability at most 0.0001 here, so that a run of some hundred
networks is not red by chance; an undecided test is not a failure of the policy.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.optimality.instability import draw_sketch
from llmq.optimality.networks import draw_network, fitted, suited
from llmq.optimality.saturation import saturated_cycle
from llmq.optimality.verdict import stability_test
from llmq.theory.region.tiling import best_batch

from .networks import sketches

OPTIMAL = (
    policies.Sarathi(),
    policies.Orca(max_output=64),
    policies.RAD(),
    policies.MaxWeight(),
)
ALPHA = 1e-4
# Networks for each policy, in parts that two processes can share.
PARTS, PART = 4, 250


def name_of(policy: policies.Policy) -> str:
    return policy.name


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("policy", OPTIMAL, ids=name_of)
def test_optimal_policies_carry_nine_tenths(policy, part):
    # Other networks and other settings than those of experiments/verdicts.py.
    said = [_test(policy, number, 0.9) for number in range(PART * part, PART * (part + 1))]
    assert "grows" not in said
    assert said.count("undecided") <= PART // 100


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_maxweight_carries_nine_tenths_where_the_budget_is_too_large(part):
    numbers = range(PART * part, PART * (part + 1))
    said = [_test(policies.MaxWeight(), number, 0.9, mismatched=True) for number in numbers]
    assert "grows" not in said
    assert said.count("undecided") <= PART // 100


@pytest.mark.slow
def test_maxweight_carries_nine_tenths_of_any_sketch():
    @settings(max_examples=25, deadline=None)
    @given(sketches(tiles_divide=False))
    def run(sketch):
        network = sketch.network()
        found = stability_test(
            policies.MaxWeight(), network, 0.9, requests=30, looks=6, alpha=ALPHA, rng=1
        )
        assert found.status != "grows", found

    run()


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(sketches(), st.sampled_from(OPTIMAL[::2]))
def test_full_batches_carry_nine_tenths_of_any_sketch(sketch, policy):
    fields = {"fill": policy.name == "rad"}
    if fields["fill"] and any(prompt % sketch.budget for prompt, _ in sketch.classes):
        return
    network = sketch.network()
    chosen = fitted(policy, network.engine)
    found = stability_test(chosen, network, 0.9, requests=30, looks=6, alpha=ALPHA, rng=1)
    assert found.status != "grows", found


@pytest.mark.parametrize("kind", policies.ALL, ids=name_of)
def test_nobody_carries_more_than_all(kind):
    policy = kind()
    rng = np.random.default_rng(3)
    network = draw_sketch(rng, whole=policy.blocks.budget.whole, tiles_divide=True).network()
    chosen = fitted(policy, network.engine)
    found = stability_test(chosen, network, 1.1, replications=4, requests=40, looks=4, rng=1)
    assert found.status != "stable", found
    # At least 1 / 11 of the work stays, less what the interval allows.
    assert found.share.high > 0.1 / 1.1 - 0.01, found


@settings(max_examples=10, deadline=None)
@given(sketches(tiles_divide=False))
def test_no_cycle_beats_the_region(sketch):
    # Exact, for policies that have a cycle: the region bounds every one of them.
    engine = sketch.network().engine
    request = llmq.RequestClass(*sketch.classes[0])
    work = request.prompt.low + request.output.low - 1
    best = best_batch(engine.law, engine.token_budget).exact_rate
    for policy in (
        policies.Sarathi(),
        policies.FasterTransformer(),
        policies.RAD(cycle=2),
    ):
        cycle = saturated_cycle(fitted(policy, engine), engine, request)
        assert cycle.exact_rate * work <= best


@settings(max_examples=10, deadline=None)
@given(sketches())
def test_full_batches_reach_the_region(sketch):
    engine = sketch.network().engine
    request = llmq.RequestClass(*sketch.classes[0])
    work = request.prompt.low + request.output.low - 1
    cycle = saturated_cycle(policies.Sarathi(), engine, request)
    best = best_batch(engine.law, engine.token_budget).exact_rate
    assert cycle.exact_rate * work == best


@pytest.mark.parametrize("number", range(2))
def test_equal_gaps_give_the_same_answer(number):
    network = draw_network(number)
    for policy in (policies.Sarathi(), policies.FasterTransformer()):
        calm, wild = (
            stability_test(policy, network, 0.9, deterministic=same, requests=50, rng=3).status
            for same in (True, False)
        )
        assert calm == wild


def _test(policy: policies.Policy, number: int, load: float, *, mismatched: bool = False) -> str:
    network = (
        draw_network(number + 5000, mismatched=True)
        if mismatched
        else suited(policy, number + 5000)
    )
    chosen = fitted(policy, network.engine)
    found = stability_test(
        chosen,
        network,
        load,
        alpha=ALPHA,
        replications=5,
        rng=np.random.SeedSequence(number),
        looks=7,
    )
    return found.status
