"""Configuration LPs with known values: theory core O1, O2, O4, O13, and Theorem U as their dual."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction as F

import pytest

from llmq.errors import InputError
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.linear._polytope import polytope
from llmq.theory.planning_lp._configurations import Knapsack, TwoPhase, time_of
from llmq.theory.planning_lp._pricing import generate_columns
from llmq.theory.planning_lp._static import Need, PlanningProblem, Pool, optimise
from llmq.theory.region import stability_region
from llmq.theory.region._tiling_lp import tiling_lp
from llmq.theory.region.routing import fleet_region

DAI = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)  # milliseconds


def dai(budget: int) -> Engine:
    return Engine(DAI, token_budget=budget, max_seqs=100, conventions=THEORY)


# O2: Dai et al., section 6: at most 100 requests in a batch.

O2 = {
    1024: [
        (F(0), F(400, 187)),
        (F(116, 187), F(36, 17)),
        (F(92500, 29504), F(9900, 29504)),
        (F(1600, 461), F(0)),
    ],
    512: [
        (F(0), F(400, 187)),
        (F(116, 187), F(36, 17)),
        (F(41300, 15316), F(9900, 15316)),
        (F(12800, 3829), F(0)),
    ],
}


@pytest.mark.parametrize("budget", [512, 1024])
def test_o2_vertices_in_tokens(budget: int) -> None:
    """One class per phase, a token each: the region of (prefill, decode) token rates."""
    pool = Pool(
        1,
        DAI,
        TwoPhase(budget, 100),
        {},
        {"p": Need({"prefill": F(1)}), "d": Need({"decode": F(1)})},
    )
    one = PlanningProblem({"e": pool}, {"p": F(1), "d": F(1)}, {"p": (("e",),), "d": (("e",),)})
    columns = one.columns()

    def price(x: tuple[F, ...]) -> tuple[F, tuple[F, ...]]:
        found = optimise(replace(one, rates={"p": x[0], "d": x[1]}), columns)
        return found.load, (found.prices["p"], found.prices["d"])

    facets, vertices = polytope(2, price)
    assert vertices == O2[budget]
    assert len(facets) == 3


def test_o2_rates_and_prices() -> None:
    region = fleet_region(dai(512), {"x": RequestClass(129, 112)})
    assert region.kind is Kind.EXACT
    found = region.optimum({"x": 1})
    assert 1 / found.load == F(422_400, 33_599_627)
    assert 1e3 * region.margin({"x": 1}) == pytest.approx(12.5715681308, rel=1e-10)
    assert found.token_prices == {
        ("engine", "prefill"): F(3547, 12_800),
        ("engine", "decode"): F(165_179, 422_400),
    }
    # Without the slot limit the same mix gets 13.87 requests per second.
    free = fleet_region(dai(512).with_(max_seqs=None), {"x": RequestClass(129, 112)})
    assert 1e3 * free.margin({"x": 1}) == pytest.approx(13.8709932606, rel=1e-10)


@pytest.mark.parametrize("budget", [128, 512, 1024, 2048])
def test_o2_vertex_c_mix(budget: int) -> None:
    """Degenerate: the mix points at a vertex, so value and feasibility count, not the prices."""
    plan = tiling_lp(dai(budget), {"x": RequestClass(290, 990)}, {"x": 1})
    assert plan.primal == plan.dual == F(935, 2)
    assert list(plan.batches) == [("engine", (29, 99))]


def test_o1_and_o4_are_special_cases() -> None:
    one = Engine(DAI, token_budget=512, conventions=THEORY)
    assert (
        fleet_region(one, {"x": RequestClass(100, 100)}).optimum({"x": 1}).load
        == F(3829, 12_800) * 200
    )
    tile = Engine(BatchTime.tiled(base=2, per_tile=10, tile=64), 100, conventions=THEORY)
    found = fleet_region(tile, {"x": RequestClass(4, 4)}).optimum({"x": 1})
    assert found.load == F(8) * F(3, 16)
    assert {sum(batch) for _, batch in found.batches} == {64}


# O13: small knapsack configurations.

BUFFERS = ("A.prefill", "A.decode", "B.prefill", "B.decode")
SMALL = Knapsack(16, BUFFERS, (4, 1, 4, 1), (((1, 10, 1, 24), 96),))


def o13(a: F = F(1, 10), b: F = F(1, 20)) -> PlanningProblem:
    needs = {
        "A": Need({"A.prefill": F(8), "A.decode": F(6)}),
        "B": Need({"B.prefill": F(16), "B.decode": F(12)}),
    }
    pool = Pool(1, BatchTime.tiled(base=3, per_tile=2, tile=4), SMALL, {}, needs)
    return PlanningProblem({"e": pool}, {"A": a, "B": b}, {"A": (("e",),), "B": (("e",),)})


def test_o13_enumeration() -> None:
    assert len(list(SMALL.enumerate())) == 206
    found = optimise(o13())
    assert found.load == F(21, 10)
    assert [found.token_prices["e", name] for name in BUFFERS] == [
        F(15, 28),
        F(23, 28),
        F(15, 28),
        F(5, 4),
    ]
    assert optimise(o13(F(1, 10) * F(10, 21), F(1, 20) * F(10, 21))).load == 1


def test_o13_column_generation() -> None:
    """From one buffer per column to the same fraction; stopped early, with a bound."""
    found = generate_columns(o13())
    assert (found.optimum.load, found.complete) == (F(21, 10), True)
    assert found.rounds < 12
    assert found.columns < 20
    early = generate_columns(o13(), most_rounds=1)
    assert early.bound <= F(21, 10) < early.optimum.load
    assert not early.complete
    assert early.bound > 0
    with pytest.raises(InputError, match="most_rounds must be at least 1"):
        generate_columns(o13(), most_rounds=0)


def test_a_large_knapsack_gives_a_bracket() -> None:
    """Ten buffers, two budgets: what branch and bound cannot prove is still bounded."""
    buffers = tuple(f"b{i}" for i in range(10))
    large = Knapsack(256, buffers, (1,) * 10, ((tuple(range(1, 200, 20)), 20_000),))
    needs = {"x": Need({b: F(7 + 13 * i, 3) for i, b in enumerate(buffers)})}
    pool = Pool(1, BatchTime.tiled(base=1, per_tile=3, tile=64), large, {}, needs)
    found = generate_columns(PlanningProblem({"e": pool}, {"x": F(1)}, {"x": (("e",),)}))
    assert 0.95 * found.optimum.load < found.bound <= found.optimum.load
    # Without the second budget an iteration of 256 tokens takes 13.
    tokens = sum(needs["x"].tokens.values())
    assert found.optimum.load >= tokens * F(13, 256)
    for batch, _ in ((b, v) for (_, b), v in found.optimum.batches.items()):
        assert not large.fault(batch)


# Theorem U is the dual of the configuration LP with slots and memory as limits.


@pytest.mark.parametrize(
    "law",
    [
        BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8),
        BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128, per_work=1e-9),
        BatchTime.roofline(floor=6e-3, floor_per_token=9e-6, base=1e-3, per_token=2e-5, tile=16),
        BatchTime.table(tokens=[1, 64, 65, 512], seconds=[6e-3, 7e-3, 9e-3, 0.02]),
    ],
    ids=lambda law: law.form,
)
@pytest.mark.parametrize("rates", [(10, 2), (1, 8), (40, 0)])
def test_closed_form_equals_configurations(law: BatchTime, rates: tuple[int, int]) -> None:
    engine = Engine(law, token_budget=512, max_seqs=48, kv_tokens=60_000)
    mix = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
    asked = dict(zip(mix, rates, strict=True))
    closed = stability_region(engine, mix)
    assert fleet_region(engine, mix).optimum(asked).load == closed.load(asked, exact=True)


def test_pure_configurations_times() -> None:
    for law in (DAI, BatchTime.table(tokens=[1, 3, 9], seconds=[1.0, 2.0, 2.5])):
        for n in (1, 2, 3, 5, 9, 12):
            assert time_of(law, n) == law.exact()(n)


# One load, whoever is asked.


@pytest.mark.parametrize("per_second", [10, F(25, 2), F(63, 5), 13])
def test_o2_one_load(per_second: int | F) -> None:
    """Load, bracket, plan and certificate of O2's engine are the same number."""
    mix, rates = {"x": RequestClass(129, 112)}, {"x": F(per_second) / 1000}
    region = stability_region(dai(512), mix)
    load = region.load(rates, exact=True)
    assert load == F(33_599_627, 42_240_000) * per_second / 10
    certificate = region.certificate(rates)
    plan = tiling_lp(dai(512), mix, rates)
    made = stability_region(dai(512), mix, method="configurations")
    assert certificate.load == plan.primal == made.load(rates, exact=True) == load
    assert region.load_bracket(rates) == (region.load(rates),) * 2
    assert made.load_bracket(rates) == (plan.load,) * 2 == (float(load),) * 2
    assert region.load(rates) == pytest.approx(float(load), rel=1e-15)
    assert region.kind is made.kind is Kind.EXACT
    # The pool has one name, and "no" has a proof.
    assert {pool for pool, _ in plan.batches} == set(certificate.body["problem"]["pools"])
    assert region.contains(rates) == made.contains(rates) == (load < 1)
    assert (certificate.claim == "unstable") == (load > 1)


def test_o2_bounds_that_are_weaker() -> None:
    """Counting iterations for the slots, shared or not, is below the truth here."""
    mix, rates = {"x": RequestClass(129, 112)}, {"x": 0.01}
    region = stability_region(dai(512), mix)
    (facet,), printed = region.facets(), region.facets(dominated=True)[-1]
    assert 0.01 * printed.weights[0] < 0.01 * facet.weights[0] == region.load(rates)
    assert region.binding(rates)[0] == "slots"
    # Prices of the batches are those of the optimum.
    found = stability_region(dai(512), mix, method="configurations").optimum(rates)  # type: ignore[attr-defined]
    assert facet.prices.prompt == found.token_prices["engine", "prefill"] == F(3547, 12_800)
    assert facet.prices.decode == found.token_prices["engine", "decode"] == F(165_179, 422_400)


# What is refused.


def test_infeasible_configurations_are_refused() -> None:
    with pytest.raises(InputError, match="no configuration holds a token of 'B'"):
        Knapsack(16, ("A", "B"), (4, 32))
    with pytest.raises(InputError, match="more than 200,000 configurations"):
        list(Knapsack(64, tuple("abcdef"), (1,) * 6).enumerate())
    with pytest.raises(InputError, match="token_budget must be at least 1 token, got 0"):
        TwoPhase(0)
    with pytest.raises(InputError, match="must not decrease"):
        BatchTime.table(tokens=[1, 2], seconds=[2.0, 1.0])


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        ({"x": -1}, "must be a finite number >= 0"),
        ({"x": float("nan")}, "must be a finite number >= 0"),
        ({"y": 1}, "unknown class 'y'"),
    ],
)
def test_bad_rates_are_refused(rates: dict[str, float], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        tiling_lp(dai(512), {"x": RequestClass(10, 10)}, rates)
    with pytest.raises(InputError, match="at least one request class"):
        tiling_lp(dai(512), {}, rates)


def test_nothing_arrives() -> None:
    region = fleet_region(dai(512), {"x": RequestClass(10, 10)})
    assert region.load({"x": 0}) == 0
    with pytest.raises(InputError, match="all rates are 0"):
        region.prices({"x": 0})
