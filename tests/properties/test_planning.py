"""Fleets and configuration programmes: structure, and solvers that check each other.

The rational optimum against its own dual over *every* configuration, against enumeration, HiGHS,
the dual simplex and cvxpy; regions of random fleets against the laws that any region obeys.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.linear import _lp as lp
from llmq.theory.linear._exact import solve_exact
from llmq.theory.linear._polytope import corner_points, polytope
from llmq.theory.planning_lp._configurations import Knapsack, TwoPhase, time_of
from llmq.theory.planning_lp._cvxpy import planning_cvxpy
from llmq.theory.planning_lp._pricing import generate_columns
from llmq.theory.planning_lp._static import (
    Need,
    Optimum,
    PlanningProblem,
    Pool,
    build_program,
    optimise,
)
from llmq.theory.region import stability_region
from llmq.theory.region._pools import need_of
from llmq.theory.region._tiling_lp import tiling_lp
from llmq.theory.region.routing import FleetRegion, fleet_region

FEW = settings(max_examples=25)
quarters = st.integers(0, 20).map(lambda n: n / 4)
positive = st.integers(1, 20).map(lambda n: n / 4)


@st.composite
def laws(draw: st.DrawFn) -> BatchTime:
    form = draw(st.sampled_from(["affine", "tiled", "table"]))
    if form == "affine":
        reads = {"per_kv": draw(st.sampled_from([0.0, 0.01])), "per_work": 0.0}
        return BatchTime.affine(base=draw(quarters), per_token=draw(positive), **reads)
    if form == "tiled":
        tile = draw(st.integers(1, 7))
        return BatchTime.tiled(base=draw(quarters), per_tile=draw(positive), tile=tile)
    tokens = sorted(draw(st.sets(st.integers(1, 30), min_size=2, max_size=6)))
    seconds = sorted(draw(st.lists(positive, min_size=len(tokens), max_size=len(tokens))))
    return BatchTime.table(tokens=tokens, seconds=seconds)


Case = tuple[Fleet, dict[str, RequestClass], dict[str, float]]


@st.composite
def fleets(draw: st.DrawFn, most: int = 3) -> Case:
    """Pools that differ, some classes only on some of them."""
    length = st.integers(1, 30)
    n = draw(st.integers(1, most))
    mix = {f"c{j}": RequestClass(draw(length), draw(length)) for j in range(n)}
    peak = max(request.peak for request in mix.values())
    pools = {}
    for i in range(draw(st.integers(1, 3))):
        engine = Engine(
            draw(laws()),
            token_budget=draw(st.integers(1, 40)),
            max_seqs=draw(st.none() | st.integers(1, 12)),
            kv_tokens=draw(st.none() | st.integers(peak + 1, 8 * peak)),
            kv_block=1,
            conventions=draw(st.sampled_from([ENGINE, THEORY])),
        )
        pools[f"p{i}"] = (engine, draw(st.integers(1, 3)))
    eligible = {}
    if draw(st.booleans()):
        some = st.sets(st.sampled_from(sorted(pools)), min_size=1)
        eligible["c0"] = tuple(sorted(draw(some)))
    rates = {name: draw(st.integers(0, 8)) / 8 for name in mix}
    assume(any(rates.values()))
    return Fleet(pools, eligible=eligible), mix, rates


def exact_load(fleet: Fleet, mix: dict[str, RequestClass], rates: dict[str, float]) -> F:
    return fleet_region(fleet, mix).load(rates, exact=True)


# Primal = dual, exactly, and the dual holds for every configuration.


def every_batch(pool: Pool) -> list[tuple[int, ...]]:
    assert pool.batches is not None
    if isinstance(pool.batches, Knapsack):
        return list(pool.batches.enumerate())
    sizes = range(pool.batches.token_budget + 1)
    return [x for x in itertools.product(sizes, sizes) if not pool.batches.fault(x)]


def check_duality(problem: PlanningProblem, found: Optimum) -> None:
    assert found.load == sum(found.prices[n] * rate for n, rate in problem.rates.items())
    if found.load:
        assert sum(found.weights[h] * p.engines for h, p in problem.pools.items()) == 1
    for h, pool in problem.pools.items():
        fixed = sum(c * found.limit_prices[h, k] for k, c in pool.limits.items())
        prices = [found.token_prices[h, k] for k in pool.buffers]
        assert min([*prices, fixed, found.weights[h]]) >= 0
        for batch in every_batch(pool):
            worth = sum(p * x for p, x in zip(prices, batch, strict=True)) + fixed
            assert worth <= found.weights[h] * time_of(pool.law, sum(batch))
    # The primal side, added up.
    for name, rate in problem.rates.items():
        assert sum(v for (klass, _), v in found.flows.items() if klass == name) >= rate
    for h, pool in problem.pools.items():
        used = {batch: v for (name, batch), v in found.batches.items() if name == h}
        asked = [(pool.needs[k], v) for (k, route), v in found.flows.items() if h in route]
        for i, buffer in enumerate(pool.buffers):
            done = sum(batch[i] * v for batch, v in used.items())
            assert done >= sum(need.tokens.get(buffer, 0) * v for need, v in asked)
        for limit, size in pool.limits.items():
            assert size * sum(used.values()) >= sum(need.limits[limit] * v for need, v in asked)
        busy = sum(time_of(pool.law, sum(batch)) * v for batch, v in used.items())
        busy += sum(need.seconds * v for need, v in asked)
        assert busy <= found.load * pool.engines


@given(fleets())
@FEW
def test_primal_equals_dual_over_every_configuration(case: Case) -> None:
    fleet, mix, rates = case
    region = fleet_region(fleet, mix)
    check_duality(region.at(rates), region.optimum(rates))


# Enumeration = column generation, in rationals.


@st.composite
def knapsacks(draw: st.DrawFn) -> PlanningProblem:
    n = draw(st.integers(1, 4))
    buffers = tuple(f"b{i}" for i in range(n))
    budget = draw(st.integers(4, 10))
    steps = tuple(draw(st.integers(1, 3)) for _ in buffers)
    rows = [
        (tuple(draw(st.integers(0, 6)) for _ in buffers), draw(st.integers(18, 60)))
        for _ in range(draw(st.integers(0, 2)))
    ]
    batches = Knapsack(budget, buffers, steps, tuple(rows))
    need = st.integers(0, 9).map(lambda k: F(k, 2))
    needs = {f"c{j}": Need({b: draw(need) for b in buffers}) for j in range(2)}
    pools = {"p": Pool(draw(st.integers(1, 2)), draw(laws()), batches, {}, needs)}
    if draw(st.booleans()):
        other = TwoPhase(draw(st.integers(2, 9)), draw(st.none() | st.integers(1, 4)))
        phases = {
            name: Need({"prefill": F(draw(st.integers(1, 9))), "decode": F(2)}) for name in needs
        }
        pools["q"] = Pool(1, draw(laws()), other, {}, phases)
    routes = {name: tuple((h,) for h in pools) for name in needs}
    return PlanningProblem(pools, {"c0": F(draw(st.integers(0, 5)), 3), "c1": F(1, 2)}, routes)


@given(knapsacks())
@FEW
def test_enumeration_equals_column_generation(problem: PlanningProblem) -> None:
    listed, made = optimise(problem), generate_columns(problem)
    assert made.complete
    assert made.bound == made.optimum.load == listed.load
    check_duality(problem, listed)
    check_duality(problem, made.optimum)


@given(knapsacks(), st.integers(1, 3))
@FEW
def test_column_generation_stopped_early_is_a_bracket(problem: PlanningProblem, n: int) -> None:
    made, best = generate_columns(problem, most_rounds=n), optimise(problem).load
    assert made.bound <= best <= made.optimum.load


@given(fleets())
@FEW
def test_column_generation_of_fleets(case: Case) -> None:
    fleet, mix, rates = case
    problem = fleet_region(fleet, mix).at(rates)
    assert generate_columns(problem).optimum.load == optimise(problem).load


# Four solvers, one programme.


@given(st.one_of(knapsacks(), fleets().map(lambda c: fleet_region(*c[:2]).at(c[2]))))
@settings(max_examples=15)
def test_cvxpy_highs_and_simplex_agree_with_the_rationals(problem: PlanningProblem) -> None:
    columns = problem.columns()
    program, _, _ = build_program(problem, columns)
    exact = optimise(problem, columns)
    for solver in ("simplex", "highs"):
        near = lp.solve(program, solver)
        assert near.status is lp.LPStatus.OPTIMAL
        assert near.value == pytest.approx(float(exact.load), rel=1e-7, abs=1e-9)
        slack = program.dense() @ near.primal - np.asarray([float(b) for b in program.bounds])
        assert slack.min() > -1e-6
        reduced = np.asarray([float(c) for c in program.costs]) - near.dual @ program.dense()
        assert reduced.min() > -1e-6
        assert solve_exact(program, near).value == exact.load
    shown = planning_cvxpy(problem, columns)
    assert shown.status is lp.LPStatus.OPTIMAL
    assert shown.load == pytest.approx(float(exact.load), rel=1e-5, abs=1e-6)
    # cvxpy's duals are feasible for every column and attain the load.
    worth = sum(float(rate) * shown.prices[n] for n, rate in problem.rates.items())
    assert worth == pytest.approx(shown.load, rel=1e-4, abs=1e-5)
    spent = sum(shown.weights[h] * p.engines for h, p in problem.pools.items())
    assert spent == pytest.approx(1, rel=1e-5) or not exact.load
    for h, found in columns.items():
        pool = problem.pools[h]
        fixed = sum(c * shown.limit_prices[h, k] for k, c in pool.limits.items())
        for batch, seconds in found:
            prices = [shown.token_prices[h, k] for k in pool.buffers]
            gain = fixed + float(np.dot(prices, batch))
            assert gain <= shown.weights[h] * float(seconds) + 1e-5


# What any region obeys, for fleets.


@given(fleets(), st.integers(2, 7))
@FEW
def test_load_of_a_fleet_is_a_gauge(case: Case, k: int) -> None:
    fleet, mix, rates = case
    scaled = {name: k * rate for name, rate in rates.items()}
    assert exact_load(fleet, mix, scaled) == k * exact_load(fleet, mix, rates)
    more = {name: (fleet.pools[name][0], k * n) for name, (_, n) in fleet.pools.items()}
    assert k * exact_load(replace(fleet, pools=more), mix, rates) == exact_load(fleet, mix, rates)


@given(fleets(), st.data())
@FEW
def test_region_of_a_fleet_is_convex_and_coordinate_convex(case: Case, data: st.DataObject) -> None:
    fleet, mix, rates = case
    other = {name: data.draw(st.integers(0, 8)) / 8 for name in mix}
    total = {name: rates[name] + other[name] for name in mix}
    one, two, both = (exact_load(fleet, mix, r) for r in (rates, other, total))
    assert max(one, two) <= both <= one + two


@given(fleets(), st.integers(0, 4))
@FEW
def test_splitting_and_order_change_nothing_in_a_fleet(case: Case, quarter: int) -> None:
    fleet, mix, rates = case
    split, parts = {"twin": mix["c0"], **dict(reversed(mix.items()))}, dict(rates)
    parts["twin"], parts["c0"] = rates["c0"] * quarter / 4, rates["c0"] * (4 - quarter) / 4
    twins = replace(
        fleet,
        pools=dict(reversed(fleet.pools.items())),
        eligible=fleet.eligible | ({"twin": fleet.eligible["c0"]} if fleet.eligible else {}),
    )
    one, two = fleet_region(fleet, mix).optimum(rates), fleet_region(twins, split).optimum(parts)
    assert one.load == two.load
    assert two.prices["twin"] == two.prices["c0"]


@given(fleets(), st.integers(1, 20))
@FEW
def test_more_of_anything_never_shrinks_a_fleet(case: Case, more: int) -> None:
    fleet, mix, rates = case
    load = exact_load(fleet, mix, rates)
    (engine, n), rest = fleet.pools["p0"], fleet.pools
    better = [
        engine.with_(token_budget=engine.token_budget + more),
        engine.with_(law=engine.law.scaled(0.5)),
    ]
    if engine.max_seqs is not None:
        better.append(engine.with_(max_seqs=engine.max_seqs + more))
    if engine.kv_tokens is not None:
        better += [engine.with_(kv_tokens=engine.kv_tokens + more), engine.with_(kv_tokens=None)]
    for changed in better:
        assert exact_load(replace(fleet, pools={**rest, "p0": (changed, n)}), mix, rates) <= load
    extra = replace(fleet, pools={**rest, "new": (engine, 1)})
    assert exact_load(extra, mix, rates) <= load


@given(fleets())
@FEW
def test_facets_and_vertices_of_a_fleet_against_single_optima(case: Case) -> None:
    """Bounds from the pools' polytopes against the linear programme, facet by facet."""
    fleet, mix, rates = case
    region = fleet_region(fleet, mix)
    facets, vertices = region.facets(), region.exact_vertices()
    exactly = [F(rates[name]) for name in mix]
    assert max(f.exactly(exactly) for f in facets) / region.engines == region.load(
        rates, exact=True
    )
    for point in vertices:
        assert region.optimum(dict(zip(mix, point, strict=True))).load == 1

    def price(x: tuple[F, ...]) -> tuple[F, tuple[F, ...]]:
        found = region.optimum(dict(zip(mix, x, strict=True)))
        return found.load, tuple(found.prices[name] for name in mix)

    lists, corners = polytope(len(mix), price)
    assert corners == vertices
    assert {tuple(w / region.engines for w in f.exact) for f in facets} == set(lists)


@given(fleets())
@FEW
def test_both_regions_say_the_same(case: Case) -> None:
    """One pool: the closed form and the configurations, method by method."""
    fleet, mix, rates = case
    engine, n = fleet.pools["p0"]
    one = Fleet({"p": (engine, n)})
    closed, made = stability_region(one, mix), stability_region(one, mix, method="configurations")
    assert (closed.method, made.method) == ("closed_form", "configurations")
    assert isinstance(made, FleetRegion)
    assert closed.load(rates, exact=True) == made.load(rates, exact=True)
    assert closed.load(rates) == pytest.approx(made.load(rates), rel=1e-12)
    assert closed.margin(rates) == pytest.approx(made.margin(rates), rel=1e-12)
    assert closed.boundary(rates) == pytest.approx(made.boundary(rates), rel=1e-12)
    assert closed.exact_vertices() == made.exact_vertices()
    assert closed.vertices() == pytest.approx(made.vertices(), rel=1e-12)
    assert (closed.engines, closed.kind, closed.classes) == (n, made.kind, made.classes)
    assert {f.exact for f in made.facets()} <= {f.exact for f in closed.facets()}
    assert closed.load_bracket(rates) == pytest.approx(made.load_bracket(rates), rel=1e-9)
    for region in (closed, made):
        spent = sum(rates[name] * price for name, price in region.prices(rates).items())
        assert spent == pytest.approx(region.load(rates), rel=1e-12)
        assert region.contains(dict.fromkeys(mix, 0.0))
        edge = region.boundary(rates)
        assert not region.contains({name: 1.000001 * rate for name, rate in edge.items()})
    assert closed.certificate(rates) == made.certificate(rates)
    facets = closed.facets(dominated=True)
    weights = [sum(f.exact[i] * F(rates[c]) for i, c in enumerate(mix)) for f in facets]
    if weights.count(max(weights)) == 1:  # else either answer is right
        assert closed.binding(rates)[0] == made.binding(rates)[0]


@given(fleets())
@FEW
def test_prices_of_a_plan_pay_for_all_that_is_needed(case: Case) -> None:
    """Tokens, KV memory, slots and attention at their prices: the load."""
    fleet, mix, rates = case
    engine, n = fleet.pools["p0"]
    one = Fleet({"p": (engine, n)})
    plan = tiling_lp(one, mix, rates)
    needs = {name: need_of(request, engine) for name, request in mix.items()}
    assert set(plan.limit_prices) == {
        ("p", limit) for need in needs.values() for limit in need.limits
    }
    total = 0.0
    for name, need in needs.items():
        cost = plan.weights["p"] * float(need.seconds)
        cost += sum(plan.prices["p", k] * float(v) for k, v in need.tokens.items())
        cost += sum(plan.limit_prices["p", k] * float(v) for k, v in need.limits.items())
        total += rates[name] * cost
    assert total == pytest.approx(plan.load, rel=1e-9)
    assert plan.assumptions


def test_the_price_of_memory_is_not_left_out() -> None:
    law = BatchTime.affine(base=0.012, per_token=2.5e-5)
    engine = Engine(law, token_budget=2048, kv_tokens=20_000, kv_block=1, conventions=THEORY)
    plan = tiling_lp(engine, {"x": RequestClass(512, 128)}, {"x": F(10)})
    assert plan.load == pytest.approx(10 / 16.506, rel=1e-4)  # the table of theory core 2.4
    memory = need_of(RequestClass(512, 128), engine).limits["memory"]
    tokens = sum(plan.prices.values()) / 2 * 640
    assert plan.limit_prices == {("engine", "memory"): pytest.approx(0.012 / 20_000)}
    assert 10 * (tokens + plan.limit_prices["engine", "memory"] * float(memory)) == (
        pytest.approx(plan.load)
    )
    assert 10 * tokens < 0.3 * plan.load


# Vertices by double description against all square systems.


@given(st.integers(1, 4), st.data())
@settings(max_examples=60)
def test_corner_points_against_all_systems(n: int, data: st.DataObject) -> None:
    weight = st.integers(0, 4).map(lambda k: F(k, 3))
    rows = data.draw(st.lists(st.tuples(*[weight] * n), min_size=1, max_size=5))
    rows += [tuple(F(i == j, 3) for j in range(n)) for i in range(n)]  # bounded
    assert corner_points(rows) == by_systems(rows)


DEGENERATE = [  # more bounds than dimensions meet at a point
    [(1, 0, 1, 1), (0, 1, 0, 1), (1, 0, 1, 0), (0, 1, 1, 1), *np.eye(4, dtype=int).tolist()],
    [(1, 0, 0, 1), (1, 1, 1, 0), *np.eye(4, dtype=int).tolist()],
    [(1, 0, 1, 0), (0, 1, 1, 1), *np.eye(4, dtype=int).tolist()],
    [(1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1), *np.eye(3, dtype=int).tolist()],
]


@pytest.mark.parametrize("weights", DEGENERATE)
def test_corner_points_where_many_bounds_meet(weights: list[tuple[int, ...]]) -> None:
    rows = [tuple(map(F, row)) for row in weights]
    for order in (rows, rows[::-1], rows[2:] + rows[:2]):
        assert corner_points(order) == by_systems(rows)


def by_systems(rows: list[tuple[F, ...]]) -> list[tuple[F, ...]]:
    """Every square system of bounds, solved."""
    n, found = len(rows[0]), set()
    axes = [(tuple(F(i == j) for j in range(n)), F(0)) for i in range(n)]
    for chosen in itertools.combinations([*((row, F(1)) for row in rows), *axes], n):
        point = gauss([[*row, right] for row, right in chosen])
        if point is None or min(point) < 0 or not any(point):
            continue
        if all(sum(w * x for w, x in zip(row, point, strict=True)) <= 1 for row in rows):
            found.add(point)
    return sorted(found)


def gauss(rows: list[list[F]]) -> tuple[F, ...] | None:
    for col in range(len(rows)):
        pivot = next((i for i in range(col, len(rows)) if rows[i][col]), None)
        if pivot is None:
            return None
        rows[col], rows[pivot] = rows[pivot], rows[col]
        rows[col] = [x / rows[col][col] for x in rows[col]]
        for i, row in enumerate(rows):
            if i != col and row[col]:
                rows[i] = [x - row[col] * y for x, y in zip(row, rows[col], strict=True)]
    return tuple(row[-1] for row in rows)
