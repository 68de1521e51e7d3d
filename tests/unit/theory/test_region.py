"""Stability region: words, refusals, conventions, fleets, round trips."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest

import llmq
from llmq.errors import InputError, UndecidedError
from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind, from_json, to_json
from llmq.theory.linear._polytope import corner_points
from llmq.theory.needs._envelope import corners, envelope
from llmq.theory.needs.demand import demand
from llmq.theory.region import Region, stability_region
from llmq.theory.region.tiling import best_batch

LAW = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
ENGINE_U = Engine(
    LAW,
    token_budget=2048,
    max_seqs=128,
    kv_tokens=120_000,
    kv_block=1,
    prefill_chunk=512,
    conventions=THEORY,
)
MIX = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
RATES = {"chat": 10.0, "code": 2.0}


@pytest.fixture(scope="module")
def region() -> Region:
    return stability_region(ENGINE_U, MIX)


# Demand.


@pytest.mark.parametrize(
    ("area", "lag_area"), [("chunked", 512 + 600), ("wait", 600), ("decode_only", 0)]
)
def test_area_conventions(area: str, lag_area: int) -> None:
    for rules, d in ((ENGINE, 3), (THEORY, 4)):
        engine = Engine(LAW, 2048, prefill_chunk=512, conventions=replace(rules, area=area))
        need = demand(RequestClass(600, 4), engine)
        assert need.tokens == 600 + d
        assert need.slots == 2 + d
        assert need.area == lag_area + sum(600 + j for j in range(1, d + 1))
        assert need.work == 180_000
        assert need.peak == 600 + d


def test_demand_with_other_chunks() -> None:
    assert demand(MIX["chat"], ENGINE_U, chunk=64).chunks == 8
    assert demand(MIX["chat"], ENGINE_U).chunk == 512


def test_demand_of_huge_lengths_does_not_overflow() -> None:
    big = 3_000_000_000
    need = demand(RequestClass(big, 2), Engine(LAW, 2 * big))
    assert need.work == F(big**2, 2)
    assert need.area == big + big + 1


def test_weighted_lengths_are_floats_and_say_so() -> None:
    mix = {"x": RequestClass(Lengths([10, 20], [0.25, 0.75]), 5)}
    region = stability_region(ENGINE_U, mix)
    assert region.load({"x": 1.0}) > 0
    assert "means of weighted lengths are floats" in region.assumptions
    with pytest.raises(InputError, match="exact=True needs lengths whose values weigh the same"):
        region.load({"x": 1.0}, exact=True)


# Envelope.


@pytest.mark.parametrize(
    ("law", "budget", "tokens"),
    [
        (BatchTime.affine(base=1, per_token=2), 512, (1, 512)),
        (BatchTime.affine(base=1, per_token=2), 1, (1,)),
        (BatchTime.tiled(base=11.28, per_tile=35.47, tile=128), 512, (1, 128, 512)),
        (BatchTime.tiled(base=11.28, per_tile=35.47, tile=128), 600, (1, 128, 512, 600)),
        (BatchTime.tiled(base=11.28, per_tile=35.47, tile=128), 100, (1, 100)),
        (BatchTime.roofline(floor=6, base=1, per_token=0.1), 512, (1, 50, 512)),
        (BatchTime.roofline(floor=6.05, base=1, per_token=0.1), 512, (1, 50, 51, 512)),
        (BatchTime.table(tokens=[4, 8, 9, 16], seconds=[1, 2, 5, 6]), 16, (1, 4, 8, 16)),
        (BatchTime.table(tokens=[4, 8], seconds=[1, 2]), 64, (1, 4, 64)),
    ],
)
def test_vertices_of_the_envelope(law: BatchTime, budget: int, tokens: tuple[int, ...]) -> None:
    found = envelope(law, budget)
    assert found.tokens == tokens
    assert found.seconds == tuple(law.exact().curve(n) for n in tokens)


def test_few_candidates_for_large_budgets() -> None:
    law = BatchTime.roofline(floor=6e-3, floor_per_token=1e-6, base=1e-3, per_token=2e-5, tile=64)
    assert len(corners(law, 16_384)) < 40
    assert len(corners(BatchTime.tiled(base=1, per_tile=1, tile=64), 16_384)) == 3


def test_best_batch_refuses() -> None:
    with pytest.raises(InputError, match="best_batch: law must be a BatchTime, got 3"):
        best_batch(3, 64)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="token_budget must be at least 1 token, got 0"):
        best_batch(LAW, 0)


def test_best_batch_time() -> None:
    best = best_batch(BatchTime.tiled(base=2, per_tile=10, tile=64), 100)
    assert (best.time, best.rate) == (12.0, pytest.approx(16 / 3))


# Kind and conventions.


def test_kind_follows_the_limits() -> None:
    free = Engine(BatchTime.affine(base=1, per_token=1), 64)
    for engine, kind in (
        (free, Kind.EXACT),
        (free.with_(max_seqs=4), Kind.OUTER_BOUND),
        (free.with_(kv_tokens=64), Kind.OUTER_BOUND),
        # KV reads cost time and depend on the chunks: the least area need not be reached.
        (free.with_(law=BatchTime.affine(base=1, per_token=1, per_kv=0.1)), Kind.OUTER_BOUND),
        (
            free.with_(
                law=BatchTime.affine(base=1, per_token=1, per_kv=0.1),
                conventions=replace(ENGINE, area="wait"),
            ),
            Kind.EXACT,
        ),
    ):
        region = stability_region(engine, {"x": RequestClass(8, 4)})
        assert region.kind is kind
        assert (region.inner is None) is (kind is Kind.EXACT)
        if kind is Kind.EXACT:
            assert region.load_bracket({"x": 0.01}) == (region.load({"x": 0.01}),) * 2


def test_equal_gaps_may_be_carried_at_load_one() -> None:
    """Why `contains` claims nothing there: one request a second, each of one second."""
    engine = Engine(BatchTime.affine(base=0, per_token=0.25), 64, conventions=THEORY)
    mix = {"x": RequestClass(3, 1)}
    region = stability_region(engine, mix)
    assert region.load({"x": 1}, exact=True) == 1
    assert not region.contains({"x": 1})
    trace = llmq.Trace(np.arange(50.0), [3] * 50, [1] * 50)
    times = llmq.simulate(engine, trace, llmq.policies.FasterTransformer()).requests
    assert np.all(times.finish - times.arrival == 1.0)


def test_the_pool_keeps_its_name() -> None:
    for system, name in ((ENGINE_U, "engine"), (Fleet({"h100": (ENGINE_U, 3)}), "h100")):
        region = stability_region(system, MIX)
        (pool,) = region.certificate(RATES).body["problem"]["pools"]
        batches = llmq.tiling_lp(system, MIX, RATES).batches
        assert {key for key, _ in batches} == {pool} == {name}


def test_exact_region_decides_everywhere() -> None:
    region = stability_region(
        Engine(BatchTime.affine(base=0, per_token=0.5), 64, conventions=THEORY),
        {"x": RequestClass(3, 1)},
    )
    assert region.contains({"x": 0.499})
    assert not region.contains({"x": 0.5})  # nothing to spare
    assert region.contains({"x": F(499, 1000)})
    assert not region.contains({"x": F(1, 2)})
    assert not region.contains({"x": 0.6})


def test_two_kv_rates_bracket() -> None:
    law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8, per_kv_mixed=4e-8)
    both = stability_region(ENGINE_U.with_(law=law), MIX)
    # Decodes read at 1e-8; the chunks hold 512, and 512 + 1024 + 1536 + 2048: at 4e-8.
    exact = {name: F(rate) for name, rate in RATES.items()}
    more = F(3, 10**8) * (10 * 512 + 2 * 5120)
    assert both.load(exact, exact=True) == F("0.48064128") + more == F("0.48110208")
    slow = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=4e-8)
    worse = stability_region(ENGINE_U.with_(law=slow), MIX)
    assert both.load_bracket(RATES)[1] == worse.load_bracket(RATES)[1]


def test_prompts_that_share_a_slot_are_not_charged_one_each() -> None:
    # Four prompts of 512 fit one batch and share its slot.
    engine = ENGINE_U.with_(kv_tokens=None, max_seqs=8)
    mix = {"x": RequestClass(512, 4)}
    theory = stability_region(engine, mix)
    load, (low, _) = theory.load({"x": 1.0}), theory.load_bracket({"x": 1.0})
    rest = 516 * 2.5e-5 + 1e-8 * (5 * 512 + 10)
    printed = 0.012 * 5 / 8 + rest
    assert load == low == pytest.approx(0.012 * (4 + 512 / 2041) / 8 + rest, rel=1e-12)
    assert theory.facets(dominated=True)[-1].weights[0] == pytest.approx(printed, rel=1e-12)
    assert "all prompts of an iteration share one slot; a decode takes one each" in (
        theory.assumptions
    )
    apart = replace(THEORY, prefill_slots="per_request")
    literal = stability_region(engine.with_(conventions=apart), mix)
    assert literal.load_bracket({"x": 1.0})[0] == literal.load({"x": 1.0})
    assert literal.load({"x": 1.0}) == pytest.approx(printed, rel=1e-12)


def test_a_load_above_one_by_the_printed_facet_can_be_carried() -> None:
    # Prompts of 4 in two slots: with a slot for each prompt the load would be twice as large.
    engine = Engine(BatchTime.affine(base=1, per_token=0), 512, max_seqs=2, conventions=THEORY)
    region = stability_region(engine, {"x": RequestClass(4, 1)})
    rates = {"x": F(5, 4)}
    # A decode takes one slot of two: 500 iterations of 2 decodes, and 500 others for 4 * 1000.
    assert region.kind is Kind.EXACT
    assert region.load(rates, exact=True) == F(5, 4) * (1 + F(4, 511)) / 2 < 1
    assert region.contains(rates)
    assert region.certificate(rates).claim == "optimal_load"
    assert region.facets(dominated=True)[-1].exactly([rates["x"]]) == F(5, 4)


def test_many_measured_points_and_memory_keep_a_bound_for_every_policy() -> None:
    # More batches than three prices are enumerated for: the count for an affine law.
    tokens = list(range(1, 202, 2))
    law = BatchTime.table(tokens=tokens, seconds=[50 + (n / 10) ** 2 for n in tokens])
    engine = Engine(law, 201, max_seqs=20, kv_tokens=2000, kv_block=1, conventions=THEORY)
    mix, rates = {"x": RequestClass(60, 40)}, {"x": 0.001}
    region = stability_region(engine, mix)
    made = stability_region(engine, mix, method="configurations")
    assert len(made.columns["engine"]) > 150
    assert 0.98 * made.load(rates) < region.load(rates) <= made.load(rates)
    low = stability_region(engine.with_(law=BatchTime.affine(base=50, per_token=0)), mix)
    assert low.load(rates) < region.load(rates)


def test_more_slots_than_tokens_never_bind() -> None:
    engine = Engine(BatchTime.affine(base=1, per_token=1), 4, max_seqs=5, conventions=THEORY)
    region = stability_region(engine, {"x": RequestClass(8, 4)})
    assert region.load({"x": 1}, exact=True) == 12 + 3
    assert region.binding({"x": 1})[0] == "tokens"


# Words.


@pytest.mark.parametrize(
    ("changes", "resource", "sentence"),
    [
        (
            {},
            "memory",
            "KV memory binds: 47 % of the price of a code request; more KV memory, "
            "quantised KV or shorter requests raise the capacity",
        ),
        (
            {"max_seqs": 16},
            "slots",
            "the slots bind: 85 % of the price of a chat request; a larger "
            "max_seqs raises the capacity",
        ),
        (
            {"max_seqs": None, "kv_tokens": None, "token_budget": 512},
            "tokens",
            "the token budget "
            "binds: 47 % of the price of a chat request; a larger token_budget or a faster GPU "
            "raises it",
        ),
        (
            {"law": BatchTime.affine(base=0, per_token=1e-4)},
            "compute",
            "compute binds: 100 % of "
            "the price of a chat request; no budget limits it: only a faster "
            "GPU raises the capacity",
        ),
    ],
)
def test_binding_in_words(changes: dict[str, object], resource: str, sentence: str) -> None:
    region = stability_region(ENGINE_U.with_(**changes), MIX)
    assert region.binding(RATES) == (resource, sentence)


def test_binding_names_only_classes_that_come(region: Region) -> None:
    assert "chat request" in region.binding({"chat": 1.0, "code": 0})[1]


def test_repr_is_one_line(region: Region) -> None:
    assert repr(region) == (
        "Region(outer_bound, settings: alone chat < 34.76, code < 8.371 req/s; 2 facets: slots, "
        "memory; 1 engine)"
    )


def test_undecided_says_by_how_much(region: Region) -> None:
    low, high = region.load_bracket(RATES)
    between = {name: rate / math.sqrt(low * high) for name, rate in RATES.items()}
    with pytest.raises(UndecidedError, match=r"^only a bracket is known here: .* at least") as info:
        region.contains(between)
    assert (info.value.low, info.value.high) == region.load_bracket(between)


def test_assumptions_name_the_conventions(region: Region) -> None:
    assert region.assumptions[0] == (
        "conventions theory: first token one iteration after the prefill, KV area chunked, "
        "prefill slots one"
    )
    assert region.assumptions[1] == (
        "at these settings: budget 2048 tokens, 128 slots, prompts in chunks of at most 512 "
        "tokens; no prefix reuse"
    )
    assert region.source == "theorem-u"
    assert region.provenance.arguments["classes"] == "chat, code"


# Points of the region.


def test_vertices_of_the_example(region: Region) -> None:
    memory, slots = (24.17344e-3, 119.45344e-3), (28.768026985945e-3, 87.322987943779e-3)
    both = np.linalg.solve(np.asarray([memory, slots]), np.ones(2))
    expected = [[0, 1 / memory[1]], both, [1 / slots[0], 0]]
    assert region.vertices() == pytest.approx(np.asarray(expected), rel=1e-9)


def test_rates_of_zero(region: Region) -> None:
    none = {"chat": 0, "code": 0}
    assert region.load(none) == 0
    assert region.margin(none) == math.inf
    assert region.contains(none)
    # A direction is a ray: classes that are not named stay at 0.
    assert region.boundary({"code": 3}) == pytest.approx({"chat": 0, "code": 8.37146255})


@pytest.mark.parametrize(
    "method", ["load", "margin", "contains", "binding", "prices", "load_bracket", "certificate"]
)
def test_b18_a_missing_rate_is_refused(region: Region, method: str) -> None:
    with pytest.raises(InputError, match="the rate of class 'code' is missing: give it, 0 if"):
        getattr(region, method)({"chat": 10})


def test_rates_may_be_fractions_or_numpy(region: Region) -> None:
    third, one = {"chat": F(1, 3), "code": 0}, {"chat": 1, "code": 0}
    assert region.load(third, exact=True) == region.load(one, exact=True) / 3
    assert region.load({"chat": np.float64(10.0), "code": np.int64(2)}) == region.load(RATES)


def test_too_many_vertices() -> None:
    rows = [tuple(F(i * j + 1) for j in range(12)) for i in range(12)]
    with pytest.raises(InputError, match="12 classes and 12 facets give up to 2,704,155 vertices"):
        corner_points(rows)


def test_many_classes_with_few_facets_are_fine() -> None:
    mix = {f"c{j}": RequestClass(100 * j + 1, 10 + j) for j in range(12)}
    assert len(stability_region(ENGINE_U, mix).vertices()) >= 12


def test_round_trip_and_immutability(region: Region) -> None:
    assert from_json(Region, to_json(region)) == region
    with pytest.raises(FrozenInstanceError):
        region.kind = Kind.EXACT  # type: ignore[misc]


# Fleets.


def test_equal_engines_scale(region: Region) -> None:
    fleet = stability_region(Fleet({"pool": (ENGINE_U, 3)}), MIX)
    assert fleet.load(RATES, exact=True) == region.load(RATES, exact=True) / 3
    assert fleet.margin(RATES) == pytest.approx(3 * region.margin(RATES))
    assert fleet.vertices() == pytest.approx(3 * region.vertices())
    low, high = region.load_bracket(RATES)
    assert fleet.load_bracket(RATES) == pytest.approx((low / 3, high / 3))
    spent = sum(RATES[name] * price for name, price in fleet.prices(RATES).items())
    assert spent == pytest.approx(fleet.load(RATES))
    assert repr(fleet).endswith("3 engines)")


POOL = {"a": (ENGINE_U, 1), "b": (ENGINE_U, 2)}


@pytest.mark.parametrize(
    ("engine", "mix", "options", "message"),
    [
        (ENGINE_U, {}, {}, r"needs at least one request class"),
        (ENGINE_U, [MIX["chat"]], {}, r"mix must be a mapping"),
        (ENGINE_U, {"x": 512}, {}, r"mix\['x'\] must be a RequestClass, got 512"),
        (LAW, MIX, {}, r"must be an Engine or a Fleet, got BatchTime"),
        (Fleet(POOL), MIX, {"method": "closed_form"}, r"has 2 pools, and .* use method='auto'"),
        (
            Fleet({"a": (ENGINE_U, 1)}, roles={"a": "decode"}),
            MIX,
            {"method": "closed_form"},
            r"has a pool that only does decode, and the closed form",
        ),
        (
            Fleet({"a": (ENGINE_U, 1)}, roles={"a": "decode"}),
            MIX,
            {},
            r"class 'chat' may be prefilled but not decoded, or the reverse",
        ),
        (ENGINE_U, MIX, {"method": "closed"}, r"did you mean 'closed_form'\?"),
        (
            ENGINE_U.with_(kv_tokens=2300, kv_block=16),
            MIX,
            {},
            r"class 'code' does not fit: a request holds up to 2,304 KV tokens \(144 blocks of "
            r"16\), the engine has 2,300 \(143 blocks\); raise kv_tokens",
        ),
    ],
)
def test_bad_regions(engine: Engine, mix: object, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stability_region(engine, mix, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["load", "margin", "contains", "prices", "binding", "boundary"])
@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"caht": 1.0}, r"rate for unknown class 'caht'; did you mean 'chat'\?"),
        ({"chat": -1.0}, r"rate of class 'chat' must be a finite number >= 0 .* got -1.0"),
        ({"chat": math.nan}, r"got nan"),
        ({"chat": math.inf}, r"got inf"),
        ({"chat": "fast"}, r"got 'fast'"),
        ({"chat": None}, r"got None"),
        (3.0, r"rates must map classes to requests per second, e.g. \{'chat': 1.0\}, got float"),
    ],
)
def test_bad_rates(region: Region, method: str, rates: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(region, method)(rates)


@pytest.mark.parametrize("method", ["prices", "binding", "boundary"])
def test_nothing_comes(region: Region, method: str) -> None:
    with pytest.raises(InputError, match=r"all rates are 0|positive rate"):
        getattr(region, method)({"chat": 0, "code": 0})


# Inner bound.


def test_one_slot_or_a_full_memory_still_leaves_a_schedule() -> None:
    law = BatchTime.affine(base=1, per_token=0.5)
    request = {"x": RequestClass(8, 4)}
    # One request at a time: one prefill iteration, 4 decodes.
    alone = (1 + 4) + (8 + 1 * 4) * 0.5
    tight = Engine(law, 64, kv_tokens=12, kv_block=1, conventions=THEORY)
    apart = tight.with_(
        kv_tokens=None, max_seqs=1, conventions=replace(THEORY, prefill_slots="per_request")
    )
    for engine in (tight, apart):
        low, high = stability_region(engine, request).load_bracket({"x": 1.0})
        assert high == pytest.approx(alone)
        assert low <= high
    # Prompts that share the slot fill batches of 64; decodes still come one by one.
    shared = stability_region(apart.with_(conventions=THEORY), request)
    assert shared.load_bracket({"x": 1.0}) == (8 / 64 + 4 + 12 * 0.5,) * 2


def test_inner_bound_of_a_paced_mix_by_hand() -> None:
    law = BatchTime.affine(base=1, per_token=0)
    engine = Engine(law, 10**6, kv_tokens=4000, kv_block=1, prefill_chunk=100, conventions=THEORY)
    mix = {"a": RequestClass(100, 10), "b": RequestClass(50, 20)}
    areas = [100 + 1000 + 55, 50 + 1000 + 210]
    high = stability_region(engine, mix).load_bracket({"a": 0.5, "b": 0.5})[1]
    mixed = sum(areas) / 2 / (4000 - 110 - 70 + 1)
    gangs = areas[0] / 2 / (4001 - 110) + areas[1] / 2 / (4001 - 70)
    assert high == pytest.approx(min(mixed, gangs), rel=1e-12)
    assert gangs < mixed


MIXED = (RequestClass(300, 3), RequestClass(1, 40))


def test_inner_bound_counts_whole_blocks() -> None:
    law = BatchTime.affine(base=1, per_token=0)
    engine = Engine(law, 4096, kv_tokens=1610, prefill_chunk=64, conventions=THEORY)
    high = stability_region(engine, {"x": RequestClass(64, 10)}).load_bracket({"x": 1.0})[1]
    # 100 blocks; a request holds up to 5 of them, and up to 15 tokens too many in 11 iterations.
    assert high == pytest.approx((64 + 640 + 55 + 15 * 11) / (1600 - 80 + 16), rel=1e-12)


def test_inner_bound_mixes_what_needs_different_resources() -> None:
    # Memory binds the first class alone, slots the second: mixing beats sorting.
    law = BatchTime.affine(base=1, per_token=0)
    engine = Engine(
        law, 10**6, max_seqs=30, kv_tokens=4000, kv_block=1, prefill_chunk=100, conventions=THEORY
    )
    region = stability_region(engine, dict(zip("ab", MIXED, strict=True)))
    high = region.load_bracket({"a": 0.5, "b": 0.5})[1]
    assert high == pytest.approx((6 + 41) / 2 / (30 - 1), rel=1e-12)
    # With more slots the memory binds the mix: room for both peaks.
    wide = stability_region(engine.with_(max_seqs=100), dict(zip("ab", MIXED, strict=True)))
    area = 600 + 900 + 6 + 1 + 40 + 820
    assert wide.load_bracket({"a": 0.5, "b": 0.5})[1] == pytest.approx(
        area / 2 / (4000 - 303 - 41 + 1), rel=1e-12
    )
    alone = [region.load_bracket(rates)[1] for rates in ({"a": 0.5, "b": 0}, {"a": 0, "b": 0.5})]
    assert high < sum(alone)


def test_many_kinds_are_rounded_up() -> None:
    rng = np.random.default_rng(3)
    prompts, outputs = rng.integers(1, 900, 3000), rng.integers(1, 300, 3000)
    engine = ENGINE_U.with_(law=BatchTime.tiled(base=0.01, per_tile=0.02, tile=128))
    listed = RequestClass(Lengths.empirical(prompts), Lengths.empirical(outputs), paired=True)
    region = stability_region(engine, {"x": listed})
    low, high = region.load_bracket({"x": 1.0})
    exact_kinds = RequestClass(
        Lengths.empirical(prompts[:1000]), Lengths.empirical(outputs[:1000]), paired=True
    )
    few = stability_region(engine, {"x": exact_kinds}).load_bracket({"x": 1.0})
    assert low < high < 1.25 * low
    assert few[1] / few[0] < high / low  # rounding costs something, and is on the safe side
    free = stability_region(engine, {"x": RequestClass(listed.prompt, listed.output)})
    assert free.load_bracket({"x": 1.0})[1] < 1.25 * free.load({"x": 1.0})


def test_heavy_tails_keep_a_useful_bracket() -> None:
    laws = (
        Lengths.lognormal(mean=500, sigma=0.9, low=4, high=8000),
        Lengths.lognormal(mean=200, sigma=0.7, high=2000),
    )
    low, high = stability_region(ENGINE_U, {"x": RequestClass(*laws)}).load_bracket({"x": 1.0})
    assert low < high < 1.15 * low


def test_a_region_certifies_its_load(tmp_path) -> None:
    """The certificate of the closed form and the load agree, as fractions; the checker accepts."""
    law = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
    region = stability_region(Engine(law, token_budget=512), {"x": RequestClass(129, 112)})
    for rate in (5.0, 20.0):
        found = region.certificate({"x": rate})
        found.save(tmp_path / "c.json")
        checker = Path(__file__).parents[3] / "proofs" / "check.py"
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(checker), str(tmp_path / "c.json")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert found.claim == ("unstable" if rate > 14 else "optimal_load")
