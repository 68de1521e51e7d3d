"""Policies side by side with common random numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.cli import main
from llmq.sim.compare import compare

CHIP = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64)
WORK = llmq.Workload.poisson(6.0, {"chat": llmq.RequestClass(512, 64)})
V0 = "vllm:version=v0"


@pytest.fixture(scope="module")
def both():
    pair = [policies.Sarathi(), policies.VLLM(version="v0")]
    return compare(CHIP, WORK, pair, replications=6, requests=400, rng=3)


def test_every_policy_meets_the_same_requests(both):
    first, second = both.runs.values()
    np.testing.assert_array_equal(first.requests.arrival, second.requests.arrival)
    np.testing.assert_array_equal(first.prompt, second.prompt)
    assert first.measured == second.measured


def test_the_runs_are_those_of_simulate(both):
    v0 = policies.VLLM(version="v0")
    alone = llmq.simulate(CHIP, WORK, v0, replications=6, requests=400, rng=3)
    np.testing.assert_array_equal(alone.requests.finish, both.runs[V0].requests.finish)


def test_the_difference_is_paired(both):
    gap = both.difference(V0, "ttft")
    paths = [
        np.nanmean(both.runs[name].metric("ttft", allow_unstable=True).values, axis=1)
        for name in (V0, "sarathi")
    ]
    assert gap.mean == pytest.approx(np.mean(paths[0] - paths[1]))
    # Much narrower than the difference of independent runs would be.
    halves = [both.value(name, "ttft").half_width for name in both.runs]
    apart = np.hypot(*halves)
    assert gap.half_width < apart / 2
    assert gap.n == 6
    assert both.difference("sarathi", "tpot", 0.99).mean == 0.0


def test_differences_add_up(both):
    forth = both.difference(V0, "e2e", 0.5)
    back = both.difference("sarathi", "e2e", 0.5, base=V0)
    assert forth.mean == pytest.approx(-back.mean)


@pytest.mark.parametrize("some", [[], [policies.Sarathi()], [policies.Sarathi()] * 2])
def test_less_than_two_policies_are_refused(some):
    with pytest.raises(llmq.InputError, match="at least two different policies"):
        compare(CHIP, WORK, some)


def test_unknown_run(both):
    with pytest.raises(llmq.InputError, match="did you mean 'sarathi'"):
        both.value("sarthi", "ttft")


def test_command_line(capsys):
    words = ["compare", "sarathi", "vllm", "--workload", "azure-conv", "--rate", "4"]
    words += ["--engine", "llama-3.1-8b/h100", "--requests", "200", "--replications", "3"]
    assert main([*words, "--json", "--seed", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["base"] == "sarathi"
    assert [row["policy"] for row in found["policies"]] == ["sarathi", "vllm"]
    assert found["policies"][0]["mean TTFT"]["difference"]["value"] == 0
    assert found["policies"][1]["mean TTFT"]["difference"]["n"] == 3
    assert main([*words, "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert "against sarathi" in shown
    assert shown.count("p99 TTFT") == 2
