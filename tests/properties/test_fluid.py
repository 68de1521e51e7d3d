"""Laws that every fluid model obeys, on random engines and mixes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.fluid import FluidModel, fluid_model
from llmq.theory.fluid import _ode as fluid_ode
from llmq.theory.region import stability_region

small = st.floats(1e-6, 1e-3)
laws = st.one_of(
    st.builds(
        lambda c, a, e, w: BatchTime.affine(
            base=10 * c, per_token=a / 10, per_kv=e / 100, per_work=w / 500
        ),
        small,
        small,
        small,
        small,
    ),
    st.builds(
        lambda c, a, b: BatchTime.tiled(base=c, per_tile=a, tile=b),
        small,
        small,
        st.integers(1, 128),
    ),
    st.builds(
        lambda c, d, a: BatchTime.roofline(floor=c + d, base=c, per_token=a / 10),
        small,
        small,
        small,
    ),
)
mixes = st.lists(
    st.tuples(st.integers(1, 600), st.integers(1, 60), st.floats(0.1, 5)), min_size=1, max_size=3
)


@st.composite
def models(draw: st.DrawFn) -> tuple[FluidModel, dict[str, float]]:
    """A model at a drawn load below 1, and its rates."""
    engine = Engine(
        draw(laws),
        draw(st.integers(16, 512)),
        max_seqs=draw(st.none() | st.integers(4, 64)),
        kv_tokens=draw(st.none() | st.integers(700, 20_000)),
        kv_block=1,
        conventions=draw(st.sampled_from((ENGINE, THEORY))),
    )
    rows = draw(mixes)
    mix = {str(i): RequestClass(s, o) for i, (s, o, _) in enumerate(rows)}
    shares = {str(i): r for i, (_, _, r) in enumerate(rows)}
    unit = fluid_model(engine, mix, shares).load
    assume(1e-6 < unit < 1e6)
    load = draw(st.floats(0.05, 0.95))
    rates = {name: r * load / unit for name, r in shares.items()}
    return fluid_model(engine, mix, rates, stages=draw(st.integers(1, 6))), rates


@settings(max_examples=60)
@given(models())
def test_nothing_moves_at_the_equilibrium(drawn: tuple[FluidModel, dict[str, float]]) -> None:
    model, rates = drawn
    rest = model.equilibrium()
    pace = max(rates.values()) * 700 + 1 / rest.iteration
    assert np.abs(fluid_ode.field(model.flow, rest.state)).max() <= 1e-8 * pace * max(rest.state)
    _, prefill, decoding = model.flow.split(rest.state)
    assert fluid_ode.batch(model.flow, prefill, decoding)[2] == pytest.approx(
        rest.iteration, rel=1e-10
    )


@settings(max_examples=60)
@given(models())
def test_the_equilibrium_fits_the_budgets(drawn: tuple[FluidModel, dict[str, float]]) -> None:
    model, _ = drawn
    rest = model.equilibrium()
    use = np.asarray([rest.tokens, rest.slots, rest.kv])
    assert np.all(use <= model.flow.capacity * (1 + 1e-12))
    _, prefill, decoding = model.flow.split(rest.state)
    taken = model.flow.prefill_use @ prefill + np.tensordot(model.flow.decode_use, decoding, 2)
    assert taken == pytest.approx(use, rel=1e-10)


@settings(max_examples=60)
@given(models(), st.floats(0.1, 3))
def test_load_is_a_gauge_above_that_of_the_region(
    drawn: tuple[FluidModel, dict[str, float]], factor: float
) -> None:
    """The region charges the least area that a policy can reach, the fluid the engine's.

    Both with a slot for every chunk, as the fluid counts them: where the prompts of an iteration
    share one, decodes in the other slots leave the chunk less than the whole budget, which the
    region knows and the fluid, that has no iterations, does not.
    """
    model, rates = drawn
    mix = {
        name: RequestClass(int(d.prompt), int(d.decodes) + 1 - model.engine.conventions.lag)
        for name, d in zip(model.classes, model.demands, strict=True)
    }
    scaled = fluid_model(model.engine, mix, {name: factor * r for name, r in rates.items()})
    assert scaled.load == pytest.approx(factor * model.load, rel=1e-9)
    each = dataclasses.replace(model.engine.conventions, prefill_slots="per_request")
    engine = dataclasses.replace(model.engine, conventions=each)
    assert stability_region(engine, mix).load(rates) <= model.load * (1 + 1e-9)


@settings(max_examples=60)
@given(models())
def test_splitting_a_class_changes_nothing(drawn: tuple[FluidModel, dict[str, float]]) -> None:
    model, rates = drawn
    lag = model.engine.conventions.lag
    mix, halves = {}, {}
    for name, need in zip(model.classes, model.demands, strict=True):
        for part in ("a", "b"):
            mix[name + part] = RequestClass(int(need.prompt), int(need.decodes) + 1 - lag)
            halves[name + part] = rates[name] / 2
    twice = fluid_model(model.engine, mix, halves, stages=model.stages)
    assert twice.load == pytest.approx(model.load, rel=1e-12)
    one, two = model.equilibrium(), twice.equilibrium()
    assert two.iteration == pytest.approx(one.iteration, rel=1e-12)
    for name in model.classes:
        assert two.decoding[name + "a"] == pytest.approx(one.decoding[name] / 2, rel=1e-12)


@settings(max_examples=60)
@given(models(), st.integers(0, 2**32 - 1))
def test_requests_are_neither_made_nor_lost(
    drawn: tuple[FluidModel, dict[str, float]], seed: int
) -> None:
    """Any state, also far above the budgets: change = arrivals - ends, and no queue below 0."""
    model, _ = drawn
    flow, rng = model.flow, np.random.default_rng(seed)
    state = np.where(rng.random(len(model.equilibrium().state)) < 0.3, 0.0, 1.0)
    state *= rng.uniform(0, 2000, len(state))
    waiting, prefill, decoding = flow.split(state)
    decoding[flow.decodes == 0] = 0.0
    d_waiting, d_prefill, d_decoding = flow.split(fluid_ode.field(flow, state))
    share, served, seconds = fluid_ode.batch(flow, prefill, decoding)
    last = np.divide(flow.stages, flow.decodes, out=np.zeros(len(served)), where=flow.decodes > 0)
    ends = share * decoding[:, -1] * last / seconds
    ends += np.where(flow.decodes == 0, served / flow.prompt / seconds, 0.0)
    change = d_waiting + d_prefill / flow.prompt + d_decoding.sum(axis=1)
    size = (state.max() + 1) * (1 + flow.stages) / seconds + flow.rates.max()
    assert change == pytest.approx(flow.rates - ends, abs=1e-10 * size)
    for queue, slope in ((waiting, d_waiting), (prefill, d_prefill), (decoding, d_decoding)):
        assert np.all(slope[queue == 0] >= -1e-10 * size)
