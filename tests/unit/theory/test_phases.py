"""Pools that do one phase: what they must hold, what is assumed, and loads that are carried."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmq import BatchTime, Engine, Fleet, Lengths, RequestClass
from llmq.errors import InputError
from llmq.model.conventions import THEORY
from llmq.theory.region import stability_region
from llmq.theory.region._disaggregation import disaggregate
from llmq.theory.region._inner import inner_bound
from proofs import check
from tests.properties.test_region import PERIOD, engines, laws, mixes, run_paced

LONG = {"x": RequestClass(4000, 1500)}
FIRST = Engine(BatchTime.affine(base=0.01, per_token=1e-4), 2048, kv_tokens=4800)
LAST = Engine(BatchTime.affine(base=0.01, per_token=1e-5), 256, kv_tokens=10**6)


def pools(kv: int) -> Fleet:
    large = FIRST.with_(kv_tokens=10**6)
    return Fleet(
        {"small": (FIRST.with_(kv_tokens=kv), 4), "large": (large, 1), "last": (LAST, 10)},
        roles={"small": "prefill", "large": "prefill", "last": "decode"},
    )


def test_a2_a_prefill_pool_holds_the_prompt_only() -> None:
    """2.38 and an accepted certificate of instability at 5/s before; five pools carry 11.9."""
    for kv in (4800, 5504):
        region = stability_region(pools(kv), LONG)
        assert region.margin({"x": 1}) == pytest.approx(11.918, abs=1e-3)
        assert region.contains({"x": 5})
        made = region.certificate({"x": 5})
        assert (made.claim, made.load) == ("optimal_load", F(537, 1280))
        assert check.check(made.text()).startswith("optimal_load")


def test_a2_a_prefill_pool_below_the_prompt_is_no_route() -> None:
    region = stability_region(pools(3984), LONG)
    assert region.margin({"x": 1}) == pytest.approx(11.918 / 5, abs=1e-3)
    assert "class x cannot use small" in " ".join(region.assumptions)


def test_a2_a_decode_pool_holds_prompt_and_decodes() -> None:
    fleet = replace(pools(4800), pools={**pools(4800).pools, "last": (FIRST, 10)})
    with pytest.raises(InputError, match=r"class 'x' may be prefilled but not decoded"):
        stability_region(fleet, LONG)


def test_a2_disaggregate_holds_the_prompt_in_the_prefill() -> None:
    assert disaggregate(FIRST, LAST, LONG, 12).prefill > 0
    with pytest.raises(InputError, match=r"holds up to 4,000 KV tokens"):
        disaggregate(FIRST.with_(kv_tokens=3984), LAST, LONG, 12)


def test_a2_a_request_without_decodes_needs_no_decode_pool_and_no_link() -> None:
    tiny = LAST.with_(kv_tokens=160)
    fleet = Fleet(
        {"p": (FIRST, 1), "d": (tiny, 1)}, roles={"p": "prefill", "d": "decode"}, link=1.0
    )
    region = stability_region(fleet, {"x": RequestClass(2048, 1)})
    assert region.load({"x": 1}) == pytest.approx(0.01 + 0.2048)
    late = FIRST.with_(conventions=THEORY)  # there the first token is a decode
    other = replace(fleet, pools={"p": (late, 1), "d": (tiny.with_(conventions=THEORY), 1)})
    with pytest.raises(InputError, match="prefilled but not decoded"):
        stability_region(other, {"x": RequestClass(2048, 1)})
    # Of two requests one moves.
    half = RequestClass(Lengths.empirical([100, 60]), Lengths.empirical([1, 9]), paired=True)
    assert stability_region(fleet, {"x": half}).load({"x": 1}) == 30


UNLIKE = Fleet(
    {
        "f": (Engine(BatchTime.affine(base=0.02, per_token=1e-5), 4096, max_seqs=8), 1),
        "s": (Engine(BatchTime.affine(base=0.005, per_token=1e-3), 512, max_seqs=256), 1),
    }
)


def test_a3_whole_requests_in_unlike_pools_are_said() -> None:
    """1.183 by whole requests; as a prefill and a decode pool the same engines carry 2.458."""
    mix = {"x": RequestClass(4000, 400)}
    whole = stability_region(UNLIKE, mix)
    assert whole.margin({"x": 1}) == pytest.approx(1.183, abs=1e-3)
    assert any("served whole by the pool" in said for said in whole.assumptions)
    made = whole.certificate({"x": 1.3})
    assert made.claim == "unstable"
    assert "served whole" in str(made.body["says"])
    assert "each request is served whole by one of these pools" in check.check(made.text())
    split = stability_region(replace(UNLIKE, roles={"f": "prefill", "s": "decode"}), mix)
    assert split.margin({"x": 1}) == pytest.approx(2.458, abs=1e-3)
    assert not any("served whole" in said for said in split.assumptions)
    assert any("takes no memory" in said for said in split.assumptions)


def test_a3_routers_that_look_at_lengths_are_said_to_be_left_out() -> None:
    spread = {"x": RequestClass(Lengths.uniform(1, 4000), 400)}
    assert any(
        "no router looks at lengths" in a for a in stability_region(UNLIKE, spread).assumptions
    )
    fixed = stability_region(UNLIKE, {"x": RequestClass(4000, 400)})
    assert not any("no router looks" in a for a in fixed.assumptions)


def test_a7_the_bracket_of_pools_of_one_phase_is_finite() -> None:
    """(0.407, inf) before."""
    split = stability_region(
        replace(UNLIKE, roles={"f": "prefill", "s": "decode"}), {"x": RequestClass(4000, 400)}
    )
    low, high = split.load_bracket({"x": 1})
    assert low == pytest.approx(0.4068, abs=1e-4)
    assert low <= high < 0.41
    assert split.contains({"x": 2.4})
    assert not split.contains({"x": 2.5})


def test_a7_by_hand() -> None:
    """Prompts fill batches of 64 beside 7 free tokens; 100 decodes in 8 slots; the link."""
    law = BatchTime.affine(base=1, per_token=0)
    fleet = Fleet(
        {"p": (Engine(law, 64, prefill_chunk=8), 1), "d": (Engine(law, 64, max_seqs=8), 2)},
        roles={"p": "prefill", "d": "decode"},
        link=16.0,
    )
    mix = {"x": RequestClass(80, 101)}
    # A chunk of 1 token leaves no room at all: prefill 80 / 64, decode 100 / 8 on two engines.
    low, high = stability_region(fleet, mix).load_bracket({"x": 1.0})
    assert (low, high) == (pytest.approx(6.25), pytest.approx(6.25))
    slow = stability_region(replace(fleet, link=8.0), mix).load_bracket({"x": 1.0})
    assert slow == (10, 10)  # 80 tokens at 8 per second


@given(st.data(), st.sampled_from(["prefill", "decode"]))
@settings(max_examples=30, deadline=None)
def test_a7_paced_schedules_of_one_phase_fit_and_are_as_fast_as_said(
    data: st.DataObject, phase: str
) -> None:
    """Iteration by iteration: tokens, slots and whole blocks stay within the engine."""
    mix = data.draw(mixes(most=2, longest=12))
    engine = data.draw(engines(mix, replace(data.draw(laws()), per_work=0.0)))
    engine = engine.with_(token_budget=min(engine.token_budget, 24))
    lag = engine.conventions.lag
    requests = [(c.prompt.low, c.output.low - 1 + lag) for c in mix.values()]
    assume(phase == "prefill" or all(d > 0 for _, d in requests))
    rates = [data.draw(st.integers(1, 9)) / 8 for _ in mix]
    alone = sum(
        min(serial(engine, one, rate, phase), paced(engine, [one], [rate], phase))
        for one, rate in zip(requests, rates, strict=True)
    )
    measured = min(alone, paced(engine, requests, rates, phase)) if len(mix) > 1 else alone
    # Whole numbers of starts in a period cost up to 1 in 50.
    assert measured <= 1.02 * inner_bound(engine, mix, phases=phase).load(rates)


def profile(request: tuple[int, int], chunk: int, phase: str, block: int) -> np.ndarray:
    """Tokens, slots, blocks and KV of a request by its age."""
    s, d = request
    if phase == "prefill":
        tokens = np.asarray([min(chunk, s - i) for i in range(0, s, chunk)])
    else:
        tokens = np.ones(d, dtype=int)
    held = np.cumsum(tokens) + s * (phase == "decode")
    return np.stack((tokens, np.ones_like(tokens), -(-held // block), held))


def serial(engine: Engine, request: tuple[int, int], rate: float, phase: str) -> float:
    one = profile(request, engine.chunk, phase, engine.kv_block)
    reads = max(engine.law.per_kv, engine.law.per_kv_mixed) * one[3]
    return rate * float(np.sum(engine.law.curve(one[0]) + reads))


def paced(engine: Engine, requests: list[tuple[int, int]], rates: list[float], phase: str) -> float:
    """Run the paced schedule with each chunk and cap, round and round; least mean busy time."""
    best = math.inf
    free = math.inf if engine.max_seqs is None else engine.max_seqs - len(requests) + 1
    for chunk in sorted({2**i for i in range(engine.chunk.bit_length())} | {engine.chunk}):
        profiles = [profile(one, chunk, phase, engine.kv_block) for one in requests]
        need = sum(r * p.sum(axis=1) for r, p in zip(rates, profiles, strict=True))
        spare = sum(int(p[0].max()) for p in profiles) - 1
        room = engine.kv_blocks - sum(int(p[2][-1]) for p in profiles) + 1
        if room < 1 or free < 1:
            continue
        for cap in range(spare + 1, engine.token_budget + 1):
            n = max(need[0] / (cap - spare), need[1] / free, need[2] / room)
            starts = math.floor(PERIOD / n / 8)
            time = run_paced(engine, profiles, [round(8 * r) * starts for r in rates], cap)
            best = min(best, time / (8 * starts))
    return best
