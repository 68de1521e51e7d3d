"""Counterexamples: found, shrunk, proved by an exact cycle, and replayed from JSON."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.optimality.instability import Instability, draw_sketch, find_instability, replay
from llmq.optimality.networks import Network, Sketch, fitted
from llmq.optimality.networks.limited import limited
from llmq.optimality.saturation import has_cycle, saturated_cycle
from llmq.optimality.verdict import stability_test, theorem
from llmq.policies import parse
from llmq.result import from_json, to_json
from llmq.theory.region._exclusive import exclusive_cycle
from llmq.theory.region.tiling import best_batch

COUNTEREXAMPLES = Path(__file__).parents[3] / "docs" / "counterexamples"


def _place(path):
    return str(path.relative_to(COUNTEREXAMPLES).with_suffix(""))


@pytest.mark.parametrize("number", range(8))
def test_the_cycle_of_exclusive_phases_is_that_of_theory(number):
    # Two derivations that share no code: engine and policy step by step, and arithmetic.
    sketch = draw_sketch(np.random.default_rng(number))
    engine = sketch.network().engine
    request = llmq.RequestClass(*sketch.classes[0])
    found = saturated_cycle(policies.FasterTransformer(), engine, request)
    assert found.exact_rate == exclusive_cycle(engine, request).exact_rate


@pytest.mark.parametrize("number", range(8))
def test_full_batches_reach_the_region_exactly(number):
    sketch = draw_sketch(np.random.default_rng(number), tiles_divide=True)
    engine = sketch.network().engine
    prompt, output = sketch.classes[0]
    cycle = saturated_cycle(policies.Sarathi(), engine, llmq.RequestClass(prompt, output))
    best = best_batch(engine.law, engine.token_budget)
    assert cycle.exact_rate * (prompt + output - 1) == best.exact_rate


def test_the_cycle_of_a_mismatched_budget():
    # O4: 2 + 10 ceil(b / 64), budget 100: full batches serve 50/11 tokens in a unit of time.
    law = llmq.BatchTime.tiled(base=2, per_tile=10, tile=64)
    cycle = saturated_cycle(policies.Sarathi(), llmq.Engine(law, 100), llmq.RequestClass(150, 51))
    assert cycle.exact_rate * 200 == Fraction(50, 11)


def test_the_cycle_of_short_cycles():
    # RAD(1): one prompt of 8 tokens, then 3 decodes alone, each iteration takes 1 s + 1/8 s.
    engine = llmq.Engine(llmq.BatchTime.tiled(base=1, per_tile=0.125, tile=8), 8)
    cycle = saturated_cycle(policies.RAD(tile=8, cycle=1), engine, llmq.RequestClass(8, 4))
    assert cycle.exact_rate == Fraction(8, 36)
    assert cycle.batches == ((8, 0), (0, 1), (0, 1), (0, 1))


def test_who_has_a_cycle():
    fixed, random = llmq.RequestClass(8, 4), llmq.RequestClass(8, llmq.Lengths.uniform(1, 4))
    assert has_cycle(policies.SimpleChunking(), fixed)
    assert not has_cycle(policies.SLAI(), fixed)
    assert not has_cycle(policies.Sarathi(), random)
    with pytest.raises(llmq.InputError, match="has no saturated cycle"):
        saturated_cycle(
            policies.VLLM(version="v0"),
            llmq.Engine(llmq.BatchTime.affine(base=1, per_token=1)),
            fixed,
        )
    short = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=1.0), 8, kv_tokens=10, kv_block=1)
    with pytest.raises(llmq.InputError, match="fit"):
        saturated_cycle(policies.Sarathi(), short, fixed)


@pytest.mark.parametrize("policy", [policies.FCFS(), policies.RR(), policies.PASCAL()])
def test_whole_prompts_leave_gaps(policy):
    # Budget 2, prompts of 2 tokens and one decode: a prompt fills an iteration, its decode and the
    # next prompt do not fit in one, so 3 tokens take 2 iterations: 3 of 4. By rank of arrival.
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.125, per_token=0.0), 2, kv_block=1)
    own = replace(policy, token_budget=None)
    assert has_cycle(own, llmq.RequestClass(2, 2))
    cycle = saturated_cycle(own, engine, llmq.RequestClass(2, 2))
    assert cycle.exact_rate * 3 / 16 == Fraction(3, 4)
    short = replace(own, quantum=2) if hasattr(own, "quantum") else None
    assert short is None or not has_cycle(short, llmq.RequestClass(2, 2))


def test_ranks_by_marks_and_swaps_in_time_are_refused():
    law, request = llmq.BatchTime.affine(base=0.125, per_token=0.0), llmq.RequestClass(2, 2)
    theory = llmq.Engine(law, 4, conventions=llmq.THEORY)
    with pytest.raises(llmq.InputError, match="under marks"):
        saturated_cycle(policies.RR(token_budget=None), theory, request)
    swaps = llmq.Engine(law, 4, kv_tokens=8, kv_block=1, per_swap=0.125)
    with pytest.raises(llmq.InputError, match="time of swaps"):
        saturated_cycle(policies.FCFS(token_budget=None), swaps, request)


def test_exclusive_phases_are_refuted_by_a_proof():
    found = find_instability(policies.FasterTransformer(), tiles_divide=True, rng=1)
    assert found is not None
    assert found.kind is llmq.Kind.EXACT
    assert found.exact_reach < Fraction(9, 10)
    assert len(found.network.mix) == 1
    assert found.network.engine.token_budget <= 4  # small


def test_a_budget_beyond_the_best_batch_is_found():
    found = find_instability(policies.Sarathi(), rng=1)
    assert found is not None
    assert found.kind is llmq.Kind.EXACT
    engine = found.network.engine
    best = best_batch(engine.law, engine.token_budget).tokens
    assert best < engine.token_budget


def test_short_cycles_of_rad_are_found():
    found = find_instability(policies.RAD(cycle=1), tiles_divide=True, rng=1)
    assert found is not None
    assert policies.parse(found.policy).cycle == 1
    assert found.exact_reach < Fraction(9, 10)


def test_nothing_is_found_against_full_batches():
    assert find_instability(policies.Sarathi(), tiles_divide=True, tries=8, rng=1) is None
    assert find_instability(policies.RAD(), tiles_divide=True, tries=8, rng=1) is None


@pytest.mark.parametrize(
    "path",
    sorted(
        p for p in COUNTEREXAMPLES.rglob("*.json") if p.parent.stem not in ("agents", "priority")
    ),
    ids=_place,
)
def test_counterexamples_replay(path):
    found = from_json(Instability, path.read_text(encoding="utf-8"))
    assert from_json(Instability, to_json(found)) == found
    region = llmq.stability_region(found.system, found.network.mix)
    outer, inner = region.load_bracket(found.network.rates)
    assert inner == pytest.approx(1, rel=1e-9)
    assert outer == pytest.approx(getattr(found.network, "least", 1), rel=1e-9)
    again = replay(found, rng=5)
    assert again.test.status == found.test.status == "grows"
    assert found.cycle is None or again.cycle == found.cycle
    # A cycle is exact, what a router carries at most is a bound: either refutes.
    bound = path.stem == "shortest-queue"
    assert again.kind is (llmq.Kind.OUTER_BOUND if bound else llmq.Kind.EXACT)


def test_sketches_shrink_to_smaller_ones():
    sketch = Sketch("tiled", 3, 2, 4, 9, ((5, 6), (2, 3)))
    for simpler in sketch.simpler():
        assert (simpler.size, len(simpler.classes)) < (sketch.size, 3)
        assert isinstance(simpler.network(), Network)
    assert not list(Sketch("affine", 1, 0, 1, 1, ((1, 1),)).simpler())
    with pytest.raises(llmq.InputError, match="a sketch is affine, tiled or hinge"):
        Sketch("cubic", 1, 1, 1, 1, ((1, 1),)).network()


def test_policies_are_fitted_to_the_engine():
    engine = Sketch("hinge", 2, 4, 4, 9, ((5, 6),)).network().engine
    assert fitted(policies.RAD(cycle=3), engine) == policies.RAD(tile=4, chunk=4, cycle=3)
    assert fitted(policies.FCFS(), engine).token_budget is None
    assert fitted(policies.Sarathi(token_budget=5), engine).token_budget == 5
    assert fitted(lambda one: policies.Sarathi(one.token_budget), engine).token_budget == 9


@pytest.mark.parametrize("fields", [{"load": 1.0}, {"load": 0.0}, {"tries": 0}])
def test_bad_searches_are_refused(fields):
    with pytest.raises(llmq.InputError, match="load in"):
        find_instability(policies.Sarathi(), **fields)


def _one_class(number):
    """One class of fixed lengths, and the load at which exclusive phases become unstable."""
    sketch = draw_sketch(np.random.default_rng((number, 7)), tiles_divide=True)
    network = replace(sketch, classes=sketch.classes[:1]).network()
    (request,) = network.mix.values()
    cycle = saturated_cycle(policies.FasterTransformer(), network.engine, request)
    return network, cycle.rate / sum(network.rates.values())


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize(("factor", "truth"), [(0.95, "stable"), (1.05, "grows")])
def test_answers_near_a_known_boundary_are_right(number, factor, truth):
    network, boundary = _one_class(number)
    policy = policies.FasterTransformer()
    found = stability_test(policy, network, factor * boundary, rng=number)
    assert found.status in (truth, "undecided")
    full = stability_test(policies.Sarathi(), network, factor, rng=number)
    assert full.status in (truth, "undecided")


# All cycles ----------------------------------------------------------------------------------

SLOTS = llmq.Engine(llmq.BatchTime.tiled(base=0.0, per_tile=8.0, tile=4), 8, max_seqs=2)


@pytest.mark.parametrize(
    ("law", "budget", "rates"),
    [
        (
            llmq.BatchTime.tiled(base=0.0, per_tile=8.0, tile=4),
            8,
            (Fraction(1, 12), Fraction(1, 8)),
        ),
        (
            llmq.BatchTime.tiled(base=2.0, per_tile=2.0, tile=4),
            12,
            (Fraction(1, 5), Fraction(1, 4)),
        ),
    ],
)
def test_a4_a_saturated_engine_may_have_two_cycles(law, budget, rates):
    """A4: pairs that begin together miss the tile, pairs a step apart fill it."""
    engine, request = llmq.Engine(law, budget, max_seqs=2), llmq.RequestClass(3, 2)
    found = saturated_cycle(policies.Sarathi(), engine, request)
    assert (found.exact_rate, found.exact_largest) == rates
    assert found.complete
    assert found.batches == ((6, 0), (0, 2))
    assert 1 / llmq.stability_region(engine, {"a": request}).load({"a": 1.0}) == pytest.approx(
        float(rates[1])
    )


def test_a4_the_backlog_grows_above_the_least_rate():
    """A4: at 0.09 a second, below 1/8 and above 1/12, the backlog grows by 0.0066 a second."""
    mix = {"a": llmq.RequestClass(3, 2)}

    def left(rate):
        n = 6000
        run = llmq.simulate(
            SLOTS,
            llmq.Workload.poisson({"a": rate}, mix),
            policies.Sarathi(),
            requests=n,
            replications=4,
            rng=11,
        )
        last = run.requests.arrival[:, -1:]
        return ((run.requests.finish > last).sum(axis=1) / last[:, 0]).mean()

    assert left(0.09) == pytest.approx(0.0066, abs=0.002)
    assert left(0.075) < 0.001


def test_a4_states_that_are_too_many_are_said():
    """A4: where not all states are reached nothing is said below the least rate found."""
    engine = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.5), 24, max_seqs=12)
    found = saturated_cycle(policies.Sarathi(), engine, llmq.RequestClass(7, 19), effort=300)
    assert not found.complete
    assert "nothing is said below" in " ".join(found.assumptions)
    full = saturated_cycle(
        policies.Sarathi(), engine.with_(max_seqs=None), llmq.RequestClass(7, 19)
    )
    assert full.complete
    assert full.exact_rate == full.exact_largest


def test_one_queue_of_prefills_and_decodes_has_no_cycle():
    # A decode goes behind all who wait: a longer queue makes another path.
    assert not has_cycle(policies.Sarathi(order="queue"), llmq.RequestClass(3, 2))


@pytest.mark.parametrize("path", sorted(COUNTEREXAMPLES.rglob("*.json")), ids=_place)
def test_e5_no_theorem_where_a_counterexample_refutes_it(path):
    """E5: a theorem names no policy on a counterexample that refutes it."""
    if path.parent.name in ("agents", "priority"):
        return  # stations with agents are not networks of verdicts: no theorem can be asked for
    found = from_json(Instability, path.read_text(encoding="utf-8"))
    assert theorem(parse(found.policy), found.network) is None


@pytest.mark.parametrize(
    "limit", [{"max_seqs": 4}, {"kv_tokens": 60}, {"max_seqs": 9, "kv_tokens": 90}]
)
def test_e5_no_theorem_with_limits(limit):
    """E5: S1, WC and RAD2 are about engines without limits of memory and slots."""
    network = Sketch("tiled", 1, 1, 4, 8, ((4, 3),)).network()
    for policy in (
        policies.Sarathi(),
        policies.SLAI(),
        policies.Priority(),
        policies.MaxWeight(),
        policies.RAD(tile=8, chunk=8),
    ):
        chosen = fitted(policy, network.engine)
        free = Sketch("tiled", 1, 1, 4, 8, ((8, 3),)).network()
        assert theorem(chosen, free) is not None
        assert theorem(chosen, limited(network, **limit)) is None
