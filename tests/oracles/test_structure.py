"""Structural oracles of theory core 6.2: limits and symmetries of regions of engines and fleets."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction as F

import pytest

from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.needs.demand import demand
from llmq.theory.region import stability_region
from llmq.theory.region._gauge import StabilityRegion

LAW = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
ONE = Engine(LAW, 2048, max_seqs=128, kv_tokens=120_000, prefill_chunk=512, conventions=THEORY)
OTHER = Engine(
    BatchTime.tiled(base=0.02, per_tile=0.004, tile=64),
    512,
    max_seqs=64,
    kv_tokens=60_000,
    conventions=ENGINE,
)
FLEET = Fleet({"one": (ONE, 2), "other": (OTHER, 3)}, eligible={"code": ("one",)})
MIX = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
RATES = {"chat": 10.0, "code": 2.0}
SYSTEMS = pytest.mark.parametrize("system", [ONE, Fleet({"all": (ONE, 3)}), FLEET])
METHODS = pytest.mark.parametrize("method", ["auto", "configurations"])


def exact(region: StabilityRegion, rates: dict[str, float]) -> F:
    return region.load(rates, exact=True)


@SYSTEMS
@METHODS
def test_gauge(system: Engine | Fleet, method: str) -> None:
    region = stability_region(system, MIX, method)
    for k in (2, 7, F(1, 3)):
        scaled = {name: k * F(rate) for name, rate in RATES.items()}
        assert exact(region, scaled) == k * exact(region, RATES)  # type: ignore[arg-type]


@SYSTEMS
@METHODS
def test_splitting_and_merging(system: Engine | Fleet, method: str) -> None:
    split = {"chat": MIX["chat"], "code": MIX["code"], "twin": MIX["chat"]}
    whole, parts = stability_region(system, MIX, method), stability_region(system, split, method)
    for share in (0.0, 2.5, 10.0):
        rates = {"chat": 10.0 - share, "twin": share, "code": 2.0}
        assert exact(parts, rates) == exact(whole, RATES)
        assert parts.prices(rates)["twin"] == parts.prices(rates)["chat"]


@SYSTEMS
@METHODS
def test_permutation(system: Engine | Fleet, method: str) -> None:
    turned = system
    if isinstance(system, Fleet):
        turned = replace(system, pools=dict(reversed(system.pools.items())))
    one = stability_region(system, MIX, method)
    two = stability_region(turned, dict(reversed(MIX.items())), method)
    assert exact(one, RATES) == exact(two, RATES)
    assert one.prices(RATES) == pytest.approx(two.prices(RATES), rel=1e-12)
    assert sorted(p[::-1] for p in one.exact_vertices()) == two.exact_vertices()


def test_large_budgets_leave_the_work_of_the_token_facet() -> None:
    """b_max -> infinity: w^tok = a v + e g + c v / b_max falls to a v (+ e g) like 1 / b_max."""
    for request in MIX.values():
        need = demand(request, ONE)
        rest = need.tokens * F(1, 40_000) + need.least_area * F(1, 10**8)
        for budget in (1024, 2**20, 2**30):
            # Without a KV limit: more tokens than it holds are never computed in an iteration.
            large = ONE.with_(token_budget=budget, kv_tokens=None)
            facets = stability_region(large, {"x": request}).facets(dominated=True)
            (facet,) = [f for f in facets if f.resource == "tokens"]
            assert facet.exact[0] - rest == F(12, 1000) * need.tokens / budget
        pure = large.with_(law=BatchTime.affine(base=0.012, per_token=2.5e-5))
        facets = stability_region(pure, {"x": request}).facets(dominated=True)
        (facet,) = [f for f in facets if f.resource == "tokens"]
        assert facet.weights[0] == pytest.approx(2.5e-5 * float(need.tokens), rel=1e-6)


def test_without_an_intercept_memory_and_slots_never_bind() -> None:
    """c -> 0: the facets of memory and slots lose their part c g / M, c k / k_max, then vanish."""
    need = [demand(request, ONE) for request in MIX.values()]
    for c in (F(1, 10), F(1, 10**6)):
        law = BatchTime.affine(base=float(c), per_token=2.5e-5, per_kv=1e-8)
        facets = stability_region(ONE.with_(law=law), MIX).facets(dominated=True)
        parts = {f.resource: f.exact for f in facets}
        for j, one in enumerate(need):
            work = one.tokens * F(1, 40_000) + one.least_area * F(1, 10**8)
            assert parts["memory"][j] - work == c * one.memory / 120_000
            assert parts["slots"][j] - work == c * one.slots / 128
    law = BatchTime.affine(base=0, per_token=2.5e-5, per_kv=1e-8)
    region = stability_region(ONE.with_(law=law), MIX)
    (facet,) = region.facets(dominated=True)
    assert facet.resource == "compute"
    free = stability_region(ONE.with_(law=law, max_seqs=None, kv_tokens=None), MIX)
    assert exact(region, RATES) == exact(free, RATES)


@METHODS
def test_one_second_for_each_iteration_is_dong_cao(method: str) -> None:
    """e = 0, a = 0, c = 1: rho = sum lambda_k w_k / M with w = l o + (o + o^2) / 2."""
    engine = Engine(
        BatchTime.affine(base=1, per_token=0),
        2**20,
        kv_tokens=1000,
        kv_block=1,
        conventions=replace(THEORY, area="decode_only"),
    )
    mix = {"a": RequestClass(7, 5), "b": RequestClass(20, 9)}
    work = [o * s + F(o + o * o, 2) for s, o in ((7, 5), (20, 9))]
    region = stability_region(engine, mix, method)
    assert exact(region, {"a": 2, "b": 1}) == (2 * work[0] + work[1]) / 1000
    assert region.binding({"a": 2, "b": 1})[0] == "memory"


@METHODS
def test_endless_memory_is_no_memory(method: str) -> None:
    none = stability_region(ONE.with_(kv_tokens=None), MIX, method)
    much = stability_region(ONE.with_(kv_tokens=10**12), MIX, method)
    assert exact(much, RATES) == exact(none, RATES)
    assert much.exact_vertices() == none.exact_vertices()
    pools = {name: (engine.with_(kv_tokens=None), n) for name, (engine, n) in FLEET.pools.items()}
    wide = {name: (engine.with_(kv_tokens=10**12), n) for name, (engine, n) in FLEET.pools.items()}
    one, two = (stability_region(replace(FLEET, pools=p), MIX) for p in (pools, wide))
    assert exact(one, RATES) == exact(two, RATES)
    assert one.exact_vertices() == two.exact_vertices()


@pytest.mark.parametrize("split", [(1, 4), (2, 3), (3, 2), (4, 1)])
@pytest.mark.parametrize(
    "law",
    [
        BatchTime.affine(base=0.012, per_token=2.5e-5),
        BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128),
        BatchTime.table(tokens=[1, 64, 65, 2048], seconds=[6e-3, 7e-3, 9e-3, 0.06]),
    ],
)
def test_disaggregation_never_beats_the_colocated_bound(
    split: tuple[int, int], law: BatchTime
) -> None:
    """Free transfer, equal hardware, no memory: colocated columns contain the exclusive ones."""
    engine = Engine(law, 2048, conventions=THEORY)
    n, m = split
    apart = Fleet({"p": (engine, n), "d": (engine, m)}, roles={"p": "prefill", "d": "decode"})
    together = stability_region(Fleet({"all": (engine, 5)}), MIX)
    region = stability_region(apart, MIX)
    for rates in (
        RATES,
        {"chat": 1.0, "code": 0.0},
        {"chat": 0.0, "code": 1.0},
        {"chat": 1.0, "code": 9.0},
    ):
        assert exact(together, rates) <= exact(region, rates)
    for point in region.exact_vertices():
        assert exact(together, dict(zip(MIX, point, strict=True))) <= 1  # type: ignore[arg-type]
