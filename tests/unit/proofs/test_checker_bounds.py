"""The checker alone: where its limits lie, and which batches of a law are tried (faults F)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest

from proofs import check, check_lengths, check_reading
from proofs.check_lengths import Lengths, held, steps_down
from proofs.check_planning import Problem
from proofs.check_pool import Pool
from proofs.check_reading import Law, Rejected, rational, read_law
from tests.unit.proofs.certificates import (
    ONE,
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
    ratio,
    refused,
    said,
    sealed,
)


def rooflines(count: int) -> list[dict[str, Any]]:
    draw, found = random.Random(17), []
    while len(found) < count:
        raw = law(
            "roofline",
            base=F(draw.randint(0, 12)),
            floor=F(draw.randint(0, 30)),
            per_token=F(draw.randint(0, 4), draw.randint(1, 2)),
            tile=draw.randint(1, 6),
            floor_per_token=F(draw.randint(0, 4), draw.randint(1, 2)),
        )
        found.append(raw)
    return found


def test_f_tiles_in_which_the_parts_of_a_roofline_cross() -> None:
    """Compute less memory at both ends of a tile, over tiles far beyond those asked for."""
    seen = [0, 0, 0]
    for raw in rooflines(60):
        v = {k: F(x) for k, x in raw.items() if isinstance(x, str) and "/" in x}
        tile = raw["tile"]
        first, last = 2, 9

        def right(j: int, v: dict[str, F] = v, tile: int = tile) -> F:
            return (
                v["base"]
                + v["per_token"] * j * tile
                - v["floor"]
                - (v["floor_per_token"] * j * tile)
            )

        def left(j: int, v: dict[str, F] = v, tile: int = tile) -> F:
            return right(j, v, tile) + v["floor_per_token"] * (tile - 1)

        slopes = v["per_token"] - v["floor_per_token"]
        far = range(-200, 200)

        def low(end: Any, far: range = far) -> int:
            return next(j for j in reversed(far) if end(j))

        def high(end: Any, far: range = far) -> int:
            return next(j for j in far if end(j))

        if slopes == 0:
            seen[0] += 1
            tiles = range(first, last + 1) if right(1) <= 0 <= left(1) else range(0)
        elif slopes < 0:
            seen[1] += 1
            tiles = range(low(lambda j: right(j) >= 0), high(lambda j: left(j) <= 0) + 1)
        else:
            seen[2] += 1
            tiles = range(low(lambda j: left(j) <= 0), high(lambda j: right(j) >= 0) + 1)
        made = Law(raw, "law")
        assert list(made.crossings(first, last)) == [j for j in tiles if first <= j <= last]
        for j in range(first, last + 1):
            inside = range((j - 1) * tile + 1, j * tile + 1)
            compute = v["base"] + v["per_token"] * j * tile
            rise, over = v["floor_per_token"], compute - v["floor"]
            beside = [n for n in inside if rise * (n - 1) <= over < rise * (n + 1)]
            assert made.crossing(j) == beside, (raw, j)
    assert min(seen) > 5


def test_f_a_roofline_is_lowest_against_a_line_where_it_bends() -> None:
    """Against every batch size; a floor that does not rise is left at the right end of a tile."""
    flat = law("roofline", base=3, per_token=2, floor=34, tile=3)
    for raw in (flat, *rooflines(40)):
        made = Law(raw, "law")
        for low, high in ((12, 39), (1, 17)):
            every, bends = range(low, high + 1), made.bends(low, high)
            times = {n: made(n) for n in every}
            for slope in (F(0), F(3, 5), F(1), F(7, 4), F(5)):
                lowest = min(times[n] - slope * n for n in every)
                assert min(times[n] - slope * n for n in bends) == lowest, (raw, slope)


def test_f_parts_that_rise_together_cross_in_every_tile_or_in_none() -> None:
    for base, crossed in ((2, []), (1, [2, 3]), (0, [2, 3])):
        made = Law(law("roofline", base=base, per_token=1, floor=1, floor_per_token=1, tile=4), "x")
        assert list(made.crossings(2, 3)) == crossed


def test_f_crossings_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_reading, "MOST", 3)
    made = Law(law("roofline", per_token=1, floor=1, floor_per_token=1, tile=2), "law")
    assert len(made.crossings(1, 3)) == 3
    with pytest.raises(Rejected, match="cross in 4 tiles"):
        made.crossings(1, 4)


def test_f_a_table_may_start_with_no_time_but_no_law_takes_none() -> None:
    raw = law("table", tokens=[1, 2], seconds=["0/1", "1/1"])
    with pytest.raises(Rejected, match="a batch of one token takes no time"):
        read_law(raw, "law")
    assert read_law(law(per_token=1), "law")(1) == 1


def test_f_a_rational_has_4000_digits_above_and_4001_below() -> None:
    text = f"{'9' * 4000}/1{'0' * 4000}"
    assert rational(text, "x") == F(10**4000 - 1, 10**4000)
    with pytest.raises(Rejected, match="more than 4000 digits"):
        rational(f"1{text}", "x")


def test_f_names_of_any_script_are_read() -> None:
    body = plain()
    body["problem"]["classes"]["\u00fc"] = body["problem"]["classes"].pop("x")
    body["problem"]["pools"]["e"]["needs"]["\u00fc"] = need(4, 2)
    body["dual"]["prices"] = {"\u00fc": "6/1"}
    assert "no policy is stable" in said(changed(body, "load", value="3/2"))


# Needs. ------------------------------------------------------------------------------------------


def test_f_a_chunk_may_be_as_short_as_the_longest_prompt_of_all_classes() -> None:
    pools = {"e": pool({"x": need(4, 2), "y": need(6, 2)}, chunk=6, budget=8)}
    both = {"x": klass(F(1, 6), ["e"]), "y": klass(F(1, 8), ["e"], prompt=(6,))}
    numbers = dual({"x": 6, "y": 8}, {"e": 1}, {"e": ONE})
    body = sealed("unstable", problem(both, pools, "hardware"), 2, dual=numbers)
    assert "on this hardware" in said(body)
    short = changed(body, "problem", "pools", "e", "rules", "chunk", value=5)
    assert "a chunk of 5 may bind" in refused(short)


def test_f_only_pools_for_both_phases_serve_a_request_whole() -> None:
    pools = {
        "p": pool({"x": need(4, 0)}, phases="prefill"),
        "d": pool({"x": need(0, 2)}, phases="decode"),
        "wire": link({"x": 4}),
    }
    numbers = dual({"x": 4}, {"p": 0, "d": 0, "wire": 1}, {h: dict.fromkeys(ONE, 0) for h in "pd"})
    numbers["tokens"]["wire"] = {}
    one = klass(F(1, 3), ["p", "d", "wire"])
    text = said(sealed("unstable", problem({"x": one}, pools), F(4, 3), dual=numbers))
    assert "served whole" not in text
    # With needs as stated and no rules, the link is none of these pools either.
    bare = {"e": pool({"x": need(4, 2)}, phases=None), "wire": link({"x": 4}, None)}
    raw = problem({"x": klass(F(1, 2), ["e", "wire"], lengths=False)}, bare)
    numbers = dual({"x": 6}, {"e": 1, "wire": 0}, {"e": ONE, "wire": {}})
    assert "served whole" not in said(sealed("unstable", raw, 3, dual=numbers))


def test_f_a_plain_problem_is_no_relaxation() -> None:
    assert Problem(plain()["problem"]).relaxed() == ""


def test_f_stated_needs_may_leave_out_what_is_none() -> None:
    """A request without decodes; a buffer of another kind behind a link."""
    body = plain(F(1, 2))
    del body["problem"]["classes"]["x"]["lengths"]
    needs = {"tokens": {"prefill": "4/1"}, "seconds": "0/1", "limits": {}}
    body["problem"]["pools"]["e"]["needs"]["x"] = needs
    body["dual"]["prices"]["x"] = "4/1"
    assert "no policy is stable" in said(changed(body, "load", value="2/1"))
    wide = knapsack(1, [])
    wide["needs"] = {"x": {"tokens": {"b0": "4/1"}, "seconds": "0/1", "limits": {}}}
    raw = problem(
        {"x": klass(F(1, 2), ["k", "wire"], lengths=False)},
        {"k": wide, "wire": link({"x": 1}, None)},
    )
    numbers = dual({"x": 4}, {"k": 1, "wire": 0}, {"k": {"b0": 1}, "wire": {}})
    assert "no policy is stable" in said(sealed("unstable", raw, 2, dual=numbers))


def test_f_pairs_that_decode_cross_a_link() -> None:
    one = Lengths({"prompt": [4, 6, 9], "output": [1, 3, 1], "paired": True}, "class x")
    assert (one.moved(0), one.moved(1)) == (2, F(19, 3))


def test_f_the_peak_is_that_of_the_largest_request() -> None:
    one = Lengths({"prompt": [4, 9, 6], "output": [3, 1, 8], "paired": True}, "class x")
    assert [one.peak(p, 0) for p in ("both", "prefill", "decode")] == [13, 9, 13]
    none = Lengths({"prompt": [4, 9], "output": [1, 1], "paired": False}, "class x")
    assert [none.peak(p, 0) for p in ("both", "prefill", "decode")] == [9, 9, 0]


def test_f_blocks_of_two_tokens() -> None:
    raw = pool({"x": need(5, 3, memory=30)}, limits={"memory": 40}, chunk=2, block=2)
    rules = {"lag": 0, "chunk": 2, "area": "chunked", "phases": "both"}
    one = Lengths({"prompt": [5], "output": [4], "paired": False}, "class x")
    # 1, 3 and 5 tokens, then 6, 7 and 8.
    assert held(Pool("e", raw), rules, one, 2) == (2 + 4 + 6, 6 + 8 + 8)
    assert held(Pool("e", raw), rules, one, 1) == (1 + 3 + 5, 6 + 7 + 8)
    assert steps_down(5, 2, 1) == 9


def test_f_as_many_pairs_of_lengths_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_lengths, "MOST", 6)
    one = Lengths({"prompt": [1, 2], "output": [1, 2, 3], "paired": False}, "class x")
    # Decodes 0, 1 and 2 hold nothing, one block, two blocks of a prompt of 1; then 0, 2 and 4.
    assert one.decode_blocks(0, 2) == F(2 * (0 + 1 + 3) + 2 * (0 + 2 + 4), 6)
    more = Lengths({"prompt": [1, 2], "output": [1, 2, 3, 4], "paired": False}, "class x")
    with pytest.raises(Rejected, match="too many different lengths"):
        more.decode_blocks(0, 2)
    # Prompts that are as long beyond their whole blocks count once.
    alike = Lengths({"prompt": [1, 3], "output": [1, 2, 3, 4], "paired": False}, "class x")
    assert alike.decode_blocks(0, 2) == F(2 * (1 + 3 + 5) + 2 * (2 + 5 + 8), 8)
    assert ratio(F(5, 2)) == "5/2"


# The command. ------------------------------------------------------------------------------------


def test_f_the_command_runs_by_itself(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(plain()))
    bad.write_text("{}")
    command = [sys.executable, "-I", "-S", check.__file__]
    done = subprocess.run(
        [*command, good, bad], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.startswith(f"{good}: accepted: unstable, load 3/2: no policy is stable")
    assert f"\n{bad}: rejected: not of format" in done.stdout
    none = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.startswith("usage: python -I -S proofs/check.py FILE")


def test_f_whatever_goes_wrong_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "x.json"
    file.write_text("1234567890")
    monkeypatch.setattr(check, "LARGEST_FILE", 10)
    assert check.read(str(file)) == "1234567890"
    monkeypatch.setattr(check, "LARGEST_FILE", 9)
    assert check.verdict(str(file)) == (2, "rejected: larger than 9 bytes")
    monkeypatch.setattr(check, "LARGEST_FILE", 10)

    def broken(text: str) -> str:
        raise ZeroDivisionError(text)

    monkeypatch.setattr(check, "check", broken)
    assert check.verdict(str(file)) == (4, "rejected: ZeroDivisionError('1234567890')")
    monkeypatch.setattr(check, "MOST_SAID", 4)
    assert [check.plain(x) for x in ("a\nb", "abcd", "abcde")] == ["a\\nb", "abcd", "abcd..."]
