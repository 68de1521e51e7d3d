"""The sequential test of stability, and the networks it runs on."""

from __future__ import annotations

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.optimality.networks import Network, draw_network, fitted, suited
from llmq.optimality.networks.limited import SLOTS, LimitedNetwork, draw_limited_network, limited
from llmq.optimality.verdict import failure_bound, served, shares, stability_test, theorem


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
    from llmq.theory.region.tiling import best_batch

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


def test_work_is_served_token_by_token():
    # A prompt of 8 takes 1 s, then 3 decodes of 1 s each: 8 + 0, 1, 2, 3 tokens.
    engine = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), 64)
    for record in ("requests", "tokens"):
        run = llmq.simulate(engine, llmq.Trace([0.0], [8], [4]), record=record)
        done = [served(run, np.array([t])).item() for t in (0.5, 1.0, 2.0, 3.0, 4.0, 9.0)]
        assert done == [0, 8, 9, 10, 11, 11]
    theory = engine.with_(conventions=llmq.model.conventions.THEORY)
    run = llmq.simulate(theory, llmq.Trace([0.0], [8], [4]), record="tokens")
    assert [served(run, np.array([t])).item() for t in (1.0, 2.0, 5.0)] == [8, 9, 12]


def test_beyond_the_region_the_surplus_piles_up():
    # Whatever the policy, 1 - 1 / load of the work stays; full batches leave no more.
    for number in range(3):
        network = draw_network(number)
        found = shares(policies.Sarathi(), network, 1.25, 400, replications=4, rng=1)
        assert found.mean() == pytest.approx(0.2, abs=0.02)
        worse = shares(policies.FasterTransformer(), network, 1.25, 400, replications=4, rng=1)
        assert worse.min() > 0.2


def test_sarathi_carries_nine_tenths_and_nobody_more_than_all():
    for number in range(4):
        network = draw_network(number)
        found = stability_test(policies.Sarathi(), network, 0.9, rng=number)
        assert found.status == "stable", found
        over = stability_test(policies.Sarathi(), network, 1.05, rng=number)
        assert over.status == "grows", over
        assert over.share.high > 0.05 / 1.05 - 0.01


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
    assert stability_test(fitting, network, 0.9, rng=1).status == "stable"


def test_equal_gaps_need_fewer_requests():
    network = draw_network(2)
    fields = {"rng": 1, "requests": 10, "looks": 10}
    calm = stability_test(policies.Sarathi(), network, 0.97, deterministic=True, **fields)
    wild = stability_test(policies.Sarathi(), network, 0.97, **fields)
    assert calm.status == wild.status == "stable"
    assert calm.requests <= wild.requests


def test_too_few_requests_are_undecided():
    network = draw_network(0)
    found = stability_test(policies.Sarathi(), network, 0.99, rng=1, requests=5, looks=2)
    assert found.status == "undecided"
    assert "undecided at load 0.99" in str(found)


@pytest.mark.parametrize("load", [0.0, 2.0, -1.0])
def test_loads_outside_are_refused(load):
    with pytest.raises(llmq.InputError, match="load must lie between 0 and 2"):
        stability_test(policies.Sarathi(), draw_network(0), load)


def test_too_few_replications_are_refused():
    with pytest.raises(llmq.InputError, match="at least 3 replications"):
        stability_test(policies.Sarathi(), draw_network(0), 0.5, replications=2)


def test_a_crowd_of_decodes_is_counted_one_by_one():
    # vLLM prefills everybody first; even progress between first and last token would say stable.
    network = draw_network(1, whole=True)
    chosen = policies.VLLM(version="v0")
    assert shares(chosen, network, 0.9, 256, replications=3, rng=3).min() > 0


@pytest.mark.parametrize("sign", [1, -1])
def test_what_the_first_fill_adds_is_no_answer(monkeypatch, sign):
    # A share of -0.1, and 30 requests' worth of work that the first fill adds: 0.5, 0.2, 0.05, ...
    def rigged(policy, network, load, n, **fields):
        return sign * (30 / n - 0.1) + np.array([-0.001, 0.0, 0.001])

    monkeypatch.setattr(llmq.optimality.verdict, "shares", rigged)
    found = stability_test(policies.Sarathi(), draw_network(0), 0.9, requests=50)
    assert found.status == ("stable" if sign == 1 else "grows")
    assert found.requests == 800


@pytest.mark.parametrize("limit", [{"kv_tokens": 4096}, {"max_seqs": 4}])
def test_networks_outside_the_model_are_refused_by_name(limit):
    network = draw_network(0)
    with pytest.raises(llmq.InputError, match=f"without {next(iter(limit))}"):
        Network(network.engine.with_(**limit), network.mix, network.rates)
    with pytest.raises(llmq.InputError, match="a rate for each class"):
        Network(network.engine, network.mix, {"chat": 1.0})


@pytest.mark.parametrize(("failed", "n"), [(0, 20), (1, 20), (3, 10), (19, 20), (0, 1000)])
def test_the_bound_is_the_exact_binomial_limit(failed, n):
    from math import comb

    p = failure_bound(failed, n, alpha=0.0)
    tail = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(failed + 1))
    assert tail == pytest.approx(0.05, rel=1e-9)
    assert failure_bound(failed, n, alpha=0.2) == pytest.approx(min(p / 0.8, 1))


def test_nothing_is_bounded_where_all_fail():
    assert failure_bound(5, 5) == failure_bound(19, 20, alpha=0.4) == 1
    assert failure_bound(0, 1000, alpha=0.0) == pytest.approx(3 / 1000, rel=5e-3)


@pytest.mark.parametrize("wrong", [(2, 1), (-1, 3), (0, 0)])
def test_counts_that_cannot_be_are_refused(wrong):
    with pytest.raises(llmq.InputError, match="0 <= failed <= n"):
        failure_bound(*wrong)


def test_theorems_are_named_where_their_hypotheses_hold():
    full, cut = draw_network(0), draw_network(0, mismatched=True)
    tiles = draw_network(0, fill=True)
    rad = fitted(policies.RAD(), tiles.engine)
    assert theorem(policies.Sarathi(), full) == "S1"
    assert theorem(policies.Sarathi(), cut) is None
    assert theorem(policies.MaxWeight(), cut) == "S1"
    assert theorem(policies.MaxWeight(token_budget=1), cut) is None
    assert theorem(rad, tiles) == "RAD2"
    assert theorem(fitted(policies.RAD(cycle=1), tiles.engine), tiles) is None
    ragged = {n: llmq.RequestClass(one.prompt.low + 1, one.output) for n, one in tiles.mix.items()}
    if rad.tile > 1:
        assert theorem(rad, Network(tiles.engine, ragged, tiles.rates)) is None
    for policy in (policies.Orca(), policies.TRAIL(), policies.VLLM(version="v0")):
        assert theorem(policy, full) is None
    ranked = policies.Priority(("c", "b", "a"))
    assert theorem(ranked, full) == "S1"
    assert theorem(ranked, cut) is None
    most = full.engine.token_budget
    assert theorem(policies.SLAI(decodes=most), full) == "WC"
    assert theorem(policies.SLAI(decodes=most - 1), full) is None  # a cap below the budget
    assert theorem(policies.SLAI(), cut) is None
    slow = llmq.BatchTime.affine(base=1.0, per_token=0.1, per_kv=1e-3)
    assert (
        theorem(policies.Sarathi(), Network(full.engine.with_(law=slow), full.mix, full.rates))
        is None
    )


@pytest.mark.parametrize(
    "policy", [policies.Priority(("c", "b", "a")), policies.TRAIL()], ids=lambda one: one.name
)
def test_ranks_fill_every_batch_that_can_be_filled(monkeypatch, policy):
    # The hypothesis of S1, where neither memory nor slots bind.
    from llmq.policies.contract.fill import plan
    from llmq.sim._reference import engine as reference

    seen = []

    def spy(view, blocks, chunk):
        batch = plan(view, blocks, chunk)
        seen.append((int(view.rem.sum()), sum(batch.tokens)))
        return batch

    monkeypatch.setattr(reference, "plan", spy)
    network = next(one for one in map(draw_network, range(9)) if len(one.mix) == 3)
    most = network.engine.token_budget
    llmq.simulate(
        network.engine,
        network.at(0.9, first=60),
        policy,
        requests=200,
        rng=1,
        simulator="reference",
    )
    assert sum(left >= most for left, _ in seen) > 50
    assert all(done == most for left, done in seen if left >= most)


def test_a_theorem_and_the_test_agree():
    for number in range(6):
        network = draw_network(number, mismatched=True)
        policy = policies.MaxWeight()
        assert theorem(policy, network) == "S1"
        assert stability_test(policy, network, 0.95, rng=number).status == "stable"


@pytest.mark.parametrize("slots", [4, 8])
def test_e4_the_example_of_vllm_v0_needs_unlimited_slots(slots):
    """E4: with a limit of slots the network that refutes v0 is stable at 0.9 and 0.95."""
    policy = policies.VLLM(token_budget=None, version="v0")
    law = llmq.BatchTime.affine(base=0.125, per_token=0.0)
    free = Network(llmq.Engine(law, 8, kv_block=1), {"a": llmq.RequestClass(1, 2)}, {"a": 32.0})
    bounded = limited(free, max_seqs=slots)
    for load in (0.9, 0.95):
        assert stability_test(policy, bounded, load, replications=4, rng=1).status == "stable"


def test_e4_a_path_with_limits_is_longer_than_the_first_fill():
    """E4: 64 slots hold 64 requests of a first path of 50; it says nothing of what goes on."""
    network = limited(draw_network(3), max_seqs=64)
    found = stability_test(policies.Sarathi(), network, 0.8, replications=3, looks=2, rng=1)
    assert found.requests >= 2 * 4 * 64


@pytest.mark.parametrize("number", range(6))
def test_e4_networks_with_limits(number):
    """E4: load 1 is where an explicit schedule ends; slots, memory or both."""
    network = draw_limited_network(number)
    engine = network.engine
    assert engine.max_seqs in (None, *SLOTS)
    assert engine.max_seqs is not None or engine.kv_tokens is not None
    outer, inner = llmq.stability_region(engine, network.mix).load_bracket(network.rates)
    assert (outer, inner) == pytest.approx((network.least, 1.0))
    with pytest.raises(llmq.InputError, match="an engine with max_seqs, kv_tokens or both"):
        LimitedNetwork(draw_network(number).engine, network.mix, network.rates, 1.0)
