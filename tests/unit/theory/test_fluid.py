"""The fluid model: conservation, budgets, slopes, a simulated system, words and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest

from llmq.errors import InputError, UnstableError
from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.model.workload import Workload
from llmq.result import Kind
from llmq.sim.simulate import simulate
from llmq.theory import fluid
from llmq.theory.fluid import _ode as fluid_ode
from llmq.theory.region import stability_region

LAW = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8, per_work=1e-9)
MIX = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
LIMITS = {
    "tokens": Engine(LAW, 512, conventions=THEORY),
    "slots": Engine(LAW, 2048, max_seqs=64, prefill_chunk=256, conventions=THEORY),
    # The fluid counts KV in tokens: blocks of one.
    "memory": Engine(LAW, 2048, kv_tokens=60_000, kv_block=1, conventions=THEORY),
}


def at_load(engine: Engine, load: float, **options: int) -> fluid.FluidModel:
    unit = fluid.fluid_model(engine, MIX, {"chat": 5.0, "code": 1.0}).load
    rates = {"chat": 5.0 * load / unit, "code": load / unit}
    return fluid.fluid_model(engine, MIX, rates, **options)  # type: ignore[arg-type]


# The equations


@pytest.mark.parametrize("resource", LIMITS)
def test_field_vanishes_at_the_equilibrium(resource: str) -> None:
    model = at_load(LIMITS[resource], 0.9)
    rest = model.equilibrium()
    assert fluid_ode.field(model.flow, rest.state) == pytest.approx(0, abs=1e-9)
    _, _, seconds = fluid_ode.batch(model.flow, *(x for x in model.flow.split(rest.state)[1:]))
    assert seconds == pytest.approx(rest.iteration, rel=1e-12)


@pytest.mark.parametrize("resource", LIMITS)
@pytest.mark.parametrize("load", [0.5, 1.5])
def test_load_is_that_of_the_region(resource: str, load: float) -> None:
    """Prompts are multiples of the chunk here, so the least area is the area."""
    model = at_load(LIMITS[resource], load)
    # The fluid charges every chunk a slot, as Theorem U is printed, and says so.
    rules = replace(THEORY, prefill_slots="per_request")
    region = stability_region(LIMITS[resource].with_(conventions=rules), MIX)
    assert ("every prompt chunk takes a slot of its own" in model.assumptions) == (
        resource == "slots"
    )
    rates = dict(zip(model.classes, map(float, model.rates), strict=True))
    assert model.load == pytest.approx(region.load(rates), rel=1e-12)
    assert region.binding(rates)[0] == resource


@pytest.mark.parametrize("seed", range(20))
def test_work_is_conserved(seed: int) -> None:
    """Whatever is admitted or evicted: d(requests) = arrivals - ends, where nobody is evicted."""
    rng = np.random.default_rng(seed)
    model = at_load(LIMITS["memory"], 1.2, stages=3)
    state = np.concatenate((rng.uniform(0, 50, 2), rng.uniform(0, 300, 2), rng.uniform(0, 20, 6)))
    flow = model.flow
    d_waiting, d_prefill, d_decoding = flow.split(fluid_ode.field(flow, state))
    _, prefill, decoding = flow.split(state)
    share, _, seconds = fluid_ode.batch(flow, prefill, decoding)
    ends = share * decoding[:, -1] * flow.stages / (flow.decodes * seconds)
    change = d_waiting + d_prefill / flow.prompt + d_decoding.sum(axis=1)
    assert change == pytest.approx(flow.rates - ends, rel=1e-10, abs=1e-10)


def test_eviction_keeps_memory_and_requests() -> None:
    """An engine full of young requests: they grow, so the youngest must leave."""
    model = at_load(LIMITS["memory"], 1.2)
    state = np.zeros(2 * (2 + 8))
    state[4] = 59_999 / model.flow.decode_use[2, 0, 0]  # chat, first stage
    d_waiting, d_prefill, d_decoding = model.flow.split(fluid_ode.field(model.flow, state))
    growth = (model.flow.decode_use[2] * d_decoding).sum() + model.flow.prefill_use[2] @ d_prefill
    seconds = fluid_ode.batch(model.flow, *model.flow.split(state)[1:])[2]
    assert growth == pytest.approx(1 / seconds, rel=1e-9)  # the room that is left, in an iteration
    assert d_waiting[0] > model.flow.rates[0]  # evicted ones wait again
    total = d_waiting + d_prefill / model.flow.prompt + d_decoding.sum(axis=1)
    assert total == pytest.approx(model.flow.rates, rel=1e-9)  # nobody ends, nobody is lost


@pytest.mark.parametrize("resource", LIMITS)
def test_budgets_are_kept_on_the_way(resource: str) -> None:
    model = at_load(LIMITS[resource], 1.3, stages=4)
    path = model.trajectory({"chat": 400, "code": 100}, 30.0)
    use = path.prefill @ model.flow.prefill_use.T
    use += np.tensordot(path.decoding, model.flow.decode_use, ([1, 2], [1, 2]))
    capacity = model.flow.capacity
    assert np.all(use <= capacity * (1 + 1e-6))
    binding = {"tokens": 0, "slots": 1, "memory": 2}[resource]
    assert use[-1, binding] == pytest.approx(capacity[binding], rel=0.02)


@pytest.mark.parametrize("resource", LIMITS)
def test_overload_slope_is_that_of_the_trajectory(resource: str) -> None:
    model = at_load(LIMITS[resource], 1.25, stages=4)
    path = model.trajectory({"chat": 0, "code": 0}, np.asarray([0.0, 400.0, 600.0]))
    backlog = path.waiting + path.prefill / model.flow.prompt + path.decoding.sum(axis=2)
    slope = (backlog[2] - backlog[1]) / 200
    said = model.overload_slope()
    assert slope == pytest.approx(list(said.requests.values()), rel=2e-3)
    assert said.tokens == pytest.approx(
        sum(s * (512 + 128, 2048 + 256)[i] for i, s in enumerate(said.requests.values())), rel=1e-9
    )


def test_drains_at_full_speed() -> None:
    """A backlog falls by the slack of the token budget (one class, exact rate)."""
    engine = Engine(BatchTime.affine(base=0.012, per_token=2.5e-5), 512, conventions=THEORY)
    capacity = 512 / (0.012 + 512 * 2.5e-5) / 640
    model = fluid.fluid_model(engine, {"x": MIX["chat"]}, {"x": capacity / 2}, stages=4)
    path = model.trajectory([500.0], np.asarray([0.0, 20.0, 30.0]))
    assert (path.waiting[1, 0] - path.waiting[2, 0]) / 10 == pytest.approx(capacity / 2, rel=1e-3)


# Closed forms by other ways


def test_relaxation_of_decodes_alone_by_a_disturbance() -> None:
    """The slowest mode, read off a disturbed trajectory instead of the Jacobian."""
    model = fluid.fluid_model(
        Engine(BatchTime.affine(base=0.012, per_token=1e-4), 1024, conventions=THEORY),
        {"x": MIX["chat"]},
        {"x": 8.0},
    )
    rest = model.equilibrium().state
    push = rest.copy()
    push[2:] *= 1.01
    path = model.trajectory(push, np.asarray([0.0, 5.0, 6.0]))
    gap = path.decoding[1:, 0, :].sum(axis=1) - rest[2:].sum()
    assert 1 / math.log(gap[0] / gap[1]) == pytest.approx(model.relaxation_time(), rel=0.02)


def test_equilibrium_does_not_depend_on_the_stages() -> None:
    points = [at_load(LIMITS["memory"], 0.8, stages=k).equilibrium() for k in (1, 8)]
    assert points[0].decoding == pytest.approx(points[1].decoding, rel=1e-14)
    assert points[0].kv == points[1].kv


@pytest.mark.parametrize("resource", LIMITS)
@pytest.mark.parametrize("stages", [1, 8])
def test_use_of_the_budgets_adds_up_to_the_demand(resource: str, stages: int) -> None:
    """What the stages weigh on each budget is what Little's law says, to the last digits."""
    model = at_load(LIMITS[resource], 0.8, stages=stages)
    rest = model.equilibrium()
    _, prefill, decoding = model.flow.split(rest.state)
    use = model.flow.prefill_use @ prefill + np.tensordot(model.flow.decode_use, decoding, 2)
    assert use == pytest.approx([rest.tokens, rest.slots, rest.kv], rel=1e-12)


def test_more_decodes_than_tokens_share_the_budget() -> None:
    flow = at_load(LIMITS["tokens"], 0.5, stages=2).flow
    decoding = np.asarray([[300.0, 100.0], [200.0, 168.0]])  # 768 rows, budget 512
    share, prompts, seconds = fluid_ode.batch(flow, np.asarray([10.0, 20.0]), decoding)
    assert (share, prompts.sum()) == (512 / 768, 0)
    read = share * (flow.decode_use[2] * decoding).sum()
    assert seconds == pytest.approx(0.012 + 512 * 2.5e-5 + 1e-8 * read, rel=1e-12)


def test_prompts_get_what_the_decodes_leave() -> None:
    flow = at_load(LIMITS["tokens"], 0.5, stages=2).flow
    decoding = np.asarray([[100.0, 50.0], [30.0, 20.0]])
    share, prompts, _ = fluid_ode.batch(flow, np.asarray([600.0, 300.0]), decoding)
    assert share == 1
    assert prompts == pytest.approx([208, 104], rel=1e-12)  # 312 tokens, two to one


def test_kv_is_read_at_the_mixed_rate() -> None:
    law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8, per_kv_mixed=3e-8)
    model = fluid.fluid_model(Engine(law, conventions=THEORY), {"x": MIX["chat"]}, {"x": 9.0})
    rest = model.equilibrium()
    area = 512 + sum(512 + j for j in range(1, 129))
    assert rest.iteration == pytest.approx(
        0.012 / (1 - 9 * (2.5e-5 * 640 + 3e-8 * area)), rel=1e-12
    )
    assert fluid_ode.field(model.flow, rest.state) == pytest.approx(0, abs=1e-9)
    assert any("mixed rate" in said for said in model.assumptions)


def test_load_of_a_budget_that_the_tile_does_not_divide() -> None:
    """O4: batches of 64 serve 16/3 tokens per unit of time, full ones (100) fewer."""
    engine = Engine(BatchTime.tiled(base=2, per_tile=10, tile=64), 100, conventions=THEORY)
    model = fluid.fluid_model(engine, {"x": RequestClass(3, 1)}, {"x": 1.0})
    assert model.load == pytest.approx(4 / (16 / 3), rel=1e-14)


def test_tiles_rest_on_the_envelope() -> None:
    law = BatchTime.tiled(base=0.002, per_tile=0.010, tile=64)
    engine = Engine(law, 256, conventions=THEORY)
    light = fluid.fluid_model(engine, {"x": RequestClass(10, 10)}, {"x": 10.0}).equilibrium()
    assert light.iteration == pytest.approx(0.012, rel=1e-12)  # less than a tile: t(1)
    busy = fluid.fluid_model(engine, {"x": RequestClass(10, 10)}, {"x": 280.0}).equilibrium()
    assert busy.iteration == pytest.approx(0.002 / (1 - 280 * 20 * 0.010 / 64), rel=1e-12)
    assert 64 < busy.tokens < 256


def test_a_steep_last_piece_does_not_matter_to_light_batches() -> None:
    """Flat up to 100 tokens, then steep: its line crosses the time axis below 0."""
    law = BatchTime.table(tokens=(1, 100, 200), seconds=(1.0, 1.0, 5.0))
    engine = Engine(law, 200, conventions=THEORY)
    model = fluid.fluid_model(engine, {"x": RequestClass(5, 5)}, {"x": 3.0})
    rest = model.equilibrium()
    assert (model.load, rest.iteration, rest.tokens) == pytest.approx((0.3, 1.0, 30.0), rel=1e-12)
    assert fluid_ode.field(model.flow, rest.state) == pytest.approx(0, abs=1e-12)


def test_random_lengths_enter_by_mean_and_area() -> None:
    law = Lengths.uniform(1, 255)
    model = fluid.fluid_model(LIMITS["memory"], {"x": RequestClass(512, law)}, {"x": 5.0})
    rest = model.equilibrium()
    area = 512 + 512 * law.exact_moment(1) + (law.exact_moment(2) + law.exact_moment(1)) / 2
    assert rest.decoding["x"] == pytest.approx(5 * rest.iteration * 128, rel=1e-12)
    assert rest.kv == pytest.approx(5 * rest.iteration * float(area), rel=1e-12)


def test_one_output_token_needs_no_decode() -> None:
    engine = Engine(LAW, 512, conventions=ENGINE)
    model = fluid.fluid_model(engine, {"x": RequestClass(100, 1)}, {"x": 20.0})
    path = model.trajectory([5.0], 5.0)
    assert path.decoding[-1].sum() == 0
    assert path.prefill[-1, 0] == pytest.approx(model.equilibrium().prefill["x"], rel=1e-6)


def test_a_large_system_is_near_its_fluid_point() -> None:
    """Scale 8: arrivals and budget times 8, time per token over 8. Mean in decode by Little."""
    scale = 8
    law = BatchTime.affine(base=0.012, per_token=1e-4 / scale)
    engine = Engine(law, 1024 * scale, conventions=THEORY)
    mix = {"x": RequestClass(512, 128)}
    rest = fluid.fluid_model(engine, mix, {"x": 8.0 * scale}).equilibrium()
    assert rest.kind is Kind.ASYMPTOTIC
    run = simulate(
        engine, Workload.poisson({"x": 8.0 * scale}, mix), replications=2, requests=3000, rng=5
    )
    times = run.requests
    inside = slice(500, 2500)
    stay = (times.finish - times.prefill_end)[:, inside].mean()
    assert 8.0 * scale * stay == pytest.approx(rest.decoding["x"], rel=0.03)


# Words and refusals


def test_no_equilibrium_above_the_capacity() -> None:
    model = at_load(LIMITS["tokens"], 1.5)
    with pytest.raises(UnstableError, match=r"the rates ask for 1\.5 of the capacity") as refused:
        model.equilibrium()
    assert refused.value.load == pytest.approx(1.5)
    assert at_load(LIMITS["tokens"], 0.5).overload_slope().tokens == 0


def test_nothing_arrives() -> None:
    model = fluid.fluid_model(LIMITS["tokens"], MIX, dict.fromkeys(MIX, 0))
    assert (model.load, model.overload_slope().tokens) == (0, 0)
    assert model.equilibrium().iteration == pytest.approx(0.012 + 0, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": 3}, "engine must be an Engine, got 3"),
        ({"mix": {}}, "at least one request class"),
        ({"rates": {"chatt": 1.0}}, "did you mean 'chat'"),
        ({"rates": {"chat": -1.0}}, "must be a finite number >= 0"),
        ({"stages": 0}, "stages must be a whole number, at least 1, got 0"),
        ({"engine": Engine(BatchTime.affine(base=0, per_token=1.0))}, "no base time"),
        ({"engine": Engine(LAW, kv_tokens=1600)}, "does not fit"),
    ],
)
def test_model_refuses(change: dict[str, object], words: str) -> None:
    given = {
        "engine": LIMITS["tokens"],
        "mix": MIX,
        "rates": {"chat": 1.0, "code": 0},
        "stages": 2,
    } | change
    with pytest.raises(InputError, match=words):
        fluid.fluid_model(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("q0", "t", "words"),
    [
        ([1.0], 5.0, "q0 must hold requests waiting by class"),
        ([1.0, -1.0], 5.0, "q0 must hold"),
        ({"rag": 1.0}, 5.0, "unknown class 'rag'"),
        ([1.0, 1.0], 0.0, "t must be a horizon > 0"),
        ([1.0, 1.0], [0.0, 2.0, 1.0], "increasing times"),
    ],
)
def test_trajectory_refuses(q0: object, t: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        at_load(LIMITS["tokens"], 0.5).trajectory(q0, t)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ((-1, 200, 0.01, 0.0), InputError, "rate must be finite and >= 0"),
        ((1, 200, 0.0, 0.0), InputError, "base must be finite and > 0"),
        ((10, 200, 0.01, 0.0005), UnstableError, "tokens alone take 1 of the time"),
    ],
)
def test_decode_point_refuses(given: tuple[float, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fluid.decode_point(*given)


# WAIT


def test_nested_wait_memory_term_by_term() -> None:
    mix = {"long": RequestClass(20, 40), "short": RequestClass(20, 10)}  # any order
    plan = fluid.nested_wait(
        mix, {"short": 3, "long": 2}, (8, 5), 0.1, 1e-6, horizon=3600, overflow=0.01
    )
    batch = 8 * sum(20 + s for s in range(11)) + 5 * sum(20 + s for s in range(11, 41))
    assert plan.batch == batch
    assert plan.interval == F(1, 10) + F(batch, 10**6)
    theta = fluid.nested_wait_exponent(8, 5, 0.4)
    stock = (20 + 10) * (5 + math.log(2 * (1 + 3600 / 0.1) / 0.01) / theta)
    assert plan.stock == pytest.approx(stock, rel=1e-12)
    assert plan.memory == pytest.approx(batch + stock, rel=1e-12)


@pytest.mark.parametrize("n1", [10, 40, 200])
@pytest.mark.parametrize("p", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("x", [0.02, 0.5, 0.98])
def test_exponent_is_a_root_above_hoeffding(n1: int, p: float, x: float) -> None:
    n2 = n1 * (p + x * (1 - p))
    theta = fluid.nested_wait_exponent(n1, n2, p)
    assert n1 * math.log1p(p * math.expm1(theta)) == pytest.approx(theta * n2, rel=1e-9)
    assert theta >= float(fluid.hoeffding_exponent(n1, n2, p)) * (1 - 1e-9) > 0


ONE = {"chat": 1.0, "code": 0}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fluid.nested_wait_exponent(40, 10, 0.4), InputError, r"p < n2 / n1 < 1"),
        (lambda: fluid.nested_wait_exponent(40, 40, 0.4), InputError, r"p < n2 / n1 < 1"),
        (lambda: fluid.nested_wait_exponent(40, 20, 0.0), InputError, "p must be a finite"),
        (lambda: fluid.wait_equilibrium(MIX, ONE, 0.0, 0.0), InputError, "d0 must be"),
        (lambda: fluid.wait_equilibrium(MIX, ONE, 0.01, 1e-3), UnstableError, "KV takes"),
        (lambda: fluid.wait_equilibrium({}, {}, 0.01, 0.0), InputError, "at least one request"),
        (lambda: nested(thresholds=(8,)), InputError, "need as many thresholds, got 1"),
        (lambda: nested(thresholds=(1, 0.6)), UnstableError, "first threshold is 1: raise it"),
        (lambda: nested(overflow=1.5), InputError, "probability below 1"),
        (lambda: nested(rates={"a": 1.0}), InputError, "rate of class 'b'"),
        (lambda: nested(b=RequestClass(21, 40)), InputError, "one prompt length"),
        (lambda: nested(b=RequestClass(20, 10)), InputError, "merge classes"),
        (lambda: nested(b=RequestClass(20, Lengths.uniform(1, 9))), InputError, "fixed lengths"),
    ],
)
def test_wait_refuses(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()


def nested(
    thresholds: tuple[float, ...] = (8, 5),
    overflow: float = 0.01,
    rates: dict[str, float] | None = None,
    b: RequestClass | None = None,
) -> fluid.NestedWait:
    mix = {"a": RequestClass(20, 10), "b": b or RequestClass(20, 40)}
    given = rates or {"a": 6.0, "b": 4.0}
    return fluid.nested_wait(mix, given, thresholds, 0.1, 1e-6, horizon=60, overflow=overflow)
