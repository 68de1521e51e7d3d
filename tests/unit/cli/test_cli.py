"""The command line: answers as text and JSON, exit codes, files, and the same bytes twice."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import llmq
from llmq.cli import main
from llmq.errors import InvariantError
from llmq.io.traces import read_trace

COMMANDS = ("plan", "region", "simulate", "calibrate", "convert", "engines", "workloads")
EXAMPLE = Path(__file__).parents[3] / "examples" / "chat.toml"
H100 = ["--engine", "llama-3.1-8b/h100"]
CONV = ["--workload", "azure-conv"]
FEW = ["--requests", "200", "--replications", "4"]
PLAN = [
    "plan",
    *CONV,
    *H100,
    "--ttft",
    "500ms",
    "--tpot",
    "50ms",
    "--quantile",
    "0.9",
    *FEW,
    "--rate",
    "60",
]
CONFIG = """\
[traffic]
rate = "30/s"

[classes.chat]
prompt = 500
output = 100
weight = 3

[classes.code]
prompt = 2000
output = 50

[slo]
ttft = "1s"
quantile = 0.9

[[candidates]]
engine = "llama-3.1-8b/h100"
token_budget = 256

[[candidates]]
engine = "llama-3.1-8b/a100"
policy = "vllm"
max_gpus = 1

[simulation]
requests = 200
replications = 3
seed = 5
"""


@pytest.fixture
def run(capsys):
    """Run a command; returns exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(CONFIG)
    steps = [f"{n},0,{0.01 + 1e-5 * n!r}" for n in range(8, 1024, 8)]
    (tmp_path / "steps.csv").write_text("\n".join(["tokens,kv,seconds", *steps]) + "\n")
    rows = [f"{0.25 * i},{64 + i % 7},{8 + i % 5}" for i in range(400)]
    (tmp_path / "trace.csv").write_text("\n".join(["arrival,prompt,output", *rows]) + "\n")
    (tmp_path / "lengths.csv").write_text(
        "num_prefill_tokens,num_decode_tokens\n" + "9,4\n8,3\n" * 20
    )
    return tmp_path


# --- plan ----------------------------------------------------------------------------------------


def test_plan_says_the_answer_first_and_then_why(run):
    code, out, err = run(*PLAN)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1] == "target   p90 TTFT <= 500 ms and p90 TPOT <= 50 ms"
    assert re.match(r"ANSWER   \d GPUs: \d x llama-3.1-8b/h100 with vllm$", lines[3])
    for part in (
        r"lower bound 3 at these settings: with fewer no policy is stable; 3 of the h",
        r"load 0\.\d\d; all rates may grow by \d+ % before no policy is stable at the",
        # Which of them depends on how few requests are simulated; each has a test of its own.
        r"(the lower bound|stability|latency|confidence) decides: ",
        r"TTFT  p50 [\d.]+ m?s ± [\d.]+ [mu]?s, p90 .*, p99 ",
        r"TPOT  p50 ",
        r"GPU time a request costs: chat [\d.]+ ms",
        r"candidate +bound +hardware +GPUs +load +attainment",
        r"\d\d\.\d\d % \[\d\d\.\d\d, \d+\.\d\d\], n = \d+",
        r"assumptions: .*more engines do no harm",
    ):
        assert re.search(part, out), part


def test_plan_json(run):
    code, out, err = run(
        *PLAN, "--json", "--engine", "llama-3.1-8b/a100", "--policy", "sarathi", "--policy", "vllm"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["verdict"] == "feasible"
    shown = [(one["engine"], one["policy"]) for one in found["candidates"]]
    engines = ("llama-3.1-8b/h100", "llama-3.1-8b/a100")
    assert shown == [(e, p) for e in engines for p in ("sarathi", "vllm")]
    assert found["chosen"] in found["candidates"]
    assert found["chosen"]["gpus"] == min(
        one["gpus"] for one in found["candidates"] if one["feasible"]
    )
    for one in found["candidates"]:
        assert {"load", "binding", "prices", "reason"} <= set(one)
        assert set(one["binding"]) == {"resource", "sentence"}
        assert all(price > 0 for price in one["prices"].values())
        if one["feasible"]:
            assert one["gpus_lower_bound"] <= one["gpus"]
            assert set(one["attainment"]) >= {"value", "low", "high", "n"}
            assert one["attainment"]["low"] >= found["target"] == 0.9
            for name in ("ttft", "tpot"):
                values = [one[name][q]["value"] for q in ("p50", "p90", "p99")]
                assert values == sorted(values)
                for q in ("p50", "p90", "p99"):
                    at = one[name][q]
                    assert at["n"] == 4
                    if q == "p99" and at["low"] is at["high"] is None:
                        assert "an interval takes about" in at["method"]
                        continue
                    assert at["low"] <= at["value"] <= at["high"]
    assert found["assumptions"]
    assert found["provenance"]["version"] == llmq.__version__
    assert found["provenance"]["entropy"] == "0"


def test_plan_of_a_file(run, folder):
    code, out, err = run("plan", "plan.toml", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["rates"] == {"chat": 22.5, "code": 7.5}
    assert found["provenance"]["entropy"] == "5"
    first, second = found["candidates"]
    assert first["feasible"]
    assert first["region"]["facets"]
    assert not second["feasible"]  # one A100 is not enough, and the limit is its own
    assert re.search("exceeds the limit of 1|^1 GPUs do not meet", second["reason"])
    # 3 x 200 requests do not decide; the paths grow until they do.
    assert 600 < first["attainment"]["n"] <= 16 * 600
    # Options say how much to simulate; 0 is a seed as well.
    code, out, err = run("plan", "plan.toml", "--json", "--seed", "0", "--requests", "100")
    assert json.loads(out)["provenance"]["entropy"] == "0"
    assert json.loads(out)["candidates"][0]["attainment"]["n"] < first["attainment"]["n"]
    code, out, err = run("plan", "plan.toml", "--max-gpus", "1")
    assert code == 3
    assert out.count("1): ") + out.count("):") == 2


def test_plan_of_a_trace(run, folder):
    options = ["--trace", "trace.csv", *H100, "--ttft", "500ms", "--json"]
    code, out, err = run("plan", *options, "--head", "390", "--rate", "8")
    found = json.loads(out)
    assert code == 0
    assert found["rates"] == {"all": pytest.approx(8)}
    assert found["chosen"]["attainment"]["n"] == 390
    assert "note: trace.csv: read as native trace (format recognised)" in err


def test_plan_infeasible(run):
    words = ["plan", *CONV, *H100, "--ttft", "1ms", *FEW]
    code, out, err = run(*words)
    assert (code, err) == (3, "")
    bounds = "(lower bound 1 at these settings, 1 at any)"
    assert f"INFEASIBLE\n  llama-3.1-8b/h100 with vllm {bounds}:\n" in out
    assert "\n    no number of GPUs meets TTFT <= 1 ms" in out
    code, out, _ = run(*words, "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["chosen"]) == (3, "infeasible", None)
    assert "Nearest feasible: ttft = " in found["candidates"][0]["reason"]
    assert found["candidates"][0]["gpus"] is None


def test_plan_writes_a_report(run, folder):
    _, plain, _ = run("plan", "plan.toml")
    code, out, err = run("plan", "plan.toml", "--report", "new.html")
    assert (code, out) == (0, plain)
    assert err == "llmq: report written to new.html\n"
    page = (folder / "new.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "llama-3.1-8b/h100" in page
    again = run("plan", "plan.toml", "--report", "again.html")
    assert again[0] == 0
    assert (folder / "again.html").read_text() == page
    code, out, err = run("plan", *CONV, *H100, "--ttft", "1ms", *FEW, "--report", "no.html")
    assert (code, err) == (3, "llmq: report written to no.html\n")
    assert "INFEASIBLE" in (folder / "no.html").read_text().upper()


def test_the_example_is_planned(run):
    code, out, err = run("plan", str(EXAMPLE))
    assert (code, err) == (0, "")
    assert re.search(r"ANSWER   \d+ GPUs: \d+ x llama-3.1-8b/h100 with", out)
    assert tomllib.loads(EXAMPLE.read_text())["slo"]["ttft"] == "500ms"


# --- the other commands --------------------------------------------------------------------------


def test_region(run):
    """A9: what is stable is said to be so under whom."""
    code, out, err = run("region", *CONV, *H100, "--rate", "20", "--engines", "2")
    assert (code, err) == (0, "")
    # A9: the lengths vary, the memory is limited: the schedule behind the word knows them.
    assert out.startswith("STABLE: this load is carried by a paced schedule that knows the output ")
    assert "; a policy that does not know them may carry less\n" in out
    code, text, _ = run("region", *CONV, *H100, "--rate", "20", "--engines", "2", "--json")
    found = json.loads(text)
    assert "knows the output length of each request" in found["carried_by"]
    assert (code, found["verdict"], found["engines"]) == (0, "stable", 2)
    assert found["load"] * found["margin"] == pytest.approx(1)
    assert found["boundary"]["chat"] == pytest.approx(20 * found["margin"])
    assert found["prices"]["chat"] == pytest.approx(2 * found["load"] / 20)  # engine-seconds
    one = json.loads(run("region", *CONV, *H100, "--rate", "10", "--json")[1])
    assert found["prices"]["chat"] == pytest.approx(one["prices"]["chat"])
    assert f"margin   {found['margin']:.4g}" in out
    assert f"load     {found['load']:.4g} of the outer bound" in out
    budget = ["--policy", "sarathi:token_budget=128"]
    small = json.loads(run("region", *CONV, *H100, "--rate", "20", *budget, "--json")[1])
    option = ["--token-budget", "128"]
    assert json.loads(run("region", *CONV, *H100, "--rate", "20", *option, "--json")[1]) == small
    assert small["load"] > 2 * found["load"]
    code, text, _ = run("region", *CONV, *H100, "--rate", "200", "--json")
    assert (code, json.loads(text)["verdict"]) == (3, "unstable")


def test_simulate(run, folder):
    plain = ["simulate", *CONV, *H100, "--ttft", "500ms", "--dialect", "vllm"]
    words = [*plain, "--requests", "1000"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert re.match(r"STABLE: load 0\.2\d* < 1 and the backlog changes by", out)
    assert re.search(r"TTFT +mean [\d.]+ ms ± .*p50 .*p90 .*p99", out)
    assert re.search(r"\d+\.\d\d % \[.*\] of \d+ requests meet TTFT <= 500 ms", out)
    assert "vllm: " in out
    assert "8000 requests, all completed" in out
    code, text, _ = run(*words, "--json")
    found = json.loads(text)
    assert (code, found["verdict"], found["kind"]) == (0, "stable", "simulated")
    counts = found["requests"]
    assert counts["arrived"] == 8000 == sum(counts.values()) - counts["arrived"]
    assert found["goodput"]["value"] <= 6
    assert found["provenance"]["entropy"] == "0"
    words = [*plain, "--requests", "40", "--replications", "2", "--json"]
    fast, slow = (
        json.loads(run(*words, "--simulator", name)[1]) for name in ("calendar", "reference")
    )
    for name in ("ttft", "tpot", "e2e"):
        assert slow[name]["p99"]["value"] == pytest.approx(fast[name]["p99"]["value"], rel=1e-9)
    code, text, err = run("simulate", "--trace", "trace.csv", *H100, "--json")
    assert (code, json.loads(text)["requests"]["arrived"]) == (0, 400)


def test_an_overloaded_trace_has_facts_and_says_so(run, folder):
    words = ["simulate", "--trace", "trace.csv", *H100, "--rate", "5000"]
    code, out, _ = run(*words)
    assert code == 3
    assert "the figures below are facts of this trace; a longer one would be worse\nTTFT" in out
    code, out, _ = run("simulate", *CONV, *H100, "--rate", "500", *FEW, "--json")
    assert code == 3
    assert not {"ttft", "tpot", "e2e"} & set(json.loads(out))


def test_calibrate_and_use_the_engine(run, folder):
    code, out, err = run("calibrate", "steps.csv", "--form", "affine", "--out", "chip.toml")
    beyond = "llmq: warning: a full engine extrapolates: 2,048 tokens, fitted up to 1,016\n"
    assert (code, err) == (0, f"llmq: wrote chip.toml\n{beyond}")
    assert "affine" in out
    budget = 512
    words = ["--prompt", "100", "--output", "1", "--rate", "3", "--token-budget", str(budget)]
    code, out, _ = run("region", "--engine", "chip.toml", *words, "--json")
    price = (0.01 + 1e-5 * budget) / budget * 100
    assert code == 0
    assert json.loads(out)["prices"]["requests"] == pytest.approx(price, rel=1e-6)
    code, out, err = run("calibrate", "steps.csv", "--form", "affine", "--json")
    found = json.loads(out)
    assert (code, err, found["kind"]) == (0, "", "fitted")
    assert found["law"]["base"] == pytest.approx(0.01)
    assert "residuals" not in found
    code, _, err = run("calibrate", "steps.csv", "--assume", "head")
    assert (code, err) == (2, "llmq: error: --assume 'head': write PART=TIME, e.g. lm_head=0.4ms\n")


def test_convert_there_and_back(run, folder):
    places = ["trace.csv", "a.jsonl.gz", "b.csv.gz", "c.csv", "d.csv"]
    kinds = ["mooncake", "azure", "vidur", "native"]
    for source, target, kind in zip(places, places[1:], kinds, strict=False):
        code, out, err = run("convert", source, target, "--to", kind)
        assert (code, out) == (0, "")
        assert err.endswith(f"llmq: wrote {target}: 400 requests\n")
    first, last = read_trace(places[0]), read_trace(places[-1])
    assert np.array_equal(first.arrival, last.arrival)
    assert np.array_equal(first.prompt, last.prompt)
    assert np.array_equal(first.output, last.output)


def test_convert_draws_arrivals(run, folder):
    words = ["convert", "lengths.csv", "new.csv", "--rate", "5"]
    code, _, err = run(*words)
    assert code == 2
    assert "no arrival times (no column arrived_at): draw them with --rate 6 --cv 1" in err
    code, _, err = run("convert", "trace.csv", "new.csv", "--rate", "5", "--cv", "1")
    assert code == 2
    assert "has arrival times (arrival): leave --cv out; --rate alone scales the trace" in err
    assert not (folder / "new.csv").exists()
    assert run(*words, "--cv", "1", "--seed", "3")[0] == 0
    one = (folder / "new.csv").read_bytes()
    assert run(*words, "--cv", "1", "--seed", "3")[0] == 0
    assert (folder / "new.csv").read_bytes() == one
    assert run(*words, "--cv", "1", "--seed", "4")[0] == 0
    assert (folder / "new.csv").read_bytes() != one


def test_lists(run):
    code, out, err = run("engines")
    assert (code, err) == (0, "")
    names = [entry["name"] for entry in json.loads(run("engines", "--json")[1])]
    assert "llama-3.1-8b/h100" in names
    assert [line.split(" ")[0] for line in out.splitlines()] == names
    code, out, err = run("workloads")
    assert (code, err) == (0, "")
    names = [entry["name"] for entry in json.loads(run("workloads", "--json")[1])]
    assert "azure-conv" in names
    assert [line.split(" ")[0] for line in out.splitlines()] == names


# --- the frame -----------------------------------------------------------------------------------


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_the_same_bytes_twice(run, folder, json_too):
    for words in (
        ["plan", "plan.toml"],
        ["region", *CONV, *H100],
        ["simulate", *CONV, *H100, *FEW],
        ["calibrate", "steps.csv"],
        ["engines"],
        ["workloads"],
    ):
        assert run(*words, *json_too)[1] == run(*words, *json_too)[1]


def test_workers_do_not_change_a_byte(run, folder):
    for words in (["plan", "plan.toml", "--json"], ["simulate", *CONV, *H100, *FEW]):
        assert run(*words)[1] == run(*words, "--workers", "2")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: llmq {command} [-h]")
    assert "exit codes: 0 ok, 1 internal error, 2 bad input, 3 valid negative answer" in out
    assert all(words.strip() for words in re.findall(r"\n  --?[a-z][\w-]*.*?  (.*)", out))


def test_help_loads_nothing_heavy():
    heavy = "{'scipy', 'matplotlib', 'sympy', 'cvxpy', 'numpy'}"
    code = f"import sys, llmq.cli; llmq.cli.main(['--help']); print(set(sys.modules) & {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    out = done.stdout
    assert all(f"\n    {command}" in out for command in COMMANDS)
    assert out.endswith("set()\n")
    assert "import llmq" not in out  # the first line of the module, not its notes


def test_version(run):
    assert run("--version") == (0, f"llmq {llmq.__version__}\n", "")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("words", [PLAN, ["simulate", *CONV, *H100, *FEW]])
def test_progress_is_shown_on_a_terminal_only(run, monkeypatch, words):
    _, plain, err = run(*words)
    assert err == ""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert run(*words)[1] == plain
    assert screen.getvalue().count("\r\x1b[2K") > 1
    assert screen.getvalue().endswith("\r\x1b[2K")  # wiped away
    quiet = Screen()
    monkeypatch.setattr(sys, "stderr", quiet)
    assert run(*words, "-q")[1] == plain
    assert quiet.getvalue() == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(KeyboardInterrupt(), 130, "interrupted"), (InvariantError("lost a request"), 1, "lost a")],
)
def test_the_end_of_a_run_that_fails(run, folder, monkeypatch, error, code, said):
    def work(*args, **options):
        raise error

    monkeypatch.setattr("llmq.planning.capacity.plan_capacity", work)
    before = set(folder.iterdir())
    found, out, err = run("plan", "plan.toml", "--report", "new.html")
    assert (found, out) == (code, "")
    assert err.startswith(f"llmq: error: {said}")
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("more", [[], ["--json"]])  # less and more than a buffer
def test_a_reader_that_goes_away_is_no_error(more):
    words = [sys.executable, "-m", "llmq", "engines", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(words, **pipes, env=env) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


def test_prefix_cache(run, folder):
    ids = [[1, 2], [1, 2], [3, 2], [1, 2, 4]]
    lines = [
        {
            "timestamp": 10_000 * i,
            "input_length": 512 * len(names),
            "output_length": 4,
            "hash_ids": names,
        }
        for i, names in enumerate(ids)
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["simulate", "--trace", "m.jsonl", *H100, "-q"]
    code, out, _ = run(*words, "--prefix-cache")
    assert code == 0
    # The second finds all but its last block of 16, the fourth both of the first's: 1008 + 1024.
    assert f"{100 * 2032 / (512 * 9):.1f} % of the prompt tokens found in the cache" in out
    assert "found in the cache" not in run(*words)[1]
    assert json.loads(run(*words, "--json")[1])["hit_rate"] is None
    code, _, err = run("plan", "--trace", "m.jsonl", *H100, "--prefix-cache", "--ttft", "1s")
    assert (code, "--prefix-cache" in err) == (2, True)


def test_the_readme_shows_the_plan_of_today(run):
    root = Path(__file__).parents[3]
    code, out, _ = run("plan", str(root / "examples" / "chat.toml"), "-q")
    assert code == 0
    shown = (root / "README.md").read_text(encoding="utf-8").split("```console\n", 1)[1]
    shown = shown.split("\n", 1)[1].split("\n\n$ make test", 1)[0]
    assert out.startswith(shown)
