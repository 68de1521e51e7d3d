"""The checker alone, on small problems written by hand: it imports nothing of llmq.

Quick, so that ``experiments.mutants`` can run it on every change of ``proofs/check*.py``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest

from proofs import check
from proofs.check_lengths import Lengths, blocks_to, floor_sum, steps_down
from proofs.check_pool import Pool
from proofs.check_reading import Law, Rejected, rational, whole
from tests.unit.proofs.certificates import (
    ONE,
    carried,
    changed,
    dual,
    klass,
    knapsack,
    law,
    link,
    need,
    plain,
    pool,
    problem,
    random_law,
    ratio,
    refused,
    said,
    sealed,
    seconds_of,
)

PROOFS = Path(check.__file__).parent


def test_the_sound_ones_are_accepted() -> None:
    assert "no policy is stable at these settings" in said(plain())
    stable = carried(
        F(1, 8),
        klass(F(1, 8), ["e"]),
        {"e": pool({"x": need(4, 2)})},
        [("e", (4, 2), F(1, 8))],
        F(3, 4),
    )
    assert "batches serve these rates at these settings" in said(stable)
    assert "routes" not in said(stable)
    assert "as stated" not in said(stable)


# A5: problems that contradict their lengths. ----------------------------------------------------


def test_a5_lengths_need_rules_in_each_pool_of_the_route() -> None:
    """(i) Lengths kept, rules left out, ten times the needs: accepted once, at a tenth of 1."""
    body = plain(F(1, 40), phases=None)
    body = changed(body, "problem", "pools", "e", "needs", "x", value=need(40, 20))
    body = changed(body, "dual", "prices", "x", value="60/1")
    body = changed(body, "load", value="3/2")
    assert "no rules" in refused(body)
    # Without lengths the same numbers are a claim about other requests, and it says so.
    del body["problem"]["classes"]["x"]["lengths"]
    assert "needs as stated, not computed from lengths: x" in said(
        changed(body, "load", value="3/2")
    )


def test_a5_a_link_needs_rules_too() -> None:
    pools = {
        "p": pool({"x": need(4, 0)}, phases="prefill"),
        "d": pool({"x": need(0, 2)}, phases="decode"),
        "wire": link({"x": 4}),
    }
    one = klass(F(1, 3), ["p", "d", "wire"])
    body = sealed(
        "unstable",
        problem({"x": one}, pools),
        F(4, 3),
        dual=dual({"x": 4}, {"p": 0, "d": 0, "wire": 1}),
    )
    body["dual"]["tokens"].update({h: dict.fromkeys(ONE, "0/1") for h in "pd"})
    body = changed(body, "load", value="4/3")
    assert "no policy is stable" in said(body)
    ten = changed(body, "problem", "pools", "wire", "needs", "x", "seconds", value="40/1")
    assert "not the needs of class x: seconds" in refused(ten)
    assert "no rules" in refused(changed(ten, "problem", "pools", "wire", "rules", value=None))
    # A request without decodes does not cross it; with lag 1 it does.
    for lag, seconds in ((0, F(2)), (1, F(4))):
        other = changed(body, "problem", "classes", "x", "lengths", "output", value=[1, 5])
        other = changed(other, "problem", "pools", "wire", value=link({"x": seconds}, 1, lag))
        for name, numbers in (("p", need(4, 0)), ("d", need(0, 2 + lag))):
            other = changed(other, "problem", "pools", name, "needs", "x", value=numbers)
            other = changed(other, "problem", "pools", name, "rules", "lag", value=lag)
        other = changed(other, "dual", "prices", "x", value=ratio(seconds))
        other = changed(other, "load", value=ratio(seconds / 3))
        if lag:
            assert "no policy is stable" in said(other)
        else:
            assert "not above 1" in refused(other)


@pytest.mark.parametrize(
    ("route", "phases"),
    [
        (["d"], ["decode"]),
        (["p"], ["prefill"]),
        (["p", "q"], ["prefill", "prefill"]),
        (["d", "e"], ["both", "decode"]),
        (["p", "e"], ["both", "prefill"]),
        (["p", "d", "c"], ["decode", "decode", "prefill"]),
        (["e", "wire"], ["both"]),
        (["p", "wire"], ["prefill"]),
        (["wire"], []),
    ],
)
def test_a5_prompt_and_decodes_are_computed_exactly_once(
    route: list[str], phases: list[str]
) -> None:
    """(ii) The only route decodes, and prompts are never computed."""
    kinds = {"p": "prefill", "q": "prefill", "d": "decode", "c": "decode", "e": "both"}
    work = {"prefill": (4, 0), "decode": (0, 2), "both": (4, 2)}
    pools = {h: pool({"x": need(*work[k])}, phases=k) for h, k in kinds.items()}
    pools["wire"] = link({"x": 4})
    weights = {h: F(1, len(pools)) for h in pools}
    body = sealed(
        "unstable", problem({"x": klass(9, route)}, pools), F(3), dual=dual({"x": 0}, weights)
    )
    assert f"these pools do {phases}" in refused(body)


def test_a5_a_request_without_decodes_ends_after_its_prompt() -> None:
    one = klass(F(1, 2), ["p"], output=(1, 1))
    pools = {"p": pool({"x": need(4, 0)}, phases="prefill")}
    body = sealed(
        "unstable",
        problem({"x": one}, pools),
        2,
        dual=dual({"x": 4}, {"p": 1}, {"p": {"prefill": 1, "decode": 0}}),
    )
    assert "no policy is stable" in said(body)
    longer = changed(body, "problem", "classes", "x", "lengths", "output", value=[1, 2])
    assert "must each be computed once" in refused(longer)
    later = changed(body, "problem", "pools", "p", "rules", "lag", value=1)
    assert "must each be computed once" in refused(later)


def test_a5_a_pool_is_visited_once() -> None:
    body = plain()
    body = changed(body, "problem", "classes", "x", "routes", value=[["e", "e"]])
    assert "visited twice" in refused(body)


def memory(limit: int, claim: str = "unstable", block: int | None = None) -> dict[str, Any]:
    """A prompt of 238 and 3 decodes hold 241 tokens at the end; ENGINE lag, one chunk."""
    area = 238 + 239 + 240 + 241
    if block:
        area = sum(-(-x // block) * block for x in (238, 239, 240, 241))
    given = {"limits": {"memory": limit}, "budget": 256, "block": block}
    pools = {"e": pool({"x": need(238, 3, 0, memory=area)}, time=law(base=1), **given)}
    one = klass(F(1, 2), ["e"], prompt=(238,), output=(4,))
    load = F(area, 2 * limit)
    if claim == "unstable":
        numbers = dual(
            {"x": F(area, limit)},
            {"e": 1},
            {"e": {"prefill": 0, "decode": 0}},
            {"e": {"memory": F(1, limit)}},
        )
        return sealed(claim, problem({"x": one}, pools), load, dual=numbers)
    rate = F(99, 100) / F(area, limit)
    one["rate"] = ratio(rate)
    return carried(rate, one, pools, [("e", (250, 6), F(99, 100))], F(99, 100))


def test_a5_the_peak_of_a_request_fits_into_the_memory() -> None:
    """(iii) Memory 240, each request peaks at 241."""
    assert "no policy is stable" in said(memory(241))
    assert "a request of class x holds 241 KV tokens, there are 240" in refused(memory(240))
    # In whole blocks of 16: 256 tokens.
    assert "no policy is stable" in said(memory(256, block=16))
    assert "holds 256 KV tokens, there are 240" in refused(memory(240, block=16))
    assert "not in whole blocks of 16" in refused(memory(250, block=16))


def test_a5_a_relaxation_is_never_called_stable() -> None:
    """(iv) 99 % of the memory facet: whole requests do not fill every token of the memory."""
    reason = refused(memory(241, "stable_rate"))
    assert "a relaxation, no stable rate follows: pool e: memory on average" in reason
    # The flows alone were all right: it is the word that is refused.
    body = memory(241, "stable_rate")
    needs = body["problem"]["pools"]["e"]
    assert (
        F(needs["needs"]["x"]["limits"]["memory"]) * F(body["primal"]["flows"][0]["rate"])
        == F(99, 100) * 241
    )


def phased(phases: str, limit: int, prompt: Any, output: Any, paired: bool = False) -> Any:
    """One pool of a pair with memory; the other has none."""
    s, d = F(sum(prompt), len(prompt)), F(sum(output), len(output)) - 1
    pairs = (
        list(zip(prompt, output, strict=True))
        if paired
        else [(x, y) for x in prompt for y in output]
    )
    first = s
    second = F(sum(x * (y - 1) + (y - 1) * y // 2 for x, y in pairs), len(pairs))
    held = {"prefill": first, "decode": second}[phases]
    given = {"p": need(s, 0), "d": need(0, d)}
    name = phases[0]
    given[name]["limits"] = {"memory": ratio(held)}
    pools = {
        h: pool(
            {"x": given[h]},
            phases=kind,
            budget=1000,
            time=law(base=1),
            limits={"memory": limit} if h == name else {},
        )
        for h, kind in (("p", "prefill"), ("d", "decode"))
    }
    zero = {h: dict.fromkeys(ONE, 0) for h in "pd"}
    value = held / limit
    one = klass(2 / value, ["p", "d"], prompt=prompt, output=output, paired=paired)
    weights = {h: int(h == name) for h in "pd"}
    numbers = dual({"x": value}, weights, zero, {name: {"memory": F(1, limit)}})
    return sealed("unstable", problem({"x": one}, pools), 2, dual=numbers)


def test_a2_a_prefill_pool_holds_the_prompt_only() -> None:
    assert "no policy is stable" in said(phased("prefill", 40, [10, 40], [1, 100]))
    assert "holds 40 KV tokens, there are 39" in refused(phased("prefill", 39, [10, 40], [1, 100]))


def test_a2_a_decode_pool_holds_prompt_and_decodes() -> None:
    assert "no policy is stable" in said(phased("decode", 139, [10, 40], [1, 100]))
    assert "holds 139 KV tokens, there are 138" in refused(
        phased("decode", 138, [10, 40], [1, 100])
    )
    # As pairs no request has both; one without decodes never comes to the decode pool.
    assert "no policy is stable" in said(phased("decode", 109, [10, 400], [100, 1], paired=True))
    reason = refused(phased("decode", 108, [10, 400], [100, 1], paired=True))
    assert "holds 109 KV tokens, there are 108" in reason


@pytest.mark.parametrize(
    ("attention", "area", "word"),
    [
        ({"per_kv": 1, "per_kv_mixed": 1}, "chunked", "KV reads"),
        ({"per_kv": 1, "per_kv_mixed": 2}, "wait", "KV reads"),
        ({"per_kv_mixed": 1}, "wait", "KV reads"),
        ({"per_kv": 1, "per_kv_mixed": 1}, "wait", ""),
        ({"per_work": 1}, "chunked", ""),
    ],
)
def test_a5_reads_that_depend_on_the_chunks_are_a_relaxation(
    attention: Any, area: str, word: str
) -> None:
    held = 4 + 5 + 6
    low = min(attention.get("per_kv", 0), attention.get("per_kv_mixed", 0))
    seconds = F(low * held) + F(8) * attention.get("per_work", 0)
    pools = {"e": pool({"x": need(4, 2, seconds)}, area=area, time=law(per_token=1, **attention))}
    rate = F(1, 2) / (6 + seconds)
    body = carried(rate, klass(rate, ["e"]), pools, [("e", (4, 2), rate)], F(1, 2))
    if word:
        assert word in refused(body)
    else:
        assert "batches serve these rates" in said(body)


def test_a5_an_optimal_load_of_a_relaxation_is_called_a_lower_bound() -> None:
    body = memory(241)
    flow = {"class": "x", "route": ["e"], "rate": "1/2"}
    load = F(body["load"])
    batches = [{"pool": "e", "tokens": [120, 100], "rate": ratio(load)}]
    parts = {"dual": body["dual"], "primal": {"flows": [flow], "batches": batches}}
    text = said(sealed("optimal_load", body["problem"], load, **parts))
    assert "a lower bound of the load of any policy at these settings (pool e: memory" in text
    assert "stable" not in text


# Scope, routing, what the author says. ------------------------------------------------------------


def test_a1_a_bound_of_the_hardware_has_its_settings_free() -> None:
    body = memory(241)
    free = changed(body, "problem", "scope", value="hardware")
    assert "on this hardware, whatever the token budget, slots and chunk" in said(free)
    at = ("problem", "pools", "e")
    assert "a budget of 240 may bind" in refused(
        changed(free, *at, "batches", "token_budget", value=240)
    )
    # Just as many tokens as the memory holds: no more can ever be computed at once.
    assert "on this hardware" in said(changed(free, *at, "batches", "token_budget", value=241))
    assert "slots bind" in refused(changed(free, *at, "batches", "slots", value=500))
    assert "no bound of the hardware" in refused(
        changed(
            changed(free, *at, "rules", "area", value="decode_only"),
            *at,
            "needs",
            "x",
            "limits",
            "memory",
            value="720/1",
        )
    )
    for chunk, good in ((237, False), (238, True), (241, True)):
        one = changed(free, *at, "rules", "chunk", value=chunk)
        if not good:
            one = changed(one, *at, "needs", "x", "limits", "memory", value="959/1")
            assert "a chunk of 237 may bind" in refused(one)
        else:
            assert "on this hardware" in said(one)
    assert "unknown scope" in refused(changed(body, "problem", "scope", value="any"))
    stable = carried(
        F(1, 8),
        klass(F(1, 8), ["e"]),
        {"e": pool({"x": need(4, 2)})},
        [("e", (4, 2), F(1, 8))],
        F(3, 4),
    )
    assert "says nothing about a stable rate" in refused(
        changed(stable, "problem", "scope", value="hardware")
    )


def test_a1_without_memory_the_hardware_needs_a_law_through_the_origin() -> None:
    body = changed(plain(), "problem", "scope", value="hardware")
    assert "on this hardware" in said(body)
    for time in (law(per_token=1, base=1), law("roofline", per_token=1), law(per_token=1, tile=9)):
        assert "may bind" in refused(changed(body, "problem", "pools", "e", "law", value=time))
    at = ("problem", "pools", "e", "law")
    assert "on this hardware" in said(changed(body, *at, value=law("tiled", per_token=1, tile=8)))


def test_a3_whole_requests_are_part_of_the_claim() -> None:
    pools = {h: pool({"x": need(4, 2)}) for h in "fs"}
    body = sealed(
        "unstable",
        problem({"x": klass(F(1, 2), ["f"], ["s"])}, pools),
        F(3, 2),
        dual=dual(
            {"x": 3}, {"f": F(1, 2), "s": F(1, 2)}, {h: {k: F(1, 2) for k in ONE} for h in "fs"}
        ),
    )
    assert "each request is served whole by one of these pools" in said(body)
    assert "served whole" not in said(plain())


def test_what_the_author_says_is_not_proved() -> None:
    body = changed(plain(), "says", value=["a", "b"])
    assert "by its author, not checked: a; b" in said(body)
    for bad in ([1], "a", ["x" * 401], ["x"] * 41):
        assert "says" in refused(changed(plain(), "says", value=bad))
    assert "not checked" in said(changed(plain(), "says", value=["x" * 400] * 40))
    assert "not checked" not in said(plain())


# Needs. ------------------------------------------------------------------------------------------


def test_needs_by_hand() -> None:
    """Chunks of 3 of a prompt of 7: 1, 4 and 7 tokens held, then 8 and 9; work 49 / 2."""
    time = law(per_token=1, per_kv=1, per_kv_mixed=3, per_work=2)
    limits = {"memory": 100, "slots": 9}
    one = klass(1, ["e"], prompt=(7,), output=(3,))
    for seconds, good in ((29 + 49, True), (3 * 12 + 17 + 49, True), (3 * 29 + 49, False)):
        needs = need(7, 2, seconds, memory=29, slots=5)
        given = {"e": pool({"x": needs}, chunk=3, limits=limits, time=time)}
        numbers = dual({"x": 9 + seconds}, {"e": 1}, {"e": ONE}, {"e": dict.fromkeys(limits, 0)})
        body = sealed("unstable", problem({"x": one}, given), 9 + seconds, dual=numbers)
        if not good:
            assert "seconds" in refused(body)
            continue
        assert "no policy" in said(body)
        at = ("problem", "pools", "e", "needs", "x")
        for path in (
            ("tokens", "prefill"),
            ("tokens", "decode"),
            ("limits", "memory"),
            ("limits", "slots"),
            ("seconds",),
        ):
            assert "not the needs of class x" in refused(changed(body, *at, *path, value="1/2"))
        rules = ("problem", "pools", "e", "rules")
        for key, value in (("chunk", 2), ("lag", 1), ("area", "wait"), ("block", 2)):
            assert "not the needs of class x" in refused(changed(body, *rules, key, value=value))
        assert "bad lag" in refused(changed(body, *rules, "lag", value=2))
        assert "do not tell all limits" in refused(
            changed(
                changed(body, "problem", "pools", "e", "limits", "disk", value=1),
                *at,
                "limits",
                "disk",
                value="1/1",
            )
        )


@pytest.mark.parametrize("phases", ["both", "prefill", "decode"])
@pytest.mark.parametrize("area", ["chunked", "wait", "decode_only"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("block", [None, 1, 4])
def test_needs_against_request_by_request(
    phases: str, area: str, paired: bool, block: int | None
) -> None:
    """Against a sum over every iteration of every request."""
    draw = random.Random(f"{phases}{area}{paired}{block}")
    for _ in range(6):
        count, lag, chunk = draw.randint(1, 3), draw.randint(0, 1), draw.randint(1, 5)
        s = [draw.randint(1, 13) for _ in range(count)]
        o = [draw.randint(2, 9) for _ in range(count if paired else draw.randint(1, 3))]
        pairs = list(zip(s, o, strict=True)) if paired else [(x, y) for x in s for y in o]
        size = block or 1
        per_kv, mixed = draw.choice([(2, 3), (3, 2)])
        tokens, slots, held, rounded, reads, work = [F(0)] * 2, 0, 0, 0, F(0), F(0)
        for x, y in pairs:
            d = y - 1 + lag
            first = {"chunked": list(range(x, 0, -chunk)), "wait": [x], "decode_only": []}[area]
            second = [x + j for j in range(1, d + 1)]
            first, second = first * (phases != "decode"), second * (phases != "prefill")
            tokens[0] += x * (phases != "decode")
            tokens[1] += len(second)
            slots += -(-x // chunk) * (phases != "decode") + len(second)
            rounded += sum(-(-v // size) * size for v in (*first, *second))
            held += sum((*first, *second))
            least = min(per_kv, mixed) if phases == "both" else per_kv
            reads += mixed * sum(first) + least * sum(second)
            work += F(x * x, 2) * (phases != "decode")
        n = len(pairs)
        numbers = need(
            tokens[0] / n,
            tokens[1] / n,
            (reads + work) / n,
            memory=F(rounded, n),
            slots=F(slots, n),
        )
        time = law(per_token=1, per_kv=per_kv, per_kv_mixed=mixed, per_work=1)
        given = pool(
            {"x": numbers},
            phases=phases,
            area=area,
            lag=lag,
            chunk=chunk,
            block=block,
            limits={"memory": 4000, "slots": 9},
            time=time,
        )
        from proofs.check_lengths import check_needs

        made = Pool("e", given)
        lists = Lengths({"prompt": s, "output": o, "paired": paired}, "class x")
        check_needs(made, made.needs["x"], lists)
        wrong = Pool(
            "e",
            changed(
                {"problem": given},
                "problem",
                "needs",
                "x",
                "limits",
                "memory",
                value=ratio(F(rounded, n) + F(1, 7)),
            )["problem"],
        )
        with pytest.raises(Rejected, match="memory"):
            check_needs(wrong, wrong.needs["x"], lists)


def test_sums_in_closed_form() -> None:
    for x in range(1, 30):
        for block in range(1, 8):
            expected = sum(-(-k // block) * block for k in range(1, x + 1))
            assert blocks_to(x, block) == expected
            for chunk in range(1, 9):
                every = [-(-k // block) * block for k in range(x, 0, -chunk)]
                assert steps_down(x, chunk, block) == sum(every)
    for n in range(7):
        for m, a, b in ((1, 0, 0), (3, 5, 7), (4, 2, 9), (7, 7, 1)):
            assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))
    assert blocks_to(0, 16) == 0


def test_stated_needs_are_the_same_on_every_route() -> None:
    pools = {
        "p": pool({"x": need(4, 0)}, phases="prefill"),
        "d": pool({"x": need(0, 2)}, phases="decode"),
        "e": pool({"x": need(4, 2)}),
    }
    weights = {h: F(1, 3) for h in pools}
    third = {
        "p": {"prefill": F(1, 3), "decode": 0},
        "d": {"prefill": 0, "decode": F(1, 3)},
        "e": {k: F(1, 3) for k in ONE},
    }
    one = klass(1, ["p", "d"], ["e"], lengths=False)
    body = sealed("unstable", problem({"x": one}, pools), 2, dual=dual({"x": 2}, weights, third))
    assert "needs as stated, not computed from lengths: x" in said(body)
    at = ("problem", "pools")
    assert "routes differ" in refused(changed(body, *at, "e", "needs", "x", value=need(5, 2)))
    reason = refused(changed(body, *at, "p", "needs", "x", value=need(4, 1)))
    assert "needs decode tokens of a prefill pool" in reason
    assert "needs prefill tokens of a decode pool" in refused(
        changed(body, *at, "d", "needs", "x", value=need(1, 2))
    )
    only = changed(body, "problem", "classes", "x", "routes", value=[["d"]])
    assert "must each be computed once" in refused(only)
    bare = changed(only, *at, "d", "rules", value=None)
    assert "its prompt is never computed" in refused(bare)


# All batches at once. ----------------------------------------------------------------------------


def test_bends_find_the_worst_batch() -> None:
    """Against every batch size of random laws."""
    draw = random.Random(5)
    for _ in range(120):
        raw = random_law(draw)
        one = Law(raw, "law")
        low = draw.randint(1, 30)
        high = low + draw.randint(0, 40)
        every = range(low, high + 1)
        assert [one(n) for n in every] == [seconds_of(raw, n) for n in every]
        bends = one.bends(low, high)
        assert set(bends) <= set(every)
        for _ in range(4):
            slope = F(draw.randint(0, 20), draw.randint(1, 5))
            assert min(one(n) - slope * n for n in bends) == min(one(n) - slope * n for n in every)
    assert Law(law(per_token=1), "law").bends(3, 2) == []


def worst(raw: dict[str, Any], p: list[F], m: dict[str, F], q: F) -> bool:
    """Whether no batch is worth more than its time, by trying all."""
    slots = raw["batches"]["slots"]
    fixed = sum((c * m[k] for k, c in raw["limits"].items()), F(0))
    for n in range(1, raw["batches"]["token_budget"] + 1):
        for y in range(n + 1):
            x = n - y
            if slots is not None and y + (x > 0) > slots:
                continue
            if p[0] * x + p[1] * y + fixed > q * seconds_of(raw["law"], n):
                return False
    return True


def test_prices_of_two_phases_hold_for_every_batch() -> None:
    """F: also a prefill takes a slot, so that beside it one decode less runs."""
    draw = random.Random(11)
    found = [0, 0]
    for _ in range(60):
        raw = pool(
            {},
            budget=draw.randint(1, 14),
            slots=draw.choice([None, 1, 2, 3, 5, 20]),
            limits=draw.choice([{}, {"memory": 7}]),
            time=random_law(draw),
        )
        if seconds_of(raw["law"], 1) == 0:
            continue
        made, q = Pool("e", raw), F(draw.randint(1, 3))
        p = [F(draw.randint(0, 12), draw.randint(1, 4)) for _ in range(2)]
        m = {k: F(draw.randint(0, 4), 8) for k in raw["limits"]}
        # At the edge: scaled so that the best batch is worth just its time.
        best = max(
            (p[0] * (n - y) + p[1] * y + sum((c * m[k] for k, c in raw["limits"].items()), F(0)))
            / seconds_of(raw["law"], n)
            for n in range(1, made.budget + 1)
            for y in range(n + 1)
            if made.slots is None or y + (n - y > 0) <= made.slots
        )
        for scale, good in ((F(1), True), (F(1001, 1000), False)):
            if best == 0:
                continue
            prices = [v * q / best * scale for v in p]
            limits = {k: v * q / best * scale for k, v in m.items()}
            assert worst(raw, prices, limits, q) == good
            found[good] += 1
            if good:
                made.check_prices(prices, limits, q)
            else:
                with pytest.raises(Rejected, match="worth more than its time"):
                    made.check_prices(prices, limits, q)
    assert min(found) > 20


def test_every_configuration_of_a_knapsack_once() -> None:
    import itertools

    draw = random.Random(3)
    for _ in range(120):
        n, budget = draw.randint(1, 3), draw.randint(1, 7)
        steps = [draw.randint(1, 3) for _ in range(n)]
        rows = [
            ([draw.randint(0, 3) for _ in range(n)], draw.randint(0, 9))
            for _ in range(draw.randint(0, 2))
        ]
        made = Pool("e", knapsack(n, rows, budget, steps))
        found = list(made.every())
        true = [
            x
            for x in itertools.product(range(budget + 1), repeat=n)
            if sum(x) <= budget
            and not any(v % s for v, s in zip(x, steps, strict=True))
            and all(sum(a * v for a, v in zip(w, x, strict=True)) <= c for w, c in rows)
        ]
        assert sorted(found) == sorted(true)
        for x in itertools.product(range(budget + 2), repeat=n):
            assert made.allows(list(x)) == (x in true and any(x))
        assert not made.allows([0] * (n + 1))
        p = [F(draw.randint(1, 9), 2) for _ in range(n)]
        best = max(
            (sum(map(F.__mul__, p, map(F, x))) / sum(x) for x in true if any(x)), default=None
        )
        if best:
            made.check_prices(p, {}, best)
            with pytest.raises(Rejected, match="worth more"):
                made.check_prices(p, {}, best * F(999, 1000))


# C: the checker must not run on. -----------------------------------------------------------------


def test_c28_a_prompt_of_a_trillion_tokens() -> None:
    size = 10**12
    area = size * (size + 1) // 2
    one = klass(1, ["e"], prompt=(size,), output=(1,))
    given = pool({"x": need(size, 0, 0, memory=area)}, chunk=1, limits={"memory": size})
    body = sealed(
        "unstable",
        problem({"x": one}, {"e": given}),
        size,
        dual=dual({"x": size}, {"e": 1}, {"e": ONE}, {"e": {"memory": 0}}),
    )
    assert "no policy" in said(body)


def test_c32_a_knapsack_is_counted_and_stops_where_it_is_full() -> None:
    made = Pool("e", knapsack(60, [([1] * 60, 1)], 200_000))
    assert len(list(made.every())) == 61
    wide = Pool("e", knapsack(60, [], 200_000))
    with pytest.raises(Rejected, match="too many configurations"):
        made = list(wide.every())  # type: ignore[assignment]


def test_c27_digits_are_bounded() -> None:
    assert rational(f"{'9' * 4000}/1", "x") == 10**4000 - 1
    for text in (f"{'9' * 4002}/{'7' * 4001}", f"1/{'9' * 8001}"):
        with pytest.raises(Rejected, match="more than 4000 digits"):
            rational(text, "x")
    assert whole(10**4000 - 1, "x") == 10**4000 - 1
    for value in (10**4000, -(10**4000)):
        with pytest.raises(Rejected, match="more than 4000 digits"):
            whole(value, "x")


def test_c27_a_budget_of_any_size_takes_no_time() -> None:
    """Every form of law, budgets of 10^18: only bends are tried."""
    forms = (
        law(per_token=1, tile=7),
        law("tiled", per_tile=3, tile=5, per_token=1),
        law("roofline", per_token=2, floor=10**6, floor_per_token=1, tile=16),
        law("table", tokens=[1, 9], seconds=["1/1", "9/1"]),
    )
    for time in forms:
        body = changed(plain(budget=10**18), "problem", "pools", "e", "law", value=time)
        assert "no policy" in said(body)
    # The parts of this roofline cross in every tile.
    crossed = law("roofline", per_token=1, floor=10, floor_per_token=1, tile=16)
    body = changed(plain(budget=10**18), "problem", "pools", "e", "law", value=crossed)
    assert "cross in" in refused(body)


def test_c49_files_and_messages_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for raw, code, words in (
        (b"0" * 16_000_001, 2, "larger than 16000000 bytes"),
        (b"\xff\xfe", 2, "can't decode"),
        (b'{"format": "' + b"x" * 10**6 + b'"}', 4, "not of format"),
        (b"[" * 100_000, 2, "not JSON"),
        (b"1" * 10**6, 2, "not JSON"),
    ):
        file.write_bytes(raw)
        got, text = check.verdict(str(file))
        assert (got, words in text, len(text) < 21_000) == (code, True, True), text[:200]
    body = changed(plain(), "problem", "classes", value={"\x1b[31m" + "y" * 10**6: 1})
    file.write_text(json.dumps(body))
    code, text = check.verdict(str(file))
    assert code == 4
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert len(text) < 21_000
    assert check.verdict(str(tmp_path / "none.json"))[0] == 2
    assert check.verdict("a\0b")[0] == 2
    file.write_text(json.dumps(plain()))
    assert check.verdict(str(file)) == (0, f"accepted: {said(plain())}")


def test_c27_the_time_is_limited(tmp_path: Path) -> None:
    """A check that takes too long is rejected, and the next file is checked."""
    slow, good = tmp_path / "slow.json", tmp_path / "good.json"
    slow.write_text(json.dumps(plain()))
    good.write_text(json.dumps(plain()))
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from proofs import check\n"
        "check.SECONDS, first = 1, check.check\n"
        "def wait(text, seen=[]):\n"
        "    while not seen: pass\n"
        "    return first(text)\n"
        "def once(text, seen=[]):\n"
        "    seen.append(1)\n"
        "    return wait(text) if len(seen) == 1 else first(text)\n"
        "check.check = once\n"
        "sys.exit(check.main(sys.argv[2:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(PROOFS.parent), str(slow), str(good)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4, done.stderr
    assert "slow.json: rejected: not checked within 1 seconds" in done.stdout
    assert "good.json: accepted" in done.stdout
