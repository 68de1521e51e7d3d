"""Configuration files: what they build, and how each mistake is named."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from llmq.errors import FormatError, InputError
from llmq.io.config import CandidateConfig, SimulationConfig, read_config
from llmq.io.traces import write_trace
from llmq.model.arrivals import Deterministic, Poisson, Renewal
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.model.workload import Workload

GOOD = """
[traffic]
rate = "90/min"
arrivals = "renewal"
cv = 2

[classes.chat]
prompt = { mean = 500, sigma = 0.9, low = 4, high = 2048 }
output = { quantiles = [[0, 1], [0.5, 10], [1, 100]] }
weight = 3

[classes.code]
prompt = { uniform = [10, 20] }
output = 256

[slo]
ttft = "500ms"
tpot = "50 ms"
e2e = "1min"
quantile = 0.99

[[candidates]]
engine = "llama-3.1-8b/h100"
tp = 2
policy = "sarathi:token_budget=512"
token_budget = 1024
max_seqs = 64
max_gpus = 1000

[[candidates]]
name = "mine"
kv_tokens = 32000
[candidates.law]
form = "affine"
base = "12ms"
per_token = "24us"

[simulation]
requests = 50
seed = 7
"""


def put(folder: Path, text: str, name: str = "plan.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_everything_is_built(tmp_path):
    plan = read_config(put(tmp_path, GOOD))
    work = plan.traffic
    assert isinstance(work, Workload)
    assert work.arrivals == Renewal(1.5, cv=2.0)
    assert work.weights == {"chat": 0.75, "code": 0.25}
    chat, code = work.mix["chat"], work.mix["code"]
    assert chat.prompt == Lengths.lognormal(mean=500, sigma=0.9, low=4, high=2048)
    assert chat.output == Lengths.quantiles({0: 1, 0.5: 10, 1: 100})
    assert (code.prompt, code.output) == (Lengths.uniform(10, 20), Lengths.fixed(256))
    assert plan.slo == SLO(ttft=0.5, tpot=0.05, e2e=60.0, quantile=0.99)
    assert plan.candidates[0] == CandidateConfig(
        "llama-3.1-8b/h100",
        2,
        "sarathi:token_budget=512",
        {"token_budget": 1024, "max_seqs": 64},
        1000,
    )
    law = BatchTime.affine(base=0.012, per_token=2.4e-5)
    assert plan.candidates[1] == CandidateConfig(Engine(law, kv_tokens=32000, name="mine"))
    assert plan.simulation == SimulationConfig(requests=50, replications=8, seed=7)
    assert plan.source == str(tmp_path / "plan.toml")


def test_json_says_the_same(tmp_path):
    raw = tomllib.loads(GOOD)
    raw["classes"]["chat"]["output"] = {"quantiles": {"0": 1, "0.5": 10, "1": 100}}
    one = read_config(put(tmp_path, GOOD))
    two = read_config(put(tmp_path, json.dumps(raw), "plan.json"))
    assert two.traffic == one.traffic
    assert (two.slo, two.candidates, two.simulation) == (one.slo, one.candidates, one.simulation)


REST = '[slo]\nttft = "1s"\n[[candidates]]\nengine = "e"\n'


@pytest.mark.parametrize(
    ("keys", "process"),
    [
        ("", Poisson(2.0)),
        ('arrivals = "poisson"\n', Poisson(2.0)),
        ('arrivals = "deterministic"\n', Deterministic(2.0)),
        ('arrivals = "renewal"\ncv = 0.5\n', Renewal(2.0, 0.5)),
    ],
)
def test_arrival_processes(tmp_path, keys, process):
    text = f"[traffic]\nrate = 2\n{keys}[classes.a]\nprompt = 1\noutput = 1\n{REST}"
    assert read_config(put(tmp_path, text)).traffic.arrivals == process


def test_a_trace_beside_the_file(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_trace(Trace([0, 1, 2], [8, 8, 8], [4, 4, 4]), tmp_path / "data" / "t.csv")
    file = put(tmp_path, f'[traffic]\ntrace = "data/t.csv"\n{REST}')
    monkeypatch.chdir("/")
    assert read_config(file).traffic.arrival.tolist() == [0, 1, 2]
    put(tmp_path, f'[traffic]\ntrace = "data/t.csv"\nrate = "4/s"\nformat = "native"\n{REST}')
    assert read_config(file).traffic.arrival.tolist() == [0, 0.25, 0.5]


def test_a_trace_of_lengths_takes_arrivals_and_a_seed(tmp_path):
    (tmp_path / "t.csv").write_text("num_prefill_tokens,num_decode_tokens\n8,4\n9,5\n")
    text = f'[traffic]\ntrace = "t.csv"\nrate = "4/s"\narrivals = "poisson"\n{REST}'
    one, two, other = (
        read_config(put(tmp_path, text + f"[simulation]\nseed = {seed}\n")).traffic
        for seed in (7, 7, 8)
    )
    assert one.arrival.tolist() == two.arrival.tolist() != other.arrival.tolist()


def test_jitter_of_a_trace(tmp_path):
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n0,8,4\n0,8,4\n1,8,4\n")
    text = f'[traffic]\ntrace = "t.csv"\njitter = "uniform"\n{REST}'
    assert len(set(read_config(put(tmp_path, text)).traffic.arrival)) == 3


def test_a_named_workload(tmp_path):
    text = f'[traffic]\nworkload = "azure-conv"\n{REST}'
    assert read_config(put(tmp_path, text)).traffic.arrivals == Renewal(5.53, 1.094)
    text = f'[traffic]\nworkload = "azure-conv"\nrate = 3\narrivals = "poisson"\n{REST}'
    assert read_config(put(tmp_path, text)).traffic.arrivals == Poisson(3.0)


def test_engine_files_are_beside_the_file(tmp_path):
    text = f'[traffic]\nworkload = "azure-conv"\n{REST}'.replace('"e"', '"engines/mine.toml"')
    engine = read_config(put(tmp_path, text)).candidates[0].engine
    assert engine == str(tmp_path / "engines" / "mine.toml")


def test_reasoning_and_correlated_classes(tmp_path):
    text = f"""[traffic]
rate = 1
[classes.think]
prompt = 48
reasoning = {{ uniform = [10, 20] }}
answer = {{ uniform = [1, 9] }}
correlation = 0.5
[classes.fixed]
prompt = 48
output = 600
reasoning = 500
[classes.tied]
prompt = {{ uniform = [1, 9] }}
output = {{ uniform = [1, 9] }}
correlation = 1.0
{REST}"""
    mix = read_config(put(tmp_path, text)).traffic.mix
    think = mix["think"]
    assert think.output.mean == pytest.approx(15 + 5, rel=0.01)
    assert think.reasoning.mean == pytest.approx(15, rel=0.01)
    assert mix["fixed"] == RequestClass(48, 600, 500)
    assert (mix["tied"].prompt.values == mix["tied"].output.values).all()


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (
            'form = "tiled"\nbase = "11ms"\nper_tile = "35ms"\ntile = 128\nper_work = "1us"',
            BatchTime.tiled(base=0.011, per_tile=0.035, tile=128, per_work=1e-6),
        ),
        (
            'form = "roofline"\nfloor = "6ms"\nbase = "1ms"\nper_token = "16us"\nper_kv = "0.5us"',
            BatchTime.roofline(floor=0.006, base=0.001, per_token=1.6e-5, per_kv=5e-7),
        ),
        (
            'form = "table"\ntokens = [1, 512]\nseconds = ["6ms", "12ms"]',
            BatchTime.table(tokens=[1, 512], seconds=[0.006, 0.012]),
        ),
    ],
)
def test_laws_inside_the_file(tmp_path, law, expected):
    text = GOOD[: GOOD.index('form = "affine"')] + law
    assert read_config(put(tmp_path, text)).candidates[1].engine.law == expected


# Each mistake: what to replace in GOOD, by what, and the message after the file name.
MISTAKES = {
    "unknown table": ("[slo]", "[slos]", " has no key 'slos'; did you mean 'slo'?"),
    "unknown key": ("ttft =", "ttff =", ": [slo] has no key 'ttff'; did you mean 'ttft'?"),
    "unknown traffic": ("cv = 2", "vc = 2", ": [traffic] has no key 'vc'; did you mean 'cv'?"),
    "unknown in a class": (
        "weight = 3",
        "wieght = 3",
        ": [classes.chat] has no key 'wieght'; did you mean 'weight'?",
    ),
    "unknown in a length": (
        "sigma = 0.9",
        "sigm = 0.9",
        ": [classes.chat.prompt] has no key 'sigm'; did you mean 'sigma'?",
    ),
    "unknown in a candidate": (
        "max_seqs = 64",
        "max_seq = 64",
        ": [candidates 1] has no key 'max_seq'; did you mean 'max_seqs'?",
    ),
    "unknown in a law": (
        "per_token =",
        "per_tokn =",
        ": [candidates 2.law] has no key 'per_tokn'; did you mean 'per_token'?",
    ),
    "no unit": (
        '"500ms"',
        '"500"',
        ": [slo] ttft: duration '500' has no unit: write a number and one of us, ms, s, min, h, "
        "e.g. 500ms",
    ),
    "number for a duration": (
        '"500ms"',
        "0.5",
        ': [slo] needs ttft = a duration with its unit, such as "500ms", found 0.5',
    ),
    "missing in a law": (
        'per_token = "24us"',
        "",
        ': [candidates 2.law] needs per_token = a duration with its unit, such as "500ms", '
        "but it is missing",
    ),
    "quantile": (
        "quantile = 0.99",
        "quantile = 99",
        ": [slo]: SLO: quantile must lie between 0 and 1 (0.99 for p99), got 99.0",
    ),
    "quantile word": (
        "quantile = 0.99",
        'quantile = "p99"',
        ": [slo] needs quantile = a finite number, found 'p99'",
    ),
    "rate": (
        '"90/min"',
        '"90/day"',
        ": [traffic] rate: rate '90/day' is not a positive number of requests: write e.g. 50, "
        "50/s or 90/min",
    ),
    "rate missing": (
        'rate = "90/min"',
        "",
        ': [traffic] needs rate = a request rate, such as "12/s", but it is missing',
    ),
    "rate type": (
        '"90/min"',
        "true",
        ': [traffic] needs rate = a request rate, such as "12/s", found True',
    ),
    "arrivals": (
        '"renewal"',
        '"renewl"',
        ": [traffic]: unknown arrivals 'renewl'; did you mean 'renewal'?",
    ),
    "cv alone": (
        'arrivals = "renewal"',
        "",
        ': [traffic]: cv belongs to arrivals = "renewal"',
    ),
    "cv of poisson": (
        '"renewal"',
        '"poisson"',
        ': [traffic]: cv belongs to arrivals = "renewal"',
    ),
    "cv missing": (
        "cv = 2",
        "",
        ": [traffic] needs cv = a finite number, but it is missing",
    ),
    "cv negative": (
        "cv = 2",
        "cv = -2",
        ": [traffic] cv: cv must be >= 0 and finite, got -2.0",
    ),
    "two traffics": (
        "cv = 2",
        'cv = 2\nworkload = "azure-conv"',
        ": [traffic]: give one of trace =, workload = or [classes.<name>] tables, found workload "
        "and [classes]",
    ),
    "format without trace": (
        "cv = 2",
        'cv = 2\nformat = "azure"',
        ": [traffic]: format belongs to trace =, not to [classes]",
    ),
    "length zero": (
        "output = 256",
        "output = 0",
        ": [classes.code]: output must be at least 1 token, got 0",
    ),
    "length missing": (
        "output = 256",
        "",
        ": [classes.code] needs output = a whole number of tokens, { mean,",
    ),
    "length fraction": (
        "output = 256",
        "output = 2.5",
        ": [classes.code] needs output = a whole number of tokens",
    ),
    "lognormal without high": (
        ", high = 2048",
        "",
        ": [classes.chat.prompt] needs high = a whole number >= 1, but it is missing",
    ),
    "lognormal negative": (
        "mean = 500",
        "mean = -500",
        ": [classes.chat] prompt: lognormal lengths need mean > 0, sigma > 0",
    ),
    "uniform": (
        "[10, 20]",
        "[10, 20, 30]",
        ": [classes.code.prompt] needs uniform = [low, high], whole numbers of tokens, found",
    ),
    "quantiles not a table": (
        "[[0, 1], [0.5, 10], [1, 100]]",
        "[1, 2]",
        ": [classes.chat.output] needs quantiles = pairs [probability, tokens] from",
    ),
    "quantiles with bare keys": (  # TOML reads 0.5 = 10 as 0 = { 5 = 10 }
        "[[0, 1], [0.5, 10], [1, 100]]",
        "{ 0.5 = 10 }",
        ": [classes.chat.output] needs quantiles = pairs [probability, tokens] from",
    ),
    "quantiles in percent": (
        "[0.5, 10]",
        "[50, 10]",
        ": [classes.chat.output] needs probability = a finite number >= 0 and <= 1, found 50",
    ),
    "quantiles without an end": (
        ", [1, 100]",
        "",
        ": [classes.chat] output: a quantile table must give tokens at probabilities from 0 to 1",
    ),
    "weight": (
        "weight = 3",
        "weight = -3",
        ": [classes]: weight of class 'chat' must be >= 0 and finite, got -3.0",
    ),
    "answer and output": (
        "output = 256",
        "output = 256\nanswer = 3",
        ": [classes.code] needs answer = tokens after the reasoning: with reasoning, without "
        "output, found 3",
    ),
    "reasoning too long": (
        "output = 256",
        "output = 256\nreasoning = 256",
        ": [classes.code]: reasoning tokens are part of the output",
    ),
    "correlation too big": (
        "output = 256",
        "output = 256\ncorrelation = 2",
        ": [classes.code]: correlation must lie in [-1, 1], got 2.0",
    ),
    "correlation of what": (
        "output = 256",
        "output = 256\nreasoning = 9\ncorrelation = 0.2",
        ": [classes.code] needs correlation = a number only without reasoning",
    ),
    "class not a table": (
        "[classes.code]\nprompt = { uniform = [10, 20] }\noutput = 256\n",
        "[classes]\ncode = 3\n",
        ": [classes] needs code = a table, found 3",
    ),
    "tp": ("tp = 2", "tp = 0", ": [candidates 1] needs tp = a whole number >= 1, found 0"),
    "tp word": (
        "tp = 2",
        'tp = "2"',
        ": [candidates 1] needs tp = a whole number >= 1, found '2'",
    ),
    "engine and law": (
        'name = "mine"',
        'engine = "e"',
        ": [candidates 2]: give either engine = or a [candidates.law] table",
    ),
    "name of a catalogue engine": (
        "tp = 2",
        'name = "n"',
        ": [candidates 1]: name belongs to an engine given by law",
    ),
    "engine type": (
        '"llama-3.1-8b/h100"',
        "8",
        ": [candidates 1] needs engine = a text in quotes, found 8",
    ),
    "form": (
        '"affine"',
        '"afine"',
        ": [candidates 2.law]: unknown form 'afine'; did you mean 'affine'?",
    ),
    "table without seconds": (
        'form = "affine"\nbase = "12ms"\nper_token = "24us"',
        'form = "table"\ntokens = [1, 2]',
        ': [candidates 2.law] needs seconds = a list: tokens = [1, 512], seconds = ["6ms", "13ms"]'
        ", but it is missing",
    ),
    "kv too small": (
        "kv_tokens = 32000",
        "kv_tokens = 3",
        ": [candidates 2]: kv_tokens (3) must hold at least one block of 16",
    ),
    "requests": (
        "requests = 50",
        "requests = 0",
        ": [simulation] needs requests = a whole number >= 1, found 0",
    ),
    "seed": (
        "seed = 7",
        "seed = -7",
        ": [simulation] needs seed = a whole number >= 0, found -7",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(tmp_path, case):
    old, new, message = MISTAKES[case]
    assert old in GOOD
    file = put(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}{message}")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("traffic", " needs traffic = a table, but it is missing"),
        ("candidates", " needs candidates = a list of tables ([[candidates]]), but it is missing"),
        (
            "classes",
            ": [traffic]: give one of trace =, workload = or [classes.<name>] tables, found none",
        ),
    ],
)
def test_missing_parts(tmp_path, missing, message):
    raw = tomllib.loads(GOOD)
    del raw[missing]
    file = put(tmp_path, json.dumps(raw), "plan.json")
    with pytest.raises(InputError) as caught:
        read_config(file)
    assert str(caught.value) == f"{file}{message}"


def test_the_simulation_has_defaults(tmp_path):
    plan = read_config(put(tmp_path, GOOD[: GOOD.index("[simulation]")]))
    assert plan.simulation == SimulationConfig(2000, 8, 0)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "plan.toml", ": the file is empty"),
        ("a = \n", "plan.toml", " line 1: not TOML: Invalid value (at column 5)"),
        (
            "[classes.a]\n[classes.b]\n[classes.a]\n",
            "plan.toml",
            " line 3: not TOML: Cannot declare ('classes', 'a') twice (at column 11); "
            "a key may be given once",
        ),
        (
            "a = 1\na = 2\n",
            "plan.toml",
            " line 2: not TOML: Cannot overwrite a value (at column 6); a key may be given once",
        ),
        ('a = "x\n\n', "plan.toml", " line 1: not TOML: "),
        ('{"a": 1,\n}', "plan.json", " line 2: not JSON: "),
        ("[1]", "plan.json", " line 1: expected one JSON object"),
        (
            '{"classes": {"a": {}, "a": {}}}',
            "plan.json",
            ", column a: the key is given twice; keep one",
        ),
    ],
)
def test_text_that_cannot_be_parsed(tmp_path, text, name, message):
    file = put(tmp_path, text, name)
    with pytest.raises(FormatError) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}{message}")


def test_other_names_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a configuration file ends in \.toml or \.json"):
        read_config(put(tmp_path, GOOD, "plan.yaml"))
    with pytest.raises(InputError, match=r"no such file: .*did you mean 'plan\.yaml'"):
        read_config(tmp_path / "plan.toml")


def test_errors_of_the_trace_keep_their_place(tmp_path):
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n0,8,x\n")
    file = put(tmp_path, f'[traffic]\ntrace = "t.csv"\n{REST}')
    with pytest.raises(FormatError, match=r"t\.csv line 2, column output: expected a whole number"):
        read_config(file)
    put(tmp_path, f'[traffic]\ntrace = "u.csv"\n{REST}')
    with pytest.raises(InputError, match=r"plan\.toml: \[traffic\]: no such file: .*u\.csv"):
        read_config(file)
    put(tmp_path, f'[traffic]\nworkload = "azure"\n{REST}')
    message = r"\[traffic\] workload: unknown workload 'azure'; did you mean 'azure-conv'"
    with pytest.raises(InputError, match=message):
        read_config(file)


def test_the_example():
    plan = read_config(Path(__file__).parents[2] / "examples" / "chat.toml")
    assert sorted(plan.traffic.mix) == ["chat", "code"]
    assert plan.traffic.rate == 60
    assert plan.candidates[0].engine == "llama-3.1-8b/h100"
    assert plan.slo == SLO(ttft=0.5, tpot=0.05, quantile=0.99)
