"""Stability regions with known values: theory core O1, O3, O4, O8, O25 and Theorem U's cases."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction as F

import pytest

from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.latency import nie as nie_law
from llmq.theory.needs.demand import demand
from llmq.theory.region import Region, stability_region
from llmq.theory.region.tiling import best_batch

DAI = BatchTime.tiled(base=11.28e-3, per_tile=35.47e-3, tile=128)


def one(engine: Engine, prompt: int, output: int) -> Region:
    return stability_region(engine, {"x": RequestClass(prompt, output)})


def area(s: int, d: int, chunk: int) -> int:
    """KV area term by term, chunk by chunk."""
    held, total = 0, 0
    while held < s:
        held = min(s, held + chunk)
        total += held
    return total + sum(s + j for j in range(1, d + 1))


def exact_load(region: Region, **rates: F | int) -> F:
    return region.load(rates, exact=True)  # type: ignore[arg-type]


# O1: Dai et al., one class, no memory.


@pytest.mark.parametrize(
    ("s", "o", "rate"),
    [(100, 100, 16.7145468791), (129, 112, 13.8709932606), (128, 112, 13.9287890659)],
)
def test_o1_dai_capacity(s: int, o: int, rate: float) -> None:
    region = one(Engine(DAI, token_budget=512, conventions=THEORY), s, o)
    assert region.kind is Kind.EXACT
    assert region.margin({"x": 1.0}) == pytest.approx(rate, rel=1e-10)
    assert 1 / exact_load(region, x=1) == F(12_800_000, 3829) / (s + o)
    assert region.binding({"x": 1.0})[0] == "tokens"


def test_o1_dai_token_rate() -> None:
    best = best_batch(DAI, 512)
    assert (best.tokens, best.exact_time) == (512, F(15316, 100_000))
    assert best.exact_rate == F(12_800_000, 3829)
    assert best.rate == pytest.approx(3342.9093758, rel=1e-10)
    # Backlog grows at 1.1 of capacity by 0.1 of the token rate.
    assert 0.1 * best.rate == pytest.approx(334.2909376, rel=1e-9)


# O3: RAD, compute binds: the base of an iteration is 0.


def test_o3_rad_theorem_1() -> None:
    law = BatchTime.tiled(base=0, per_tile=4000e-6, tile=128, per_token=5e-6)
    engine = Engine(law, token_budget=1024, conventions=THEORY)
    region = one(engine, 500, 260)
    assert best_batch(law, 1024).exact_rate == F(800_000, 29)
    assert 1 / exact_load(region, x=1) == F(800_000, 29) / 760
    assert region.margin({"x": 1.0}) == pytest.approx(36.2976406534, rel=1e-10)
    assert region.prices({"x": 1.0})["x"] == pytest.approx(27550e-6, rel=1e-12)
    assert region.binding({"x": 1.0})[0] == "compute"


# O4: a budget that the tile does not divide.


def test_o4_tile_mismatch() -> None:
    law = BatchTime.tiled(base=2, per_tile=10, tile=64)
    best = best_batch(law, 100)
    assert (best.tokens, best.exact_rate) == (64, F(16, 3))
    full = F(100) / law.exact()(100)
    assert full == F(50, 11)
    assert 1 - full / best.exact_rate == F(13, 88)
    region = one(Engine(law, token_budget=100, conventions=THEORY), 4, 4)
    assert exact_load(region, x=1) == F(8) * F(3, 16)
    assert region.binding({"x": 1.0})[0] == "compute"


# O8: Nie et al., memory only.

NIE = {"short": RequestClass(1024, 256), "long": RequestClass(2048, 512)}


def nie(**changes: int) -> Engine:
    # The papers count memory in tokens: blocks of one token.
    engine = Engine(
        BatchTime.affine(base=0.03, per_token=0),
        token_budget=8192,
        kv_tokens=60_000,
        kv_block=1,
        prefill_chunk=512,
        conventions=THEORY,
    )
    return engine.with_(**changes)


def test_o8_nie_areas() -> None:
    for request, expected, s, o in zip(
        NIE.values(), (296_576, 1_185_024), (1024, 2048), (256, 512), strict=True
    ):
        need = demand(request, nie())
        assert need.area == need.least_area == expected == area(s, o, 512)


def test_o8_nie_capacity() -> None:
    region = stability_region(nie(), NIE)
    rates = {"short": 0.7, "long": 0.3}
    assert region.margin(rates) == pytest.approx(3.5517014070, rel=1e-10)
    assert exact_load(region, short=F(7, 10), long=F(3, 10)) == F(3, 100) * F(5_631_104, 10) / 60000
    assert region.binding(rates)[0] == "memory"
    # Replicas for 40 requests per second.
    load = region.load({name: 40 * share for name, share in rates.items()})
    assert -(-load // 1) == 12


def test_o8_nie_all_figures() -> None:
    found = nie_law(NIE, {"short": 0.7, "long": 0.3}, kv_tokens=60_000, batch_time=0.03, chunk=512)
    assert found.area == pytest.approx(563_110.4, rel=1e-12)
    assert found.rate == pytest.approx(3.5517014070, rel=1e-10)
    assert found.largest_share == pytest.approx(0.0426666667, rel=1e-9)
    assert found.stable_rate == pytest.approx(3.4001621470, rel=1e-10)


def test_o8_nie_inner_capacity_for_one_class_list() -> None:
    # The two kinds as one class: sorted into gangs, each leaves one of its own peaks free
    # (Nie: the largest peak), so the inner load lies between mu and mu (1 - delta).
    law = [Lengths([a, b], [0.7, 0.3]) for a, b in ((1024, 2048), (256, 512))]
    region = stability_region(nie(), {"all": RequestClass(*law, paired=True)})
    low, high = region.load_bracket({"all": 1.0})
    assert 1 / low == pytest.approx(3.5517014070, rel=1e-10)
    by_hand = 0.03 * (0.7 * 296_576 / (60_001 - 1280) + 0.3 * 1_185_024 / (60_001 - 2560))
    assert high == pytest.approx(by_hand, rel=1e-12)
    assert 3.4001621470 < 1 / high < 1 / low


# O25: Theorem U with all three facets.

U_MIX = {"a": RequestClass(512, 128), "b": RequestClass(2048, 256)}
U_ENGINE = Engine(
    BatchTime.affine(base=0.012, per_token=1 / 40 * 1e-3, per_kv=1e-8),
    token_budget=2048,
    max_seqs=128,
    kv_tokens=120_000,
    kv_block=1,
    prefill_chunk=512,
    conventions=THEORY,
)
U_RATES = {"a": 10.0, "b": 2.0}


def test_o25_demands() -> None:
    need = [demand(request, U_ENGINE) for request in U_MIX.values()]
    assert [d.area for d in need] == [74_304, 562_304]
    assert [d.tokens for d in need] == [640, 2304]
    assert [d.slots for d in need] == [129, 260]


def test_o25_facets() -> None:
    region = stability_region(U_ENGINE, U_MIX)
    works = {facet.resource: facet for facet in region.facets(dominated=True)}
    assert works["memory"].exact == (F(75542, 3125) / 1000, F("0.11945344"))
    assert works["tokens"].exact == (F("0.02049304"), F("0.07672304"))
    assert works["slots"].exact == (F("0.02883679"), F("0.08759804"))
    # Tokens is dominated by memory (and by slots).
    assert [facet.resource for facet in region.facets()] == ["slots", "memory"]


def test_o25_load_and_binding() -> None:
    region = stability_region(U_ENGINE, U_MIX)
    assert region.load(U_RATES) == pytest.approx(0.48064128, rel=1e-12)
    assert exact_load(region, a=10, b=2) == F("0.48064128")
    assert region.margin(U_RATES) == pytest.approx(2.0805537136, rel=1e-10)
    assert region.binding(U_RATES)[0] == "memory"
    assert region.prices(U_RATES) == pytest.approx({"a": 0.02417344, "b": 0.11945344}, rel=1e-12)
    edge = region.boundary(U_RATES)
    assert edge == pytest.approx({"a": 20.805537136, "b": 4.1611074272}, rel=1e-9)
    values = {
        facet.resource: sum(w * r for w, r in zip(facet.weights, U_RATES.values(), strict=True))
        for facet in region.facets(dominated=True)
    }
    expected = {"memory": 0.48064128, "tokens": 0.35837648, "slots": 0.46356398}
    assert values == pytest.approx(expected, rel=1e-10)


# The simulation table of theory core 2.4: simulated paced rates lie inside the bracket.


@pytest.mark.parametrize(
    ("memory", "bound", "paced"),
    [(20_000, 16.506, 16.201), (60_000, 32.404, 32.280), (240_000, 50.633, 49.853)],
)
def test_theorem_u_brackets_the_paced_simulation(memory: int, bound: float, paced: float) -> None:
    law = BatchTime.affine(base=0.012, per_token=2.5e-5)
    engine = Engine(law, token_budget=2048, kv_tokens=memory, kv_block=1, conventions=THEORY)
    region = one(engine, 512, 128)
    low, high = region.load_bracket({"x": 1.0})
    assert 1 / low == pytest.approx(bound, rel=1e-4)
    assert paced < 1 / low
    assert 0.95 * bound < 1 / high < bound
    if memory < 100_000:  # where the simulated schedule is at least as good as ours
        assert 1 / high < paced


# Theorem U's special cases, one test each, with the area written out.


def test_case_dai_is_the_token_facet() -> None:
    law = BatchTime.affine(base=0.01128, per_token=0.03547 / 128)
    region = one(Engine(law, token_budget=512, conventions=THEORY), 129, 112)
    (facet,) = region.facets()
    assert facet.resource == "tokens"
    assert facet.weights[0] == pytest.approx(241 * (0.03547 / 128 + 0.01128 / 512), rel=1e-12)


def test_case_wait_is_the_memory_facet() -> None:
    # d0 = 1/100, d1 = 1e-7, area counts the prefill once: sum_{j=0}^{o} (s + j).
    engine = Engine(
        BatchTime.affine(base=0.01, per_token=0, per_kv=1e-7),
        token_budget=4096,
        kv_tokens=100_000,
        kv_block=1,
        conventions=replace(THEORY, area="wait"),
        prefill_chunk=64,
    )
    mix = {"a": RequestClass(100, 50), "b": RequestClass(200, 100)}
    region = stability_region(engine, mix)
    areas = [sum(s + j for j in range(o + 1)) for s, o in ((100, 50), (200, 100))]
    assert 8 * areas[0] + 4 * areas[1] == 152_000  # Lambda of O7
    expected = F(152_000) * (F(1, 10**7) + F(1, 100) / 100_000)
    assert exact_load(region, a=8, b=4) == expected
    assert region.binding({"a": 8, "b": 4})[0] == "memory"


def test_case_wait_equilibrium_memory() -> None:
    # With M* = 1900000/1231 the load is 1: the equilibrium of O7 fills the memory.
    areas = F(152_000)
    memory = F(1_900_000, 1231)
    assert areas * (F(1, 10**7) + F(1, 100) / memory) == 1


def test_case_dong_cao_is_pure_area() -> None:
    engine = Engine(
        BatchTime.affine(base=1, per_token=0),
        token_budget=4096,
        kv_tokens=1000,
        kv_block=1,
        conventions=replace(THEORY, area="decode_only"),
    )
    region = stability_region(engine, {"a": RequestClass(7, 5), "b": RequestClass(20, 9)})
    w = [o * s + F(o + o * o, 2) for s, o in ((7, 5), (20, 9))]
    assert exact_load(region, a=2, b=1) == (2 * w[0] + w[1]) / 1000
    (facet,) = [f for f in region.facets() if f.resource == "memory"]
    assert facet.exact == (w[0] / 1000, w[1] / 1000)


def test_case_nie_is_area_over_memory() -> None:
    region = stability_region(nie(), NIE)
    (facet,) = [f for f in region.facets() if f.resource == "memory"]
    assert facet.exact == (F(3, 100) * 296_576 / 60_000, F(3, 100) * 1_185_024 / 60_000)


def test_case_rad_has_no_overhead() -> None:
    law = BatchTime.affine(base=0, per_token=2e-5)
    engine = Engine(law, token_budget=512, max_seqs=4, kv_tokens=4096, conventions=THEORY)
    (facet,) = one(engine, 100, 20).facets()
    assert (facet.resource, facet.exact) == ("compute", (F(120 * 2, 10**5),))
