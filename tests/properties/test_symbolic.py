"""Formulas against the numeric code, on random inputs.

Rational formulas must agree exactly, the others to 1e-9; derivatives are compared with difference
quotients in rationals, what one unit more buys with the numeric region of the changed engine.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from llmq import fluid, latency, routing, tiling
from llmq.model.conventions import ENGINE, THEORY, Conventions
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.needs.demand import demand
from llmq.theory.region import stability_region
from llmq.theory.symbolic import Formula, SymbolicRegion, law, region
from llmq.units import as_fraction

REL = 1e-9
FEW = settings(max_examples=25)
CLASSES = ("chat", "code")
WAIT = Conventions("wait", first_token="next_iteration", prefill_slots="one", area="wait")
hundredths = st.integers(1, 400).map(lambda n: n / 100)
small = st.integers(0, 40).map(lambda n: n / 400)


def near(value: float) -> Any:
    return pytest.approx(value, rel=REL, abs=1e-13)


def fixed(formula: Formula, values: dict[str, Any]) -> F:
    """Exact value; what the formula does not know is left out."""
    return formula.exact(**{k: v for k, v in values.items() if k in formula.arguments})


@st.composite
def traffic(draw: st.DrawFn) -> tuple[dict[str, RequestClass], dict[str, float]]:
    length = st.integers(1, 60)
    mix = {name: RequestClass(draw(length), draw(length)) for name in CLASSES}
    return mix, {name: draw(hundredths) for name in CLASSES}


@st.composite
def laws(draw: st.DrawFn, form: str) -> BatchTime:
    attention = {"per_kv": draw(small), "per_work": draw(small) / 8}
    base, slope = draw(hundredths), draw(hundredths)
    if form == "affine":
        return BatchTime.affine(base=base, per_token=slope, **attention)
    if form == "tiled":
        return BatchTime.tiled(
            base=base,
            per_tile=slope,
            tile=draw(st.integers(2, 9)),
            per_token=draw(small),
            **attention,
        )
    # The branches cross at a whole number of tokens: the envelope then has no third piece.
    knee, flat = draw(st.integers(2, 12)), draw(small)
    floor = as_fraction(base) + (as_fraction(slope) - as_fraction(flat)) * knee
    assume(floor > 0)
    return BatchTime.roofline(
        floor=float(floor), floor_per_token=flat, base=base, per_token=slope, **attention
    )


@st.composite
def engines(draw: st.DrawFn, mix: dict[str, RequestClass], form: str = "affine") -> Engine:
    peak, block = max(r.peak for r in mix.values()), draw(st.sampled_from([1, 4, 16]))
    shape, budget = draw(laws(form)), draw(st.integers(2, 64))
    if form == "tiled":
        budget = shape.tile * draw(st.integers(1, 9))
    return Engine(
        shape,
        token_budget=budget,
        max_seqs=draw(st.integers(1, 20)),
        kv_block=block,
        kv_tokens=draw(st.integers(peak + block, 12 * peak + block)),
        prefill_chunk=draw(st.integers(1, budget)),
        # Few, as each is an expression to build and compile.
        conventions=draw(st.sampled_from([ENGINE, THEORY, WAIT])),
    )


def printed(engine: Engine) -> Engine:
    """The engine of Theorem U as it is printed: each chunk takes a slot."""
    return engine.with_(conventions=replace(engine.conventions, prefill_slots="per_request"))


def formulas(engine: Engine, *, lengths: bool) -> SymbolicRegion:
    return region(
        CLASSES,
        law=engine.law.form,
        attention=True,
        lengths=lengths,
        conventions=engine.conventions,
    )


@pytest.mark.parametrize("form", ["affine", "tiled", "roofline"])
@FEW
@given(data=st.data(), lengths=st.booleans(), count=st.integers(1, 4))
def test_the_load_is_that_of_the_region(form, data, lengths, count):
    mix, rates = data.draw(traffic())
    engine = data.draw(engines(mix, form))
    numeric = stability_region(Fleet({"all": (printed(engine), count)}), mix)
    symbolic = formulas(engine, lengths=lengths)
    values = symbolic.values(engine, mix, rates, count)
    if form == "roofline":
        # A floor that is no short decimal moves the knee by less than a rounding.
        assert symbolic.load(**values) == near(numeric.load(rates))
    else:
        assert symbolic.load.exact(**values) == numeric.load(rates, exact=True)
    assert symbolic.load(**values) == near(numeric.load(rates))
    shares = numeric.boundary(rates)
    assert symbolic.capacity()(**values) == near(sum(shares.values()))


@FEW
@given(data=st.data(), lengths=st.booleans())
def test_facets_and_prices_are_those_of_the_region(data, lengths):
    mix, rates = data.draw(traffic())
    engine = data.draw(engines(mix))
    symbolic, numeric = formulas(engine, lengths=lengths), stability_region(printed(engine), mix)
    values = symbolic.values(engine, mix, rates)
    found = {facet.resource: facet for facet in numeric.facets(dominated=True)}
    assert set(found) == set(symbolic.facets)
    for resource, facet in found.items():
        vector = [as_fraction(rates[name]) for name in CLASSES]
        assert symbolic.facets[resource].exact(**values) == facet.exactly(vector)
        prices = [symbolic.prices[resource][name].exact(**values) for name in CLASSES]
        assert tuple(prices) == facet.exact


@FEW
@given(data=st.data(), tail=st.integers(1, 8))
def test_a_budget_that_cuts_a_tile_counts_whole_tiles_where_the_ragged_one_does_not_pay(data, tail):
    mix, rates = data.draw(traffic())
    engine = data.draw(engines(mix, "tiled"))
    engine = engine.with_(
        law=replace(engine.law, per_token=0.0),
        token_budget=engine.token_budget + min(tail, engine.law.tile - 1),
    )
    symbolic, numeric = formulas(engine, lengths=False), stability_region(printed(engine), mix)
    values = symbolic.values(engine, mix, rates)
    pays = fixed(law("tile").ragged_pays, values) > 0
    load, bound = symbolic.load.exact(**values), numeric.load(rates, exact=True)
    # With a ragged batch that pays the formula charges too much, and says so by its assumption.
    assert (load >= bound) if pays else (load == bound)


@pytest.mark.parametrize("facet", ["tokens", "slots", "memory"])
@FEW
@given(data=st.data())
def test_sensitivities_are_difference_quotients(facet, data):
    mix, rates = data.draw(traffic())
    engine = data.draw(engines(mix))
    symbolic = formulas(engine, lengths=False)
    values = symbolic.values(engine, mix, rates, 2)
    formula, tiny = symbolic.facets[facet], F(1, 10**15)
    for name, value in values.items():
        up = formula.exact(**values | {name: value + tiny})
        down = formula.exact(**values | {name: value}) if value < tiny else None
        low = down if down is not None else formula.exact(**values | {name: value - tiny})
        quotient = (up - low) / (tiny if down is not None else 2 * tiny)
        slope = symbolic.sensitivity(facet, name).exact(**values)
        assert abs(slope - quotient) <= F(1, 10**9) * max(abs(quotient), F(1, 10**9)), name


@FEW
@given(data=st.data(), count=st.integers(1, 3))
def test_one_more_is_the_region_of_the_larger_engine(data, count):
    mix, rates = data.draw(traffic())
    engine = data.draw(engines(mix))
    symbolic = formulas(engine, lengths=False)
    values = symbolic.values(engine, mix, rates, count)
    grown = {
        "token": (engine.with_(token_budget=engine.token_budget + 1), count),
        "slot": (engine.with_(max_seqs=engine.max_seqs + 1), count),
        "kv_block": (engine.with_(kv_tokens=engine.kv_tokens + engine.kv_block), count),
        "gpu": (engine, count + 1),
    }
    before = stability_region(Fleet({"all": (printed(engine), count)}), mix)
    before = before.load(rates, exact=True)
    total = sum(as_fraction(rate) for rate in rates.values())
    for what, pool in grown.items():
        fleet = Fleet({"all": (printed(pool[0]), pool[1])})
        after = stability_region(fleet, mix).load(rates, exact=True)
        assert symbolic.one_more(what, symbolic.load).exact(**values) == after - before
        assert symbolic.one_more(what).exact(**values) == total / after - total / before
        assert symbolic.one_more(what)(**values) >= 0


@pytest.mark.parametrize("form", ["affine", "tiled", "roofline"])
@FEW
@given(data=st.data())
def test_the_equilibrium_is_that_of_the_fluid_model(form, data):
    mix, rates = data.draw(traffic())
    engine = data.draw(engines(mix, form))
    numeric = fluid.fluid_model(engine, mix, rates)
    scale = 0.9 * data.draw(st.floats(0.05, 1)) / numeric.load
    rates = {name: rate * scale for name, rate in rates.items()}
    rest = fluid.fluid_model(engine, mix, rates).equilibrium()
    symbolic = formulas(engine, lengths=True)
    values, found = symbolic.values(engine, mix, rates), symbolic.equilibrium()
    assert found.iteration(**values) == near(rest.iteration)
    assert found.kv(**values) == near(rest.kv)
    assert found.slots(**values) == near(rest.slots)
    assert found.tokens(**values) == near(rest.tokens)
    for name in CLASSES:
        assert found[f"decoding_{name}"](**values) == near(rest.decoding[name])
        assert found[f"prefill_{name}"](**values) == near(rest.prefill[name])


@FEW
@given(
    prompt=st.integers(1, 500),
    output=st.integers(1, 300),
    chunk=st.integers(1, 200),
    block=st.integers(1, 40),
)
def test_demand(prompt, output, chunk, block):
    engine = Engine(
        BatchTime.affine(base=1, per_token=1),
        chunk,
        kv_tokens=9999,
        kv_block=block,
        conventions=THEORY,
    )
    need = demand(RequestClass(prompt, output), engine)
    values = {"prompt": prompt, "output": output, "chunk": chunk, "kv_block": block}
    for name, formula in law("demand").items():
        value = need.memory if name == "held" else getattr(need, name)
        assert fixed(formula, values) == value
        given = {key: values[key] for key in formula.arguments}
        assert formula(**given) == float(value)


@FEW
@given(
    rho=st.floats(0.01, 0.95),
    output=st.integers(1, 500),
    ratio=st.floats(0.1, 60),
    slots=st.integers(1, 250),
    n=st.integers(0, 400),
)
def test_decode_laws(rho, output, ratio, slots, n):
    at = {"mean_output": output, "base": 0.001 * ratio, "per_token": 0.001}
    rate = rho / (output * at["per_token"])
    numeric, free = latency.decode_occupancy(rate, **at), law("decode_occupancy")
    for name in ("load", "mean", "variance", "p_empty", "sojourn", "tbt_mean"):
        assert free[name](rate=rate, **at) == near(getattr(numeric, name)), name
    assert free.cdf(rate=rate, n=n, **at) == near(numeric.cdf(n))
    mass = free.pmf.lambdify()(rate=rate, n=np.arange(n + 1), **at)
    assert mass.sum() == near(numeric.cdf(n))
    point = law("decode_fluid")
    assert point.mean(rate=rate, **at) == near(numeric.fluid_mean)
    assert point.relaxation(rate=rate, **at) == near(numeric.relaxation)
    assert point.mean.exact(rate=rate, **at) == fluid.decode_point(rate, **at).mean
    assert point.iteration.exact(rate=rate, **at) == fluid.decode_point(rate, **at).iteration

    rate = rho * slots / (output * (at["base"] + slots * at["per_token"]))
    numeric, capped = latency.decode_occupancy(rate, **at, max_seqs=slots), law("decode_slots")
    for name in ("load", "capacity", "p_empty", "mean", "sojourn", "slot_wait", "tbt_mean"):
        found = capped[name](rate=rate, max_seqs=slots, **at)
        assert found == near(getattr(numeric, name)), name


@FEW
@given(rho=st.floats(0.01, 0.95), mean=hundredths, extra=st.floats(0, 20), x=st.floats(0, 4))
def test_single_server_laws(rho, mean, extra, x):
    at = {"rate": rho / mean, "mean": mean, "second_moment": mean**2 * (1 + extra)}
    numeric = latency.mg1(**at)
    for name, formula in law("mg1").items():
        assert formula(**at) == near(getattr(numeric, name)), name
    at = {"rate": rho / mean, "duration": mean}
    numeric = latency.md1(**at)
    for name in ("utilisation", "wait", "sojourn", "decay"):
        assert law("md1")[name](**at) == near(getattr(numeric, name)), name
    # The series is alternating; up to a few service times it keeps nine digits.
    assert law("md1").cdf(**at, x=x * mean) == near(numeric.cdf(x * mean))
    if rho > 0.3:
        assert law("md1").far_tail(**at, x=31 * mean) == pytest.approx(
            numeric.tail(31 * mean), rel=1e-7
        )


@FEW
@given(
    servers=st.integers(1, 60),
    share=st.floats(0.05, 0.98),
    x=st.floats(0, 3),
    slack=st.floats(0.01, 4),
    d=st.integers(2, 5),
    n=st.integers(0, 12),
)
def test_pool_laws(servers, share, x, slack, d, n):
    at = {"servers": servers, "load": servers * share}
    numeric, formula = latency.erlang_c(**at), law("erlang_c")
    for name in ("utilisation", "blocking", "p_wait", "wait"):
        assert formula[name](**at) == near(getattr(numeric, name)), name
    assert formula.tail(**at, x=x) == near(numeric.tail(x))
    more = formula.wait.difference("servers")(**at)
    bigger = latency.erlang_c(servers + 1, servers * share)
    assert more == pytest.approx(bigger.wait - numeric.wait, rel=1e-7)
    load = servers * share
    root = latency.halfin_whitt(load, servers=load + slack * load**0.5)
    assert law("halfin_whitt").p_wait(slack=slack) == near(root.p_wait)
    assert law("halfin_whitt").servers(slack=slack, load=load) == near(root.servers)
    queues = latency.jsq(d, share)
    assert law("jsq").sojourn(d=d, load=share) == near(queues.sojourn)
    assert law("jsq").tail(d=d, load=share, n=n) == near(queues.tail(n))


@FEW
@given(rho=st.floats(0.02, 0.95), item=hundredths, base=hundredths, batch=st.integers(1, 12))
def test_batch_laws(rho, item, base, batch):
    rate = rho / item
    at = {"rate": rate, "per_item": item, "base": base}
    numeric, formula = latency.inoue(**at), law("inoue")
    none = numeric.batch_mean * (1 - rho) - rate * base
    # Where batches are long, P_0 drowns in the rounding of this difference; it is 0 to that digit.
    at["p_none"] = max(none, 0.0)
    for name in ("load", "wait", "batch_mean", "batch_second_moment", "utilisation", "bound"):
        assert formula[name](**at) == pytest.approx(getattr(numeric, name), rel=REL, abs=1e-9), name
    assert formula.wait(**at) <= formula.bound(**at) * (1 + REL)

    mu = rate / (rho * batch)
    for name, accessible in (("bulk", False), ("bulk_accessible", True)):
        numeric = latency.bulk(rate, mu, batch, accessible)
        at = {"rate": rate, "service_rate": mu, "batch": batch, "root": numeric.root}
        formula = law(name)
        assert abs(formula.equation(**at)) <= 1e-9 * rate
        # Its sign changes at the root: the residual is small for no other reason.
        assert formula.equation(**at | {"root": numeric.root * 0.999}) < 0
        for field in ("mean", "queue_mean", "p_idle", "wait", "sojourn"):
            assert formula[field](**at) == near(getattr(numeric, field)), field

    numeric = latency.bailey(rho * batch, batch)
    at = {"mean_arrivals": rho * batch, "batch": batch}
    assert law("bailey").queue_mean(**at) == pytest.approx(numeric.queue_mean, rel=REL, abs=1e-11)
    assert law("bailey").p_empty(**at) == near(numeric.p_empty)


@FEW
@given(rate=hundredths, prompt=st.integers(1, 20), output=st.integers(1, 20), z=st.floats(0.1, 3))
def test_memory_laws(rate, prompt, output, z):
    from scipy.special import ndtr

    at = {"rate": rate, "prompt": prompt, "output": output}
    numeric, formula = latency.kv_occupancy(**at), law("kv_occupancy")
    assert formula.mean(**at) == near(numeric.mean)
    assert formula.variance(**at) == near(numeric.variance)
    assert formula.safe_memory(**at, z=z) == near(numeric.normal_quantile(float(ndtr(z))))
    mix = {"x": RequestClass(prompt * 7, output)}
    memory = 3 * (prompt * 7 + output)
    numeric = latency.nie(mix, {"x": 1}, kv_tokens=memory, batch_time=0.03, chunk=5)
    at = {
        "kv_tokens": memory,
        "batch_time": 0.03,
        "mean_area": numeric.area,
        "peak": prompt * 7 + output,
        "rate": 10 * rate + 0.00123456789,
    }
    formula = law("nie")
    for name in ("rate", "stable_rate", "largest_share"):
        assert formula[name](**at) == near(getattr(numeric, name)), name
    assert formula.replicas(**at) == numeric.replicas(at["rate"])


@FEW
@given(
    alpha=hundredths, beta=small, gamma=small, prompt=st.integers(1, 90), output=st.integers(1, 90)
)
def test_birth_death_times(alpha, beta, gamma, prompt, output):
    at = {"base": alpha, "per_token": beta, "per_kv": gamma}
    numeric = latency.birth_death(0.01, prompt, output, **at, max_seqs=1, queue=0)
    at |= {"prompt": prompt, "output": output}
    assert law("birth_death").step(**at) == near(numeric.step)
    # One place: the probability that it is taken is Erlang's, with the time of one request.
    time = law("birth_death").time(**at, n=1)
    assert 0.01 * time / (1 + 0.01 * time) == near(numeric.mean)


@FEW
@given(data=st.data(), d0=hundredths, d1=small)
def test_wait(data, d0, d1):
    mix, rates = data.draw(traffic())
    area = sum(rates[k] * float(demand(mix[k], COUNTER).area) for k in CLASSES)
    scale = data.draw(st.floats(0.01, 0.95)) / (d1 * area) if d1 else 1.0
    rates = {name: rate * scale for name, rate in rates.items()}
    numeric, formula = fluid.wait_equilibrium(mix, rates, d0, d1), law("wait", CLASSES)
    at: dict[str, Any] = {"d0": d0, "d1": d1}
    for name, request in mix.items():
        at |= {
            f"rate_{name}": rates[name],
            f"prompt_{name}": request.prompt.low,
            f"output_{name}": request.output.low,
        }
    for name in ("memory", "interval", "throughput", "area_rate"):
        assert fixed(formula[name], at) == getattr(numeric, name), name
    for name in CLASSES:
        assert fixed(formula[f"count_{name}"], at) == numeric.counts[name]
    # The memory of the equilibrium fits if and only if the load of the region is at most 1.
    for memory in (numeric.memory * F(99, 100), numeric.memory, numeric.memory * F(101, 100)):
        load = formula.load.exact(**at, kv_tokens=memory)
        assert (load > 1, load == 1) == (numeric.memory > memory, numeric.memory == memory)


COUNTER = Engine(BatchTime.affine(base=1, per_token=0), conventions=WAIT)


@FEW
@given(n1=st.integers(2, 60), share=st.floats(0.05, 0.9), up=st.floats(0.05, 0.95))
def test_nested_wait(n1, share, up):
    n2 = n1 * (share + (1 - share) * up)
    root, formula = fluid.nested_wait_exponent(n1, n2, share), law("nested_wait")
    at = {"n1": n1, "n2": n2, "p": share}
    assert formula.equation(**at, theta=root) == pytest.approx(0, abs=1e-9 * n1 * max(1, root))
    assert formula.equation(**at, theta=root * 0.99) < 0 < formula.equation(**at, theta=root * 1.01)
    assert formula.hoeffding.exact(**at) == fluid.hoeffding_exponent(n1, n2, share)
    mix = {"a": RequestClass(20, 10), "b": RequestClass(20, 40)}
    plan = fluid.nested_wait(mix, {"a": 3, "b": 2}, (8, 5), 0.1, 1e-6, horizon=3600, overflow=0.01)
    at = {
        "prompt": 20,
        "reached": 10,
        "n2": 5,
        "segments": 2,
        "horizon": 3600,
        "d0": 0.1,
        "overflow": 0.01,
        "theta": plan.exponents[0],
    }
    assert formula.stock(**at) == near(plan.stock)


@FEW
@given(data=st.data(), share=st.floats(0.2, 0.98), count=st.integers(1, 3), x=st.floats(0, 50))
def test_priced_workload(data, share, count, x):
    mix, rates = data.draw(traffic())
    engine = data.draw(engines(mix))
    numeric = stability_region(Fleet({"all": (engine, count)}), mix)
    scale = share / numeric.load(rates)
    rates = {name: rate * scale for name, rate in rates.items()}
    delay = latency.priced_workload(numeric, rates, mix)
    at: dict[str, Any] = {"engines": count}
    for j, name in enumerate(CLASSES):
        at |= {
            f"rate_{name}": rates[name],
            f"price_{name}": delay.means[j],
            f"square_{name}": delay.second_moments[j],
        }
    formula = law("priced_workload", CLASSES)
    assert formula.load(**at) == near(delay.load)
    assert formula.wait(**at) == near(delay.wait)
    assert formula.tail(**at, x=x) == near(delay.tail(x))


@FEW
@given(data=st.data(), budget=st.integers(1, 80), v=st.integers(2, 90), count=st.integers(1, 4))
def test_tiles_and_rad(data, budget, v, count):
    shape = replace(data.draw(laws("tiled")), per_kv=0.0, per_kv_mixed=0.0, per_work=0.0)
    budget += shape.tile
    at = {
        "base": shape.base,
        "per_tile": shape.per_tile,
        "tile": shape.tile,
        "per_token": shape.per_token,
        "token_budget": budget,
    }
    formula, best = law("tile"), tiling.best_batch(shape, budget)
    assert formula.best.exact(**at) == best.exact_rate
    batch = data.draw(st.integers(1, budget))
    assert formula.rate.exact(**at, batch_tokens=batch) == batch / shape.exact()(batch)
    assert 0 <= formula.loss.exact(**at) < 1
    if shape.per_token == 0:
        ragged = budget % shape.tile > 0
        wins = formula.filled.exact(**at) > formula.whole.exact(**at)
        assert wins == (ragged and formula.ragged_pays.exact(**at) > 0)

    # RAD: no constant term, nothing but tiles binds.
    engine = Engine(replace(shape, base=0.0), budget, conventions=THEORY)
    prompt = data.draw(st.integers(1, v - 1))
    mix = {"x": RequestClass(prompt, v - prompt)}
    numeric = stability_region(Fleet({"all": (engine, count)}), mix)
    at = {name: at[name] for name in ("per_tile", "tile", "per_token")}
    at |= {"mean_tokens": v, "engines": count}
    load = law("rad").load.exact(**at, rate=F(3, 7))
    assert load == F(3, 7) * numeric.load({"x": 1}, exact=True)
    assert law("rad").capacity.exact(**at) == F(3, 7) / load
    # Cycles of n prefills: the sufficient rate is where the drift of the queue vanishes.
    cycle = at | {"prefills": 7, "max_output": v}
    rate, node = law("rad").cycle_capacity.exact(**cycle), law("rad").request_time.exact(**at)
    waste = v * as_fraction(shape.per_tile)
    assert rate / count * (7 * node + waste) - 7 == 0
    assert rate < law("rad").capacity.exact(**at)


@FEW
@given(
    base=hundredths,
    slope=hundredths,
    budget=st.integers(1, 9),
    cap=st.integers(1, 9),
    prompt=st.integers(1, 30),
    output=st.integers(1, 30),
)
def test_static_planning_is_a_linear_programme(base, slope, budget, cap, prompt, output):
    """All batches of at most ``budget`` tokens and ``cap`` decodes, solved by scipy."""
    cap = min(cap, budget)
    batches = [(p, d) for p in range(budget + 1) for d in range(min(cap, budget - p) + 1) if p + d]
    time = [base + slope * (p + d) for p, d in batches]
    rows = [[prompt, *(-p for p, _ in batches)], [output, *(-d for _, d in batches)], [0, *time]]
    solved = linprog([-1] + [0] * len(batches), A_ub=rows, b_ub=[0, 0, 1])
    at = {
        "base": base,
        "per_token": slope,
        "token_budget": budget,
        "max_seqs": cap,
        "mean_prompt": prompt,
        "mean_output": output,
    }
    formula = law("rad_lp")
    assert formula.affine(**at) == pytest.approx(-solved.fun, rel=1e-7)
    duals = -solved.ineqlin.marginals[:2]
    if output / cap > (prompt + output) / budget * (1 + 1e-9):
        assert fixed(formula.capped, at) == fixed(formula.affine, at)
        assert formula.prefill_price(**at) == pytest.approx(duals[0], rel=1e-6)
        assert formula.decode_price(**at) == pytest.approx(duals[1], rel=1e-6)
    # Without the cap it is L1: full batches, every token at the same price.
    full = formula.full_batch(
        batch_tokens=budget,
        batch_time=base + slope * budget,
        mean_prompt=prompt,
        mean_output=output,
    )
    assert full == pytest.approx(formula.affine(**at | {"max_seqs": 10**9}), rel=REL)
    assert full >= formula.affine(**at) * (1 - REL)


@FEW
@given(
    engines_=st.integers(2, 40),
    prefill=st.integers(1, 60),
    decode=st.integers(1, 60),
    data=st.data(),
)
def test_static_split(engines_, prefill, decode, data):
    at = {"engines": engines_, "prefill_work": prefill, "decode_work": decode}
    formula = law("static_split")
    splits = {n: min(F(n, prefill), F(engines_ - n, decode)) for n in range(1, engines_)}
    dynamic = F(engines_, prefill + decode)
    assert formula.dynamic.exact(**at) == dynamic
    assert formula.static.exact(**at) == max(splits.values())
    assert formula.loss.exact(**at) == 1 - max(splits.values()) / dynamic
    chosen = data.draw(st.sampled_from(sorted(splits)))
    assert formula.fixed.exact(**at, prefill_engines=chosen) == splits[chosen]
    lost = formula.fixed_loss.exact(**at, prefill_engines=chosen)
    assert lost == 1 - splits[chosen] / dynamic
    assert 0 <= formula.loss.exact(**at) <= formula.loss_bound.exact(**at)
    whole = formula.balance.exact(**at).denominator == 1
    assert (formula.loss.exact(**at) == 0) == whole


@FEW
@given(gpus=st.integers(2, 30), prompt=st.integers(10, 900), output=st.integers(2, 300))
def test_static_split_is_disaggregation(gpus, prompt, output):
    first = Engine(BatchTime.affine(base=8, per_token=1 / 16), 4096, conventions=THEORY)
    second = Engine(
        BatchTime.affine(base=12, per_token=1 / 50, per_kv=1 / 20000),
        256,
        kv_tokens=120_000,
        conventions=THEORY,
    )
    split = routing.disaggregate(first, second, {"x": RequestClass(prompt, output)}, gpus)
    at = {
        "engines": gpus,
        "prefill_work": 1 / split.prefill_rate,
        "decode_work": 1 / split.decode_rate,
    }
    formula = law("static_split")
    assert formula.static.exact(**at) == split.exact_rate
    assert formula.dynamic.exact(**at) == split.exact_fractional_rate
    assert formula.fixed.exact(**at, prefill_engines=split.prefill) == split.exact_rate


@pytest.mark.parametrize("name", ["decode_occupancy", "mg1", "md1", "inoue", "kv_occupancy", "rad"])
def test_derivatives_of_laws_are_difference_quotients(name):
    """In floats, central, at a fixed point: every smooth field in every argument."""
    at = {
        "rate": 0.7,
        "mean_output": 0.9,
        "base": 0.6,
        "per_token": 0.3,
        "mean": 0.8,
        "n": 2.0,
        "second_moment": 1.7,
        "duration": 0.9,
        "x": 1.3,
        "per_item": 0.4,
        "p_none": 0.5,
        "prompt": 3.0,
        "output": 2.0,
        "z": 1.1,
        "per_tile": 0.7,
        "tile": 4.0,
        "engines": 2.0,
        "mean_tokens": 5.0,
        "prefills": 3.0,
        "max_output": 6.0,
    }
    step, checked = 1e-6, 0
    for key, formula in law(name).items():
        values = {k: v for k, v in at.items() if k in formula.arguments}
        for argument in formula.arguments:
            if key in ("cdf", "pmf", "bound"):
                continue
            up, down = (formula(**values | {argument: at[argument] + h}) for h in (step, -step))
            slope = formula.derivative(argument)(**values)
            assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-8), argument
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize(("first", "second"), [*itertools.product([0.3, 0.8], [1, 7])])
def test_arrays_are_numbers_one_by_one(first, second):
    rates = np.array([first, first / 2])
    at = {"load": rates[:, None] * 8, "servers": np.array([8, 8 + second])}
    table = law("erlang_c").wait.lambdify()(**at)
    assert table.shape == (2, 2)
    for i, j in np.ndindex(2, 2):
        assert table[i, j] == near(latency.erlang_c(int(at["servers"][j]), rates[i] * 8).wait)
