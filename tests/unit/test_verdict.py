"""The sequential test of stability, and the networks it runs on."""

from __future__ import annotations

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.networks import draw_network, suited
from llmq.verdict import piled_up, stability_test


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("fields", [{}, {"whole": True}, {"mismatched": True}, {"fill": True}])
def test_networks_are_at_capacity(number, fields):
    network = draw_network(number, **fields)
    region = llmq.stability_region(network.engine, network.mix)
    assert region.kind is llmq.Kind.EXACT
    assert region.load(network.rates) == pytest.approx(1, rel=1e-9)
    again = draw_network(number, **fields)
    assert (again.engine, again.rates) == (network.engine, network.rates)


def test_networks_have_what_a_policy_needs():
    from llmq.theory.tiling import best_batch

    for number in range(20):
        short = suited(policies.Orca(max_output=64), number)
        longest = max(one.prompt.high for one in short.mix.values())
        assert longest <= short.engine.token_budget // 32
        filled = suited(policies.RAD(), number)
        best = best_batch(filled.engine.law, filled.engine.token_budget).tokens
        assert all(one.prompt.low % best == 0 for one in filled.mix.values())
        ragged = draw_network(number, mismatched=True)
        chip = ragged.engine
        assert best_batch(chip.law, chip.token_budget).tokens < chip.token_budget


def test_piled_up():
    came = np.arange(1.0, 201.0)[None]
    assert piled_up(came, came + 5).tolist() == [0.0]
    assert piled_up(came, 2 * came).tolist() == [0.5]
    assert piled_up(came, came + 1e6).tolist() == [1.0]


def test_sarathi_carries_nine_tenths_and_nobody_more_than_all():
    for number in range(4):
        network = draw_network(number)
        found = stability_test(policies.Sarathi(), network, 0.9, rng=number, looks=7)
        assert found.status == "stable", found
        over = stability_test(policies.Sarathi(), network, 1.3, rng=number)
        assert over.status == "grows", over
        # At load 1.3 at least 3 of 13 arrivals pile up, whatever the policy.
        assert over.share.high > 0.3 / 1.3 - 0.02


def test_exclusive_batching_is_refuted():
    for number in range(3):
        found = stability_test(policies.FasterTransformer(), draw_network(number), 0.9, rng=number)
        assert found.status == "grows", found


def test_a_budget_that_no_tile_divides_is_refuted():
    # Full batches pay for a tile of which one token is used.
    network = draw_network(0, mismatched=True)
    assert stability_test(policies.Sarathi(), network, 0.9, rng=1).status == "grows"
    whole = network.engine.token_budget // network.engine.law.tile * network.engine.law.tile
    fitting = policies.Sarathi(token_budget=whole)
    assert stability_test(fitting, network, 0.9, rng=1, looks=7).status == "stable"


def test_equal_gaps_need_fewer_requests():
    network = draw_network(2)
    calm = stability_test(policies.Sarathi(), network, 0.9, rng=1, deterministic=True, looks=7)
    wild = stability_test(policies.Sarathi(), network, 0.9, rng=1, looks=7)
    assert calm.status == wild.status == "stable"
    assert calm.requests <= wild.requests


def test_too_few_requests_are_undecided():
    network = draw_network(0)
    found = stability_test(policies.Sarathi(), network, 0.97, rng=1, requests=20, looks=1)
    assert found.status == "undecided"
    assert "undecided at load 0.97" in str(found)


@pytest.mark.parametrize("load", [0.0, 2.0, -1.0])
def test_loads_outside_are_refused(load):
    with pytest.raises(llmq.InputError, match="load must lie between 0 and 2"):
        stability_test(policies.Sarathi(), draw_network(0), load)


def test_too_few_replications_are_refused():
    with pytest.raises(llmq.InputError, match="at least 3 replications"):
        stability_test(policies.Sarathi(), draw_network(0), 0.5, replications=2)
