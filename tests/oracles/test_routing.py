"""Fleets with known values: theory core O6 and O24, and what routing must obey."""

from __future__ import annotations

import random
from fractions import Fraction as F

import pytest

from llmq.errors import InfeasibleError, InputError, UndecidedError
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.region import stability_region
from llmq.theory.region.routing import disaggregate, fleet_region

# O6: milliseconds.
FAST = Engine(BatchTime.affine(base=10, per_token=1 / 20), 2048, conventions=THEORY)
SLOW = Engine(BatchTime.affine(base=16, per_token=1 / 8), 512, conventions=THEORY)
O6 = Fleet({"fast": (FAST, 2), "slow": (SLOW, 3)}, eligible={"rag": ("fast",)})
O6_MIX = {"chat": RequestClass(200, 200), "rag": RequestClass(2000, 100)}
O6_RATES = {"chat": 0.03, "rag": 0.005}


def test_o6_load_flows_prices_weights() -> None:
    region = fleet_region(O6, O6_MIX)
    assert region.kind is Kind.EXACT
    found = region.optimum(O6_RATES)
    assert found.load == F(63_225, 156_352)
    assert found.flows["chat", ("fast",)] == F(20_697, 1_954_400)
    assert 1e3 * found.flows["chat", ("slow",)] == pytest.approx(19.41004912, rel=1e-8)
    assert found.prices == {"chat": F(35_125, 4886), "rag": F(105_375, 2792)}
    assert found.weights == {"fast": F(800, 2443), "slow": F(281, 2443)}
    assert region.contains(O6_RATES)
    assert region.margin(O6_RATES) == pytest.approx(156_352 / 63_225, rel=1e-12)


def test_o6_work_per_request() -> None:
    for engine, s, o, work in (
        (FAST, 200, 200, F(1405, 64)),
        (FAST, 2000, 100, F(29_505, 256)),
        (SLOW, 200, 200, F(125, 2)),
    ):
        region = fleet_region(engine, {"x": RequestClass(s, o)})
        assert region.optimum({"x": 1}).load == work


def test_o6_vertices_and_facets() -> None:
    """Two vertices beside the axes: rag fills the fast pool; both pools full."""
    region = fleet_region(O6, O6_MIX)
    fast, slow, rag = F(2 * 64, 1405), F(3 * 2, 125), F(2 * 256, 29_505)
    assert region.exact_vertices() == [(F(0), rag), (slow, rag), (fast + slow, F(0))]
    assert len(region.facets()) == 2
    for point in region.vertices():
        assert region.load(dict(zip(O6_MIX, point.tolist(), strict=True))) == pytest.approx(1)
    end = region.boundary({"chat": 1})
    assert end["chat"] == pytest.approx(float(fast + slow), rel=1e-12)


def test_o6_binding_names_the_pool() -> None:
    region = fleet_region(O6, O6_MIX)
    resource, sentence = region.binding(O6_RATES)
    assert resource == "tokens"
    more = "a larger token_budget or a faster GPU raises it"
    assert sentence == f"the token budget binds in pool fast: 65 % of the price; {more}"
    only_rag = region.binding({"chat": 0, "rag": 0.001})
    assert only_rag == (
        "tokens",
        f"the token budget binds in pool fast: 100 % of the price; {more}; slow has time to spare",
    )
    assert region.weights({"chat": 0, "rag": 0.001})["slow"] == 0
    assert region.flows(O6_RATES)["rag"] == {("fast",): pytest.approx(0.005)}


def test_equal_pools_are_one_pool() -> None:
    mix = {"a": RequestClass(512, 128), "b": RequestClass(64, 400)}
    engine = Engine(
        BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8),
        512,
        max_seqs=64,
        kv_tokens=60_000,
    )
    rates = {"a": 5.0, "b": 3.0}
    split = fleet_region(Fleet({"p": (engine, 2), "q": (engine, 1)}), mix).optimum(rates)
    assert split.load == stability_region(Fleet({"p": (engine, 3)}), mix).load(rates, exact=True)


def test_facets_give_the_load_everywhere() -> None:
    """The polytope of prices against a fresh optimum at random rates."""
    engine = Engine(BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8), 2048)
    pools = {
        "small": (engine.with_(kv_tokens=60_000), 3),
        "large": (engine.with_(kv_tokens=240_000, max_seqs=128), 1),
    }
    mix = {"a": RequestClass(512, 128), "b": RequestClass(2048, 256), "c": RequestClass(100, 700)}
    region = fleet_region(Fleet(pools, eligible={"c": ("large",)}), mix)
    facets, draw = region.facets(), random.Random(5)
    for _ in range(25):
        rates = {name: F(draw.randint(0, 50), 4) for name in mix}
        worth = max(facet.exactly(list(rates.values())) for facet in facets)
        assert region.optimum(rates).load == worth / region.engines  # type: ignore[arg-type]


# O24: milliseconds.
PREFILL = Engine(BatchTime.affine(base=8, per_token=1 / 16), 4096, conventions=THEORY)
DECODE = Engine(
    BatchTime.affine(base=12, per_token=1 / 50, per_kv=1 / 20_000),
    256,
    kv_tokens=120_000,
    conventions=THEORY,
)
O24_MIX = {"x": RequestClass(1024, 256)}


def test_o24_disaggregation() -> None:
    split = disaggregate(PREFILL, DECODE, O24_MIX, gpus=16)
    assert (split.prefill, split.decode, split.residents) == (9, 7, 104)
    assert split.prefill_rate == F(1, 66)
    assert split.exact_rate == F(3, 22)
    assert 1e3 * split.rate == pytest.approx(136.3636363636, rel=1e-10)
    assert 1e3 * float(split.decode_rate) == pytest.approx(20.2386290041, rel=1e-10)
    assert 1e3 * split.fractional_rate == pytest.approx(138.6356122895, rel=1e-10)
    assert split.ratio == pytest.approx(1.3357495143, rel=1e-9)


def test_o24_shares_and_refusals() -> None:
    twice = {"x": RequestClass(1024, 256), "y": RequestClass(1024, 256)}
    same = disaggregate(PREFILL, DECODE, twice, 16, shares={"x": 0.2, "y": 0.6})
    assert same == disaggregate(PREFILL, DECODE, O24_MIX, 16)
    with pytest.raises(InfeasibleError, match="1 GPUs do not hold"):
        disaggregate(PREFILL, DECODE, O24_MIX, gpus=1)
    with pytest.raises(InputError, match="at least one request class"):
        disaggregate(PREFILL, DECODE, {}, gpus=4)
    fleet = Fleet({"a": (PREFILL, 4)})
    with pytest.raises(InputError, match=r"prefill must be an Engine, got Fleet"):
        disaggregate(fleet, DECODE, O24_MIX, gpus=4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"decode must be an Engine, got {}"):
        disaggregate(PREFILL, {}, O24_MIX, gpus=4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shares are all 0"):
        disaggregate(PREFILL, DECODE, O24_MIX, gpus=4, shares={"x": 0.0})
    with pytest.raises(InputError, match="does not fit"):
        disaggregate(PREFILL, DECODE.with_(kv_tokens=1024), O24_MIX, gpus=4)


def roles(link: float = float("inf")) -> Fleet:
    return Fleet(
        {"p": (PREFILL, 9), "d": (DECODE, 7)}, roles={"p": "prefill", "d": "decode"}, link=link
    )


def test_o24_fleet_bound_is_fluid() -> None:
    """The planning problem does not round the residents down to 104."""
    region = fleet_region(roles(), O24_MIX)
    found = region.optimum({"x": F(1, 10)})  # type: ignore[dict-item]
    context = 1024 + F(257, 2)
    iterations = 256 * context / 120_000
    decode = (iterations * 12 + 256 * F(1, 50) + 256 * context / 20_000) / 7
    assert found.load == max(F(66, 9), decode) / 10
    assert found.flows == {("x", ("p", "d")): F(1, 10)}
    assert region.kind is Kind.OUTER_BOUND
    assert not region.contains({"x": 1.0})
    # Gangs of 1,024 tokens and of 104 residents carry it (fault A7: nothing was known before).
    assert region.contains({"x": 0.01})


def test_a_slow_link_binds() -> None:
    found = fleet_region(roles(link=1024 * 0.01), O24_MIX)
    assert found.load({"x": 0.02}) == pytest.approx(2.0)
    assert found.binding({"x": 0.02})[0] == "link"


def test_colocated_bound_contains_exclusive_phases() -> None:
    """With free transfer and no memory, the same engines do not lose by doing both phases."""
    engine = PREFILL.with_(token_budget=512)
    apart = Fleet({"p": (engine, 3), "d": (engine, 2)}, roles={"p": "prefill", "d": "decode"})
    together = fleet_region(Fleet({"all": (engine, 5)}), O24_MIX)
    assert together.load({"x": 0.05}) <= fleet_region(apart, O24_MIX).load({"x": 0.05})


def test_inner_schedules_decide_inside() -> None:
    engine = Engine(
        BatchTime.affine(base=0.012, per_token=2.5e-5), 2048, kv_tokens=240_000, max_seqs=256
    )
    region = fleet_region(
        Fleet({"a": (engine, 1), "b": (engine.with_(kv_tokens=90_000), 1)}), O24_MIX
    )
    assert region.kind is Kind.OUTER_BOUND
    end = region.boundary({"x": 1.0})["x"]
    assert region.contains({"x": 0.7 * end})
    assert not region.contains({"x": 1.01 * end})
    with pytest.raises(UndecidedError, match="only a bracket is known"):
        region.contains({"x": 0.9999 * end})


def test_class_that_no_pool_serves_is_refused() -> None:
    small = Engine(BatchTime.affine(base=1, per_token=1), 512, kv_tokens=1024)
    with pytest.raises(InputError, match=r"no pool can serve class 'x'.*does not fit"):
        fleet_region(Fleet({"s": (small, 1)}), O24_MIX)
    prefill_only = Fleet({"p": (PREFILL, 1)}, roles={"p": "prefill"})
    with pytest.raises(InputError, match="prefilled but not decoded"):
        fleet_region(prefill_only, O24_MIX)
    both = fleet_region(Fleet({"s": (small, 1), "big": (PREFILL, 1)}), O24_MIX)
    assert any("cannot use s" in line for line in both.assumptions)
    with pytest.raises(InputError, match="a pool cannot be called 'link'"):
        fleet_region(Fleet({"link": (PREFILL, 1)}), O24_MIX)
    with pytest.raises(InputError, match="unknown class 'y'"):
        both.load({"y": 1})
