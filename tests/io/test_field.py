"""Files that people have: each is read rightly, or the reader asks the question that settles it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmq.cli import main
from llmq.errors import FormatError, InputError, LlmqError, TraceWarning
from llmq.io.traces import read_trace
from llmq.model.arrivals import Poisson

REGION = ["region", "--engine", "llama-3.1-8b/h100", "--trace"]


@pytest.fixture
def field(data_dir) -> Path:
    return data_dir / "cases" / "field"


def put(folder: Path, rows: list[dict[str, object]], name: str = "t.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def mooncake(n: int, tokens: int, block: int, step: float = 500.0, **more: object) -> list[dict]:
    """A trace whose ids stand for blocks of a size."""
    return [
        {
            "timestamp": step * i,
            "input_length": tokens + 37 * i,
            "output_length": 9,
            "hash_ids": list(range(-(-(tokens + 37 * i) // block))),
            **more,
        }
        for i in range(n)
    ]


# --- B1: the unit of time -------------------------------------------------------------------------


def test_b1_seconds_in_the_keys_of_milliseconds_are_asked_about(field, capsys):
    seconds, ms = (field / "F01" / f"{name}.jsonl" for name in ("guidellm_seconds", "same_in_ms"))
    with pytest.raises(FormatError, match=r"perhaps not in ms.*say the unit with time_unit='s'"):
        read_trace(seconds)
    assert read_trace(seconds, time_unit="s").rate == pytest.approx(1.875, abs=0.001)
    assert read_trace(ms).rate == pytest.approx(1.875, abs=0.001)
    assert main([*REGION, str(seconds)]) == 2
    assert "say the unit with --time-unit s (as s: 1.875 req/s for" in capsys.readouterr().err
    for words in ([str(seconds), "--time-unit", "s"], [str(ms)]):
        assert main([*REGION, *words, "--json"]) == 0
        out, err = capsys.readouterr()
        assert f"times in {'s, as asked' if 'second' in words[0] else 'ms'}" in err
        assert sum(json.loads(out)["rates"].values()) == pytest.approx(1.875, abs=0.001)


def test_b1_the_unit_stands_on_the_traffic_line(field):
    trace = read_trace(field / "F01" / "same_in_ms.jsonl")
    assert ", read as mooncake trace (format recognised), times in ms: 1.875 req/s" in repr(trace)


def test_b1_dialects_that_count_in_seconds_are_known_by_their_keys(tmp_path):
    bailian = mooncake(9, 200, 16, 0.61, chat_id=1, parent_chat_id=-1, type="text", turn=1)
    trace = read_trace(put(tmp_path, bailian))
    assert trace.arrival.tolist() == [0.61 * i for i in range(9)]
    assert trace.prefix.block == 16
    weka = [{"t": 0.5 * i, "in": 640, "out": 5, "hash_ids": list(range(10))} for i in range(4)]
    trace = read_trace(put(tmp_path, weka))
    assert (trace.arrival[1], trace.prefix.block) == (0.5, 64)


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([1_700_000_000_000 + 400 * i for i in range(30)], "ms"),
        ([1_700_000_000_000_000 + 400_000 * i for i in range(30)], "us"),
        ([1_700_000_000_000_000_000 + 400_000_000 * i for i in range(30)], "ns"),
        ([400 * i for i in range(30)], "ms"),
        ([400_000 * i for i in range(30)], "us"),
    ],
)
def test_b1_absurd_spans_and_rates_are_asked_about(tmp_path, times, unit):
    file = tmp_path / "t.csv"
    file.write_text("arrival,prompt,output\n" + "".join(f"{t},9,9\n" for t in times))
    with pytest.raises(FormatError, match=f"say the unit with time_unit='{unit}'"):
        read_trace(file)
    trace = read_trace(file, time_unit=unit)
    assert np.diff(trace.arrival) == pytest.approx(0.4)
    with pytest.raises(InputError, match="time_unit must be one of s, ms, us, ns, got 'msec'"):
        read_trace(file, time_unit="msec")


# --- B5: digits of epoch times --------------------------------------------------------------------


def test_b5_epoch_times_keep_their_digits(data_dir):
    file = data_dir / "cases" / "bad" / "N02_epoch_us.csv"
    with file.open(newline="") as rows:
        ticks = [int(row["arrival"]) for row in csv.DictReader(rows)]
    with pytest.raises(FormatError, match="time_unit='us'"):
        read_trace(file)
    for unit, power in (("us", 10**6), ("s", 1)):
        trace = read_trace(file, time_unit=unit)
        assert trace.arrival.tolist() == [(tick - ticks[0]) / power for tick in ticks]


@given(
    st.lists(st.integers(0, 10**12), min_size=2, max_size=6, unique=True).map(sorted),
    st.sampled_from(["ms", "us", "ns"]),
)
def test_b5_differences_are_exact_in_every_unit(tmp_path_factory, ticks, unit):
    power = {"ms": 3, "us": 6, "ns": 9}[unit]
    start = 17 * 10 ** (8 + power)
    file = tmp_path_factory.mktemp("t") / "t.csv"
    text = "".join(f"{start + tick},9,9\n" for tick in ticks)
    file.write_text("arrival,prompt,output\n" + text)
    found = read_trace(file, time_unit=unit).arrival
    assert found.tolist() == [(tick - ticks[0]) / 10**power for tick in ticks]


def test_b5_a_clock_too_coarse_for_iterations_is_refused():
    import llmq

    trace = llmq.Trace([1.7e15, 1.7e15 + 1], [9, 9], [9, 9])
    with pytest.raises(InputError, match=r"have steps of 250 ms, coarser than a thousandth"):
        llmq.simulate(llmq.load_engine("llama-3.1-8b/h100"), trace)


# --- B9: hash blocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256, 1024])
def test_b9_the_size_of_hash_blocks_is_read_from_the_file(tmp_path, block):
    trace = read_trace(put(tmp_path, mooncake(40, 3000, block)))
    assert trace.prefix.block == block
    assert any(
        f"blocks of {block} tokens (the only size that fits 40 prompts" in n for n in trace.notes
    )


def test_b9_a_size_that_the_file_does_not_tell_is_asked_for(tmp_path):
    rows = [{**row, "hash_ids": row["hash_ids"][:3]} for row in mooncake(9, 3000, 512)]
    file = put(tmp_path, rows)
    with pytest.raises(FormatError, match=r"3 ids for 3000 tokens are not blocks of 512.*hash_bl"):
        read_trace(file)
    assert read_trace(file, hash_block=512).prefix.block == 512
    with pytest.raises(FormatError, match="at most 1 ids of 4096 tokens"):
        read_trace(file, hash_block=4096)


# --- B10: requests without output -----------------------------------------------------------------


def test_b10_requests_without_output_are_counted_dropped_or_kept(field, capsys):
    file = field / "F07" / "azure2024_zero.csv"
    with pytest.raises(FormatError, match="line 43: 1 of 100 requests have no output tokens"):
        read_trace(file)
    dropped, kept = (read_trace(file, failed=how) for how in ("drop", "prefill"))
    assert (len(dropped), len(kept)) == (99, 100)
    assert np.array_equal(dropped.arrival, read_trace(field / "F07" / "azure2024_ok.csv").arrival)
    assert kept.output[41] == 1
    assert any("1 of 100 requests have no output tokens: left out" in n for n in dropped.notes)
    assert main([*REGION, str(file)]) == 2
    assert "leave them out with --drop-failed, or keep their prompts with --prefill-only" in (
        capsys.readouterr().err
    )
    assert main([*REGION, str(file), "--drop-failed"]) == 0


def test_b10_failed_requests_of_burstgpt(tmp_path):
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,9,0,9,API log\n"
    (tmp_path / "b.csv").write_text(head + rows)
    with pytest.raises(FormatError, match="1 of 2 requests have no output tokens"):
        read_trace(tmp_path / "b.csv")
    trace = read_trace(tmp_path / "b.csv", failed="drop")
    assert (trace.arrival.tolist(), trace.prompt.tolist()) == ([5], [472])


# --- other files ----------------------------------------------------------------------------------


def test_f03_names_of_other_tools_and_missing_outputs(field):
    trace = read_trace(field / "F03" / "aliases.jsonl")
    assert (trace.rate, trace.prompt[0]) == (4.0, 300)
    file = field / "F03" / "no_output_length.jsonl"
    with pytest.raises(FormatError, match=r"key is missing.*or give one length.*output=128"):
        read_trace(file)
    assert set(read_trace(file, output=128).output.tolist()) == {128}
    with pytest.raises(FormatError, match="has output lengths of its own"):
        read_trace(field / "F03" / "aliases.jsonl", output=5)


def test_f05_a_result_of_vllm_bench_is_a_trace(field):
    file = field / "F05" / "vllm_bench_detailed.json"
    with pytest.raises(FormatError, match="1 of 40 requests have no output tokens"):
        read_trace(file)
    trace = read_trace(file, failed="drop")
    assert len(trace) == 39
    assert trace.arrival[:2].tolist() == [0.0, 0.296375]  # exact differences of the start times
    assert int(trace.output.sum()) == 1080 - 0


def test_f05_a_result_without_its_requests_says_how_to_save_them(tmp_path):
    file = put(tmp_path, [{"request_rate": 4.0, "request_throughput": 3.6, "mean_ttft_ms": 9.0}])
    with pytest.raises(FormatError, match="save the run with --save-result --save-detailed"):
        read_trace(file)


def test_f07_times_of_azure(field):
    assert len(read_trace(field / "F07" / "azure_nonpadded.csv")) == 2
    with pytest.raises(FormatError, match=r"not in the zone \+02:00: write all times in UTC"):
        read_trace(field / "F07" / "azure_offset_zone.csv")


def test_f08_all_requests_at_once_take_an_arrival_process(field, capsys):
    file = field / "F08" / "rate_inf.jsonl"
    with pytest.warns(TraceWarning, match="200 requests have only 1 distinct times"):
        assert len(set(read_trace(file).arrival.tolist())) == 1
    assert len(set(read_trace(file, arrivals=Poisson(4.0), rng=1).arrival.tolist())) == 200
    assert main([*REGION, str(file), "--rate", "4", "--cv", "1"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics.prom", "these are metrics of a server.*--prompt 650 --output 130"),
        ("vllm_server.log", "this is the log of a vLLM server.*--kv-tokens 77088"),
    ],
)
def test_f11_what_a_server_writes_is_explained(field, name, message):
    with pytest.raises(FormatError, match=message):
        read_trace(field / "F11" / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": "x", "conversations": [{"from": "human", "value": "Hi"}]}]', "ShareGPT data set"),
        ('{"prompt": "What is the capital of France?"}', "custom data set: it holds the text"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "chat requests: it holds the text"),
    ],
)
def test_d_data_sets_of_text_need_a_tokenizer(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text + "\n")
    with pytest.raises(FormatError, match=message):
        read_trace(tmp_path / "t.jsonl")


def test_d_kv_tokens_as_the_log_of_vllm_prints_them(capsys):
    words = ["region", "--engine", "llama-3.1-8b/h100", "--prompt", "9", "--output", "9"]
    found = []
    for value in ("77,088", "77088"):
        assert main([*words, "--rate", "1", "--kv-tokens", value, "--json"]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    for value in ("77,08", "7,7088", "77_088", "٧٧٠٨٨"):
        assert main([*words, "--rate", "1", "--kv-tokens", value]) == 2
        capsys.readouterr()


def test_d_a_model_of_hugging_face_is_answered_with_a_few_names():
    import llmq

    with pytest.raises(InputError) as caught:
        llmq.load_engine("meta-llama/Llama-3.1-8B-Instruct")
    assert "the nearest are llama-3.1-8b/a100" in str(caught.value)
    assert str(caught.value).count("llama") < 8
    with pytest.raises(InputError, match="none of them in fp8"):
        llmq.load_engine("llama-3.1-8b-fp8/h100")
    with pytest.raises(InputError, match="the scheduler of this server is not modelled; vllm"):
        llmq.policies.parse("sglang")


# --- the same kinds, drawn ------------------------------------------------------------------------

BAD_CELLS = (
    "",
    " ",
    "-1",
    "1_0",
    "٩",
    "９",
    "1,5",
    "1e400",
    "nan",
    "inf",
    "-0.0x",
    "0x10",
    "1" * 5000,
    "é",
    "\x1b[31m1",
    "1\u202e2",
    "True",
    "null",
    "10 000",
    "1e999999999",
    "9" * 30,
    "--",
    "1.5.2",
)


@given(
    st.sampled_from(["azure", "mooncake", "native", "vidur", "burstgpt", "steps"]),
    st.integers(0, 2),
    st.sampled_from(BAD_CELLS),
)
def test_c_every_cell_of_every_format_is_refused_in_one_line(tmp_path_factory, kind, at, cell):
    """Each number of each format, spoiled: an error that names line and column, and is short."""
    heads = {
        "azure": "TIMESTAMP,ContextTokens,GeneratedTokens",
        "native": "arrival,prompt,output",
        "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens",
        "burstgpt": "Timestamp,Request tokens,Response tokens",
        "steps": "tokens,seconds,kv",
    }
    good = [
        "2023-11-16 18:15:46.68" if kind == "azure" else "1",
        "0.01" if kind == "steps" else "9",
        "9",
    ]
    row = [cell if i == at else value for i, value in enumerate(good)]
    file = tmp_path_factory.mktemp("t") / "t.csv"
    if kind == "mooncake":
        keys = ("timestamp", "input_length", "output_length")
        file.write_text(json.dumps(dict(zip(keys, row, strict=True))) + "\n")
    else:
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([heads[kind].split(","), row])
    from llmq.io.profiles import read_profile

    with pytest.raises(LlmqError) as caught:
        (read_profile if kind == "steps" else read_trace)(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert message.isprintable()
    assert len(message) < 400 + len(str(file))
    assert "line " in message
