"""Counterexamples with memory, fleets, equal gaps and priorities: exact, small, checked twice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.optimality.instability import Instability, find_instability
from llmq.optimality.instability import _instability as instability
from llmq.optimality.instability.priority import (
    AgentSketch,
    PriorityTrap,
    find_priority_trap,
    remaining_share,
)
from llmq.optimality.instability.search import confirm
from llmq.optimality.networks.fleet import FleetNetwork, FleetSketch, engine_seconds
from llmq.optimality.networks.memory import MemoryNetwork, MemorySketch
from llmq.optimality.saturation import saturated_cycle
from llmq.optimality.saturation.blind import blind_bound
from llmq.optimality.saturation.fluid import Stations, certify_fluid, fluid_cycle
from llmq.optimality.saturation.open import binary_gap, open_cycle
from llmq.policies.priority import Priority
from llmq.result import from_json, to_json
from llmq.theory.region._certificate_record import canonical_digest
from llmq.theory.stability.lyapunov import cyclic_agents, two_station

HALF = Fraction(1, 2)
ROOT = Path(__file__).parents[3]
COUNTEREXAMPLES = ROOT / "docs" / "counterexamples"
MEMORY = MemorySketch(1, 2, 0, 3, 8, ((1, 6),))
FLEET = FleetSketch(((1, 0, 0, 2), (1, 0, 2, 8)), ((8, 1), (1, 1)))


def _checked(path):
    command = [sys.executable, "-I", "-S", "proofs/check.py", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def _stem(path):
    return path.stem


# Memory --------------------------------------------------------------------------------------


def test_the_cycle_of_greedy_admission_by_hand():
    # Places for 3 tokens, requests of 1 + 3, a second per iteration. An evicted request with one
    # token said computes its 2 tokens again beside a new prompt (3 tokens); the decode that ends it
    # then needs the third place and pushes the new one out: a request in 2 s. Alone it takes 3 s.
    engine = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), 4, kv_tokens=3, kv_block=1)
    cycle = saturated_cycle(policies.Sarathi(), engine, llmq.RequestClass(1, 3))
    assert cycle.batches == ((3, 0), (0, 1))
    assert (cycle.exact_time, cycle.requests) == (2, 1)


@pytest.mark.parametrize("sketch", [MEMORY, MemorySketch(1, 6, 0, 11, 28, ((5, 16),))])
def test_the_cycle_with_evictions_is_what_a_long_queue_gets(sketch):
    network = sketch.network()
    (request,) = network.mix.values()
    cycle = saturated_cycle(policies.Sarathi(), network.engine, request)
    n = 240
    trace = llmq.Trace([0.0] * n, [request.prompt.low] * n, [request.output.low] * n)
    run = llmq.simulate(network.engine, trace, policies.Sarathi())
    assert run.tallies[0][0].evictions > n / 10
    ends = np.sort(run.requests.finish[0])
    rate = (n / 2) / (ends[3 * n // 4 - 1] - ends[n // 4 - 1])
    assert rate == pytest.approx(cycle.rate, rel=0.02)
    assert cycle.rate < 0.9 * sum(network.rates.values())


def test_rank_preemption_is_refuted_by_its_cycle_at_full_memory():
    # 4 + n seconds for n tokens, places for 20, requests of 1 + 4: 1/7 a second, entry RCC.
    network = MemorySketch(32, 8, 0, 64, 20, ((1, 4),)).network()
    own = policies.TRAIL(protect=1.0, watermark=0.0)
    cycle = instability._proof(own, network, 0.95)
    assert (cycle.exact_rate, cycle.source) == (Fraction(1, 7), "cycle at full memory [RCC]")
    # A load that it carries, a rule that carries 12/79, and rules that the cycle is not about.
    assert instability._proof(own, network, 0.9) is None
    head = replace(own, fill="head")
    assert instability._proof(head, network, 0.95) is None
    assert instability._proof(head, network, 0.97).exact_rate == Fraction(12, 79)
    assert instability._proof(replace(own, protect=0.8), network, 0.95) is None
    assert instability._proof(replace(own, watermark=0.01), network, 0.95) is None
    ahead = replace(head, admission="future")
    assert instability._proof(ahead, network, 0.95) is None  # 5 % of the memory in reserve
    assert instability._proof(replace(ahead, reserve=0.0), network, 0.95).exact_rate == HALF / 4


def test_greedy_admission_is_refuted_where_memory_binds():
    found = find_instability(policies.Sarathi(), networks="memory", tries=10, rng=1)
    assert found.kind is llmq.Kind.EXACT
    assert found.reach < 0.9
    assert found.exact_reach is None  # load 1 is the end of a schedule, a float
    network = found.network
    region = llmq.stability_region(network.engine, network.mix)
    assert region.load_bracket(network.rates) == pytest.approx((network.least, 1))
    assert network.least < 1
    assert region.binding(network.rates)[0] == "memory"
    assert "memory" in str(found)
    assert "unstable above load" in str(found)


def test_room_for_whole_requests_is_not_refuted_there():
    # Orca sets aside what a request will hold: nothing is computed again.
    for budget in (3, 4, 6):
        network = replace(MEMORY, budget=budget).network()
        (request,) = network.mix.values()
        careful = policies.Orca(max_output=6)
        cycle = saturated_cycle(careful, network.engine, request)
        greedy = saturated_cycle(policies.Sarathi(), network.engine, request)
        assert cycle.rate > greedy.rate


# Equal gaps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "request_", "engine", "gap"),
    [
        (policies.Sarathi(), (2, 3), (0.125, 0.125, 2), Fraction(9, 16)),
        (policies.FasterTransformer(), (2, 3), (0.125, 0.0, 2), Fraction(9, 32)),
        (policies.RAD(2, cycle=1), (2, 3), (0.125, 0.0, 2), Fraction(9, 32)),
    ],
    ids=["sarathi", "fastertransformer", "rad"],
)
def test_an_open_cycle_is_what_another_simulator_leaves_behind(policy, request_, engine, gap):
    base, slope, budget = engine
    chip = llmq.Engine(llmq.BatchTime.affine(base=base, per_token=slope), budget, kv_block=1)
    cycle = open_cycle(policy, chip, llmq.RequestClass(*request_), gap)
    n = 40 * cycle.arrivals
    times = [float(k * gap) for k in range(n)]
    run = llmq.simulate(chip, llmq.Trace(times, [request_[0]] * n, [request_[1]] * n), policy)
    present = [
        n_ - np.count_nonzero(run.requests.finish[0] <= times[n_ - 1])
        for n_ in (20 * cycle.arrivals, n)
    ]
    assert present[1] - present[0] == 20 * cycle.more


@pytest.mark.parametrize("policy", [policies.FasterTransformer(), policies.SimpleChunking()])
@pytest.mark.parametrize("lengths", [(2, 3), (3, 2)])
def test_open_and_saturated_cycles_agree(policy, lengths):
    # A long queue does not see the arrivals: two derivations of one rate.
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.125, per_token=0.0), 4, kv_block=1)
    request = llmq.RequestClass(*lengths)
    rate = saturated_cycle(policy, engine, request).exact_rate
    cycle = open_cycle(policy, engine, request, binary_gap(rate * Fraction(5, 4), slack=0.1))
    assert cycle.exact_rate == rate
    assert open_cycle(policy, engine, request, binary_gap(rate), maximum=200) is None


def test_vllm_prefills_and_never_decodes():
    # A request every 9/256 s, an iteration of 1/8 s: somebody has always come, so the engine only
    # prefills (3 or 4 prompts of one token) and all the decodes stay.
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.125, per_token=0.0), 8, kv_block=1)
    v0 = policies.VLLM(version="v0")
    cycle = open_cycle(v0, engine, llmq.RequestClass(1, 2), Fraction(9, 256))
    assert (cycle.arrivals, cycle.more, cycle.tokens, cycle.exact_rate) == (32, 32, 32, 0)
    load = 2 / cycle.exact_gap / 64  # tokens per second, of 8 in 1/8 s
    assert load == Fraction(8, 9)


def test_gaps_are_binary_and_not_too_short():
    for rate in (Fraction(7, 3), 0.3, 28.8, Fraction(1000, 7)):
        gap = binary_gap(rate)
        assert 1 / gap <= rate <= 1.031 / gap
        assert Fraction(float(gap)) == gap


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"policy": policies.SLAI()}, "slai .* has no open cycle"),
        ({"request": llmq.RequestClass(2, llmq.Lengths.uniform(1, 3))}, "no open cycle"),
        ({"gap": Fraction(1, 3)}, "binary fraction"),
        ({"gap": Fraction(0)}, "binary fraction"),
        ({"law": llmq.BatchTime.affine(base=0.1, per_token=0.0)}, "binary fractions of a second"),
    ],
)
def test_bad_open_cycles_are_refused(fields, match):
    law = fields.get("law", llmq.BatchTime.affine(base=0.125, per_token=0.0))
    with pytest.raises(llmq.InputError, match=match):
        open_cycle(
            fields.get("policy", policies.VLLM(version="v0")),
            llmq.Engine(law, 8),
            fields.get("request", llmq.RequestClass(1, 2)),
            fields.get("gap", Fraction(1, 8)),
        )


# Fleets --------------------------------------------------------------------------------------


def test_seconds_of_an_engine_whose_memory_may_bind_are_refused():
    chip = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.1), 8, kv_tokens=40, kv_block=1)
    mix = {"long": llmq.RequestClass(30, 1), "talk": llmq.RequestClass(1, 30)}
    with pytest.raises(llmq.InputError, match=r"in pool 'x' .*memory.* may bind"):
        engine_seconds(llmq.Fleet({"x": (chip, 1)}), mix)


def test_the_bound_of_a_blind_router_by_hand():
    # 16 and 2 / 2 tokens: 1/2 s and 9/8 s for the long class, 1/16 and 1/32 for the short one.
    network = FLEET.network()
    seconds = {"a": (HALF, Fraction(9, 8)), "b": (Fraction(1, 16), Fraction(1, 32))}
    assert engine_seconds(network.fleet, network.mix) == seconds
    bound = blind_bound(network).exact_rate
    assert bound == 1 / (Fraction(9, 16) / 2) + 1 / (Fraction(37, 32) / 2)


@pytest.mark.slow
def test_prices_carry_what_the_shortest_queue_does_not():
    path = COUNTEREXAMPLES / "fleets" / "shortest-queue.json"
    found = from_json(Instability, path.read_text(encoding="utf-8"))
    network = found.network
    assert found.exact_reach < Fraction(9, 10)
    prices = engine_seconds(network.fleet, network.mix)
    route = policies.PriceWeighted({name: tuple(map(float, row)) for name, row in prices.items()})
    test = confirm(policies.Sarathi(route=route), network, 0.9, 0.01, 1)
    assert test.status == "stable", test


def test_a_router_that_sees_classes_is_not_refuted():
    def priced(network):
        prices = engine_seconds(network.fleet, network.mix)
        rows = {name: tuple(map(float, row)) for name, row in prices.items()}
        return policies.Sarathi(route=policies.PriceWeighted(rows))

    assert find_instability(priced, networks="fleet", tries=2, load=0.8, rng=3) is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kv_tokens": 64}, "pool 'x'"),
        ({"max_seqs": 4}, "pool 'x'"),
    ],
)
def test_fleets_outside_the_model_are_refused(change, match):
    network = FLEET.network()
    engine, _ = network.fleet.pools["x"]
    fleet = llmq.Fleet({**network.fleet.pools, "x": (engine.with_(**change), 1)})
    with pytest.raises(llmq.InputError, match=match):
        FleetNetwork(fleet, network.mix, network.rates)
    with pytest.raises(llmq.InputError, match="one engine in each pool"):
        FleetNetwork(llmq.Fleet({"x": (engine, 2)}), network.mix, network.rates)
    with pytest.raises(llmq.InputError, match="serve every class"):
        FleetNetwork(
            llmq.Fleet(network.fleet.pools, eligible={"a": ("x",)}), network.mix, network.rates
        )


def test_memory_networks_outside_the_model_are_refused():
    network = MEMORY.network()
    for change, match in (({"kv_tokens": None}, "with kv_tokens"), ({"max_seqs": 4}, "max_seqs")):
        with pytest.raises(llmq.InputError, match=match):
            replace(network, engine=network.engine.with_(**change))
    with pytest.raises(llmq.InputError, match="a rate for each class"):
        MemoryNetwork(network.engine, network.mix, {"b": 1.0}, 0.9)
    with pytest.raises(llmq.InputError):
        replace(MEMORY, memory=5).network()


@pytest.mark.parametrize("load", [0.0, 2.0, -1.0, 2.5])
@pytest.mark.parametrize("sketch", [MEMORY, FLEET], ids=["memory", "fleet"])
def test_loads_outside_are_refused(sketch, load):
    with pytest.raises(llmq.InputError, match="load must lie between 0 and 2"):
        sketch.network().at(load)


# What a policy needs -------------------------------------------------------------------------


@pytest.mark.parametrize("networks", ["plain", "memory", "fleet"])
def test_deadlines_of_classes_that_are_not_there_are_refused(networks):
    policy = policies.SLAI(deadlines={"paying": 0.1})
    with pytest.raises(llmq.InputError, match="deadline for class 'paying'"):
        find_instability(policy, networks=networks, tries=1, rng=1)


@pytest.mark.parametrize("need", ["prediction", "reasoning"])
def test_policies_that_need_more_than_lengths_are_refused_by_name(need):
    class Needy(policies.SLAI):
        sees = frozenset({"prompt", need})

    with pytest.raises(llmq.InputError, match=f"slai needs {need}"):
        find_instability(Needy(), tries=1, rng=1)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"networks": "memries"}, "memory"),
        ({"laws": ("tilde",)}, "tiled"),
        ({"laws": ()}, "nothing to search"),
        ({"laws": ("hinge",), "tiles_divide": True}, "nothing to search"),
    ],
)
def test_bad_families_are_refused(fields, match):
    with pytest.raises(llmq.InputError, match=match):
        find_instability(policies.Sarathi(), **fields)


def test_rad_takes_no_fleet():
    with pytest.raises(llmq.InputError, match="rad takes one tile"):
        find_instability(policies.RAD(), networks="fleet", tries=1, rng=1)


# Priorities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(64, 544), (2, 3), (5, 9), (4, 4)])
@pytest.mark.parametrize("load", [Fraction(9, 10), Fraction(7, 10)])
def test_fluid_paths_grow_by_the_factor_of_the_theory(first, second, load):
    chains = ((0, first), (1, second)), ((1, first), (0, second))
    sketch = AgentSketch(chains, 768, ((0, 1), (1, 1), (0, 0), (1, 0)))
    growth = cyclic_agents(768, (first - 1, 1), (second - 1, 1)).growth(load)
    found = fluid_cycle(sketch.fluid(load))
    assert (found is not None) == (growth > 1)
    if found is not None:
        assert found.growth == growth**2  # two halves


@pytest.mark.parametrize("number", range(40))
def test_no_path_grows_where_every_policy_is_stable(number):
    # The Lyapunov programme for two stations proves what the paths must then show.
    rng = np.random.default_rng(number)
    works = [Fraction(int(n), 8) for n in rng.integers(1, 9, size=4)]
    net = Stations(
        (0, 1, 1, 0), works, (1, None, 3, None), (1, 0, 1, 0), tuple(rng.permutation(4).tolist())
    ).scaled(Fraction(9, 10))
    programme = two_station((1, 2, 2, 1), net.work, (1, None, 3, None), net.arrivals)
    if fluid_cycle(net) is not None:
        assert not programme.is_stable


def test_two_station_traps_are_found_and_shrunk():
    found = find_priority_trap(rng=1)
    assert found.sketch.budget == 1
    assert sorted(found.sketch.chains) == [((0, 2), (1, 3)), ((1, 2), (0, 3))]
    assert found.cycle.growth == Fraction(27, 23) ** 2
    assert "a.2 before" in str(found) or "b.2 before" in str(found)
    assert from_json(type(found), to_json(found)) == found
    assert find_priority_trap("entry_first", tries=100, rng=1) is None


@pytest.mark.parametrize("path", sorted((COUNTEREXAMPLES / "priority").glob("*.json")), ids=_stem)
def test_priority_traps_replay(path):
    found = from_json(PriorityTrap, path.read_text(encoding="utf-8"))
    assert fluid_cycle(found.stations) == found.cycle
    assert found.cycle.growth > 1
    assert max(found.stations.loads) == Fraction(9, 10)
    assert found.cycle.exact_slope > 0


@pytest.mark.parametrize("name", ["two-types", "one-type"])
def test_fluid_certificates_are_checked_without_the_package(name, tmp_path):
    found = from_json(
        PriorityTrap, (COUNTEREXAMPLES / "priority" / f"{name}.json").read_text(encoding="utf-8")
    )
    made = certify_fluid(found.stations, found.cycle)
    made.save(tmp_path / "fluid.json")
    said = _checked(tmp_path / "fluid.json")
    assert said.returncode == 0, said.stdout
    assert f"growth {found.cycle.growth}" in said.stdout
    shipped = ROOT / "proofs" / "certificates" / f"fluid-{name}.json"
    assert _checked(shipped).returncode == 0


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("fluid", "growth"), "2/1", "not 2 times"),
        (("fluid", "growth"), "1/2", "not above 1"),
        (("fluid", "times", 0), "1/1", "class"),
        (("fluid", "times", 1), "1/7", "class"),
        (("fluid", "start", "class 2"), "1/1", "class"),
        (("problem", "classes", "class 1", "service"), "1/1", "class"),
        (("problem", "classes", "class 1", "arrivals"), "1/2", "nothing is proved by growth"),
        (("problem", "order"), ["class 1", "class 2", "class 3", "class 4"], "class"),
        (("problem", "order"), ["class 1", "class 2", "class 3"], "every class once"),
        (("problem", "classes", "class 2", "next"), "class 1", "never leave"),
        (("problem", "classes", "class 2", "station"), "station 1", ""),
    ],
)
def test_wrong_fluid_certificates_are_rejected(place, value, reason, tmp_path):
    shipped = ROOT / "proofs" / "certificates" / "fluid-two-types.json"
    body = json.loads(shipped.read_text(encoding="utf-8"))
    del body["seal"]
    part = body
    for key in place[:-1]:
        part = part[key]
    assert part[place[-1]] != value
    part[place[-1]] = value
    body["digest"] = canonical_digest(body["problem"])
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps({**body, "seal": canonical_digest(body)}), encoding="utf-8")
    said = _checked(changed)
    assert said.returncode == 4
    assert reason in said.stdout


def test_every_family_is_drawn():
    pytest.importorskip("matplotlib")
    from llmq.plot import draw_backlog

    for name, lines in (("memory/sarathi", 3), ("fleets/shortest-queue", 5), ("vllm", 4)):
        found = from_json(
            Instability, (COUNTEREXAMPLES / f"{name}.json").read_text(encoding="utf-8")
        )
        ax = draw_backlog(found, requests=40, paths=2, rng=1)
        assert len(ax.lines) == lines


def test_a_trap_diverges_in_the_simulator_too():
    chains = ((0, 2), (1, 8)), ((1, 2), (0, 8))
    trap = find_priority_trap(rng=1)
    trap = replace(trap, sketch=AgentSketch(chains, 1, ((0, 1), (1, 1), (0, 0), (1, 0))))
    kind = Priority.entry_first(trap.agents)
    bad, good = (
        remaining_share(trap, policy, agents=250, replications=2, rng=2) for policy in (None, kind)
    )
    assert bad > 5 * good
    assert bad > 0.1


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"order": "exit_frist"}, "exit_first"),
        ({"load": 1.0}, "load in"),
        ({"stations": 1}, "2 stations"),
        ({"chains": 5}, "types of agents"),
        ({"tries": 0}, "at least 1 try"),
    ],
)
def test_bad_priority_searches_are_refused(fields, match):
    with pytest.raises(llmq.InputError, match=match):
        find_priority_trap(**fields)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"order": (0, 0)}, "an order of all"),
        ({"work": (Fraction(0), Fraction(1))}, "positive work"),
        ({"after": (1, 0)}, "comes back"),
    ],
)
def test_bad_stations_are_refused(change, match):
    fields = {
        "station": (0, 1),
        "work": (HALF, HALF),
        "after": (1, None),
        "arrivals": (HALF, Fraction(0)),
        "order": (0, 1),
    }
    with pytest.raises(llmq.InputError, match=match):
        Stations(**{**fields, **change})
