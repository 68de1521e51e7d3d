"""Options of plan, region, simulate and compare: none is lost; options beside a file change it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

import llmq
from llmq.cli import main
from llmq.cli._main import _COMMANDS, build_parser

CONV = ["--workload", "azure-conv"]
H100, A100 = ["--engine", "llama-3.1-8b/h100"], ["--engine", "llama-3.1-8b/a100"]
FEW = ["--requests", "400", "--replications", "3"]
CONFIG = """\
[traffic]
rate = "20/s"

[classes.chat]
prompt = 400
output = 60

[slo]
ttft = "1s"
quantile = 0.9

[[candidates]]
engine = "llama-3.1-8b/h100"
policy = "sarathi"
engines = 2

[simulation]
requests = 400
replications = 3
seed = 5
"""


@pytest.fixture
def run(capsys):
    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "chat.toml"
    path.write_text(CONFIG)
    return path


def test_b17_simulate_uses_every_engine(run):
    # Seen on the old code: only the last --engine served, "load 3.29 > 1 under any policy".
    words = ["simulate", *CONV, "--rate", "40", *FEW]
    counts = [*H100, "--engines", "4", *A100, "--engines", "3"]
    code, out, err = run(*words, *counts, "--json")
    found = json.loads(out)
    assert (code, err, found["engines"]) == (0, "", 7)
    region = llmq.stability_region(
        llmq.Fleet(
            {
                "h": (llmq.load_engine(H100[1]), 4),
                "a": (llmq.load_engine(A100[1]), 3),
            }
        ),
        llmq.load_workload("azure-conv").mix,
    )
    rates = llmq.load_workload("azure-conv", 40.0).rates
    assert found["load"] == pytest.approx(region.load_bracket(rates)[0], rel=1e-9)
    code, out, _ = run("compare", "sarathi", "vllm", *CONV, "--rate", "40", *FEW, *counts)
    assert code == 0


def _once(command: str) -> list[tuple[str, argparse.Action]]:
    parser = build_parser(command)
    sub = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    actions = sub.choices[command]._actions
    return [
        (a.option_strings[-1], a) for a in actions if a.option_strings and a.dest not in ("help",)
    ]


def _value(action: argparse.Action) -> list[str]:
    if action.nargs == 0:
        return []
    return [str(next(iter(action.choices)))] if action.choices else ["1"]


@pytest.mark.parametrize("command", _COMMANDS)
def test_b17_no_option_of_any_command_is_dropped_in_silence(command, capsys):
    parser = build_parser(command)
    for option, action in _once(command):
        words = [command, option, *_value(action), option, *_value(action)]
        if isinstance(action, argparse._AppendAction):
            known, _ = parser.parse_known_args([*words, *_needed(command)])
            assert len(getattr(known, action.dest)) >= 2, option
            continue
        assert main(words) == 2
        assert f"{option} is given twice" in capsys.readouterr().err


def _needed(command: str) -> list[str]:
    needed = {
        "compare": ["sarathi", "vllm"],
        "calibrate": ["x"],
        "check": ["--", "x"],
        "convert": ["x", "y"],
        "verdict": ["sarathi"],
    }
    return needed.get(command, [])


def test_b17_plan_takes_every_tp_and_refuses_copies(run):
    words = ["plan", *CONV, "--rate", "5", *H100, "--ttft", "1s", *FEW]
    code, out, _ = run(*words, "--tp", "1", "--tp", "2", "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["gpus_per_engine"] for one in found["candidates"]] == [1, 2]
    code, out, _ = run(*words, "--tp", "1", "--tp", "2")
    assert "llama-3.1-8b/h100 (TP2) with " in out  # B21: names of candidates carry TP
    for option, value in (("tp", "2"), ("engine", H100[1]), ("policy", "vllm")):
        code, _, err = run(*words, f"--{option}", value, f"--{option}", value)
        assert code == 2
        assert f"--{option} {value} is given twice: give each one once" in err


def test_d_options_replace_what_the_file_says(run, file):
    code, out, _ = run("plan", str(file), "--ttft", "200ms", "--rate", "40")
    assert code == 0
    assert out.startswith("option   --rate 40 req/s instead of 20 req/s in ")
    assert f"option   --ttft 200ms instead of 1 s in {file}" in out
    assert "target   p90 TTFT <= 200 ms\n" in out
    assert "traffic  Poisson arrivals at 40 req/s" in out
    code, out, _ = run("plan", str(file), "--ttft", "200ms", "--json")
    found = json.loads(out)
    assert found["slo"]["ttft_s"] == 0.2
    assert f"--ttft 200ms instead of 1 s in {file}" in found["assumptions"]
    code, out, _ = run(
        "plan",
        str(file),
        "--engine",
        A100[1],
        "--policy",
        "vllm",
        "--policy",
        "sarathi",
        "--max-seqs",
        "64",
        "--tpot",
        "50ms",
        "--quantile",
        "0.8",
        "--json",
    )
    found = json.loads(out)
    assert [one["policy"] for one in found["candidates"]] == ["vllm", "sarathi"]
    assert {one["engine"] for one in found["candidates"]} == {A100[1]}
    assert found["slo"]["text"] == "p80 TTFT <= 1 s and p80 TPOT <= 50 ms"


def test_d_simulate_takes_a_file(run, file):
    code, out, _ = run("simulate", str(file), "--json")
    found = json.loads(out)
    assert (code, found["engines"], found["policy"]) == (0, 2, "sarathi")
    assert found["requests"]["arrived"] == 1200
    assert found["attainment"]["n"] > 0
    words = [*FEW, "--prompt", "400", "--output", "60", "--rate", "20", "--seed", "5"]
    words += [*H100, "--engines", "2", "--policy", "sarathi", "--ttft", "1s", "--quantile", "0.9"]
    same = json.loads(run("simulate", *words, "--json")[1])
    assert same["ttft"] == found["ttft"]
    code, out, _ = run("simulate", str(file), "--engines", "1", "--rate", "5", "--policy", "vllm")
    assert out.startswith("option --rate 5 req/s instead of 20 req/s")
    assert "option --policy vllm instead of what the candidates" in out
    file.write_text(CONFIG + '\n[[candidates]]\nengine = "llama-3.1-8b/a100"\n')
    code, _, err = run("simulate", str(file))
    assert code == 2
    assert "has 2 candidates: name one with --candidate N: 1 (llama-3.1-8b/h100 with" in err
    assert run("simulate", str(file), "--candidate", "2")[0] == 0
