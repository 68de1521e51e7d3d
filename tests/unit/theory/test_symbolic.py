"""Formulas: published values exactly, identities between them, LaTeX, and refusals."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction as F

import numpy as np
import pytest

from llmq.errors import InputError, UnstableError
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.symbolic import LAWS, NOTATION, Formula, law, region, symbols

CHAT = region("chat")
TWO = region(classes=("chat", "code"))
# Oracle O25, times in milliseconds.
ENGINE = Engine(
    BatchTime.affine(base=12, per_token=1 / 40, per_kv=1e-5),
    token_budget=2048,
    max_seqs=128,
    kv_tokens=120_000,
    kv_block=1,
    prefill_chunk=512,
    conventions=THEORY,
)
MIX = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
RATES = {"chat": F(10, 1000), "code": F(2, 1000)}
O25 = TWO.values(ENGINE, MIX, RATES)


def is_zero(expression):
    import sympy

    return sympy.simplify(expression) == 0


def test_theorem_u_oracle():
    prices = TWO.prices["memory"]
    assert prices.chat.exact(**O25) == F(75542, 3125)
    assert prices.code.exact(**O25) == F("119.45344")
    assert TWO.prices["tokens"].chat.exact(**O25) == F("20.49304")
    assert TWO.prices["slots"].code.exact(**O25) == F("87.59804")
    found = {name: facet.exact(**O25) for name, facet in TWO.facets.items()}
    assert found == {"tokens": F("0.35837648"), "slots": F("0.46356398"), "memory": F("0.48064128")}
    assert TWO.load.exact(**O25) == F("0.48064128")
    assert TWO.capacity().exact(**O25) / F(12, 1000) == pytest.approx(2.0805537136, rel=1e-10)


def test_lengths_give_the_same_as_means():
    long = region(("chat", "code"), lengths=True)
    values = long.values(ENGINE, MIX, RATES)
    assert "prompt_chat" in values
    assert "tokens_chat" not in values
    assert long.load.exact(**values) == TWO.load.exact(**O25)


def test_what_one_more_buys_is_zero_where_another_facet_binds():
    bought = {what: TWO.one_more(what).exact(**O25) for what in ("token", "slot", "kv_block")}
    assert bought["token"] == bought["slot"] == 0 < bought["kv_block"]
    assert TWO.one_more("gpu").exact(**O25) == TWO.capacity().exact(**O25)
    assert TWO.one_more("gpu", TWO.load).exact(**O25) == -TWO.load.exact(**O25) / 2


def test_prices_are_gradients_and_rates_times_prices_the_load():
    for name, facet in TWO.facets.items():
        prices = TWO.prices[name]
        rate = symbols("rate_chat", "rate_code")
        whole = rate[0] * prices.chat.expression + rate[1] * prices.code.expression
        assert is_zero(whole - facet.expression)


def test_special_cases_of_theorem_u():
    c, lam, memory, g, held, v, budget = symbols(
        "base", "rate_chat", "kv_tokens", "area_chat", "held_chat", "tokens_chat", "token_budget"
    )
    alone = {"engines": 1, "per_kv": 0}
    # Nie et al.: memory with a = e = 0 and c the mean batch time.
    nie = law("nie").rate.subs(batch_time=c, mean_area=held).expression
    assert is_zero(CHAT.facets.memory.subs(per_token=0, **alone).expression - lam / nie)
    # WAIT: memory with a = 0, e = d1, c = d0.
    d0, d1 = symbols("d0", "d1")
    facet = CHAT.facets.memory.subs(per_token=0, per_kv=d1, base=d0, engines=1).expression
    wait = law("wait").load.expression
    area = law("wait").area_rate.expression
    assert is_zero(facet.xreplace({g: area / lam, held: area / lam}) - wait)
    # Dai et al.: tokens with a := alpha / b0; the token rate is b_max / t(b_max).
    tiled = region("chat", law="tiled").facets.tokens.subs(per_token=0, **alone)
    whole = law("tile").whole.subs(per_token=0).expression
    assert is_zero(tiled.expression - lam * v / whole)
    # L2 of the RAD notes: tokens, and slots with one slot-iteration for a decode.
    affine = law("rad_lp").capped.expression
    s, o = symbols("mean_prompt", "mean_output")
    slots = CHAT.facets.slots.subs(**alone, slots_chat=o, tokens_chat=s + o, rate_chat=1)
    assert is_zero(slots.expression - 1 / affine)
    assert {budget, c, memory} <= CHAT.load.expression.free_symbols


def test_wait_oracle():
    at = {
        "d0": F(1, 100),
        "d1": F(1, 10**7),
        "rate_a": 8,
        "prompt_a": 100,
        "output_a": 50,
        "rate_b": 4,
        "prompt_b": 200,
        "output_b": 100,
    }
    rest = law("wait", ("a", "b"))
    assert rest.area_rate.exact(**at) == 152_000
    assert rest.memory.exact(**at) == F(1_900_000, 1231)
    assert rest.interval.exact(**at) == F(25, 2462)
    assert rest.count_a.exact(**at) == 8 * F(25, 2462)
    assert rest.throughput.exact(**at) == 800
    with pytest.raises(UnstableError, match="lower the rates"):
        rest.memory.exact(**at | {"d1": F(1, 10**5)})


def test_wait_holds_more_than_the_memory_in_proportion_to_the_excess_load():
    rest, (memory,) = law("wait"), symbols("kv_tokens")
    gap = rest.memory.expression - memory
    slack = memory * (rest.load.expression - 1) / (1 - rest.load.load)
    assert is_zero(gap - slack)


def test_rad_oracles():
    at = {"per_tile": 4000, "tile": 128, "per_token": 5, "mean_tokens": 760, "engines": 1}
    assert law("rad").request_time.exact(**at) == 27550
    assert law("rad").capacity.exact(**at) * 10**6 == pytest.approx(36.2976406534, rel=1e-11)
    assert 1 / law("rad").token_time.exact(**at) * 10**6 == F(800_000, 29)
    assert law("rad").capacity.exact(**at | {"mean_tokens": 384}) == F(1, 13920)
    assert "secondary" in law("rad").capacity.source
    assert law("rad").cycle_capacity.kind is Kind.INNER_BOUND
    tiles = {"per_tile": 4000, "tile": 128, "per_token": 5, "mean_prompt": 256, "mean_output": 128}
    assert law("rad_lp").tiles.exact(**tiles) == F(1, 13920)


def test_cycles_of_rad_reach_the_capacity_in_the_limit_only():
    import sympy

    cycles, whole = law("rad").cycle_capacity.expression, law("rad").capacity.expression
    (prefills,) = symbols("prefills")
    assert is_zero(sympy.limit(cycles, prefills, sympy.oo) - whole)
    assert sympy.simplify(whole / cycles - 1).is_positive


def test_tile_oracles():
    dai = {"base": F("11.28"), "per_tile": F("35.47"), "tile": 128, "per_token": 0}
    assert law("tile").whole.exact(**dai, token_budget=512) == F(12800, 3829)
    # A ragged tile pays if it is fuller than alpha q / (c + alpha q), here 75.9 %.
    edge = {"base": F("11.28"), "per_tile": F("35.47"), "tile": 128, "per_token": 0}
    pays = [law("tile").ragged_pays.exact(**edge, token_budget=128 + n) > 0 for n in (97, 98)]
    assert pays == [False, True]


def test_latency_oracles():
    assert law("bailey").queue_mean(mean_arrivals=14, batch=16) == pytest.approx(1.877222879022)
    assert law("bailey").p_empty(mean_arrivals=1.8, batch=2) == pytest.approx(0.284984631228)
    assert law("erlang_c").p_wait(servers=110, load=100) == pytest.approx(0.23700750029)
    at = {"rate": 2, "mean_output": 200, "base": F("0.012"), "per_token": F("0.0005")}
    decode = law("decode_occupancy")
    exact = [decode[k].exact(**at) for k in ("mean", "variance", "sojourn", "tbt_mean")]
    assert exact == [F(25, 4), F(125, 16), F(25, 8), F(1, 64)]
    assert decode.p_empty.exact(**at) == F(4, 5) ** 25
    assert law("decode_slots").capacity.exact(**at, max_seqs=8) == F(5, 2)
    kv = {"rate": F(1, 2), "prompt": 4, "output": 6}
    assert law("kv_occupancy").mean.exact(**kv) == F(45, 2)
    assert law("kv_occupancy").variance.exact(**kv) == F(355, 2)
    alpha = {"per_item": 0.1438, "base": 1.8874}
    bound = law("inoue").phi0(rate=0.5 / 0.1438, **alpha)
    assert bound == pytest.approx(21.1585687529, rel=1e-11)
    assert law("md1").far_tail.kind is Kind.ASYMPTOTIC
    nie = {"kv_tokens": 60000, "batch_time": 0.03, "mean_area": F("563110.4"), "peak": 2560}
    assert law("nie").stable_rate(**nie) == pytest.approx(3.4001621470, rel=1e-10)
    assert law("nie").replicas.exact(**nie, rate=40) == 12
    step = {"prompt": 128, "output": 512, "per_token": 0.05, "per_kv": 0.0005}
    assert law("birth_death").step(**step) == pytest.approx(0.2543781676, rel=1e-9)
    assert law("jsq").sojourn(d=3, load=0.9) == pytest.approx(2.0278559690)


def test_the_negative_binomial_solves_its_balance_and_exceeds_the_fluid_by_the_excess():
    lam, o, c, a, n = symbols("rate", "mean_output", "base", "per_token", "n")
    import sympy

    pmf = law("decode_occupancy").pmf.expression
    after = pmf.xreplace({n: n + 1})
    # Rate up in state n, rate down from n + 1: processor sharing at n / (o (c + a n)).
    down = (n + 1) / (o * (c + a * (n + 1)))
    assert is_zero(
        sympy.combsimp(sympy.gammasimp((after * down / (pmf * lam)).rewrite("gamma"))) - 1
    )
    fluid, decode = law("decode_fluid"), law("decode_occupancy")
    assert is_zero(decode.mean.expression - fluid.mean.expression - fluid.excess.expression)
    at_rest = {n: fluid.mean.expression}
    assert is_zero(fluid.drift.expression.xreplace(at_rest))
    slope = fluid.drift.derivative("n").expression.xreplace(at_rest)
    assert is_zero(fluid.relaxation.expression + 1 / slope)


def test_static_split_oracle():
    """Oracle O24: 16 engines, 9 prefill and 7 decode."""
    at = {"engines": 16, "prefill_work": 66, "decode_work": 1 / F("0.0202386290041")}
    split = law("static_split")
    assert split.static.exact(**at) == F(3, 22)
    assert float(split.dynamic.exact(**at)) == pytest.approx(0.1386356122895, rel=1e-10)
    assert split.static.exact(**at) == split.fixed.exact(**at, prefill_engines=9)
    # The bound is reached: an odd number of engines and equal phases.
    equal = {"engines": 5, "prefill_work": 1, "decode_work": 1}
    assert split.loss.exact(**equal) == split.loss_bound.exact(**equal) == F(1, 5)


def test_pmf_sums_over_an_array():
    n = np.arange(400)
    mass = law("decode_occupancy").pmf(n=n, rate=2, mean_output=200, base=0.012, per_token=0.0005)
    assert mass.sum() == pytest.approx(1, rel=1e-12)
    assert mass @ n == pytest.approx(6.25, rel=1e-12)


def everything():
    for name in LAWS:
        yield from law(name, ("chat", "long-rag_1 %")).items()
    yield from TWO.facets.items()
    yield from TWO.equilibrium().items()
    yield "load", TWO.load
    yield "capacity", TWO.capacity("memory")
    yield "price", TWO.prices["slots"].code
    for what in ("token", "slot", "kv_block", "gpu"):
        yield what, TWO.one_more(what, TWO.facets.memory)
    for parameter in ("token_budget", "per_kv", "tokens_chat", "engines"):
        yield parameter, TWO.sensitivity("tokens", parameter)


def longest():
    for form in ("affine", "tiled", "roofline"):
        yield f"load, {form}", region("chat", law=form).load
        yield f"capacity, {form}", region("chat", law=form).capacity()
        yield from region("chat", law=form, lengths=True).facets.items()
    for formula in law("bailey"), law("mg1"), law("inoue"):
        for name, value in formula.items():
            for argument in set(value.symbols) - {"batch"} if name != "bound" else ():
                yield f"{name} by {argument}", value.derivative(argument)


def draw(formulas):
    """Parse each with matplotlib; how many differ."""
    from matplotlib.mathtext import MathTextParser

    parser, drawn = MathTextParser("path"), set()
    for name, formula in formulas:
        text = formula.latex()
        assert "cases" not in text, name
        if text not in drawn:
            parser.parse(f"${text}$")
        drawn.add(text)
    return len(drawn)


def test_matplotlib_draws_every_formula():
    assert draw(everything()) > 110


@pytest.mark.slow
def test_matplotlib_draws_long_formulas_and_derivatives():
    assert draw(longest()) > 40


def test_latex_is_stable():
    found = [
        CHAT.facets.tokens,
        CHAT.sensitivity("memory", "kv_tokens"),
        law("mg1").wait,
        law("decode_occupancy").mean,
        law("wait").interval,
        law("rad").load,
        law("static_split").dynamic,
        law("demand").slots,
        CHAT.one_more("slot", CHAT.facets.slots),
    ]
    assert [formula.latex() for formula in found] == [
        r"\rho_{tokens} = \frac{g_{chat} e \lambda_{chat} + a \lambda_{chat} v_{chat}"
        r" + \frac{c \lambda_{chat} v_{chat}}{b_{max}}}{N}",
        r"\frac{\partial \rho_{memory}}{\partial M} = - \frac{c \bar g_{chat} \lambda_{chat}}"
        r"{N M^{2}}",
        r"E[W] = \frac{\lambda E[S^{2}]}{2 - 2 E[S] \lambda}",
        r"E[N] = \frac{c E[o] \lambda + E[o] a \lambda}{1 - E[o] a \lambda}",
        r"\Delta T^{*} = \frac{d_{0}}{1 - d_{1} \lambda_{chat} \left(s_{chat}"
        r" + \frac{o_{chat}}{2}\right) \left(o_{chat} + 1\right)}",
        r"\rho = \frac{E[v] \lambda \left(a + \frac{\alpha}{b_{0}}\right)}{N}",
        r"\lambda_{dynamic} = \frac{N}{d_{d} + d_{p}}",
        r"k = o + \left\lceil{\frac{s}{h}}\right\rceil",
        r"\Delta_{k_{max}} \rho_{slots} = - \frac{c \lambda_{chat} k_{chat}}"
        r"{N k_{max} \left(k_{max} + 1\right)}",
    ]
    assert law("mg1").utilisation.latex(left=False) == r"E[S] \lambda"
    assert law("mg1").utilisation._repr_latex_() == r"$\displaystyle \rho = E[S] \lambda$"


def test_every_symbol_has_a_letter_and_a_class_keeps_its_name():
    for name, (tex, meaning) in NOTATION.items():
        assert tex, name
        assert meaning, name
    # sympy alone would print the rate of "chat" with a hat on c.
    assert r"\lambda_{chat}" in CHAT.load.latex()
    odd = region(("long-rag_1",)).facets.tokens
    assert r"v_{long-rag\_1}" in odd.latex()
    assert (
        odd(
            **{
                "rate_long-rag_1": 2,
                "tokens_long-rag_1": 3,
                "area_long-rag_1": 0,
                "base": 1,
                "per_token": 1,
                "per_kv": 0,
                "token_budget": 6,
                "engines": 1,
            }
        )
        == 7
    )


def test_a_coefficient_called_floor_does_not_hide_the_function():
    whole = region("chat", law="roofline", lengths=True).load
    at = {
        "floor": 5,
        "floor_per_token": 0,
        "base": 1,
        "per_token": 1,
        "per_kv": 1,
        "engines": 1,
        "rate_chat": F(1, 10),
        "prompt_chat": 5,
        "output_chat": 1,
        "chunk": 2,
        "max_seqs": 9,
        "kv_tokens": 99,
        "kv_block": 1,
        "token_budget": 2,
    }
    assert whole(**at) == pytest.approx(float(whole.exact(**at)), rel=1e-14)


def test_formulas_are_values():
    wait = law("mg1").wait
    assert wait == law("mg1").wait
    assert hash(wait) == hash(law("mg1").wait)
    assert pickle.loads(pickle.dumps(wait)) == wait
    assert copy.deepcopy(law("mg1")).wait == wait
    assert wait.symbols.keys() == {"mean", "rate", "second_moment"}
    assert repr(wait) == "Formula(wait = rate*second_moment/(-2*mean*rate + 2))"
    assert repr(law("mg1")) == "Formulas(mg1: utilisation, wait, sojourn, queue_mean)"
    assert repr(TWO) == "SymbolicRegion(affine law; classes chat, code)"
    assert len(law("mg1")) == 4
    assert TWO.law("wait") == law("wait", ("chat", "code"))


def test_substitution_keeps_what_is_left():
    wait = law("mg1").wait.subs(second_moment=2, mean=law("mg1").utilisation)
    assert wait.symbols.keys() == {"mean", "rate"}
    assert wait.exact(rate=F(1, 2), mean=1) == F(2, 3)
    area = CHAT.facets.memory.subs(held_chat=law("demand").area)
    assert {"prompt", "output", "chunk"} <= set(area.arguments)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: law("mg2"), "did you mean 'mg1'"),
        (lambda: region("chat", law="afine"), "did you mean 'affine'"),
        (lambda: region("chat", "code"), r"one tuple: write region\(\('chat', 'code'\)\)"),
        (lambda: region(("a", "b"), "c"), r"one tuple: write region\(\('a', 'b', 'c'\)\)"),
        (lambda: TWO.load(chat=1.0), "has no 'chat'; did you mean 'rate_chat'"),
        (lambda: region(()), "different names"),
        (lambda: region(("a", "a")), "different names"),
        (lambda: CHAT.facets["token"], "did you mean 'tokens'"),
        (lambda: CHAT.sensitivity("tokens", "tokn_budget"), "did you mean 'token_budget'"),
        (lambda: CHAT.one_more("gpus"), "did you mean 'gpu'"),
        (lambda: CHAT.load.derivative("token_budget"), "differentiate one of its facets"),
        (lambda: law("erlang_c").wait.derivative("servers"), "counts the terms"),
        (lambda: law("tile").filled.derivative("token_budget"), "corners"),
        (lambda: law("mg1").wait(rate=1, mean=0.5), "needs second_moment as well"),
        (lambda: law("mg1").wait(rate=-1, mean=0.5, second_moment=1), "finite number >= 0"),
        (lambda: law("mg1").wait(rate=[0.1, -1], mean=0.5, second_moment=1), "finite number >= 0"),
        (lambda: law("mg1").wait(rate="1", mean=0.5, second_moment=1), "finite number >= 0"),
        (lambda: law("mg1").wait.exact(rate=True, mean=1, second_moment=1), "or an expression"),
        (lambda: law("mg1").wait(rate=1, mean=0.5, second_momnt=1), "did you mean 'second_moment'"),
        (
            lambda: law("kv_occupancy").safe_memory.exact(rate=2, prompt=1, output=1, z=1),
            "no rational value",
        ),
        (lambda: symbols("per_tokn"), "did you mean 'per_token'"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_an_unknown_attribute_names_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'sojourn'"):
        _ = law("mg1").sojurn


def test_overload_is_an_error_and_nan_in_an_array():
    wait = law("mg1").wait
    with pytest.raises(UnstableError):
        wait(rate=2, mean=0.5, second_moment=1)
    found = wait(rate=[1, 2, 3], mean=0.5, second_moment=1)
    assert found[0] == 1
    assert np.isnan(found[1:]).all()
    stay = law("decode_slots").sojourn
    found = stay(rate=[2, 2.5], mean_output=200, base=0.012, per_token=0.0005, max_seqs=8)
    assert found[0] == pytest.approx(3.915215867)
    assert np.isnan(found[1])
    with pytest.raises(InputError, match="no value here"):
        law("decode_occupancy").pmf(n=1, rate=1, mean_output=1, base=1, per_token=0)
    with pytest.raises(InputError, match="no value here"):
        law("erlang_c").wait(servers=400, load=390.0)
    # The load itself may be asked for.
    assert law("mg1").utilisation(rate=3, mean=0.5) == 1.5


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (ENGINE.with_(law=BatchTime.tiled(base=1, per_tile=1, tile=8)), "law='tiled'"),
        (ENGINE.with_(law=BatchTime.table(tokens=[1, 9], seconds=[1, 2])), "no formula"),
        (ENGINE.with_(law=BatchTime.affine(base=1, per_token=1, per_work=1)), "attention=True"),
        (ENGINE.with_(law=BatchTime.affine(base=1, per_token=1, per_kv_mixed=1)), "one rate of KV"),
        (ENGINE.with_(max_seqs=None), "max_seqs and kv_tokens"),
    ],
)
def test_engines_without_formulas(engine, says):
    with pytest.raises(InputError, match=says):
        TWO.values(engine, MIX, RATES)


def test_classes_and_lengths_without_formulas():
    with pytest.raises(InputError, match="the classes here are chat, code"):
        TWO.values(ENGINE, {"chat": MIX["chat"]}, {"chat": 1})
    vary = MIX | {"chat": RequestClass(Lengths.uniform(1, 9), 5)}
    with pytest.raises(InputError, match="lengths that vary"):
        region(("chat", "code"), lengths=True).values(ENGINE, vary, RATES)
    assert TWO.load(**TWO.values(ENGINE, vary, RATES)) > 0
    other = region(("chat", "code"), lengths=True, conventions=THEORY)
    from llmq.model.conventions import ENGINE as VLLM

    with pytest.raises(InputError, match="conventions"):
        other.values(ENGINE.with_(conventions=VLLM), MIX, RATES)


def test_formulas_say_what_they_are():
    for name, formula in everything():
        assert isinstance(formula, Formula), name
        assert formula.assumptions, name
        assert formula.source, name
    assert TWO.load.kind is Kind.OUTER_BOUND
    assert TWO.equilibrium().kv.kind is Kind.ASYMPTOTIC
