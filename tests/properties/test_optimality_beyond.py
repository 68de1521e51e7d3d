"""Above load 1 the backlog grows at the slope of the linear programme or faster, under any policy.

Pathwise, from an empty start: ``S(T) <= c T`` for the work served by ``T``, ``c`` the token rate of
the most productive batch, because an iteration processes ``n`` tokens in ``t(n) >= n / c``. So the
backlog ``W(T) - S(T)`` is at least ``W(T) - c T``, on average ``(load - 1) c T``: the value of the
planning problem less 1, at prices of ``1 / c`` a token [D1, DAI-A].
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.model.arrivals import Poisson
from llmq.model.workload import Workload
from llmq.optimality.networks import Network, draw_network, fitted, suited
from llmq.optimality.verdict import served, stability_test
from llmq.theory.region.tiling import best_batch

LOAD, PATHS = 1.05, 4
FLEETS = [kind for kind in policies.ALL if kind.name in ("pascal", "fcfs", "rr", "slai")]
SPLIT = [kind for kind in policies.ALL if not kind().blocks.budget.whole]


def name_of(policy) -> str:
    return policy.name


def backlog(system, traffic, policy, requests: int, seed: int) -> tuple[float, float, float]:
    """Work that came, work served, and the time of the last arrival."""
    run = llmq.simulate(system, traffic, policy, requests=requests, record="tokens", rng=seed)
    lag = run.engines[0].conventions.lag
    last = run.requests.arrival[:, -1]
    came = float((run.prompt + run.requests.output - 1 + lag).sum())
    return came, float(served(run, last).item()), float(last.item())


def assert_lp_slope(system, traffic, policy, network: Network, engines: int = 1) -> None:
    rate = engines * best_batch(network.engine.law, network.engine.token_budget).rate
    region = llmq.stability_region(network.engine, network.mix)
    load = region.load(traffic.rates) / engines
    assert load == pytest.approx(LOAD, rel=1e-9)
    requests = engines * max(60, network.engine.token_budget)
    slopes, offered = [], []
    for seed in range(PATHS):
        came, done, last = backlog(system, traffic, policy, requests, seed)
        assert done <= rate * last * (1 + 1e-9)
        slopes.append((came - done) / last / rate)
        offered.append(came / last / rate)
    # What is random about the bound is the work that came.
    error = np.std(offered, ddof=1) / math.sqrt(PATHS)
    assert np.mean(slopes) >= load - 1 - 4 * error - 0.01, slopes
    assert np.mean(slopes) >= np.mean(offered) - 1 - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", policies.ALL, ids=name_of)
def test_every_policy_grows_at_the_lp_slope(kind, number):
    network = suited(kind(), number + 100)
    policy = fitted(kind(), network.engine)
    assert_lp_slope(network.engine, network.at(LOAD), policy, network)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("kind", SPLIT, ids=name_of)
def test_so_it_does_where_the_budget_is_too_large(kind, number):
    network = draw_network(number, mismatched=True)
    policy = fitted(kind(), network.engine)
    assert_lp_slope(network.engine, network.at(LOAD), policy, network)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("kind", FLEETS, ids=name_of)
def test_fleets_with_their_routers_grow_at_the_lp_slope(kind, number):
    # Reasoning is part of the output; where it ends, PASCAL moves requests between the engines.
    network = suited(kind(), number + 100)
    mix = {
        name: llmq.RequestClass(one.prompt, one.output, reasoning=min(2, one.output.low - 1))
        for name, one in network.mix.items()
    }
    rates = {name: 2 * LOAD * rate for name, rate in network.rates.items()}
    traffic = Workload(Poisson(sum(rates.values())), mix, rates)
    fleet = llmq.Fleet({"a": (network.engine, 2)})
    assert_lp_slope(fleet, traffic, fitted(kind(), network.engine), network, engines=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", policies.ALL, ids=name_of)
def test_the_sequential_test_never_says_stable(kind):
    for number in (200, 201):
        network = suited(kind(), number)
        policy = fitted(kind(), network.engine)
        found = stability_test(policy, network, LOAD, replications=4, looks=3, rng=number)
        assert found.status != "stable", found


def test_the_bound_can_fail():
    # The same engine at half its time per iteration serves more than the bound allows.
    network = draw_network(4)
    fast = network.engine.with_(law=network.engine.law.scaled(0.5))
    with pytest.raises(AssertionError):
        assert_lp_slope(fast, network.at(LOAD), policies.Sarathi(), network)
