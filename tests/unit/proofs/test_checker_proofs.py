"""The checker alone: every condition of a planning certificate is seen to refuse (faults F)."""

from __future__ import annotations

import json
import signal
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest

from proofs import check, check_lengths, check_pool
from proofs.check_lengths import Lengths, check_needs
from proofs.check_pool import Pool
from proofs.check_reading import (
    Law,
    Malformed,
    Rejected,
    items,
    parse,
    rational,
    table,
    whole,
)
from tests.unit.proofs.certificates import (
    ONE,
    carried,
    changed,
    dual,
    klass,
    law,
    link,
    need,
    plain,
    pool,
    problem,
    ratio,
    refused,
    said,
    sealed,
)

AT = ("problem", "pools", "e")


def stable() -> dict[str, Any]:
    """Half of the time of one engine: a load of 3/4 of prompts of 4 and 2 decodes."""
    return carried(
        F(1, 8),
        klass(F(1, 8), ["e"]),
        {"e": pool({"x": need(4, 2)})},
        [("e", (4, 2), F(1, 8))],
        F(3, 4),
    )


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("problem", "classes", "x", "routes"), [], "no route or an empty one"),
        (("problem", "classes", "x", "routes"), [[]], "no route or an empty one"),
        (("problem", "classes", "x", "routes"), [["f"]], "no pool 'f'"),
        (("problem", "classes", "x", "routes"), [[1]], "no pool 1"),
        (("problem", "classes", "x", "routes"), [[["e"]]], "no pool ['e']"),
        (("problem", "classes", "x", "routes"), ["e"], "expected a list"),
        ((*AT, "needs"), {}, "no pool 'e'"),
        ((*AT, "rules", "chunk"), 0, "0 is below 1"),
        ((*AT, "rules", "block"), 0, "0 is below 1"),
        ((*AT, "rules", "phases"), "none", "unknown 'none'"),
        ((*AT, "rules", "area"), "none", "unknown 'both' or 'none'"),
        ((*AT, "rules", "lag"), 2, "bad lag"),
        ((*AT, "rules", "lag"), -1, "below 0"),
        ((*AT, "rules", "more"), 1, "unknown 'more'"),
        ((*AT, "limits"), {"disk": 1}, "is missing"),
        ((*AT, "limits"), {"memory": 0}, "below 1"),
        ((*AT, "engines"), 0, "below 1"),
        ((*AT, "batches", "kind"), "magic", "unknown kind 'magic'"),
        ((*AT, "batches", "slots"), 0, "below 1"),
        ((*AT, "batches", "token_budget"), 0, "below 1"),
        ((*AT, "batches", "more"), 0, "unknown 'more'"),
        ((*AT, "batches"), None, "a link has no law or limit"),
        ((*AT, "law"), None, "expected an object"),
        ((*AT, "law", "form"), "magic", "unknown form 'magic'"),
        ((*AT, "law", "tile"), 0, "below 1"),
        ((*AT, "law", "per_token"), "0/1", "a batch of one token takes no time"),
        ((*AT, "law", "per_kv"), "-1/1", "is negative"),
        ((*AT, "needs", "x", "tokens", "cache"), "1/1", "tokens of an unknown buffer"),
        ((*AT, "needs", "x", "more"), 1, "unknown 'more'"),
        (("problem", "classes", "x", "lengths", "prompt"), [], "none or too many"),
        (("problem", "classes", "x", "lengths", "output"), [], "none or too many"),
        (("problem", "classes", "x", "lengths", "prompt"), [0], "below 1"),
        (("problem", "classes", "x", "lengths", "output"), [0], "below 1"),
        (("problem", "classes", "x", "lengths", "paired"), 0, "bad 'paired'"),
        (("problem", "classes", "x", "more"), 0, "unknown 'more'"),
        (("problem", "more"), 0, "unknown 'more'"),
        (("problem", "scope"), None, "unknown scope"),
        (("load",), "1/1", "is not above 1"),
        (("load",), "2/1", "the prices are worth 3/2, not 2"),
        (("dual", "prices", "x"), "7/1", "price 7 exceeds 6"),
        (("dual", "weights", "e"), "2/1", "engines times weights are not 1"),
        (("dual", "tokens", "e", "decode"), "2/1", "is worth more than its time"),
        (("dual", "tokens", "e", "prefill"), "2/1", "is worth more than its time"),
        (("dual", "tokens", "e", "cache"), "2/1", "unknown 'cache'"),
        (("dual", "limits", "e", "memory"), "2/1", "unknown 'memory'"),
        (("dual", "more"), 1, "unknown 'more'"),
    ],
)
def test_f_every_condition_of_prices_refuses(path: Any, value: Any, words: str) -> None:
    assert words in refused(changed(plain(), *path, value=value))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("load",), "1/1", "is not below 1"),
        (("load",), "3/2", "is not below 1"),
        (("load",), "1/2", "the batches take a load of 3/4, not 1/2"),
        (("primal", "flows"), [], "class x: 0 of 1/8 requests are routed"),
        (("primal", "flows", 0, "rate"), "1/9", "1/9 of 1/8 requests are routed"),
        (("primal", "flows", 0, "rate"), "1/7", "too little for the tokens"),
        (("primal", "flows", 0, "class"), "y", "flow of 'y': no route"),
        (("primal", "flows", 0, "class"), 1, "flow of 1: no route"),
        (("primal", "flows", 0, "route"), ["f"], "flow of 'x': no route ['f']"),
        (("primal", "flows", 0, "route"), "e", "expected a list"),
        (("primal", "flows", 0, "more"), 1, "unknown 'more'"),
        (("primal", "batches"), [], "too little for the tokens prefill"),
        (("primal", "batches", 0, "rate"), "1/9", "pool e: 1/18 too little for the tokens prefill"),
        (("primal", "batches", 0, "tokens"), [6, 0], "too little for the tokens decode"),
        (("primal", "batches", 0, "tokens"), [7, 2], "pool 'e': no batch [7, 2]"),
        (("primal", "batches", 0, "tokens"), [0, 0], "no batch"),
        (("primal", "batches", 0, "tokens"), [6], "no batch"),
        (("primal", "batches", 0, "tokens"), [4, -1], "below 0"),
        (("primal", "batches", 0, "pool"), "f", "pool 'f': no batch"),
        (("primal", "batches", 0, "pool"), 1, "pool 1: no batch"),
        (("primal", "batches", 0, "more"), 1, "unknown 'more'"),
        ((*AT, "batches", "slots"), 2, "no batch [4, 2]"),
        ((*AT, "engines"), 2, "a load of 3/8, not 3/4"),
    ],
)
def test_f_every_condition_of_flows_refuses(path: Any, value: Any, words: str) -> None:
    assert words in refused(changed(stable(), *path, value=value))


def test_f_what_just_holds_is_accepted() -> None:
    assert "no policy" in said(changed(plain(F(1, 5)), "load", value="6/5"))
    assert "batches serve" in said(changed(stable(), *AT, "batches", "slots", value=3))
    two = changed(stable(), *AT, "engines", value=2)
    assert "load 3/8" in said(changed(two, "load", value="3/8"))
    half = dual({"x": 3}, {"e": F(1, 2)}, {"e": {k: F(1, 2) for k in ONE}})
    twice = changed(changed(plain(F(1, 2)), *AT, "engines", value=2), "load", value="3/2")
    assert "no policy" in said(changed(twice, "dual", value=half))


def test_f_the_load_is_that_of_the_busiest_pool() -> None:
    pools = {
        "p": pool({"x": need(4, 0)}, phases="prefill"),
        "d": pool({"x": need(0, 2)}, phases="decode"),
        "wire": link({"x": 3}, F(3, 4)),
    }
    one, rate = klass(F(1, 8), ["p", "d", "wire"]), F(1, 8)
    runs = [("p", (4, 0), rate), ("d", (0, 2), rate)]
    body = carried(rate, one, pools, runs, F(1, 2))
    assert "load 1/2" in said(body)
    for load in ("1/4", "3/8"):
        assert "take a load of 1/2" in refused(changed(body, "load", value=load))
    slow = changed(body, "problem", "pools", "wire", value=link({"x": 6}, F(3, 2)))
    assert "load 3/4" in said(changed(slow, "load", value="3/4"))


def test_f_limits_of_flows_are_checked() -> None:
    """``optimal_load`` with a slot row: 3 slot-iterations for each request."""
    pools = {"e": pool({"x": need(4, 2, 0, slots=3)}, limits={"slots": 3}, time=law(base=1))}
    numbers = dual({"x": 1}, {"e": 1}, {"e": dict.fromkeys(ONE, 0)}, {"e": {"slots": F(1, 3)}})
    flow = {"class": "x", "route": ["e"], "rate": "1/2"}
    run = {"pool": "e", "tokens": [5, 3], "rate": "1/2"}
    parts = {"dual": numbers, "primal": {"flows": [flow], "batches": [run]}}
    body = sealed("optimal_load", problem({"x": klass(F(1, 2), ["e"])}, pools), F(1, 2), **parts)
    assert "a lower bound of the load" in said(body)
    short = changed(body, "primal", "batches", 0, "rate", value="2/5")
    assert "too little for the limits slots" in refused(short)
    costly = changed(body, "dual", "limits", "e", "slots", value="1/2")
    assert "is worth more than its time" in refused(costly)
    more = changed(body, "dual", "prices", "x", value="4/3")
    assert "price 4/3 exceeds 1" in refused(more)


def test_f_seconds_of_a_request_count_in_prices_and_flows() -> None:
    time = law(per_token=1, per_work=1)
    one, pools = klass(F(1, 20), ["e"]), {"e": pool({"x": need(4, 2, 8)}, time=time)}
    body = carried(F(1, 20), one, pools, [("e", (4, 2), F(1, 20))], F(7, 10))
    assert "load 7/10" in said(body)
    numbers = dual({"x": 14}, {"e": 1}, {"e": ONE})
    high = klass(F(1, 10), ["e"])
    body = sealed("unstable", problem({"x": high}, pools), F(7, 5), dual=numbers)
    assert "load 7/5" in said(body)


def test_f_every_route_is_priced() -> None:
    pools = {h: pool({"x": need(4, 2)}) for h in "ef"}
    one = klass(F(1, 2), ["e"], ["f"])
    prices = {"e": ONE, "f": dict.fromkeys(ONE, 0)}
    body = sealed(
        "unstable", problem({"x": one}, pools), 3, dual=dual({"x": 6}, {"e": 1, "f": 0}, prices)
    )
    assert "route ['f']: price 6 exceeds 0" in refused(body)


def test_f_hardware_by_the_longest_prompt_or_a_whole_batch() -> None:
    body = changed(plain(prompt=(2, 6)), "problem", "scope", value="hardware")
    for chunk, good in ((5, False), (6, True), (8, True)):
        one = changed(body, *AT, "rules", "chunk", value=chunk)
        assert "on this hardware" in said(one) if good else "may bind" in refused(one)
    bare = changed(body, "problem", "classes", "x", value=klass(F(1, 4), ["e"], lengths=False))
    assert "on this hardware" in said(changed(bare, *AT, "rules", "chunk", value=8))
    assert "may bind" in refused(changed(bare, *AT, "rules", "chunk", value=7))
    one_token = changed(bare, *AT, "batches", "token_budget", value=1)
    assert "a chunk of 0 may bind" in refused(changed(one_token, *AT, "rules", value=None))


def test_f_lengths_are_bounded_and_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_lengths, "MOST", 5)
    raw = {"prompt": [1, 2], "output": [1], "paired": True}
    with pytest.raises(Rejected, match="paired lists of different length"):
        Lengths(raw, "class x")
    for key in ("prompt", "output"):
        assert Lengths({"prompt": [1], "output": [1], "paired": False, key: [1] * 5}, "x")
        long = {"prompt": [1], "output": [1], "paired": False, key: [1] * 6}
        with pytest.raises(Rejected, match="none or too many"):
            Lengths(long, "class x")


def test_f_blocks_need_few_different_lengths() -> None:
    s, o = list(range(1, 501)), list(range(1, 501))
    one = Lengths({"prompt": s, "output": o, "paired": False}, "class x")
    area = F(sum(s), 500) + F(sum(s), 500) * F(sum(o) - 500, 500)
    area += F(sum((y - 1) * y for y in o), 1000)
    needs = need(F(501, 2), F(499, 2), 0, memory=area)
    given = pool({"x": needs}, limits={"memory": 1500}, chunk=500, budget=500)
    check_needs(made := Pool("e", given), made.needs["x"], one)
    given["rules"]["block"] = 500
    with pytest.raises(Rejected, match="too many different lengths"):
        check_needs(made := Pool("e", given), made.needs["x"], one)
    # A block without a memory limit asks for nothing.
    given["limits"], given["needs"] = {}, {"x": need(4, 2)}
    three = Lengths({"prompt": [4], "output": [3], "paired": False}, "class x")
    check_needs(made := Pool("e", given), made.needs["x"], three)


# Reading. --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2/4", "not in lowest terms"),
        ("1/0", "zero denominator"),
        ("-1/2", "negative"),
        ("01/2", "not in lowest terms"),
        ("1/02", "not in lowest terms"),
        ("0/2", "lowest terms"),
        ("-0/1", "not in lowest terms"),
        ("1", "is not a rational"),
        ("1/2\n", "is not a rational"),
        (" 1/2", "is not a rational"),
        ("\u0661/2", "is not a rational"),
        (1, "expected a string"),
        ("+1/2", "is not a rational"),
        (None, "expected a string"),
        (True, "expected a string"),
    ],
)
def test_f_rationals(value: Any, words: str) -> None:
    with pytest.raises(Rejected, match="what: ") as caught:
        rational(value, "what")
    assert words in str(caught.value)


def test_f_other_readers() -> None:
    assert (rational("0/1", "x"), rational("7/3", "x")) == (0, F(7, 3))
    assert (whole(3, "x", 3), whole(0, "x")) == (3, 0)
    for value in (True, 1.0, "1", None):
        with pytest.raises(Rejected, match="expected a whole number"):
            whole(value, "x")
    with pytest.raises(Rejected, match="2 is below 3"):
        whole(2, "x", 3)
    assert table({"a": 1}, "x") == {"a": 1}
    assert table({"a": 1, "b": 2}, "x", ["a"], may="b") == {"a": 1, "b": 2}
    for value, words in (
        ([], "expected an object"),
        ({}, "'a' is missing"),
        ({"a": 1, "c": 1}, "unknown 'c'"),
    ):
        with pytest.raises(Rejected, match=words):
            table(value, "x", ["a"], may="b")
    assert items([1], "x") == [1]
    for value in ({}, "a", None):
        with pytest.raises(Rejected, match="expected a list"):
            items(value, "x")
    assert parse('{"a": 1}') == {"a": 1}
    for text, words, kind in (
        ('{"a": 1.0}', "is a float", Rejected),
        ('{"a": NaN}', "is a float", Rejected),
        ('{"a": 1, "a": 2}', "names a key twice", Rejected),
        ("[]", "expected an object", Rejected),
        ("{", "not JSON", Malformed),
    ):
        with pytest.raises(kind, match=words):
            parse(text)


@pytest.mark.parametrize(
    ("tokens", "seconds", "words"),
    [
        ([1], ["1/1"], "bad table"),
        ([], [], "bad table"),
        ([1, 2], ["1/1"], "bad table"),
        ([2, 1], ["1/1", "2/1"], "bad table"),
        ([1, 1], ["1/1", "2/1"], "bad table"),
        ([0, 1], ["1/1", "2/1"], "below 1"),
        ([1, 2], ["2/1", "1/1"], "more tokens take less time"),
    ],
)
def test_f_tables(tokens: Any, seconds: Any, words: str) -> None:
    with pytest.raises(Rejected, match=words):
        Law(law("table", tokens=tokens, seconds=seconds), "law")
    assert Law(law("table", tokens=[1, 2], seconds=["1/1", "1/1"]), "law")(9) == 1


def test_f_knapsack_rows_and_names() -> None:
    from tests.unit.proofs.certificates import knapsack

    def read(**given: Any) -> Pool:
        raw = knapsack(2, [([1, 2], 3)])
        raw["batches"].update(given)
        return Pool("e", raw)

    assert read().buffers == ["b0", "b1"]
    assert not read().allows([0, 2])
    assert read().allows([1, 1])
    for given, words in (
        ({"steps": [1]}, "a name and a step"),
        ({"steps": [1, 0]}, "below 1"),
        ({"buffers": ["a", "a"]}, "a name and a step"),
        ({"buffers": ["a", 1]}, "a name and a step"),
        ({"buffers": [], "steps": [], "rows": []}, "a name and a step"),
        ({"rows": [{"weights": [1], "capacity": 3}]}, "one weight for each buffer"),
        ({"rows": [{"weights": [1, -1], "capacity": 3}]}, "below 0"),
        ({"rows": [{"weights": [1, 1], "capacity": -1}]}, "below 0"),
        ({"rows": [{"weights": [1, 1]}]}, "'capacity' is missing"),
        ({"more": 1}, "unknown 'more'"),
    ):
        with pytest.raises(Rejected, match=words):
            read(**given)


def test_f_a_knapsack_is_enumerated_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.proofs.certificates import knapsack

    # One buffer and no row: one step for each batch, twenty times the number.
    monkeypatch.setattr(check_pool, "MOST", 2)
    assert sum(1 for _ in Pool("e", knapsack(1, [], 39)).every()) == 40
    with pytest.raises(Rejected, match="too many configurations"):
        sum(1 for _ in Pool("e", knapsack(1, [], 40)).every())


def test_f_head_of_a_certificate(tmp_path: Path) -> None:
    body = plain()
    for key in ("format", "claim", "digest", "problem", "seal", "load", "dual"):
        short = {k: v for k, v in body.items() if k != key}
        assert refused(short)
    assert "unknown 'more'" in refused({**body, "more": 1})
    assert "unknown claim" in refused({**body, "claim": "x"})
    assert "not of format" in refused({**body, "format": "x"})
    assert "the digest does not match" in refused({**body, "digest": "sha256:0"})
    assert "the seal does not match" in refused({**body, "load": "2/1"})
    assert said(body).endswith(f", problem {body['digest']}")
    good, bad, none = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "none.json"
    good.write_text(json.dumps(body))
    bad.write_text(json.dumps({**body, "load": "2/1"}))
    assert check.main([str(good), str(good)]) == 0
    assert check.main([str(good), str(bad), str(good)]) == 4
    assert check.main([str(none), str(good)]) == 2
    assert check.main([str(bad), str(none)]) == 4
    assert check.main([]) == 2
    # No alarm is left behind for whoever called.
    assert signal.alarm(0) == 0
    assert ratio(F(2, 4)) == "1/2"


def test_f_full_tiles_need_every_prompt_in_whole_tiles() -> None:
    """RAD: 64 and 512 tokens have a largest prompt of whole tiles of 128, but not all are."""
    path = Path(check.__file__).parent / "certificates" / "o3-drift-rad.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    (name,) = body["problem"]["classes"]
    one = {k: v for k, v in body["problem"]["classes"][name].items() if k != "lengths"}
    assert (one["prompt_most"], one["prompt_unit"], body["problem"]["batch"]) == (512, 512, 128)
    for unit, good in ((512, True), (128, True), (64, False)):
        changed_one = changed(body, "problem", "classes", name, value={**one, "prompt_unit": unit})
        if good:
            assert "linear_foster" in said(changed_one)
        else:
            assert "prompts are not multiples of 128 tokens" in refused(changed_one)


def test_f_a_prompt_of_one_token_is_computed() -> None:
    one = klass(F(1, 2), ["e"], lengths=False)
    body = sealed(
        "unstable",
        problem({"x": one}, {"e": pool({"x": need(1, 2)})}),
        F(3, 2),
        dual=dual({"x": 3}, {"e": 1}, {"e": ONE}),
    )
    assert "no policy" in said(body)


def test_f_the_unit_of_listed_prompts_is_their_common_divisor() -> None:
    from proofs import check_drift

    lengths = {"prompt": [4, 6], "output": [1], "paired": False}
    found = check_drift.listed(lengths, 0, "class")
    assert (found["prompt_unit"], found["prompt_most"]) == (2, 6)


def test_f_a_batch_fits_into_the_slots() -> None:
    made = Pool("e", pool({}, slots=2))
    for batch in ([0, 2], [1, 1], [7, 1], [8, 0], [0, 1], [1, 0]):
        assert made.allows(batch)
    for batch in ([0, 3], [1, 2], [2, 2], [8, 1], [0, 0]):
        assert not made.allows(batch)


def test_f_rows_and_buffers_of_a_knapsack_count_as_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two buffers and one row: four for each batch, of which five are 100."""
    from tests.unit.proofs.certificates import knapsack

    monkeypatch.setattr(check_pool, "MOST", 1)
    assert sum(1 for _ in Pool("e", knapsack(2, [([1, 1], 9)], 1)).every()) == 3
    assert sum(1 for _ in Pool("e", knapsack(2, [([1, 3], 3)], 3)).every()) == 5
    with pytest.raises(Rejected, match="too many configurations"):
        sum(1 for _ in Pool("e", knapsack(2, [([1, 1], 9)], 2)).every())


def test_f_limits_of_a_knapsack_are_priced() -> None:
    """One token a second, a price of 1/2 a token: 3/2 seconds are left for a limit of 3."""
    from tests.unit.proofs.certificates import knapsack

    made = Pool("e", {**knapsack(1, [], 3, [3]), "limits": {"memory": 3}})
    made.check_prices([F(1, 2)], {"memory": F(1, 2)}, F(1))
    for price, value in ((F(1, 2), F(51, 100)), (F(51, 100), F(1, 2))):
        with pytest.raises(Rejected, match=r"batch \(3,\) is worth more than its time"):
            made.check_prices([price], {"memory": value}, F(1))
