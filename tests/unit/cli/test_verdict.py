"""``llmq verdict``: exit codes, words, JSON; and the figure of a counterexample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmq.cli import main
from llmq.optimality.instability import Instability
from llmq.plot._backlog import draw_backlog
from llmq.result import from_json

COUNTEREXAMPLES = Path(__file__).parents[3] / "docs" / "counterexamples"


def test_full_batches_pass(capsys):
    assert main(["verdict", "sarathi", "--networks", "3"]) == 0
    said = capsys.readouterr().out
    assert "sarathi: proved [S1] at load 0.9" in said
    assert "3 networks: 3 stable" in said
    # (1 - p)^3 = 0.05, over 1 - 0.01: 63.8 %.
    assert "it fails on 64 % of such networks at most (95 %)" in said
    assert "proofs/THEOREMS.md, entry S1" in said


def test_what_no_theorem_covers_is_tested(capsys):
    assert main(["verdict", "trail", "--networks", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["theorem"]) == ("tested optimal", None)
    assert said["fails_on_at_most"] == pytest.approx(0.95 / 0.99)
    assert main(["verdict", "trail", "--networks", "1"]) == 0
    assert "evidence, not proof" in capsys.readouterr().out


@pytest.mark.parametrize(("policy", "entry"), [("priority:classes=c+b+a", "S1"), ("slai", "WC")])
def test_the_theorem_of_a_policy_is_named(capsys, policy, entry):
    assert main(["verdict", policy, "--networks", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["theorem"] == entry


def test_a_counterexample_is_printed_and_can_be_read_back(capsys):
    assert main(["verdict", "fastertransformer", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "not optimal"
    found = from_json(Instability, json.dumps(said["counterexample"]))
    assert found.exact_reach < 0.9
    assert main(["verdict", "sarathi", "--any"]) == 3
    assert "exactly: unstable above load" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["sarathy"], "did you mean 'sarathi'"),
        (["sarathi", "--load", "1.5"], "a load in (0, 1)"),
        (["sarathi", "--networks", "0"], "--networks"),
    ],
)
def test_bad_input_is_refused(capsys, words, fault):
    assert main(["verdict", *words]) == 2
    assert fault in capsys.readouterr().err


def test_the_figure_shows_growth_beside_full_batches():
    found = from_json(
        Instability, (COUNTEREXAMPLES / "fastertransformer.json").read_text(encoding="utf-8")
    )
    ax = draw_backlog(found, requests=400, paths=2, rng=1)
    last = [float(np.asarray(line.get_ydata())[-1]) for line in ax.lines]
    assert len(last) == 5
    assert min(last[:2]) > 60
    assert max(last[2:4]) < 40
    # 0.9 of 4 requests/s come, 8/3 leave: 14/15 a second pile up for 400 / 3.6 seconds.
    assert last[4] == pytest.approx(14 / 15 * 400 / 3.6)
    assert ax.get_xlabel() == "time (s)"
    assert ax.get_ylabel() == "requests present"
