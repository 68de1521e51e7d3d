"""The table of verdicts, its judges, and the guide that shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import verdict_limits, verdicts
from experiments.claim import Status
from experiments.table import TABLES, Table, read_table
from experiments.verdict_points import bisected, home, one_class, reach, setting, standard
from llmq import policies
from llmq.optimality.saturation import saturated_cycle
from llmq.theory.region.tiling import best_batch

ROOT = Path(__file__).parents[2]
TABLE = read_table(TABLES / "verdicts.csv")
JUDGES = {claim.id: claim.judge for claim in verdicts.CLAIMS}


def doctored(change: dict, **where: object) -> Table:
    rows = list(TABLE.rows())
    for row in rows:
        if all(row[key] == value for key, value in where.items()):
            row.update(change)
    return Table.of("verdicts", rows, about=TABLE.about)


def test_the_guide_shows_the_committed_table():
    # After a new table: python -m experiments.verdicts --page.
    guide = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    shown = guide.partition(verdicts.MARKS[0])[2].partition(verdicts.MARKS[1])[0]
    assert shown == verdicts.page(TABLE)


def test_every_policy_has_a_row_and_every_file_is_there():
    made = verdicts.page(TABLE)
    for kind in policies.ALL:
        assert f"| {kind.name} | " in made
    for name in TABLE.where(quantity="refuted")["set"]:
        assert (verdicts.SHELF / f"{name}.json").exists(), name
    fresh = {(r["set"], r["proof"]) for r in verdicts._refuted()}
    assert {(r["set"], r["proof"]) for r in TABLE.where(quantity="refuted").rows()} <= fresh


@pytest.mark.parametrize(
    ("claim", "change", "where"),
    [
        ("VERDICT-1", {"grows": 1}, {"quantity": "tests", "policy": "maxweight", "load": 0.9}),
        ("VERDICT-2", {"stable": 1}, {"quantity": "tests", "policy": "slai", "load": 1.05}),
        ("VERDICT-3", {"grows": 9}, {"quantity": "errors", "load": 0.95}),
        ("VERDICT-4", {"set": "other"}, {"quantity": "refuted", "set": "vllm"}),
    ],
)
def test_judges_fail_on_doctored_tables(claim, change, where):
    assert JUDGES[claim](TABLE).status in (Status.VERIFIED, Status.PROVED)
    assert JUDGES[claim](doctored(change, **where)).status is Status.NOT


def test_fewer_networks_are_no_verification():
    some = doctored({"n": 10, "stable": 10}, quantity="tests", policy="orca", load=0.9)
    assert JUDGES["VERDICT-1"](some).status is Status.DIRECTION
    unsure = doctored({"grows": 0, "undecided": 1}, quantity="tests", policy="vllm", load=1.05)
    assert JUDGES["VERDICT-2"](unsure).status is Status.DIRECTION


def test_verdicts_follow_the_table():
    assert verdicts.verdict(TABLE, "maxweight") == "proved [S1]"
    assert verdicts.verdict(TABLE, "priority") == "proved [S1]"
    assert verdicts.verdict(TABLE, "slai") == "proved [WC]"
    assert verdicts.verdict(TABLE, "trail") == "tested optimal"
    assert verdicts.verdict(TABLE, "fastertransformer") == "not optimal"
    less = doctored({"proved": 0}, quantity="tests", policy="maxweight")
    assert verdicts.verdict(less, "maxweight") == "tested optimal"
    grew = doctored({"grows": 1}, quantity="tests", policy="maxweight")
    assert verdicts.verdict(grew, "maxweight") == "not optimal"
    unsure = doctored({"undecided": 999}, quantity="tests", policy="orca", load=0.9)
    assert verdicts.verdict(unsure, "orca") == "undecided"


def test_every_policy_is_tested_on_enough_networks():
    for kind in policies.ALL:
        rows = TABLE.where(quantity="tests", policy=kind.name, set="suited", load=0.9)
        assert rows["n"].sum() == verdicts.networks(kind.name, 0.9) >= 30
        assert len(TABLE.where(quantity="reach", policy=kind.name)) >= 4
    assert "c+b+a" in policies.text(setting("priority"))
    assert setting("trail") == policies.TRAIL()


def test_what_is_exact_about_a_counterexample_is_shown():
    shown = {r["set"]: (r["proof"], r["kind"]) for r in verdicts._refuted()}
    assert shown["vllm"] == ("exact at equal gaps", "theory")
    assert shown["pascal-long-prompts"] == ("3/4", "theory")
    assert shown["memory/trail"][0] == "0.9076 of what a paced schedule carries"
    assert shown["memory/trail"][1] == "theory"


@pytest.mark.parametrize("sort", ["split", "short", "tiles", "long", "cut"])
def test_the_standard_set_is_what_it_says(sort):
    networks = standard(sort)
    assert len(networks) == 8
    for network in networks:
        engine = network.engine
        best = best_batch(engine.law, engine.token_budget).tokens
        longest = max(one.prompt.high for one in network.mix.values())
        assert (best < engine.token_budget) == (sort == "cut")
        assert longest <= engine.token_budget * {"short": 1 / 8, "long": 1}.get(sort, 2) or (
            longest == 1
        )
        if sort == "tiles":
            assert all(one.prompt.low % best == 0 for one in network.mix.values())


def test_e4_judges_with_limits_can_fail():
    table = read_table(TABLES / "verdict_limits.csv")
    shown, carried = verdict_limits._example, verdict_limits._v1
    assert shown(table).status is Status.VERIFIED
    # On fifty networks each the conjecture fails: backlogs grow where prompts are short.
    assert carried(table).status is Status.NOT
    n = {
        name: table.where(quantity="tests", policy=name)["n"].sum()
        for name in ("sarathi", "vllm v1")
    }
    assert n == {"sarathi": 50, "vllm v1": 150}
    for judge, row, status in (
        (shown, {"quantity": "example"}, Status.NOT),
        (carried, {"policy": "vllm v1"}, Status.NOT),
    ):
        rows = [
            one | ({"stable": 0, "grows": one["n"]} if row.items() <= one.items() else {})
            for one in table.rows()
        ]
        assert judge(Table.of("verdict_limits", rows)).status is status
    fine = [one | {"stable": one["n"], "grows": 0, "undecided": 0} for one in table.rows()]
    assert carried(Table.of("verdict_limits", fine)).status is Status.DIRECTION


def test_the_page_with_limits_is_current():
    text = (verdicts.DOCS / "verdicts.md").read_text(encoding="utf-8")
    made = verdict_limits.page(read_table(TABLES / "verdict_limits.csv"))
    assert made in text


def test_reach_brackets_an_exact_one():
    # Exclusive phases on one class: the cycle says where they stop.
    network, boundary = one_class(3)
    low, high = bisected(policies.FasterTransformer(), network)
    assert low <= boundary <= high
    assert high - low < 0.1


def test_theorems_and_tests_of_reach_agree():
    for row in TABLE.where(quantity="reach").rows():
        if row["proof"]:
            assert row["high"] == 1, row
    network = standard("split")[0]
    (request,) = network.mix.values()
    cycle = saturated_cycle(policies.Sarathi(), network.engine, request)
    found = reach({"policy": "sarathi", "set": "split", "network": 0}, np.random.SeedSequence(1))
    assert (found[0]["low"], found[0]["high"], found[0]["proof"]) == (0.99, 1.0, "S1")
    work = request.prompt.low + request.output.low - 1
    assert cycle.exact_rate * work == best_batch(network.engine.law, 6).exact_rate


def test_who_is_at_home_where():
    assert home(policies.RAD()) == ("tiles", "split")
    assert home(policies.PASCAL()) == ("short", "long")
    assert home(policies.MaxWeight()) == ("split", "cut")
