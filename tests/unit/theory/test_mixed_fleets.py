"""Fleets of pools that differ, where people meet them: verdicts and the command line."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import llmq
from llmq.cli import main
from llmq.sim.results._stability import offered_load

LAW = llmq.BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
BIG = llmq.Engine(LAW, 2048, max_seqs=128, kv_tokens=120_000, name="big")
SMALL = llmq.Engine(LAW, 512, max_seqs=16, kv_tokens=30_000, name="small")
MIX = {"chat": llmq.RequestClass(512, 128), "code": llmq.RequestClass(2048, 256)}
RATES = {"chat": 10.0, "code": 2.0}


def test_verdict_of_equal_engines_is_the_closed_form() -> None:
    region = llmq.stability_region(llmq.Fleet({"all": (BIG, 3)}), MIX)
    assert offered_load((BIG,) * 3, MIX, RATES) == region.load_bracket(RATES)
    assert offered_load((BIG,), MIX, {"chat": math.inf}) == (math.inf, math.inf)


def test_verdict_of_engines_that_differ() -> None:
    fleet = llmq.Fleet({"big": (BIG, 2), "small": (SMALL, 1)})
    found = offered_load((BIG, SMALL, BIG), MIX, RATES)
    assert found == llmq.stability_region(fleet, MIX).load_bracket(RATES)
    assert 0 < found[0] <= found[1] < 1


def test_verdict_knows_who_may_serve_whom() -> None:
    """Two of three equal engines for code alone: chat has what is left."""
    may = [np.array([True, True, True]), np.array([False, True, False])]
    fleet = llmq.Fleet({"a": (BIG, 2), "b": (BIG, 1)}, eligible={"code": ("b",)})
    heavy = {"chat": 1.0, "code": 7.0}
    found = offered_load((BIG,) * 3, MIX, heavy, may)
    assert found == llmq.stability_region(fleet, MIX).load_bracket(heavy)
    assert found[0] > offered_load((BIG,) * 3, MIX, heavy)[0]


NAMES = ("llama-3.1-8b/h100", "llama-3.1-8b/a100")
TRAFFIC = ["--prompt", "512", "--output", "128"]


def region_command(*extra: str, rate: str = "60") -> list[str]:
    engines = [part for name in NAMES for part in ("--engine", name)]
    return ["region", *engines, *TRAFFIC, "--rate", rate, *extra]


def test_region_command_of_two_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(region_command("--engines", "2", "--engines", "3", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    pools = {name: (llmq.load_engine(name), n) for name, n in zip(NAMES, (2, 3), strict=True)}
    mix = {"requests": llmq.RequestClass(512, 128)}
    region = llmq.stability_region(llmq.Fleet(pools), mix)
    assert found["load"] == region.load({"requests": 60.0})
    assert (found["engines"], found["pools"]) == (5, {NAMES[0]: 2, NAMES[1]: 3})
    assert found["prices"]["requests"] == 5 * region.prices({"requests": 60.0})["requests"]
    assert sum(found["routes"]["requests"].values()) == pytest.approx(60)


def test_region_command_says_the_split(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(region_command()) == 0
    said = capsys.readouterr().out
    assert "binding  KV memory binds in pool llama-3.1-8b/" in said
    assert "route    requests: llama-3.1-8b/h100 " in said
    assert main(region_command(rate="600")) == 3
    assert capsys.readouterr().out.startswith("UNSTABLE: no scheduler carries this load")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (region_command("--engines", "2"), "2 times --engine, but 1 times --engines"),
        (region_command("--engine", NAMES[0]), f"--engine {NAMES[0]} is given twice: say how many"),
        (
            region_command("--policy", "sarathi", "--policy", "vllm"),
            "--policy is given twice, the second time with 'vllm'",
        ),
        (["region", *TRAFFIC, "--rate", "1"], "say what serves with --engine NAME"),
    ],
)
def test_region_command_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_region_of_a_fleet_can_be_drawn() -> None:
    from llmq.plot._region import cut

    fleet = llmq.Fleet({"big": (BIG, 2), "small": (SMALL, 1)})
    region = llmq.stability_region(fleet, MIX)
    found = cut(region)
    assert found.outer == pytest.approx(region.vertices()[::-1], rel=1e-9) or (
        found.outer == pytest.approx(region.vertices(), rel=1e-9)
    )
    assert set(found.resources) <= {facet.resource for facet in region.facets()}
