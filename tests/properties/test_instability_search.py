"""Bounds that no find may break, that examples shrink, and that every known case is found again.

The proofs of the search are compared with bounds that they share nothing with: the region's.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, find, given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.optimality.instability import find_instability
from llmq.optimality.instability.priority import find_priority_trap
from llmq.optimality.networks import Network
from llmq.optimality.networks.fleet import FleetNetwork
from llmq.optimality.networks.memory import MemoryNetwork
from llmq.optimality.saturation import saturated_cycle
from llmq.optimality.saturation.blind import blind_bound
from llmq.optimality.saturation.open import binary_gap, open_cycle

from .networks import fleet_sketches, memory_sketches, sketches

QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))


def _network(sketch):
    try:
        return sketch.network()
    except llmq.InputError:  # another limit binds
        return None


@settings(QUIET, max_examples=15)
@given(memory_sketches(classes=1))
def test_no_cycle_beats_what_memory_allows(sketch):
    network = _network(sketch)
    assume(network is not None)
    (request,) = network.mix.values()
    region = llmq.stability_region(network.engine, network.mix)
    for policy in (policies.Sarathi(), policies.FasterTransformer()):
        cycle = saturated_cycle(policy, network.engine, request)
        outer, _ = region.load_bracket({"a": cycle.rate})
        assert outer <= 1 + 1e-9


@settings(QUIET, max_examples=25)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(2, 10),
    st.integers(2, 4),
    st.lists(st.integers(0, 24), max_size=6),
)
def test_a4_long_queues_are_served_at_the_rate_of_a_cycle(pair, base, tile, budget, slots, begun):
    """A4: however it began, a long queue is served at rates from the least to the largest."""
    law = llmq.BatchTime.tiled(base=base / 8, per_tile=1.0, tile=tile)
    engine = llmq.Engine(law, budget, max_seqs=slots)
    policy = policies.Sarathi()
    cycle = saturated_cycle(policy, engine, llmq.RequestClass(*pair))
    assert cycle.exact_rate <= cycle.exact_largest
    n = 400
    early = sorted(gap / 4 for gap in begun)
    times = early + [(early[-1] if early else 0.0) + 1.125] * (n - len(early))
    run = llmq.simulate(engine, llmq.Trace(times, [pair[0]] * n, [pair[1]] * n), policy)
    ends = np.sort(run.requests.finish[0])
    served = (n / 2) / (ends[3 * n // 4 - 1] - ends[n // 4 - 1])
    if cycle.complete:
        assert cycle.rate * 0.96 <= served <= cycle.largest * 1.04


@settings(QUIET, max_examples=15)
@given(fleet_sketches())
def test_no_router_without_classes_beats_the_region(sketch):
    network = sketch.network()
    assert blind_bound(network).rate <= sum(network.rates.values()) * (1 + 1e-9)


@settings(QUIET, max_examples=15)
@given(fleet_sketches(attention=False))
def test_without_attention_no_router_loses_anything(sketch):
    # The speed is then a product of class and engine: any mix fills the engines.
    network = sketch.network()
    assert blind_bound(network).rate == pytest.approx(sum(network.rates.values()), rel=1e-9)


@settings(QUIET, max_examples=10)
@given(sketches(tiles_divide=False), st.integers(5, 8))
def test_an_open_cycle_leaves_what_the_region_cannot_carry(sketch, eighths):
    # Below the rate of the saturated cycle nothing may grow, and never more than comes.
    engine, request = sketch.network().engine, llmq.RequestClass(*sketch.classes[0])
    rate = saturated_cycle(policies.Sarathi(), engine, request).exact_rate
    assume(rate < 256)
    calm = binary_gap(rate * Fraction(eighths, 10))
    assert open_cycle(policies.Sarathi(), engine, request, calm, maximum=150) is None


def test_examples_shrink_to_small_ones():
    # What hypothesis makes of the first example that greedy admission, or a blind router, fails.
    def greedy_fails(sketch):
        if (network := _network(sketch)) is None:
            return False
        (request,) = network.mix.values()
        cycle = saturated_cycle(policies.Sarathi(), network.engine, request)
        return cycle.rate < 0.9 * sum(network.rates.values())

    quick = settings(QUIET, max_examples=300, derandomize=True)
    smallest = find(memory_sketches(classes=1), greedy_fails, settings=quick)
    assert smallest.size <= 30, smallest

    def blind_fails(sketch):
        network = sketch.network()
        return blind_bound(network).rate < 0.9 * sum(network.rates.values())

    smallest = find(fleet_sketches(), blind_fails, settings=quick)
    assert smallest.size <= 40, smallest


@pytest.mark.slow
@settings(QUIET, max_examples=20)
@given(st.one_of(sketches(), memory_sketches(), fleet_sketches()))
def test_every_step_of_shrinking_is_a_smaller_network_of_its_kind(sketch):
    kinds = (Network, MemoryNetwork, FleetNetwork)
    for simpler in sketch.simpler():
        assert simpler.size < sketch.size or len(simpler.classes) < len(sketch.classes)
        network = _network(simpler)
        assert network is None or isinstance(network, kinds)


# What must be found again: policy, how to search, the load above which it fails.
KNOWN = {
    "exclusive batching (O5)": (
        policies.FasterTransformer(),
        {"tiles_divide": True},
        Fraction(2, 3),
    ),
    "mismatched budget (O4)": (policies.Sarathi(), {"laws": ("tiled",)}, Fraction(5, 6)),
    "hinge overfill": (policies.Sarathi(), {"laws": ("hinge",)}, Fraction(5, 8)),
    "RAD with N = 1": (policies.RAD(cycle=1), {"tiles_divide": True}, Fraction(2, 3)),
    "prefill first": (policies.VLLM(version="v0"), {"tiles_divide": True}, None),
    "greedy admission at C = M*": (policies.Sarathi(), {"networks": "memory"}, None),
    "shortest queue": (
        policies.Sarathi(route=policies.ShortestQueue()),
        {"networks": "fleet"},
        Fraction(2603, 3051),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", KNOWN)
def test_every_known_case_is_found_again(case):
    policy, fields, reach = KNOWN[case]
    found = find_instability(policy, tries=30, rng=1, **fields)
    assert found is not None
    # That the shortest queue reaches the bound of all blind routers is tested, not proved.
    bound = fields.get("networks") == "fleet"
    assert found.kind is (llmq.Kind.OUTER_BOUND if bound else llmq.Kind.EXACT)
    assert found.test.status == "grows"
    assert found.load == 0.9
    region = llmq.stability_region(found.system, found.network.mix)
    assert region.load_bracket(found.network.rates)[1] == pytest.approx(1, rel=1e-9)
    assert found.exact_reach == reach
    if found.reach is None:  # equal gaps: requests remain at a load below that of the test
        assert found.cycle.more > 0
        assert found.cycle.exact_gap * found.load * sum(found.network.rates.values()) >= 1
    else:
        assert found.reach < found.load
        # What piles up is what the proof leaves over.
        left = 1 - found.reach / found.load
        assert abs(found.test.share.mean - left) < 2 * found.test.share.half_width + 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "growth"),
    [({}, Fraction(27, 23) ** 2), ({"order": "any", "chains": 1}, Fraction(27, 23))],
    ids=["two types", "one type"],
)
def test_priority_traps_are_found_again(fields, growth):
    found = find_priority_trap(rng=1, **fields)
    assert found.cycle.growth == growth
    # Rybko and Stolyar's: opposite ways; Lu and Kumar's: out, over there twice, and back.
    ways = sorted(tuple(station for station, _ in chain) for chain in found.sketch.chains)
    assert ways in ([(0, 1), (1, 0)], [(0, 1, 1, 0)], [(1, 0, 0, 1)])
    assert max(found.stations.loads) == Fraction(9, 10)
