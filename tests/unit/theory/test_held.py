"""KV in whole blocks and prompts read at the mixed rate: by hand, and in all that charges them."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import latency
from llmq.model.conventions import ENGINE, THEORY, Conventions
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.needs._held import decode_blocks, prefill_blocks
from llmq.theory.needs.demand import demand
from llmq.theory.region import Region, stability_region
from llmq.theory.region._bounds import outer_facets, request_prices, shared_facets, shares_slot
from llmq.theory.region._certificate_record import canonical_digest
from llmq.theory.region._pools import need_of, planning_problem
from proofs.check import check
from proofs.check_reading import Rejected

# Reads of 1/8 by prompts, 1/16 by decodes alone; chunks of 4, 12 tokens in 3 blocks of 4.
LAW = BatchTime.affine(base=1.0, per_token=0.5, per_kv=0.0625, per_kv_mixed=0.125, per_work=0.25)
SMALL = Engine(LAW, 8, kv_tokens=14, kv_block=4, prefill_chunk=4, max_seqs=2)
# Prompt 6, three decodes: chunks hold 2 and 6 tokens (1 and 2 blocks), decodes 7, 8, 9 (2, 2, 3).
ONE = RequestClass(6, 4)


def ceil(x: int, y: int) -> int:
    return -(-x // y)


def by_hand(s: int, d: int, chunk: int, block: int, area: str = "chunked") -> tuple[int, int]:
    """Tokens in whole blocks of each iteration, one after the other."""
    first = {
        "chunked": [s - i * chunk for i in range(ceil(s, chunk))],
        "wait": [s],
        "decode_only": [],
    }[area]
    blocks = [sum(ceil(x, block) for x in part) for part in (first, range(s + 1, s + d + 1))]
    return blocks[0] * block, blocks[1] * block


def test_one_request_by_hand() -> None:
    need = demand(ONE, SMALL)
    assert (need.prefill_area, need.decode_area) == (2 + 6, 7 + 8 + 9)
    assert (need.prefill_memory, need.decode_memory) == (4 + 8, 8 + 8 + 12)
    # Full chunks first hold 4 and 6.
    assert need.area == 4 + 6 + 24
    assert need.attention(LAW) == F(8, 8) + F(24, 16) + F(36, 2) / 4
    # A price of memory without a limit is no price: tokens.
    free = demand(ONE, SMALL.with_(kv_tokens=None))
    assert (free.memory, free.least_area) == (32, 32)


def test_the_facets_by_hand() -> None:
    # 14 tokens are three whole blocks: 12. N = 40 / 12 iterations; tokens 9 / 8; slots 5 / 2.
    region = stability_region(SMALL, {"x": ONE})
    rest = F(9, 2) + 1 + F(3, 2) + F(9, 2)
    facets = {facet.resource: facet.exact[0] for facet in region.facets(dominated=True)}
    assert facets == {"memory": rest + F(40, 12), "tokens": rest + F(9, 8), "slots": rest + F(5, 2)}
    assert region.load({"x": F(1, 20)}, exact=True) == (rest + F(10, 3)) / 20


def test_pools_of_one_phase_by_hand() -> None:
    first, then = need_of(ONE, SMALL, "prefill"), need_of(ONE, SMALL, "decode")
    assert (first.limits, then.limits) == ({"slots": 2, "memory": 12}, {"slots": 3, "memory": 28})
    assert (first.seconds, then.seconds) == (F(8, 8) + F(36, 8), F(24, 16))
    # Where mixed iterations read faster, decodes beside prompts may, those of a decode pool not.
    fast = SMALL.with_(law=replace(LAW, per_kv=0.125, per_kv_mixed=0.0625))
    assert need_of(ONE, fast, "decode").seconds == F(24, 8)
    assert need_of(ONE, fast).seconds == F(32, 16) + F(36, 8)
    assert need_of(ONE, fast, "prefill").seconds == F(8, 16) + F(36, 8)


def test_the_budget_of_the_hardware_is_whole_blocks() -> None:
    free = stability_region(SMALL, {"x": ONE}, limits="hardware")
    rest = F(9, 2) + F(6, 8) + F(3, 2) + F(9, 2)  # the prompt in one piece
    facets = {facet.resource: facet.exact[0] for facet in free.facets(dominated=True)}
    assert facets == {"memory": rest + F(8 + 28, 12), "tokens": rest + F(9, 12)}


@given(
    s=st.integers(1, 90),
    d=st.integers(0, 60),
    chunk=st.integers(1, 40),
    block=st.integers(1, 40),
    area=st.sampled_from(["chunked", "wait", "decode_only"]),
)
def test_blocks_are_those_of_each_iteration(
    s: int, d: int, chunk: int, block: int, area: str
) -> None:
    first = prefill_blocks(np.array([s]), chunk, area, block)
    then = decode_blocks(np.array([s]), np.array([d]), block)
    assert (first[0] * block, then[0] * block) == by_hand(s, d, chunk, block, area)


lists = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@given(
    s=lists,
    o=lists,
    paired=st.booleans(),
    block=st.sampled_from([2, 3, 16, 64, 2**62]),
    chunk=st.integers(1, 60),
    rules=st.sampled_from([ENGINE, THEORY]),
)
@settings(max_examples=60)
def test_means_are_those_of_all_pairs(
    s: list[int], o: list[int], paired: bool, block: int, chunk: int, rules: Conventions
) -> None:
    o = (o * len(s))[: len(s)] if paired else o
    engine = Engine(
        LAW, 64, kv_tokens=2**63 - 1, kv_block=block, prefill_chunk=chunk, conventions=rules
    )
    request = RequestClass(Lengths.empirical(s), Lengths.empirical(o), paired=paired)
    need, pairs = (
        demand(request, engine),
        list(zip(s, o, strict=True) if paired else itertools.product(s, o)),
    )
    rows = [by_hand(x, y - 1 + rules.lag, min(chunk, 64), block) for x, y in pairs]
    means = [F(sum(column), len(pairs)) for column in zip(*rows, strict=True)]
    assert [need.prefill_memory, need.decode_memory] == means
    # Weights that say the same as a list: means in floats.
    if not paired:
        laws = [
            Lengths(sorted(set(x)), [x.count(v) / len(x) for v in sorted(set(x))]) for x in (s, o)
        ]
        floats = demand(RequestClass(*laws), engine)
        assert float(floats.prefill_memory) == pytest.approx(float(means[0]), rel=1e-12)
        assert float(floats.decode_memory) == pytest.approx(float(means[1]), rel=1e-12)


def test_lengths_beyond_int64_and_long_prompts() -> None:
    big = Engine(LAW, 2**40, kv_tokens=2**50, kv_block=16)
    need = demand(RequestClass(2**32, 3), big)
    assert (need.prefill_memory, need.decode_memory) == (2**32, 2 * (2**32 + 16))
    # A million chunks: counted as Euclid divides, not one by one.
    long = demand(RequestClass(1_000_003, 1), big.with_(prefill_chunk=1))
    full, rest = divmod(1_000_003, 16)
    assert long.prefill_memory == 16 * (16 * full * (full + 1) // 2 + rest * (full + 1))


# Never looser than tokens at the smaller rate, and the same number everywhere.

reads = st.sampled_from([0.0, 0.0625, 0.125])


@st.composite
def engines(draw: st.DrawFn, peak: int) -> Engine:
    budget, block = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 3, 16]))
    law = BatchTime.affine(
        base=draw(st.integers(1, 9)) / 4,
        per_token=draw(st.integers(0, 9)) / 8,
        per_kv=draw(reads),
        per_kv_mixed=draw(reads),
        per_work=draw(reads),
    )
    return Engine(
        law,
        budget,
        max_seqs=draw(st.none() | st.integers(1, 9)),
        kv_block=block,
        kv_tokens=draw(st.none() | st.integers(peak + block, 6 * peak + block)),
        prefill_chunk=draw(st.none() | st.integers(1, 40)),
        conventions=draw(st.sampled_from([ENGINE, THEORY, replace(THEORY, area="wait")])),
    )


def looser(engine: Engine) -> Engine:
    """Blocks of one token, all tokens, and prompts that read at the smaller rate."""
    law = engine.law
    return engine.with_(
        kv_block=1, law=replace(law, per_kv_mixed=min(law.per_kv, law.per_kv_mixed))
    )


MIX = {
    "a": RequestClass(Lengths.empirical([5, 18]), Lengths.empirical([1, 9])),
    "b": RequestClass(30, 4),
}
RATES = {"a": F(1, 3), "b": F(1, 7)}


@given(engine=engines(34), limits=st.sampled_from(["settings", "hardware"]))
@settings(max_examples=80)
def test_never_looser_than_tokens_at_the_smaller_rate(engine: Engine, limits: Any) -> None:
    tight, loose = (
        stability_region(one, MIX, limits=limits).load(RATES, exact=True)
        for one in (engine, looser(engine))
    )
    assert tight >= loose
    # Formula and linear programme agree.
    planned = stability_region(engine, MIX, "configurations", limits=limits)
    assert planned.load(RATES, exact=True) == tight


@given(first=engines(34), then=engines(34))
@settings(max_examples=20)
def test_pools_of_one_phase_are_never_looser(first: Engine, then: Engine) -> None:
    def fleet(one: Engine, two: Engine) -> Fleet:
        return Fleet({"p": (one, 1), "d": (two, 2)}, roles={"p": "prefill", "d": "decode"})

    tight = stability_region(fleet(first, then), MIX).load(RATES, exact=True)
    # Each pool reads at its own rate before as after: only the blocks.
    tokens = [one.with_(kv_block=1) for one in (first, then)]
    assert tight >= stability_region(fleet(*tokens), MIX).load(RATES, exact=True)


@given(engine=engines(600), data=st.data())
@settings(max_examples=40)
def test_prices_of_requests_are_those_of_their_class(engine: Engine, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    draws = st.lists(st.integers(1, 300), min_size=size, max_size=size)
    prompt, output = np.array(data.draw(draws)), np.array(data.draw(draws))
    one = RequestClass(Lengths.empirical(prompt), Lengths.empirical(output), paired=True)
    bounds = (shared_facets if shares_slot(engine) else outer_facets)(engine, [demand(one, engine)])
    if bounds:
        prices = request_prices(engine, prompt, output)
        assert prices.mean(axis=1) == pytest.approx([f.weights[0] for f in bounds], rel=1e-12)


@pytest.mark.parametrize("paired", [False, True])
def test_second_moments_of_prices_are_those_of_all_pairs(paired: bool) -> None:
    s, o = [3, 7, 16, 33, 50], [1, 2, 9, 17, 40]
    engine = Engine(LAW, 64, kv_tokens=200, kv_block=16, prefill_chunk=32)
    mix = {"x": RequestClass(Lengths.empirical(s), Lengths.empirical(o), paired=paired)}
    region = stability_region(engine, mix)
    assert isinstance(region, Region)
    assert region.binding({"x": 1.0})[0] == "memory"
    law = latency.priced_workload(region, {"x": 0.5 * region.margin({"x": 1.0})})
    pairs = list(zip(s, o, strict=True) if paired else itertools.product(s, o))
    rows = request_prices(engine, *(np.array(x) for x in zip(*pairs, strict=True)))
    price = rows[np.argmax(rows.mean(axis=1))]
    assert law.means[0] == pytest.approx(price.mean(), rel=1e-12)
    assert law.second_moments[0] == pytest.approx((price**2).mean(), rel=1e-12)


# Certificates.


def sealed(body: dict[str, Any]) -> str:
    fresh = {key: value for key, value in body.items() if key != "seal"}
    fresh["digest"] = canonical_digest(fresh["problem"])
    return json.dumps({**fresh, "seal": canonical_digest(fresh)})


def rejection(text: str) -> str:
    with pytest.raises(Rejected) as caught:
        check(text)
    return str(caught.value)


def test_a_block_more_is_refused() -> None:
    made = stability_region(SMALL, {"x": ONE}).certificate({"x": 1.0})
    assert check(made.text()).startswith("unstable")
    pool = made.body["problem"]["pools"]["engine"]
    assert pool["rules"]["block"] == 4
    assert (pool["limits"]["memory"], pool["needs"]["x"]["limits"]["memory"]) == (12, "40/1")
    assert "memory: " not in check(made.text())
    for changed, words in (
        ({"limits": {"memory": "44/1", "slots": "5/1"}}, "not the needs of class x: memory"),
        ({"limits": {"memory": "36/1", "slots": "5/1"}}, "not the needs of class x: memory"),
        # All reads at the mixed rate: 8 / 8 + 24 / 8 and 9/2 of work.
        ({"seconds": "17/2"}, "not the needs of class x: seconds"),
    ):
        body = copy.deepcopy(dict(made.body))
        body["problem"]["pools"]["engine"]["needs"]["x"] |= changed
        assert words in rejection(sealed(body))
    body = copy.deepcopy(dict(made.body))
    body["problem"]["pools"]["engine"]["limits"]["memory"] = 14
    assert "memory is not in whole blocks of 4" in rejection(sealed(body))
    del body["problem"]["pools"]["engine"]["rules"]["block"]
    assert "not the needs of class x: memory" in rejection(sealed(body))


def test_a_certificate_of_many_lengths_is_checked_in_blocks() -> None:
    """Prompts count by what they are beyond whole blocks: 16 by 4,000 pairs."""
    laws = Lengths.uniform(1, 4000), Lengths.uniform(1, 4000)
    engine = Engine(LAW, 512, kv_tokens=20_000)
    problem = planning_problem(engine, {"x": RequestClass(*laws)})
    assert "x" in problem.lengths
    large = planning_problem(engine.with_(kv_block=100), {"x": RequestClass(*laws)})
    assert "x" not in large.lengths  # too many pairs: the means are stated
    made = llmq.stability_region(engine, {"x": RequestClass(*laws)}).certificate({"x": 1.0})
    assert "as stated" not in check(made.text())
