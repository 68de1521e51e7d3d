"""Bad input through the command line: exit code, message, and nothing left behind."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmq.cli import main
from llmq.io.traces import read_trace

HEAD = "arrival,prompt,output\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
STAMP = "2023-11-16 18:15:46.6805900"
CHIP = """\
[engine]
name = "chip"
token_budget = 512
max_seqs = 64
kv_tokens = 4096
kv_block = 16
"""
CONFIG = """\
[traffic]
rate = "5/s"

[classes.chat]
prompt = 100
output = 10

[slo]
ttft = "2s"

[[candidates]]
engine = "llama-3.1-8b/h100"
"""
JSON = """\
{"traffic": {"rate": "5/s"}, "slo": {"ttft": "2s"},
 "candidates": [{"engine": "llama-3.1-8b/h100"}],
 "classes": {"chat": {"prompt": 9, "output": 9}, "chat": {"prompt": 8, "output": 8}}}
"""
STEPS = "tokens,kv,seconds\n"

FILES: dict[str, str | bytes] = {
    "empty.csv": "",
    "column.csv": "arrival,promt,output\n0,9,9\n",
    "type.csv": AZURE + f"{STAMP},9,9\n{STAMP},abc,9\n",
    "negative.csv": HEAD + "0,9,9\n1,-5,9\n",
    "nan.csv": HEAD + "0,9,9\n1,9,nan\n",
    "zero.csv": HEAD + "0,9,0\n",
    "cut.csv.gz": gzip.compress((HEAD + "0,9,9\n" * 500).encode(), mtime=0)[:-9],
    "huge.csv": HEAD + "0,9,9\n1,900000,9\n",
    "burst.csv": HEAD + "0,9,9\n" * 500,
    "short.csv": HEAD + "0,9,9\n1,9,9\n",
    "fine.csv": HEAD + "0,9,9\n1,9,9\n",
    "key.toml": CONFIG.replace("ttft", "ttff"),
    "table.toml": CONFIG.replace("[slo]", "[slos]"),
    "type.toml": CONFIG.replace("prompt = 100", 'prompt = "long"'),
    "unit.toml": CONFIG.replace('"2s"', '"2"'),
    "twice.toml": CONFIG + "[classes.chat]\nprompt = 9\noutput = 9\n",
    "twice.json": JSON,
    "engine.toml": CONFIG.replace("/h100", "/h10"),
    "policy.toml": CONFIG + 'policy = "sarthi"\n',
    "huge.toml": CONFIG.replace("prompt = 100", "prompt = 900000"),
    "fine.toml": CONFIG,
    "few.csv": STEPS + "8,0,0.01\n16,0,0.011\n",
    "one.csv": STEPS + "8,0,0.01\n8,64,0.011\n8,128,0.012\n8,256,0.013\n8,9,0.01\n",
}

GOALS = ["--ttft", "500ms", "--tpot", "50ms"]
H100 = ["--engine", "llama-3.1-8b/h100"]
CONV = ["--workload", "azure-conv"]
PLAN = ["plan", *H100, *GOALS]
WHOLE = "expected a whole number of tokens >= 1, found"

BAD = {
    "empty trace": ([*PLAN, "--trace", "empty.csv"], "empty.csv: the file is empty"),
    "missing column": (
        [*PLAN, "--trace", "column.csv"],
        "column.csv line 1, column prompt: the column is missing; did you mean 'promt'?",
    ),
    "wrong type": (
        [*PLAN, "--trace", "type.csv"],
        f"type.csv line 3, column ContextTokens: {WHOLE} 'abc'; correct or remove the row",
    ),
    "negative length": (
        [*PLAN, "--trace", "negative.csv"],
        f"negative.csv line 3, column prompt: {WHOLE} '-5'; correct or remove the row",
    ),
    "NaN length": (
        ["region", *H100, "--trace", "nan.csv"],
        f"nan.csv line 3, column output: {WHOLE} 'nan'; correct or remove the row",
    ),
    "zero output": (
        ["simulate", *H100, "--trace", "zero.csv"],
        "zero.csv line 2: 1 of 1 requests have no output tokens (the first here): they failed",
    ),
    "truncated gzip": (
        ["convert", "cut.csv.gz", "new.csv"],
        "cut.csv.gz: the gzip data end too early (truncated): fetch or compress the file again",
    ),
    "no such trace": (
        [*PLAN, "--trace", "fin.csv"],
        "no such file: fin.csv; did you mean 'fine.csv'?",
    ),
    "one time for all": ([*PLAN, "--trace", "burst.csv"], "all requests come at one time, so"),
    "one time, region": (["region", *H100, "--trace", "burst.csv"], "all requests come at one"),
    "too short to tell": (
        [*PLAN, "--trace", "short.csv"],
        "2 measured requests, all within the targets, show with 95 % confidence no share above "
        "0.3424; 0.99 needs at least 381: use a longer trace",
    ),
    "unknown format": (
        [*PLAN, "--trace", "fine.toml"],
        "fine.toml line 1: this is a configuration: `llmq plan FILE` reads it",
    ),
    "larger than the memory": (
        [*PLAN, "--trace", "huge.csv"],
        "class 'all' does not fit: a request holds up to 900,008 KV tokens (56251 blocks of 16), "
        "the engine has 426,784 (26674 blocks); raise kv_tokens",
    ),
    "larger, region": (["region", *H100, "--trace", "huge.csv"], "a request holds up to 900,008"),
    "larger, simulate": (
        ["simulate", *H100, "--trace", "huge.csv"],
        "a request of 900009 tokens needs 56251 KV blocks, more than the 26674 that",
    ),
    "larger, config": (["plan", "huge.toml"], "class 'chat' does not fit: a request holds up to"),
    "unknown key": (["plan", "key.toml"], "key.toml: [slo] has no key 'ttff'; did you mean 'ttft'"),
    "unknown table": (["plan", "table.toml"], "table.toml has no key 'slos'; did you mean 'slo'?"),
    "wrong type of key": (["plan", "type.toml"], "type.toml: [classes.chat] needs prompt = "),
    "unit in config": (
        ["plan", "unit.toml"],
        "unit.toml: [slo] ttft: duration '2' has no unit: write a number",
    ),
    "class twice": (
        ["plan", "twice.toml"],
        "twice.toml line 13: not TOML: Cannot declare ('classes', 'chat') twice",
    ),
    "class twice, json": (
        ["plan", "twice.json"],
        "twice.json, column chat: the key is given twice; keep one",
    ),
    "engine in config": (
        ["plan", "engine.toml"],
        "engine.toml: [candidates 1]: no engine 'llama-3.1-8b/h10' in the catalogue; did you mean "
        "'llama-3.1-8b/h100'?",
    ),
    "policy in config": (
        ["plan", "policy.toml"],
        "policy.toml: [candidates 1]: unknown policy 'sarthi'; did you mean 'sarathi'?",
    ),
    "no config": (["plan", "fin.toml"], "no such file: fin.toml; did you mean 'fine.toml'?"),
    "too few points": (
        ["calibrate", "few.csv", "--out", "new.toml"],
        "few.csv: only 2 different token counts (8, 16): a law needs at least 4",
    ),
    "one token count": (
        ["calibrate", "one.csv", "--out", "new.toml"],
        "one.csv: only 1 different token counts (8): a law needs at least 4",
    ),
    "no folder for the report": (
        ["plan", "fine.toml", "--report", "none/new.html"],
        "cannot write none/new.html: there is no folder none",
    ),
    "report is a folder": (["plan", "fine.toml", "--report", "."], "cannot write .: it is a fold"),
    "no folder for the engine": (
        ["calibrate", "good.csv", "--out", "none/new.toml"],
        "none/new.toml: there is no folder none",
    ),
    "no folder for the trace": (
        ["convert", "fine.csv", "none/new.csv"],
        "cannot write none/new.csv: there is no folder none",
    ),
    "unknown engine": (
        ["plan", *CONV, *GOALS, "--engine", "llama-3.1-8b/h10"],
        "no engine 'llama-3.1-8b/h10' in the catalogue; did you mean 'llama-3.1-8b/h100'?",
    ),
    "unknown tp": (
        ["region", *CONV, *H100, "--tp", "3"],
        "llama-3.1-8b/h100 is known with tp 1, 2, 4, 8, not with tp=3",
    ),
    "unknown policy": (
        [*PLAN, *CONV, "--policy", "sarthi"],
        "unknown policy 'sarthi'; did you mean 'sarathi'?",
    ),
    "unknown policy field": (
        [*PLAN, *CONV, "--policy", "sarathi:tokenbudget=512"],
        "policy sarathi: no field 'tokenbudget'; did you mean 'token_budget'?",
    ),
    "bad policy value": (
        [*PLAN, *CONV, "--policy", "sarathi:token_budget=many"],
        "policy sarathi: token_budget must be a whole number >= 0, got 'many'",
    ),
    "unknown workload": (
        [*PLAN, "--workload", "azure-con"],
        "unknown workload 'azure-con'; did you mean 'azure-conv'?",
    ),
    "no unit": (
        ["plan", *H100, *CONV, "--ttft", "500"],
        "duration '500' has no unit: write a number and one of us, ms, s, min, h, e.g. 500ms",
    ),
    "bad rate": ([*PLAN, *CONV, "--rate", "0"], "rate '0' is not a positive number of requests"),
    "unknown option": (
        ["plan", *H100, *CONV, "--tfft", "500ms"],
        "unknown option '--tfft'; did you mean '--ttft'?",
    ),
    "unknown command": (["plam"], "argument COMMAND: 'plam' is not known; did you mean 'plan'?"),
    "unknown choice": (
        ["convert", "fine.csv", "new.csv", "--to", "azur"],
        "argument --to: 'azur' is not known; did you mean 'azure'?",
    ),
    "not a count": (
        [*PLAN, *CONV, "--requests", "0"],
        "argument --requests: expected a whole number >= 1, found '0'",
    ),
    "not a whole number": (
        [*PLAN, *CONV, "--max-gpus", "1.5"],
        "argument --max-gpus: expected a whole number >= 1, found '1.5'",
    ),
    "bad quantile": (
        [*PLAN, *CONV, "--quantile", "99"],
        "quantile must lie between 0 and 1 (0.99 for p99), got 99.0",
    ),
    "bad attainment": (
        [*PLAN, *CONV, "--attainment", "1"],
        "attainment must lie between 0 and 1, got 1.0",
    ),
    "a format beside a file": (
        ["plan", "fine.toml", "--jitter", "uniform"],
        "--jitter belongs to --trace: fine.toml says it with jitter = under [traffic]",
    ),
    "a head of what is drawn": (
        ["plan", "fine.toml", "--head", "9"],
        "--head shortens a trace, but fine.toml draws its",
    ),
    "half a length": (
        ["plan", "fine.toml", "--output", "9"],
        "--prompt, --output and --rate belong together",
    ),
    "twice the same": (
        ["plan", *CONV, *H100, "--rate", "5", "--rate", "6"],
        "--rate is given twice, the second time with '6': only one can be used, give it once",
    ),
    "no such candidate": (
        ["simulate", "fine.toml", "--candidate", "7"],
        "fine.toml has no candidate 7; known: 1 (",
    ),
    "a candidate of no file": (
        ["simulate", *CONV, *H100, "--candidate", "1"],
        "--candidate picks one of a configuration",
    ),
    "no traffic": (
        PLAN,
        "say who arrives with exactly one of --trace FILE, --workload NAME, or --prompt",
    ),
    "two traffics": (
        ["region", *H100, *CONV, "--trace", "fine.csv"],
        "say who arrives with exactly one of --trace FILE, --workload NAME, or --prompt",
    ),
    "no rate": (
        ["region", *H100, "--prompt", "9", "--output", "9"],
        "--prompt, --output and --rate belong together",
    ),
    "no engine": (["region", *CONV], "say what serves with --engine NAME; `llmq engines` lists"),
    "no target": (
        ["plan", *H100, *CONV],
        "say what is good enough: --ttft 500ms, --tpot 50ms or --e2e 10s",
    ),
    "prompt beyond the budget": (
        [*PLAN, *CONV, "--policy", "vllm:version=v0,token_budget=512"],
        "policy vllm does not split prompts: 7597 tokens exceed its token_budget 512; use "
        "vllm:token_budget=7597,version=v0 or a policy with chunked prefill",
    ),
}

# Valid questions whose answer is no, with what the answer must say.
NEGATIVE = {
    "SLO below one iteration": (
        ["plan", *H100, *CONV, "--ttft", "500ms", "--tpot", "1ms", "--quantile", "0.99"],
        ["INFEASIBLE", "no number of GPUs meets TPOT <= 1 ms", "Nearest feasible: tpot = 6.2"],
    ),
    "outside the region": (
        ["region", *H100, *CONV, "--rate", "100"],
        ["UNSTABLE: no scheduler carries this load", "margin   0.268"],
    ),
    "overloaded": (
        ["simulate", *H100, *CONV, "--rate", "100", "--requests", "100"],
        ["OVERLOADED: load 3.7", "no stationary mean exists: no latency is printed"],
    ),
    "too many GPUs": (
        [*PLAN, *CONV, "--rate", "100", "--max-gpus", "2"],
        ["INFEASIBLE", "the lower bound of 4 GPUs exceeds the limit of 2"],
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [f"{n},0,{0.01 + 1e-5 * n}" for n in range(8, 1024, 8)]
    for name, content in {**FILES, "good.csv": STEPS + "\n".join(rows) + "\n"}.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {*FILES, "good.csv"}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, folder, capsys):
    words, message = BAD[case]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("llmq: error: ")
    assert message in last
    assert "Traceback" not in err
    assert left(folder) == set()


@pytest.mark.parametrize("case", NEGATIVE)
def test_negative_answers(case, folder, capsys):
    words, expected = NEGATIVE[case]
    assert main(words) == 3
    out, err = capsys.readouterr()
    for part in expected:
        assert part in out
    assert err == ""
    assert left(folder) == set()


def test_the_process_says_the_same(folder):
    for words, code in ((BAD["no unit"][0], 2), (NEGATIVE["outside the region"][0], 3)):
        done = subprocess.run(
            [sys.executable, "-m", "llmq", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert bool(done.stdout) == (code == 3)
        assert bool(done.stderr) == (code == 2)


def test_an_unwritable_report_is_refused_before_the_work(folder, capsys, monkeypatch):
    def work(*args, **options):
        raise AssertionError("the search must not start")

    monkeypatch.setattr("llmq.planning.capacity.plan_capacity", work)
    assert main(["plan", "fine.toml", "--report", "none/new.html"]) == 2
    assert "there is no folder none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "fine.csv", "new.csv"],
        ["calibrate", "good.csv", "--out", "new.toml"],
        ["plan", "fine.toml", "--report", "new.html"],
    ],
)
def test_a_full_disk_leaves_nothing(words, folder, capsys, monkeypatch):
    def full(self: Path, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert main(words) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err == f"llmq: error: cannot write {words[-1]}: No space left on device"
    assert left(folder) == set()


def rows(n: int) -> list[str]:
    return [f"{0.5 * i},64,8" for i in range(n)]


def test_unsorted_times_are_sorted_with_a_note(folder, capsys):
    table = rows(400)
    table[7], table[8] = table[8], table[7]
    (folder / "t.csv").write_text(HEAD + "\n".join(table) + "\n")
    assert main([*PLAN, "--trace", "t.csv"]) == 0
    out, err = capsys.readouterr()
    assert "ANSWER   1 GPU" in out
    said = (
        "llmq: note: t.csv: 1 of 400 requests were out of time order (the first on line 10): "
        "sorted by arrival\n"
    )
    assert err.count(said) == 1
    assert err.count("out of time order") == 1


def test_equal_times_are_kept_with_a_note(folder, capsys):
    table = rows(400)
    table[8] = table[7]
    (folder / "t.csv").write_text(HEAD + "\n".join(table) + "\n")
    assert main([*PLAN, "--trace", "t.csv"]) == 0
    err = capsys.readouterr().err
    said = (
        "llmq: note: t.csv, column arrival: 400 requests have only 399 distinct times, which acts "
        "like bursts; --jitter uniform spreads equal times until the next one\n"
    )
    assert err.count(said) == 1
    assert err.count("distinct times") == 1
    assert main([*PLAN, "--trace", "t.csv", "--jitter", "uniform"]) == 0
    assert "equal times spread uniformly until the next (seed 0)" in capsys.readouterr().err


def test_seven_digits_are_read_exactly(folder, capsys):
    stamps = ["18:15:46.6805900", "18:15:46.6805901", "18:15:50.9951690"]
    text = AZURE + "".join(f"2023-11-16 {stamp},9,9\n" for stamp in stamps)
    (folder / "t.csv").write_text(text)
    assert main(["convert", "t.csv", "new.csv"]) == 0
    assert "wrote new.csv: 3 requests" in capsys.readouterr().err
    assert np.array_equal(read_trace("new.csv").arrival, [0.0, 1e-7, 4.314579])
